//! `decide`, one file a story: what was seen, what was claimed, what must be decided. A bug report becomes a file in `scenarios/redis/`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};

use crds::redis::{RedisReplication, RedisReplicationStatus};
use jiff::Timestamp;
use operator::decision::{Route, Step};
use operator::redis::decide::{Decision, decide};
use operator::redis::observed::{Asked, Member, Observed, PodSeen, Seen, StatefulSetSeen, Trouble};
use operator::redis::validate::validate;
use serde::Deserialize;
use sidecar_protocol::Report;
use sidecar_protocol::redis::{
    Accepted, Ancestor, Assignment, Data, Handover, Lineage, Part, Peer, Position, Problem, ProblemCode, Process, ReplId, Replica,
    Replication, Role, State,
};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    spec: serde_yaml::Value,
    #[serde(default)]
    status: RedisReplicationStatus,
    replicas: u32,
    consent: Option<(String, u64)>,
    switchover: Option<(String, u64)>,
    #[serde(default)]
    fenced: BTreeSet<String>,
    reclone: Option<(String, String)>,
    /// Whom `NAME-primary` routes to.
    routed: Option<u32>,
    members: BTreeMap<u32, Seed>,
    expect: Expect,
}

/// A member in few words; what is left out is in order.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seed {
    /// How many seconds ago it was heard last.
    silent_for: Option<i64>,
    /// It has no pod.
    #[serde(default)]
    gone: bool,
    /// Its pod is another one than was routed to.
    #[serde(default)]
    replaced: bool,
    #[serde(default)]
    deleting: bool,
    #[serde(default)]
    outdated: bool,
    #[serde(default)]
    old_volume: bool,
    trouble: Option<Trouble>,
    problem: Option<ProblemCode>,
    /// The database: `down`, `starting` or `silent`.
    process: Option<Process>,
    /// `REPLID OFFSET`, and perhaps `REPLID END` of the history before; nothing of an empty one.
    #[serde(default)]
    at: String,
    #[serde(default)]
    recovered: bool,
    #[serde(default)]
    loading: bool,
    #[serde(default)]
    syncing: bool,
    /// Unless `id-ORDINAL`.
    identity: Option<String>,
    /// It writes; the order to is accepted unless `unordered`.
    #[serde(default)]
    primary: bool,
    #[serde(default)]
    unordered: bool,
    #[serde(default)]
    admitted: Vec<u32>,
    min_replicas: Option<u32>,
    /// Who is connected to it with a complete copy, and how far it acknowledged.
    #[serde(default)]
    online: BTreeMap<u32, u64>,
    #[serde(default)]
    isolated: bool,
    follows: Option<u32>,
    /// It holds the order to be made primary by this one.
    heir_of: Option<u32>,
    /// Seconds since it last heard of whom it follows.
    quiet: Option<f64>,
    handover: Option<Handover>,
    /// The record that its order is of, unless the last one.
    claim: Option<u64>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expect {
    state: Option<String>,
    reason: Option<String>,
    /// The fields of the claim that matter.
    claim: Option<serde_yaml::Value>,
    #[serde(default)]
    no_claim: bool,
    #[serde(default)]
    orders: BTreeMap<u32, String>,
    route: Option<String>,
    replicas: Option<u32>,
    replace: Option<u32>,
    #[serde(default)]
    no_step: bool,
    stalled: Option<String>,
    /// In the message of what only a person can mend.
    asks: Option<String>,
    refused: Option<String>,
    progressing: Option<String>,
    degraded: Option<String>,
    /// In so many milliseconds it looks again; 0 when an event wakes it.
    again: Option<u64>,
}

const NOW: &str = "2026-01-01T00:01:00Z";

fn host(ordinal: u32) -> String {
    format!("cache-{ordinal}.cache.shop.svc")
}

fn position(seed: &Seed) -> Option<Position> {
    let words: Vec<&str> = seed.at.split_whitespace().collect();
    let ancestor = |replid: &str, end: &str| Ancestor { replid: ReplId(replid.into()), end: Some(end.parse().unwrap()) };
    let at = |replid: &str, offset: &str| Position {
        replid: ReplId(replid.into()),
        offset: offset.parse().unwrap(),
        recovered: seed.recovered,
        ..Position::default()
    };
    match words[..] {
        [] => None,
        [replid, offset] => Some(at(replid, offset)),
        [replid, offset, before, end] => Some(Position { before: Some(ancestor(before, end)), ..at(replid, offset) }),
        _ => panic!("{:?} is no position", seed.at),
    }
}

