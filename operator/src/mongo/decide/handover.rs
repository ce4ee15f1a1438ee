//! A planned hand-over: the leader is told to yield to a member that has caught up. mongod keeps the old one leading until the new one is
//! elected, so nothing has to be rolled back when it does not come about (I11).

use std::time::Duration;

use crds::annotations::ANY;
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use sidecar_protocol::mongo::Yield;

use super::{Authority, CHANGING, Decision, Route, State, View, set};

/// A hand-over that has not come about in this time is taken back, in seconds.
const DEADLINE_SECONDS: i64 = 10;
/// How long after one that was taken back the next is tried, in seconds.
const PAUSE_SECONDS: i64 = 60;
/// A candidate that is further behind is not chosen: catching up is part of the pause, in seconds.
const LAG_SECONDS: u32 = 2;
/// Without a candidate, how soon to look again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a wish to move the primary.
pub enum Wanted {
    /// There is none, or nobody to hand over to.
    Nothing,
    /// Claim this.
    Claim(Box<Decision>),
    /// A person's request is not fulfilled: why.
    Refused(String),
}

/// A hand-over that a person asks for, that the pod's deletion asks for, or that is `planned`.
pub fn wanted(view: &View<'_>, leader: u32, planned: Option<&str>) -> Wanted {
    let old = view.desired.member_name(leader);
    let begin = |why: &str| candidate(view, leader).map_or(Wanted::Nothing, |to| begin(view, leader, to, why));
    if view.member(leader).and_then(|member| member.pod.as_ref()).is_some_and(|pod| pod.deleting) {
        return begin(&format!("the pod of {old} is being deleted"));
    }
    let planned = planned.filter(|_| !just_taken_back(view));
    match view.observed.asked.switchover.as_ref().filter(|(_, term)| *term == view.status.term) {
        Some((member, _)) => match (requested(view, leader, member), planned) {
            // Refused once, it stays so in this term; the set's own need is not refused with it.
            (refused @ Wanted::Refused(_), Some(why)) => match begin(why) {
                Wanted::Nothing => refused,
                begun => begun,
            },
            (requested, _) => requested,
        },
        None => match (&view.status.handover, planned) {
            // Asked anew, it is considered anew.
            (Some(_), _) => record(view, None, "the hand-over is not asked for any more"),
            (None, Some(why)) => begin(why),
            (None, None) => Wanted::Nothing,
        },
    }
}

fn requested(view: &View<'_>, leader: u32, member: &str) -> Wanted {
    let request = format!("{member}@{}", view.status.term);
    if let Some(refused) = view.status.handover.as_ref().filter(|known| known.request == request).and_then(|known| known.refused.clone()) {
        return Wanted::Refused(refused);
    }
    let to = if member == ANY { candidate(view, leader) } else { view.desired.ordinal(member) };
    let unfit = match to {
        Some(to) if to >= view.desired.replicas => Some(format!("{} has no such member", view.desired.name)),
        Some(to) if to == leader => Some(format!("{member} is the primary already")),
        Some(to) => unfit(view, to),
        None if member == ANY => Some("no other member can lead now".to_owned()),
        None => Some(format!("{} has no such member", view.desired.name)),
    };
    match (to, unfit) {
        (Some(to), None) => begin(view, leader, to, "a person asks for it"),
        (_, why) => {
            let refused = format!("switchover to {member} is refused: {}", why.unwrap_or_default());
            let known = HandoverRequest { request, since: view.now.to_string(), refused: Some(refused.clone()) };
            record(view, Some(known), &refused)
        }
    }
}

