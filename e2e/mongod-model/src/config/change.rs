//! What a configuration may become.

use std::collections::BTreeSet;

use super::Config;
use crate::version::Version;

/// The first rule that the step from `old` to `new` breaks, in mongod's order and words.
pub fn check(old: &Config, new: &Config, force: bool, version: Version, default_concern_set: bool) -> Result<(), String> {
    if !new.is_newer_than(old.version, old.term) {
        return Err(format!(
            "New replica set configuration version and term must be greater than old, but {} is not greater than {} for replica set {}",
            new.name(),
            old.name(),
            new.set
        ));
    }
    if old.set != new.set {
        return Err(format!(
            "New and old replica set configurations differ in replica set name; the old was {}, and the new is {}",
            old.set, new.set
        ));
    }
    if old.settings.id != new.settings.id {
        return Err(format!(
            "New and old replica set configurations differ in replica set ID; the old was {}, and the new is {}",
            id(old),
            id(new)
        ));
    }
    if old.configsvr != new.configsvr {
        return Err("Cannot change the configsvr setting of a replica set".into());
    }
    members(old, new)?;
    if force {
        return Ok(());
    }
    let voters = |config: &Config| -> BTreeSet<i32> { config.voters().map(|(_, member)| member.id).collect() };
    if voters(old).symmetric_difference(&voters(new)).count() > 1 {
        return Err("Non force replica set reconfig can only add or remove at most 1 voting member.".into());
    }
    if version.writes_to_majority() {
        psa(old, new)?;
        if !default_concern_set && old.implicit_majority() != new.implicit_majority() {
            return Err("Reconfig attempted to install a config that would change the implicit default write concern. Use the \
                        setDefaultRWConcern command to set a cluster-wide write concern and try the reconfig again."
                .into());
        }
    }
    Ok(())
}

fn id(config: &Config) -> String {
    config.settings.id.map(|id| id.to_hex()).unwrap_or_default()
}

fn members(old: &Config, new: &Config) -> Result<(), String> {
    for member in &new.members {
        let Some(before) = old.members.iter().find(|before| before.host == member.host) else { continue };
        if before.id != member.id {
            return Err(format!(
                "New and old configurations both have members with host of {} but in the new configuration the _id field is MemberId({}) \
                 and in the old configuration it is MemberId({}) for replica set {}",
                member.host, member.id, before.id, new.set
            ));
        }
    }
    for member in &new.members {
        let Some(before) = old.members.iter().find(|before| before.id == member.id) else { continue };
        let differ = |field: &str| {
            Err(format!(
                "New and old configurations differ in the setting of the {field} field for member {}; \
                 to make this change, remove then re-add the member",
                member.host
            ))
        };
        if before.arbiter != member.arbiter {
            return differ("arbiterOnly");
        }
        if before.build_indexes != member.build_indexes {
            return differ("buildIndexes");
        }
    }
    Ok(())
}

/// A primary and an arbiter may not get an electable secondary at once: an empty one could win with the arbiter's vote.
fn psa(old: &Config, new: &Config) -> Result<(), String> {
    let data: Vec<_> = new.members.iter().filter(|member| !member.arbiter).collect();
    let is_psa = new.members.len() == 3 && data.len() == 2;
    let majority = new.members.iter().filter(|member| member.votes > 0).count() / 2 + 1;
    if is_psa && old.writable_voters() < majority && data.iter().all(|member| member.priority > 0.0) {
        return Err("Rejecting reconfig where the new config has a PSA topology and the secondary is electable, but the old config \
                    contains only one writable node. Refer to \
                    https://docs.mongodb.com/manual/reference/method/rs.reconfigForPSASet/ for next steps on reconfiguring a PSA set."
            .into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::super::parse;
    use super::*;

    fn version() -> Version {
        "5.0.7".parse().expect("a version")
    }

    fn config(number: i32, members: Vec<Document>) -> Config {
        parse::config(&doc! { "_id": "rs0", "version": number, "term": 1_i64, "members": members }, version()).expect("parses")
    }

    fn data(id: i32) -> Document {
        doc! { "_id": id, "host": format!("m-{id}:1") }
    }

    fn silent(id: i32) -> Document {
        doc! { "_id": id, "host": format!("m-{id}:1"), "votes": 0, "priority": 0 }
    }

    fn arbiter(id: i32) -> Document {
        doc! { "_id": id, "host": format!("m-{id}:1"), "arbiterOnly": true }
    }

    fn step(old: Vec<Document>, new: Vec<Document>) -> Result<(), String> {
        check(&config(1, old), &config(2, new), false, version(), false)
    }

    #[test]
    fn one_vote_changes_at_a_time_but_any_number_of_members_without_one() {
        assert_eq!(step(vec![data(0)], vec![data(0), silent(1), silent(2), silent(3)]), Ok(()));
        assert!(step(vec![data(0)], vec![data(0), data(1), data(2)]).is_err());
        assert!(step(vec![data(0), data(1), data(2)], vec![data(0), silent(1), data(3), data(2)]).is_err(), "one out and one in are two");
    }

    #[test]
    fn a_forced_configuration_has_no_term_and_is_compared_by_version_alone() {
        let mut forced = config(90_000, vec![data(0)]);
        forced.term = -1;
        assert!(forced.is_newer_than(5, 9));
        assert!(!config(6, vec![data(0)]).is_newer_than(90_000, -1));
    }

    #[test]
    fn a_primary_with_an_arbiter_gets_its_secondary_in_two_steps() {
        let why = step(vec![data(0), arbiter(1)], vec![data(0), arbiter(1), data(2)]).expect_err("electable at once");
        assert!(why.starts_with("Rejecting reconfig where the new config has a PSA topology"), "{why}");
        let waiting = doc! { "_id": 2, "host": "m-2:1", "priority": 0 };
        assert_eq!(step(vec![data(0), arbiter(1)], vec![data(0), arbiter(1), waiting.clone()]), Ok(()));
        assert_eq!(step(vec![data(0), arbiter(1), waiting], vec![data(0), arbiter(1), data(2)]), Ok(()));
    }

    #[test]
    fn an_arbiter_that_would_weaken_writes_silently_is_refused() {
        let (old, new) = (config(1, vec![data(0), data(1)]), config(2, vec![data(0), data(1), arbiter(2)]));
        let why = check(&old, &new, false, version(), false).expect_err("writes would wait for one member only");
        assert!(why.contains("implicit default write concern"), "{why}");
        assert_eq!(check(&old, &new, false, version(), true), Ok(()));
        assert_eq!(check(&old, &new, false, "4.4.0".parse().expect("a version"), false), Ok(()));
    }
}
