//! What this member says of itself: one [`State`], published only when it changes.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Problem, ProblemCode, State};
use tokio::sync::watch;

/// First wait after something failed.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The publishing end of the state.
pub struct Reporter(watch::Sender<State>);

impl Reporter {
    /// Publishes through `state`.
    #[must_use]
    pub fn new(state: watch::Sender<State>) -> Self {
        Self(state)
    }

    /// Changes the state; nobody hears of a change that changes nothing.
    pub fn change(&self, edit: impl FnOnce(&mut State)) {
        self.0.send_if_modified(|state| {
            let before = state.clone();
            edit(state);
            *state != before
        });
    }

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
    Problem { code, message: message.to_string().replace(['\n', '\r'], " ") }
}

/// How long to wait between tries: growing, with jitter, never above a ceiling, without end.
#[must_use]
pub fn retries(ceiling: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(FIRST_RETRY).with_max_delay(ceiling).without_max_times().with_jitter().build()
}
