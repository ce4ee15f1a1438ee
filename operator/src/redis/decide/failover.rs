//! The primary is lost: promote the replica that holds all that a `WAIT` acknowledged (I2, I3), or stop and ask.
//!
//! A term is claimed, replicas are frozen, positions are read after that, and the one that contains all of them leads. An old primary
//! that returns in the middle is held closed; with an append-only file it leads again when no quorum can be asked, since it holds all that it
//! acknowledged. Without one, what is left when everybody has answered is all that there will ever be, and the best of it leads.

use std::time::Duration;

use crds::redis::{AckMember, Persistence};
use crds::shared::{Transition, TransitionKind};
use sidecar_protocol::redis::{Part, Position, Relation};

use super::alarm::{self, Alarm, has_quorum, quorum};
use super::view::epochs;
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

/// Goes on: freeze replicas, read positions, choose, promote.
pub fn go_on(view: &View<'_>, primary: u32, change: &Transition) -> Decision {
    match change.to.as_deref().and_then(|name| view.ordinal(name)) {
        Some(to) if change.promoting => promote(view, to, State::FailingOver),
        named => choose(view, primary, change, named),
    }
}

fn choose(view: &View<'_>, old: u32, change: &Transition, named: Option<u32>) -> Decision {
    // I2: replicas are frozen first; only positions read after that count.
    let frozen = |ordinal: u32| view.is_isolated(ordinal);
    let others: Vec<u32> = view.observed.members.keys().copied().filter(|ordinal| *ordinal != old).collect();
    let positions: Vec<(u32, &Position)> =
        others.iter().filter(|o| frozen(**o)).filter_map(|ordinal| Some((*ordinal, view.position(*ordinal)?))).collect();
    let voters: Vec<u32> = alarm::voters(view, old).into_iter().filter(|ordinal| frozen(*ordinal)).collect();
    // One that loads receives nothing, and cannot stand still before it is done: it was restarted, and is no voter.
    let moves = |ordinal: u32| view.runs(ordinal) && !view.loads(ordinal) && !frozen(ordinal);
    let waiting: Vec<u32> = others.iter().copied().filter(|ordinal| moves(*ordinal)).collect();
    let safe = quorum(view).is_some_and(|quorum| voters.len() >= quorum);

    // Who is consented to now, before who was when it began: that one may have been lost since.
    let consented = [consented(view), named].into_iter().flatten().find(|ordinal| frozen(*ordinal));
    if let Some(to) = consented.filter(|_| waiting.is_empty() || view.unavailable_seconds() > PATIENCE_SECONDS) {
        return lead(view, change, to, Why::Consent);
    }
    // I3: the promoted member holds every position that was read of those that may have acknowledged.
    let fit = |ordinal: u32| !view.is_fenced(ordinal);
    let lineage = view.lineage();
    let asked: Vec<&Position> = voters.iter().filter_map(|ordinal| view.position(*ordinal)).collect();
    let complete = voters.iter().copied().filter(|ordinal| {
        fit(*ordinal)
            && view.has_data(*ordinal)
            && view.position(*ordinal).is_some_and(|held| asked.iter().all(|other| lineage.covers(held, other)))
    });
    // Better one that stays than one that leaves with a smaller cluster. A member that was too far away to be asked in time may hold more of what
    // nobody waited for: once the quorum has spoken nobody is waited for longer than it takes to freeze those that answer.
    let best = complete.min_by_key(|ordinal| (*ordinal >= view.desired.replicas, *ordinal));
    if let Some(to) = best.filter(|_| safe && waiting.is_empty()) {
        return lead(view, change, to, Why::Quorum);
    }
    if frozen(old) && fit(old) && waiting.is_empty() && returns(view, old, &positions) {
        return lead(view, change, old, Why::Returned);
    }
    let mut decision = match rest(view, old, &positions) {
        Rest::Leads(to) => return lead(view, change, to, Why::BestOfTheRest),
        Rest::Nothing(to) => return lead(view, change, to, Why::Anew),
        Rest::Unknown => explain(view, old, &positions, &waiting, safe),
    };
    for ordinal in view.observed.members.keys() {
        decision.orders.insert(*ordinal, view.order(Part::Isolated));
    }
    decision
}

/// Whether the old primary holds all that it acknowledged, as one does whose writes were in its file before it answered. Where it was when its
/// process ended is known to a second, so who holds more of its own past than it remembers holds nothing that it lacks.
fn returns(view: &View<'_>, old: u32, positions: &[(u32, &Position)]) -> bool {
    let Some(held) = view.position(old).filter(|_| view.has_data(old) && !view.lost_its_data(old)) else { return false };
    let lineage = view.lineage();
    let known = |other: &Position| other.comparable(held) || lineage.end_of(&other.replid).is_some();
    // Of who is not recorded nothing was acknowledged: what it holds beyond is its own, from a time when it led alone.
    let mut recorded = positions.iter().filter(|(ordinal, _)| acks::counts(view, *ordinal));
    view.writes_ahead() && recorded.all(|(_, other)| known(other))
}

