//! Who may acknowledge a `WAIT`, and how many of them hold what was acknowledged: the ack set and its count.
//!
//! What the recorded pair (set, acks) promises, and failover by I2 relies on: **every write for which a client waited by `WAIT` with at least
//! `min-replicas-to-write` (and at least 1) is held by at least `acks` members of the set.** The primary lets nobody replicate who is not
//! recorded, so a member is recorded before it can acknowledge anything; it leaves only after the primary has shut it out, when enough of the
//! others hold everything that the primary holds.

use crds::redis::AckMember;
use sidecar_protocol::redis::{Part, Position, ProblemCode, Relation, Role};

use super::view::epochs;
use super::{Authority, View};
use crate::redis::observed::Seen;

/// A member that is silent for this long is gone, and shut out so that it can leave the set, in seconds.
const CUT_OFF_SECONDS: i64 = 5;

/// What to do about acknowledgements.
#[derive(Debug, Default)]
pub struct Plan {
    /// A change to record first, and why.
    pub intent: Option<(String, Authority)>,
    /// A change is under way that no event will announce.
    pub settling: bool,
    /// Somebody is connected who may be in step at any moment.
    pub soon: bool,
    /// What is missing, if anything.
    pub degraded: Option<String>,
}

/// Whether this member's acknowledgement counts: it is in the recorded set, with these very data.
#[must_use]
pub fn counts(view: &View<'_>, ordinal: u32) -> bool {
    recorded(view, ordinal).is_some_and(|member| !replaced(view, member))
}

fn recorded<'a>(view: &View<'a>, ordinal: u32) -> Option<&'a AckMember> {
    let name = view.desired.member_name(ordinal);
    view.status.ack_set.iter().find(|member| member.name == name)
}

/// Its data are others than the ones that it was recorded with: certain, not unknown.
fn replaced(view: &View<'_>, member: &AckMember) -> bool {
    let state = view.ordinal(&member.name).and_then(|ordinal| view.state(ordinal));
    state.is_some_and(|state| state.identity.as_ref().is_some_and(|identity| *identity != member.identity))
}

/// What [`acks`](crds::redis::RedisReplicationStatus::acks) shall be: what a client has to wait for at least, to lose nothing.
#[must_use]
fn target(view: &View<'_>) -> u32 {
    if view.desired.replicas == 1 { 0 } else { view.desired.own.min_replicas.max(1) }
}

/// Members that the primary shall let replicate: who is recorded, but for those that are to leave and those that are silent while enough others
/// are there, so that the loss of the primary too leaves a quorum.
#[must_use]
pub fn admitted(view: &View<'_>, primary: u32) -> Vec<u32> {
    let members = view.status.ack_set.iter().filter_map(|member| view.ordinal(&member.name));
    members.filter(|ordinal| *ordinal != primary && !bars(view, primary, *ordinal)).collect()
}

/// Whether the primary shall shut it out.
fn bars(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    if view.is_fenced(ordinal) || lets_go(view, primary, ordinal) || is_stranger(view, primary, ordinal) {
        return true;
    }
    // Once shut out it stays so until it has left the set: nobody knows what it would acknowledge meanwhile.
    is_gone(view, ordinal) && !is_online(view, primary, ordinal) && (spared(view, primary, ordinal) || is_barred(view, primary, ordinal))
}

/// It has no pod, its server does not answer or loads, or it has said nothing for a while.
fn is_gone(view: &View<'_>, ordinal: u32) -> bool {
    let Some(member) = view.member(ordinal).filter(|member| member.pod.is_some()) else { return true };
    match &member.report {
        Seen::Silent { .. } => view.silent_seconds(ordinal).is_some_and(|seconds| seconds >= CUT_OFF_SECONDS),
        Seen::Answered(_) => !view.runs(ordinal) || view.loads(ordinal),
    }
}

/// It leaves with a smaller cluster, and enough others acknowledge without it.
#[must_use]
pub fn lets_go(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    ordinal >= view.desired.replicas && spared(view, primary, ordinal)
}

/// Enough others that stay are connected.
fn spared(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    let stays = |other: &u32| *other != ordinal && *other < view.desired.replicas && counts(view, *other);
    let others = (0..view.desired.replicas).filter(stays).filter(|other| is_online(view, primary, *other)).count();
    u32::try_from(others).unwrap_or(u32::MAX) >= target(view).min(view.status.acks)
}

