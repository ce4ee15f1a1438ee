//! From what is true and what is ordered to the next step: pure. One step, then look again.
//!
//! Order within a role is the safety argument: a member that must not write is frozen before anything else; one that may write opens before anybody may
//! follow it; whoever is to follow somebody else is frozen first, so that what it holds is compared while it stands still.

use std::collections::BTreeSet;

use sidecar_protocol::redis::{
    Archive, Assignment, Data, Lineage, Part, Peer, Position, Problem, ProblemCode, Relation, ReplId, Role, State, Yield,
};

use super::observe::{Facts, Failover};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take no writes, follow nobody, receive nothing (`REPLICAOF` nobody). Of a primary clients are sent away to find the new one.
    Freeze {
        /// It was a primary.
        kick: bool,
        /// It waits for an heir that it has told, for as long as that takes: it is called off first (`FAILOVER ABORT`).
        abort: bool,
    },
    /// Accept writes (`REPLICAOF NO ONE`).
    Promote {
        /// Nobody ever followed this process: its history begins.
        begins: bool,
    },
    /// Set and delete accounts.
    Accounts,
    /// Use the new password to log in at whom it follows.
    LogIn,
    /// `min-replicas-to-write`, `min-replicas-max-lag`.
    MinReplicas(u32, u32),
    /// Hand over (`FAILOVER`).
    HandOver(Yield),
    /// Take that back (`FAILOVER ABORT`).
    TakeBack,
    /// Send clients away, to find the new primary: it made another one that (`FAILOVER`), as a Sentinel does with whom it reconfigured.
    SendAway,
    /// Keep a copy of what only this member holds.
    Archive(Position),
    /// Follow.
    Follow {
        /// Whom.
        source: Peer,
        /// The source's history, where data of that take the place of what there is.
        copies: Option<ReplId>,
    },
    /// Connect to whom it follows, who has let it in by now perhaps, instead of waiting for a second.
    Knock(Peer),
}

/// What the sidecar knows that the database does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Where it is, its own memory included.
    pub position: Option<Position>,
    /// What it holds.
    pub data: Data,
    /// [`State::identity`].
    pub identity: Option<String>,
    /// The newest archive.
    pub archive: Option<Archive>,
    /// Accounts are to be set or deleted.
    pub accounts_due: bool,
    /// Who may replicate is not in question: there are no accounts for that.
    pub open: bool,
    /// Ordinals whose replication accounts are on.
    pub admits: BTreeSet<u32>,
    /// It is to log in elsewhere with another password than it knows.
    pub login_due: bool,
    /// The hand-over that has ended without success, or was not possible in time.
    pub handed: Option<Yield>,
    /// It was primary when it was looked at before, and has clients of that time.
    pub demoted: bool,
    /// To be primary, or an heir, and out of contact: it closes and stays closed.
    pub fenced: bool,
    /// To be primary, and in contact now.
    pub may_open: bool,
    /// Its database is about to end, and it is no heir: it stands still, so that it is known where it ended.
    pub leaving: bool,
    /// An order has just come: whom it follows may have heard of its own part a moment later.
    pub eager: bool,
}

/// Why this member must not accept `assignment`, if so.
#[must_use]
pub fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
    let Part::Primary { identity, .. } = &assignment.part else { return None };
    if let (Some(ordered), Some(here)) = (identity, &state.identity)
        && ordered != here
    {
        // I10: of an empty volume, or of a process that forgot everything.
        return Some(format!("the order is to lead with the data {ordered}; this member holds {here}"));
    }
    let handed_over = state.accepted.as_ref().is_some_and(|last| matches!(&last.assignment.part, Part::Primary { yield_to: Some(_), .. }));
    match &state.role {
        Role::Replica => {
            let source = state.replication.as_ref().map_or("somebody", |replication| &replication.source);
            Some(format!("this member follows {source}: isolate it first, so that it is known what it holds"))
        }
        Role::Isolated if handed_over => {
            Some("this member was handing over, and does not know whether it did: isolate it first, and ask its heir".into())
        }
        _ => None,
    }
}

