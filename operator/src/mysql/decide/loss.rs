//! The primary's data is gone: promote the replica that holds all that was acknowledged (I2, I3), or stop and ask.
//!
//! A primary that is merely silent is not lost; this room is entered only when its own sidecar says that the volume is empty.

use crds::mysql::{AckMember, Transition, TransitionKind};
use sidecar_protocol::mysql::Assignment;

use super::{Authority, CHANGING, Decision, SETTLING, State, View, acks, follow};

/// Claims a term: from here on nobody obeys an older order.
pub fn begin(view: &View<'_>, primary: u32) -> Decision {
    let old = view.desired.member_name(primary);
    let change =
        Transition { kind: TransitionKind::Failover, from: Some(old.clone()), to: None, promoting: false, since: view.now.to_string() };
    let authority =
        Authority { term: view.status.term + 1, primary: Some(old.clone()), transition: Some(change), ..Authority::of(view.status) };
    Decision::claim(
        view,
        State::FailingOver,
        format!("the volume of {old}, the primary, is empty: its replicas are asked what they hold"),
        authority,
    )
}

/// Goes on: stop receivers, read positions, choose, promote.
pub fn go_on(view: &View<'_>, primary: u32, change: &Transition) -> Decision {
    match change.to.as_deref().and_then(|name| view.ordinal(name)) {
        Some(to) => promote(view, to),
        None => choose(view, primary, change),
    }
}

fn choose(view: &View<'_>, primary: u32, change: &Transition) -> Decision {
    let others: Vec<u32> = view.observed.members.keys().copied().filter(|ordinal| *ordinal != primary).collect();
    // I2: receivers are stopped first; only positions read after that count.
    let stopped: Vec<u32> =
        others.iter().copied().filter(|o| view.has_data(*o) && view.is_isolated(*o) && view.held(*o).is_some()).collect();
    let voters = u32::try_from(stopped.iter().filter(|ordinal| acks::counts(view, **ordinal)).count()).unwrap_or(0);
    let size = u32::try_from(view.status.ack_set.len()).unwrap_or(u32::MAX);
    // Every acknowledged transaction is on `acks` members of the set, so any size − acks + 1 of them include one that holds it.
    let quorum = (view.status.acks > 0).then(|| (size + 1).saturating_sub(view.status.acks).max(1));
    let waiting: Vec<u32> = others.iter().copied().filter(|ordinal| view.has_data(*ordinal) && !stopped.contains(ordinal)).collect();

    let positions: Vec<_> = stopped.iter().filter_map(|ordinal| Some((*ordinal, view.held(*ordinal)?))).collect();
    let best = positions.iter().find(|(_, mine)| positions.iter().all(|(_, other)| mine.contains(other))).map(|(ordinal, _)| *ordinal);

    let safe = quorum.is_some_and(|quorum| voters >= quorum);
    let consented = view.observed.consent.as_ref().filter(|(_, term)| *term == view.status.term).and_then(|(name, _)| view.ordinal(name));
    let consented = consented.filter(|ordinal| stopped.contains(ordinal));
    if waiting.is_empty() || safe {
        // I3: the promoted member holds every position that was read.
        if let Some(to) = consented.or(best.filter(|_| safe)) {
            return claim(view, change, to, consented.is_some(), &stopped);
        }
    }
    let mut decision = explain(view, primary, &positions, &waiting, quorum, voters, best.is_some());
    for ordinal in others {
        decision.orders.insert(ordinal, Assignment::Isolated);
    }
    decision
}