/// The primary says that it has its copy and acknowledges.
fn is_online(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    let host = view.desired.host(ordinal);
    view.state(primary).is_some_and(|state| state.replicas.iter().any(|replica| replica.host == host && replica.online))
}

/// The primary has shut it out.
fn is_barred(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    view.accepted_since(primary).is_some_and(|accepted| {
        accepted.converged && matches!(&accepted.assignment.part, Part::Primary { admitted, .. } if !admitted.contains(&ordinal))
    })
}

/// `min-replicas-to-write` that the primary shall have: as desired; but a cluster that grows goes on as it is until enough are connected.
#[must_use]
pub fn min_replicas(view: &View<'_>, primary: u32) -> u32 {
    let wanted = view.desired.own.min_replicas;
    let ordered = view.accepted(primary).and_then(|accepted| match accepted.assignment.part {
        Part::Primary { min_replicas, .. } => Some(min_replicas),
        _ => None,
    });
    let online = view.everybody().into_iter().filter(|ordinal| *ordinal != primary && is_online(view, primary, *ordinal)).count();
    let enough = u32::try_from(online).unwrap_or(u32::MAX) >= wanted;
    ordered.map_or(wanted, |ordered| if enough { wanted } else { ordered.min(wanted) })
}

/// Plans the next change, at most one.
#[must_use]
pub fn plan(view: &View<'_>, primary: u32) -> Plan {
    let status = view.status;
    let now = Authority::of(status);
    let record = |reason: String, authority: Authority| Plan { intent: Some((reason, authority)), ..Plan::default() };
    // Nothing is known of who holds what before the primary says where it is.
    let Some(state) = view.state(primary).filter(|state| view.is_open_primary(primary) && state.role == Role::Primary) else {
        return Plan::default();
    };
    let (Some(held), Some(me)) = (&state.position, view.joins(primary)) else { return Plan { settling: true, ..Plan::default() } };

    let history = epochs(view.lineage().written(held));
    if history != status.history || status.primary_identity.as_ref() != Some(&me.identity) {
        let reason = format!("{} writes the history {}", me.name, held.replid.short());
        return record(reason, Authority { history, primary_identity: Some(me.identity), ..now });
    }
    if target(view) < status.acks {
        let reason = format!("a client that waits for {} replicas loses nothing", target(view));
        return record(reason, Authority { acks: target(view), ..now });
    }
    // Without a promise nobody has to hold what one that goes acknowledged: who is to count later must be past where the primary is now.
    let passed = || epochs(view.lineage().forked_at(held));
    if let Some((name, rest)) = leave(view, primary, held) {
        // Nobody holds anything any more when the last one goes: it is promised again when somebody has it all.
        let acks = status.acks.min(size(&rest));
        let history = if acks == 0 { passed() } else { now.history.clone() };
        return record(
            format!("{name} leaves the set of those that acknowledge: the others hold all that it may have"),
            Authority { ack_set: rest, acks, history, ..now },
        );
    }
    let joining = joiners(view, primary);
    if !joining.is_empty() {
        let names = joining.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let ack_set = status.ack_set.iter().cloned().chain(joining).collect();
        return record(format!("{names} may replicate from now on"), Authority { ack_set, ..now });
    }
    if let Some((name, ack_set)) = renewed(view, primary, held) {
        let history = if status.acks == 0 { passed() } else { now.history.clone() };
        return record(format!("{name} has other data than before"), Authority { ack_set, history, ..now });
    }
    let in_step = status.ack_set.iter().any(|member| is_in_step(view, primary, member));
    let holders = holders(view, &status.ack_set, held).max(u32::from(in_step));
    if holders.min(target(view)) > status.acks {
        let acks = holders.min(target(view));
        return record(format!("{acks} of the replicas hold all that was acknowledged"), Authority { acks, ..now });
    }
    let leaving = status.ack_set.iter().filter_map(|member| view.ordinal(&member.name)).any(|ordinal| bars(view, primary, ordinal));
    let other = status.ack_set.iter().any(|member| replaced(view, member));
    let growing = min_replicas(view, primary) < view.desired.own.min_replicas;
    // Who comes is announced: its connection is an event.
    let counting = status.acks < target(view)
        && status.ack_set.iter().filter_map(|member| view.ordinal(&member.name)).any(|ordinal| is_online(view, primary, ordinal));
    let settling = leaving || other || growing || counting;
    Plan { intent: None, settling, soon: counting && status.acks == 0, degraded: degraded(view, primary) }
}

