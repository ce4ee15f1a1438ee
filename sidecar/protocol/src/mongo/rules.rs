//! mongod's own rules for a configuration and for the step from one to the next (pure).
//!
//! For those who play mongod and for those who test the planner; the planner keeps to them, and does not ask here first. What
//! only mongod knows is not here: whether it finds itself in the configuration (74), leads and takes writes (10107), and hears a majority (74).
//! From mongod's sources (`repl_set_config_checks.cpp`, `member_config.cpp`), the words from what a real 5.0.7 answered.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::config::{Config, Member};
use super::{MAX_MEMBERS, MAX_VOTERS};

/// Highest priority.
const MAX_PRIORITY: f64 = 1000.0;

/// What of a mongod its rules hang on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Major and minor of its feature compatibility version, (4, 4) or later.
    pub version: (u16, u16),
    /// Whether the user has set a default write concern (`defaultWriteConcernSource` of `getDefaultRWConcern` is `global`).
    pub has_default_write_concern: bool,
}

/// Members that vote.
pub fn voters<V>(members: &[Member<V>]) -> impl Iterator<Item = &Member<V>> {
    members.iter().filter(|member| member.votes)
}

/// How many of `count` voters are a majority.
#[must_use]
pub fn majority(count: usize) -> usize {
    count / 2 + 1
}

/// Voters, and those of them that hold data.
fn counts<V>(members: &[Member<V>]) -> (usize, usize) {
    (voters(members).count(), voters(members).filter(|member| !member.arbiter_only).count())
}

/// Whether so many voters, of whom so many hold data, lose the majority that holds data with the first of these. From 5.0 on the
/// default write concern of such a set is 1, not `majority`.
#[must_use]
pub fn is_thin(voters: usize, writers: usize) -> bool {
    writers < voters && writers <= majority(voters)
}

/// [`is_thin`] of a configuration.
#[must_use]
pub fn lacks_data<V>(members: &[Member<V>]) -> bool {
    let (voters, writers) = counts(members);
    is_thin(voters, writers)
}

/// Whether mongod refuses the step since an arbiter could help a secondary to lead that need not hold what was acknowledged: two data
/// members, both with a priority, beside one arbiter, out of a set that lacked writers. It takes a priority of 0 first.
#[must_use]
pub fn offends_psa<V>(old: &[Member<V>], new: &[Member<V>]) -> bool {
    let (votes, writers) = counts(old);
    let arbiters = new.iter().filter(|member| member.arbiter_only).count();
    let electable = new.iter().filter(|member| member.priority > 0.0).count();
    writers < majority(votes) && new.len() == 3 && arbiters == 1 && electable == 2
}

// === impl Server ===

impl Server {
    /// Whether it takes new voters as non-voters first, and gives them their votes itself.
    fn defers_votes(self) -> bool {
        self.version >= (5, 0)
    }

    /// Whether it refuses the step for what would become of the implicit default write concern.
    #[must_use]
    pub fn guards_write_concern<V>(self, old: &[Member<V>], new: &[Member<V>]) -> bool {
        self.version >= (5, 0) && !self.has_default_write_concern && lacks_data(old) != lacks_data(new)
    }
}

/// Whether a configuration may be.
///
/// # Errors
/// mongod's reason: error 93 when initiating, 103 when reconfiguring.
pub fn check<V>(members: &[Member<V>]) -> Result<(), String> {
    let unique = |count: usize, what: &str| {
        if count == members.len() { Ok(()) } else { Err(format!("Found two member configurations with same {what} field")) }
    };
    unique(members.iter().map(|member| member.id).collect::<BTreeSet<_>>().len(), "_id")?;
    unique(members.iter().map(|member| &member.host).collect::<BTreeSet<_>>().len(), "host")?;
    if members.is_empty() || members.len() > MAX_MEMBERS {
        let count = members.len();
        return Err(format!(
            "Replica set configuration contains {count} members, but must have at least 1 and no more than  {MAX_MEMBERS}"
        ));
    }
    let local = members.iter().filter(|member| is_local(&member.host)).count();
    if local != 0 && local != members.len() {
        let count = members.len();
        return Err(format!(
            "Either all host names in a replica set configuration must be localhost references, or none must be; found {local} out of {count}"
        ));
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
    members.iter().try_for_each(check_member)
}

fn check_member<V>(member: &Member<V>) -> Result<(), String> {
    let leads = member.priority > 0.0;
    let wrong = match () {
        () if !(0.0..=MAX_PRIORITY).contains(&member.priority) => "BSON field 'priority' value must be >= 0 and <= 1000",
        () if member.arbiter_only && !member.votes => "Arbiter must vote (cannot have 0 votes)",
        () if member.arbiter_only && leads => "Arbiter priority must be 0",
        () if leads && !member.votes => "priority must be 0 when non-voting (votes:0)",
        () if leads && member.hidden => "priority must be 0 when hidden=true",
        () if leads && !member.build_indexes => "priority must be 0 when buildIndexes=false",
        () if leads && !member.may_lead() => "priority must be 0 when secondaryDelaySecs is used",
        () => return Ok(()),
    };
    Err(format!("member: {{ _id: {}, host: \"{}\" }} :: caused by :: {wrong}", member.id, member.host))
}

fn is_local(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "::1" | "[::1]")
}

/// Whether the primary would take `new` in the place of `old`, asked without `force`.
///
/// From 5.0 on an eighth voter that is new passes mongod's check and then never votes; here it never passes.
///
/// # Errors
/// mongod's reason: error 103.
pub fn check_step<V>(old: &Config<V>, new: &Config<V>, server: Server) -> Result<(), String> {
    check(&new.members)?;
    if new.version <= old.version {
        return Err(format!(
            "New replica set configuration version and term must be greater than old, but {{version: {}}} is not greater than {{version: {}}}",
            new.version, old.version
        ));
    }
    if new.name != old.name || new.set_id() != old.set_id() {
        return Err("New and old configurations differ in replica set name or replicaSetId".into());
    }
    for member in &new.members {
        for before in &old.members {
            if member.host == before.host && member.id != before.id {
                return Err(format!(
                    "New and old configurations both have members with host of {} but in the new configuration the _id field is \
                     MemberId({}) and in the old configuration it is MemberId({})",
                    member.host, member.id, before.id
                ));
            }
            let changed = |what| {
                let host = &member.host;
                Err(format!(
                    "New and old configurations differ in the setting of the {what} field for member {host}; \
                     to make this change, remove then re-add the member"
                ))
            };
            match member.id == before.id && member.host == before.host {
                true if member.arbiter_only != before.arbiter_only => return changed("arbiterOnly"),
                true if member.build_indexes != before.build_indexes => return changed("buildIndexes"),
                _ => {}
            }
        }
    }
    let was = |member: &Member<V>| old.members.iter().any(|before| before.id == member.id);
    let before: BTreeSet<_> = voters(&old.members).map(|member| member.id).collect();
    let after: BTreeSet<_> = voters(&new.members)
        .filter(|member| !server.defers_votes() || member.arbiter_only || was(member))
        .map(|member| member.id)
        .collect();
    if before.symmetric_difference(&after).count() > 1 {
        return Err("Non force replica set reconfig can only add or remove at most 1 voting member.".into());
    }
    if offends_psa(&old.members, &new.members) {
        return Err("Rejecting reconfig where the new config has a PSA topology and the secondary is electable".into());
    }
    if server.guards_write_concern(&old.members, &new.members) {
        return Err("Reconfig attempted to install a config that would change the implicit default write concern. Use the \
                    setDefaultRWConcern command to set a cluster-wide write concern and try the reconfig again."
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests;