fn assignment(seed: &Seed) -> Option<Assignment> {
    let source = |ordinal: u32| Peer { member: format!("cache-{ordinal}"), host: host(ordinal) };
    let part = match () {
        () if seed.heir_of.is_some() => Part::Replica {
            source: source(seed.heir_of?),
            lineage: Lineage::default(),
            discard: None,
            heir_of: seed.heir_of,
            source_yields: false,
        },
        () if seed.primary && !seed.unordered => Part::Primary {
            identity: None,
            admitted: seed.admitted.clone(),
            min_replicas: seed.min_replicas.unwrap_or(1),
            max_lag_seconds: 10,
            yield_to: None,
        },
        () if seed.isolated => Part::Isolated,
        () => {
            Part::Replica { source: source(seed.follows?), lineage: Lineage::default(), discard: None, heir_of: None, source_yields: false }
        }
    };
    Some(Assignment { part, members: vec![], users: vec![] })
}

fn member(scenario: &Scenario, ordinal: u32, seed: &Seed) -> Member {
    let position = position(seed);
    let running = seed.process.is_none();
    let role = match () {
        () if !running || seed.loading => Role::Unknown,
        () if seed.primary => Role::Primary,
        () if seed.follows.is_some() => Role::Replica,
        () => Role::Isolated,
    };
    let state = State {
        data: match () {
            () if seed.loading => Data::Loading { percent: 10 },
            () if seed.syncing => Data::Syncing { copied: 1, total: 2 },
            () if position.is_none() && running => Data::Empty,
            () => Data::Present,
        },
        process: seed.process.unwrap_or(Process::Running),
        role,
        accepted: assignment(seed).map(|assignment| Accepted {
            term: scenario.status.term,
            claim: seed.claim.unwrap_or(scenario.status.claims),
            assignment,
            converged: true,
        }),
        position,
        replication: seed.follows.map(|source| Replication {
            source: host(source),
            connected: !seed.syncing,
            lag_seconds: Some(seed.quiet.unwrap_or(0.0)),
        }),
        replicas: seed.online.iter().map(|(ordinal, offset)| Replica { host: host(*ordinal), offset: *offset, online: true }).collect(),
        handover: seed.handover.clone().unwrap_or_default(),
        identity: Some(seed.identity.clone().unwrap_or_else(|| format!("id-{ordinal}"))),
        ready: running && (seed.primary || seed.follows.is_some()) && seed.problem.is_none() && !seed.syncing,
        problem: seed.problem.map(|code| Problem { code, message: "as the sidecar says".into() }),
        ..State::default()
    };
    let ready = state.ready && seed.silent_for.is_none() && seed.trouble.is_none();
    let report = if seed.gone || seed.silent_for.is_some() {
        let since = NOW.parse::<Timestamp>().unwrap().as_second() - seed.silent_for.unwrap_or(60);
        Seen::Silent { since: Timestamp::from_second(since).unwrap() }
    } else {
        Seen::Answered(Report {
            cluster: "u1".into(),
            member: format!("cache-{ordinal}"),
            incarnation: "i".into(),
            term: scenario.status.term,
            orders: 0,
            sidecar: "0".into(),
            trust: String::new(),
            state,
        })
    };
    Member {
        name: format!("cache-{ordinal}"),
        pod: (!seed.gone).then(|| PodSeen {
            uid: if seed.replaced { format!("another-{ordinal}") } else { format!("pod-{ordinal}") },
            ip: None,
            ready,
            deleting: seed.deleting,
            outdated: seed.outdated,
            trouble: seed.trouble.clone(),
            labels: BTreeMap::new(),
        }),
        report,
        fresh_volume: !seed.old_volume,
    }
}

fn describe(assignment: &Assignment) -> String {
    match &assignment.part {
        Part::Primary { admitted, min_replicas, yield_to, .. } => {
            let yields = yield_to.as_ref().map_or(String::new(), |to| format!(", yields to {}", to.to.member));
            format!("primary with {admitted:?}, at least {min_replicas}{yields}")
        }
        Part::Isolated => "isolated".into(),
        Part::Replica { source, discard, heir_of, source_yields, .. } => {
            let heir = heir_of.map_or(String::new(), |of| format!(", heir of cache-{of}"));
            let yields = if *source_yields { ", which yields" } else { "" };
            let discard = discard.as_ref().map_or(String::new(), |identity| format!(", discards {identity}"));
            format!("follows {}{yields}{heir}{discard}", source.member)
        }
    }
}