/// Fewer replicas than a write needs, in words.
fn degraded(view: &View<'_>, primary: u32) -> Option<String> {
    let needed = min_replicas(view, primary);
    let online = view.everybody().into_iter().filter(|ordinal| *ordinal != primary && is_online(view, primary, *ordinal)).count();
    let short = u32::try_from(online).unwrap_or(u32::MAX) < needed;
    short.then(|| format!("{online} replicas are connected and durability.minReplicasToWrite is {needed}: writes are refused"))
}

/// How many of `set` hold all of `history`.
fn holders(view: &View<'_>, set: &[AckMember], history: &Position) -> u32 {
    let holds = |member: &&AckMember| {
        let ordinal = view.ordinal(&member.name);
        !replaced(view, member)
            && ordinal.is_some_and(|ordinal| {
                view.has_data(ordinal) && view.position(ordinal).is_some_and(|held| !held.recovered && held.contains(history))
            })
    };
    u32::try_from(set.iter().filter(holds).count()).unwrap_or(u32::MAX)
}

fn size(set: &[AckMember]) -> u32 {
    u32::try_from(set.len()).unwrap_or(u32::MAX)
}

/// Whoever the primary has shut out, once the rest hold all that it holds.
fn leave(view: &View<'_>, primary: u32, held: &Position) -> Option<(String, Vec<AckMember>)> {
    let out = |member: &&AckMember| {
        view.ordinal(&member.name).is_none_or(|ordinal| bars(view, primary, ordinal) && is_barred(view, primary, ordinal))
    };
    let leaver = view.status.ack_set.iter().find(out)?;
    let rest: Vec<AckMember> = view.status.ack_set.iter().filter(|member| *member != leaver).cloned().collect();
    let needed = view.status.acks.min(size(&rest));
    (holders(view, &rest, held) >= needed).then(|| (leaver.name.clone(), rest))
}

/// It follows the primary with a complete copy, and is past the point from which the primary goes on. So it holds all that was acknowledged before it
/// was let in; and what is acknowledged since is on whoever is let in. What a busy primary says of where it is can never be waited for.
fn is_in_step(view: &View<'_>, primary: u32, member: &AckMember) -> bool {
    let lineage = view.lineage();
    let fork = lineage.fork();
    let Some(ordinal) = view.ordinal(&member.name).filter(|ordinal| view.follows(*ordinal, primary) && is_online(view, primary, *ordinal))
    else {
        return false;
    };
    let past = |held: &Position| lineage.current() == Some(&held.replid) && held.offset >= fork && !held.recovered;
    !replaced(view, member) && view.position(ordinal).is_some_and(past)
}

/// A member of the set with other data than it was recorded with. What it may have acknowledged before is held by enough others, or by itself
/// again: the copy was begun after that.
fn renewed(view: &View<'_>, primary: u32, held: &Position) -> Option<(String, Vec<AckMember>)> {
    let member = view.status.ack_set.iter().find(|member| replaced(view, member))?;
    let fresh = view.joins(view.ordinal(&member.name)?)?;
    let copied = is_in_step(view, primary, &fresh);
    let set: Vec<AckMember> = view.status.ack_set.iter().map(|other| if other == member { fresh.clone() } else { other.clone() }).collect();
    (copied || holders(view, &set, held) >= view.status.acks).then(|| (member.name.clone(), set))
}

fn joiners(view: &View<'_>, primary: u32) -> Vec<AckMember> {
    (0..view.desired.replicas)
        .filter(|ordinal| *ordinal != primary && view.runs(*ordinal) && recorded(view, *ordinal).is_none())
        .filter(|ordinal| !view.is_fenced(*ordinal) && !view.loads(*ordinal) && !is_stranger(view, primary, *ordinal))
        .filter_map(|ordinal| view.joins(ordinal))
        .collect()
}

/// Its data are nobody's here, until a person gives them up: by its own words, or by where it stands, since nothing was told to it yet.
fn is_stranger(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    let Some(state) = view.state(ordinal).filter(|_| view.consented_discard(ordinal).is_none()) else { return false };
    let foreign = |held: &Position| {
        let related = view.position(primary).is_some_and(|leads| leads.comparable(held));
        !related && view.lineage().relation(held) == Relation::Foreign
    };
    let stands = state.role == Role::Isolated && state.position.as_ref().is_some_and(foreign);
    stands || state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::OtherHistory)
}
