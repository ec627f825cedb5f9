//! Owns every look at the machine: entries of /proc, /sys and /etc below one folder, which is `/` on a real machine.
//! Nothing else of this crate reads or writes such an entry. Whatever an entry holds, or that it is not there, is a
//! value and not a failure.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::cpus::CpuSet;

/// No entry that is read here is longer on any machine; /proc/self/mountinfo of a host with many containers comes closest.
const ENTRY_BYTES_MAX: u64 = 4 << 20;

/// How much of a malformed entry is shown.
const SHOWN_CHARS: usize = 40;

/// Why an entry has told nothing.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unreadable {
    #[error("{path} is not there")]
    Missing { path: String },
    #[error("{path} cannot be read: {reason}")]
    Refused { path: String, reason: String },
    #[error("{path} holds {text:?}, which is not {wanted}")]
    Malformed {
        path: String,
        text: String,
        wanted: &'static str,
    },
    /// Said of several entries together.
    #[error("{0}")]
    Untold(String),
}

impl Unreadable {
    pub fn malformed(path: &str, text: &str, wanted: &'static str) -> Unreadable {
        let mut shown: String = text.chars().take(SHOWN_CHARS).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Unreadable::Malformed {
            path: path.to_owned(),
            text: shown,
            wanted,
        }
    }
}

pub type Read<T> = Result<T, Unreadable>;

