//! Owns pictures of machines: trees of /proc and /sys below a folder, made from `NAME.tree` beside this file.
//!
//! A line is `PATH = TEXT`, `PATH =r TEXT` (nobody may write it), `PATH -> TARGET` (a link), `PATH/` (a folder), or `PATH <<`
//! with the text on the lines until `>>`. `{0..3}` and `{a,b}` in a path stand for several.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use clap::Parser;
use coati_tuning::{Ending, Told, TuneArgs, TuneError};
use tempfile::TempDir;

pub const MACHINES: [&str; 5] = [
    "bare-metal-numa",
    "cloud-vm",
    "container",
    "laptop",
    "old-kernel",
];

pub struct Machine {
    folder: TempDir,
    pub state: PathBuf,
}

/// What is in a tree: texts by path.
pub type Tree = BTreeMap<String, String>;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    tune: TuneArgs,
}

impl Machine {
    pub fn new(name: &str) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let source = format!("{}/tests/machines/{name}.tree", env!("CARGO_MANIFEST_DIR"));
        let text = fs::read_to_string(source).unwrap();
        plant(&folder.path().join("root"), &text);
        Machine {
            state: folder.path().join("state/tune.json"),
            folder,
        }
    }

    pub fn root(&self) -> PathBuf {
        self.folder.path().join("root")
    }

    /// Outside of the picture.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn place(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        let text = fs::read_to_string(self.place(path)).unwrap();
        text.trim_end().to_owned()
    }

    pub fn set(&self, path: &str, text: &str) {
        fs::write(self.place(path), format!("{text}\n")).unwrap();
    }

    /// `coati tune` with these words, on this machine.
    pub fn tune(&self, words: &[&str]) -> Result<Told, TuneError> {
        let root = self.root();
        let mut line = vec!["tune"];
        line.extend(words);
        line.extend(["--root", root.to_str().unwrap()]);
        match words[0] {
            "check" | "profile" => line.extend(["--data-dir", "/var/lib/coati/data"]),
            "apply" => line.extend([
                "--data-dir",
                "/var/lib/coati/data",
                "--state",
                self.state.to_str().unwrap(),
            ]),
            _ => line.extend(["--state", self.state.to_str().unwrap()]),
        }
        let cli = Cli::try_parse_from(line).unwrap();
        let told = cli.tune.run(
            || unreachable!("a picture's io_uring is not asked"),
            |_| unreachable!("a picture has no disk to be measured"),
        );
        self.settle();
        told
    }

    /// As a kernel does it: interrupts arrive where they may.
    fn settle(&self) {
        let Ok(interrupts) = fs::read_dir(self.place("/proc/irq")) else {
            return;
        };
        for interrupt in interrupts {
            let folder = interrupt.unwrap().path();
            let affinity = fs::read_to_string(folder.join("smp_affinity_list"));
            let effective = folder.join("effective_affinity_list");
            if let Ok(text) = affinity
                && let Ok(cpu) = text.trim().parse::<u32>()
                && effective.is_file()
            {
                fs::write(effective, format!("{cpu}\n")).unwrap();
            }
        }
    }

    /// What it printed, and it ended well.
    pub fn done(&self, words: &[&str]) -> String {
        let told = self.tune(words).unwrap();
        assert!(matches!(told.ending, Ending::Well), "{words:?}: {told:?}");
        told.text
    }

    pub fn check(&self) -> Vec<Row> {
        let told = self.tune(&["check", "--json"]).unwrap();
        let report: serde_json::Value = serde_json::from_str(&told.text).unwrap();
        let rows = report["rows"].as_array().unwrap();
        rows.iter().map(Row::of).collect()
    }

    pub fn tree(&self) -> Tree {
        let mut tree = Tree::new();
        collect(&self.root(), &self.root(), &mut tree);
        tree
    }
}

/// What `check --json` says of a tuner.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    pub name: String,
    pub verdict: String,
    pub has: String,
    /// Paths and what an apply writes there; without those that only go along.
    pub changes: Vec<(String, String)>,
}

impl Row {
    fn of(row: &serde_json::Value) -> Row {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        let changes = row["changes"].as_array().unwrap().iter();
        let change = |change: &serde_json::Value| {
            Some((
                change["path"].as_str()?.to_owned(),
                change["to"].as_str()?.to_owned(),
            ))
        };
        Row {
            name: text("name"),
            verdict: text("verdict"),
            has: text("has"),
            changes: changes.filter_map(change).collect(),
        }
    }

    /// From what is well to what is worst; unknown is none of it.
    pub fn rank(&self) -> usize {
        let verdicts = ["absent", "good", "hint", "warning", "critical"];
        let rank = verdicts.iter().position(|verdict| *verdict == self.verdict);
        rank.expect("not asked of what is unknown")
    }
}

/// Values as tuners see them: of a choice, what is chosen.
pub fn chosen(text: &str) -> String {
    let mut words = text.split_whitespace();
    let bracketed = words.find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
    bracketed.unwrap_or(text).to_owned()
}

fn collect(root: &Path, folder: &Path, tree: &mut Tree) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        if meta.is_dir() {
            collect(root, &path, tree);
        } else if meta.is_file() {
            tree.insert(
                name,
                fs::read_to_string(&path).unwrap().trim_end().to_owned(),
            );
        }
    }
}

fn plant(root: &Path, text: &str) {
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    while let Some(line) = lines.next() {
        if let Some(pattern) = line.strip_suffix(" <<") {
            let text: Vec<&str> = lines.by_ref().take_while(|line| *line != ">>").collect();
            each(root, pattern, |place| {
                fs::write(place, text.join("\n") + "\n").unwrap()
            });
        } else if let Some((pattern, target)) = line.split_once(" -> ") {
            each(root, pattern, |place| symlink(target, place).unwrap());
        } else if let Some((pattern, text)) = line.split_once(" =r ") {
            each(root, pattern, |place| {
                fs::write(place, format!("{text}\n")).unwrap();
                fs::set_permissions(place, fs::Permissions::from_mode(0o444)).unwrap();
            });
        } else if let Some((pattern, text)) = line.split_once(" = ") {
            each(root, pattern, |place| {
                fs::write(place, format!("{text}\n")).unwrap()
            });
        } else if let Some(folder) = line.strip_suffix('/') {
            fs::create_dir_all(root.join(&folder[1..])).unwrap();
        } else {
            panic!("no line of a tree: {line}");
        }
    }
}

fn each(root: &Path, pattern: &str, make: impl Fn(&Path)) {
    for path in several(pattern) {
        let place = root.join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        make(&place);
    }
}

fn several(pattern: &str) -> Vec<String> {
    let Some((before, rest)) = pattern.split_once('{') else {
        return vec![pattern.to_owned()];
    };
    let (inside, after) = rest.split_once('}').unwrap();
    let names: Vec<String> = match inside.split_once("..") {
        Some((first, last)) => {
            let (first, last): (u32, u32) = (first.parse().unwrap(), last.parse().unwrap());
            (first..=last).map(|number| number.to_string()).collect()
        }
        None => inside.split(',').map(str::to_owned).collect(),
    };
    let each = names
        .iter()
        .flat_map(|name| several(&format!("{before}{name}{after}")));
    each.collect()
}
