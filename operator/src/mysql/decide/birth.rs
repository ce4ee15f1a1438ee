//! The first primary: initialise once in a cluster's life (I10), or adopt volumes that already hold data.

use crds::shared::{Transition, TransitionKind};
use sidecar_protocol::gtid::Relation;
use sidecar_protocol::mysql::Assignment;

use super::{Authority, Decision, Route, State, View};

/// A cluster without a first primary.
pub fn decide(view: &View<'_>) -> Decision {
    let mut decision = match &view.status.transition {
        Some(change) if change.kind == TransitionKind::Initialise => initialise(view, change),
        _ => choose(view),
    };
    decision.route = Route::Nobody;
    decision
}

fn choose(view: &View<'_>) -> Decision {
    let wanted = 0..view.desired.replicas;
    if wanted.clone().any(|ordinal| view.has_data(ordinal)) {
        return adopt(view);
    }
    // An error is not a "no": a silent member might hold the data of an earlier life, unless its volume is new.
    let unknown: Vec<String> = wanted
        .filter(|ordinal| !view.lost_its_data(*ordinal))
        .filter(|ordinal| *ordinal == 0 || !view.member(*ordinal).is_none_or(|member| member.fresh_volume))
        .map(|ordinal| view.desired.member_name(ordinal))
        .collect();
    if !unknown.is_empty() {
        return Decision::new(view, State::Creating, format!("waiting for {} to say what its volume holds", unknown.join(", ")))
            .progressing(None);
    }
    let name = view.desired.member_name(0);
    let change =
        Transition { kind: TransitionKind::Initialise, from: None, to: Some(name.clone()), promoting: false, since: view.now.to_string() };
    let reason = format!("every volume is empty: {name} initialises");
    let authority = Authority { term: view.status.term + 1, primary: Some(name), transition: Some(change), ..Authority::of(view.status) };
    Decision::claim(view, State::Creating, reason, authority)
}

/// Volumes of an earlier life: the one that holds everything leads (I3).
fn adopt(view: &View<'_>) -> Decision {
    let silent: Vec<String> = (0..view.desired.replicas)
        .filter(|ordinal| view.state(*ordinal).is_none() || (view.has_data(*ordinal) && view.held(*ordinal).is_none()))
        .map(|ordinal| view.desired.member_name(ordinal))
        .collect();
    if !silent.is_empty() {
        let reason = format!("volumes hold data of an earlier life; waiting for {} to tell its position", silent.join(", "));
        return Decision::new(view, State::Creating, reason).progressing(None);
    }
    let positions: Vec<_> = (0..view.desired.replicas).filter(|o| view.has_data(*o)).filter_map(|o| Some((o, view.held(o)?))).collect();
    let best = positions.iter().find(|(_, mine)| positions.iter().all(|(_, other)| mine.contains(other)));
    match best {
        Some((ordinal, _)) => {
            let name = view.desired.member_name(*ordinal);
            let reason = format!("volumes hold data of an earlier life: {name} holds all of it and leads");
            let authority = Authority {
                term: view.status.term + 1,
                primary: Some(name),
                initialised: true,
                transition: None,
                ack_set: Vec::new(),
                acks: 0,
                handover: None,
            };
            Decision::claim(view, State::Creating, reason, authority)
        }
        None => {
            let diverged = positions.iter().flat_map(|(a, mine)| positions.iter().map(move |(b, other)| (a, b, mine.compare(other))));
            let pair = diverged.into_iter().find(|(_, _, relation)| *relation == Relation::Diverged);
            let (a, b) = pair.map_or((0, 0), |(a, b, _)| (*a, *b));
            let reason = format!(
                "the volumes of {} and {} hold different histories; delete the volume that must not survive",
                view.desired.member_name(a),
                view.desired.member_name(b)
            );
            Decision::new(view, State::Lost, reason).stalled("DivergedHistories")
        }
    }
}

fn initialise(view: &View<'_>, change: &Transition) -> Decision {
    let first = change.to.as_deref().and_then(|name| view.ordinal(name)).unwrap_or(0);
    let name = view.desired.member_name(first);
    if view.has_data(first) && view.accepted(first).is_some() {
        let authority = Authority { initialised: true, transition: None, ..Authority::of(view.status) };
        return Decision::claim(view, State::Creating, format!("{name} is initialised"), authority);
    }
    let why = view.member_problem(first).unwrap_or_else(|| "opening".to_owned());
    let mut decision = Decision::new(view, State::Creating, format!("{name} becomes the first primary: {why}")).progressing(None);
    decision.orders.insert(first, Assignment::Initialise);
    decision
}
