//! What of a look, and of a state, is news, and what only says how far things are.

use sidecar_protocol::redis::{Data, Role, State};

use super::observe::Facts;

/// Whether nothing has happened between two looks. Offsets of a busy primary change all the time, and call for nothing.
#[must_use]
pub fn is_quiet(before: &Facts, after: &Facts) -> bool {
    settled(before) == settled(after)
}

fn settled(facts: &Facts) -> Facts {
    let mut facts = Facts { offset: 0, keys: 0, progress: 0, ..facts.clone() };
    for replica in &mut facts.replicas {
        replica.offset = 0;
    }
    if let Some(source) = &mut facts.source {
        source.heard = None;
    }
    facts
}

/// Whether the second state says nothing new but how far things are.
#[must_use]
pub fn only_positions_differ(before: &State, after: &State) -> bool {
    let settled = |state: &State| {
        let mut state = state.clone();
        if let Some(position) = &mut state.position {
            position.offset = 0;
        }
        if let Some(replication) = &mut state.replication {
            replication.lag_seconds = None;
        }
        for replica in &mut state.replicas {
            replica.offset = 0;
        }
        state.data = match state.data {
            Data::Syncing { .. } => Data::Syncing { copied: 0, total: 0 },
            Data::Loading { .. } => Data::Loading { percent: 0 },
            other => other,
        };
        state
    };
    after.role != Role::Unknown && settled(before) == settled(after)
}
