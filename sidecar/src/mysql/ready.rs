//! Whether clients may be sent here: a primary that is open under its order, or a replica whose data is fresh enough.
//!
//! Freshness is one number: the age of what is not applied, plus the time since the source was last heard. So when a primary is lost, its
//! replicas go on serving reads for as long as their data is young, instead of vanishing together with it.

use std::time::Duration;

use sidecar_protocol::mysql::Assignment;
use tokio::time::Instant;

use super::observe::{Facts, Receiver};

/// What is remembered between two looks at one mysqld.
#[derive(Debug, Default)]
pub struct Readiness {
    caught_up: bool,
    heard: Option<Instant>,
}

// === impl Readiness ===

impl Readiness {
    /// Notes one look and says whether clients may come.
    pub fn judge(&mut self, now: Instant, facts: &Facts, order: Option<&Assignment>, lag: Option<Duration>, max_lag_seconds: u32) -> bool {
        if matches!(order, Some(Assignment::Primary { .. })) && !facts.read_only {
            return facts.channel.as_ref().is_none_or(|channel| channel.receiver == Receiver::Off);
        }
        // Nobody but a primary under its order is ready while writable: after a restart of the sidecar we do not know that we still are.
        let Some(channel) = facts.channel.as_ref().filter(|_| facts.super_read_only) else { return false };
        if channel.receiver == Receiver::On {
            self.heard = Some(now);
        }
        let fresh = |age: Duration| max_lag_seconds == 0 || age <= Duration::from_secs(max_lag_seconds.into());
        let Some((heard, lag)) = self.heard.zip(lag) else { return false };
        let age = lag + now.duration_since(heard);
        self.caught_up |= channel.receiver == Receiver::On && channel.applying && fresh(age);
        self.caught_up && channel.applier_error.0 == 0 && fresh(age)
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::Channel;
    use super::*;

    fn replica(receiver: Receiver) -> Facts {
        let channel = Channel { receiver, applying: true, ..Channel::default() };
        Facts { read_only: true, super_read_only: true, channel: Some(channel), ..Facts::default() }
    }

    #[test]
    fn a_replica_serves_while_its_lost_source_was_heard_of_lately() {
        let (mut readiness, start) = (Readiness::default(), Instant::now());
        let mut judge =
            |seconds, receiver| readiness.judge(start + Duration::from_secs(seconds), &replica(receiver), None, Some(Duration::ZERO), 30);
        assert!(!judge(0, Receiver::Connecting), "never caught up");
        assert!(judge(1, Receiver::On));
        assert!(judge(20, Receiver::Connecting));
        assert!(!judge(40, Receiver::Connecting), "stale");
        assert!(judge(41, Receiver::On));
    }

    #[test]
    fn a_writable_member_without_an_order_is_not_ready() {
        let facts = Facts::default();
        let (mut readiness, now) = (Readiness::default(), Instant::now());
        assert!(!readiness.judge(now, &facts, None, None, 0));
        assert!(readiness.judge(now, &facts, Some(&Assignment::Primary { acks: 0, members: vec![], barred: vec![] }), None, 0));
    }

    #[test]
    fn a_replica_that_lags_too_much_is_not_ready() {
        let (mut readiness, now) = (Readiness::default(), Instant::now());
        let mut judge = |lag| readiness.judge(now, &replica(Receiver::On), None, Some(Duration::from_secs(lag)), 30);
        assert!(!judge(31), "not caught up yet");
        assert!(judge(30));
        assert!(!judge(31));
    }
}