/// What is left when nobody else will ever hold more.
enum Rest {
    /// Somebody may still come back with more.
    Unknown,
    /// This one holds the most.
    Leads(u32),
    /// Nobody holds anything; this one begins anew.
    Nothing(u32),
}

/// Without an append-only file a process that has ended took what it held along. When every member answers there is nobody left to wait for.
fn rest(view: &View<'_>, old: u32, positions: &[(u32, &Position)]) -> Rest {
    let all = (0..view.desired.replicas).chain(view.observed.members.keys().copied());
    let mut settled = all.map(|ordinal| view.is_isolated(ordinal) && (view.is_empty(ordinal) || view.position(ordinal).is_some()));
    if view.writes_ahead() || !settled.all(|settled| settled) {
        return Rest::Unknown;
    }
    let mine = view.position(old).map(|held| (old, held));
    let mut held: Vec<(u32, &Position)> = positions.iter().copied().chain(mine).collect();
    let forgets = view.desired.own.persistence == Persistence::None;
    let lineage = view.lineage();
    // A process that is another one than was recorded began with nothing, under a name of its own. Whoever is in the primary's past,
    // recorded or not, is there with what it copied.
    let same = |ordinal: u32| acks::counts(view, ordinal) || ordinal == old && !view.lost_its_data(old);
    held.retain(|(ordinal, held)| !forgets || same(*ordinal) || lineage.relation(held) != Relation::Foreign);
    if held.is_empty() {
        // A snapshot that is gone was on a volume: somebody may bring that back.
        return if forgets { Rest::Nothing(0) } else { Rest::Unknown };
    }
    let best = held.iter().filter(|(ordinal, mine)| !view.is_fenced(*ordinal) && held.iter().all(|(_, other)| lineage.covers(mine, other)));
    best.map(|(ordinal, _)| *ordinal).min().map_or(Rest::Unknown, Rest::Leads)
}

/// By which right a member leads.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Why {
    Quorum,
    Consent,
    Returned,
    BestOfTheRest,
    Anew,
}

fn lead(view: &View<'_>, change: &Transition, to: u32, why: Why) -> Decision {
    let new = view.desired.member_name(to);
    let change = Transition { to: Some(new.clone()), promoting: true, ..change.clone() };
    let reason = match why {
        Why::Returned => format!("{new} is back with all that it acknowledged, and leads on"),
        Why::Quorum => format!("{new} holds every acknowledged write and leads"),
        Why::Consent => format!("{new} leads by a person's consent"),
        Why::BestOfTheRest => format!("every member was asked, and {new} holds the most of what survived: it leads"),
        Why::Anew => format!("every member was restarted without persistence, so nothing is left: {new} leads an empty cluster"),
    };
    let mut authority = Authority {
        primary: Some(new),
        transition: Some(change),
        primary_identity: view.joins(to).map(|member| member.identity),
        history: match view.position(to) {
            // It holds all that it wrote, and does not know any more how much that was.
            Some(held) if why == Why::Returned && held.recovered => view.status.history.clone(),
            Some(held) => epochs(view.lineage().ended_at(held)),
            None => Vec::new(),
        },
        ..Authority::of(view.status)
    };
    // One that led wrote on after its replicas had read: the record of who holds what it acknowledged stays.
    if why != Why::Returned {
        authority.ack_set = complete(view, to);
        authority.acks = authority.acks.min(u32::try_from(authority.ack_set.len()).unwrap_or(u32::MAX));
    }
    Decision::claim(view, State::FailingOver, reason, authority)
}

/// Only who holds all of it now counts; a follower that is behind joins when it is let in, and counts when enough have caught up, or a second
/// loss could promote it too early.
fn complete(view: &View<'_>, to: u32) -> Vec<AckMember> {
    let Some(all) = view.position(to) else { return Vec::new() };
    let frozen = view.observed.members.keys().copied().filter(|ordinal| *ordinal != to && view.is_isolated(*ordinal));
    frozen
        .filter(|ordinal| *ordinal < view.desired.replicas && !view.is_fenced(*ordinal) && alarm::is_exact(view, *ordinal))
        // Equal, not more: what it holds beyond that is its own.
        .filter(|ordinal| view.position(*ordinal).is_some_and(|held| held.contains(all) && all.contains(held)))
        .filter_map(|ordinal| view.joins(ordinal))
        .collect()
}

