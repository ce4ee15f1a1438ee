//! Who acknowledges, and how many must: the ack set and its count.
//!
//! What the recorded pair (set, acks) promises, and failover by I2 relies on: **every acknowledged transaction is held by at least `acks`
//! members of the set.** So the primary is told a higher count before it is recorded, a lower one after; a member is recorded
//! before it may acknowledge, and leaves only when enough of the others hold everything that it may have acknowledged alone.

use crds::mysql::{AckMember, Durability};
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Assignment, Data};

use super::{Authority, View, repair};
use crate::mysql::observed::Seen;

/// `durability: Available` asks for fewer acknowledgements when members have been silent for this long, in seconds.
const GRACE_SECONDS: i64 = 30;

/// A member that is silent for this long is cut off, so that it can leave the set, in seconds.
const CUT_OFF_SECONDS: i64 = 5;

/// What to do about acknowledgements.
#[derive(Debug, Default)]
pub struct Plan {
    /// A change to record first, and why.
    pub intent: Option<(String, Authority)>,
    /// The count that the primary shall ask for.
    pub order: u32,
    /// A change is under way that no event will announce.
    pub settling: bool,
    /// What is missing, if anything.
    pub degraded: Option<String>,
}

/// Acknowledgements of a cluster with `replicas` members: half of its replicas, rounded up.
#[must_use]
pub fn target(replicas: u32) -> u32 {
    replicas.saturating_sub(1).div_ceil(2)
}

/// Whether this member's acknowledgement counts: it is in the recorded set, with this very data directory.
#[must_use]
pub fn counts(view: &View<'_>, ordinal: u32) -> bool {
    let name = view.desired.member_name(ordinal);
    view.status.ack_set.iter().any(|member| member.name == name && !replaced(view, member))
}

/// Its volume was lost or refilled since it joined: certain, not unknown.
fn replaced(view: &View<'_>, member: &AckMember) -> bool {
    view.ordinal(&member.name)
        .and_then(|ordinal| view.state(ordinal))
        .is_some_and(|state| state.data != Data::Present || state.server_uuid.as_ref().is_some_and(|uuid| *uuid != member.server_uuid))
}

/// Why the primary must not take writes until an empty member is filled, if so.
///
/// When fewer members are left than must acknowledge, every commit hangs; and a server with a hanging commit cannot be cloned from, so
/// nobody would ever be filled to acknowledge it. Closed, it lets its clients go unanswered, and serves as the donor.
#[must_use]
pub fn closed_until_filled(view: &View<'_>) -> Option<String> {
    let left = u32::try_from(view.status.ack_set.iter().filter(|member| !replaced(view, member)).count()).unwrap_or(u32::MAX);
    let (acks, empty) = (view.status.acks, (0..view.desired.replicas).find(|ordinal| view.lost_its_data(*ordinal))?);
    (view.desired.own.durability == Durability::Strict && left < acks).then(|| {
        let name = view.desired.member_name(empty);
        format!("durability is Strict, {acks} must acknowledge, {left} can; it goes on when {name} is filled")
    })
}

/// Whether enough members acknowledge without those that leave with a smaller cluster. Else they stay: a commit that waited for them would
/// keep the others from being filled.
#[must_use]
pub fn spares_leavers(view: &View<'_>, primary: u32) -> bool {
    let stays = |member: &&AckMember| view.ordinal(&member.name).is_some_and(|ordinal| ordinal < view.desired.replicas);
    let staying = view.status.ack_set.iter().filter(stays).filter(|member| acknowledges(view, primary, member)).count();
    u32::try_from(staying).unwrap_or(u32::MAX) >= view.status.acks
}

/// Who may not replicate from the primary: members that cannot be told to stop acknowledging. One that is silent and recorded is cut off
/// when enough others acknowledge, so that it can leave the set: then the loss of the primary too leaves a quorum. One that is
/// not recorded stays out until it has heard that it does not count. And one whose data directory is to leave is cut off first: what the
/// primary holds after that is all that it can have acknowledged.
#[must_use]
pub fn barred(view: &View<'_>, primary: u32) -> Vec<u32> {
    let dumping = view.state(primary).and_then(|state| state.semi_sync.as_ref()).map_or(&[][..], |semi| semi.dumping.as_slice());
    let recorded = |ordinal: u32| view.status.ack_set.iter().any(|member| view.ordinal(&member.name) == Some(ordinal));
    let barred = |ordinal: &u32| {
        if *ordinal != primary
            && view.status.ack_set.iter().any(|member| view.ordinal(&member.name) == Some(*ordinal) && unknown(view, primary, member))
        {
            return true;
        }
        let silent = view.silent_seconds(*ordinal);
        if *ordinal == primary || silent.is_none() {
            return *ordinal != primary && !recorded(*ordinal) && may_acknowledge(view, *ordinal);
        }
        let others = dumping.iter().filter(|other| *other != ordinal && recorded(**other)).count();
        let spared = u32::try_from(others).unwrap_or(u32::MAX) >= view.status.acks;
        let gone = silent.is_some_and(|seconds| seconds >= CUT_OFF_SECONDS) && !dumping.contains(ordinal);
        !recorded(*ordinal) || (gone && spared) || is_barred(view, primary, *ordinal)
    };
    view.observed.members.keys().copied().filter(barred).collect()
}

