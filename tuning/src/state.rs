//! Owns the state file: the values that entries had before the first apply, kept until they are undone. It is on
//! stable storage before any entry is written, so that a crash in between loses no value.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::root::Form;

pub const DEFAULT_PATH: &str = "/var/lib/coati/tune.json";

const VERSION: u32 = 1;

/// Tuners write nowhere else, and so a state file may say nothing else.
const TREES: [&str; 3] = ["/proc/sys/", "/proc/irq/", "/sys/"];

/// Why values cannot be kept, or what was kept cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("cannot write the state file {path}: {error}{hint}")]
    Save {
        path: String,
        error: io::Error,
        hint: &'static str,
    },
    #[error("cannot read {path}: {error}")]
    Load { path: String, error: io::Error },
    #[error("{path} is not a state file of `coati tune`: {reason}")]
    Malformed { path: String, reason: String },
    #[error("{path}: another `coati tune` is at work")]
    Busy { path: String },
    /// Values that are not kept are not changed.
    #[error("{0}; so nothing was written")]
    NothingKept(Box<StateError>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Saved {
    pub tuner: String,
    pub path: String,
    pub form: Form,
    /// As it was before the first apply.
    pub first: String,
    /// What the entry showed after the last apply; `None` if it went away, or nobody lived to see it.
    pub applied: Option<String>,
    /// Not written by an apply, but changed by the kernel along with another of its tuner.
    pub is_along: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct State {
    version: u32,
    /// The kernel's own since it started. All that is written here ends with it: what an earlier life has left is
    /// not in force any more, and its names of devices and interrupts may mean others.
    pub boot_id: Option<String>,
    /// In the order of writing.
    pub saved: Vec<Saved>,
}

impl State {
    pub fn new(boot_id: Option<String>) -> State {
        State {
            version: VERSION,
            boot_id,
            saved: Vec::new(),
        }
    }

    pub fn find(&mut self, path: &str) -> Option<&mut Saved> {
        self.saved.iter_mut().find(|saved| saved.path == path)
    }
}

/// The file, held by one process at a time while this lives.
#[derive(Debug)]
pub struct StateFile {
    path: PathBuf,
    folder: PathBuf,
    /// Its lock goes with it.
    _held: File,
}

impl StateFile {
    /// Makes the folder if need be.
    pub fn hold(path: &Path) -> Result<StateFile, StateError> {
        let folder = folder_of(path);
        let failed = |error| save_error(path, error);
        let mut builder = DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o755)
            .create(&folder)
            .map_err(failed)?;
        let held = File::open(&folder).map_err(failed)?;
        match held.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(StateError::Busy {
                    path: path.display().to_string(),
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        Ok(StateFile {
            path: path.to_owned(),
            folder,
            _held: held,
        })
    }

    pub fn load(&self) -> Result<Option<State>, StateError> {
        load(&self.path)
    }

    /// Replaces the file as a whole, durably.
    pub fn save(&self, state: &State) -> Result<(), StateError> {
        let save = || -> io::Result<()> {
            let mut new = self.path.as_os_str().to_owned();
            new.push(".new");
            let _not_there = fs::remove_file(&new);
            let mut options = OpenOptions::new();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o644)
                .open(&new)?;
            file.write_all(serde_json::to_string_pretty(state)?.as_bytes())?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(&self.folder)?.sync_all()
        };
        save().map_err(|error| save_error(&self.path, error))
    }

    pub fn remove(&self) -> Result<(), StateError> {
        let remove = || {
            fs::remove_file(&self.path)?;
            File::open(&self.folder)?.sync_all()
        };
        remove().map_err(|error| save_error(&self.path, error))
    }
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

fn save_error(path: &Path, error: io::Error) -> StateError {
    let hint = match error.kind() {
        io::ErrorKind::PermissionDenied => "; this needs root",
        io::ErrorKind::ReadOnlyFilesystem => "; --state names another file",
        _ => "",
    };
    StateError::Save {
        path: path.display().to_string(),
        error,
        hint,
    }
}

/// `None` when there is no file.
pub fn load(path: &Path) -> Result<Option<State>, StateError> {
    let malformed = |reason: String| StateError::Malformed {
        path: path.display().to_string(),
        reason,
    };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(StateError::Load {
                path: path.display().to_string(),
                error,
            });
        }
    };
    if is_others(path) {
        return Err(malformed(
            "others may write it, and what it says is written as root".into(),
        ));
    }
    let state: State = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    if state.version != VERSION {
        return Err(malformed(format!(
            "its version is {}, not {VERSION}",
            state.version
        )));
    }
    let is_foreign = |saved: &&Saved| {
        let is_outside = !TREES.iter().any(|tree| saved.path.starts_with(tree));
        is_outside || saved.path.split('/').any(|part| part == "..")
    };
    if let Some(saved) = state.saved.iter().find(is_foreign) {
        return Err(malformed(format!("no tuner writes {}", saved.path)));
    }
    Ok(Some(state))
}

/// Somebody else could have written it.
fn is_others(path: &Path) -> bool {
    let me = fs::metadata("/proc/self").map(|me| me.uid());
    match (fs::metadata(path), me) {
        (Ok(file), Ok(me)) => file.mode() & 0o022 != 0 || (file.uid() != me && file.uid() != 0),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn state() -> State {
        let mut state = State::new(Some("a".into()));
        state.saved.push(Saved {
            tuner: "swappiness".into(),
            path: "/proc/sys/vm/swappiness".into(),
            form: Form::Words,
            first: "60".into(),
            applied: Some("1".into()),
            is_along: false,
        });
        state
    }

    #[test]
    fn what_is_kept_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/tune.json");
        assert!(load(&path).unwrap().is_none());
        let file = StateFile::hold(&path).unwrap();
        file.save(&state()).unwrap();
        assert_eq!(file.load().unwrap(), Some(state()));
        assert!(matches!(
            StateFile::hold(&path),
            Err(StateError::Busy { .. })
        ));
        file.remove().unwrap();
        assert!(load(&path).unwrap().is_none());
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.json");
        let mut elsewhere = state();
        elsewhere.saved[0].path = "/etc/passwd".into();
        let mut climbing = state();
        climbing.saved[0].path = "/sys/../etc/passwd".into();
        let mut newer = state();
        newer.version = 2;
        for text in [
            String::new(),
            "{}".into(),
            serde_json::to_string(&elsewhere).unwrap(),
            serde_json::to_string(&climbing).unwrap(),
            serde_json::to_string(&newer).unwrap(),
        ] {
            fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err().to_string();
            assert!(error.contains("is not a state file"), "{error}");
        }
        fs::write(&path, serde_json::to_string(&state()).unwrap()).unwrap();
        assert!(load(&path).unwrap().is_some());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(load(&path).is_err());
    }
}
