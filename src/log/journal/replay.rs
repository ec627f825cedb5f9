//! Owns what a start does with the journals it finds, of however many cores: it reads what they hold for the logs, and
//! takes them off when the logs have it. It decides nothing about a log: recovery takes of it what continues the log.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::frame::{
    self, ENTRY_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, Frame, FrameBuilder, JournalKey,
    JournaledRun, Place,
};
use crate::io::{BLOCK, Disk, Mode, entropy};

/// All journals' files begin so. Apache Kafka looks at no such file, and no partition's folder, which ends in `-` and a
/// number, can have the name of one.
const PREFIX: &str = "coati-journal.";
/// What was journaled for logs that could not be opened.
const KEPT: &str = "coati-journal.kept";

/// What the journals of a data folder hold, by log, oldest first.
pub type Journaled = BTreeMap<JournalKey, Vec<JournaledRun>>;

/// The first file of a core's journal.
pub fn path_of(root: &Path, core: u16) -> PathBuf {
    root.join(format!("{PREFIX}{core}"))
}

/// The file of this number of the journal whose first one is `path`.
pub(super) fn file_of(path: &Path, number: usize) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// What the names of all files of one journal have in common.
fn journal_of(path: &Path) -> String {
    let name = path.file_name().expect("a file that was listed");
    let name = name.to_string_lossy();
    let rest = name.strip_prefix(PREFIX).expect("one of ours");
    rest.split('.').next().unwrap_or_default().to_owned()
}

async fn files(disk: &Disk, root: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = disk.list(root).await?;
    let ours = entries
        .into_iter()
        .filter(|entry| !entry.is_dir && entry.name.starts_with(PREFIX));
    Ok(ours.map(|entry| root.join(entry.name)).collect())
}

/// Reads all journals in the data folder `root`.
pub async fn read(disk: &Disk, root: &Path) -> io::Result<Journaled> {
    read_all(disk, root, false).await
}

/// Takes anything for a frame that was written in this use of its zone, which the crash tests must find out.
#[cfg(feature = "simulation")]
pub async fn read_trusting(disk: &Disk, root: &Path) -> io::Result<Journaled> {
    read_all(disk, root, true).await
}

async fn read_all(disk: &Disk, root: &Path, trusting: bool) -> io::Result<Journaled> {
    let mut journals: BTreeMap<String, Vec<Frame>> = BTreeMap::new();
    for path in files(disk, root).await? {
        if path.extension().is_some_and(|extension| extension == "tmp") {
            continue; // Was being written.
        }
        let frames = journals.entry(journal_of(&path)).or_default();
        frames.extend(read_frames(disk, &path, trusting).await?);
    }
    let mut journaled = Journaled::new();
    for mut frames in journals.into_values() {
        keep_needed(&mut frames, trusting);
        for (key, run) in frames.into_iter().flat_map(|frame| frame.entries) {
            journaled.entry(key).or_default().push(run);
        }
    }
    Ok(journaled)
}

/// Keeps the frames of one journal that were needed when it was last written to, in the order they were written.
fn keep_needed(frames: &mut Vec<Frame>, trusting: bool) {
    let floor = frames.iter().map(|frame| frame.place.floor).max();
    if !trusting {
        frames.retain(|frame| Some(frame.place.sequence) >= floor);
    }
    frames.sort_by_key(|frame| (frame.place.sequence, frame.place.number));
}

/// The frames of the last use of each zone of a file.
async fn read_frames(disk: &Disk, path: &Path, trusting: bool) -> io::Result<Vec<Frame>> {
    let file = disk.open(path, Mode::Read).await?;
    file.forget_cached();
    let length = file.len()?;
    let first = file.read_at(0, BLOCK).await?;
    let Some(header) = FileHeader::decode(&first) else {
        return Ok(Vec::new());
    };
    let mut frames = Vec::new();
    let mut start = BLOCK as u64;
    while start < length {
        let zone = file.read_at(start, header.zone_bytes as usize).await?;
        frames.extend(frames_of(&zone, header.generation, start, trusting));
        start += u64::from(header.zone_bytes);
    }
    Ok(frames)
}

/// The frames of a zone's last use, up to the first that is torn: nothing behind it was acknowledged.
fn frames_of(zone: &Bytes, generation: u64, start: u64, trusting: bool) -> Vec<Frame> {
    let mut frames: Vec<Frame> = Vec::new();
    let mut at = 0;
    while at < zone.len() {
        let here = zone.slice(at..);
        let Some(frame) = frame::decode(&here, generation, start + at as u64, trusting) else {
            break;
        };
        let sequence = frames
            .first()
            .map_or(frame.place.sequence, |first| first.place.sequence);
        let follows =
            frame.place.sequence == sequence && frame.place.number as usize == frames.len();
        if !follows && !trusting {
            break;
        }
        at += frame.stored_bytes;
        frames.push(frame);
    }
    frames
}

/// Takes the journals off, durably: every log has what they held for it, but for the `missing`, for which it is kept for
/// the next start. To be called before anything is appended: what is in them must not be taken for what comes then.
pub async fn discard(
    disk: &Disk,
    root: &Path,
    journaled: &Journaled,
    missing: &[JournalKey],
) -> io::Result<()> {
    let kept: Vec<_> = missing
        .iter()
        .filter_map(|key| Some((*key, journaled.get(key)?)))
        .collect();
    if !kept.is_empty() {
        let bytes = encode_kept(&kept, entropy::seed());
        disk.write_file_atomic(&root.join(KEPT), &bytes).await?;
    }
    let mut removed = false;
    for path in files(disk, root).await? {
        if kept.is_empty() || path != root.join(KEPT) {
            disk.remove(&path).await?;
            removed = true;
        }
    }
    if removed {
        disk.sync_dir(root).await?;
    }
    Ok(())
}

