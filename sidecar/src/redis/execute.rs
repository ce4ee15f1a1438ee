//! Runs one step against the database. What to do was decided in [`super::converge`]; here is only how.

use std::io;
use std::sync::Arc;

use redis::{Cmd, Pipeline};
use sidecar_protocol::redis::{NOBODY, PORT, Peer, Problem, ProblemCode, ReplId, Yield};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::Config;
use super::accounts::{self, Done, Listed, Login, Wanted};
use super::archive;
use super::converge::Step;
use super::link::{Link, LinkError, begin_history, command};
use super::position::{Copying, Memory};
use crate::files::{At, FileError};

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The database.
    #[error("{0}")]
    Link(#[from] LinkError),
    /// What only this member holds is not archived.
    #[error("what only this member holds cannot be archived: {0}")]
    Unsaved(String),
    /// The volume.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Sends all clients away but this one.
const AWAY: [[&str; 6]; 2] = [["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"], ["CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes"]];

/// What a step brought about, where it is to be remembered.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing to remember.
    Done,
    /// The accounts are as they must be.
    Accounts(Done),
    /// It logs in so.
    LoggedIn(Login),
    /// The hand-over has begun.
    Begun,
    /// This is written down now.
    Following(Memory),
    /// Nobody is there of the time when it was primary.
    SentAway,
}

/// All that a step needs.
#[derive(Clone)]
pub struct Access {
    /// Paths and names.
    pub config: Arc<Config>,
    /// The way to the database.
    pub link: Link,
    /// For another one.
    pub local_password: String,
    /// Where the member is, as it was written down last.
    pub memory: Option<Memory>,
    /// Of which process.
    pub run_id: String,
    /// What must be there.
    pub wanted: Wanted,
    /// What is there.
    pub listed: Vec<Listed>,
    /// What was brought about before.
    pub done: Done,
}

impl StepError {
    /// What to tell people; `None` for what passes by itself.
    #[must_use]
    pub fn problem(&self, step: &Step) -> Option<Problem> {
        let code = match self {
            Self::Link(LinkError::Gone(_)) => return None,
            // It is tried again, or it has failed; the state says which.
            Self::Link(_) if matches!(step, Step::HandOver(_) | Step::TakeBack) => return None,
            Self::Link(_) => ProblemCode::Other,
            Self::Unsaved(_) | Self::File(_) => ProblemCode::Storage,
        };
        Some(Problem::new(code, self))
    }
}

impl Access {
    /// Runs `step`.
    ///
    /// # Errors
    /// What did not work. Nothing is half done in a way that planning again would not mend.
    pub async fn execute(&self, step: &Step) -> Result<Outcome, StepError> {
        let Self { config, link, .. } = self;
        match step {
            Step::Freeze { kick, abort } => self.freeze(*kick, *abort).await?,
            Step::Promote { begins } => {
                link.ask(&command(["REPLICAOF", "NO", "ONE"])).await?;
                if *begins && let Err(error) = begin_history(&config.socket(), &self.local_password).await {
                    // It has another name then when the first replica comes.
                    warn!(%error, "the history does not begin yet");
                }
            }
            Step::Accounts => {
                return Ok(Outcome::Accounts(accounts::bring_about(link, &self.wanted, &self.listed, &self.done).await?));
            }
            Step::LogIn => return self.log_in().await,
            Step::MinReplicas(count, lag) => {
                self.set(&[("min-replicas-max-lag", &lag.to_string()), ("min-replicas-to-write", &count.to_string())]).await?
            }
            Step::HandOver(Yield { to, timeout_millis }) => {
                let (port, millis) = (PORT.to_string(), timeout_millis.max(&1).to_string());
                link.ask(&command(["FAILOVER", "TO", &to.host, &port, "TIMEOUT", &millis])).await?;
                info!(heir = to.member, "handing over");
                return Ok(Outcome::Begun);
            }
            Step::TakeBack => {
                link.ask(&command(["FAILOVER", "ABORT"])).await?;
            }
            Step::SendAway => {
                self.all(AWAY.map(command)).await?;
                return Ok(Outcome::SentAway);
            }
            Step::Archive(position) => archive::keep(config, link, position).await?,
            Step::Follow { source: Peer { member, host }, copies } => {
                // Before: a process that ends as soon as it has the copy shall not come back as a stranger.
                let memory = match copies {
                    Some(replid) => Some(self.copies(replid.clone()).await?),
                    None => None,
                };
                link.ask(&command(["REPLICAOF", host, &PORT.to_string()])).await?;
                info!(source = member, "following");
                return Ok(memory.map_or(Outcome::Done, Outcome::Following));
            }
            // To the same as before it would do nothing. What it holds, and where it is, stays.
            Step::Knock(Peer { host, .. }) => {
                let (nobody, port) = (NOBODY.1.to_string(), PORT.to_string());
                self.all([command(["REPLICAOF", NOBODY.0, &nobody]), command(["REPLICAOF", host, &port])]).await?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Writes down that data of the history `replid` take the place of what there is.
    async fn copies(&self, replid: ReplId) -> Result<Memory, StepError> {
        let copying = Some(Copying { run_id: self.run_id.clone(), replid });
        let memory = Memory { copying, ..self.memory.clone().unwrap_or_default() };
        let (private, kept) = (self.config.private(), memory.clone());
        let written = spawn_blocking(move || kept.write(&private)).await;
        written.unwrap_or_else(|error| Err(io::Error::other(error)).at(&self.config.private()))?;
        Ok(memory)
    }

    async fn freeze(&self, kick: bool, abort: bool) -> Result<(), LinkError> {
        let mut commands = vec![command(["REPLICAOF", NOBODY.0, &NOBODY.1.to_string()])];
        if kick {
            commands.extend(AWAY.map(command));
        }
        if abort {
            // It makes a primary of this server: in one piece with what follows, so that no client comes between.
            commands.insert(0, command(["FAILOVER", "ABORT"]));
        }
        self.all(commands).await
    }

    /// Several commands, none of which may be refused.
    async fn all(&self, commands: impl IntoIterator<Item = Cmd>) -> Result<(), LinkError> {
        let (mut pipeline, mut count) = (Pipeline::new(), 0);
        for command in commands {
            pipeline.add_command(command);
            count += 1;
        }
        let answers = self.link.ask_all(&pipeline, count).await?;
        answers.into_iter().find_map(|answer| answer.extract_error().err()).map_or(Ok(()), |error| Err(error.into()))
    }

    async fn log_in(&self) -> Result<Outcome, StepError> {
        let Some(login) = &self.wanted.login else { return Ok(Outcome::Done) };
        self.set(&[("masteruser", &login.user), ("masterauth", &login.password)]).await.map_err(|error| {
            // The text of a refusal may repeat what was refused.
            warn!("the password for replication cannot be set");
            match error {
                LinkError::Server(_) => LinkError::Server("the password for replication is refused".into()),
                other => other,
            }
        })?;
        Ok(Outcome::LoggedIn(login.clone()))
    }

    /// One option at a time: 6.2 takes no more.
    async fn set(&self, options: &[(&str, &str)]) -> Result<(), LinkError> {
        for (name, value) in options {
            self.link.ask(&command(["CONFIG", "SET", name, value])).await?;
        }
        Ok(())
    }
}