/// The next step towards `assignment`, or `None` when nothing is left to do, or nothing can be done now.
#[must_use]
pub fn plan(facts: &Facts, assignment: &Assignment, own: &Own) -> Option<Step> {
    if facts.loading.is_some() || facts.role == Role::Unknown {
        // It takes no such orders then.
        return None;
    }
    if facts.failover == Failover::Changing {
        // The heir is asked again and again, by a server that takes no other order meanwhile; dead, it never answers.
        let wanted = match &assignment.part {
            Part::Primary { .. } => true,
            Part::Replica { source, .. } => follows(facts, source),
            Part::Isolated => false,
        };
        return (!wanted).then_some(Step::Freeze { kick: true, abort: true });
    }
    if own.demoted && facts.role == Role::Replica {
        return Some(Step::SendAway);
    }
    let role = match &assignment.part {
        Part::Primary { .. } if own.fenced => frozen(facts),
        Part::Primary { identity, min_replicas, max_lag_seconds, yield_to, .. } => {
            primary(facts, identity.as_deref(), (*min_replicas, *max_lag_seconds), yield_to.as_ref(), own)
        }
        // It may have become primary, and nobody has confirmed it since.
        Part::Replica { heir_of: Some(_), .. } if own.fenced => (facts.role == Role::Primary).then(|| frozen(facts)).flatten(),
        Part::Replica { source, lineage, discard, heir_of, .. } => {
            replica(facts, source, lineage, discard.as_deref(), heir_of.is_some(), own)
        }
        Part::Isolated => frozen(facts),
    };
    let role = match &assignment.part {
        Part::Replica { heir_of: None, .. } if own.leaving => frozen(facts),
        _ => role,
    };
    role.or(own.accounts_due.then_some(Step::Accounts)).or(own.login_due.then_some(Step::LogIn))
}

/// Whether all of `assignment` holds: nothing is left to do, and what was done took effect.
#[must_use]
pub fn converged(facts: &Facts, assignment: &Assignment, own: &Own) -> bool {
    let settled = facts.loading.is_none() && facts.failover == Failover::None && plan(facts, assignment, own).is_none();
    let admitted = own.open || own.admits == super::accounts::admitted(assignment);
    settled
        && admitted
        && match &assignment.part {
            Part::Primary { .. } => facts.role == Role::Primary && !own.fenced,
            Part::Replica { heir_of: Some(_), .. } if facts.role == Role::Primary => true,
            Part::Replica { source, .. } => facts.role == Role::Replica && follows(facts, source) && is_up(facts),
            Part::Isolated => facts.role == Role::Isolated,
        }
}

/// What is wrong that no step mends.
#[must_use]
pub fn objection(facts: &Facts, assignment: &Assignment, own: &Own) -> Option<Problem> {
    match &assignment.part {
        Part::Primary { identity: Some(identity), .. } if facts.role == Role::Isolated && own.identity.as_ref() != Some(identity) => {
            let why = format!("the order is to lead with the data {identity}, which are not here any more");
            Some(Problem::new(ProblemCode::OtherHistory, why))
        }
        Part::Replica { source, lineage, discard, .. } if facts.role == Role::Isolated && facts.loading.is_none() => {
            let foreign = verdict(facts, lineage, discard.as_deref(), own) == Verdict::Stranger;
            foreign.then(|| {
                let position = own.position.as_ref().map(ToString::to_string).unwrap_or_default();
                let why = format!(
                    "{} keys of a history ({position}) that {} never had: it does not follow, which would throw them away",
                    facts.keys, source.member
                );
                Problem::new(ProblemCode::OtherHistory, why)
            })
        }
        _ => None,
    }
}

fn frozen(facts: &Facts) -> Option<Step> {
    match (facts.role, facts.failover) {
        (Role::Primary, Failover::Waiting) => Some(Step::TakeBack),
        (Role::Primary, _) => Some(Step::Freeze { kick: true, abort: false }),
        (Role::Replica, _) => Some(Step::Freeze { kick: false, abort: false }),
        (Role::Isolated | Role::Unknown, _) if facts.min_replicas.0 != 0 => Some(Step::MinReplicas(0, facts.min_replicas.1)),
        (Role::Isolated | Role::Unknown, _) => None,
    }
}

