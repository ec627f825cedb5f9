//! Owns the folder that a command makes inside the user's, and everything that is ever removed there: what has the names of its
//! kind, in a folder of that kind's name that says whose it is. Whatever else is there is never touched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What a command makes, and how it is known for its.
#[derive(Debug)]
pub struct Kind {
    /// Of the folder.
    pub name: &'static str,
    /// In it from its first moment to its last, locked while the command runs.
    pub marker: &'static str,
    pub marker_text: &'static str,
    pub files: &'static [&'static str],
    /// With whatever is in them.
    pub folders: &'static [&'static str],
}

#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} is not there", .0.display())]
    Missing(PathBuf),
    #[error("{} is not a folder", .0.display())]
    NoFolder(PathBuf),
    #[error("{}: {error}", path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("another measurement runs in {}", .0.display())]
    Busy(PathBuf),
    #[error(
        "{} holds {name:?}, which this command has not made: it is left alone; remove it or take another folder",
        path.display()
    )]
    Foreign { path: PathBuf, name: String },
}

/// A fresh folder. Dropped, it is removed with all that the command has made, however that ends.
#[derive(Debug)]
pub struct Folder {
    kind: &'static Kind,
    path: PathBuf,
    _marker: File,
    is_removed: bool,
}

/// What was found of a run that did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftovers {
    pub bytes: u64,
}

impl Folder {
    /// Makes it inside `parent`; what a killed run has left there goes first.
    pub fn make(
        kind: &'static Kind,
        parent: &Path,
    ) -> Result<(Folder, Option<Leftovers>), FolderError> {
        match fs::metadata(parent) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::Missing(parent.to_owned()));
            }
            Err(error) => return Err(failed(parent, error)),
            Ok(metadata) if !metadata.is_dir() => {
                return Err(FolderError::NoFolder(parent.to_owned()));
            }
            Ok(_) => {}
        }
        let path = parent.join(kind.name);
        let leftovers = remove_leftovers(kind, &path)?;
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        let marker = path.join(kind.marker);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&marker)
            .and_then(|mut file| {
                file.try_lock()?;
                file.write_all(kind.marker_text.as_bytes())?;
                Ok(file)
            });
        match made {
            Ok(file) => {
                let folder = Folder {
                    kind,
                    path,
                    _marker: file,
                    is_removed: false,
                };
                Ok((folder, leftovers))
            }
            Err(error) => {
                // Of both there may be none: what matters is the first error.
                let _unmade = fs::remove_file(&marker);
                let _unmade = fs::remove_dir(&path);
                Err(failed(&marker, error))
            }
        }
    }

    /// Of a file or folder of its kind.
    pub fn path_of(&self, name: &str) -> PathBuf {
        assert!(self.kind.files.contains(&name) || self.kind.folders.contains(&name));
        self.path.join(name)
    }

    /// As dropping it, and says what stays if something does.
    pub fn remove(mut self) -> Result<(), FolderError> {
        self.is_removed = true;
        remove(self.kind, &self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_removed {
            // Nobody is left to be told; the next run finds it.
            let _stays = remove(self.kind, &self.path);
        }
    }
}

fn failed(path: &Path, error: io::Error) -> FolderError {
    FolderError::Io {
        path: path.to_owned(),
        error,
    }
}

/// The folder with what has known names, the marker last: without it nothing would be recognised.
fn remove(kind: &Kind, path: &Path) -> Result<(), FolderError> {
    for name in kind.folders {
        gone(&path.join(name), |path| fs::remove_dir_all(path))?;
    }
    for name in kind.files.iter().chain([&kind.marker]) {
        gone(&path.join(name), |path| fs::remove_file(path))?;
    }
    fs::remove_dir(path).map_err(|error| failed(path, error))
}

/// Whether there was any is all the same.
fn gone(path: &Path, remove: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), FolderError> {
    match remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path, error)),
        _ => Ok(()),
    }
}

fn remove_leftovers(kind: &Kind, path: &Path) -> Result<Option<Leftovers>, FolderError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
        Ok(metadata) if !metadata.is_dir() => {
            let (path, name) = (
                path.parent().unwrap_or(path).to_owned(),
                kind.name.to_owned(),
            );
            return Err(FolderError::Foreign { path, name });
        }
        Ok(_) => {}
    }
    let mut bytes = 0;
    let mut marker = None;
    let mut unmarked = None;
    for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        let metadata = entry.metadata().map_err(|error| failed(path, error))?;
        let name = entry.file_name();
        let is_marker = name == kind.marker;
        unmarked = Some(name.to_string_lossy().into_owned());
        let known = |names: &[&str]| names.iter().any(|ours| name == *ours);
        let is_ours = match metadata.is_dir() {
            true => known(kind.folders),
            false => metadata.is_file() && (is_marker || known(kind.files)),
        };
        if !is_ours {
            let (path, name) = (path.to_owned(), name.to_string_lossy().into_owned());
            return Err(FolderError::Foreign { path, name });
        }
        bytes += match metadata.is_dir() {
            true => bytes_in(&entry.path()),
            false => metadata.len(),
        };
        if is_marker {
            marker = Some(File::open(entry.path()).map_err(|error| failed(path, error))?);
        }
    }
    match marker.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => {
            return Err(FolderError::Busy(path.parent().unwrap_or(path).to_owned()));
        }
        Some(Err(TryLockError::Error(error))) => return Err(failed(path, error)),
        Some(Ok(())) => remove(kind, path)?,
        // An empty one is worth nothing to anybody; with something in it, somebody else has made it.
        None => fs::remove_dir(path).map_err(|error| match unmarked {
            Some(name) => FolderError::Foreign {
                path: path.to_owned(),
                name,
            },
            None => failed(path, error),
        })?,
    }
    Ok(Some(Leftovers { bytes }))
}

