//! A planned switchover by `FAILOVER TO … TIMEOUT`: after a pre-flight the heir is told to expect it, the old primary holds back writes until the
//! heir has them all, and makes it primary; the record follows, and the others. It is taken back when that does not happen in time (I11).
//!
//! Whether it happened is what the two say themselves: the heir that it is primary, or the old one that it follows the heir. From then on there is
//! no way back, and the record says so before anybody else is repointed.

use std::time::Duration;

use crds::annotations::ANY;
use crds::redis::AckMember;
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use sidecar_protocol::redis::{Handover, Part, Role, Yield};

use super::view::epochs;
use super::{Authority, CHANGING, Decision, Route, State, View, acks, alarm, failover, follow};

/// A hand-over that has not reached its candidate in this time is taken back, in seconds.
const DEADLINE_SECONDS: i64 = 5;
/// How long after one that was taken back the next is tried, in seconds.
const PAUSE_SECONDS: i64 = 60;
/// How long a candidate that is far behind is waited for, in seconds.
const PREFLIGHT_SECONDS: i64 = 30;
/// How long the old primary holds back writes for its heir, in milliseconds.
const TIMEOUT_MILLIS: u64 = 2_000;
/// A candidate that acknowledged less than all but this many bytes is waited for: the rest is part of the pause.
const BEHIND_BYTES: u64 = 4 << 20;
/// After a roll-back, or without a candidate, how soon to look again.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What becomes of a wish to move the primary.
pub enum Wanted {
    /// There is none, or nobody to hand over to.
    Nothing,
    /// It waits: for what.
    Waiting(String),
    /// Claim this.
    Claim(Box<Decision>),
    /// A person's request is not fulfilled: why.
    Refused(String),
}

/// A hand-over that a person asks for, that the pod's deletion asks for, or that is `planned`.
pub fn wanted(view: &View<'_>, primary: u32, planned: Option<&str>) -> Wanted {
    let old = view.desired.member_name(primary);
    let leaving = view.member(primary).and_then(|member| member.pod.as_ref()).is_some_and(|pod| pod.deleting);
    if leaving {
        // Its time is short: nothing is waited for.
        return candidate(view, primary)
            .map_or(Wanted::Nothing, |to| begin(view, primary, to, &format!("the pod of {old} is being deleted")));
    }
    if let Some((member, _)) = view.observed.asked.switchover.as_ref().filter(|(_, term)| *term == view.status.term) {
        return match (requested(view, primary, member), planned.filter(|_| !just_taken_back(view)), candidate(view, primary)) {
            // Refused once, it stays so in this term; the cluster's own need is not refused with it.
            (Wanted::Refused(_), Some(why), Some(to)) if not_now(view, primary).is_none() => begin(view, primary, to, why),
            (requested, ..) => requested,
        };
    }
    let Some(why) = planned.filter(|_| !just_taken_back(view)) else { return forget(view) };
    match (candidate(view, primary), not_now(view, primary)) {
        (None, _) => Wanted::Nothing,
        (Some(to), Some(_)) if waited(view, why).is_some_and(|seconds| seconds > PREFLIGHT_SECONDS) => begin(view, primary, to, why),
        (Some(_), Some(busy)) => wait(view, why, &format!("{why}; {busy}")),
        (Some(to), None) => begin(view, primary, to, why),
    }
}

fn requested(view: &View<'_>, primary: u32, member: &str) -> Wanted {
    let (request, old) = (format!("{member}@{}", view.status.term), view.desired.member_name(primary));
    if let Some(refused) = view.status.handover.as_ref().filter(|known| known.request == request).and_then(|known| known.refused.clone()) {
        return Wanted::Refused(refused);
    }
    let named = (member != ANY).then(|| view.ordinal(member));
    let refuse = |why: String| {
        let refusal = format!("switchover to {member} is refused: {why}");
        record(view, &request, Some(refusal.clone()), refusal)
    };
    let unfit = match named {
        Some(None) => return refuse(format!("{} has no such member", view.desired.name)),
        Some(Some(ordinal)) if ordinal >= view.desired.replicas => return refuse(format!("{} has no such member", view.desired.name)),
        Some(Some(ordinal)) if ordinal == primary => return refuse(format!("{old} is the primary already")),
        Some(Some(ordinal)) => unfit(view, ordinal, primary),
        None if candidate(view, primary).is_none() => {
            let others =
                (0..view.desired.replicas).filter(|ordinal| *ordinal != primary).filter_map(|ordinal| unfit(view, ordinal, primary));
            Some(others.collect::<Vec<_>>().join("; ")).map(|why| if why.is_empty() { "there is no other member".into() } else { why })
        }
        None => None,
    };
    if let Some(why) = unfit {
        return refuse(why);
    }
    let Some(to) = named.flatten().or_else(|| candidate(view, primary)) else { return Wanted::Nothing };
    let why = "a person asks for it";
    match behind(view, primary, to) {
        None => begin(view, primary, to, why),
        Some(not_now) if waited(view, &request).is_some_and(|seconds| seconds > PREFLIGHT_SECONDS) => refuse(not_now),
        Some(not_now) => wait(view, &request, &not_now),
    }
}

