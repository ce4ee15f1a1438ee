//! MySQL's part of the protocol: the role a member must hold and what is true of it.
//!
//! Assignments state the end, not the steps: sending one twice changes nothing. Policy (who, when) stays in the operator.

use serde::{Deserialize, Serialize};

use crate::Order;
use crate::gtid::GtidSet;
use crate::member;
pub use crate::member::Process;

/// Port of mysqld.
pub const PORT: u16 = 3306;

/// The role a member must hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Assignment {
    /// Create the data directory if there is none, then be [`Assignment::Isolated`]: nobody may write before the birth is recorded,
    /// since until then it may be repeated. Given once in a cluster's life (I10), to one member.
    Initialise,
    /// Accept writes. A replica that gets this stops its receiver, applies what it received, and only then opens.
    /// Refused by a member that holds no data.
    Primary {
        /// Replicas that must acknowledge a commit before the client hears of it (semi-sync AFTER_SYNC); 0 turns it off.
        acks: u32,
        /// Ordinals of all members: their replication accounts must exist, and a majority of them keeps a primary open that the operator
        /// does not reach.
        members: Vec<u32>,
        /// Ordinals that may not replicate from this server: their accounts are locked here, and what they hold open is cut off. So a
        /// member that cannot be told leaves the ack set without acknowledging behind anybody's back (I2).
        #[serde(default)]
        barred: Vec<u32>,
    },
    /// Be read-only and follow `source`. An empty member clones first, from the first of `donors` that works.
    Replica {
        /// Whom to follow.
        source: Peer,
        /// Where an empty member clones from, best first. May be empty: then an empty member waits.
        donors: Vec<Peer>,
        /// Whether its receipt of a transaction counts for semi-sync. Only members of the recorded ack set have this.
        acknowledges: bool,
        /// `server_uuid` of a data directory that cannot follow: what only it holds is archived, and then it is condemned
        /// ([`State::condemned`]), to be cloned anew (I6). Of no effect on any other data directory (I10).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        replace: Option<String>,
    },
    /// Be read-only, follow nobody, receive nothing; report positions read after stopping (I2).
    Isolated,
}

impl Assignment {
    /// How many replicas must acknowledge a commit; `None` where nobody may commit.
    #[must_use]
    pub fn acks(&self) -> Option<u32> {
        match self {
            Self::Primary { acks, .. } => Some(*acks),
            _ => None,
        }
    }
}

/// Another member, as one connects to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Stable DNS name, `NAME-0.NAME.NAMESPACE.svc`.
    pub host: String,
}

/// What is true of a member's database. The default is what is known of an empty volume before anything was looked at.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// What the volume holds.
    pub data: Data,
    /// The database process.
    pub process: Process,
    /// What mysqld does now; [`Role::Unknown`] while it does not answer.
    pub role: Role,
    /// The last order accepted since this sidecar started, and whether all of it holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Accepted>,
    /// Positions, when mysqld answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<Position>,
    /// The replication channel, when one is configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication: Option<Replication>,
    /// Semi-sync on the primary's side, when on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semi_sync: Option<SemiSync>,
    /// Whether this member acknowledges as a semi-sync replica now.
    #[serde(default)]
    pub acknowledges: bool,
    /// Whether it may acknowledge what it receives next, or what it receives once it is connected: it does, it is set up to, or nobody has
    /// looked yet.
    #[serde(default)]
    pub may_acknowledge: bool,
    /// On a primary: age of the oldest transaction or statement of a client in whole seconds, when there is one of a second or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy_seconds: Option<u32>,
    /// It is to be primary, and has closed itself: neither the operator nor a majority of the members is in reach.
    #[serde(default)]
    pub fenced: bool,
    /// The newest archive of what only this member held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// This data directory is archived and marked: the next start of the sidecar discards it. The pod may be replaced.
    #[serde(default)]
    pub condemned: bool,
    /// `@@server_uuid`, new with each initialise or clone: tells a refilled volume from the one it replaced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// Donor of the clone that filled this data directory, a pod name; absent where it was initialised or restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloned_from: Option<String>,
    /// `@@version`, when mysqld answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Whether the readiness probe passes.
    #[serde(default)]
    pub ready: bool,
    /// What is wrong, when something is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

