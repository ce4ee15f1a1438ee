//! Writes down where the member is, and whose data those are, as soon as that may be needed. One writer at a time; the newest wins.

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use sidecar_protocol::redis::{Problem, ProblemCode};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;
use tracing::warn;

use super::observe::Facts;
use super::position::{Known, Memory, is_idle, know};
use super::{Persistence, identity};
use crate::files::FileError;

/// Offsets alone are written down this often; anything else at once.
const POSITION_PERIOD: Duration = Duration::from_secs(1);
/// The same while nothing but pings is added to them: an idle cluster does not write each second.
const IDLE_POSITION_PERIOD: Duration = Duration::from_secs(60);

/// What is known, and what of it is on the volume.
pub struct Keeper {
    directory: PathBuf,
    persistence: Persistence,
    /// None while these are other data than before and that could not be written down.
    identity: Option<String>,
    memory: Option<Memory>,
    kept: Option<Memory>,
    kept_at: Instant,
    keeping: Option<JoinHandle<Result<Memory, FileError>>>,
    problem: Option<Problem>,
}

impl Keeper {
    /// Goes on from what was read in `directory`.
    #[must_use]
    pub fn new(directory: PathBuf, persistence: Persistence, identity: String, memory: Option<Memory>) -> Self {
        let kept = memory.clone();
        Self { directory, persistence, identity: Some(identity), memory, kept, kept_at: Instant::now(), keeping: None, problem: None }
    }

    /// Tells these data from others; `None` while they have no name to be told by.
    #[must_use]
    pub fn identity(&self) -> Option<&str> {
        self.identity.as_deref()
    }

    /// Where the member was last.
    #[must_use]
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// What cannot be written.
    #[must_use]
    pub fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    /// Whether something is being written.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.keeping.is_some()
    }

    /// Where the process `run_id` is, which shows `facts`. While somebody else writes, nothing is written.
    pub fn look(&mut self, facts: &Facts, run_id: &str, others: bool) -> Known {
        let known = know(facts, run_id, self.memory.as_ref(), self.persistence);
        if known.renewed {
            warn!("these are other data than before");
            if let Err(error) = self.renew(known.memory.is_none()) {
                // They must not be taken for those of before (I10): who has no identity leads nobody and counts for nothing.
                self.identity = None;
                self.problem = Some(Problem::new(ProblemCode::Storage, error));
                return Known { position: None, ..known };
            }
            self.problem = None;
        }
        if let Some(memory) = &known.memory {
            self.memory = Some(memory.clone());
        }
        if !others {
            self.keep();
        }
        known
    }

    fn renew(&mut self, forgets: bool) -> Result<(), FileError> {
        self.identity = Some(identity::renewed(&self.directory)?);
        if forgets {
            Memory::forget(&self.directory)?;
        }
        (self.memory, self.kept) = (None, None);
        Ok(())
    }

    /// A step has written this.
    pub fn wrote(&mut self, memory: Memory) {
        (self.memory, self.kept) = (Some(memory.clone()), Some(memory));
    }

    fn keep(&mut self) {
        let Some(memory) = self.memory.clone().filter(|memory| self.keeping.is_none() && self.kept.as_ref() != Some(memory)) else {
            return;
        };
        let same = |kept: &Memory| Memory { offset: memory.offset, before: memory.before.clone(), ..kept.clone() } == memory;
        let news = !self.kept.as_ref().is_some_and(same);
        let age = self.kept_at.elapsed();
        let idle = self.kept.as_ref().is_some_and(|kept| is_idle(kept, &memory, age.as_secs()));
        if !news && age < if idle { IDLE_POSITION_PERIOD } else { POSITION_PERIOD } {
            return;
        }
        let directory = self.directory.clone();
        self.kept_at = Instant::now();
        self.keeping = Some(spawn_blocking(move || memory.write(&directory).map(|()| memory)));
    }

    /// Returns when what is being written is written; never when nothing is.
    pub async fn written(&mut self) {
        let Some(keeping) = &mut self.keeping else { return pending().await };
        let kept = keeping.await;
        self.keeping = None;
        match kept {
            Ok(Ok(memory)) => (self.kept, self.problem) = (Some(memory), None),
            Ok(Err(error)) => {
                warn!(%error, "the position cannot be written down");
                self.problem = Some(Problem::new(ProblemCode::Storage, error));
            }
            // It did not say; it is written again.
            Err(error) => warn!(%error, "the position may not be written down"),
        }
    }
}