/// Every key of `wanted` is in `found` with the same value.
fn holds(found: &serde_yaml::Value, wanted: &serde_yaml::Value) -> bool {
    match (found, wanted) {
        (serde_yaml::Value::Mapping(found), serde_yaml::Value::Mapping(wanted)) => {
            // Empty lists are left out of the status.
            let absent = |value: &serde_yaml::Value| value.as_sequence().is_some_and(Vec::is_empty) || value.is_null();
            wanted.iter().all(|(key, value)| found.get(key).map_or_else(|| absent(value), |found| holds(found, value)))
        }
        (serde_yaml::Value::Sequence(found), serde_yaml::Value::Sequence(wanted)) => {
            found.len() == wanted.len() && found.iter().zip(wanted).all(|(found, wanted)| holds(found, wanted))
        }
        _ => found == wanted,
    }
}

fn play(name: &str, scenario: &Scenario) -> Result<(), String> {
    let mut object = serde_yaml::from_str::<serde_yaml::Value>(
        "apiVersion: understudy.dev/v1alpha1\nkind: RedisReplication\nmetadata: {name: cache, namespace: shop, uid: u1}",
    )
    .unwrap();
    object["spec"] = scenario.spec.clone();
    let cluster: RedisReplication = serde_yaml::from_value(object).map_err(|error| format!("{name}: {error}"))?;
    let observed = Observed {
        members: scenario.members.iter().map(|(ordinal, seed)| (*ordinal, member(scenario, *ordinal, seed))).collect(),
        stateful_set: Some(StatefulSetSeen { replicas: scenario.replicas, current: true }),
        route: scenario.routed.map(|ordinal| (format!("cache-{ordinal}"), format!("pod-{ordinal}"))),
        asked: Asked {
            consent: scenario.consent.clone(),
            switchover: scenario.switchover.clone(),
            fenced: scenario.fenced.clone(),
            reclone: scenario.reclone.clone(),
            ..Asked::default()
        },
    };
    let decision: Decision = decide(&validate(&cluster).unwrap(), &observed, &scenario.status, NOW.parse().unwrap());
    let expect = &scenario.expect;
    let check = |what: &str, holds: bool| if holds { Ok(()) } else { Err(format!("{name}: {what}: {decision:#?}")) };
    check("state", expect.state.as_deref().is_none_or(|state| state == decision.state.as_str()))?;
    check("reason", expect.reason.as_deref().is_none_or(|words| decision.reason.contains(words)))?;
    check("no claim", !expect.no_claim || decision.intent.is_none())?;
    if let Some(wanted) = &expect.claim {
        let mut status = RedisReplicationStatus::default();
        decision.intent.clone().ok_or(format!("{name}: nothing is claimed: {decision:#?}"))?.write(&mut status);
        check("claim", holds(&serde_yaml::to_value(&status).unwrap(), wanted))?;
    }
    for (ordinal, wanted) in &expect.orders {
        let order = decision.orders.get(ordinal).map(describe).unwrap_or_default();
        check(&format!("order of {ordinal} is {order:?}, not {wanted:?}"), order == *wanted)?;
    }
    let route = match decision.route {
        Route::Keep => "keep".to_owned(),
        Route::Nobody => "nobody".to_owned(),
        Route::To(ordinal) => format!("to {ordinal}"),
    };
    check("route", expect.route.as_deref().is_none_or(|wanted| wanted == route))?;
    check("replicas", expect.replicas.is_none_or(|replicas| replicas == decision.replicas))?;
    check("no step", !expect.no_step || decision.step.is_none())?;
    let replaced = decision.step.as_ref().map(|Step::ReplacePod { ordinal, .. }| *ordinal);
    check("replace", expect.replace.is_none() || expect.replace == replaced)?;
    let stalled = decision.stalled.as_ref();
    check("stalled", expect.stalled.is_none() || expect.stalled.as_ref() == stalled.map(|(reason, _)| reason))?;
    let says = |wanted: &Option<String>, found: Option<&String>| {
        wanted.as_ref().is_none_or(|words| found.is_some_and(|found| found.contains(words)))
    };
    check("asks", says(&expect.asks, stalled.map(|(_, message)| message)))?;
    check("refused", says(&expect.refused, decision.refused.as_ref()))?;
    check("degraded", says(&expect.degraded, decision.degraded.as_ref()))?;
    let again = decision.requeue.map_or(0, |again| u64::try_from(again.as_millis()).unwrap());
    check("again", expect.again.is_none_or(|wanted| wanted == again))?;
    check("progressing", says(&expect.progressing, decision.progressing.as_ref()))
}

#[test]
fn every_scenario_is_decided_as_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/redis");
    let mut played = 0;
    let mut failures = Vec::new();
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario: Scenario =
            serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        failures.extend(play(&name, &scenario).err());
        played += 1;
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(played >= 30, "only {played} scenarios were found");
}
