//! `replSetGetStatus`: field for field as mongod shows it.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};
use tokio::time::Instant;

use crate::config::{Config, Member};
use crate::failure::{Code, Failure, Reply};
use crate::member::{State, View};
use crate::node::{Core, Node};

/// The whole status.
pub fn status(node: &Arc<Node>) -> Reply {
    let Some(set) = &node.options.set else {
        return Err(Failure::new(Code::NoReplicationEnabled, "not running with --replSet"));
    };
    node.read(|core| {
        let (config, me) = core.seat().filter(|_| core.state != State::Removed).ok_or_else(|| core.not_a_member())?;
        Ok(reply(node, core, set, config, me))
    })
}

fn count(number: usize) -> i32 {
    number.try_into().unwrap_or(i32::MAX)
}

fn reply(node: &Node, core: &Core, set: &str, config: &Config, me: usize) -> Document {
    let applied = core.applied();
    let (source, source_id) = source(core, config);
    let mut reply = doc! {
        "set": set, "date": DateTime::now(), "myState": core.state as i32, "term": core.term,
        "syncSourceHost": source, "syncSourceId": source_id,
        "heartbeatIntervalMillis": config.settings.heartbeat_interval,
        "majorityVoteCount": count(config.majority()),
        "writeMajorityCount": count(config.write_majority()),
        "votingMembersCount": count(config.voters().count()),
        "writableVotingMembersCount": count(config.writable_voters()),
        "optimes": {
            "lastCommittedOpTime": core.commit.at.document(), "lastCommittedWallTime": core.commit.wall,
            "readConcernMajorityOpTime": core.commit.at.document(),
            "appliedOpTime": applied.at.document(), "durableOpTime": applied.at.document(),
            "lastAppliedWallTime": applied.wall, "lastDurableWallTime": applied.wall,
        },
        "lastStableRecoveryTimestamp": core.commit.at.timestamp(),
    };
    if core.state == State::Startup2 {
        reply.insert("initialSyncStatus", doc! { "failedInitialSyncAttempts": 0, "maxFailedInitialSyncAttempts": 10 });
    }
    if let Some(candidacy) = &core.candidacy {
        reply.insert("electionCandidateMetrics", candidacy.clone());
    }
    if let Some(participation) = &core.participation {
        reply.insert("electionParticipantMetrics", participation.clone());
    }
    let members: Vec<Document> = config
        .members
        .iter()
        .enumerate()
        .map(|(index, member)| match core.views.get(index) {
            Some(view) if index != me => other(config, member, view),
            _ => own(node, core, config, member),
        })
        .collect();
    reply.insert("members", members);
    reply
}

fn source(core: &Core, config: &Config) -> (String, i32) {
    let source = core.source.filter(|_| core.state != State::Primary);
    match source.and_then(|index| config.members.get(index)) {
        Some(member) => (member.host.clone(), member.id),
        None => (String::new(), -1),
    }
}

fn seconds(since: Instant) -> i32 {
    i32::try_from(since.elapsed().as_secs()).unwrap_or(i32::MAX)
}

fn own(node: &Node, core: &Core, config: &Config, member: &Member) -> Document {
    let applied = core.applied();
    let (source, source_id) = source(core, config);
    let mut shown = doc! {
        "_id": member.id, "name": &member.host, "health": 1.0, "state": core.state as i32, "stateStr": core.state.name(),
        "uptime": seconds(node.started),
    };
    if core.state != State::Arbiter {
        shown.extend(doc! {
            "optime": applied.at.document(), "optimeDate": applied.at.date(),
            "lastAppliedWallTime": applied.wall, "lastDurableWallTime": applied.wall,
        });
    }
    shown.extend(doc! { "syncSourceHost": source, "syncSourceId": source_id, "infoMessage": core.source_message });
    if let Some(elected) = core.elected {
        shown.insert("electionTime", elected.time);
        shown.insert("electionDate", DateTime::from_millis(i64::from(elected.time.time) * 1000));
    }
    shown.extend(version(config.version, config.term));
    shown.extend(doc! { "self": true, "lastHeartbeatMessage": "" });
    shown
}

fn version(version: i64, term: i64) -> Document {
    doc! { "configVersion": i32::try_from(version).unwrap_or(-1), "configTerm": i32::try_from(term).unwrap_or(-1) }
}

fn other(config: &Config, member: &Member, view: &View) -> Document {
    let health = if view.up == Some(false) { 0.0 } else { 1.0 };
    // Of one that refuses the key mongod knows no state, and says that it cannot be reached.
    let state = if view.refused { State::Unknown } else { view.state };
    let mut shown = doc! {
        "_id": member.id, "name": &member.host, "health": health, "state": state as i32, "stateStr": view.state.name(),
        "uptime": if view.is_up() { seconds(view.up_since) } else { 0 },
    };
    if !member.arbiter {
        let applied = view.heard();
        shown.extend(doc! {
            "optime": applied.document(), "optimeDurable": applied.document(),
            "optimeDate": applied.date(), "optimeDurableDate": applied.date(),
            "lastAppliedWallTime": view.applied.wall, "lastDurableWallTime": view.applied.wall,
        });
    }
    shown.extend(doc! { "lastHeartbeat": view.asked, "lastHeartbeatRecv": view.asking, "pingMs": Bson::Int64(view.ping_millis) });
    shown.insert("lastHeartbeatMessage", &view.message);
    if view.refused {
        shown.insert("authenticated", false);
    }
    let source = config.members.iter().find(|known| known.host == view.source);
    shown.extend(doc! {
        "syncSourceHost": &view.source, "syncSourceId": source.map_or(-1, |source| source.id), "infoMessage": "",
    });
    if let Some(elected) = view.elected {
        shown.insert("electionTime", elected);
        shown.insert("electionDate", DateTime::from_millis(i64::from(elected.time) * 1000));
    }
    shown.extend(version(view.config.0, view.config.1));
    shown
}