/// As far as it can be told, and two levels deep: a data folder and its logs.
fn bytes_in(folder: &Path) -> u64 {
    let files = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.path(), entry.metadata().ok()?)))
    };
    let below = |(path, metadata): (PathBuf, fs::Metadata)| match metadata.is_dir() {
        true => files(&path).map(|(_, metadata)| metadata.len()).sum(),
        false => metadata.len(),
    };
    files(folder).map(below).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind {
        name: "coati-scratch",
        marker: "made-by-a-test",
        marker_text: "leftovers",
        files: &["journal", "cold"],
        folders: &["data"],
    };

    fn make(parent: &Path) -> Result<(Folder, Option<Leftovers>), FolderError> {
        Folder::make(&KIND, parent)
    }

    fn names(path: &Path) -> Vec<String> {
        let entries = fs::read_dir(path).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn it_goes_with_all_that_was_made_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        fs::write(parent.path().join("precious"), "data").unwrap();
        for ends_well in [true, false] {
            let (folder, leftovers) = make(parent.path()).unwrap();
            assert_eq!(leftovers, None);
            for name in KIND.files {
                fs::write(folder.path_of(name), "figures").unwrap();
            }
            fs::create_dir_all(folder.path_of("data").join("topic-0")).unwrap();
            fs::write(
                folder.path_of("data").join("topic-0").join("log"),
                "records",
            )
            .unwrap();
            match ends_well {
                true => folder.remove().unwrap(),
                false => drop(folder),
            }
            assert_eq!(names(parent.path()), ["precious"]);
        }
    }

    #[test]
    fn leftovers_of_a_killed_run_go_and_are_told() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, _) = make(parent.path()).unwrap();
        fs::write(folder.path_of("cold"), [0; 1000]).unwrap();
        fs::create_dir_all(folder.path_of("data").join("topic-0")).unwrap();
        fs::write(folder.path_of("data").join("lock"), [0; 20]).unwrap();
        fs::write(folder.path_of("data").join("topic-0").join("log"), [0; 300]).unwrap();
        // A kill lets go of the lock and removes nothing.
        folder._marker.unlock().unwrap();
        let (fresh, leftovers) = make(parent.path()).unwrap();
        assert_eq!(
            leftovers,
            Some(Leftovers {
                bytes: 1320 + KIND.marker_text.len() as u64
            })
        );
        assert_eq!(names(&fresh.path), [KIND.marker]);
        std::mem::forget(folder);
    }

    #[test]
    fn a_run_beside_another_is_refused_and_harms_none() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, _) = make(parent.path()).unwrap();
        fs::write(folder.path_of("cold"), "in use").unwrap();
        let error = make(parent.path()).unwrap_err();
        assert!(matches!(error, FolderError::Busy(_)), "{error}");
        assert!(folder.path_of("cold").exists());
    }

    #[test]
    fn what_somebody_else_has_put_there_is_refused_whole() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(KIND.name);
        fs::create_dir(&path).unwrap();
        let (marker, cold) = (path.join(KIND.marker), path.join("cold"));
        fs::write(&marker, "").unwrap();
        fs::write(&cold, "ours").unwrap();
        for foreign in ["notes", "journal"] {
            let foreign = path.join(foreign);
            match foreign.ends_with("notes") {
                true => fs::write(&foreign, "theirs").unwrap(),
                // Of a name of ours, and no file.
                false => fs::create_dir(&foreign).unwrap(),
            }
            let error = make(parent.path()).unwrap_err();
            assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
            assert!(foreign.exists() && cold.exists() && marker.exists());
            match foreign.is_dir() {
                true => fs::remove_dir(&foreign).unwrap(),
                false => fs::remove_file(&foreign).unwrap(),
            }
        }
        // Without the marker nothing says that the files are ours.
        fs::remove_file(&marker).unwrap();
        let error = make(parent.path()).unwrap_err();
        assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
        assert_eq!(names(&path), ["cold"]);
        fs::remove_dir_all(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        let error = make(parent.path()).unwrap_err();
        assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
    }

    #[test]
    fn it_says_what_is_wrong_with_the_place() {
        let parent = tempfile::tempdir().unwrap();
        let said = |path: &Path| make(path).unwrap_err().to_string();
        assert!(said(&parent.path().join("none")).ends_with("none is not there"));
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(said(&file).ends_with("file is not a folder"));
        let folder = said(Path::new("/proc"));
        assert!(folder.starts_with("/proc/coati-scratch: "), "{folder}");
    }
}
