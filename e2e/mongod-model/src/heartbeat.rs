//! Heartbeats: each member asks each other one how it is, every two seconds, and learns terms and configurations from the answers.

use std::sync::Arc;

use bson::{DateTime, Document, doc};
use tokio::time::{Duration, Instant, sleep_until};

use crate::config::{Config, parse};
use crate::election;
use crate::failure::{Code, Failure, Reply};
use crate::member::State;
use crate::node::{Core, Node};
use crate::peer::{Peer, find_self};

/// A failed heartbeat is sent again at once, this often.
const RETRIES: u32 = 2;

/// Starts a task for each other member of the configuration just installed; tasks of the one before end by themselves.
pub fn start(node: &Arc<Node>) {
    let (generation, others) = node.read(|core| {
        let others: Vec<(usize, String)> = match core.seat() {
            Some((config, me)) => {
                config.members.iter().enumerate().filter(|(index, _)| *index != me).map(|(index, m)| (index, m.host.clone())).collect()
            }
            None => Vec::new(),
        };
        (core.generation, others)
    });
    for (index, host) in others {
        tokio::spawn(beat(node.clone(), generation, index, host));
    }
}

async fn beat(node: Arc<Node>, generation: u64, index: usize, host: String) {
    let mut peer = Peer::new(node.clone(), &host);
    let mut kicks = node.kicks();
    loop {
        kicks.borrow_and_update();
        let Some((request, interval, limit)) = node.read(|core| {
            let (config, _) = core.seat().filter(|_| core.generation == generation)?;
            Some((request(core, config), config.heartbeat_interval(), config.heartbeat_timeout()))
        }) else {
            return;
        };
        let sent = Instant::now();
        let mut answer = peer.call(request.clone(), limit).await;
        for _ in 0..RETRIES {
            let remaining = limit.saturating_sub(sent.elapsed());
            if answer.is_ok() || remaining.is_zero() {
                break;
            }
            answer = peer.call(request.clone(), remaining).await;
        }
        if !hear(&node, generation, index, sent, answer).await {
            return;
        }
        tokio::select! {
            () = sleep_until(sent + interval) => {}
            _ = kicks.changed() => {}
        }
    }
}

fn request(core: &Core, config: &Config) -> Document {
    let me = core.me.and_then(|me| config.members.get(me));
    let primary = core.primary.and_then(|index| config.members.get(index)).map_or(-1, |member| member.id);
    doc! {
        "replSetHeartbeat": &config.set, "configVersion": config.version, "configTerm": config.term, "hbv": 1,
        "from": me.map_or("", |me| &me.host), "fromId": me.map_or(-1, |me| me.id), "term": core.term, "primaryId": primary,
    }
}

/// Takes in an answer or its absence; `false` when the configuration is another one by now.
async fn hear(node: &Arc<Node>, generation: u64, index: usize, sent: Instant, answer: Reply) -> bool {
    let fetched = node.change(|core| {
        if core.generation != generation {
            return Err(());
        }
        let now = Instant::now();
        let Some(view) = core.views.get_mut(index) else { return Err(()) };
        view.asked = DateTime::now();
        match answer {
            Err(failure) => {
                let refused = matches!(failure.code, Code::AuthenticationFailed | Code::Unauthorized);
                view.lose(if refused { String::new() } else { failure.message }, refused);
                if core.primary == Some(index) {
                    core.follow(None);
                }
                Ok(None)
            }
            Ok(reply) => {
                view.hear(&reply, now);
                view.ping_millis = i64::try_from(sent.elapsed().as_millis()).unwrap_or_default() / 2;
                let term = reply.get_i64("term").unwrap_or(-1);
                core.see_term(term);
                observe(core, index, term);
                if core.state != State::Primary {
                    core.hear_commit(crate::optime::OpTime::field(&reply, "commit"), false);
                }
                core.advance_commit();
                Ok(reply.get_document("config").ok().cloned())
            }
        }
    });
    let Ok(fetched) = fetched else { return false };
    if let Some(config) = fetched {
        adopt(node, &config).await;
    } else {
        election::welcome(node, index);
    }
    true
}

/// Draws the conclusions of a member's state, which it has in this term.
fn observe(core: &mut Core, index: usize, term: i64) {
    let Some(view) = core.views.get(index) else { return };
    if view.state == State::Primary {
        // One of an older term, back from a pause, is primary in its own eyes only: it will hear of ours.
        if term == core.term && core.state != State::Primary {
            core.follow(Some(index));
            if core.election_at.is_some() {
                core.await_election();
            }
        }
    } else if core.primary == Some(index) {
        core.follow(None);
    }
}

