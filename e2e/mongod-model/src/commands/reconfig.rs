//! `replSetInitiate`, `replSetReconfig`, `replSetGetConfig`: the configuration's life.

use std::sync::Arc;
use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};
use futures::future::join_all;
use tokio::time::Instant;

use super::{truth, whole};
use crate::config::{Config, change, parse, validate};
use crate::failure::{Code, Failure, Reply};
use crate::heartbeat;
use crate::member::State;
use crate::node::{Core, Node};
use crate::optime::OpTime;
use crate::peer::{Peer, find_self};
use crate::scram;
use crate::store::Entry;
use crate::store::data::{SETTINGS, VERSIONS};

/// What a peer may take to say whether it is there.
const QUORUM: Duration = Duration::from_secs(10);

/// `replSetGetConfig`.
pub fn show(node: &Arc<Node>, body: &Document) -> Reply {
    if node.options.set.is_none() {
        return Err(Failure::new(Code::NoReplicationEnabled, "not running with --replSet"));
    }
    node.read(|core| {
        let config = core.config().ok_or_else(|| core.not_a_member())?;
        let mut reply = doc! { "config": config.document(node.options.version, false) };
        if truth(body, "commitmentStatus") {
            if core.state != State::Primary {
                let text = "commitmentStatus is only supported on primary.";
                return Err(Failure::new(Code::NotWritablePrimary, text));
            }
            reply.insert("commitmentStatus", core.config_is_committed(true));
        }
        Ok(reply)
    })
}

fn invalid(why: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidReplicaSetConfig, why)
}

/// `replSetInitiate`.
pub async fn initiate(node: &Arc<Node>, body: &Document) -> Reply {
    let Some(set) = node.options.set.clone() else {
        return Err(Failure::new(Code::NoReplicationEnabled, "This node was not started with the replSet option"));
    };
    if node.read(|core| core.config().is_some()) {
        return Err(Failure::new(Code::AlreadyInitialized, "already initialized"));
    }
    let given = body.get_document("replSetInitiate").cloned().unwrap_or_default();
    let mut reply = Document::new();
    let document = if given.is_empty() {
        let me = format!("{}:{}", hostname(), node.options.port);
        reply.insert("info2", "no configuration specified. Using a default configuration for the set");
        reply.insert("me", &me);
        doc! { "_id": &set, "version": 1, "members": [{ "_id": 0, "host": me }] }
    } else {
        given
    };
    let _turn = Turn::take(node)?;
    let (config, me) = first_config(node, &set, document).await?;
    quorum(node, &config, me, true).await?;
    node.change(|core| {
        let at = |increment| OpTime { term: -1, time: (core.next_optime(0).time.0, increment) };
        let version = doc! { "_id": "featureCompatibilityVersion", "version": node.options.version.feature() };
        let entries = vec![
            Entry::new(at(1), doc! { "op": "n", "ns": "", "o": { "msg": "initiating set" } }),
            Entry::new(at(2), doc! { "op": "i", "ns": VERSIONS, "o": version }),
        ];
        core.store.save_synced();
        core.extend(entries);
        let applied = core.applied();
        core.commit = applied;
        core.install(config, Some(me));
    });
    heartbeat::start(node);
    Ok(reply)
}

/// Only one configuration change at a time.
struct Turn(Arc<Node>);

impl Turn {
    fn take(node: &Arc<Node>) -> Result<Self, Failure> {
        node.change(|core| {
            if core.reconfiguring {
                let text = "Cannot run replSetReconfig because the node is currently updating its configuration";
                return Err(Failure::new(Code::ConfigurationInProgress, text));
            }
            core.reconfiguring = true;
            Ok(())
        })?;
        Ok(Self(node.clone()))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.change(|core| core.reconfiguring = false);
    }
}