/// Why a member must not take over.
fn unfit(view: &View<'_>, ordinal: u32, primary: u32) -> Option<String> {
    let name = view.desired.member_name(ordinal);
    match () {
        () if view.is_fenced(ordinal) => Some(format!("{name} is fenced")),
        () if view.state(ordinal).is_none() => Some(format!("{name} does not answer")),
        () if !view.follows(ordinal, primary) => Some(format!(
            "{name} does not follow the primary{}",
            view.member_problem(ordinal).map_or(String::new(), |why| format!(": {why}"))
        )),
        () if !view.serves(ordinal) => Some(format!("{name} is not ready")),
        () if !acks::counts(view, ordinal) => Some(format!("{name} has not caught up: its acknowledgement does not count yet")),
        () => None,
    }
}

/// Why a write pause would not be short now.
fn not_now(view: &View<'_>, primary: u32) -> Option<String> {
    let best = candidate(view, primary)?;
    behind(view, primary, best)
}

fn behind(view: &View<'_>, primary: u32, to: u32) -> Option<String> {
    let state = view.state(primary)?;
    let (held, host) = (state.position.as_ref()?, view.desired.host(to));
    let acknowledged = state.replicas.iter().find(|replica| replica.host == host)?.offset;
    let behind = held.offset.saturating_sub(acknowledged) > BEHIND_BYTES;
    // No figure: a status that counted bytes would be written each second.
    behind.then(|| format!("{} is more than {} MiB behind", view.desired.member_name(to), BEHIND_BYTES >> 20))
}

/// For how many seconds this request is recorded to wait.
fn waited(view: &View<'_>, request: &str) -> Option<i64> {
    let known = view.status.handover.as_ref().filter(|known| known.request == request)?;
    let since: jiff::Timestamp = known.since.parse().ok()?;
    Some(view.now.as_second() - since.as_second())
}

/// Notes since when it waits, once.
fn wait(view: &View<'_>, request: &str, why: &str) -> Wanted {
    match waited(view, request) {
        Some(_) => Wanted::Waiting(why.to_owned()),
        None => record(view, request, None, format!("the hand-over waits: {why}")),
    }
}

/// Nothing asks for it any more.
fn forget(view: &View<'_>) -> Wanted {
    match &view.status.handover {
        // A refusal too: asked anew, it is considered anew.
        Some(_) => {
            let authority = Authority { handover: None, ..Authority::of(view.status) };
            Wanted::Claim(Box::new(Decision::claim(view, State::SwitchingOver, "the hand-over is not asked for any more", authority)))
        }
        None => Wanted::Nothing,
    }
}

fn record(view: &View<'_>, request: &str, refused: Option<String>, reason: String) -> Wanted {
    let known = HandoverRequest { request: request.to_owned(), since: view.now.to_string(), refused: refused.clone() };
    let authority = Authority { handover: Some(known), ..Authority::of(view.status) };
    Wanted::Claim(Box::new(Decision { refused, ..Decision::claim(view, State::SwitchingOver, reason, authority) }))
}

/// Claims a term for the hand-over.
fn begin(view: &View<'_>, primary: u32, candidate: u32, why: &str) -> Wanted {
    let (old, new) = (view.desired.member_name(primary), view.desired.member_name(candidate));
    let change = Transition {
        kind: TransitionKind::Switchover,
        from: Some(old.clone()),
        to: Some(new.clone()),
        promoting: false,
        since: view.now.to_string(),
    };
    let authority = Authority {
        term: view.status.term + 1,
        primary: Some(new.clone()),
        transition: Some(change),
        handover: None,
        ..Authority::of(view.status)
    };
    Wanted::Claim(Box::new(Decision::claim(view, State::SwitchingOver, format!("{why}: {old} hands over to {new}"), authority)))
}

/// A hand-over was taken back a moment ago.
fn just_taken_back(view: &View<'_>) -> bool {
    let change = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::TakenBack);
    let since: Option<jiff::Timestamp> = change.and_then(|change| change.since.parse().ok());
    since.is_some_and(|since| view.now.as_second() - since.as_second() < PAUSE_SECONDS)
}

