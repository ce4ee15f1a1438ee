//! A planned switchover: the old primary stops, the new one holds everything, then it opens. Rolls back when it cannot finish in time (I11).

use std::time::Duration;

use crds::mysql::{AckMember, Transition, TransitionKind};
use sidecar_protocol::mysql::Assignment;

use super::{Authority, CHANGING, Decision, Route, State, View, acks, follow};

/// A hand-over that has not reached its candidate in this time is taken back, in seconds.
const DEADLINE_SECONDS: i64 = 15;
/// How long after one that was taken back the next is tried, in seconds.
const PAUSE_SECONDS: i64 = 60;
/// After a roll-back, or without a candidate, how soon to look again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Claims a term for the hand-over; `None` while there is nobody to hand over to.
pub fn begin(view: &View<'_>, primary: u32, why: &str) -> Option<Decision> {
    let old = view.desired.member_name(primary);
    let candidate = candidate(view, primary).filter(|_| !just_taken_back(view))?;
    let new = view.desired.member_name(candidate);
    let change = Transition {
        kind: TransitionKind::Switchover,
        from: Some(old.clone()),
        to: Some(new.clone()),
        promoting: false,
        since: view.now.to_string(),
    };
    let authority =
        Authority { term: view.status.term + 1, primary: Some(new.clone()), transition: Some(change), ..Authority::of(view.status) };
    Some(Decision::claim(view, State::SwitchingOver, format!("{why}: {old} hands over to {new}"), authority))
}

/// A hand-over was taken back a moment ago.
fn just_taken_back(view: &View<'_>) -> bool {
    let change = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::TakenBack);
    let since: Option<jiff::Timestamp> = change.and_then(|change| change.since.parse().ok());
    since.is_some_and(|since| view.now.as_second() - since.as_second() < PAUSE_SECONDS)
}

/// The best member to take over: it serves, follows the primary, counts for acknowledgements (so I2 covers it) and is not about to be
/// replaced itself; the most advanced, then the lowest ordinal.
fn candidate(view: &View<'_>, primary: u32) -> Option<u32> {
    let up_to_date = |ordinal: u32| view.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| !pod.outdated);
    let held = |ordinal: u32| view.held(ordinal).map_or(0, |position| position.count());
    (0..view.desired.replicas)
        .filter(|ordinal| *ordinal != primary && view.follows(*ordinal, primary) && view.serves(*ordinal) && acks::counts(view, *ordinal))
        .min_by_key(|ordinal| (!up_to_date(*ordinal), std::cmp::Reverse(held(*ordinal)), *ordinal))
}

/// Goes on with a claimed hand-over to `to`.
pub fn go_on(view: &View<'_>, to: u32, change: &Transition) -> Decision {
    let Some(from) = change.from.as_deref().and_then(|name| view.ordinal(name)) else {
        return take_back(view, to, to, "the record names no old primary");
    };
    let (old, new) = (view.desired.member_name(from), view.desired.member_name(to));
    if change.promoting {
        return promote(view, to);
    }
    if view.lost_its_data(from) {
        return super::loss::begin(view, from);
    }
    let stopped = view.is_isolated(from).then(|| view.executed(from)).flatten();
    let reached = stopped.is_some_and(|history| view.held(to).is_some_and(|held| held.contains(history)));
    if reached {
        // Recorded before the first order to open: from here on it cannot be taken back.
        let change = Transition { promoting: true, ..change.clone() };
        let authority = Authority { transition: Some(change), ack_set: ack_set_after(view, from, to), ..Authority::of(view.status) };
        return Decision::claim(view, State::SwitchingOver, format!("{old} stopped and {new} holds all it wrote: {new} opens"), authority);
    }
    let since: Option<jiff::Timestamp> = change.since.parse().ok();
    let late = since.is_none_or(|since| view.now.as_second() - since.as_second() > DEADLINE_SECONDS);
    if late || view.lost_its_data(to) {
        return take_back(view, from, to, if late { "the deadline has passed" } else { "its volume is empty" });
    }
    let waiting_for =
        if stopped.is_some() { format!("{new} to receive the last writes") } else { format!("{old} to stop accepting writes") };
    let mut decision = Decision::new(view, State::SwitchingOver, format!("{old} hands over to {new}: waiting for {waiting_for}"));
    decision.orders.insert(from, Assignment::Isolated);
    decision.orders.insert(to, Assignment::Replica { source: view.peer(from), donors: Vec::new(), acknowledges: true, replace: None });
    decision.progressing(Some(CHANGING))
}

/// The same members acknowledge, with the old primary in the place of the new one.
fn ack_set_after(view: &View<'_>, from: u32, to: u32) -> Vec<AckMember> {
    let new = view.desired.member_name(to);
    let old = view
        .state(from)
        .and_then(|state| state.server_uuid.clone())
        .map(|server_uuid| AckMember { name: view.desired.member_name(from), server_uuid });
    view.status.ack_set.iter().filter(|member| member.name != new).cloned().chain(old).collect()
}

/// Nobody was told to open, so the old primary may: under a new term, which the candidate has not seen.
fn take_back(view: &View<'_>, from: u32, to: u32, why: &str) -> Decision {
    let (old, new) = (view.desired.member_name(from), view.desired.member_name(to));
    // The record stays, so that the next attempt waits: each one costs a pause of writes.
    let change = Transition {
        kind: TransitionKind::TakenBack,
        from: Some(old.clone()),
        to: Some(new.clone()),
        promoting: false,
        since: view.now.to_string(),
    };
    let authority =
        Authority { term: view.status.term + 1, primary: Some(old.clone()), transition: Some(change), ..Authority::of(view.status) };
    Decision::claim(view, State::SwitchingOver, format!("the hand-over from {old} to {new} is taken back: {why}"), authority)
}

fn promote(view: &View<'_>, to: u32) -> Decision {
    if view.lost_its_data(to) {
        return super::loss::begin(view, to);
    }
    let new = view.desired.member_name(to);
    if view.is_open_primary(to) {
        let authority = Authority { transition: None, ..Authority::of(view.status) };
        let mut decision = Decision::claim(view, State::SwitchingOver, format!("{new} is the primary"), authority);
        decision.route = Route::To(to);
        return decision;
    }
    let mut decision = Decision::new(view, State::SwitchingOver, format!("{new} applies what it received, then opens"));
    decision.orders = follow(view, to, view.status.acks);
    decision.progressing(Some(CHANGING))
}
