//! A planned switchover: after a pre-flight the old primary stops, the new one holds everything, then it opens. Rolls back when it cannot finish in time (I11).

use std::time::Duration;

use crds::annotations::ANY;
use crds::mysql::AckMember;
use crds::shared::{HandoverRequest, Transition, TransitionKind};
use sidecar_protocol::mysql::Assignment;

use super::{Authority, CHANGING, Decision, State, View, acks, alarm, failover};

/// A hand-over that has not reached its candidate in this time is taken back, in seconds.
const DEADLINE_SECONDS: i64 = 5;
/// How long after one that was taken back the next is tried, in seconds.
const PAUSE_SECONDS: i64 = 60;
/// How long transactions in progress and lagging candidates are waited for, in seconds.
const PREFLIGHT_SECONDS: i64 = 30;
/// A client's transaction of this age is waited for: it would be lost, and its roll-back would take as long again.
const BUSY_SECONDS: u32 = 1;
/// A candidate that has to apply more than this is waited for, in seconds: applying is part of the pause.
const LAG_SECONDS: f64 = 1.0;
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
    match not_now(view, primary).or_else(|| behind(view, to)) {
        None => begin(view, primary, to, why),
        Some(not_now) if waited(view, &request).is_some_and(|seconds| seconds > PREFLIGHT_SECONDS) => refuse(not_now),
        Some(not_now) => wait(view, &request, &not_now),
    }
}

/// Why a member must not take over.
fn unfit(view: &View<'_>, ordinal: u32, primary: u32) -> Option<String> {
    let name = view.desired.member_name(ordinal);
    let lag = view.state(ordinal).and_then(|state| state.replication.as_ref()?.lag_seconds);
    match () {
        () if view.is_fenced(ordinal) => Some(format!("{name} is fenced")),
        () if view.state(ordinal).is_none() => Some(format!("{name} does not answer")),
        () if !view.follows(ordinal, primary) => Some(format!(
            "{name} does not follow the primary{}",
            view.member_problem(ordinal).map_or(String::new(), |why| format!(": {why}"))
        )),
        () if !view.serves(ordinal) => match lag {
            Some(lag) if lag > f64::from(view.desired.own.max_replica_lag_seconds) => Some(format!("{name} lags {lag:.0} s behind")),
            _ => Some(format!("{name} is not ready")),
        },
        () if !acks::counts(view, ordinal) => Some(format!("{name} has not caught up: its acknowledgement does not count yet")),
        () => None,
    }
}

/// Why a write pause would not be short now.
fn not_now(view: &View<'_>, primary: u32) -> Option<String> {
    let seconds = view.state(primary)?.busy_seconds.filter(|seconds| *seconds >= BUSY_SECONDS)?;
    // In whole words: a status that counted seconds would be written each second.
    let age = if i64::from(seconds) < PREFLIGHT_SECONDS { "seconds" } else { "more than half a minute" };
    Some(format!("a client's transaction has been running on {} for {age}", view.desired.member_name(primary)))
}

fn behind(view: &View<'_>, to: u32) -> Option<String> {
    let lag = view.state(to)?.replication.as_ref()?.lag_seconds.filter(|lag| *lag > LAG_SECONDS);
    lag.map(|_| format!("{} has more than {LAG_SECONDS} s to apply", view.desired.member_name(to)))
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
/// replaced itself; the most advanced, then the lowest ordinal.
fn candidate(view: &View<'_>, primary: u32) -> Option<u32> {
    let pod = |ordinal: u32| view.member(ordinal).and_then(|member| member.pod.as_ref());
    let up_to_date = |ordinal: u32| pod(ordinal).is_some_and(|pod| !pod.outdated);
    let held = |ordinal: u32| view.held(ordinal).map_or(0, |position| position.count());
    (0..view.desired.replicas)
        .filter(|ordinal| *ordinal != primary && unfit(view, *ordinal, primary).is_none())
        .min_by_key(|ordinal| (!up_to_date(*ordinal), std::cmp::Reverse(held(*ordinal)), *ordinal))
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
    // It went in the middle: nobody was told to open, so the recorded set still holds all that it acknowledged.
    if let Some(claim) = failover::begin(view, from, &alarm::of(view, from)) {
        return claim;
    }
    let stopped = view.is_isolated(from).then(|| view.executed(from)).flatten();
    let reached = stopped.is_some_and(|history| view.held(to).is_some_and(|held| held.contains(history)));
    if reached && !view.is_errant(to, from) {
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
    if stopped.is_some() {
        // A new order is answered with a fresh position: one that was read after the old primary stopped.
        decision.orders.insert(to, Assignment::Replica { source: view.peer(from), donors: Vec::new(), acknowledges: true, replace: None });
    }
    decision.progressing(Some(CHANGING))
}

/// The same members acknowledge, with the old primary in the place of the new one.
fn ack_set_after(view: &View<'_>, from: u32, to: u32) -> Vec<AckMember> {
    let new = view.desired.member_name(to);
    view.status.ack_set.iter().filter(|member| member.name != new).cloned().chain(view.joins(from)).collect()
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
