//! Copying the oplog: a secondary asks its source for what comes after its own last entry.
//!
//! The question says how far the asking member is, so it is the acknowledgement too. Members of the model speak a command of
//! their own here (`modelCopy`): a real mongod tails `local.oplog.rs` and sends `replSetUpdatePosition`.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::time::{Instant, sleep};

use crate::failure::{Code, Failure, Reply};
use crate::member::State;
use crate::node::{Core, Node};
use crate::optime::OpTime;
use crate::peer::Peer;
use crate::store::Entry;

/// A source without news answers after this long, sooner when elections are quick: the question is a sign of life.
const AWAIT: Duration = Duration::from_secs(1);
/// A source that does not answer is none.
const LIMIT: Duration = Duration::from_secs(5);
/// Without a source, look again.
const IDLE: Duration = Duration::from_millis(500);
/// Initial sync takes a real mongod about a second even when there is nothing: whoever relies on less would fail there.
const INITIAL_SYNC: Duration = Duration::from_secs(1);
/// Entries in one answer.
const BATCH: usize = 1000;
/// How many of its own places a member names to find the last common one.
const HISTORY: usize = 10_000;

/// Copies for ever, from whom there is.
pub async fn copy(node: Arc<Node>) {
    let mut peer: Option<(String, Peer)> = None;
    loop {
        let Some((host, ask, secondary)) = node.change(choose) else {
            let ready = |core: &Core| pick(core).map(drop);
            node.wait(Some(Instant::now() + IDLE), ready).await;
            continue;
        };
        let mut connected = match peer.take() {
            Some((known, peer)) if known == host => peer,
            _ => Peer::new(node.clone(), &host),
        };
        match connected.call(ask, LIMIT).await {
            Ok(reply) => {
                node.change(|core| take(core, &host, &reply, secondary));
                peer = Some((host, connected));
                node.wait(Some(Instant::now() + IDLE), |core| core.store.synced.then_some(())).await;
            }
            Err(failure) if failure.code == Code::OplogStartMissing && secondary => {
                roll_back(&node, &mut connected).await;
                peer = Some((host, connected));
            }
            Err(failure) => {
                tracing::debug!(host, %failure, "nothing copied");
                sleep(IDLE / 2).await;
            }
        }
    }
}

/// The source and the question, or `None` when there is nobody to copy from.
fn choose(core: &mut Core) -> Option<(String, Document, bool)> {
    let source = pick(core);
    if source != core.source {
        core.source = source;
    }
    let Some(source) = source else {
        core.source_message = if core.state == State::Secondary { "Could not find member to sync from" } else { core.source_message };
        return None;
    };
    core.source_message = "";
    if core.state == State::Startup2 && core.store.synced {
        core.store.reset();
    }
    if core.state == State::Startup2 && core.syncing_since.is_none() {
        core.syncing_since = Some(Instant::now());
    }
    let config = core.config()?;
    let me = config.members.get(core.me?)?;
    let ask = doc! {
        "modelCopy": 1, "after": core.store.last().document(), "member": me.id, "commit": core.commit.at.document(), "term": core.term,
        "set": core.store.set_id(),
    };
    Some((config.members.get(source)?.host.clone(), ask, core.state != State::Primary))
}

/// The primary; without one, or as a primary that catches up, the member that is furthest ahead.
fn pick(core: &Core) -> Option<usize> {
    let (_, me) = core.seat()?;
    let copies = matches!(core.state, State::Secondary | State::Startup2 | State::Recovering | State::Rollback);
    let catches_up = core.state == State::Primary && !core.writable;
    if !copies && !catches_up {
        return None;
    }
    let usable = |index: &usize| *index != me && core.views.get(*index).is_some_and(|view| view.is_up() && view.state.is_readable());
    let last = core.store.last();
    let ahead = (0..core.views.len()).filter(usable).filter(|index| core.applied_of(*index) > last);
    core.primary.filter(usable).or_else(|| ahead.max_by_key(|index| core.applied_of(*index)))
}

/// Applies what the source sent.
fn take(core: &mut Core, host: &str, reply: &Document, secondary: bool) {
    let still = core.source.and_then(|source| core.views.get(source)).is_some_and(|view| view.host == host);
    if !still || OpTime::field(reply, "after") != core.store.last() || secondary == (core.state == State::Primary) {
        return;
    }
    let entries: Vec<Entry> = reply
        .get_array("entries")
        .map(|entries| entries.iter().filter_map(Bson::as_document).cloned().map(Entry::read).collect())
        .unwrap_or_default();
    core.extend(entries);
    core.see_term(reply.get_i64("term").unwrap_or(-1));
    if secondary {
        core.hear_commit(OpTime::field(reply, "commit"), true);
    }
    // A primary heard of by copying is as good as by heartbeat.
    if core.primary == core.source && reply.get_bool("primary").unwrap_or_default() && core.state != State::Primary {
        core.await_election();
    }
    let long_enough = core.syncing_since.is_some_and(|since| since.elapsed() >= INITIAL_SYNC);
    if !core.store.synced && long_enough && core.store.last() >= OpTime::field(reply, "last") && !core.store.last().is_null() {
        core.store.save_synced();
        tracing::info!("initial sync is over");
    }
    if core.store.synced && matches!(core.state, State::Startup2 | State::Recovering) {
        core.enter(State::Secondary);
        core.await_election();
    }
}

