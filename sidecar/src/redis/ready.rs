//! Whether clients may be sent here: a primary under its order, or a replica whose data are fresh enough.
//!
//! A replica that has lost its primary goes on serving reads for as long as its data are young, instead of vanishing together with it.

use std::time::Duration;

use sidecar_protocol::redis::{Assignment, Part, Role};
use tokio::time::Instant;

use super::observe::Facts;

/// What is remembered between two looks at one process.
#[derive(Debug, Default)]
pub struct Readiness {
    heard: Option<Instant>,
}

impl Readiness {
    /// Notes one look and says whether clients may come.
    pub fn judge(&mut self, now: Instant, facts: &Facts, order: Option<&Assignment>, fenced: bool, max_lag_seconds: u32) -> bool {
        let source = facts.source.as_ref();
        if let Some(source) = source.filter(|source| source.up && source.syncing.is_none() && facts.loading.is_none()) {
            self.heard = now.checked_sub(Duration::from_secs(source.heard.unwrap_or_default())).or(self.heard);
        } else if source.is_some_and(|source| source.syncing.is_some()) {
            self.heard = None;
        }
        let leads = |part: &Part| matches!(part, Part::Primary { .. }) || matches!(part, Part::Replica { heir_of: Some(_), .. });
        match facts.role {
            Role::Primary => !fenced && facts.loading.is_none() && order.is_some_and(|order| leads(&order.part)),
            Role::Replica if facts.loading.is_none() => {
                let fresh =
                    |heard: Instant| max_lag_seconds == 0 || now.duration_since(heard) <= Duration::from_secs(max_lag_seconds.into());
                self.heard.is_some_and(fresh)
            }
            Role::Replica | Role::Isolated | Role::Unknown => false,
        }
    }
}
