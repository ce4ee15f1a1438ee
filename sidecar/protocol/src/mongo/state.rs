//! What is true of one member of a replica set now.

use serde::{Deserialize, Serialize};

use super::Answer;
use super::config::Config;
use super::order::Assignment;
use super::plan::Lost;
use super::status::{MemberState, OpTime, Status};
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
    /// What the volume holds.
    pub data: Data,
    /// The database process.
    pub process: Process,
    /// The last order accepted since this sidecar started, and whether all of it holds: of a primary that the set, the accounts and the
    /// feature version are as desired; of another that it is a member in good health and that what it was told to do is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// Whether this mongod is in a set, by its own word. Unknown while it does not answer.
    #[serde(default)]
    pub answer: Answer,
    /// What it does, by its own word; unknown while it does not answer.
    #[serde(default)]
    pub member: MemberState,
    /// Whether it takes writes: `hello.isWritablePrimary`.
    #[serde(default)]
    pub writable: bool,
    /// Term of the last election that it knows of; what [`super::Part::stand`] and [`super::Yield::term`] are compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub election_term: Option<i64>,
    /// What it has applied. Absent of an arbiter and while its first copy is not complete, and while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optime: Option<OpTime>,
    /// Host of who leads, by its word.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<String>,
    /// Its own host in the configuration: absent when it does not find itself there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub me: Option<String>,
    /// The set's configuration as it knows it. Absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Config>,
    /// Everybody's state as it sees it. Absent while it does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// How far it is behind who leads, in whole seconds, by the optimes it knows; absent of who leads and when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u32>,
    /// `buildInfo.version`, when it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Its feature compatibility version, when it has answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fcv: Option<String>,
    /// What the planner says of the set: of a member that leads, or that knows nobody who does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub said: Option<Said>,
    /// SHA-256, in hex, of each mounted key that this mongod process takes, in their order. A key that is to replace another is used first
    /// only when everybody takes it.
    #[serde(default)]
    pub keys: Vec<String>,
    /// Whether the readiness probe passes.
    #[serde(default)]
    pub ready: bool,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What the planner says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// The set is as desired.
    pub settled: bool,
    /// What it does or waits for, in words.
    pub next: String,
    /// Most voters are lost: the evidence, and the words of consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost: Option<Lost>,
}

/// What the volume holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Data {
    /// Nothing: certain, not unknown.
    #[default]
    Empty,
    /// The files of a mongod that has run there.
    Present,
}

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProblemCode {
    /// The user's options hold what is Understudy's own, or are no YAML.
    ConfigRejected,
    /// The volume is full or not writable.
    Storage,
    /// Certificates, keys or passwords cannot be read.
    Credentials,
    /// Our mongod refuses the mounted key, or one that is to be taken in does (error 18).
    KeyRefused,
    /// mongod does not come up.
    ProcessDown,
    /// It is in another set than the one that is desired, or of another name.
    OtherSet,
    /// It does not find itself in the set's configuration, though it is wanted there (error 93).
    NotAMember,
    /// Most voters are lost ([`Said::lost`]).
    MajorityLost,
    /// mongod refused a step: initiate, reconfigure, hand over, an account, a feature version. It is tried again.
    StepRefused,
    /// A code of a newer sidecar.
    #[serde(other)]
    Other,
}

// === impl State ===

impl State {
    /// Takes up `order` without having looked at mongod since: what held under the order before proves nothing of this one.
    pub fn take_up(&mut self, order: Option<&Order<Assignment>>) {
        self.accepted = order.map(|order| Accepted::of(order, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_sent_and_a_code_of_a_newer_sidecar_is_read() {
        let sent = serde_json::to_value(State::default()).unwrap();
        let known =
            r#"{"data": "empty", "process": "down", "answer": "unknown", "member": 6, "writable": false, "keys": [], "ready": false}"#;
        assert_eq!(sent, serde_json::from_str::<serde_json::Value>(known).unwrap());
        let state: State = serde_json::from_str(
            r#"{"data": "present", "process": "running", "member": 1, "problem": {"code": "ofLater", "message": "m"}, "ofLater": 1}"#,
        )
        .unwrap();
        assert_eq!((state.problem.unwrap().code, state.member), (ProblemCode::Other, MemberState::Primary));
    }
}
