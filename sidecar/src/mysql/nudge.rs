//! Frees commits that wait for an acknowledgement which nobody will send.
//!
//! A replica acknowledges what it receives while it is set to. What it received just before, as a replica that did not count yet, it never
//! acknowledges; and a commit that waits for that waits for ever, unless a later one comes, since acknowledgements count for all that is
//! before them. When clients themselves all wait, nobody sends a later one. So the primary does: one event without content.

use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{info, warn};

use super::execute::Access;
use super::observe::Facts;
use super::sql::QUERY_DEADLINE;

/// Acknowledgements that are on their way arrive within this time.
const PATIENCE: Duration = Duration::from_secs(1);
/// Goes to the binary log, and changes nothing: the constants of the optimizer's cost model are read again.
const STATEMENT: &str = "FLUSH OPTIMIZER_COSTS";

/// Since when commits wait although enough replicas are connected.
#[derive(Debug, Default)]
pub struct Nudge {
    since: Option<Instant>,
    running: Option<JoinHandle<()>>,
    /// When it was done, and how many replicas were connected then: they all acknowledge that event, so once is enough.
    done: Option<(Instant, u32)>,
}

impl Nudge {
    /// Whether to act now. Commits that end let others take their place; only when none ends for a while does it help.
    fn is_due(&mut self, now: Instant, facts: &Facts) -> bool {
        let semi = &facts.semi_sync;
        // Who comes back may have received that event as a replica that did not count: it is written again.
        if semi.waiting == 0 || self.done.is_some_and(|(_, clients)| clients != semi.clients) {
            self.done = None;
        }
        let stuck = !facts.read_only && semi.source_enabled && semi.waiting > 0 && semi.clients >= semi.source_acks;
        if !stuck || self.done.is_some() {
            self.since = None;
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= PATIENCE
    }

    /// Whether that event is not acknowledged either: a connection that is cut off looks sound to mysqld for many minutes.
    pub fn is_unanswered(&self, now: Instant) -> bool {
        self.done.is_some_and(|(written, _)| now.duration_since(written) >= QUERY_DEADLINE)
    }

    /// Notes one look, and nudges when it is time.
    pub fn look(&mut self, now: Instant, facts: &Facts, access: &Access) {
        if !self.is_due(now, facts) {
            return;
        }
        info!("commits wait for acknowledgements that were missed: a later event brings them");
        *self = Self { since: None, running: Some(tokio::spawn(write(access.clone()))), done: Some((now, facts.semi_sync.clients)) };
    }
}

/// Waits for its own acknowledgement, as every commit does.
async fn write(access: Access) {
    let done = async { access.connect().await?.run(STATEMENT, QUERY_DEADLINE).await }.await;
    if let Err(error) = done {
        warn!(%error, "the event was not acknowledged");
    }
}

impl Drop for Nudge {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::SemiSyncFacts;
    use super::*;

    #[test]
    fn only_a_commit_that_waits_although_enough_are_connected_is_helped() {
        let semi = SemiSyncFacts { source_enabled: true, source_acks: 1, clients: 1, waiting: 1, ..SemiSyncFacts::default() };
        let stuck = Facts { semi_sync: semi, ..Facts::default() };
        let due = |facts: &Facts| {
            let (mut nudge, now) = (Nudge::default(), Instant::now());
            assert!(!nudge.is_due(now, facts), "not at once");
            nudge.is_due(now + PATIENCE, facts)
        };
        assert!(due(&stuck));
        let now = Instant::now();
        let mut nudged = Nudge { since: None, running: None, done: Some((now, 1)) };
        assert!(!nudged.is_due(now, &stuck) && !nudged.is_due(now + PATIENCE * 9, &stuck), "once is enough");
        assert!(!nudged.is_unanswered(now) && nudged.is_unanswered(now + QUERY_DEADLINE), "it waits as commits do");
        assert!(!nudged.is_due(now, &Facts { semi_sync: SemiSyncFacts { clients: 0, ..semi }, ..stuck.clone() }));
        assert!(!nudged.is_due(now, &stuck) && nudged.is_due(now + PATIENCE, &stuck), "but not for a replica that was away");
        assert!(!due(&Facts { semi_sync: SemiSyncFacts { clients: 0, ..semi }, ..stuck.clone() }), "nobody is there to acknowledge");
        assert!(!due(&Facts { semi_sync: SemiSyncFacts { waiting: 0, ..semi }, ..stuck.clone() }));
        assert!(!due(&Facts { read_only: true, ..stuck }));
    }
}
