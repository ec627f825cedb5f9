//! Owns how a cleaned segment takes the place of those it was made from, so that a crash at any instant leaves either
//! them or it: written as `.cleaned`, synced, renamed to `.swap`, the old files renamed to `.deleted`, the new ones to their
//! own names. Readers of files wait meanwhile.
//!
//! The log's own file is each time renamed last. While there is a `.log.swap`, all that belongs to it is there too, and a
//! start finishes what was begun; where there is none, whatever else is called `.swap` had not come so far and is nothing.

use std::io;
use std::path::Path;
use std::rc::Rc;

use super::{Cleaner, CleaningError};
use crate::ids::Offset;
use crate::io::{Disk, Mode};
use crate::log::reader::Scanner;
use crate::log::retention::EXTENSIONS;
use crate::log::segment::Segment;
use crate::log::{Log, LogError, segment_path};

/// In the order of their renaming.
const FILES: [&str; 4] = ["index", "timeindex", "txnindex", "log"];
const READ_BYTES: usize = 1 << 20;

impl Cleaner<'_> {
    /// Puts `fresh`, whose log lies in its `.cleaned` file, in the place of `group`.
    pub(super) async fn swap_in(
        &self,
        group: &[Rc<Segment>],
        fresh: Segment,
    ) -> Result<(), CleaningError> {
        let log = self.log;
        let _turn = log.rearranging.lock().await;
        self.check_goes_on()?;
        let first = {
            let state = log.state.borrow();
            let first = state.segments.partition_point(|s| s.base < fresh.base);
            let mut there = state.segments.iter().skip(first);
            let is_same = |member| there.next().is_some_and(|seen| Rc::ptr_eq(seen, member));
            if !group.iter().all(is_same) {
                return Err(CleaningError::Aborted);
            }
            first
        };
        self.checked(log.write_cleaned_indexes(&fresh).await)?;
        let next_offset = group[group.len() - 1].next_offset.get();
        {
            let state = &mut *log.state.borrow_mut();
            state.swapping = true;
            state.swaps += 1;
        }
        let swapped = log.swap_files(group, &fresh, self.round.now_ms).await;
        if swapped.is_ok() {
            fresh.next_offset.set(next_offset);
            fresh.set_stored(fresh.size.get());
            fresh.name_durable.set(true);
            fresh.indexes.replace(None);
            let state = &mut *log.state.borrow_mut();
            state.segments.drain(first..first + group.len());
            state.segments.insert(first, Rc::new(fresh));
            state.tail.forget_below(next_offset);
            group.iter().for_each(|segment| segment.close_files());
        }
        log.state.borrow_mut().swapping = false;
        if let Err(error) = swapped {
            // Which files have which names, nobody knows.
            let error = LogError::storage("replacing segments", &error);
            log.go_offline(error.clone());
            return Err(error.into());
        }
        log.wake_waiters();
        Ok(())
    }
}

impl Log {
    async fn write_cleaned_indexes(&self, fresh: &Segment) -> io::Result<()> {
        let disk = &self.context.disk;
        let (offsets, times) = {
            let indexes = fresh.indexes.borrow();
            let indexes = indexes.as_ref().expect("being built");
            (indexes.offsets.encode_from(0), indexes.times.encode_from(0))
        };
        let aborted = {
            let aborted = fresh.aborted.borrow();
            let aborted = aborted.as_ref().expect("being built");
            (!aborted.is_empty()).then(|| aborted.encode_from(0))
        };
        let files = [
            ("index", Some(offsets)),
            ("timeindex", Some(times)),
            ("txnindex", aborted),
        ];
        for (extension, bytes) in files {
            if let Some(bytes) = bytes {
                let path = self.segment_path(fresh.base, &format!("{extension}.cleaned"));
                disk.write_file_synced(&path, &bytes).await?;
            }
        }
        Ok(())
    }

