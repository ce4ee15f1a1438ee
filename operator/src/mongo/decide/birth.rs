//! The first configuration: initiated once in a set's life (I10), or found on volumes of an earlier life.

use std::collections::BTreeSet;

use crds::shared::{Transition, TransitionKind};
use sidecar_protocol::mongo::config::SetId;
use sidecar_protocol::mongo::{Answer, Assignment};

use super::{Authority, Decision, Route, State, View, set};

/// A set without an identity.
pub fn decide(view: &View<'_>) -> Decision {
    let mut decision = match &view.status.transition {
        Some(change) if change.kind == TransitionKind::Initialise => initiate(view, change),
        _ => choose(view),
    };
    decision.route = Route::Nobody;
    decision
}

fn choose(view: &View<'_>) -> Decision {
    let sets: BTreeSet<&SetId> = view.states().filter_map(|(_, state)| identity(&state.answer)).collect();
    // An error is not a "no": a silent member might be in a set of an earlier life, unless its volume is new.
    let unknown: Vec<String> = (0..view.desired.replicas)
        .filter(|ordinal| view.state(*ordinal).is_none_or(|state| state.answer == Answer::Unknown))
        .filter(|ordinal| *ordinal == 0 || !view.member(*ordinal).is_none_or(|member| member.fresh_volume))
        .map(|ordinal| view.desired.member_name(ordinal))
        .collect();
    if sets.len() > 1 {
        let sets = sets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
        let reason = format!("the volumes are of different sets: {sets}; delete those that must not survive");
        return Decision::new(view, State::Lost, reason).stalled("DifferentSets");
    }
    if !unknown.is_empty() {
        let reason = format!("waiting for {} to say whether it is in a set", unknown.join(", "));
        return Decision::new(view, State::Creating, reason).progressing(None);
    }
    if let Some(id) = sets.first() {
        return pin(view, id, "the volumes are of an earlier life");
    }
    let name = view.desired.member_name(0);
    let since = view.now.to_string();
    let change = Transition { kind: TransitionKind::Initialise, from: None, to: Some(name.clone()), promoting: false, since };
    let authority = Authority { term: view.status.term + 1, transition: Some(change), ..Authority::of(view.status) };
    Decision::claim(view, State::Creating, format!("nobody is in a set: {name} initiates one"), authority)
}

fn initiate(view: &View<'_>, change: &Transition) -> Decision {
    let first = change.to.as_deref().and_then(|name| view.desired.ordinal(name)).unwrap_or(0);
    let name = view.desired.member_name(first);
    if let Some(id) = view.state(first).and_then(|state| identity(&state.answer)) {
        return pin(view, id, &format!("{name} is initiated"));
    }
    let why = view.member_problem(first).unwrap_or_else(|| "being initiated".to_owned());
    let mut decision = Decision::new(view, State::Creating, format!("{name} begins the set: {why}")).progressing(None);
    decision.orders.insert(first, Assignment::Initiate { set: view.desired.name.clone(), desired: set::wanted(view) });
    decision
}

/// From here on nobody initiates a set again.
fn pin(view: &View<'_>, id: &SetId, why: &str) -> Decision {
    let term = view.status.term.max(1);
    let authority = Authority { term, replica_set_id: Some(id.hex.clone()), transition: None, ..Authority::of(view.status) };
    Decision::claim(view, State::Creating, format!("{why}: this is set {id} for good"), authority)
}

fn identity(answer: &Answer) -> Option<&SetId> {
    match answer {
        Answer::InSet(id) => Some(id),
        Answer::NotInSet | Answer::Unknown => None,
    }
}