/// Nobody knows, or believes, what it held: its data directory is another one, or is to be replaced.
fn unknown(view: &View<'_>, primary: u32, member: &AckMember) -> bool {
    replaced(view, member) || view.ordinal(&member.name).is_some_and(|ordinal| repair::is_due(view, ordinal, primary))
}

/// It acknowledges, or may, or holds an order to.
fn may_acknowledge(view: &View<'_>, ordinal: u32) -> bool {
    view.state(ordinal).is_some_and(|state| {
        let ordered = state.accepted.as_ref().is_some_and(|held| matches!(held.assignment, Assignment::Replica { acknowledges: true, .. }));
        state.may_acknowledge || ordered
    })
}

/// The primary has cut it off.
fn is_barred(view: &View<'_>, primary: u32, ordinal: u32) -> bool {
    view.accepted_since(primary).is_some_and(|accepted| {
        accepted.converged && matches!(&accepted.assignment, Assignment::Primary { barred, .. } if barred.contains(&ordinal))
    })
}

/// Plans the next change, at most one.
#[must_use]
pub fn plan(view: &View<'_>, primary: u32) -> Plan {
    let status = view.status;
    let wanted = target(view.desired.replicas);
    let record = |reason: String, ack_set: Vec<AckMember>, acks: u32| Plan {
        intent: Some((reason, Authority { ack_set, acks, ..Authority::of(status) })),
        order: acks,
        ..Plan::default()
    };

    if wanted < status.acks {
        return record(format!("{wanted} acknowledgements suffice for {} members", view.desired.replicas), status.ack_set.clone(), wanted);
    }
    if let Some(plan) = leave(view, primary, &record) {
        return plan;
    }
    let mut settling = status.ack_set.iter().any(|member| must_leave(view, primary, member) || is_cut_off(view, primary, member));
    let joining = joiners(view, primary);
    if !joining.is_empty() {
        let names = joining.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut ack_set = status.ack_set.clone();
        ack_set.extend(joining);
        let needed = status.acks.min(u32::try_from(ack_set.len()).unwrap_or(u32::MAX));
        // All that was acknowledged before the last record.
        let history = view.accepted_since(primary).and_then(|_| view.executed(primary));
        if history.is_some_and(|history| holders(view, &ack_set, history) >= needed) {
            return record(format!("{names} caught up: its acknowledgement counts from now on"), ack_set, status.acks);
        }
        settling = true;
    }
    if let Some(plan) = give_way(view, primary, &record) {
        return plan;
    }

    let connected = status.ack_set.iter().filter(|member| acknowledges(view, primary, member)).count();
    let reachable = wanted.min(u32::try_from(connected).unwrap_or(u32::MAX).div_ceil(2));
    if reachable > status.acks {
        return raise(view, primary, reachable, record);
    }
    if view.promises(primary).is_some_and(|promised| promised > status.acks) {
        return record(
            format!("the primary need not wait for more than {} acknowledgements", status.acks),
            status.ack_set.clone(),
            status.acks,
        );
    }
    let short = u32::try_from(connected).unwrap_or(u32::MAX) < status.acks;
    let degraded = if short {
        Some(format!("{connected} of the replicas that must acknowledge are connected, {} are needed: commits wait", status.acks))
    } else {
        let reduced = view.desired.own.durability == Durability::Available && status.acks < wanted;
        reduced.then(|| format!("durability is Available: commits wait for {} acknowledgements instead of {wanted}", status.acks))
    };
    Plan { intent: None, order: status.acks, settling, degraded }
}

/// Raise: the primary first, then the record, once enough members hold everything that was acknowledged before.
fn raise(view: &View<'_>, primary: u32, acks: u32, record: impl Fn(String, Vec<AckMember>, u32) -> Plan) -> Plan {
    let promised = view.promises(primary).unwrap_or(0);
    let obeyed = promised >= acks && view.accepted(primary).is_some_and(|accepted| accepted.converged);
    let holders = view.executed(primary).map_or(0, |executed| holders(view, &view.status.ack_set, executed));
    if obeyed && holders >= acks {
        return record(format!("the primary waits for {acks} acknowledgements"), view.status.ack_set.clone(), acks);
    }
    Plan { order: acks.max(promised), settling: true, ..Plan::default() }
}

/// How many of `set` hold all of `history`.
fn holders(view: &View<'_>, set: &[AckMember], history: &GtidSet) -> u32 {
    let holds = |member: &&AckMember| {
        let ordinal = view.ordinal(&member.name);
        !replaced(view, member) && ordinal.and_then(|ordinal| view.held(ordinal)).is_some_and(|held| held.contains(history))
    };
    u32::try_from(set.iter().filter(holds).count()).unwrap_or(u32::MAX)
}

