//! mongod's own rules for a configuration and for the step from one to the next (pure).
//!
//! They are those of 4.4, the strictest: from 5.0 on several voters may be added at once, but an eighth is then taken in and never votes.
//! From mongod's sources and from what a real one answered.

use std::collections::BTreeSet;

use super::{MAX_MEMBERS, MAX_VOTERS, Member};

/// Highest priority.
const MAX_PRIORITY: f64 = 1000.0;

/// Members that vote.
pub fn voters(members: &[Member]) -> impl Iterator<Item = &Member> {
    members.iter().filter(|member| member.votes)
}

/// How many of `count` voters are a majority.
#[must_use]
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// Whether a configuration may be.
///
/// # Errors
/// mongod's reason.
pub fn check(members: &[Member]) -> Result<(), String> {
    let unique = |count: usize, what: &str| if count == members.len() { Ok(()) } else { Err(format!("two members have the same {what}")) };
    unique(members.iter().map(|member| member.id).collect::<BTreeSet<_>>().len(), "_id")?;
    unique(members.iter().map(|member| &member.host).collect::<BTreeSet<_>>().len(), "host")?;
    if members.is_empty() || members.len() > MAX_MEMBERS {
        return Err(format!("{} members, but must be 1 to {MAX_MEMBERS}", members.len()));
    }
    let votes = voters(members).count();
    if votes == 0 || votes > MAX_VOTERS {
        return Err(format!(
            "Replica set configuration contains {votes} voting members, but must be at least 1 and no more than {MAX_VOTERS}"
        ));
    }
    if !members.iter().any(|member| !member.arbiter_only && member.priority > 0.0) {
        return Err("Replica set configuration must contain at least one non-arbiter member with priority > 0".into());
    }
    for member in members {
        let wrong = match () {
            () if !(0.0..=MAX_PRIORITY).contains(&member.priority) => "priority must be 0 to 1000",
            () if member.priority > 0.0 && !member.votes => "priority must be 0 when non-voting (votes:0)",
            () if member.priority > 0.0 && member.hidden => "priority must be 0 when hidden=true",
            () if member.arbiter_only && !member.votes => "Arbiter must vote (cannot have 0 votes)",
            () if member.arbiter_only && member.priority > 0.0 => "Arbiter priority must be 0",
            () => continue,
        };
        return Err(format!("{}: {wrong}", member.host));
    }
    Ok(())
}

/// Whether the primary would take `new` in the place of `old`.
///
/// # Errors
/// mongod's reason.
pub fn check_step(old: &[Member], new: &[Member]) -> Result<(), String> {
    check(new)?;
    for member in new {
        for before in old {
            if member.host == before.host && member.id != before.id {
                return Err(format!("{} has _id {} and had {}", member.host, member.id, before.id));
            }
            if member.id == before.id && member.host == before.host && member.arbiter_only != before.arbiter_only {
                return Err(format!("arbiterOnly of {} cannot change; remove, then re-add the member", member.host));
            }
        }
    }
    let ids = |members: &[Member]| voters(members).map(|member| member.id).collect::<BTreeSet<_>>();
    if ids(old).symmetric_difference(&ids(new)).count() > 1 {
        return Err("Non force replica set reconfig can only add or remove at most 1 voting member.".into());
    }
    let writers = |members: &[Member]| voters(members).filter(|member| !member.arbiter_only).count();
    let arbiters = new.iter().filter(|member| member.arbiter_only).count();
    let electable = |members: &[Member]| members.iter().filter(|member| member.priority > 0.0).count();
    let was_short = writers(old) < majority(voters(old).count());
    if was_short && new.len() == 3 && arbiters == 1 && electable(new) == 2 {
        return Err("Rejecting reconfig where the new config has a PSA topology and the secondary is electable".into());
    }
    Ok(())
}