/// A journal of one zone, a frame a run.
fn encode_kept(kept: &[(JournalKey, &Vec<JournaledRun>)], generation: u64) -> Vec<u8> {
    let mut zone = Vec::new();
    let runs = kept
        .iter()
        .flat_map(|(key, runs)| runs.iter().map(move |run| (*key, run)));
    for (number, (key, run)) in (0..).zip(runs) {
        let length = run.batches.len();
        let mut frame = FrameBuilder::new(FRAME_HEADER_BYTES + ENTRY_HEADER_BYTES + length);
        frame.entry(key, run.from..run.to, run.log_start, length);
        frame.append(&run.batches);
        let place = Place {
            generation,
            sequence: 1,
            floor: 1,
            position: (BLOCK + zone.len()) as u64,
            number,
        };
        zone.extend_from_slice(&frame.finish(place));
    }
    let header = FileHeader {
        generation,
        zone_bytes: zone.len() as u32,
    };
    let mut bytes = header.encode().peek(0..BLOCK).to_vec();
    bytes.append(&mut zone);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Offset, PartitionIndex};
    use crate::protocol::Uuid;

    const KEY: JournalKey = JournalKey {
        topic_id: Uuid([7; 16]),
        partition: PartitionIndex(3),
    };

    fn frame(sequence: u64, floor: u64, zone: u64, number: u32, offset: i64) -> Bytes {
        frame_in_file(0, sequence, floor, zone, number, offset)
    }

    fn frame_in_file(
        file: u64,
        sequence: u64,
        floor: u64,
        zone: u64,
        number: u32,
        offset: i64,
    ) -> Bytes {
        let mut frame = FrameBuilder::new(FRAME_HEADER_BYTES + ENTRY_HEADER_BYTES + 100);
        frame.entry(KEY, Offset(offset)..Offset(offset + 1), Offset(0), 100);
        frame.append(&[offset as u8; 100]);
        let block = BLOCK as u64;
        frame.finish(Place {
            generation: 1 + file,
            sequence,
            floor,
            position: block + zone * 2 * block + u64::from(number) * block,
            number,
        })
    }

    fn write_file(folder: &Path, number: usize, frames: &[Bytes]) {
        let header = FileHeader {
            generation: 1 + number as u64,
            zone_bytes: 2 * BLOCK as u32,
        };
        let mut bytes = header.encode().peek(0..BLOCK).to_vec();
        frames
            .iter()
            .for_each(|frame| bytes.extend_from_slice(frame));
        std::fs::write(file_of(&path_of(folder, 0), number), bytes).unwrap();
    }

    async fn offsets_of(folder: &Path, frames: &[Bytes]) -> Vec<i64> {
        write_file(folder, 0, frames);
        let journaled = read(&Disk::buffered(), folder).await.unwrap();
        let runs = journaled.get(&KEY).into_iter().flatten();
        runs.map(|run| run.from.0).collect()
    }

    #[test]
    fn zones_are_read_in_the_order_of_their_use_and_those_given_up_are_not() {
        glommio::LocalExecutorBuilder::default()
            .spawn(|| async {
                crate::io::ring::init_thread().unwrap();
                let folder = tempfile::tempdir().unwrap();
                let root = folder.path();
                let empty = Bytes::from(vec![0; BLOCK]);
                // The second zone was begun first.
                let newer = [frame(3, 2, 0, 0, 12), empty.clone()];
                let older = [frame(2, 2, 1, 0, 10), frame(2, 2, 1, 1, 11)];
                let both = [newer.clone(), older.clone()].concat();
                assert_eq!(offsets_of(root, &both).await, [10, 11, 12]);
                // A frame of an earlier use lies behind the last of this one.
                let stale = [frame(3, 2, 0, 0, 12), frame(1, 1, 0, 1, 7)];
                let both = [stale, older.clone()].concat();
                assert_eq!(offsets_of(root, &both).await, [10, 11, 12]);
                // The newer says that the older is needed no more.
                let alone = [frame(3, 3, 0, 0, 12), empty];
                let both = [alone.clone(), older].concat();
                assert_eq!(offsets_of(root, &both).await, [12]);
                // It may lie in another file.
                let older = [
                    frame_in_file(1, 2, 2, 0, 0, 10),
                    frame_in_file(1, 2, 2, 0, 1, 11),
                ];
                write_file(root, 1, &older);
                assert_eq!(offsets_of(root, &newer).await, [10, 11, 12]);
                assert_eq!(offsets_of(root, &alone).await, [12]);
                // Another core's journal counts its own.
                std::fs::rename(file_of(&path_of(root, 0), 1), path_of(root, 1)).unwrap();
                assert_eq!(offsets_of(root, &alone).await, [12, 10, 11]);
                std::fs::remove_file(path_of(root, 1)).unwrap();
                assert_eq!(offsets_of(root, &alone).await, [12]);
                // What is kept for a log that did not open is read again, alone.
                let journaled = read(&Disk::buffered(), root).await.unwrap();
                discard(&Disk::buffered(), root, &journaled, &[KEY])
                    .await
                    .unwrap();
                assert!(!path_of(root, 0).exists());
                assert_eq!(read(&Disk::buffered(), root).await.unwrap(), journaled);
                discard(&Disk::buffered(), root, &journaled, &[])
                    .await
                    .unwrap();
                assert_eq!(std::fs::read_dir(root).unwrap().count(), 0);
            })
            .unwrap()
            .join()
            .unwrap();
    }
}
