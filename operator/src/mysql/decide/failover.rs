//! The primary is lost: promote the replica that holds all that was acknowledged (I2, I3), or stop and ask.
//!
//! A term is claimed, receivers are stopped, positions are read after that, and the one that contains all of them leads. An old primary
//! that returns in the middle is held closed; it leads again only when no quorum can be asked, since it holds all that it acknowledged.

use crds::mysql::AckMember;
use crds::shared::{Transition, TransitionKind};
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::Assignment;

use super::alarm::{self, Alarm, has_quorum, quorum};
use super::{Authority, CHANGING, Decision, Route, SETTLING, State, View, acks, follow};

/// How long the cluster is given to come back by itself before a person is asked, in seconds.
const PATIENCE_SECONDS: i64 = 15;

/// What an alarm about `primary` leads to: a claimed failover; `None` when all stays as it is.
pub fn begin(view: &View<'_>, primary: u32, alarm: &Alarm) -> Option<Decision> {
    let why = match alarm {
        Alarm::None => return None,
        // Nothing acknowledged is left on it, so it is never waited for.
        Alarm::Certain(why) if view.lost_its_data(primary) || has_quorum(view, primary) => why,
        Alarm::Lost(why) => why,
        Alarm::Certain(why) | Alarm::Unsure(why) => {
            let consented = consented(view)?;
            let name = view.desired.member_name(consented);
            return Some(claim(view, primary, Some(name.clone()), &format!("{why}; a person consents to {name}")));
        }
    };
    Some(claim(view, primary, None, why))
}

/// Claims a term: from here on nobody obeys an older order.
fn claim(view: &View<'_>, primary: u32, to: Option<String>, why: &str) -> Decision {
    let old = view.desired.member_name(primary);
    let change = Transition { kind: TransitionKind::Failover, from: Some(old.clone()), to, promoting: false, since: view.now.to_string() };
    let authority = Authority { term: view.status.term + 1, primary: Some(old), transition: Some(change), ..Authority::of(view.status) };
    Decision::claim(view, State::FailingOver, format!("{why}: its replicas are asked what they hold"), authority)
}

/// The member that a person consents to promote, in this very term.
fn consented(view: &View<'_>) -> Option<u32> {
    let (name, _) = view.observed.asked.consent.as_ref().filter(|(_, term)| *term == view.status.term)?;
    view.ordinal(name).filter(|ordinal| view.member(*ordinal).is_some())
}

/// Goes on: stop receivers, read positions, choose, promote.
pub fn go_on(view: &View<'_>, primary: u32, change: &Transition) -> Decision {
    match change.to.as_deref().and_then(|name| view.ordinal(name)) {
        Some(to) if change.promoting => promote(view, to, State::FailingOver),
        named => choose(view, primary, change, named),
    }
}

fn choose(view: &View<'_>, old: u32, change: &Transition, named: Option<u32>) -> Decision {
    // I2: receivers are stopped first; only positions read after that count.
    let stopped = |ordinal: u32| view.has_data(ordinal) && view.is_isolated(ordinal) && view.held(ordinal).is_some();
    let others: Vec<u32> = view.observed.members.keys().copied().filter(|ordinal| *ordinal != old).collect();
    let positions: Vec<(u32, GtidSet)> =
        others.iter().filter(|o| stopped(**o)).filter_map(|ordinal| Some((*ordinal, view.held(*ordinal)?))).collect();
    let voters: Vec<&(u32, GtidSet)> = positions.iter().filter(|(ordinal, _)| acks::counts(view, *ordinal)).collect();
    let waiting: Vec<u32> = others.iter().copied().filter(|ordinal| view.held(*ordinal).is_some() && !stopped(*ordinal)).collect();
    let safe = quorum(view).is_some_and(|quorum| voters.len() >= quorum);

    // I3: the promoted member holds every position that was read of those that may have acknowledged.
    // What a replica committed itself was acknowledged to nobody: it bars its member (I6), and nobody needs to hold it.
    let fit = |ordinal: u32| !view.is_fenced(ordinal) && !view.is_errant(ordinal, old);
    let covers = |held: &GtidSet, ordinal: u32| view.due(ordinal, old).is_some_and(|due| held.contains(&due));
    let holds_all = |held: &GtidSet| voters.iter().all(|(ordinal, _)| covers(held, *ordinal));
    let complete = voters.iter().filter(|(ordinal, held)| fit(*ordinal) && holds_all(held)).map(|(ordinal, _)| *ordinal);
    // Better one that stays than one that leaves with a smaller cluster, and one that has little left to apply.
    let unapplied =
        |ordinal: u32| view.held(ordinal).zip(view.executed(ordinal)).map_or(0, |(held, executed)| held.minus(executed).count());
    let best = complete.min_by_key(|ordinal| (*ordinal >= view.desired.replicas, unapplied(*ordinal), *ordinal));
    // Who is consented to now, before who was when it began: that one may have been lost since.
    let consented = [consented(view), named].into_iter().flatten().find(|ordinal| stopped(*ordinal));
    if let Some(to) = consented.filter(|_| waiting.is_empty()) {
        return lead(view, change, to, Why::Consent);
    }
    if let Some(to) = best.filter(|_| safe) {
        return lead(view, change, to, Why::Quorum);
    }
    // Whatever was acknowledged is on the one that acknowledged it, if it still has its volume.
    let old_holds_all = view.held(old).is_some_and(|held| positions.iter().all(|(ordinal, _)| covers(&held, *ordinal)));
    if stopped(old) && old_holds_all && !view.is_fenced(old) {
        return lead(view, change, old, Why::Returned);
    }
    let mut decision = explain(view, old, &positions, &waiting, safe);
    for ordinal in view.observed.members.keys() {
        decision.orders.insert(*ordinal, Assignment::Isolated);
    }
    decision
}

