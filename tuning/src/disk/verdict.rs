//! Owns what the figures mean, in plain words, and the few of them that a profile is made from. Pure.

use serde::{Deserialize, Serialize};

use super::load::{FileState, Load, Way, in_words};
use super::plan::{COLD_READ_BYTES, FULL_SECONDS};
use super::read::Readers;
use super::report::{Appends, Figures};

/// What reaches this much of the best throughput is as good: on most machines two runs differ by the rest, and more is bought by
/// waiting.
const SATURATED: f64 = 0.8;

/// Fewer latencies than this say nothing of the slowest hundredth.
const COUNT_LEAST: u64 = 300;

/// An append that waits longer than this for stable storage waits for a disk that has no memory of its own that a power cut
/// spares.
const SLOW_SYNC_MS: f64 = 3.0;

/// So much more at p99 beside readers is more than noise.
const DISTURBED: f64 = 1.5;

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Verdict {
    /// Without their full stops.
    pub sentences: Vec<String>,
    /// acks=all into segments: the least p99 at which throughput is saturated. What goes into a journal is written once more,
    /// behind it, so that it does not tell how many bytes a broker takes.
    pub durable: Option<Point>,
    /// One append of one block at a time, to stable storage: what a synced write costs.
    pub synced_write: Option<Point>,
    /// The same, when the device has taken it.
    pub write: Option<Point>,
    /// The fewest bytes in flight that saturate plain writes into an allocated file, as of acks=1.
    pub write_saturation: Option<Point>,
    /// The fewest that do, each synced.
    pub synced_saturation: Option<Point>,
    /// As the broker reads: one cold reader, and as many together as get most.
    pub one_reader: Option<ReadPoint>,
    pub readers: Option<ReadPoint>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point {
    pub bytes: usize,
    pub depth: usize,
    pub mb_per_second: f64,
    pub per_second: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReadPoint {
    #[serde(flatten)]
    pub load: Readers,
    pub mb_per_second: f64,
    pub p99_ms: f64,
}

impl Point {
    fn of(appends: &Appends) -> Option<Point> {
        let latency = appends.latency.as_ref()?;
        Some(Point {
            bytes: appends.load.bytes,
            depth: appends.load.depth,
            mb_per_second: appends.mb_per_second,
            per_second: appends.appends_per_second,
            p50_ms: latency.p50,
            p99_ms: latency.p99,
        })
    }

    fn load(self) -> String {
        let size = in_words(self.bytes as u64);
        match self.depth {
            1 => format!("{size}, one at a time"),
            depth => format!("{size}, {depth} at a time"),
        }
    }
}

/// Of those that saturate the disk the one with the least of something.
fn saturating(points: impl Iterator<Item = Point>, cost: fn(&Point) -> f64) -> Option<Point> {
    let points: Vec<Point> = points.collect();
    let best = points
        .iter()
        .map(|point| point.mb_per_second)
        .fold(0.0, f64::max);
    let enough = points
        .into_iter()
        .filter(|point| point.mb_per_second >= SATURATED * best);
    enough.min_by(|one, other| cost(one).total_cmp(&cost(other)))
}

impl Verdict {
    pub fn of(figures: &Figures) -> Verdict {
        let plain = |synced| {
            let is_meant = move |appends: &&Appends| {
                appends.load.file == FileState::Allocated && appends.load.synced == synced
            };
            let points = figures.of_way(Way::Plain).filter(is_meant);
            saturating(points.filter_map(Point::of), |point| {
                (point.bytes * point.depth) as f64
            })
        };
        let block = |synced| {
            let load = Load::plain(FileState::Zeroed, synced, 4 << 10, 1);
            figures.append(load).and_then(Point::of)
        };
        let readers = |is_meant: fn(usize) -> bool| {
            let points = figures.reads.iter().filter(|reads| {
                reads.load.bytes == COLD_READ_BYTES && is_meant(reads.load.readers)
            });
            let points = points.filter_map(|reads| {
                Some(ReadPoint {
                    load: reads.load,
                    mb_per_second: reads.mb_per_second,
                    p99_ms: reads.latency.as_ref()?.p99,
                })
            });
            points.max_by(|one, other| one.mb_per_second.total_cmp(&other.mb_per_second))
        };
        let mut verdict = Verdict {
            sentences: Vec::new(),
            durable: saturating(
                figures.of_way(Way::Segment).filter_map(Point::of),
                |point| point.p99_ms,
            ),
            synced_write: block(true),
            write: block(false),
            write_saturation: plain(false),
            synced_saturation: plain(true),
            one_reader: readers(|count| count == 1),
            readers: readers(|count| count > 1),
        };
        verdict.sentences = verdict.sentences(figures);
        verdict
    }

    fn sentences(&self, figures: &Figures) -> Vec<String> {
        let mut said = Vec::new();
        match self.durable {
            Some(durable) => said.push(format!(
                "acks=all durable: about {} MB/s at p99 {} ms (appends of {})",
                about(durable.mb_per_second),
                shown(durable.p99_ms),
                durable.load()
            )),
            None => said.push(
                "acks=all durable: no append came to stable storage in the time there was".into(),
            ),
        }
        let small = figures.of_way(Way::Journal);
        let small = small.filter(|appends| appends.load.bytes == 4 << 10);
        let small: Vec<Point> = small.filter_map(Point::of).collect();
        if let [first, .., last] = small[..] {
            said.push(format!(
                "Small appends ({}): {} a second at p99 {} ms one at a time, {} a second at p99 {} ms with {} outstanding",
                in_words(first.bytes as u64),
                about(first.per_second),
                shown(first.p99_ms),
                about(last.per_second),
                shown(last.p99_ms),
                last.depth,
            ));
        }
        if let Some(written) = self.write_saturation {
            said.push(format!(
                "acks=1: about {} MB/s at p99 {} ms; writes of {} are enough for that",
                about(written.mb_per_second),
                shown(written.p99_ms),
                written.load()
            ));
        }
        if let (Some(one), Some(most)) = (self.one_reader, self.readers) {
            said.push(format!(
                "Cold reads of {}: about {} MB/s for one reader, {} MB/s for {}",
                in_words(one.load.bytes as u64),
                about(one.mb_per_second),
                about(most.mb_per_second),
                most.load.readers
            ));
        }
        said.extend(disturbed(figures));
        if let Some(synced) = self.synced_write.filter(|at| at.p50_ms > SLOW_SYNC_MS) {
            said.push(format!(
                "A synced write of one block takes {} ms: a disk with power-loss protection answers within a tenth of a millisecond",
                shown(synced.p50_ms)
            ));
        }
        said
    }
}

/// What cold readers cost appends, where that is most.
fn disturbed(figures: &Figures) -> Option<String> {
    let worst = figures.mixed.iter().filter_map(|mixed| {
        let alone = figures.append(mixed.append.load)?.latency.as_ref()?.p99;
        let beside = mixed.append.latency.as_ref()?.p99;
        Some((beside / alone, alone, beside, mixed))
    });
    let (ratio, alone, beside, mixed) =
        worst.max_by(|(one, ..), (other, ..)| one.total_cmp(other))?;
    let load = mixed.append.load;
    let appends = format!(
        "appends of {}, {} at a time",
        in_words(load.bytes as u64),
        load.depth
    );
    let readers = match mixed.read.load.readers {
        1 => "a cold reader".to_owned(),
        many => format!("{many} cold readers"),
    };
    Some(match ratio >= DISTURBED {
        true => format!(
            "Beside {readers} p99 is {} times as long: {} ms instead of {} ms ({appends})",
            shown(ratio),
            shown(beside),
            shown(alone)
        ),
        false => format!(
            "Cold readers hardly disturb appends: p99 is {} ms beside {readers}, {} ms without ({appends})",
            shown(beside),
            shown(alone)
        ),
    })
}

/// What makes the figures worth less than they look.
pub fn notices(figures: &Figures, seconds: f64) -> Vec<String> {
    let mut notices = Vec::new();
    if seconds < FULL_SECONDS {
        notices.push(format!(
            "in less than {FULL_SECONDS} s only a part of the steps was measured, and shortly"
        ));
    }
    if figures.preparing_seconds > seconds / 2.0 {
        notices.push(format!(
            "making the files took {:.0} s of {seconds:.0} s: a smaller --size or more --seconds leave more to be measured",
            figures.preparing_seconds
        ));
    }
    if figures.refuses_allocation {
        notices.push(
            "the file system cannot reserve space (fallocate): segments grow with each write"
                .into(),
        );
    }
    let ways = figures
        .appends
        .iter()
        .filter(|appends| appends.load.way != Way::Plain);
    let counts = ways.map(|appends| appends.latency.as_ref().map_or(0, |latency| latency.count));
    if counts.min().is_some_and(|least| least < COUNT_LEAST) {
        notices.push(format!(
            "of some loads fewer than {COUNT_LEAST} appends were done: their p99 is rough, and more --seconds make it better"
        ));
    }
    notices
}

/// Three digits.
pub fn shown(value: f64) -> String {
    match value.abs() {
        size if size.is_nan() => "-".into(),
        size if size >= 99.95 => grouped(value.round() as i64),
        size if size >= 9.995 => format!("{value:.1}"),
        size if size >= 0.9995 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// Two digits: what is said in words is not exact.
fn about(value: f64) -> String {
    if value < 10.0 {
        return shown(value);
    }
    let unit = 10_f64.powi(value.log10().floor() as i32 - 1);
    shown((value / unit).round() * unit)
}

fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::disk::load::Appended;
    use crate::disk::read::Read;
    use crate::disk::report::{Mixed, Reads};

    /// As if so many appends a second had each taken so long, but for each hundredth, which took as long as p99.
    fn appends(load: Load, per_second: u64, p50_ms: f64, p99_ms: f64) -> Appends {
        let mut appended = Appended {
            appends: per_second,
            writes: per_second,
            bytes: per_second * load.bytes as u64,
            time: Duration::from_secs(1),
            ..Appended::default()
        };
        for number in 0..2000 {
            let ms = if number % 50 == 0 { p99_ms } else { p50_ms };
            let time = Duration::from_secs_f64(ms / 1e3);
            appended.latencies.record(time);
        }
        Appends::of(load, &appended)
    }

    fn reads(readers: usize, mb_per_second: u64) -> Reads {
        let mut read = Read {
            bytes: mb_per_second * 1_000_000,
            time: Duration::from_secs(1),
            ..Read::default()
        };
        read.latencies.record(Duration::from_millis(1));
        let bytes = 256 << 10;
        Reads::of(Readers { bytes, readers }, &read)
    }

    fn a_good_disk() -> Figures {
        let (journal, segment) = (Load::journal(4 << 10, 16), Load::segment(1 << 20, 4));
        let block = |synced| Load::plain(FileState::Zeroed, synced, 4 << 10, 1);
        let allocated = |bytes, depth| Load::plain(FileState::Allocated, false, bytes, depth);
        Figures {
            appends: vec![
                appends(Load::journal(4 << 10, 1), 15_000, 0.06, 0.2),
                appends(journal, 91_000, 0.15, 0.4),
                appends(Load::segment(1 << 20, 1), 600, 1.2, 2.0),
                appends(segment, 850, 4.0, 6.0),
                appends(Load::segment(1 << 20, 16), 870, 18.0, 31.0),
                appends(block(true), 14_000, 0.07, 0.3),
                appends(block(false), 50_000, 0.02, 0.05),
                appends(allocated(4 << 10, 16), 100_000, 0.1, 0.3),
                appends(allocated(64 << 10, 4), 30_000, 0.1, 0.3),
                appends(allocated(1 << 20, 16), 2_000, 8.0, 12.0),
            ],
            reads: vec![reads(1, 1_234), reads(16, 3_456)],
            mixed: vec![
                Mixed {
                    append: appends(journal, 60_000, 0.2, 0.5),
                    read: reads(4, 900),
                },
                Mixed {
                    append: appends(segment, 400, 5.0, 18.0),
                    read: reads(4, 900),
                },
            ],
            ..Figures::default()
        }
    }

    #[test]
    fn the_verdict_says_what_the_figures_mean() {
        let verdict = Verdict::of(&a_good_disk());
        assert_eq!(
            verdict.sentences,
            [
                "acks=all durable: about 890 MB/s at p99 6.00 ms (appends of 1 MiB, 4 at a time)",
                "Small appends (4 KiB): 15,000 a second at p99 0.200 ms one at a time, 91,000 a second at p99 0.400 ms with 16 outstanding",
                "acks=1: about 2,000 MB/s at p99 0.300 ms; writes of 64 KiB, 4 at a time are enough for that",
                "Cold reads of 256 KiB: about 1,200 MB/s for one reader, 3,500 MB/s for 16",
                "Beside 4 cold readers p99 is 3.00 times as long: 18.0 ms instead of 6.00 ms (appends of 1 MiB, 4 at a time)",
            ]
        );
        let synced = verdict.synced_write.unwrap();
        assert_eq!((synced.p50_ms, synced.per_second), (0.07, 14_000.0));
        assert_eq!(verdict.synced_saturation, None);
    }

    #[test]
    fn a_disk_that_syncs_slowly_is_told_so() {
        let mut figures = a_good_disk();
        figures.mixed.truncate(1);
        figures.appends[5] = appends(figures.appends[5].load, 120, 8.3, 20.0);
        let sentences = Verdict::of(&figures).sentences;
        assert_eq!(
            sentences[4],
            "Cold readers hardly disturb appends: p99 is 0.500 ms beside 4 cold readers, 0.400 ms without (appends of 4 KiB, 16 at a time)"
        );
        assert!(sentences[5].starts_with("A synced write of one block takes 8.30 ms:"));
    }

    #[test]
    fn a_disk_that_does_nothing_in_time_has_a_verdict_too() {
        let verdict = Verdict::of(&Figures::default());
        assert_eq!(verdict.sentences.len(), 1);
        assert!(verdict.sentences[0].contains("no append"));
        let mut figures = a_good_disk();
        for appends in &mut figures.appends {
            appends.latency = None;
        }
        assert_eq!(Verdict::of(&figures).sentences.len(), 2);
    }

    #[test]
    fn rough_figures_are_told_to_be_rough() {
        let mut figures = a_good_disk();
        assert_eq!(notices(&figures, 60.0), [""; 0]);
        figures.preparing_seconds = 40.0;
        figures.refuses_allocation = true;
        figures.appends[1].latency = None;
        assert_eq!(notices(&figures, 60.0).len(), 3);
        assert_eq!(notices(&figures, 20.0).len(), 4);
    }

    #[test]
    fn numbers_have_the_digits_that_matter() {
        let values = [
            0.0,
            0.0123,
            0.9999,
            1.234,
            12.34,
            99.97,
            1234.5,
            1_234_567.0,
        ];
        let texts = [
            "0.000",
            "0.012",
            "1.00",
            "1.23",
            "12.3",
            "100",
            "1,235",
            "1,234,567",
        ];
        assert_eq!(values.map(shown), texts);
        assert_eq!(about(0.0), "0.000");
        assert_eq!(about(12_345.0), "12,000");
        assert_eq!(about(99.6), "100");
    }
}
