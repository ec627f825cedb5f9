//! Owns the command line of `coati tune disk`, and what has to be so before a byte is written.

use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use coati_bench::page::page_with;
use coati_bench::{clock, conditions};
use futures::future::{Either, select};

use super::device::{Disk, Space};
use super::load::in_words;
use super::measure::{MeasureError, SCRATCH, measure};
use super::plan::{self, Division};
use super::report::{Conditions, Report};
use super::verdict::{Verdict, notices};
use crate::command::{Ending, Told};
use crate::machine::Machine;
use crate::progress::Progress;
use crate::root::{Root, Unreadable};
use crate::scratch::{Folder, FolderError};

const SECONDS_LEAST: f64 = 1.0;
const SECONDS_MOST: f64 = 300.0;

/// File systems that are memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];

/// Of a file system, what the measurement leaves free: this part, between these bounds.
const RESERVE_PART: u64 = 20;
const RESERVE_LEAST: u64 = 64 << 20;
const RESERVE_MOST: u64 = 10 << 30;

/// Folders of `DIR` that are looked at for a broker's.
const FOLDERS_MAX: usize = 1000;

const PAGE_SCRIPT: &str = include_str!("page.js");

#[derive(Debug, Args)]
pub struct DiskArgs {
    /// A folder on the disk; what is in it stays as it is
    #[arg(value_name = "DIR")]
    dir: PathBuf,

    /// How long to measure, from 30 to 300; less measures a part, for a first look
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = parse_seconds)]
    seconds: f64,

    /// Space to use, such as 512MiB; more than the disk's own memory holds tells more of a long load
    #[arg(long, value_name = "BYTES", default_value = "1GiB", value_parser = parse_size)]
    size: u64,

    /// All figures, for programs: to stdout instead of the tables, or to a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    json: Option<Option<PathBuf>>,

    /// Write the figures as one page for a browser, with the curves
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Show the progress also where stderr is no terminal
    #[arg(long)]
    progress: bool,
}

/// Why nothing was measured, or what was is not told, in a sentence.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error(transparent)]
    Measure(#[from] MeasureError),
    #[error("{folder} lies in memory ({kind}): there is no disk to be measured")]
    InMemory { folder: String, kind: String },
    #[error(
        "{} has {} MiB free, of which {} MiB stay free: {} do not fit; --size says how much to use",
        folder.display(), .free >> 20, .reserve >> 20, in_words(*.size)
    )]
    Space {
        folder: PathBuf,
        free: u64,
        reserve: u64,
        size: u64,
    },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: Option<f64> = text.parse().ok();
    let seconds = seconds.filter(|seconds| (SECONDS_LEAST..=SECONDS_MOST).contains(seconds));
    seconds.ok_or_else(|| format!("it is a number from {SECONDS_LEAST} to {SECONDS_MOST}"))
}

fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|char: char| !char.is_ascii_digit());
    let shift = match text[digits.len()..].trim() {
        "" | "B" => Some(0),
        "KiB" | "K" => Some(10),
        "MiB" | "M" => Some(20),
        "GiB" | "G" => Some(30),
        "TiB" | "T" => Some(40),
        _ => None,
    };
    let size = shift.zip(digits.parse::<u64>().ok());
    let size = size.and_then(|(shift, number)| number.checked_mul(1 << shift));
    let size = size.ok_or("it is a number of bytes, such as 512MiB or 2GiB")?;
    match size >= plan::SIZE_LEAST {
        true => Ok(size),
        false => Err(format!("it is at least {}", in_words(plan::SIZE_LEAST))),
    }
}

