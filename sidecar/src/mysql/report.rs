//! What this member says of itself, in MySQL's words.

use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Problem, ProblemCode, State};

pub use crate::report::retries;

/// The publishing end of the state.
pub type Reporter = crate::report::Reporter<State>;

impl Reporter {
    /// Says which order this member works on.
    pub fn accept(&self, order: Option<&Order<Assignment>>) {
        self.change(|state| state.take_up(order));
    }

    /// Says what is wrong.
    pub fn problem(&self, problem: impl Into<Option<Problem>>) {
        let problem = problem.into();
        self.change(|state| state.problem = problem);
    }
}

/// Something wrong, on one line.
#[must_use]
pub fn problem(code: ProblemCode, message: impl ToString) -> Problem {
    Problem::new(code, message)
}