/// What the volume holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Data {
    /// Nothing: certain, not unknown.
    #[default]
    Empty,
    /// Being initialised.
    Initialising,
    /// Being cloned from `donor`.
    Cloning {
        /// Pod name of the donor.
        donor: String,
        /// Bytes copied.
        copied: u64,
        /// Bytes to copy, as estimated by MySQL; 0 when not known yet.
        total: u64,
    },
    /// A complete data directory.
    Present,
}

/// Transactions that only one member held, kept when its data directory was discarded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Path of the file on the member's volume.
    pub file: String,
    /// The transactions.
    pub gtids: GtidSet,
}

/// What mysqld does now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// mysqld does not answer.
    #[default]
    Unknown,
    /// Accepts writes.
    Primary,
    /// Read-only with a running or configured channel.
    Replica,
    /// Read-only and following nobody.
    Isolated,
}

/// The last order accepted.
pub type Accepted = member::Accepted<Assignment>;

impl Accepted {
    /// Whether `order` says nothing new. That it is of a newer record is no news to a replica: it promises nothing.
    #[must_use]
    pub fn serves_as(&self, order: &Order<Assignment>) -> bool {
        let promises = !matches!(order.assignment, Assignment::Replica { .. });
        (self.term, &self.assignment) == (order.term, &order.assignment) && (self.claim == order.claim || !promises)
    }
}

/// How much of the history a member holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// `@@gtid_executed`.
    pub executed: GtidSet,
    /// Received by the replica channel, executed or not (`Retrieved_Gtid_Set`).
    pub received: GtidSet,
    /// `@@gtid_purged`: no longer in the binary logs.
    pub purged: GtidSet,
}

impl Position {
    /// Everything this member holds, applied or still in its relay log: what counts for I2 and I3.
    #[must_use]
    pub fn held(&self) -> GtidSet {
        self.executed.union(&self.received)
    }
}

/// The replication channel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Replication {
    /// `Source_Host`.
    pub source: String,
    /// The receiver (IO) thread is connected.
    pub receiving: bool,
    /// The applier (SQL) threads run.
    pub applying: bool,
    /// Age of the oldest transaction received and not applied, in seconds; absent when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<f64>,
    /// Last error of either thread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Whether the channel is encrypted (`Source_SSL_Allowed`).
    #[serde(default)]
    pub tls: bool,
}

impl State {
    /// Takes up `order` without having looked at mysqld since: what held under the order before proves nothing of this one, and what may
    /// have been begun under it may still take effect.
    pub fn take_up(&mut self, order: Option<&Order<Assignment>>) {
        let before = self.accepted.take();
        self.may_acknowledge |= before.is_some_and(|held| matches!(held.assignment, Assignment::Replica { acknowledges: true, .. }));
        self.accepted = order.map(|order| Accepted::of(order, false));
    }

    /// What this server committed itself, whenever that was; `None` while it does not say.
    #[must_use]
    pub fn own(&self) -> Option<GtidSet> {
        Some(self.position.as_ref()?.executed.committed_by(self.server_uuid.as_deref()?))
    }

    /// The same of a server that does not lead. It grows only by what nobody asked for.
    #[must_use]
    pub fn strays(&self) -> Option<GtidSet> {
        self.own().filter(|_| self.role != Role::Primary)
    }
}

/// Semi-sync on the primary's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SemiSync {
    /// `rpl_semi_sync_source_wait_for_replica_count`.
    pub acks: u32,
    /// Connected semi-sync replicas.
    pub clients: u32,
    /// Ordinals of the members that receive from this server now.
    #[serde(default)]
    pub dumping: Vec<u32>,
    /// Commits wait, and not even an event written for that was acknowledged: who counts as connected is not there.
    #[serde(default)]
    pub unanswered: bool,
}

/// Something wrong, that a person may have to mend.
pub type Problem = member::Problem<ProblemCode>;

/// The kinds of problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ProblemCode {
    /// `mysqld --validate-config` refuses the configuration.
    ConfigRejected,
    /// Initialising failed.
    InitialiseFailed,
    /// No donor worked; it goes on trying.
    CloneFailed,
    /// The channel stopped with an error.
    ReplicationFailed,
    /// This member holds transactions that its source does not (I6).
    Errant,
    /// The source purged what this member still needs.
    LogsPurged,
    /// The volume is full or not writable.
    Storage,
    /// Certificates or passwords cannot be read.
    Credentials,
    /// mysqld does not come up.
    ProcessDown,
    /// A code of a newer sidecar.
    #[serde(other)]
    Other,
}
