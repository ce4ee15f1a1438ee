//! What the sidecar of a mysqld keeps on the volume and in the run directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use ring::rand::{SecureRandom, SystemRandom};

use super::Config;
pub use crate::files::{At, FileError, private_dir, read, sync, sync_tree, wipe, write};

/// Length of the local password, in random bytes.
const PASSWORD_BYTES: usize = 24;

/// Where initialise and clone work. Whatever it holds may be wiped.
#[must_use]
pub fn joining(config: &Config) -> PathBuf {
    config.data_dir.join(".joining")
}

/// What the sidecar keeps on the volume.
#[must_use]
pub fn private(config: &Config) -> PathBuf {
    config.data_dir.join(".understudy")
}

/// The local password, made at the first start of the volume. It never leaves the pod.
///
/// # Errors
/// The volume cannot be written.
pub fn local_password(config: &Config) -> Result<String, FileError> {
    let dir = private(config);
    private_dir(&dir)?;
    let path = dir.join("local-password");
    match fs::read_to_string(&path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at(&path),
        _ => {}
    }
    let mut bytes = [0; PASSWORD_BYTES];
    SystemRandom::new().fill(&mut bytes).map_err(|_| io::Error::other("no randomness")).at(&path)?;
    let password: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    write(&path, &password)?;
    Ok(password)
}

/// The donor of the data directory, if it was cloned.
#[must_use]
pub fn cloned_from(config: &Config) -> Option<String> {
    fs::read_to_string(private(config).join("cloned-from")).ok().filter(|donor| !donor.is_empty())
}

/// Makes `complete` the data directory: everything is on disk first, the rename is the last step and the only one that counts.
///
/// # Errors
/// The volume cannot be written. The data directory is then still absent.
pub fn enthrone(config: &Config, complete: &Path, donor: Option<&str>) -> Result<(), FileError> {
    sync_tree(complete)?;
    let note = private(config).join("cloned-from");
    match donor {
        Some(donor) => write(&note, donor)?,
        None => match fs::remove_file(&note) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at(&note),
            _ => {}
        },
    }
    let data = config.datadir();
    fs::rename(complete, &data).at(&data)?;
    sync(&config.data_dir)
}

/// What to tell people when the volume is full: mysqld then waits for space, and answers nobody that writes. `None` while there is room,
/// or when the volume cannot be asked.
#[must_use]
pub fn full_volume(config: &Config) -> Option<String> {
    crate::files::full_volume(&config.data_dir)
}
