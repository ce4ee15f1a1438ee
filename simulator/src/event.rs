//! What can happen next, and to whom. An event that reaches a frozen process waits there until it thaws.

use std::rc::Rc;

use sidecar_protocol::mysql::{Assignment, State};
use sidecar_protocol::{Order, RefusalCode, Report};

use crate::faults::Kind;
use crate::history::Txn;
use crate::mysqld::Request;

/// What a sidecar answers to an order.
#[derive(Clone, Debug)]
pub enum Answer {
    /// Accepted; its report after that.
    Accepted(Rc<Report<State>>),
    /// Refused.
    Refused(RefusalCode),
    /// No answer in time.
    Lost,
}

/// Something that happens at one moment.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "a member is an ordinal, a run or an incarnation one process, everywhere in this package")]
pub enum Event {
    /// The StatefulSet controller and the kubelets look.
    Kubelet,
    /// A sidecar begins.
    SidecarStart { member: u32, pod: u64 },
    /// A mysqld begins.
    MysqldStart { member: u32, pod: u64 },
    /// A mysqld answers from now on.
    MysqldUp { member: u32, run: u64 },
    /// A sidecar looks.
    Look { member: u32, incarnation: u64, turn: u64 },
    /// A sidecar's statement takes effect.
    StepDone { member: u32, incarnation: u64, token: u64 },
    /// A volume is filled.
    Filled { member: u32, incarnation: u64, token: u64 },
    /// An order arrives.
    Order { operator: usize, run: u64, member: u32, pod: u64, ticket: u64, order: Rc<Order<Assignment>> },
    /// A sidecar's answer to an order arrives.
    Answer { operator: usize, run: u64, member: u32, ticket: u64, answer: Answer },
    /// A sidecar's report arrives.
    Report { operator: usize, run: u64, member: u32, pod: u64, report: Rc<Report<State>> },
    /// An operator has something to look at.
    Pass { operator: usize, run: u64 },
    /// The next write of an operator's pass.
    Write { operator: usize, run: u64 },
    /// An operator notices who fell silent.
    Tick { operator: usize, run: u64 },
    /// An operator's caches catch up.
    Sync { operator: usize, run: u64 },
    /// An operator begins.
    OperatorStart { operator: usize },
    /// A receiver connects, or notices that nobody is there any more.
    Receiver { member: u32, run: u64 },
    /// A dump thread sends the next transaction.
    Dump { source: u32, run: u64, member: u32, dump: u64 },
    /// It arrives.
    Receive { source: u32, member: u32, run: u64, dump: u64, txn: Txn },
    /// An acknowledgement arrives.
    Ack { source: u32, run: u64, member: u32, dump: u64, txn: Txn },
    /// The applier goes on.
    Apply { member: u32, run: u64 },
    /// A client does something.
    Client { client: usize, number: u64 },
    /// A client's commit arrives.
    Commit { member: u32, run: u64, sessions: u64, request: Request },
    /// Something goes wrong.
    Fault,
    /// Something goes wrong that belongs to a greater fault.
    Strike { kind: Kind, member: u32 },
    /// One thing that went wrong ends.
    Mend(crate::faults::Mend),
}

impl Event {
    /// Which operator must run for this to happen.
    #[must_use]
    pub fn needs_operator(&self) -> Option<usize> {
        match self {
            Self::Answer { operator, .. }
            | Self::Report { operator, .. }
            | Self::Pass { operator, .. }
            | Self::Write { operator, .. }
            | Self::Tick { operator, .. }
            | Self::Sync { operator, .. } => Some(*operator),
            _ => None,
        }
    }

    /// Whose sidecar must run for this to happen.
    #[must_use]
    pub fn needs_sidecar(&self) -> Option<u32> {
        match self {
            Self::Look { member, .. } | Self::StepDone { member, .. } | Self::Filled { member, .. } | Self::Order { member, .. } => {
                Some(*member)
            }
            _ => None,
        }
    }

    /// Whose mysqld must run for this to happen.
    #[must_use]
    pub fn needs_mysqld(&self) -> Option<u32> {
        match self {
            Self::MysqldUp { member, .. }
            | Self::StepDone { member, .. }
            | Self::Receiver { member, .. }
            | Self::Receive { member, .. }
            | Self::Apply { member, .. }
            | Self::Commit { member, .. } => Some(*member),
            Self::Dump { source, .. } | Self::Ack { source, .. } => Some(*source),
            _ => None,
        }
    }
}

/// When, and the order among what happens at once.
#[derive(Debug)]
pub struct Due {
    /// Milliseconds.
    pub at: u64,
    /// First come, first served.
    pub turn: u64,
    /// What.
    pub event: Event,
}

impl PartialEq for Due {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.turn) == (other.at, other.turn)
    }
}

impl Eq for Due {}

impl PartialOrd for Due {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Due {
    /// The earliest is the greatest: a heap gives that one first.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.turn).cmp(&(self.at, self.turn))
    }
}
