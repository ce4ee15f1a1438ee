//! What a configuration may be, by itself.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Config, MAX_MEMBERS, MAX_VOTERS};

/// The first rule it breaks, in mongod's order and words.
pub fn validate(config: &Config) -> Result<(), String> {
    let members = config.members.len();
    if members == 0 || members > MAX_MEMBERS {
        // Two spaces: mongod's.
        return Err(format!(
            "Replica set configuration contains {members} members, but must have at least 1 and no more than  {MAX_MEMBERS}"
        ));
    }
    for (index, member) in config.members.iter().enumerate() {
        for (later, other) in config.members.iter().enumerate().skip(index + 1) {
            if member.id == other.id {
                return Err(format!(
                    "Found two member configurations with same _id field, members.{index}._id == members.{later}._id == MemberId({})",
                    member.id
                ));
            }
            if member.host == other.host {
                return Err(format!(
                    "Found two member configurations with same host field, members.{index}.host == members.{later}.host == {}",
                    member.host
                ));
            }
        }
        if config.configsvr && (member.arbiter || member.delay > 0) {
            let what = if member.arbiter { "Arbiters are" } else { "Members with delay are" };
            return Err(format!("{what} not allowed in replica set configurations being used for config servers"));
        }
    }
    horizons(config)?;
    let local = config.members.iter().filter(|member| is_localhost(&member.host)).count();
    if local != 0 && local != members {
        return Err(format!(
            "Either all host names in a replica set configuration must be localhost references, or none must be; \
             found {local} out of {members}"
        ));
    }
    let voters = config.voters().count();
    if voters == 0 || voters > MAX_VOTERS {
        return Err(format!(
            "Replica set configuration contains {voters} voting members, but must be at least 1 and no more than {MAX_VOTERS}"
        ));
    }
    if !config.members.iter().any(super::Member::is_electable) {
        return Err("Replica set configuration must contain at least one non-arbiter member with priority > 0".into());
    }
    Ok(())
}

fn is_localhost(host: &str) -> bool {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name).trim_matches(['[', ']']);
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Clients of a network see one set under that network's names: all members have a name there, or none.
fn horizons(config: &Config) -> Result<(), String> {
    let names = |index: usize| -> BTreeSet<&String> { config.members.get(index).map(|m| m.horizons.keys().collect()).unwrap_or_default() };
    let mut seen = BTreeSet::new();
    for (index, member) in config.members.iter().enumerate() {
        if names(index) != names(0) {
            return Err("Saw a replica set member with a different set of horizons than other members.".into());
        }
        for (name, value) in &member.horizons {
            let Some(host) = value.as_str() else { return Err(format!("horizons.{name} field has non-string value")) };
            let bare = host.rsplit_once(':').map_or(host, |(bare, _)| bare);
            if bare.parse::<IpAddr>().is_ok() {
                return Err(format!("Found split horizon configuration using IP \"{host}\" which is disallowed."));
            }
            if !seen.insert(host.to_owned()) {
                return Err(format!("Horizon name mapping {host} appears more than once"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bson::{Document, doc};

    use super::super::parse;
    use super::*;

    fn check(members: Vec<Document>) -> Result<(), String> {
        let document = doc! { "_id": "rs0", "version": 1, "members": members };
        let version = "5.0.7".parse().expect("a version");
        validate(&parse::config(&document, version)?)
    }

    fn member(id: i32) -> Document {
        doc! { "_id": id, "host": format!("m-{id}:27017") }
    }

    #[test]
    fn fifty_members_of_which_seven_vote_are_the_most() {
        let silent = |id| {
            let mut member = member(id);
            member.extend(doc! { "votes": 0, "priority": 0 });
            member
        };
        assert_eq!(check((0..7).map(member).chain((7..50).map(silent)).collect()), Ok(()));
        let why = check((0..7).map(member).chain((7..51).map(silent)).collect()).expect_err("too many");
        assert!(why.contains("contains 51 members"), "{why}");
        let why = check((0..8).map(member).collect()).expect_err("too many voters");
        assert!(why.contains("8 voting members"), "{why}");
    }

    #[test]
    fn localhost_names_all_or_none() {
        let why = check(vec![member(0), doc! { "_id": 1, "host": "127.0.0.1:1" }]).expect_err("mixed");
        assert!(why.ends_with("found 1 out of 2"), "{why}");
    }

    #[test]
    fn horizons_are_the_same_on_every_member_and_no_addresses() {
        let with = |id: i32, horizons: Document| {
            let mut member = member(id);
            member.insert("horizons", horizons);
            member
        };
        assert_eq!(check(vec![with(0, doc! { "out": "a.example:1" }), with(1, doc! { "out": "b.example:1" })]), Ok(()));
        assert!(check(vec![with(0, doc! { "out": "a.example:1" }), member(1)]).is_err());
        assert!(check(vec![with(0, doc! { "out": "a.example:1" }), with(1, doc! { "out": "a.example:1" })]).is_err());
        assert!(check(vec![with(0, doc! { "out": "10.0.0.1:1" })]).is_err());
    }

    #[test]
    fn an_arbiter_alone_elects_nobody() {
        let why = check(vec![doc! { "_id": 0, "host": "m-0:27017", "arbiterOnly": true }]).expect_err("no data");
        assert!(why.contains("at least one non-arbiter member"), "{why}");
    }
}