fn claim(view: &View<'_>, change: &Transition, to: u32, consented: bool, stopped: &[u32]) -> Decision {
    let new = view.desired.member_name(to);
    let uuid = |ordinal: u32| view.state(ordinal).and_then(|state| state.server_uuid.clone());
    // Only who holds all of it now; a follower that is behind joins when it has caught up, or a second loss could promote it too early.
    let all = view.held(to).unwrap_or_default();
    let complete = |ordinal: u32| view.held(ordinal).is_some_and(|held| held.contains(&all));
    let followers = stopped.iter().copied().filter(|ordinal| *ordinal != to && *ordinal < view.desired.replicas && complete(*ordinal));
    let ack_set: Vec<AckMember> =
        followers.filter_map(|ordinal| Some(AckMember { name: view.desired.member_name(ordinal), server_uuid: uuid(ordinal)? })).collect();
    // After consent nobody is left to hold what was acknowledged; asking for more than there are replicas would only hang.
    let acks = if consented { view.status.acks.min(u32::try_from(ack_set.len()).unwrap_or(u32::MAX)) } else { view.status.acks };
    let change = Transition { to: Some(new.clone()), promoting: true, ..change.clone() };
    let authority = Authority { primary: Some(new.clone()), transition: Some(change), ack_set, acks, ..Authority::of(view.status) };
    let reason = if consented {
        format!("{new} leads by a person's consent")
    } else {
        format!("{new} holds every acknowledged transaction and leads")
    };
    Decision::claim(view, State::FailingOver, reason, authority)
}

/// Why not yet, or why not at all: every position, and the consent that would let it go on.
fn explain(
    view: &View<'_>,
    primary: u32,
    positions: &[(u32, sidecar_protocol::gtid::GtidSet)],
    waiting: &[u32],
    quorum: Option<u32>,
    voters: u32,
    comparable: bool,
) -> Decision {
    let old = view.desired.member_name(primary);
    if !waiting.is_empty() {
        let names = waiting.iter().map(|ordinal| view.desired.member_name(*ordinal)).collect::<Vec<_>>().join(", ");
        return Decision::new(view, State::FailingOver, format!("waiting for {names} to stop receiving")).progressing(Some(CHANGING));
    }
    if view.observed.members.keys().any(|ordinal| view.state(*ordinal).is_none()) && quorum.is_none_or(|quorum| voters < quorum) {
        let silent: Vec<String> =
            view.observed.members.keys().filter(|o| view.state(**o).is_none()).map(|o| view.desired.member_name(*o)).collect();
        return Decision::new(view, State::FailingOver, format!("the data of {old} is gone; waiting for {} to answer", silent.join(", ")))
            .stalled("WaitingForMembers")
            .progressing(Some(SETTLING));
    }
    if positions.is_empty() {
        let reason = "every volume is empty; an initialised cluster is never initialised again: restore a backup into a new MySQLCluster, or bring a volume back";
        return Decision::new(view, State::Lost, reason).stalled("AllVolumesEmpty");
    }
    let rows = positions
        .iter()
        .map(|(ordinal, held)| format!("{} holds {held}", view.desired.member_name(*ordinal)))
        .collect::<Vec<_>>()
        .join("; ");
    let best = positions.iter().max_by_key(|(_, held)| held.count()).map_or(0, |(ordinal, _)| *ordinal);
    let why = if comparable {
        "an acknowledged transaction may be on none of the members that are left"
    } else {
        "the histories that are left differ"
    };
    let reason = format!(
        "the data of {old} is gone and {why}: {rows}. To go on with what {} holds: kubectl annotate myc {} understudy.dev/accept-loss={}@{}",
        view.desired.member_name(best),
        view.desired.name,
        view.desired.member_name(best),
        view.status.term
    );
    Decision::new(view, State::Lost, reason).stalled("Lost")
}

fn promote(view: &View<'_>, to: u32) -> Decision {
    if view.lost_its_data(to) {
        return begin(view, to);
    }
    let new = view.desired.member_name(to);
    if view.is_open_primary(to) {
        let authority = Authority { transition: None, ..Authority::of(view.status) };
        return Decision::claim(view, State::FailingOver, format!("{new} is the primary"), authority);
    }
    let mut decision = Decision::new(view, State::FailingOver, format!("{new} applies what it received, then opens"));
    decision.orders = follow(view, to, view.status.acks);
    decision.progressing(Some(CHANGING))
}
