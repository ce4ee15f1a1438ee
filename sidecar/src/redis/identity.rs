//! What tells a member's data from those of another volume, or of another process where nothing outlives one.

use std::fs;
use std::io;
use std::path::Path;

use ring::rand::{SecureRandom, SystemRandom};

use crate::files::{self, At, FileError};
use crate::tls::hex;

/// Name of the file.
const FILE: &str = "identity";
/// Length, in random bytes.
const BYTES: usize = 16;

/// The identity in `directory`, if there is one.
#[must_use]
pub fn read(directory: &Path) -> Option<String> {
    files::read(&directory.join(FILE)).ok().filter(|identity| !identity.is_empty())
}

/// As [`read`], made when there is none.
///
/// # Errors
/// The volume cannot be written.
pub fn made(directory: &Path) -> Result<String, FileError> {
    match read(directory) {
        Some(identity) => Ok(identity),
        None => renewed(directory),
    }
}

/// A new one: the data are others from now on.
///
/// # Errors
/// The volume cannot be written.
pub fn renewed(directory: &Path) -> Result<String, FileError> {
    let path = directory.join(FILE);
    let identity = random(BYTES).at(&path)?;
    files::write(&path, &identity)?;
    Ok(identity)
}

/// The password of the sidecar's own account, made at the first start of the volume. It never leaves the pod.
///
/// # Errors
/// The volume cannot be used.
pub fn local_password(directory: &Path) -> Result<String, FileError> {
    let path = directory.join("local-password");
    match fs::read_to_string(&path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().into()),
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at(&path),
        _ => {}
    }
    let password = random(2 * BYTES).at(&path)?;
    files::write(&path, &password)?;
    Ok(password)
}

fn random(bytes: usize) -> io::Result<String> {
    let mut random = vec![0; bytes];
    SystemRandom::new().fill(&mut random).map_err(|_| io::Error::other("the kernel gives no random numbers"))?;
    Ok(hex(&random))
}