impl DiskArgs {
    /// On the executor that `disk` does its I/O on.
    pub async fn run<D: Disk>(self, disk: D) -> Result<Told, DiskError> {
        for path in self.files() {
            check_writable(path)?;
        }
        let (folder, leftovers) = Folder::make(&SCRATCH, &self.dir)?;
        let mut conditions = self.conditions();
        let mut notes = Vec::new();
        if let Some(leftovers) = leftovers {
            let freed = leftovers.bytes >> 20;
            notes.push(format!(
                "what a measurement that was killed had left there ({freed} MiB) is removed"
            ));
        }
        self.check_place(&disk, &conditions)?;
        if let Some(folder) = broker_around(&disk, &self.dir) {
            notes.push(format!(
                "a broker runs on {}: it and the measurement disturb each other",
                folder.display()
            ));
        }
        for note in &notes {
            eprintln!("coati: {note}");
        }
        let mut progress = Progress::new(self.progress);
        let steps = plan::steps(self.seconds);
        let division = Division::of(self.size);
        let measured = {
            let steps = (&steps[..], self.seconds);
            let measuring = std::pin::pin!(measure(&disk, &folder, division, steps, &mut progress));
            match select(measuring, std::pin::pin!(disk.interrupted())).await {
                Either::Left((measured, _)) => Some(measured),
                Either::Right(_) => None,
            }
        };
        drop(progress);
        // Before anything else is done that may fail or take time.
        let removed = folder.remove();
        let Some(measured) = measured else {
            removed?;
            eprintln!(
                "coati: interrupted before the end; what the measurement had made is removed"
            );
            return Ok(Told {
                text: String::new(),
                ending: Ending::Interrupted,
            });
        };
        let figures = measured?;
        removed?;
        conditions.seconds = self.seconds;
        notes.extend(notices(&figures, self.seconds));
        let report = Report {
            conditions,
            notices: notes,
            verdict: Verdict::of(&figures),
            figures,
        };
        self.hand_back(&report)
    }

    fn files(&self) -> impl Iterator<Item = &Path> {
        let json = self.json.iter().flatten();
        json.chain(&self.html).map(PathBuf::as_path)
    }

