//! The first primary: an empty member once in a cluster's life (I10), or one whose volume already holds data.

use sidecar_protocol::redis::Data;

use super::view::epochs;
use super::{Authority, Decision, Route, State, View};

/// A cluster without a first primary.
pub fn decide(view: &View<'_>) -> Decision {
    let mut decision = choose(view);
    decision.route = Route::Nobody;
    decision
}

fn choose(view: &View<'_>) -> Decision {
    let wanted = 0..view.desired.replicas;
    // An error is not a "no": a silent member might hold the data of an earlier life, unless its volume is new.
    let unknown: Vec<String> = wanted
        .clone()
        .filter(|ordinal| !known(view, *ordinal))
        .filter(|ordinal| *ordinal == 0 || !view.member(*ordinal).is_none_or(|member| member.fresh_volume))
        .map(|ordinal| view.desired.member_name(ordinal))
        .collect();
    if !unknown.is_empty() {
        return Decision::new(view, State::Creating, format!("waiting for {} to say what it holds", unknown.join(", "))).progressing(None);
    }
    let positions: Vec<_> = wanted.filter_map(|ordinal| Some((ordinal, view.position(ordinal)?))).collect();
    if positions.is_empty() {
        return lead(view, 0, "nobody holds anything");
    }
    // Volumes of an earlier life: the one that holds everything leads (I3).
    let best = positions.iter().find(|(_, mine)| positions.iter().all(|(_, other)| mine.contains(other)));
    if let Some((ordinal, _)) = best {
        return lead(view, *ordinal, "volumes hold data of an earlier life, and it holds all of it");
    }
    let diverged = positions.iter().flat_map(|(a, mine)| positions.iter().map(move |(b, other)| (a, b, mine.comparable(other))));
    let pair = diverged.into_iter().find(|(_, _, comparable)| !comparable);
    let (a, b) = pair.map_or((0, 0), |(a, b, _)| (*a, *b));
    let (a, b) = (view.desired.member_name(a), view.desired.member_name(b));
    let reason = format!("{a} and {b} hold different histories; delete the volume that must not survive");
    Decision::new(view, State::Lost, reason).stalled("DivergedHistories")
}

/// It says what it holds, or that it holds nothing.
fn known(view: &View<'_>, ordinal: u32) -> bool {
    view.runs(ordinal)
        && view.state(ordinal).is_some_and(|state| match state.data {
            Data::Empty => true,
            Data::Present => state.position.is_some(),
            Data::Loading { .. } | Data::Syncing { .. } => false,
        })
}

fn lead(view: &View<'_>, ordinal: u32, why: &str) -> Decision {
    let name = view.desired.member_name(ordinal);
    let history = view.position(ordinal).map(|held| epochs(view.lineage().ended_at(held))).unwrap_or_default();
    let authority = Authority {
        term: view.status.term + 1,
        primary: Some(name.clone()),
        initialised: true,
        transition: None,
        ack_set: Vec::new(),
        acks: 0,
        primary_identity: view.joins(ordinal).map(|member| member.identity),
        history,
        handover: None,
    };
    Decision::claim(view, State::Creating, format!("{why}: {name} leads"), authority)
}