async fn first_config(node: &Arc<Node>, set: &str, mut document: Document) -> Result<(Config, usize), Failure> {
    if !document.contains_key("version") {
        document.insert("version", 1);
    }
    let mut config = parse::config(&document, node.options.version).map_err(invalid)?;
    if config.set != set {
        return Err(invalid(format!(
            "Rejecting initiate with a set name that differs from command line set name, initiate set name: {}, command line set name: {set}",
            config.set
        )));
    }
    if config.settings.id.is_some() {
        return Err(invalid(format!(
            "replica set configuration cannot contain 'replicaSetId' field when called from replSetInitiate: {}",
            crate::text::document(&document)
        )));
    }
    config.term = 0;
    config.settings.id = Some(ObjectId::new());
    validate::validate(&config).map_err(invalid)?;
    if config.version != 1 {
        // Two spaces: mongod's.
        let text = format!("Configuration used to initiate a replica set must  have version 1, but found {}", config.version);
        return Err(invalid(text));
    }
    let me = find(node, &config, Code::InvalidReplicaSetConfig).await?;
    electable(&config, me).map_err(|why| invalid(why.message))?;
    Ok((config, me))
}

fn hostname() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "localhost".into() } else { name.trim().into() }
}

/// This process's one place in the configuration.
async fn find(node: &Arc<Node>, config: &Config, nobody: Code) -> Result<usize, Failure> {
    match find_self(node, config).await.as_slice() {
        [me] => Ok(*me),
        [] => {
            let text =
                format!("No host described in new configuration with {} for replica set {} maps to this node", config.name(), config.set);
            Err(Failure::new(nobody, text))
        }
        many => {
            let hosts: Vec<&str> = many.iter().filter_map(|index| config.members.get(*index)).map(|member| member.host.as_str()).collect();
            Err(invalid(format!(
                "The hosts {} all map to this node in new configuration with {} for replica set {}",
                hosts.join(" and "),
                config.name(),
                config.set
            )))
        }
    }
}

fn electable(config: &Config, me: usize) -> Result<(), Failure> {
    match config.members.get(me) {
        Some(member) if !member.is_electable() => {
            let text = format!(
                "This node, {}, with _id MemberId({}) is not electable under the new configuration with {} for replica set {}",
                member.host,
                member.id,
                config.name(),
                config.set
            );
            Err(Failure::new(Code::NodeNotElectable, text))
        }
        _ => Ok(()),
    }
}

/// Asks all members: an initiation needs each of them, a reconfiguration a majority of voters and one that can be elected.
async fn quorum(node: &Arc<Node>, config: &Config, me: usize, initiating: bool) -> Result<(), Failure> {
    let from = config.members.get(me).map_or("", |member| member.host.as_str());
    let request = doc! {
        "replSetHeartbeat": &config.set, "configVersion": config.version, "configTerm": config.term, "hbv": 1, "from": "",
        "fromId": -1, "term": node.read(|core| core.term), "primaryId": -1, "checkEmpty": initiating,
    };
    let ask = |index: usize, host: String| {
        let (node, request) = (node.clone(), request.clone());
        async move { (index, if index == me { Ok(Document::new()) } else { Peer::new(node, &host).call(request, QUORUM).await }) }
    };
    let answers = join_all(config.members.iter().enumerate().map(|(index, member)| ask(index, member.host.clone()))).await;
    let (mut present, mut absent, mut voters, mut electable) = (Vec::new(), Vec::new(), 0, false);
    for (index, answer) in answers {
        let Some(member) = config.members.get(index) else { continue };
        match answer {
            Ok(reply) => {
                veto(config, &member.host, &reply, index == me)?;
                electable |= member.is_electable();
                if member.votes() {
                    voters += 1;
                    present.push(member.host.clone());
                }
            }
            Err(failure) if failure.code == Code::InconsistentReplicaSetNames => {
                let text = format!("Our set name did not match that of {}", member.host);
                return Err(Failure::new(Code::NewReplicaSetConfigurationIncompatible, text));
            }
            Err(failure) => absent.push(format!("{} failed with {}", member.host, failure.message)),
        }
    }
    tracing::debug!(from, voters, ?absent, "quorum check");
    if initiating {
        if absent.is_empty() {
            return Ok(());
        }
        let text = "replSetInitiate quorum check failed because not all proposed set members responded affirmatively: ";
        return Err(Failure::new(Code::NodeNotFound, format!("{text}{}", absent.join(", "))));
    }
    let needed = config.majority();
    let text = if voters < needed {
        format!(
            "Quorum check failed because not enough voting nodes responded; required {needed} but only the following {voters} voting nodes \
             responded: {}",
            present.join(", ")
        )
    } else if !electable {
        "Quorum check failed because no electable nodes responded".into()
    } else {
        return Ok(());
    };
    let rest = if absent.is_empty() {
        String::new()
    } else {
        format!("; the following nodes did not respond affirmatively: {}", absent.join(", "))
    };
    Err(Failure::new(Code::NodeNotFound, format!("{text}{rest}")))
}