    fn conditions(&self) -> Conditions {
        let machine = Machine::look(Root::new("/"), &self.dir, None, None);
        let this = conditions::Machine::this();
        let said = |error: &Unreadable| error.to_string();
        Conditions {
            command: conditions::typed(),
            started_ms: clock::wall_ms(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            machine: conditions::Machine {
                // Not only those that this thread may use.
                cores: machine.online.map_or(this.cores, |online| online.len()),
                ..this
            },
            folder: machine.data_folder.unwrap_or_else(|error| said(&error)),
            file_system: match &machine.mount {
                Ok(mount) => mount.kind.clone(),
                Err(error) => said(error),
            },
            disks: match machine.disks {
                Ok(disks) => disks.into_iter().map(|disk| disk.name).collect(),
                Err(error) => vec![said(&error)],
            },
            size_bytes: self.size,
            seconds: self.seconds,
        }
    }

    fn check_place<D: Disk>(&self, disk: &D, conditions: &Conditions) -> Result<(), DiskError> {
        if IN_MEMORY.contains(&&*conditions.file_system) {
            return Err(DiskError::InMemory {
                folder: conditions.folder.clone(),
                kind: conditions.file_system.clone(),
            });
        }
        let space = disk.space(&self.dir).map_err(|error| DiskError::File {
            path: self.dir.clone(),
            error,
        })?;
        let reserve = reserve(space);
        match space.usable.saturating_sub(reserve) >= self.size {
            true => Ok(()),
            false => Err(DiskError::Space {
                folder: self.dir.clone(),
                free: space.usable,
                reserve,
                size: self.size,
            }),
        }
    }

    fn hand_back(&self, report: &Report) -> Result<Told, DiskError> {
        let json = || {
            let json = serde_json::to_string_pretty(report);
            json.expect("a report has no key that is not text") + "\n"
        };
        if let Some(Some(path)) = &self.json {
            write(path, &json())?;
        }
        if let Some(path) = &self.html {
            write(path, &page_with("coati tune disk", PAGE_SCRIPT, &json()))?;
        }
        Ok(Told {
            text: match self.json {
                Some(None) => json(),
                _ => report.to_string(),
            },
            ending: Ending::Well,
        })
    }
}

fn write(path: &Path, text: &str) -> Result<(), DiskError> {
    std::fs::write(path, text).map_err(|error| DiskError::File {
        path: path.to_owned(),
        error,
    })
}

/// Better told now than after minutes.
fn check_writable(path: &Path) -> Result<(), DiskError> {
    let was_there = path.exists();
    let mut options = std::fs::OpenOptions::new();
    let opened = options.append(true).create(true).open(path);
    let checked = match (opened, was_there) {
        (Ok(_), true) => Ok(()),
        (Ok(_), false) => std::fs::remove_file(path),
        (Err(error), _) => Err(error),
    };
    checked.map_err(|error| DiskError::File {
        path: path.to_owned(),
        error,
    })
}

fn reserve(space: Space) -> u64 {
    (space.total / RESERVE_PART).clamp(RESERVE_LEAST, RESERVE_MOST)
}

/// A broker's data folder that is in use: `dir`, one that it is in, or one in it.
fn broker_around<D: Disk>(disk: &D, dir: &Path) -> Option<PathBuf> {
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let above = full.ancestors().map(Path::to_owned);
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.take(FOLDERS_MAX).map(|entry| entry.path());
    above.chain(below).find(|folder| disk.is_in_use(folder))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;
    use futures::FutureExt;

    use super::*;
    use crate::disk::fake::{FakeDisk, Fault};

    #[derive(Debug, Parser)]
    struct Typed {
        #[command(flatten)]
        args: DiskArgs,
    }

    fn typed(words: &[&str]) -> Result<DiskArgs, String> {
        let words = ["disk"].iter().chain(words);
        let typed = Typed::try_parse_from(words).map_err(|error| error.to_string())?;
        Ok(typed.args)
    }

    /// Runs in a folder that holds a file of somebody's, and checks that it then holds just that.
    fn run(disk: FakeDisk, words: &[&str]) -> Result<Told, DiskError> {
        let dir = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        fs::write(dir.path().join("precious"), "data").unwrap();
        let words = [&[dir.path().to_str().unwrap()], words].concat();
        let args = typed(&words).unwrap();
        let told = args.run(disk).now_or_never().expect("it never waits");
        let left = fs::read_dir(dir.path()).unwrap();
        let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["precious"], "after {told:?}");
        told
    }

    #[test]
    fn a_measurement_says_what_it_found_and_leaves_nothing() {
        let told = run(FakeDisk::default(), &["--size", "64MiB"]).unwrap();
        assert!(matches!(told.ending, Ending::Well));
        assert!(
            told.text.contains("acks=all durable: about "),
            "{}",
            told.text
        );
        let told = run(
            FakeDisk::default(),
            &["--json", "--seconds=5", "--size=64MiB"],
        )
        .unwrap();
        let report: Report = serde_json::from_str(&told.text).unwrap();
        assert!(report.verdict.durable.is_some());
        assert_eq!(report.conditions.seconds, 5.0);
        assert_eq!(report.notices.len(), 2, "{:?}", report.notices);
    }

    #[test]
    fn whatever_ends_it_leaves_nothing() {
        let said = |fault| run(FakeDisk::with(fault), &[]).unwrap_err().to_string();
        for operation in [0, 3, 900, 5000] {
            let failing = |kind| Fault::Fails { operation, kind };
            assert!(said(failing(io::ErrorKind::StorageFull)).contains("has become full"));
            let other = said(failing(io::ErrorKind::Other));
            assert!(other.contains(": other error"), "{other}");
            let told = run(FakeDisk::with(Fault::Interrupted { operation }), &[]).unwrap();
            assert!(matches!(told.ending, Ending::Interrupted));
            assert_eq!(told.text, "");
        }
        assert!(said(Fault::Indirect).contains("refuses direct I/O"));
    }

