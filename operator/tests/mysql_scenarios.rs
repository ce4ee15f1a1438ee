//! `decide`, one file a story: what was seen, what was claimed, what must be decided. A bug report becomes a file in `scenarios/mysql/`.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};

use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use jiff::Timestamp;
use operator::mysql::decide::{Decision, Route, Step, decide};
use operator::mysql::observed::{Asked, Member, Observed, PodSeen, Seen, StatefulSetSeen, Trouble};
use operator::mysql::validate::validate;
use serde::Deserialize;
use sidecar_protocol::Report;
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Accepted, Assignment, Data, Position, Problem, ProblemCode, Process, Replication, Role, SemiSync, State};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    spec: serde_yaml::Value,
    #[serde(default)]
    status: MySQLClusterStatus,
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
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    empty: bool,
    #[serde(default)]
    old_volume: bool,
    follows: Option<u32>,
    #[serde(default)]
    primary: bool,
    #[serde(default)]
    isolated: bool,
    #[serde(default)]
    acknowledges: bool,
    #[serde(default)]
    executed: String,
    #[serde(default)]
    received: String,
    #[serde(default)]
    purged: String,
    #[serde(default)]
    outdated: bool,
    uuid: Option<String>,
    trouble: Option<Trouble>,
    problem: Option<ProblemCode>,
    clients: Option<u32>,
    #[serde(default)]
    unanswered: bool,
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
    /// mysqld: `down`, `starting` or `silent`.
    process: Option<Process>,
    /// Its receiver has lost the source.
    #[serde(default)]
    lost_source: bool,
    busy: Option<u32>,
    lag: Option<f64>,
    #[serde(default)]
    condemned: bool,
    /// It was told not to acknowledge.
    #[serde(default)]
    told: bool,
    #[serde(default)]
    barred: Vec<u32>,
    /// Acknowledgements that the primary was told to wait for, unless as many as are recorded.
    asked: Option<u32>,
    /// The record that its order is of, unless the last one.
    claim: Option<u64>,
    /// Set up to acknowledge.
    #[serde(default)]
    may_acknowledge: bool,
    /// Transactions that it committed itself, by its own UUID.
    own: Option<String>,
    #[serde(default)]
    dumping: Vec<u32>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Expect {
    state: Option<String>,
    reason: Option<String>,
    /// The fields of the claim that matter; `none` when nothing may be claimed.
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
    refused: Option<String>,
    progressing: Option<String>,
}