/// A member of another set, or one with a newer configuration, stops the change.
fn veto(config: &Config, host: &str, reply: &Document, myself: bool) -> Result<(), Failure> {
    if myself {
        return Ok(());
    }
    let stop = |text| Err(Failure::new(Code::NewReplicaSetConfigurationIncompatible, text));
    if let (Ok(theirs), Some(ours)) = (reply.get_object_id("replicaSetId"), config.settings.id)
        && theirs != ours
    {
        return stop(format!("Our replica set ID of {ours} did not match that of {host}, which is {theirs}"));
    }
    let theirs = whole(reply, "v").unwrap_or(-1);
    if !config.is_newer_than(theirs, whole(reply, "configTerm").unwrap_or(-1)) {
        return stop(format!("Our config version of {} is no larger than the version on {host}, which is {theirs}", config.version));
    }
    Ok(())
}

/// `replSetReconfig`.
pub async fn reconfig(node: &Arc<Node>, body: &Document) -> Reply {
    let Some(set) = node.options.set.clone() else {
        return Err(Failure::new(Code::NoReplicationEnabled, "not running with --replSet"));
    };
    if node.read(|core| core.config().is_none()) {
        return Err(Failure::new(Code::NotYetInitialized, "no replset config has been received"));
    }
    let force = truth(body, "force");
    let document = super::object(body, "replSetReconfig", "replSetReconfig")?.clone();
    let limit = whole(body, "maxTimeMS").and_then(|millis| u64::try_from(millis).ok());
    let deadline = limit.filter(|millis| *millis > 0).map(|millis| Instant::now() + Duration::from_millis(millis));
    if force {
        return replace(node, &set, document, true, None).await;
    }
    on_writable_primary(node)?;
    committed(node, deadline, true).await.map_err(|name| {
        let text = format!("Cannot run replSetReconfig because the current config: {name} is not majority committed.");
        Failure::new(Code::CurrentConfigNotCommittedYet, text)
    })?;
    on_writable_primary(node)?;
    let reply = replace(node, &set, document, false, None).await?;
    committed(node, deadline, false).await.map_err(|_| {
        Failure::new(Code::MaxTimeMSExpired, "operation exceeded time limit")
            .within("Reconfig finished but failed to propagate to a majority")
    })?;
    on_primary_still(node)?;
    Ok(reply)
}

fn on_writable_primary(node: &Node) -> Result<(), Failure> {
    node.read(|core| {
        if core.is_writable() {
            return Ok(());
        }
        let text = format!("replSetReconfig should only be run on a writable PRIMARY. Current state {};", core.state.name());
        Err(Failure::new(Code::NotWritablePrimary, text).within("New config is rejected"))
    })
}

fn on_primary_still(node: &Node) -> Result<(), Failure> {
    if node.read(|core| core.state == State::Primary) {
        return Ok(());
    }
    let text = "Primary stepped down while waiting for the new config to propagate";
    Err(Failure::new(Code::PrimarySteppedDown, text))
}

/// Waits until a majority runs the configuration; the error is that configuration's name.
async fn committed(node: &Node, deadline: Option<Instant>, with_oplog: bool) -> Result<(), String> {
    let done = |core: &Core| (core.state != State::Primary || core.config_is_committed(with_oplog)).then_some(());
    match node.wait(deadline, done).await {
        Some(()) => Ok(()),
        None => Err(node.read(|core| core.config().map(Config::name).unwrap_or_default())),
    }
}