/// Why not yet, or why not at all: every position, and the consent that would let it go on.
fn explain(view: &View<'_>, old: u32, positions: &[(u32, &Position)], waiting: &[u32], safe: bool) -> Decision {
    let name = view.desired.member_name(old);
    if !waiting.is_empty() {
        let names = waiting.iter().map(|ordinal| view.desired.member_name(*ordinal)).collect::<Vec<_>>().join(", ");
        return wait(view, positions, CHANGING, format!("{name} is lost; waiting for {names} to stop receiving"));
    }
    if let Some(loading) = view.loading(old).filter(|_| !safe && leads_on(view, old)) {
        return Decision::new(view, State::FailingOver, format!("{name} {loading}, and leads on with them")).progressing(Some(SETTLING));
    }
    let mute = |ordinal: &&u32| !view.runs(**ordinal) || view.loads(**ordinal);
    let silent: Vec<String> = view.observed.members.keys().filter(mute).map(|o| view.desired.member_name(*o)).collect();
    if !silent.is_empty() && !safe {
        return wait(view, positions, SETTLING, format!("{name} is lost; waiting for {} to answer", silent.join(", ")));
    }
    if positions.is_empty() && view.position(old).is_none() {
        let reason = "nobody holds data any more; a cluster that led is never begun anew: restore a backup into a new RedisReplication, or bring a volume back";
        return Decision::new(view, State::Lost, reason).stalled("AllVolumesEmpty");
    }
    let why = if safe { "the histories that are left differ" } else { "an acknowledged write may be on none of the members that are left" };
    Decision::new(view, State::Lost, format!("{name} is lost and {why}. {}", ask(view, positions))).stalled("Lost")
}

/// Waits, and asks a person when that takes too long.
fn wait(view: &View<'_>, positions: &[(u32, &Position)], again: Duration, reason: String) -> Decision {
    let mut decision = Decision::new(view, State::FailingOver, reason).progressing(Some(again));
    if view.unavailable_seconds() > PATIENCE_SECONDS {
        decision.state = State::Lost;
        decision.reason = format!("{}. {}", decision.reason, ask(view, positions));
        decision = decision.stalled("WaitingForMembers");
    }
    decision
}

/// It comes up with all that it acknowledged, so it leads on by itself when it is there.
fn leads_on(view: &View<'_>, primary: u32) -> bool {
    view.writes_ahead() && !view.lost_its_data(primary) && !view.is_fenced(primary)
}

/// Every position, what a person would do, and how.
fn ask(view: &View<'_>, positions: &[(u32, &Position)]) -> String {
    let Some((best, _)) = positions.iter().max_by_key(|(ordinal, held)| (held.offset, std::cmp::Reverse(*ordinal))) else {
        return "Nobody that answers holds data".to_owned();
    };
    let rows = positions.iter().map(|(ordinal, held)| format!("{} holds {held}", view.desired.member_name(*ordinal)));
    let best = view.desired.member_name(*best);
    format!(
        "{}. To go on with what {best} holds: kubectl annotate --overwrite rr {} understudy.dev/accept-loss={best}@{}",
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
        // What it writes from now on is recorded with the end of the change.
        let history = view.position(to).map_or_else(|| view.status.history.clone(), |now| epochs(view.lineage().written(now)));
        let authority = Authority { transition: None, history, ..Authority::of(view.status) };
        return Decision::claim(view, state, format!("{new} is the primary"), authority);
    }
    let mut decision = Decision::new(view, state, format!("{new} opens"));
    decision.orders = follow(view, to, None);
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
    if let Some(loading) = view.loading(primary).filter(|_| leads_on(view, primary)) {
        decision.state = State::PrimaryUnavailable;
        decision.reason = format!("{why}: it {loading}, and leads on with them");
        decision.degraded = Some(decision.reason.clone());
        return decision;
    }
    let receiving = alarm::voters(view, primary).into_iter().any(|ordinal| view.receives_from(ordinal, primary));
    let others = view.observed.members.keys().copied().filter(|ordinal| *ordinal != primary);
    let positions: Vec<_> = others.filter_map(|ordinal| Some((ordinal, view.position(ordinal)?))).collect();
    // With nobody to go on with there is nothing to ask.
    if receiving || positions.is_empty() || view.unavailable_seconds() <= PATIENCE_SECONDS {
        return decision;
    }
    let needed = quorum(view).map_or_else(
        || "no replica had caught up with it".to_owned(),
        |quorum| {
            let set = view.status.ack_set.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
            format!("{quorum} of {set} must be asked, {} answer", alarm::voters(view, primary).len())
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
