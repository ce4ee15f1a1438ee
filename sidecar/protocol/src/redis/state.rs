//! What is true of one Redis member now.

use serde::{Deserialize, Serialize};

use super::history::Position;
use super::order::{Assignment, Part};
use crate::Order;
use crate::member;
pub use crate::member::Process;

/// The last order accepted.
pub type Accepted = member::Accepted<Assignment>;

/// Something wrong, that a person may have to mend.
pub type Problem = member::Problem<ProblemCode>;

/// What is true of a member's database. The default is what is known of an empty volume before anything was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// What it holds.
    pub data: Data,
    /// The database process.
    pub process: Process,
    /// What it does now; [`Role::Unknown`] while it does not answer.
    pub role: Role,
    /// The last order accepted since this sidecar started, and whether all of it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// How much of which history it holds. Absent while it does not answer or loads, and of one that never held any. Of a member that is
    /// [`Role::Isolated`] it was read after it stopped receiving (I2).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The link to whom it follows; absent where it follows nobody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// On a primary: who follows it now.
    #[serde(default)]
    pub replicas: Vec<Replica>,
    /// Ordinals whose replication accounts are on here now; `None` while it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admits: Option<Vec<u32>>,
    /// How far a hand-over by `FAILOVER` is.
    #[serde(default)]
    pub handover: Handover,
    /// It is to be primary, and has closed itself: neither the operator nor a majority of the members is in reach.
    #[serde(default)]
    pub fenced: bool,
    /// Tells these data from those of another volume, or, without persistence, of another process. New when what it held is thrown away for a
    /// full copy: from then on it no longer holds what it acknowledged. One that held nothing keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// Whether what it holds survives its process.
    #[serde(default)]
    pub persistent: bool,
    /// The newest archive of what only this member held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// Which of the two it is, when it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub engine: Option<Engine>,
    /// Its version, when it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// SHA-256, in hex, of the accounts' files (names and contents, in order) whose passwords it takes now. A new password is handed out when
    /// everybody takes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passwords: Option<String>,
    /// Whether the readiness probe passes.
    #[serde(default)]
    pub ready: bool,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What a member holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Data {
    /// Nothing, and it never held anything: certain, not unknown.
    #[default]
    Empty,
    /// It reads its own files.
    Loading {
        /// How far, in percent.
        percent: u8,
    },
    /// It takes a full copy from whom it follows; until that is complete it holds what it held before, or nothing.
    Syncing {
        /// Bytes copied.
        copied: u64,
        /// Bytes to copy; 0 when not known yet.
        total: u64,
    },
    /// A data set with a history.
    Present,
}

/// What the database does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// It does not answer.
    #[default]
    Unknown,
    /// Accepts writes (`role:master`).
    Primary,
    /// Follows somebody.
    Replica,
    /// Takes no writes and follows nobody.
    Isolated,
}

/// The link to whom a member follows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// `master_host`.
    pub source: String,
    /// `master_link_status:up`.
    pub connected: bool,
    /// Seconds since it last heard anything on it; absent when not known. A primary pings its replicas each second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
}

/// A member that follows a primary, as that one sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replica {
    /// Its announced host.
    pub host: String,
    /// The offset that it acknowledged last.
    pub offset: u64,
    /// It has its copy and acknowledges (`state=online`).
    pub online: bool,
}

/// How far a hand-over by `FAILOVER` is (`master_failover_state`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Handover {
    /// There is none.
    #[default]
    None,
    /// Writes wait for the heir; it can be taken back.
    Waiting,
    /// The heir is being made primary; it cannot be taken back any more.
    Changing,
    /// It did not work and this member leads on: why.
    Failed {
        /// For people.
        why: String,
    },
}

/// A copy of what only one member held, kept when it began to follow somebody else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// Path of the RDB file on the member's volume.
    pub file: String,
    /// Where it was.
    pub position: Position,
}

/// Which database it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Engine {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProblemCode {
    /// The database refuses its configuration.
    ConfigRejected,
    /// The link to the primary does not come up.
    ReplicationFailed,
    /// Its data are of a history that the primary never had: it does not follow.
    OtherHistory,
    /// The volume is full or not writable, or the database cannot persist.
    Storage,
    /// Certificates or passwords cannot be read.
    Credentials,
    /// The database refuses the rules of an account; the others are set all the same.
    AccountRefused,
    /// The image has another engine than the spec says, or one that is too old.
    WrongEngine,
    /// The database does not come up.
    ProcessDown,
    /// A code of a newer sidecar.
    #[serde(other)]
    Other,
}

// === impl State ===

impl State {
    /// Takes up `order` without having looked at the database since: what held under the order before proves nothing of this one.
    pub fn take_up(&mut self, order: Option<&Order<Assignment>>) {
        self.accepted = order.map(|order| Accepted::of(order, false));
    }
}

// === impl Accepted ===

impl Accepted {
    /// Whether `order` says nothing new. That it is of a newer record is no news to a replica: it promises nothing.
    #[must_use]
    pub fn serves_as(&self, order: &Order<Assignment>) -> bool {
        let promises = !matches!(order.assignment.part, Part::Replica { .. });
        (self.term, &self.assignment) == (order.term, &order.assignment) && (self.claim == order.claim || !promises)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_sent_and_a_code_of_a_newer_sidecar_is_read() {
        let sent = serde_json::to_value(State::default()).unwrap();
        let known = r#"{"data": {"kind": "empty"}, "process": "down", "role": "unknown", "replicas": [], "handover": {"state": "none"},
            "fenced": false, "persistent": false, "ready": false}"#;
        assert_eq!(sent, serde_json::from_str::<serde_json::Value>(known).unwrap());
        let state: State = serde_json::from_str(
            r#"{"data": {"kind": "present"}, "process": "running", "role": "primary", "problem": {"code": "ofLater", "message": "m"}, "ofLater": 1}"#,
        )
        .unwrap();
        assert_eq!(state.problem.unwrap().code, ProblemCode::Other);
    }
}
