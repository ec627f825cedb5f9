//! Owns the HdrHistogram log of a run (`--hdr`): each second's histogram of each stage, under the stage's tag, in the format
//! that HdrHistogram's own tools read. Values are nanoseconds. All intervals of a tag together are the report's summary.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use crate::client::Outcome;
use crate::clock;
use crate::latency::Latencies;
use crate::recorder::{Recorder, Stage};

/// The line above the intervals, for spreadsheets and people.
const LEGEND: &str =
    r#""StartTimestamp","Interval_Length","Interval_Max","Interval_Compressed_Histogram""#;

pub struct HdrLog {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
    /// What times in the log count from.
    start: Instant,
    /// In front of the tags, where the log is of several runs.
    part: String,
    interval_start: Instant,
    /// What previous intervals of this run hold.
    logged: [Latencies; Stage::ALL.len()],
}

impl HdrLog {
    pub fn create(path: &Path, command: &str) -> Outcome<HdrLog> {
        let start = clock::now();
        let log = File::create(path).and_then(|file| {
            let mut file = BufWriter::new(file);
            let time = UNIX_EPOCH + Duration::from_millis(clock::wall_ms() as u64);
            IntervalLogWriterBuilder::new()
                .add_comment("[Histogram log format version 1.3]")
                .add_comment(&format!("[{command}; values are nanoseconds]"))
                .with_start_time(time)
                .with_base_time(time)
                .begin_log_with(&mut file, &mut V2DeflateSerializer::new())?;
            writeln!(file, "{LEGEND}")?;
            file.flush()?;
            Ok(HdrLog {
                path: path.to_owned(),
                file,
                serializer: V2DeflateSerializer::new(),
                start,
                part: String::new(),
                interval_start: start,
                logged: Default::default(),
            })
        });
        log.map_err(|error| format!("{}: {error}", path.display()))
    }

    /// A run begins, called `part` where there are several.
    pub fn begin(&mut self, part: &str) {
        let legal = |letter: char| !letter.is_whitespace() && !letter.is_control() && letter != ',';
        self.part = part.chars().filter(|letter| legal(*letter)).collect();
        self.interval_start = clock::now();
        self.logged = Default::default();
    }

    /// Writes what was measured since the last interval.
    pub fn end_interval(&mut self, now: Instant, recorder: &Recorder) -> Outcome<()> {
        for stage in Stage::ALL {
            let total = recorder.total(stage);
            let interval = total.since(&self.logged[stage as usize]);
            if interval.count() > 0 {
                self.write(stage, &interval, now)
                    .map_err(|error| format!("{}: {error}", self.path.display()))?;
                self.logged[stage as usize] = total;
            }
        }
        self.interval_start = now;
        let flushed = self.file.flush();
        flushed.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn write(&mut self, stage: Stage, interval: &Latencies, now: Instant) -> Outcome<()> {
        let tag = match &*self.part {
            "" => stage.name().to_owned(),
            part => format!("{part}/{}", stage.name()),
        };
        let begun = self.interval_start.saturating_duration_since(self.start);
        let lasted = now.saturating_duration_since(self.interval_start);
        let tag = Tag::new(&tag).ok_or("a tag has no spaces and no commas")?;
        // Without headings to write, beginning a log writes nothing.
        IntervalLogWriterBuilder::new()
            .begin_log_with(&mut self.file, &mut self.serializer)
            .map_err(|error| error.to_string())?
            .write_histogram(interval.histogram(), begun, lasted, Some(tag))
            .map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::Histogram;
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::*;

    #[test]
    fn all_intervals_together_are_what_was_recorded() {
        let path = std::env::temp_dir().join(format!("coati-hdr-{}.log", std::process::id()));
        let mut log = HdrLog::create(&path, "coati bench e2e").unwrap();
        log.begin("a side, 1");
        let start = clock::now();
        let recorder = Recorder::new(start, Duration::default);
        for second in 1..=3 {
            let now = start + Duration::from_secs(second);
            let intended = (0..100 * second).map(|micros| start + Duration::from_micros(micros));
            recorder.reached(Stage::Acknowledge, now, intended);
            log.end_interval(now, &recorder).unwrap();
        }
        let text = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(text.starts_with(b"#[Histogram log format version 1.3]\n"));
        let mut sum = Histogram::<u64>::new(3).unwrap();
        let mut intervals = 0;
        for entry in IntervalLogIterator::new(&text) {
            let LogEntry::Interval(interval) = entry.unwrap() else {
                continue;
            };
            assert_eq!(interval.tag().unwrap().as_str(), "aside1/acknowledge");
            let bytes = base64::Engine::decode(
                &base64::engine::general_purpose::STANDARD,
                interval.encoded_histogram(),
            );
            let read: Histogram<u64> = Deserializer::new()
                .deserialize(&mut &bytes.unwrap()[..])
                .unwrap();
            intervals += 1;
            assert_eq!(read.len(), 100 * intervals);
            assert!(interval.duration() <= Duration::from_millis(1100));
            sum.add(&read).unwrap();
        }
        assert_eq!(intervals, 3);
        let total = recorder.total(Stage::Acknowledge);
        assert_eq!(&sum, total.histogram());
    }
}