/// The best member to take over: it serves, follows the primary, counts for acknowledgements (so I2 covers it) and is not about to be
/// replaced itself; the lowest ordinal of those.
fn candidate(view: &View<'_>, primary: u32) -> Option<u32> {
    let pod = |ordinal: u32| view.member(ordinal).and_then(|member| member.pod.as_ref());
    let up_to_date = |ordinal: u32| pod(ordinal).is_some_and(|pod| !pod.outdated);
    (0..view.desired.replicas)
        .filter(|ordinal| *ordinal != primary && unfit(view, *ordinal, primary).is_none())
        .min_by_key(|ordinal| (!up_to_date(*ordinal), behind(view, primary, *ordinal).is_some(), *ordinal))
}

/// Goes on with a claimed hand-over to `to`.
pub fn go_on(view: &View<'_>, to: u32, change: &Transition) -> Decision {
    let Some(from) = change.from.as_deref().and_then(|name| view.ordinal(name)) else {
        return take_back(view, to, to, "the record names no old primary");
    };
    let (old, new) = (view.desired.member_name(from), view.desired.member_name(to));
    if change.promoting {
        return failover::promote(view, to, State::SwitchingOver);
    }
    if has_changed(view, from, to) {
        // Recorded before anybody else is repointed: from here on it cannot be taken back.
        let change = Transition { promoting: true, ..change.clone() };
        let history = view.position(to).map_or_else(|| view.status.history.clone(), |now| epochs(view.lineage().taken_over(now)));
        let authority = Authority {
            transition: Some(change),
            ack_set: ack_set_after(view, from, to),
            primary_identity: view.joins(to).map(|member| member.identity),
            history,
            ..Authority::of(view.status)
        };
        return Decision::claim(view, State::SwitchingOver, format!("{old} made {new} primary"), authority);
    }
    // It went in the middle, and the heir says that it was not made primary: the recorded set still holds all that was acknowledged.
    if let Some(claim) = failover::begin(view, from, &alarm::of(view, from)) {
        return claim;
    }
    let since: Option<jiff::Timestamp> = change.since.parse().ok();
    let late = since.is_none_or(|since| view.now.as_second() - since.as_second() > DEADLINE_SECONDS);
    let failed = view.accepted(from).and_then(|_| match &view.state(from)?.handover {
        Handover::Failed { why } => Some(why.as_str()),
        _ => None,
    });
    let changing = view.state(from).is_some_and(|state| state.handover == Handover::Changing);
    if let Some(why) = failed.or((late && !changing).then_some("the deadline has passed")) {
        return take_back(view, from, to, why);
    }
    let ready = is_ready(view, to, from);
    let waiting_for = if ready { format!("{new} to hold the last writes") } else { format!("{new} to expect it") };
    let mut decision = Decision::new(view, State::SwitchingOver, format!("{old} hands over to {new}: waiting for {waiting_for}"));
    decision.orders = follow(view, from, Some((to, Yield { to: view.peer(to), timeout_millis: TIMEOUT_MILLIS })));
    // The proxies learn of it while the roles change; who connects too early is told to try again.
    decision.route = if ready { Route::To(to) } else { Route::Keep };
    decision.progressing(Some(CHANGING))
}

/// The heir holds the order to be made primary by `from`.
pub fn is_ready(view: &View<'_>, heir: u32, from: u32) -> bool {
    view.accepted(heir).is_some_and(|accepted| {
        accepted.converged && matches!(accepted.assignment.part, Part::Replica { heir_of: Some(of), .. } if of == from)
    })
}

/// The roles have changed, by the words of one of the two under orders of this hand-over.
fn has_changed(view: &View<'_>, from: u32, to: u32) -> bool {
    let leads = is_ordered_heir(view, to, from) && view.state(to).is_some_and(|state| state.role == Role::Primary);
    let follows = |ordinal: u32, source: u32| {
        let link = view.state(ordinal).and_then(|state| state.replication.as_ref());
        link.is_some_and(|link| link.source == view.desired.host(source))
    };
    leads || view.accepted(from).is_some() && follows(from, to)
}

fn is_ordered_heir(view: &View<'_>, heir: u32, from: u32) -> bool {
    view.accepted(heir).is_some_and(|accepted| matches!(accepted.assignment.part, Part::Replica { heir_of: Some(of), .. } if of == from))
}

/// The same members acknowledge, with the old primary in the place of the new one: it holds all that the new one does. By the data that it
/// led with: if it lost those since, it is recorded anew like anybody else.
fn ack_set_after(view: &View<'_>, from: u32, to: u32) -> Vec<AckMember> {
    let new = view.desired.member_name(to);
    let led = view.status.primary_identity.clone();
    let old = led.map(|identity| AckMember { name: view.desired.member_name(from), identity }).or_else(|| view.joins(from));
    view.status.ack_set.iter().filter(|member| member.name != new).cloned().chain(old).collect()
}

/// The heir was not made primary, so the old primary leads on: under a new term, in which nobody may make it one.
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
