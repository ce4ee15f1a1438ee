//! A hand-over under one order, from its first try to its end.

use std::time::Duration;

use sidecar_protocol::redis::{Handover, Role, Yield};
use tokio::time::Instant;

use super::observe::{Facts, Failover};

/// What is remembered of it while its order stands.
#[derive(Debug)]
pub struct HandingOver {
    heir: Yield,
    since: Instant,
    begun: bool,
    failed: Option<String>,
}

impl HandingOver {
    /// What follows from an order to yield, or none, and from what is true: one that has begun and left this member what it was has failed.
    #[must_use]
    pub fn go_on(before: Option<Self>, heir: Option<Yield>, facts: &Facts) -> Option<Self> {
        let heir = heir?;
        let mut handing = match before {
            Some(handing) if handing.heir == heir => handing,
            _ => Self { heir, since: Instant::now(), begun: false, failed: None },
        };
        if handing.begun && (facts.role, facts.failover) == (Role::Primary, Failover::None) {
            let Yield { to, timeout_millis } = &handing.heir;
            handing.failed.get_or_insert_with(|| format!("{} did not take over within {timeout_millis} ms", to.member));
        }
        Some(handing)
    }

    /// The database has taken the order.
    pub fn begin(&mut self) {
        self.begun = true;
    }

    /// It has not, and says why. There is as much time for it as for the hand-over: the heir may be on its way.
    pub fn refused(&mut self, why: &str) {
        if self.since.elapsed() > Duration::from_millis(self.heir.timeout_millis) {
            self.failed = Some(why.to_owned());
        }
    }

    /// To whom it was tried, and is not to be tried again.
    #[must_use]
    pub fn tried(&self) -> Option<&Yield> {
        (self.begun || self.failed.is_some()).then_some(&self.heir)
    }
}

/// How far it is.
#[must_use]
pub fn tell(handing: Option<&HandingOver>, facts: &Facts) -> Handover {
    match (facts.failover, handing.and_then(|handing| handing.failed.clone())) {
        (Failover::Waiting, _) => Handover::Waiting,
        (Failover::Changing, _) => Handover::Changing,
        (Failover::None, Some(why)) => Handover::Failed { why },
        (Failover::None, None) => Handover::None,
    }
}