/// Answers a heartbeat.
pub fn answer(node: &Arc<Node>, command: &Document) -> Reply {
    let Some(set) = &node.options.set else {
        return Err(Failure::new(Code::NoReplicationEnabled, "not running with --replSet"));
    };
    let theirs = command.get_str("replSetHeartbeat").unwrap_or_default();
    if theirs != set {
        let text = format!("Our set name of {set} does not match name {theirs} reported by remote node");
        return Err(Failure::new(Code::InconsistentReplicaSetNames, text));
    }
    let from = command.get_str("from").unwrap_or_default().to_owned();
    let number = |name: &str| command.get(name).and_then(|value| value.as_i64().or(value.as_i32().map(i64::from))).unwrap_or(-1);
    let (version, term, sender, primary) = (number("configVersion"), number("configTerm"), number("fromId"), number("primaryId"));
    let (reply, fetch, kick) = node.change(|core| {
        if core.seat().is_some_and(|(config, me)| config.members.get(me).is_some_and(|member| i64::from(member.id) == sender)) {
            let text = format!("Received heartbeat from member with the same member ID as ourself: {sender}");
            return Err(Failure::new(Code::BadValue, text));
        }
        if core.me.is_some() {
            core.see_term(number("term"));
        }
        let index = core.views.iter().position(|view| view.host == from);
        if let Some(view) = index.and_then(|index| core.views.get_mut(index)) {
            view.asking = DateTime::now();
        }
        let mut reply = doc! {
            "ok": 1.0, "state": core.state as i32, "set": set, "term": core.term,
            "opTime": core.applied().at.document(), "wallTime": core.applied().wall, "commit": core.commit.at.document(),
        };
        if let Some(elected) = core.elected {
            reply.insert("electionTime", elected.time);
        }
        if let Some(source) = core.source.and_then(|source| core.views.get(source)) {
            reply.insert("syncingTo", &source.host);
        }
        let (mine, config) = match core.config() {
            None => ((-2, -1), None),
            Some(config) => ((config.version, config.term), Some(config)),
        };
        reply.insert("v", mine.0);
        reply.insert("configTerm", mine.1);
        if let Some(id) = core.store.set_id() {
            reply.insert("replicaSetId", id);
        }
        if let Some(config) = config.filter(|config| config.is_newer_than(version, term)) {
            reply.insert("config", config.document(node.options.version, true));
        }
        let older = core.config().is_none_or(|config| is_older(config, version, term));
        // A member that did not find itself, because its name did not resolve yet, looks again.
        let fetch = !from.is_empty() && version > 0 && (older || core.state == State::Removed);
        let news = index.is_some() && primary == sender && core.state != State::Primary && core.primary != index;
        Ok((reply, fetch, news))
    })?;
    if fetch {
        tokio::spawn(fetch_config(node.clone(), from));
    }
    if kick {
        node.kick();
    }
    Ok(reply)
}

fn is_older(config: &Config, version: i64, term: i64) -> bool {
    if config.term < 0 || term < 0 { version > config.version } else { (term, version) > (config.term, config.version) }
}

/// Asks the sender of a heartbeat for the configuration that it has and this member has not.
async fn fetch_config(node: Arc<Node>, from: String) {
    let Some(set) = node.options.set.clone() else { return };
    let (me, version, term) = node.read(|core| {
        let removed = core.state == State::Removed;
        let known = core.config().filter(|_| !removed);
        (core.term, known.map_or(-2, |config| config.version), known.map_or(-1, |config| config.term))
    });
    let ask = doc! {
        "replSetHeartbeat": set, "configVersion": version, "configTerm": term, "hbv": 1, "from": "", "fromId": -1, "term": me, "primaryId": -1,
    };
    match Peer::new(node.clone(), &from).call(ask, Duration::from_secs(10)).await {
        Ok(reply) => {
            if let Ok(config) = reply.get_document("config") {
                adopt(&node, config).await;
            }
        }
        Err(failure) => tracing::debug!(%from, %failure, "no configuration fetched"),
    }
}

/// Installs a configuration that another member has, when it is newer than one's own.
async fn adopt(node: &Arc<Node>, document: &Document) {
    let config = match parse::config(document, node.options.version) {
        Ok(config) => config,
        Err(why) => {
            tracing::warn!(why, "a configuration that is none");
            return;
        }
    };
    if node.options.set.as_ref() != Some(&config.set) {
        return;
    }
    let mine = find_self(node, &config).await;
    let me = match mine.as_slice() {
        [me] => Some(*me),
        _ => None,
    };
    let installed = node.change(|core| {
        let newer = match core.config() {
            None => me.is_some(),
            Some(own) if core.state == State::Removed => me.is_some() && !own.is_newer_than(config.version, config.term),
            Some(own) => config.is_newer_than(own.version, own.term),
        };
        // Another set's configuration is not ours however new it is.
        let same_set = core.store.set_id().is_none_or(|id| config.settings.id == Some(id));
        let free = !core.reconfiguring;
        if newer && same_set && free {
            core.install(config, me);
        }
        newer && same_set && free
    });
    if installed {
        start(node);
    }
}