    #[test]
    fn it_leaves_space_to_others() {
        let of = |total, usable| FakeDisk::with(Fault::Space(Space { total, usable }));
        let said = run(of(100 << 30, 6 << 30), &["--size=1025MiB"]).unwrap_err();
        assert!(
            said.to_string().ends_with(
                "has 6144 MiB free, of which 5120 MiB stay free: 1025 MiB do not fit; --size says how much to use"
            ),
            "{said}"
        );
        run(of(100 << 30, 6 << 30), &["--size=1024MiB", "--seconds=2"]).unwrap();
        // Of a huge disk no more than is reasonable, of a small one some.
        let reserved = |total| reserve(Space { total, usable: 0 });
        assert_eq!(
            (reserved(100 << 40), reserved(1 << 20)),
            (10 << 30, 64 << 20)
        );
    }

    #[test]
    fn a_broker_beside_is_told() {
        let words = ["--json", "--seconds=2", "--size=64MiB"];
        let told = run(FakeDisk::with(Fault::InUse), &words).unwrap();
        let report: Report = serde_json::from_str(&told.text).unwrap();
        let told = report
            .notices
            .iter()
            .find(|said| said.contains("a broker runs"));
        assert!(told.is_some(), "{:?}", report.notices);
    }

    #[test]
    fn without_fallocate_it_measures_and_says_so() {
        let words = ["--json", "--seconds=2", "--size=64MiB"];
        let told = run(FakeDisk::with(Fault::NoAllocation), &words).unwrap();
        assert!(told.text.contains("cannot reserve space"));
    }

    #[test]
    fn memory_is_no_disk() {
        let shared_memory = Path::new("/dev/shm");
        if !shared_memory.is_dir() {
            return;
        }
        let dir = tempfile::tempdir_in(shared_memory).unwrap();
        let args = typed(&[dir.path().to_str().unwrap()]).unwrap();
        let error = args
            .run(FakeDisk::default())
            .now_or_never()
            .unwrap()
            .unwrap_err();
        assert!(
            error.to_string().contains("lies in memory (tmpfs)"),
            "{error}"
        );
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn bad_input_is_told() {
        let said = |words: &[&str]| typed(words).unwrap_err();
        assert!(said(&[]).contains("<DIR>"));
        for seconds in ["0.5", "301", "inf", "long"] {
            let said = said(&[".", "--seconds", seconds]);
            assert!(said.contains("from 1 to 300"), "{said}");
        }
        assert!(said(&[".", "--size=63MiB"]).contains("at least 64 MiB"));
        for size in ["", "MiB", "-1", "1.5GiB", "12QiB", "99999999999TiB"] {
            let said = said(&[".", &format!("--size={size}")]);
            assert!(
                said.contains("a number of bytes") || said.contains("required"),
                "{said}"
            );
        }
        let sizes = ["64M", "67108864", "64 MiB", "65536K"];
        assert!(sizes.iter().all(|size| parse_size(size) == Ok(64 << 20)));
        // A report that could not be written is told before anything is measured.
        let error = run(FakeDisk::default(), &["--json=/proc/none"]).unwrap_err();
        assert!(error.to_string().starts_with("/proc/none: "), "{error}");
    }

    #[test]
    fn a_report_goes_where_it_should() {
        let folder = tempfile::tempdir().unwrap();
        let [json, html] = ["report.json", "report.html"].map(|name| folder.path().join(name));
        let words = [
            &format!("--json={}", json.display()),
            &format!("--html={}", html.display()),
            "--seconds=2",
            "--size=64MiB",
        ];
        let told = run(FakeDisk::default(), &words).unwrap();
        assert!(told.text.contains("acks=all durable"));
        let report: Report = serde_json::from_slice(&fs::read(&json).unwrap()).unwrap();
        assert!(report.conditions.started_ms > 0);
        let page = fs::read_to_string(&html).unwrap();
        assert!(page.contains("<title>coati tune disk</title>"));
        for foreign in ["src=", "href=", "url(", "@import", "import(", "fetch("] {
            assert!(!page.contains(foreign), "{foreign}");
        }
    }
}