/// Checks and installs. `give_vote` is the member that this change gives its vote, when the server itself makes it.
async fn replace(node: &Arc<Node>, set: &str, document: Document, force: bool, give_vote: Option<i32>) -> Reply {
    let version = node.options.version;
    let turn = Turn::take(node)?;
    let (old, term, default_concern) = node.read(|core| {
        let concern = core.store.data.get(SETTINGS, &Bson::String(super::concern::DEFAULTS.into())).is_some();
        (core.config().cloned(), core.term, concern)
    });
    let Some(old) = old else { return Err(Failure::new(Code::NotYetInitialized, "no replset config has been received")) };
    let mut new = parse::config(&document, version).map_err(invalid)?;
    if new.set != *set {
        return Err(invalid(format!(
            "Rejecting reconfig where new config set name differs from command line set name, new config set name: {}, \
             command line set name: {set}",
            new.set
        )));
    }
    if give_vote.is_none() && new.members.iter().any(|member| member.newly_added) {
        return Err(invalid("Cannot provide newlyAdded field to member config during reconfig"));
    }
    if force {
        new.term = -1;
        new.version = new.version.max(old.version) + 10_000 + i64::from(random_below(100_000));
    } else {
        new.term = term;
    }
    // Unsaid, the identity stays; said, it is compared.
    new.settings.id = new.settings.id.or(old.settings.id);
    if version.holds_new_votes_back() && !force && give_vote.is_none() {
        hold_votes_back(&old, &mut new);
    }
    let incompatible = |why| Failure::new(Code::NewReplicaSetConfigurationIncompatible, why);
    validate::validate(&new).map_err(incompatible)?;
    change::check(&old, &new, force, version, default_concern).map_err(incompatible)?;
    let me = find(node, &new, Code::NodeNotFound).await?;
    if !force {
        electable(&new, me)?;
        quorum(node, &new, me, false).await?;
    }
    let installed = node.change(|core| {
        let fresh = core.config().is_some_and(|config| (config.version, config.term) == (old.version, old.term));
        let fit = fresh && (force || (core.is_writable() && core.term == term));
        if fit {
            core.install(new, Some(me));
            if core.is_writable() {
                core.write(vec![doc! { "op": "n", "ns": "", "o": { "msg": "Reconfig set" } }]);
            }
        }
        fit
    });
    drop(turn);
    if !installed {
        let text = "The configuration or the primary changed meanwhile";
        return Err(Failure::new(Code::ConfigurationInProgress, text));
    }
    heartbeat::start(node);
    Ok(Document::new())
}

/// A new voter, and one that was not seen with data yet, has no say for now.
fn hold_votes_back(old: &Config, new: &mut Config) {
    for member in &mut new.members {
        let before = old.members.iter().find(|before| before.id == member.id);
        let waits = before.is_none_or(|before| before.newly_added);
        member.newly_added = waits && member.votes > 0 && !member.arbiter;
    }
}

fn random_below(limit: u32) -> u32 {
    let bytes = scram::random(4).try_into().unwrap_or([0; 4]);
    u32::from_le_bytes(bytes) % limit
}

/// The server's own change: a member that was seen with data gets its vote. What fails is tried again at its next heartbeat.
pub async fn give_vote(node: Arc<Node>, id: i32) {
    let (true, Some(mut config)) = node.read(|core| (core.config_is_committed(true), core.config().cloned())) else { return };
    let Some(member) = config.index_of(id).and_then(|index| config.members.get_mut(index)) else { return };
    // Two heartbeats may ask for the same.
    if !std::mem::take(&mut member.newly_added) {
        return;
    }
    config.version += 1;
    let set = config.set.clone();
    let document = config.document(node.options.version, true);
    match replace(&node, &set, document, false, Some(id)).await {
        Ok(_) => tracing::info!(member = id, "a new member has its vote"),
        Err(failure) => tracing::info!(member = id, %failure, "a new member waits for its vote"),
    }
}