    /// Removes what there is of a segment that is not to be swapped in. What stays is removed by the next start.
    pub(super) async fn remove_cleaned(&self, base: Offset) {
        for extension in FILES {
            let path = self.segment_path(base, &format!("{extension}.cleaned"));
            if let Err(error) = self.context.disk.remove(&path).await
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "a file that was not swapped in stays until the next start");
            }
        }
    }

    async fn swap_files(
        &self,
        group: &[Rc<Segment>],
        fresh: &Segment,
        now_ms: i64,
    ) -> io::Result<()> {
        let (disk, dir) = (&self.context.disk, self.dir());
        let has_aborted = (fresh.aborted.borrow().as_ref()).is_some_and(|index| !index.is_empty());
        let rename = async |from: &str, to: &str| {
            let files = FILES.iter();
            for extension in files.filter(|name| has_aborted || **name != "txnindex") {
                let from = segment_path(&dir, fresh.base, &format!("{extension}{from}"));
                let to = segment_path(&dir, fresh.base, &format!("{extension}{to}"));
                disk.rename(&from, &to).await?;
            }
            disk.sync_dir(&dir).await
        };
        rename(".cleaned", ".swap").await?;
        for segment in group {
            // The producers' state before the first record still says what was before the log began.
            let extensions = match segment.base == fresh.base {
                true => &FILES[..],
                false => &EXTENSIONS[..],
            };
            self.doom(segment.base, extensions, now_ms).await?;
        }
        rename(".swap", "").await
    }
}

/// Finishes at start what a cleaning had begun to swap in: the old segments go, the new one gets its name. Of a swap that
/// had not begun the `.cleaned` files are left, which are nothing. May itself be interrupted, and begins again.
pub async fn finish_swaps(disk: &Disk, dir: &Path) -> io::Result<()> {
    let names: Vec<String> = (disk.list(dir).await?.into_iter())
        .map(|entry| entry.name)
        .collect();
    if !names.iter().any(|name| name.ends_with(".swap")) {
        return Ok(());
    }
    let begun = bases(&names, "log.swap");
    for extension in FILES {
        for base in bases(&names, &format!("{extension}.swap")) {
            if !begun.contains(&base) {
                let path = segment_path(dir, base, &format!("{extension}.swap"));
                disk.remove(&path).await?;
            }
        }
    }
    for base in begun {
        remove_replaced(disk, dir, &names, base).await?;
        for extension in FILES {
            let from = segment_path(dir, base, &format!("{extension}.swap"));
            if disk.exists(&from).await? {
                let to = segment_path(dir, base, extension);
                disk.rename(&from, &to).await?;
            }
        }
    }
    disk.sync_dir(dir).await
}

/// Removes the segments that the one about to be swapped in at `base` was made from.
async fn remove_replaced(
    disk: &Disk,
    dir: &Path,
    names: &[String],
    base: Offset,
) -> io::Result<()> {
    // A group's last batch is always kept: all of the group's segments begin below its end.
    let end = end_of(disk, &segment_path(dir, base, "log.swap")).await?;
    // Once the first new index has its name, those beside it are new, too. Apache Kafka renames the log first, so that
    // its indexes may not have come so far.
    let is_waiting = |extension| bases(names, extension).contains(&base);
    let index_is_new = !is_waiting("index.swap") && !is_waiting("index.cleaned");
    let old = bases(names, "log").into_iter();
    let old = old.filter(|old| *old > base && Some(*old) < end);
    for old in old.chain([base]) {
        for extension in EXTENSIONS {
            let stays = match extension {
                "log" => false,
                "snapshot" => old == base,
                _ => old == base && index_is_new,
            };
            let path = segment_path(dir, old, extension);
            if !stays && disk.exists(&path).await? {
                disk.remove(&path).await?;
            }
        }
    }
    disk.sync_dir(dir).await
}

/// Of the segments that have a file of this extension.
fn bases(names: &[String], extension: &str) -> Vec<Offset> {
    let named = names.iter().filter_map(|name| name.split_once('.'));
    named
        .filter(|(_, rest)| *rest == extension)
        .filter_map(|(stem, _)| stem.parse().ok().map(Offset))
        .collect()
}

/// Behind the last batch of a segment's file.
async fn end_of(disk: &Disk, path: &Path) -> io::Result<Option<Offset>> {
    let file = disk.open(path, Mode::Read).await?;
    let length = file.len()?;
    let mut scanner = Scanner::new(file, length, READ_BYTES);
    let (mut position, mut end) = (0, None);
    while let Some(header) = scanner.header(position).await? {
        end = Some(header.next_offset());
        position += u64::from(header.size);
    }
    Ok(end)
}