/// Answers a member that copies: what comes after its last entry, when there is something.
pub async fn answer(node: &Arc<Node>, command: &Document) -> Reply {
    let (after, theirs) = (OpTime::field(command, "after"), OpTime::field(command, "commit"));
    let member = command.get_i32("member").unwrap_or(-1);
    node.change(|core| {
        let (config, _) = core.seat().ok_or_else(|| core.not_a_member())?;
        if !core.state.is_readable() {
            return Err(Failure::new(Code::NotPrimaryOrSecondary, "node is not in primary or recovering state"));
        }
        if command.get_object_id("set").is_ok_and(|set| core.store.set_id() != Some(set)) {
            return Err(Failure::new(Code::InvalidReplicaSetConfig, "another replica set"));
        }
        if !after.is_null() && core.store.find(after).is_none() {
            return Err(missing(core, after));
        }
        let index = config.index_of(member);
        core.see_term(command.get_i64("term").unwrap_or(-1));
        if let Some(view) = index.and_then(|index| core.views.get_mut(index)) {
            view.alive = Instant::now();
            if view.is_up() && view.state != State::Startup2 && after > view.applied.at {
                view.applied.at = after;
                view.applied.wall = core.store.wall(after);
            }
        }
        core.advance_commit();
        Ok(())
    })?;
    let term = node.read(|core| core.term);
    let news =
        |core: &Core| (core.store.last() > after || core.commit.at > theirs.min(core.store.last()) || core.term != term).then_some(());
    let behind = |core: &Core| core.store.last() > after || (core.commit.at > theirs && theirs < core.store.last());
    if !node.read(behind) {
        let patience = node.read(|core| core.config().map_or(AWAIT, |config| config.election_timeout() / 2)).min(AWAIT);
        node.wait(Some(Instant::now() + patience), news).await;
    }
    node.read(|core| {
        let from = if after.is_null() { 0 } else { core.store.find(after).ok_or_else(|| missing(core, after))? + 1 };
        let entries: Vec<Document> = core.store.oplog.iter().skip(from).take(BATCH).map(|entry| entry.document.clone()).collect();
        Ok(doc! {
            "after": after.document(), "entries": entries, "last": core.store.last().document(), "commit": core.commit.at.document(),
            "term": core.term, "primary": core.state == State::Primary, "ok": 1.0,
        })
    })
}

/// The asking member's last entry is not in this history: it is behind what was cut, or went another way.
fn missing(core: &Core, after: OpTime) -> Failure {
    let ahead = if core.store.last() > after { "and I am ahead" } else { "and I am behind" };
    Failure::new(Code::OplogStartMissing, format!("Our last optime {} does not contain {after}, {ahead}", core.store.last()))
}

/// Finds the last entry that both have, and cuts off the rest.
async fn roll_back(node: &Arc<Node>, source: &mut Peer) {
    let mine: Vec<Document> = node.read(|core| core.store.oplog.iter().rev().take(HISTORY).map(|entry| entry.at.document()).collect());
    let reply = match source.call(doc! { "modelCommonPoint": 1, "history": mine }, LIMIT).await {
        Ok(reply) => reply,
        Err(failure) => {
            tracing::warn!(%failure, "no common point");
            sleep(IDLE).await;
            return;
        }
    };
    let (common, theirs) = (OpTime::field(&reply, "common"), OpTime::field(&reply, "last"));
    let entered = node.change(|core| {
        // Only a member that is ahead shows what to undo; one that is behind will be.
        let go = theirs > core.store.last() && core.state == State::Secondary && common >= core.commit.at;
        if go {
            core.enter(State::Rollback);
        } else if common < core.commit.at {
            tracing::error!(%common, commit = %core.commit.at, "the common point is behind what was committed: not rolling back");
        }
        go
    });
    if !entered {
        sleep(IDLE).await;
        return;
    }
    node.change(|core| {
        let cut = core.store.cut(common);
        core.rollbacks += 1;
        tracing::warn!(%common, entries = cut, "rolled back");
        core.enter(State::Recovering);
    });
}

/// The newest of these places that is in this history.
pub fn common_point(core: &Core, command: &Document) -> Reply {
    let theirs = command.get_array("history").map_err(|error| Failure::new(Code::TypeMismatch, error.to_string()))?;
    let common = theirs.iter().filter_map(Bson::as_document).map(OpTime::read).find(|at| core.store.find(*at).is_some());
    let common = common.ok_or_else(|| Failure::new(Code::OplogStartMissing, "no common point"))?;
    Ok(doc! { "common": common.document(), "last": core.store.last().document(), "ok": 1.0 })
}