/// It is released by a smaller cluster, fenced, to be cloned anew, or is no longer the member that joined.
fn must_leave(view: &View<'_>, primary: u32, member: &AckMember) -> bool {
    let leaves = |ordinal: u32| ordinal >= view.desired.replicas || view.is_fenced(ordinal) || repair::is_due(view, ordinal, primary);
    replaced(view, member) || view.ordinal(&member.name).is_none_or(leaves)
}

/// It does not answer, and the primary has cut it off.
fn is_cut_off(view: &View<'_>, primary: u32, member: &AckMember) -> bool {
    view.ordinal(&member.name).is_some_and(|ordinal| view.state(ordinal).is_none() && is_barred(view, primary, ordinal))
}

fn leave(view: &View<'_>, primary: u32, record: &impl Fn(String, Vec<AckMember>, u32) -> Plan) -> Option<Plan> {
    let status = view.status;
    // Nobody knows what these hold; but the primary knows all that was committed, once they are cut off: an older report of it says
    // nothing of what they acknowledged since.
    let still = |ordinal: u32| is_barred(view, primary, ordinal) || view.is_isolated(primary);
    let cut = |member: &AckMember| unknown(view, primary, member) && view.ordinal(&member.name).is_some_and(still);
    let lost: Vec<&AckMember> = status.ack_set.iter().filter(|member| cut(member)).collect();
    let cut_off: Vec<&AckMember> = status.ack_set.iter().filter(|member| is_cut_off(view, primary, member)).collect();
    let (leavers, history, why) = if !lost.is_empty() {
        (lost, view.executed(primary)?.clone(), "its data directory is replaced")
    } else if !cut_off.is_empty() {
        (cut_off, view.executed(primary)?.clone(), "it does not answer, and the primary has cut it off")
    } else {
        let leaver = status.ack_set.iter().find(|member| must_leave(view, primary, member) && stands_still(view, member))?;
        // What it may have acknowledged alone: all it holds, now that it stands still.
        let history = view.ordinal(&leaver.name).and_then(|ordinal| view.held(ordinal))?;
        (vec![leaver], history, "it stands still")
    };
    let rest: Vec<AckMember> = status.ack_set.iter().filter(|member| !leavers.contains(member)).cloned().collect();
    let needed = status.acks.min(u32::try_from(rest.len()).unwrap_or(u32::MAX));
    if holders(view, &rest, &history) < needed {
        // Nobody of them will ever receive what the others lack, so they go together; the primary, which holds all, waits for new ones.
        let goes = |member: &AckMember| cut(member) || must_leave(view, primary, member) && stands_still(view, member);
        return status
            .ack_set
            .iter()
            .all(goes)
            .then(|| record("nobody of the ack set stays: it is made anew".to_owned(), Vec::new(), status.acks));
    }
    let names = leavers.iter().map(|member| member.name.as_str()).collect::<Vec<_>>().join(", ");
    Some(record(format!("{names} leaves the ack set: {why}"), rest, status.acks))
}

/// It acknowledges nothing any more.
fn stands_still(view: &View<'_>, member: &AckMember) -> bool {
    view.ordinal(&member.name).is_some_and(|ordinal| view.is_isolated(ordinal))
}

fn joiners(view: &View<'_>, primary: u32) -> Vec<AckMember> {
    (0..view.desired.replicas)
        .filter(|ordinal| *ordinal != primary && view.follows(*ordinal, primary) && view.serves(*ordinal))
        .filter(|ordinal| !view.is_fenced(*ordinal) && !repair::is_due(view, *ordinal, primary))
        .filter_map(|ordinal| {
            let name = view.desired.member_name(ordinal);
            let known = view.status.ack_set.iter().any(|member| member.name == name);
            if known { None } else { view.joins(ordinal) }
        })
        .collect()
}

fn acknowledges(view: &View<'_>, primary: u32, member: &AckMember) -> bool {
    let ordinal = view.ordinal(&member.name);
    !replaced(view, member)
        && ordinal.is_some_and(|ordinal| view.follows(ordinal, primary) && view.state(ordinal).is_some_and(|state| state.acknowledges))
}

/// `durability: Available`: after the grace time the silent ones leave, and fewer are asked for. Only when commits really wait.
fn give_way(view: &View<'_>, primary: u32, record: &impl Fn(String, Vec<AckMember>, u32) -> Plan) -> Option<Plan> {
    let status = view.status;
    let semi_sync = view.state(primary)?.semi_sync.as_ref()?;
    let starving = semi_sync.clients < status.acks || semi_sync.unanswered;
    if view.desired.own.durability != Durability::Available || !starving {
        return None;
    }
    let gone = |member: &AckMember| match view.ordinal(&member.name).and_then(|ordinal| view.member(ordinal)) {
        Some(seen) => matches!(seen.report, Seen::Silent { since } if (view.now.as_second() - since.as_second()) >= GRACE_SECONDS),
        None => true,
    };
    let rest: Vec<AckMember> = status.ack_set.iter().filter(|member| !gone(member)).cloned().collect();
    let acks = status.acks.min(u32::try_from(rest.len()).unwrap_or(u32::MAX));
    (acks < status.acks).then(|| {
        record(format!("durability is Available: {acks} acknowledgements while the other replicas are silent or empty"), rest, acks)
    })
}
