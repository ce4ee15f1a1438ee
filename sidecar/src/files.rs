//! How the sidecar writes files on the volume and in the run directory: whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A volume with less than this part of it free, one in a hundred, is full.
const FULL_AT: u64 = 100;

/// A file or directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct FileError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl FileError {
    /// Whether there is no such file.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Names the path in an error.
pub trait At<T> {
    /// Adds `path`.
    ///
    /// # Errors
    /// As before.
    fn at(self, path: &Path) -> Result<T, FileError>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError { path: path.into(), source })
    }
}

/// Makes a directory that only we may enter.
///
/// # Errors
/// The volume cannot be written.
pub fn private_dir(dir: &Path) -> Result<(), FileError> {
    fs::create_dir_all(dir).at(dir)?;
    fs::set_permissions(dir, Permissions::from_mode(0o700)).at(dir)?;
    dir.parent().map_or(Ok(()), sync)
}

/// Removes the scratch directory and makes an empty one.
///
/// # Errors
/// The volume cannot be written.
pub fn wipe(scratch: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(scratch) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at(scratch),
        _ => {}
    }
    fs::create_dir_all(scratch).at(scratch)
}

/// Writes a file that only we may read: whole or not at all.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, text: &str) -> Result<(), FileError> {
    let draft = path.with_extension("draft");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).at(&draft)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).at(&draft)?;
    fs::rename(&draft, path).at(path)?;
    path.parent().map_or(Ok(()), sync)
}

/// As [`write`], and nobody may write it any more: programs that insist on it refuse a secret of any other mode.
///
/// # Errors
/// It cannot be written.
pub fn seal(path: &Path, text: &str) -> Result<(), FileError> {
    write(path, text)?;
    fs::set_permissions(path, Permissions::from_mode(0o400)).at(path)
}

/// A file of a mounted Secret or ConfigMap, without the newline that editors add.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).at(path).map(|text| text.trim_end_matches(['\n', '\r']).to_owned())
}

/// Everything of it is on disk when this returns.
///
/// # Errors
/// The volume cannot be written.
pub fn sync(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|file| file.sync_all()).at(path)
}

/// As [`sync`], for a directory and everything in it.
///
/// # Errors
/// The volume cannot be written.
pub fn sync_tree(dir: &Path) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).at(dir)? {
        let entry = entry.at(dir)?;
        let (path, kind) = (entry.path(), entry.file_type().at(dir)?);
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            sync(&path)?;
        }
    }
    sync(dir)
}

/// What to tell people when the volume is full: databases wait for space then, and answer nobody that writes. `None` while there is room,
/// or when the volume cannot be asked.
#[must_use]
pub fn full_volume(directory: &Path) -> Option<String> {
    let volume = rustix::fs::statvfs(directory).ok()?;
    let left = volume.f_bavail.saturating_mul(FULL_AT);
    (left < volume.f_blocks)
        .then(|| format!("the volume at {} is full (less than 1 % is free): grow spec.storage.size or delete data", directory.display()))
}
