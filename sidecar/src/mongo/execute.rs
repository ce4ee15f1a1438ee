//! Steps, carried out. Each may be cut short at any point and begun again after another look.

use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use bson::{Bson, Document, doc};
use sidecar_protocol::mongo::config::Config as SetConfig;
use sidecar_protocol::mongo::{Problem, ProblemCode};
use tracing::{info, warn};

use super::Config;
use super::converge::Step;
use super::link::{Link, LinkError, Login, QUERY_DEADLINE};
use super::users::{self, Account, UserError};
use super::{observe, others};

/// Until most members have a new configuration. mongod gives up first: then it says why.
const RECONFIG_MILLIS: i64 = 10_000;
/// Longer than mongod waits for the others' heartbeats before it begins or changes a set.
const RECONFIG_DEADLINE: Duration = Duration::from_secs(15);
/// A step-up is over in tens of milliseconds, or a vote is late.
const STAND_DEADLINE: Duration = Duration::from_secs(5);
/// Who is not elected is asked again after this, so many times: a heartbeat brings what it lacks within 2 s.
const STAND_AGAIN: Duration = Duration::from_millis(100);
const STAND_TRIES: usize = 25;
/// `CommandFailed`: "Election failed."
const ELECTION_FAILED: i32 = 125;
/// How long who stepped down does not stand again, in seconds: longer than its pod takes to end.
const STEP_DOWN_SECONDS: i32 = 60;
/// How long it waits for somebody to catch up before, in seconds: mongod's own default.
const CATCH_UP_SECONDS: i32 = 10;
/// A feature version is written to every collection.
const FCV_DEADLINE: Duration = Duration::from_secs(60);
/// `ConfigurationInProgress`, `CurrentConfigNotCommittedYet`: mongod is not done with another change.
const BUSY: [i32; 2] = [109, 308];
/// `NewReplicaSetConfigurationIncompatible`, for many a reason: that mongod or somebody else was faster is told by the words.
const INCOMPATIBLE: i32 = 103;
const NOT_GREATER: &str = "not greater than";
/// `NotWritablePrimary`: somebody else leads, or will.
const NOT_PRIMARY: i32 = 10107;

/// Who carries steps out.
#[derive(Clone)]
pub struct Access {
    /// Who we are.
    pub config: Arc<Config>,
    /// To our mongod.
    pub link: Arc<Link>,
    /// As whom.
    pub login: Login,
    /// The accounts that there shall be.
    pub accounts: Vec<Account>,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// mongod's reason.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// An account's.
    #[error(transparent)]
    User(#[from] UserError),
    /// A configuration that cannot be written down.
    #[error("{0}")]
    Unwritable(String),
}

// === impl Access ===

impl Access {
    /// Carries out one step.
    ///
    /// # Errors
    /// Why it failed. What it had begun may take effect all the same.
    pub async fn execute(&self, step: &Step) -> Result<(), StepError> {
        let (command, deadline) = match step {
            Step::Initiate(first) => {
                let first = first.as_ref().map_or_else(|| Ok(Document::new()), document)?;
                (doc! { "replSetInitiate": first }, RECONFIG_DEADLINE)
            }
            Step::Reconfig(set) => (doc! { "replSetReconfig": document(set)?, "maxTimeMS": RECONFIG_MILLIS }, RECONFIG_DEADLINE),
            Step::Force(set) => (doc! { "replSetReconfig": document(set)?, "force": true }, RECONFIG_DEADLINE),
            Step::Stand => (doc! { "replSetStepUp": 1 }, STAND_DEADLINE),
            Step::StepDown => return self.step_down().await,
            Step::HandOver(to) => return self.hand_over(to).await,
            Step::FirstUser => {
                let first = self.config.login.as_ref().and_then(Account::first);
                return match first {
                    Some(first) => Ok(first.create(&self.link).await?),
                    None => Ok(()),
                };
            }
            Step::Users => return Ok(users::bring_about(&self.config, &self.link, &self.accounts).await?),
            Step::SetWriteConcern => {
                (doc! { "setDefaultRWConcern": 1, "defaultWriteConcern": { "w": "majority", "wtimeout": 0 } }, RECONFIG_DEADLINE)
            }
            Step::SetFcv(version) => return self.set_fcv(version).await,
            Step::LookAnew => (doc! { "shutdown": 1, "force": true }, QUERY_DEADLINE),
        };
        match self.link.run(command, deadline).await {
            // Who is told to end does not answer.
            Err(LinkError::Lost(_)) if *step == Step::LookAnew => Ok(()),
            done => Ok(done.map(drop)?),
        }
    }