const NOW: &str = "2026-01-01T00:01:00Z";
const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn member(scenario: &Scenario, ordinal: u32, seed: &Seed) -> Member {
    let host = |ordinal: u32| format!("orders-{ordinal}.orders.shop.svc");
    let set = |text: &str| if text.is_empty() { GtidSet::new() } else { format!("{UUID}:{text}").parse().unwrap() };
    let assignment = match () {
        () if seed.primary => {
            Some(Assignment::Primary { acks: seed.asked.unwrap_or(scenario.status.acks), members: vec![], barred: seed.barred.clone() })
        }
        () if seed.isolated || seed.told => Some(Assignment::Isolated),
        () => None,
    };
    let state = State {
        data: if seed.empty { Data::Empty } else { Data::Present },
        process: seed.process.unwrap_or(if seed.empty { Process::Down } else { Process::Running }),
        role: match () {
            () if seed.empty || seed.process.is_some() => Role::Unknown,
            () if seed.primary => Role::Primary,
            () if seed.follows.is_some() => Role::Replica,
            () => Role::Isolated,
        },
        accepted: assignment.map(|assignment| Accepted {
            term: scenario.status.term,
            claim: seed.claim.unwrap_or(scenario.status.claims),
            assignment,
            converged: true,
        }),
        position: (!seed.empty && seed.process.is_none()).then(|| Position {
            executed: set(&seed.executed).union(&seed.own.as_ref().map(|own| own.parse().unwrap()).unwrap_or_default()),
            received: set(&seed.received),
            purged: set(&seed.purged),
        }),
        replication: seed.follows.map(|source| Replication {
            source: host(source),
            receiving: !seed.lost_source,
            applying: true,
            lag_seconds: Some(seed.lag.unwrap_or(0.0)),
            error: None,
            tls: true,
        }),
        semi_sync: seed.primary.then_some(SemiSync {
            acks: scenario.status.acks,
            clients: seed.clients.unwrap_or(scenario.status.acks),
            dumping: seed.dumping.clone(),
            unanswered: seed.unanswered,
        }),
        acknowledges: seed.acknowledges,
        may_acknowledge: seed.acknowledges || seed.may_acknowledge,
        busy_seconds: seed.busy,
        condemned: seed.condemned,
        server_uuid: (!seed.empty).then(|| seed.uuid.clone().unwrap_or_else(|| format!("uuid-{ordinal}"))),
        ready: !seed.empty && (seed.primary || seed.follows.is_some()) && seed.problem.is_none(),
        problem: seed.problem.map(|code| Problem { code, message: "as the sidecar says".into() }),
        ..State::default()
    };
    let ready = state.ready && !seed.silent && seed.trouble.is_none();
    let report = if seed.silent || seed.gone || seed.silent_for.is_some() {
        let since = NOW.parse::<Timestamp>().unwrap().as_second() - seed.silent_for.unwrap_or(60);
        Seen::Silent { since: Timestamp::from_second(since).unwrap() }
    } else {
        Seen::Answered(Report {
            cluster: "u1".into(),
            member: format!("orders-{ordinal}"),
            incarnation: "i".into(),
            term: scenario.status.term,
            orders: 0,
            sidecar: "0".into(),
            trust: String::new(),
            state,
        })
    };
    Member {
        name: format!("orders-{ordinal}"),
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
    match assignment {
        Assignment::Initialise => "initialise".into(),
        Assignment::Primary { acks, barred, .. } if barred.is_empty() => format!("primary acks {acks}"),
        Assignment::Primary { acks, barred, .. } => format!("primary acks {acks} without {barred:?}"),
        Assignment::Isolated => "isolated".into(),
        Assignment::Replica { source, donors, acknowledges, replace } => {
            let donors: Vec<&str> = donors.iter().map(|donor| donor.member.as_str()).collect();
            let from = if donors.is_empty() { String::new() } else { format!(", clones from {}", donors.join(" or ")) };
            let replace = if replace.is_some() { ", replaced" } else { "" };
            format!("follows {}{}{from}{replace}", source.member, if *acknowledges { ", acknowledges" } else { "" })
        }
    }
}

/// Every key of `wanted` is in `found` with the same value.
fn holds(found: &serde_yaml::Value, wanted: &serde_yaml::Value) -> bool {
    match (found, wanted) {
        (serde_yaml::Value::Mapping(found), serde_yaml::Value::Mapping(wanted)) => {
            // Empty lists are left out of the status.
            let absent = |value: &serde_yaml::Value| value.as_sequence().is_some_and(Vec::is_empty);
            wanted.iter().all(|(key, value)| found.get(key).map_or_else(|| absent(value), |found| holds(found, value)))
        }
        _ => found == wanted,
    }
}

fn play(name: &str, scenario: &Scenario) -> Result<(), String> {
    let object = serde_yaml::from_str::<serde_yaml::Value>(
        "apiVersion: understudy.dev/v1alpha1\nkind: MySQLCluster\nmetadata: {name: orders, namespace: shop, uid: u1}",
    )
    .unwrap();
    let mut object = object;
    object["spec"] = scenario.spec.clone();
    let cluster: MySQLCluster = serde_yaml::from_value(object).map_err(|error| error.to_string())?;
    let observed = Observed {
        members: scenario.members.iter().map(|(ordinal, seed)| (*ordinal, member(scenario, *ordinal, seed))).collect(),
        stateful_set: Some(StatefulSetSeen { replicas: scenario.replicas, current: true }),
        route: scenario.routed.map(|ordinal| (format!("orders-{ordinal}"), format!("pod-{ordinal}"))),
        asked: Asked {
            consent: scenario.consent.clone(),
            switchover: scenario.switchover.clone(),
            fenced: scenario.fenced.clone(),
            reclone: scenario.reclone.clone(),
        },
    };
    let now = NOW.parse().unwrap();
    let decision: Decision = decide(&validate(&cluster).unwrap(), &observed, &scenario.status, now);
    let expect = &scenario.expect;
    let check = |what: &str, holds: bool| if holds { Ok(()) } else { Err(format!("{name}: {what}: {decision:#?}")) };
    check("state", expect.state.as_deref().is_none_or(|state| state == decision.state.as_str()))?;
    check("reason", expect.reason.as_deref().is_none_or(|words| decision.reason.contains(words)))?;
    check("no claim", !expect.no_claim || decision.intent.is_none())?;
    if let Some(wanted) = &expect.claim {
        let mut status = MySQLClusterStatus::default();
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
    let stalled = decision.stalled.as_ref().map(|(reason, _)| reason.clone());
    check("stalled", expect.stalled.is_none() || expect.stalled == stalled)?;
    let says = |wanted: &Option<String>, found: &Option<String>| {
        wanted.as_ref().is_none_or(|words| found.as_ref().is_some_and(|found| found.contains(words)))
    };
    check("refused", says(&expect.refused, &decision.refused))?;
    check("progressing", says(&expect.progressing, &decision.progressing))
}

#[test]
fn every_scenario_is_decided_as_written() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/mysql");
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
    assert!(played >= 12, "only {played} scenarios were found");
}
