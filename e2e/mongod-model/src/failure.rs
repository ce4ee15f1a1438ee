//! Errors as mongod answers them: a code, its name, a text.

use bson::{Document, doc};

/// Codes by mongod's names: the `Debug` of a variant is its `codeName`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are mongod's own")]
pub enum Code {
    BadValue = 2,
    HostUnreachable = 6,
    FailedToParse = 9,
    UserNotFound = 11,
    Unauthorized = 13,
    TypeMismatch = 14,
    ProtocolError = 17,
    AuthenticationFailed = 18,
    IllegalOperation = 20,
    AlreadyInitialized = 23,
    RoleNotFound = 31,
    NamespaceNotFound = 26,
    CursorNotFound = 43,
    NamespaceExists = 48,
    MaxTimeMSExpired = 50,
    CommandNotFound = 59,
    WriteConcernFailed = 64,
    InvalidOptions = 72,
    NodeNotFound = 74,
    NoReplicationEnabled = 76,
    NetworkTimeout = 89,
    ShutdownInProgress = 91,
    InvalidReplicaSetConfig = 93,
    NotYetInitialized = 94,
    NotSecondary = 95,
    UnsatisfiableWriteConcern = 100,
    NewReplicaSetConfigurationIncompatible = 103,
    NodeNotElectable = 104,
    InconsistentReplicaSetNames = 108,
    ConfigurationInProgress = 109,
    OplogStartMissing = 120,
    CommandFailed = 125,
    PrimarySteppedDown = 189,
    UnknownFeatureCompatibilityVersion = 258,
    ExceededTimeLimit = 262,
    CurrentConfigNotCommittedYet = 308,
    NotWritablePrimary = 10107,
    DuplicateKey = 11000,
    NotPrimaryNoSecondaryOk = 13435,
    NotPrimaryOrSecondary = 13436,
    Location40571 = 40571,
    Location51003 = 51003,
    Location7369100 = 7_369_100,
}

impl Code {
    /// Answers of this kind carry `topologyVersion`, so that a driver knows whether its view is older.
    pub fn is_about_topology(self) -> bool {
        matches!(
            self,
            Self::NotWritablePrimary
                | Self::NotPrimaryNoSecondaryOk
                | Self::NotPrimaryOrSecondary
                | Self::PrimarySteppedDown
                | Self::ShutdownInProgress
        )
    }
}

/// A refused command.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Why, for programs.
    pub code: Code,
    /// Why, for people: mongod's words.
    pub message: String,
}

impl Failure {
    /// A refusal from its code and text.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// `ok: 0` and the rest of the reply.
    pub fn reply(&self) -> Document {
        doc! { "ok": 0.0, "errmsg": &self.message, "code": self.code as i32, "codeName": format!("{:?}", self.code) }
    }

    /// The same with mongod's `:: caused by ::` before it.
    pub fn within(self, context: &str) -> Self {
        Self { message: format!("{context} :: caused by :: {}", self.message), ..self }
    }
}

/// What a command answers.
pub type Reply = Result<Document, Failure>;