/// By which right a member leads.
enum Why {
    Quorum,
    Consent,
    Returned,
}

fn lead(view: &View<'_>, change: &Transition, to: u32, why: Why) -> Decision {
    let new = view.desired.member_name(to);
    let change = Transition { to: Some(new.clone()), promoting: true, ..change.clone() };
    let mut authority = Authority { primary: Some(new.clone()), transition: Some(change), ..Authority::of(view.status) };
    let reason = match why {
        Why::Returned => format!("{new} is back with all that it acknowledged, and leads on"),
        Why::Quorum => format!("{new} holds every acknowledged transaction and leads"),
        Why::Consent => format!("{new} leads by a person's consent"),
    };
    if !matches!(why, Why::Returned) {
        authority.ack_set = complete(view, to);
    }
    if matches!(why, Why::Consent) {
        // Nobody is left to hold what was acknowledged; asking for more than there are replicas would only hang.
        authority.acks = authority.acks.min(u32::try_from(authority.ack_set.len()).unwrap_or(u32::MAX));
    }
    Decision::claim(view, State::FailingOver, reason, authority)
}

/// Only who holds all of it now acknowledges; a follower that is behind joins when it has caught up, or a second loss could promote it
/// too early.
fn complete(view: &View<'_>, to: u32) -> Vec<AckMember> {
    let all = view.held(to).unwrap_or_default();
    let stopped = view.observed.members.keys().copied().filter(|ordinal| *ordinal != to && view.is_isolated(*ordinal));
    stopped
        .filter(|ordinal| *ordinal < view.desired.replicas && !view.is_fenced(*ordinal))
        // Equal, not more: what it holds beyond that is errant now (I6).
        .filter(|ordinal| view.held(*ordinal).is_some_and(|held| held.contains(&all) && all.contains(&held)))
        .filter_map(|ordinal| view.joins(ordinal))
        .collect()
}

/// Why not yet, or why not at all: every position, and the consent that would let it go on.
fn explain(view: &View<'_>, old: u32, positions: &[(u32, GtidSet)], waiting: &[u32], safe: bool) -> Decision {
    let name = view.desired.member_name(old);
    if !waiting.is_empty() {
        let names = waiting.iter().map(|ordinal| view.desired.member_name(*ordinal)).collect::<Vec<_>>().join(", ");
        return Decision::new(view, State::FailingOver, format!("{name} is lost; waiting for {names} to stop receiving"))
            .progressing(Some(CHANGING));
    }
    let silent: Vec<String> = view.observed.members.keys().filter(|o| !view.speaks(**o)).map(|o| view.desired.member_name(*o)).collect();
    if !silent.is_empty() && !safe {
        let reason = format!("{name} is lost; waiting for {} to answer", silent.join(", "));
        let mut decision = Decision::new(view, State::FailingOver, reason).progressing(Some(SETTLING));
        if view.unavailable_seconds() > PATIENCE_SECONDS {
            decision.state = State::Lost;
            decision.reason = format!("{}. {}", decision.reason, ask(view, positions));
            decision = decision.stalled("WaitingForMembers");
        }
        return decision;
    }
    if positions.is_empty() {
        let reason = "every volume is empty; an initialised cluster is never initialised again: restore a backup into a new MySQLCluster, or bring a volume back";
        return Decision::new(view, State::Lost, reason).stalled("AllVolumesEmpty");
    }
    let why =
        if safe { "the histories that are left differ" } else { "an acknowledged transaction may be on none of the members that are left" };
    Decision::new(view, State::Lost, format!("{name} is lost and {why}. {}", ask(view, positions))).stalled("Lost")
}