    /// mongod lets nobody write, waits until somebody who may lead has everything, and has it elected at once.
    async fn step_down(&self) -> Result<(), StepError> {
        let command = doc! { "replSetStepDown": STEP_DOWN_SECONDS, "secondaryCatchUpPeriodSecs": CATCH_UP_SECONDS };
        Ok(self.link.run(command, RECONFIG_DEADLINE).await.map(drop)?)
    }

    /// Has `to` elected while this member leads on. Voters refuse who lacks the newest configuration or is behind, and both pass: it is
    /// asked again for a while, and only then does this member step down.
    async fn hand_over(&self, to: &str) -> Result<(), StepError> {
        let tries = ConstantBuilder::new().with_delay(STAND_AGAIN).with_max_times(STAND_TRIES);
        let stand = || others::stand(&self.config, &self.login, to, STAND_DEADLINE);
        let stood = stand.retry(tries).when(|error| error.code() == Some(ELECTION_FAILED)).await;
        match stood {
            Ok(()) => {
                info!(to, "it leads now");
                Ok(())
            }
            Err(error) => {
                warn!(to, %error, "it does not take over by itself; this member steps down");
                self.step_down().await
            }
        }
    }

    async fn set_fcv(&self, version: &str) -> Result<(), StepError> {
        let command = doc! { "setFeatureCompatibilityVersion": version };
        let confirmed = doc! { "setFeatureCompatibilityVersion": version, "confirm": true };
        // 7.0 and later want it confirmed, and earlier ones do not know the word.
        let major = observe::standing(&self.link).await?.major();
        Ok(self.link.run(if major >= 7 { confirmed } else { command }, FCV_DEADLINE).await.map(drop)?)
    }
}

fn document(set: &SetConfig<Bson>) -> Result<Document, StepError> {
    bson::serialize_to_document(set).map_err(|error| StepError::Unwritable(error.to_string()))
}

// === impl StepError ===

impl StepError {
    /// Whether another look is all it takes.
    #[must_use]
    pub fn is_overtaken(&self) -> bool {
        let Self::Link(LinkError::Command { code, message }) = self else { return false };
        BUSY.contains(code) || *code == NOT_PRIMARY || (*code == INCOMPATIBLE && message.contains(NOT_GREATER))
    }

    /// What to tell people. Nothing of what mends itself.
    #[must_use]
    pub fn problem(&self, step: &Step) -> Option<Problem> {
        if self.is_overtaken() || matches!(step, Step::Stand | Step::LookAnew) {
            return None;
        }
        let code = match self {
            Self::User(UserError::File(_) | UserError::Path(_)) => ProblemCode::Credentials,
            _ => ProblemCode::StepRefused,
        };
        Some(Problem::new(code, format!("{}: {self}", step.words())))
    }
}

// === impl Step ===

impl Step {
    /// What is tried.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Initiate(_) => "initiating the set",
            Self::FirstUser => "making the first user",
            Self::Reconfig(_) | Self::Force(_) => "changing the set",
            Self::Stand => "standing for election",
            Self::HandOver(_) | Self::StepDown => "handing over",
            Self::Users => "bringing the accounts about",
            Self::SetWriteConcern => "setting the default write concern",
            Self::SetFcv(_) => "setting the feature compatibility version",
            Self::LookAnew => "looking for its own name anew",
        }
    }
}
