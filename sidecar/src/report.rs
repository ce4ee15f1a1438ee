//! What a member says of itself: one state, published only when it changes; and how often a thing is tried again.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tokio::sync::watch;

/// First wait after something failed.
const FIRST_RETRY: Duration = Duration::from_millis(200);

/// The publishing end of the state.
pub struct Reporter<S>(watch::Sender<S>);

impl<S: Clone + PartialEq> Reporter<S> {
    /// Publishes through `state`.
    #[must_use]
    pub fn new(state: watch::Sender<S>) -> Self {
        Self(state)
    }

    /// Changes the state; nobody hears of a change that changes nothing.
    pub fn change(&self, edit: impl FnOnce(&mut S)) {
        self.0.send_if_modified(|state| {
            let before = state.clone();
            edit(state);
            *state != before
        });
    }
}

/// How long to wait between tries: growing, with jitter, never above a ceiling, without end.
#[must_use]
pub fn retries(ceiling: Duration) -> ExponentialBackoff {
    ExponentialBuilder::new().with_min_delay(FIRST_RETRY).with_max_delay(ceiling).without_max_times().with_jitter().build()
}