/// `None` for an entry that is not there, where that means something.
pub fn if_there<T>(read: Read<T>) -> Read<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(Unreadable::Missing { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[derive(Clone, Debug)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    pub fn new(folder: impl Into<PathBuf>) -> Root {
        Root {
            folder: folder.into(),
        }
    }

    /// The machine that this process runs on, rather than a picture of one.
    pub fn is_this_machine(&self) -> bool {
        self.folder == Path::new("/")
    }

    /// `path` is absolute, as on the machine itself.
    fn place(&self, path: &str) -> PathBuf {
        self.folder.join(path.trim_start_matches('/'))
    }

    /// An entry's text without the white space at its end.
    pub fn text(&self, path: &str) -> Read<String> {
        let file = File::open(self.place(path)).map_err(|error| unreadable(path, &error))?;
        let mut bytes = Vec::new();
        file.take(ENTRY_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| unreadable(path, &error))?;
        if bytes.len() as u64 > ENTRY_BYTES_MAX {
            return Err(Unreadable::Refused {
                path: path.to_owned(),
                reason: format!("it is longer than {ENTRY_BYTES_MAX} bytes"),
            });
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(text.trim_end().to_owned()),
            Err(error) => {
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                Err(Unreadable::malformed(path, &text, "text"))
            }
        }
    }

    pub fn number<T: FromStr>(&self, path: &str) -> Read<T> {
        let text = self.text(path)?;
        let number = text.parse();
        number.map_err(|_| Unreadable::malformed(path, &text, "a number in its range"))
    }

    /// Numbers between white space.
    pub fn numbers(&self, path: &str) -> Read<Vec<u64>> {
        let text = self.text(path)?;
        let numbers: Result<Vec<u64>, _> = text.split_whitespace().map(str::parse).collect();
        numbers.map_err(|_| Unreadable::malformed(path, &text, "numbers"))
    }

    /// CPUs as in `0-3,8`.
    pub fn cpus(&self, path: &str) -> Read<CpuSet> {
        let text = self.text(path)?;
        CpuSet::from_list(&text).ok_or_else(|| Unreadable::malformed(path, &text, "a list of CPUs"))
    }

    /// Where none at all means nothing.
    pub fn some_cpus(&self, path: &str) -> Read<CpuSet> {
        let cpus = self.cpus(path)?;
        match cpus.is_empty() {
            true => Err(Unreadable::malformed(path, "", "a list of CPUs")),
            false => Ok(cpus),
        }
    }

    pub fn value(&self, path: &str, form: Form) -> Read<String> {
        let text = self.text(path)?;
        form.value(&text)
            .ok_or_else(|| Unreadable::malformed(path, &text, form.wanted()))
    }

    /// What is chosen of several, all of which are known.
    pub fn choice(&self, path: &str, known: &[&str]) -> Read<String> {
        let chosen = self.value(path, Form::Choice)?;
        match known.contains(&chosen.as_str()) {
            true => Ok(chosen),
            false => Err(Unreadable::malformed(
                path,
                &chosen,
                "a choice that is known",
            )),
        }
    }

    /// Whether `wanted` is among the words of an entry, which are all that there is, and so `current` as well.
    pub fn offers(&self, path: &str, wanted: &str, current: &str) -> Read<bool> {
        let text = self.text(path)?;
        let has = |word| text.split_whitespace().any(|other| other == word);
        match has(current) {
            true => Ok(has(wanted)),
            false => Err(Unreadable::malformed(
                path,
                &text,
                "what there is to choose from",
            )),
        }
    }

    /// What is in a folder, `cpu2` before `cpu10`.
    pub fn names(&self, path: &str) -> Read<Vec<String>> {
        let entries = fs::read_dir(self.place(path)).map_err(|error| unreadable(path, &error))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| unreadable(path, &error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        Ok(names)
    }

    /// Of those in a folder named `prefix` and a number: the numbers, ascending.
    pub fn numbered(&self, path: &str, prefix: &str) -> Read<Vec<u32>> {
        let names = self.names(path)?;
        let mut numbers: Vec<u32> = names
            .iter()
            .filter_map(|name| name.strip_prefix(prefix)?.parse().ok())
            .collect();
        numbers.sort_unstable();
        Ok(numbers)
    }

    pub fn has(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// Whether the kernel lets anybody write it: interrupts that a driver manages have entries that nobody may.
    pub fn is_writable(&self, path: &str) -> bool {
        fs::metadata(self.place(path)).is_ok_and(|meta| meta.permissions().mode() & 0o200 != 0)
    }

    /// Where links lead, as a path on the machine.
    pub fn real(&self, path: &str) -> Read<String> {
        let real = |place: &Path| fs::canonicalize(place).map_err(|error| unreadable(path, &error));
        let folder = real(&self.folder)?;
        let place = real(&self.place(path))?;
        match place.strip_prefix(&folder) {
            Ok(inside) => Ok(format!("/{}", inside.display())),
            Err(_) => Err(Unreadable::Refused {
                path: path.to_owned(),
                reason: format!("it leads out of {}", folder.display()),
            }),
        }
    }

    /// In one piece, as the kernel wants it; never makes an entry.
    pub fn write(&self, path: &str, value: &str) -> io::Result<()> {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).truncate(true).open(self.place(path))?;
        file.write_all(format!("{value}\n").as_bytes())
    }
}

fn unreadable(path: &str, error: &io::Error) -> Unreadable {
    let path = path.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Unreadable::Missing { path },
        _ => Unreadable::Refused {
            path,
            reason: error.to_string(),
        },
    }
}

/// How an entry shows its value; each has one spelling, so that what was written compares with what is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Form {
    /// Words between white space.
    Words,
    /// All that there is, what is chosen in brackets: `[mq-deadline] none`.
    Choice,
    /// `0-3,8`.
    CpuList,
    /// `ff,0000000f`, in hexadecimal.
    CpuMask,
}

impl Form {
    fn wanted(self) -> &'static str {
        match self {
            Form::Words => "a value",
            Form::Choice => "a choice in brackets",
            Form::CpuList => "a list of CPUs",
            Form::CpuMask => "a mask of CPUs",
        }
    }

    /// The value in an entry's text; `None` if it has not this form.
    pub fn value(self, text: &str) -> Option<String> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match self {
            Form::Words => (!words.is_empty()).then(|| words.join(" ")),
            Form::Choice => {
                let bracketed =
                    |word: &&str| Some(word.strip_prefix('[')?.strip_suffix(']')?.to_owned());
                match words.as_slice() {
                    // A device that has no choice.
                    [only] if !only.starts_with('[') => Some((*only).to_owned()),
                    several => several.iter().find_map(bracketed),
                }
            }
            Form::CpuList => Some(CpuSet::from_list(text)?.to_string()),
            Form::CpuMask => Some(CpuSet::from_mask(text)?.to_mask()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::new(folder.path());
        (folder, root)
    }

    #[test]
    fn an_entry_that_tells_nothing_says_why() {
        let (folder, root) = root();
        fs::create_dir(folder.path().join("proc")).unwrap();
        fs::write(folder.path().join("number"), "12 apples\n").unwrap();
        fs::write(folder.path().join("bytes"), [0xff, 0xfe]).unwrap();
        let said = |read: Read<u64>| read.unwrap_err().to_string();
        assert_eq!(
            said(root.number("/proc/uptime")),
            "/proc/uptime is not there"
        );
        assert!(said(root.number("/proc")).starts_with("/proc cannot be read: "));
        assert_eq!(
            said(root.number("/number")),
            "/number holds \"12 apples\", which is not a number in its range"
        );
        assert!(said(root.number("/bytes")).ends_with("which is not text"));
        assert_eq!(if_there(root.text("/nothing")), Ok(None));
    }

    #[test]
    fn a_link_leads_nowhere_else() {
        let (folder, root) = root();
        fs::create_dir(folder.path().join("a")).unwrap();
        std::os::unix::fs::symlink("../a", folder.path().join("a/here")).unwrap();
        std::os::unix::fs::symlink("/", folder.path().join("out")).unwrap();
        assert_eq!(root.real("/a/here"), Ok("/a".into()));
        assert!(matches!(root.real("/out"), Err(Unreadable::Refused { .. })));
    }

    #[test]
    fn an_entry_is_written_whole_and_never_made() {
        let (folder, root) = root();
        fs::write(folder.path().join("entry"), "a longer value\n").unwrap();
        root.write("/entry", "short").unwrap();
        assert_eq!(root.text("/entry"), Ok("short".into()));
        assert!(root.write("/other", "1").is_err());
        assert!(!root.has("/other"));
    }

    #[test]
    fn each_form_has_one_spelling() {
        let value = |form: Form, text: &str| form.value(text);
        assert_eq!(
            value(Form::Words, "4096\t131072 6291456\n").unwrap(),
            "4096 131072 6291456"
        );
        assert_eq!(value(Form::Words, " \n"), None);
        assert_eq!(value(Form::Choice, "[none] mq-deadline").unwrap(), "none");
        assert_eq!(
            value(Form::Choice, "always [madvise] never").unwrap(),
            "madvise"
        );
        assert_eq!(value(Form::Choice, "none").unwrap(), "none");
        assert_eq!(value(Form::Choice, "always madvise never"), None);
        assert_eq!(value(Form::CpuList, "0,1,2,3").unwrap(), "0-3");
        assert_eq!(
            value(Form::CpuMask, "0000000f").unwrap(),
            value(Form::CpuMask, "f").unwrap()
        );
        assert_eq!(value(Form::CpuMask, "xyz"), None);
    }
}