fn primary(facts: &Facts, identity: Option<&str>, min_replicas: (u32, u32), yield_to: Option<&Yield>, own: &Own) -> Option<Step> {
    let set = facts.min_replicas == min_replicas;
    match (facts.role, facts.failover, yield_to) {
        (Role::Primary, Failover::Waiting, None) => Some(Step::TakeBack),
        (Role::Primary, _, _) if !set => Some(Step::MinReplicas(min_replicas.0, min_replicas.1)),
        // Who may follow is settled before anybody is made heir, and how this one logs in at its heir.
        (Role::Primary, Failover::None, Some(heir)) if own.handed.as_ref() != Some(heir) && !own.accounts_due && !own.login_due => {
            Some(Step::HandOver(heir.clone()))
        }
        // Who hands over and is no primary (any more) does not know who is. Nor does it open whose data are not those that lead, or who is not certain
        // still to be wanted.
        (Role::Isolated, _, None)
            if own.may_open && own.identity.is_some() && identity.is_none_or(|identity| own.identity.as_deref() == Some(identity)) =>
        {
            Some(if set { Step::Promote { begins: !facts.backlog } } else { Step::MinReplicas(min_replicas.0, min_replicas.1) })
        }
        _ => None,
    }
}

fn replica(facts: &Facts, source: &Peer, lineage: &Lineage, discard: Option<&str>, heir: bool, own: &Own) -> Option<Step> {
    match facts.role {
        Role::Primary if heir => None,
        Role::Replica if follows(facts, source) => match &facts.source {
            _ if facts.min_replicas.0 != 0 => Some(Step::MinReplicas(0, facts.min_replicas.1)),
            Some(link) if !link.up && link.rests && own.eager && !own.login_due => Some(Step::Knock(source.clone())),
            _ => None,
        },
        Role::Isolated => frozen(facts).or_else(|| {
            // It is let in before it asks; and who is to follow it knocks with an account that must be there.
            let ready = !own.login_due && !own.accounts_due;
            match verdict(facts, lineage, discard, own) {
                Verdict::Follows if ready => {
                    let goes_on =
                        own.position.as_ref().is_some_and(|position| !position.led && lineage.relation(position) == Relation::Contained);
                    let copies = lineage.current().filter(|_| !goes_on).cloned();
                    Some(Step::Follow { source: source.clone(), copies })
                }
                Verdict::Archives(position) => Some(Step::Archive(position)),
                Verdict::Follows | Verdict::Stranger => None,
            }
        }),
        _ => frozen(facts),
    }
}

#[derive(PartialEq)]
enum Verdict {
    Follows,
    Archives(Position),
    Stranger,
}

/// What a member that stands still must do before it follows somebody with this past.
fn verdict(facts: &Facts, lineage: &Lineage, discard: Option<&str>, own: &Own) -> Verdict {
    let position = match &own.position {
        _ if facts.keys == 0 => return Verdict::Follows,
        Some(position) => position,
        // Nothing is lost of a copy that did not become whole. What else it could be is not known.
        None if matches!(own.data, Data::Empty | Data::Syncing { .. }) => return Verdict::Follows,
        None => return Verdict::Stranger,
    };
    let surplus = match lineage.relation(position) {
        Relation::Contained => position.recovered && position.led,
        Relation::Ahead => true,
        Relation::Foreign if discard.is_some() && discard == own.identity.as_deref() => true,
        Relation::Foreign => return Verdict::Stranger,
    };
    let archived = own.archive.as_ref().is_some_and(|archive| archive.position == *position);
    if surplus && !archived { Verdict::Archives(position.clone()) } else { Verdict::Follows }
}

fn follows(facts: &Facts, peer: &Peer) -> bool {
    facts.source.as_ref().is_some_and(|source| source.host == peer.host)
}

fn is_up(facts: &Facts) -> bool {
    facts.source.as_ref().is_some_and(|source| source.up && source.syncing.is_none())
}

#[cfg(test)]
mod tests;