/// Every position, what a person would do, and how.
fn ask(view: &View<'_>, positions: &[(u32, GtidSet)]) -> String {
    let Some((best, _)) = positions.iter().max_by_key(|(ordinal, held)| (held.count(), std::cmp::Reverse(*ordinal))) else {
        return "Nobody that answers holds data".to_owned();
    };
    let rows = positions.iter().map(|(ordinal, held)| format!("{} holds {held}", view.desired.member_name(*ordinal)));
    let best = view.desired.member_name(*best);
    format!(
        "{}. To go on with what {best} holds: kubectl annotate --overwrite myc {} understudy.dev/accept-loss={best}@{}",
        rows.collect::<Vec<_>>().join("; "),
        view.desired.name,
        view.status.term
    )
}

/// `to` is to open, unless it is lost in its turn.
pub fn promote(view: &View<'_>, to: u32, state: State) -> Decision {
    let alarm = alarm::of(view, to);
    begin(view, to, &alarm).unwrap_or_else(|| stuck(view, to, &alarm, opening(view, to, state)))
}

/// `to` is told to open, and routed to in the same pass: the proxies learn of it while it opens.
fn opening(view: &View<'_>, to: u32, state: State) -> Decision {
    let new = view.desired.member_name(to);
    if view.is_open_primary(to) && view.is_routed(to) {
        let authority = Authority { transition: None, ..Authority::of(view.status) };
        return Decision::claim(view, state, format!("{new} is the primary"), authority);
    }
    let mut decision = Decision::new(view, state, format!("{new} applies what it received, then opens"));
    decision.orders = follow(view, to, view.status.acks);
    decision.route = Route::To(to);
    decision.progressing(Some(CHANGING))
}

/// A lost primary for which nothing safe can be done: what is waited for, every position, and the consent that would let it go on.
pub fn stuck(view: &View<'_>, primary: u32, alarm: &Alarm, mut decision: Decision) -> Decision {
    let (Alarm::Certain(why) | Alarm::Lost(why) | Alarm::Unsure(why)) = alarm else { return decision };
    // Silence becomes certain by waiting.
    let soon = view.silent_seconds(primary).is_some_and(|seconds| seconds < 4);
    decision.requeue = Some(if soon { CHANGING } else { SETTLING });
    decision.reason.clone_from(why);
    decision.degraded = Some(why.clone());
    let receiving = alarm::voters(view, primary).into_iter().any(|ordinal| view.receives_from(ordinal, primary));
    let others = view.observed.members.keys().copied().filter(|ordinal| *ordinal != primary);
    let positions: Vec<_> = others.filter_map(|ordinal| Some((ordinal, view.held(ordinal)?))).collect();
    // With nobody to go on with there is nothing to ask.
    if receiving || positions.is_empty() || view.unavailable_seconds() <= PATIENCE_SECONDS {
        return decision;
    }
    let needed = quorum(view).map_or_else(
        || "no replica had to acknowledge".to_owned(),
        |quorum| {
            let set = view.status.ack_set.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
            match set.is_empty() {
                true => "no replica had caught up with it".to_owned(),
                false => format!("{quorum} of {set} must be asked, {} answer", alarm::voters(view, primary).len()),
            }
        },
    );
    decision.state = State::Lost;
    decision.reason = format!("{why}, and no other member is known to hold all that was acknowledged: {needed}. {}", ask(view, &positions));
    decision.degraded = Some(decision.reason.clone());
    // What keeps it from starting is what a person mends first.
    match view.stall() {
        Some(stall) => Decision { stalled: Some(stall), ..decision },
        None => decision.stalled("Lost"),
    }
}
