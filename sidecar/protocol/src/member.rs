//! What the states of all engines have in common: the process, the last order, what is wrong.

use serde::{Deserialize, Serialize};

use crate::Order;

/// The database process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Process {
    /// Certain: the curtain is closed, or it had answered and nobody listens any more, or it never came up in time.
    #[default]
    Down,
    /// It may come up: it has not answered yet since the sidecar started.
    Starting,
    /// Unknown: somebody listens and does not answer.
    Silent,
    /// It answers.
    Running,
}

/// The last order accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted<A> {
    /// Its term.
    pub term: u64,
    /// Its [`claim`](crate::Order::claim).
    #[serde(default)]
    pub claim: u64,
    /// The assignment.
    pub assignment: A,
    /// Whether all of it holds now.
    pub converged: bool,
}

/// Something wrong, that a person may have to mend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem<C> {
    /// For programs and condition reasons.
    pub code: C,
    /// For people: what is wrong and what to do, on one line.
    pub message: String,
}

// === impl Accepted ===

impl<A: Clone + PartialEq> Accepted<A> {
    /// `order`, of which all holds or not.
    #[must_use]
    pub fn of(order: &Order<A>, converged: bool) -> Self {
        Self { term: order.term, claim: order.claim, assignment: order.assignment.clone(), converged }
    }

    /// Whether it is this very order.
    #[must_use]
    pub fn is(&self, order: &Order<A>) -> bool {
        (self.term, self.claim, &self.assignment) == (order.term, order.claim, &order.assignment)
    }
}

// === impl Problem ===

impl<C> Problem<C> {
    /// Something wrong, on one line.
    #[must_use]
    pub fn new(code: C, message: impl ToString) -> Self {
        Self { code, message: message.to_string().replace(['\n', '\r'], " ") }
    }
}
