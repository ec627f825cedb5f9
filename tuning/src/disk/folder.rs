//! Owns the folder that a measurement makes inside the user's, and everything that is ever removed there: files of these names
//! in a folder of this name that says whose it is. Whatever else is there is never touched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Of the folder.
pub const NAME: &str = "coati-tune-disk";

/// In it from its first moment to its last, locked while a measurement runs.
const MARKER: &str = "made-by-coati-tune-disk";
const MARKER_TEXT: &str = "Files of a measurement by `coati tune disk`. If none runs, they are leftovers of one that was killed; the next one removes them.\n";

/// What a measurement makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Journal,
    Segment,
    Cold,
}

impl Name {
    const ALL: [Name; 3] = [Name::Journal, Name::Segment, Name::Cold];

    fn as_str(self) -> &'static str {
        match self {
            Name::Journal => "journal",
            Name::Segment => "segment",
            Name::Cold => "cold",
        }
    }
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
        "{} holds {name:?}, which no measurement has made: it is left alone; remove it or measure in another folder",
        path.display()
    )]
    Foreign { path: PathBuf, name: String },
}

/// A fresh folder. Dropped, it is removed with all that the measurement has made, however the measurement ends.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    _marker: File,
    is_removed: bool,
}

/// What was found of a measurement that did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftovers {
    pub bytes: u64,
}

impl Folder {
    /// Makes it inside `parent`; what a killed measurement has left there goes first.
    pub fn make(parent: &Path) -> Result<(Folder, Option<Leftovers>), FolderError> {
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
        let path = parent.join(NAME);
        let leftovers = remove_leftovers(&path)?;
        fs::create_dir(&path).map_err(|error| failed(&path, error))?;
        let marker = path.join(MARKER);
        let made = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&marker)
            .and_then(|mut file| {
                file.try_lock()?;
                file.write_all(MARKER_TEXT.as_bytes())?;
                Ok(file)
            });
        match made {
            Ok(file) => {
                let folder = Folder {
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

    pub fn file(&self, name: Name) -> PathBuf {
        self.path.join(name.as_str())
    }

    /// As dropping it, and says what stays if something does.
    pub fn remove(mut self) -> Result<(), FolderError> {
        self.is_removed = true;
        remove(&self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.is_removed {
            // Nobody is left to be told; the next measurement finds it.
            let _stays = remove(&self.path);
        }
    }
}

fn failed(path: &Path, error: io::Error) -> FolderError {
    FolderError::Io {
        path: path.to_owned(),
        error,
    }
}

/// The folder with the files of known names, the marker last: without it nothing would be recognised.
fn remove(path: &Path) -> Result<(), FolderError> {
    let names = Name::ALL.map(Name::as_str);
    for name in names.into_iter().chain([MARKER]) {
        let path = path.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed(&path, error));
            }
            _ => {}
        }
    }
    fs::remove_dir(path).map_err(|error| failed(path, error))
}

fn remove_leftovers(path: &Path) -> Result<Option<Leftovers>, FolderError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(path, error)),
        Ok(metadata) if !metadata.is_dir() => {
            let (path, name) = (path.parent().unwrap_or(path).to_owned(), NAME.to_owned());
            return Err(FolderError::Foreign { path, name });
        }
        Ok(_) => {}
    }
    let mut bytes = 0;
    let mut marker = None;
    for entry in fs::read_dir(path).map_err(|error| failed(path, error))? {
        let entry = entry.map_err(|error| failed(path, error))?;
        let metadata = entry.metadata().map_err(|error| failed(path, error))?;
        let name = entry.file_name();
        let is_marker = name == MARKER;
        if !metadata.is_file() || !(is_marker || Name::ALL.iter().any(|ours| name == ours.as_str()))
        {
            let (path, name) = (path.to_owned(), name.to_string_lossy().into_owned());
            return Err(FolderError::Foreign { path, name });
        }
        bytes += metadata.len();
        if is_marker {
            marker = Some(File::open(entry.path()).map_err(|error| failed(path, error))?);
        }
    }
    match marker.as_ref().map(File::try_lock) {
        Some(Err(TryLockError::WouldBlock)) => {
            return Err(FolderError::Busy(path.parent().unwrap_or(path).to_owned()));
        }
        Some(Err(TryLockError::Error(error))) => return Err(failed(path, error)),
        Some(Ok(())) => remove(path)?,
        // An empty one is worth nothing to anybody; with files in it, somebody else has made it.
        None => fs::remove_dir(path).map_err(|error| failed(path, error))?,
    }
    Ok(Some(Leftovers { bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let (folder, leftovers) = Folder::make(parent.path()).unwrap();
            assert_eq!(leftovers, None);
            for name in Name::ALL {
                fs::write(folder.file(name), "figures").unwrap();
            }
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
        let (folder, _) = Folder::make(parent.path()).unwrap();
        fs::write(folder.file(Name::Cold), [0; 1000]).unwrap();
        // A kill lets go of the lock and removes nothing.
        folder._marker.unlock().unwrap();
        let (fresh, leftovers) = Folder::make(parent.path()).unwrap();
        assert_eq!(
            leftovers,
            Some(Leftovers {
                bytes: 1000 + MARKER_TEXT.len() as u64
            })
        );
        assert_eq!(names(&fresh.path), [MARKER]);
        std::mem::forget(folder);
    }

    #[test]
    fn a_run_beside_another_is_refused_and_harms_none() {
        let parent = tempfile::tempdir().unwrap();
        let (folder, _) = Folder::make(parent.path()).unwrap();
        fs::write(folder.file(Name::Cold), "in use").unwrap();
        let error = Folder::make(parent.path()).unwrap_err();
        assert!(matches!(error, FolderError::Busy(_)), "{error}");
        assert!(folder.file(Name::Cold).exists());
    }

    #[test]
    fn what_somebody_else_has_put_there_is_refused_whole() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join(NAME);
        fs::create_dir(&path).unwrap();
        let (marker, cold) = (path.join(MARKER), path.join("cold"));
        fs::write(&marker, "").unwrap();
        fs::write(&cold, "ours").unwrap();
        for foreign in ["notes", "journal"] {
            let foreign = path.join(foreign);
            match foreign.ends_with("notes") {
                true => fs::write(&foreign, "theirs").unwrap(),
                // Of a name of ours, and no file.
                false => fs::create_dir(&foreign).unwrap(),
            }
            let error = Folder::make(parent.path()).unwrap_err();
            assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
            assert!(foreign.exists() && cold.exists() && marker.exists());
            match foreign.is_dir() {
                true => fs::remove_dir(&foreign).unwrap(),
                false => fs::remove_file(&foreign).unwrap(),
            }
        }
        // Without the marker nothing says that the files are ours.
        fs::remove_file(&marker).unwrap();
        Folder::make(parent.path()).unwrap_err();
        assert_eq!(names(&path), ["cold"]);
        fs::remove_dir_all(&path).unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &path).unwrap();
        let error = Folder::make(parent.path()).unwrap_err();
        assert!(matches!(error, FolderError::Foreign { .. }), "{error}");
    }

    #[test]
    fn it_says_what_is_wrong_with_the_place() {
        let parent = tempfile::tempdir().unwrap();
        let said = |path: &Path| Folder::make(path).unwrap_err().to_string();
        assert!(said(&parent.path().join("none")).ends_with("none is not there"));
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(said(&file).ends_with("file is not a folder"));
        let folder = said(Path::new("/proc"));
        assert!(folder.starts_with("/proc/coati-tune-disk: "), "{folder}");
    }
}