/// Why a member must not take over.
fn unfit(view: &View<'_>, ordinal: u32) -> Option<String> {
    let name = view.desired.member_name(ordinal);
    match () {
        () if view.is_fenced(ordinal) => Some(format!("{name} is fenced")),
        () if view.desired.is_arbiter(ordinal) => Some(format!("{name} is an arbiter")),
        () if view.state(ordinal).is_none() => Some(format!("{name} does not answer")),
        () if !view.serves(ordinal) => {
            Some(format!("{name} is not ready{}", view.member_problem(ordinal).map_or(String::new(), |why| format!(": {why}"))))
        }
        () if !view.can_lead(ordinal) => Some(format!("{name} has no vote, or a priority of 0")),
        () if view.state(ordinal).and_then(|state| state.lag_seconds).is_none_or(|lag| lag > LAG_SECONDS) => {
            Some(format!("{name} has not caught up"))
        }
        () => None,
    }
}

fn record(view: &View<'_>, handover: Option<HandoverRequest>, reason: &str) -> Wanted {
    let refused = handover.as_ref().and_then(|known| known.refused.clone());
    let authority = Authority { handover, ..Authority::of(view.status) };
    Wanted::Claim(Box::new(Decision { refused, ..Decision::claim(view, State::SwitchingOver, reason, authority) }))
}

/// Claims a term for the hand-over.
fn begin(view: &View<'_>, leader: u32, to: u32, why: &str) -> Wanted {
    let (old, new) = (view.desired.member_name(leader), view.desired.member_name(to));
    let reason = format!("{why}: {old} hands over to {new}");
    Wanted::Claim(Box::new(change(view, TransitionKind::Switchover, old, new, reason)))
}

fn change(view: &View<'_>, kind: TransitionKind, from: String, to: String, reason: String) -> Decision {
    let change = Transition { kind, from: Some(from), to: Some(to), promoting: false, since: view.now.to_string() };
    let authority = Authority { term: view.status.term + 1, transition: Some(change), handover: None, ..Authority::of(view.status) };
    Decision::claim(view, State::SwitchingOver, reason, authority)
}

/// A hand-over was taken back a moment ago.
fn just_taken_back(view: &View<'_>) -> bool {
    let change = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::TakenBack);
    change.is_some_and(|change| view.seconds_since(&change.since) < PAUSE_SECONDS)
}

/// The best member to take over: fit, and not about to be replaced itself; the most advanced, then the lowest ordinal.
fn candidate(view: &View<'_>, leader: u32) -> Option<u32> {
    let up_to_date = |ordinal: u32| view.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| !pod.outdated);
    let fit = view.states().filter(|(ordinal, _)| *ordinal != leader && unfit(view, *ordinal).is_none());
    fit.max_by_key(|(ordinal, state)| (up_to_date(*ordinal), state.optime, std::cmp::Reverse(*ordinal))).map(|(ordinal, _)| ordinal)
}

/// Goes on with a claimed hand-over while the old leader leads.
pub fn go_on(view: &View<'_>, leader: u32, transition: &Transition) -> Decision {
    let old = view.desired.member_name(leader);
    let to = transition.to.as_deref().and_then(|name| view.desired.ordinal(name));
    let (Some(to), Some(term)) = (to, view.status.election_term) else {
        return change(view, TransitionKind::TakenBack, old.clone(), old, "the hand-over's record is not complete: taken back".to_owned());
    };
    let new = view.desired.member_name(to);
    let late = view.seconds_since(&transition.since) > DEADLINE_SECONDS;
    // Who has won its election already is no secondary any more, and the old leader may not have heard of it yet.
    if late || !(view.can_lead(to) || view.is_elected(to)) {
        let why = if late { "the deadline has passed".to_owned() } else { format!("{new} can not lead any more") };
        return change(
            view,
            TransitionKind::TakenBack,
            old.clone(),
            new.clone(),
            format!("the hand-over from {old} to {new} is taken back: {why}"),
        );
    }
    let mut decision = Decision::new(view, State::SwitchingOver, format!("{old} hands over to {new}")).progressing(Some(CHANGING));
    decision.orders = set::orders(view, None, Some((leader, Yield { host: view.desired.set_host(to), term })));
    decision.route = Route::To(leader);
    decision
}
