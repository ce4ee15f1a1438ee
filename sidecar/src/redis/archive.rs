//! What only this member held, kept when it begins to follow somebody else: one RDB file, the newest only.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{io, time::SystemTime};

use sidecar_protocol::redis::{Archive, Position};
use tokio::time::{Instant, sleep};
use tracing::info;

use super::execute::StepError;
use super::link::{Link, LinkError, command};
use super::observe::look;
use super::{Config, Persistence};
use crate::files::{self, At, FileError};

/// What tells of the file, beside it.
const NOTE: &str = "archive.json";
/// A save that gets no further for this long has failed.
const STUCK: Duration = Duration::from_secs(60);
/// A save that is asked for has begun by then, unless it waits for another one to end.
const SOON: Duration = Duration::from_secs(5);
/// Between two looks at a save.
const POLL: Duration = Duration::from_millis(100);

/// The directory of archives.
#[must_use]
pub fn directory(config: &Config) -> PathBuf {
    config.private().join("errant")
}

/// The newest archive.
#[must_use]
pub fn newest(config: &Config) -> Option<Archive> {
    let note = fs::read(directory(config).join(NOTE)).ok()?;
    serde_json::from_slice(&note).ok().filter(|archive: &Archive| Path::new(&archive.file).is_file())
}

/// Saves everything that the database holds, which is at `position` and stands still.
///
/// # Errors
/// It cannot be saved, or kept.
pub async fn keep(config: &Config, link: &Link, position: &Position) -> Result<(), StepError> {
    let dump = config.datadir().join("dump.rdb");
    // One that runs may have begun before this member stood still. How it ends says nothing of the next one.
    let sound = last_save(link).await?;
    let before = stamp(&dump);
    link.ask(&command(["BGSAVE", "SCHEDULE"])).await?;
    let begun = Instant::now();
    loop {
        let saved = last_save(link).await?;
        match stamp(&dump) != before {
            true if saved => break,
            // The one before had failed already: whether this one has begun is not known yet.
            false if saved || !sound && begun.elapsed() < SOON => {}
            _ => return Err(StepError::Unsaved("its last save failed; see its log".into())),
        }
        if begun.elapsed() > STUCK {
            return Err(StepError::Unsaved("it wrote no RDB file".into()));
        }
        sleep(POLL).await;
    }
    let archive = file(config, &dump, position)?;
    info!(file = archive.file, %position, "what only this member holds is archived");
    Ok(())
}

/// Waits until no save runs; whether the last one succeeded.
async fn last_save(link: &Link) -> Result<bool, StepError> {
    let (mut progress, mut since) = (0, Instant::now());
    loop {
        let facts = look(link, false).await?;
        if !facts.saving {
            return Ok(facts.saved);
        }
        if facts.progress != progress {
            (progress, since) = (facts.progress, Instant::now());
        }
        if since.elapsed() > STUCK {
            return Err(LinkError::Deadline(STUCK).into());
        }
        sleep(POLL).await;
    }
}

/// Tells a file from the one that takes its place.
fn stamp(path: &Path) -> Option<(u64, i64, i64)> {
    fs::metadata(path).ok().map(|file| (file.ino(), file.mtime(), file.mtime_nsec()))
}

/// Another name for `dump`: what the database saves later takes that one's place, not this one's.
fn file(config: &Config, dump: &Path, position: &Position) -> Result<Archive, FileError> {
    let directory = directory(config);
    files::private_dir(&directory)?;
    #[expect(clippy::disallowed_methods, reason = "a name for people")]
    let seconds = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let path = directory.join(format!("{seconds}-{}-{}.rdb", position.replid.short(), position.offset));
    // Where nothing would be read from it at the next start, it does not stay to be.
    let named = if config.persistence == Persistence::Snapshot { fs::hard_link(dump, &path) } else { fs::rename(dump, &path) };
    match named {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error).at(&path),
        _ => files::sync(&path)?,
    }
    let archive = Archive { file: path.to_string_lossy().into_owned(), position: position.clone() };
    let note = serde_json::to_string(&archive).map_err(io::Error::from).at(&directory)?;
    files::write(&directory.join(NOTE), &note)?;
    for entry in fs::read_dir(&directory).at(&directory)? {
        let entry = entry.at(&directory)?.path();
        if entry != path && entry.extension().is_some_and(|extension| extension == "rdb") {
            fs::remove_file(&entry).at(&entry)?;
        }
    }
    Ok(archive)
}
