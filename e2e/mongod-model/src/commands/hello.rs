//! `hello` and `isMaster`: who this member is and whom it follows, now or at the next change.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use tokio::time::Instant;

use super::{login, whole};
use crate::config::Member;
use crate::failure::{Code, Failure, Reply};
use crate::member::State;
use crate::node::{Core, Node};
use crate::server::Connection;

/// `maxBsonObjectSize`.
pub const MAX_DOCUMENT: i32 = 16_777_216;

/// Answers at once, or when `topologyVersion` is no longer the asker's.
pub async fn hello(node: &Arc<Node>, connection: &mut Connection, name: &str, body: &Document) -> Reply {
    if let (Ok(known), Some(patience)) = (body.get_document("topologyVersion"), whole(body, "maxAwaitTimeMS")) {
        let counter = whole(known, "counter").unwrap_or(-1);
        if known.get_object_id("processId").is_ok_and(|process| process == node.process) {
            if node.read(|core| core.topology) < counter {
                let text = "Received a topology version with counter greater than the server topology version counter";
                return Err(Failure::new(Code::BadValue, text));
            }
            let deadline = Instant::now() + Duration::from_millis(patience.try_into().unwrap_or(0));
            let moved = |core: &Core| (core.topology > counter || core.quiescing.is_some()).then_some(());
            node.wait(Some(deadline), moved).await;
        }
    }
    if let Some(until) = node.read(|core| core.quiescing) {
        tracing::debug!(remaining = ?until.saturating_duration_since(Instant::now()), "quiescing");
        let text = "The server is in quiesce mode and will shut down";
        return Err(Failure::new(Code::ShutdownInProgress, text));
    }
    let writable = if name == "hello" { "isWritablePrimary" } else { "ismaster" };
    let mut reply = Document::new();
    if super::truth(body, "helloOk") {
        reply.insert("helloOk", true);
    }
    match &node.options.set {
        None => {
            reply.insert(writable, true);
            reply.insert("topologyVersion", node.topology_version(0));
        }
        Some(set) => reply.extend(node.read(|core| member(node, core, set, writable))),
    }
    reply.extend(doc! {
        "maxBsonObjectSize": MAX_DOCUMENT,
        "maxMessageSizeBytes": 48_000_000,
        "maxWriteBatchSize": 100_000,
        "localTime": DateTime::now(),
        "logicalSessionTimeoutMinutes": 30,
        "connectionId": connection.id,
        "minWireVersion": 0,
        "maxWireVersion": node.options.version.wire(),
        "readOnly": false,
    });
    if let Ok(user) = body.get_str("saslSupportedMechs") {
        login::mechanisms(node, user, &mut reply);
    }
    if let Ok(start) = body.get_document("speculativeAuthenticate") {
        // A guess of the driver's: when it fails, the driver logs in the long way and hears why.
        if let Ok(answer) = login::start(node, connection, start) {
            reply.insert("speculativeAuthenticate", answer);
        }
    }
    Ok(reply)
}

fn member(node: &Node, core: &Core, set: &str, writable: &str) -> Document {
    let mut reply = doc! { "topologyVersion": node.topology_version(core.topology) };
    let Some((config, me)) = core.seat().filter(|_| core.state != State::Removed) else {
        reply.insert(writable, false);
        reply.insert("secondary", false);
        reply.insert("info", "Does not have a valid replica set config");
        reply.insert("isreplicaset", true);
        return reply;
    };
    let shown = || config.members.iter().filter(|member| !member.hidden && member.delay == 0);
    let mut list = |name: &str, wanted: &dyn Fn(&Member) -> bool| {
        let hosts: Vec<Bson> = shown().filter(|member| wanted(member)).map(|member| Bson::String(member.host.clone())).collect();
        if !hosts.is_empty() {
            reply.insert(name, hosts);
        }
    };
    list("hosts", &Member::is_electable);
    list("passives", &|member| !member.arbiter && !member.is_electable());
    list("arbiters", &|member| member.arbiter);
    reply.insert("setName", set);
    reply.insert("setVersion", i32::try_from(config.version).unwrap_or(i32::MAX));
    reply.insert(writable, core.is_writable());
    reply.insert("secondary", core.state == State::Secondary || (core.state == State::Primary && !core.writable));
    if let Some(primary) = core.primary.and_then(|index| config.members.get(index)) {
        reply.insert("primary", &primary.host);
    }
    if let Some(own) = config.members.get(me) {
        flags(own, &mut reply);
        reply.insert("me", &own.host);
    }
    if let Some(elected) = core.elected {
        reply.insert("electionId", elected.id);
    }
    if core.state != State::Arbiter {
        reply.insert("lastWrite", last_write(core));
    }
    reply
}

fn flags(own: &Member, reply: &mut Document) {
    if own.arbiter {
        reply.insert("arbiterOnly", true);
    } else if own.priority() == 0.0 {
        reply.insert("passive", true);
    }
    if own.hidden {
        reply.insert("hidden", true);
    }
    if !own.build_indexes {
        reply.insert("buildIndexes", false);
    }
    if own.delay > 0 {
        reply.insert("secondaryDelaySecs", own.delay);
    }
    if !own.tags.is_empty() {
        reply.insert("tags", own.tags.clone());
    }
}

fn last_write(core: &Core) -> Document {
    let applied = core.applied().at;
    let mut last = doc! { "opTime": applied.document(), "lastWriteDate": applied.date() };
    if !core.commit.at.is_null() {
        last.insert("majorityOpTime", core.commit.at.document());
        last.insert("majorityWriteDate", core.commit.at.date());
    }
    last
}
