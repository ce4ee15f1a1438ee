//! MongoDB's `decide`, one file a story: what was seen, what was claimed, what must be decided. A bug report becomes a file in
//! `scenarios/mongo/`.

#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

use std::collections::{BTreeMap, BTreeSet};

use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use jiff::Timestamp;
use operator::engine::Engine;
use operator::mongo::Mongo;
use operator::mongo::decide::{Authority, Decision, Route, Step, decide};
use operator::mongo::observed::{Asked, Member, Observed, PodSeen, Seen, StatefulSetSeen, Trouble};
use operator::mongo::validate::Desired;
use operator::status::Pass;
use serde::Deserialize;
use sidecar_protocol::Report;
use sidecar_protocol::mongo::config::{Config, Member as Seat, SetId};
use sidecar_protocol::mongo::plan::Lost;
use sidecar_protocol::mongo::state::Process;
use sidecar_protocol::mongo::status::{MemberState, OpTime, Timestamp as Ts};
use sidecar_protocol::mongo::{Answer, Assignment, Data, Problem, ProblemCode, Said, State};

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    spec: serde_yaml::Value,
    #[serde(default)]
    status: MongoReplicaSetStatus,
    replicas: u32,
    switchover: Option<(String, u64)>,
    #[serde(default)]
    fenced: BTreeSet<String>,
    force: Option<String>,
    /// Whom `NAME-primary` routes to.
    routed: Option<u32>,
    /// Ordinals in the configuration; all that are wanted if left out.
    config: Option<Vec<u32>>,
    /// Ordinals of it without a vote.
    #[serde(default)]
    voteless: Vec<u32>,
    members: BTreeMap<u32, Seed>,
    expect: Expect,
}

/// A member in few words; what is left out is in order: a secondary that has caught up.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Seed {
    /// PRIMARY and so on, by mongod's numbers.
    state: Option<i64>,
    /// It leads and takes writes.
    #[serde(default)]
    primary: bool,
    /// In no set.
    #[serde(default)]
    unborn: bool,
    /// It does not say whether it is in a set.
    #[serde(default)]
    unsure: bool,
    /// Of this set, unless ours.
    set: Option<String>,
    #[serde(default)]
    silent: bool,
    #[serde(default)]
    gone: bool,
    #[serde(default)]
    replaced: bool,
    #[serde(default)]
    deleting: bool,
    #[serde(default)]
    outdated: bool,
    #[serde(default)]
    old_volume: bool,
    #[serde(default)]
    empty: bool,
    process: Option<Process>,
    /// Term and seconds of its optime.
    optime: Option<(i64, u32)>,
    election: Option<i64>,
    /// Ordinal of whom it hears lead.
    hears: Option<u32>,
    lag: Option<u32>,
    version: Option<String>,
    fcv: Option<String>,
    zone: Option<String>,
    /// What the planner does or waits for, unless the set is as desired.
    next: Option<String>,
    /// The consent that it asks for: most voters are lost.
    lost: Option<String>,
    problem: Option<ProblemCode>,
    trouble: Option<Trouble>,
}

#[derive(Clone, Deserialize, Default)]
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
    #[serde(default)]
    no_orders: bool,
    /// By ordinal, the priority that is wanted.
    #[serde(default)]
    priorities: BTreeMap<usize, f64>,
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
const SET: &str = "65920080aabbccddeeff0011";

fn host(ordinal: u32) -> String {
    format!("stock-{ordinal}.stock.shop.svc:27017")
}

fn config(scenario: &Scenario, desired: &Desired) -> Config {
    let seats = scenario.config.clone().unwrap_or_else(|| (0..desired.replicas).collect());
    let seat = |(id, ordinal): (usize, &u32)| {
        let votes = !scenario.voteless.contains(ordinal);
        let arbiter = desired.is_arbiter(*ordinal);
        let priority = if votes && !arbiter { 1.0 } else { 0.0 };
        Seat { votes, priority, arbiter_only: arbiter, ..Seat::newcomer(u8::try_from(id).unwrap(), host(*ordinal)) }
    };
    let members = seats.iter().enumerate().map(seat).collect();
    Config { name: "stock".into(), version: 3, term: Some(1), members, settings: None, rest: BTreeMap::new() }
}

fn member(scenario: &Scenario, desired: &Desired, ordinal: u32, seed: &Seed) -> Member {
    let process = seed.process.unwrap_or(Process::Running);
    let answers = process == Process::Running && !seed.unsure;
    let in_set = answers && !seed.unborn;
    let does = match (in_set, seed.primary, seed.state) {
        (false, ..) => MemberState::Unknown,
        (true, true, _) => MemberState::Primary,
        (true, false, None) if desired.is_arbiter(ordinal) => MemberState::Arbiter,
        (true, false, state) => MemberState::from(state.unwrap_or(2)),
    };
    let optime = seed.optime.unwrap_or((1, 100));
    let lost = seed.lost.clone().map(|consent| Lost {
        reachable: Vec::new(),
        missing: vec![host(1)],
        consent: Some(consent),
        why: "1 of the 2 voters that make a majority can be reached".into(),
    });
    let state = State {
        data: if seed.empty { Data::Empty } else { Data::Present },
        process,
        answer: match (answers, seed.unborn) {
            (false, _) => Answer::Unknown,
            (true, true) => Answer::NotInSet,
            (true, false) => Answer::InSet(SetId { hex: seed.set.clone().unwrap_or_else(|| SET.into()) }),
        },
        member: does,
        writable: seed.primary,
        election_term: answers.then(|| seed.election.or(scenario.status.election_term).unwrap_or(1)),
        optime: in_set.then_some(OpTime { t: optime.0, ts: Ts { t: optime.1, i: 1 } }),
        primary: seed.hears.map(host),
        config: in_set.then(|| config(scenario, desired)),
        lag_seconds: (in_set && !seed.primary).then(|| seed.lag.unwrap_or(0)),
        version: Some(seed.version.clone().unwrap_or_else(|| "8.0.4".into())),
        fcv: Some(seed.fcv.clone().unwrap_or_else(|| "8.0".into())),
        said: (seed.primary || lost.is_some()).then(|| Said {
            settled: seed.next.is_none() && lost.is_none(),
            next: seed.next.clone().unwrap_or_default(),
            lost,
        }),
        ready: does.is_well() && seed.problem.is_none(),
        problem: seed.problem.map(|code| Problem { code, message: "as the sidecar says".into() }),
        ..State::default()
    };
    let ready = state.ready && !seed.silent && seed.trouble.is_none();
    let report = if seed.silent || seed.gone {
        Seen::Silent { since: Timestamp::from_second(NOW.parse::<Timestamp>().unwrap().as_second() - 60).unwrap() }
    } else {
        Seen::Answered(Report {
            cluster: "u1".into(),
            member: format!("stock-{ordinal}"),
            incarnation: "i".into(),
            term: scenario.status.term,
            orders: 0,
            sidecar: "0".into(),
            trust: String::new(),
            state,
        })
    };
    let label = seed.zone.clone().map(|zone| ("topology.kubernetes.io/zone".to_owned(), zone));
    Member {
        name: format!("stock-{ordinal}"),
        pod: (!seed.gone).then(|| PodSeen {
            uid: if seed.replaced { format!("another-{ordinal}") } else { format!("pod-{ordinal}") },
            ip: None,
            ready,
            deleting: seed.deleting,
            outdated: seed.outdated,
            trouble: seed.trouble.clone(),
            labels: label.into_iter().collect(),
        }),
        report,
        fresh_volume: !seed.old_volume,
    }
}

fn describe(assignment: &Assignment) -> String {
    match assignment {
        Assignment::Initiate { set, desired } => format!("initiate {set} of {}", desired.members.len()),
        Assignment::Member(part) => {
            let id = part.desired.set_id.as_ref().map_or("no set", |_| "the set");
            let stand = part.stand.map_or(String::new(), |term| format!(", stands after {term}"));
            let yields = part.yield_to.as_ref().map_or(String::new(), |to| format!(", yields {} to {}", to.term, &to.host[..7]));
            let fcv = part.fcv.as_ref().map_or(String::new(), |fcv| format!(", fcv {fcv}"));
            let force = part.desired.consent.force.as_ref().map_or(String::new(), |words| format!(", {words}"));
            format!("{id} of {}{stand}{yields}{fcv}{force}", part.desired.members.len())
        }
    }
}

/// Every key of `wanted` is in `found` with the same value; `null` means that it is not there.
fn holds(found: &serde_yaml::Value, wanted: &serde_yaml::Value) -> bool {
    match (found, wanted) {
        (serde_yaml::Value::Mapping(found), serde_yaml::Value::Mapping(wanted)) => {
            wanted.iter().all(|(key, value)| found.get(key).map_or(value.is_null(), |found| holds(found, value)))
        }
        _ => found == wanted,
    }
}

fn checked(scenario: &Scenario) -> Desired {
    let mut object: serde_yaml::Value = serde_yaml::from_str(
        "apiVersion: understudy.dev/v1alpha1\nkind: MongoReplicaSet\nmetadata: {name: stock, namespace: shop, uid: u1}",
    )
    .unwrap();
    object["spec"] = scenario.spec.clone();
    Mongo::validate(&serde_yaml::from_value::<MongoReplicaSet>(object).unwrap()).unwrap()
}

fn observed(scenario: &Scenario, desired: &Desired) -> Observed {
    Observed {
        members: scenario.members.iter().map(|(ordinal, seed)| (*ordinal, member(scenario, desired, *ordinal, seed))).collect(),
        stateful_set: Some(StatefulSetSeen { replicas: scenario.replicas, current: true }),
        route: scenario.routed.map(|ordinal| (format!("stock-{ordinal}"), format!("pod-{ordinal}"))),
        asked: Asked { switchover: scenario.switchover.clone(), fenced: scenario.fenced.clone(), force: scenario.force.clone(), key: None },
    }
}

fn play(name: &str, scenario: &Scenario) -> Result<(), String> {
    let desired = checked(scenario);
    let observed = observed(scenario, &desired);
    let decision: Decision = decide(&desired, &observed, &scenario.status, NOW.parse().unwrap());
    let expect = &scenario.expect;
    let check = |what: &str, holds: bool| if holds { Ok(()) } else { Err(format!("{name}: {what}: {decision:#?}")) };
    check("state", expect.state.as_deref().is_none_or(|state| state == decision.state.as_str()))?;
    check("reason", expect.reason.as_deref().is_none_or(|words| decision.reason.contains(words)))?;
    check("no claim", !expect.no_claim || decision.intent.is_none())?;
    if let Some(wanted) = &expect.claim {
        let mut status = MongoReplicaSetStatus::default();
        decision.intent.clone().ok_or(format!("{name}: nothing is claimed: {decision:#?}"))?.write(&mut status);
        check("claim", holds(&serde_yaml::to_value(&status).unwrap(), wanted))?;
    }
    for (ordinal, wanted) in &expect.orders {
        let order = decision.orders.get(ordinal).map(describe).unwrap_or_default();
        check(&format!("order of {ordinal} is {order:?}, not {wanted:?}"), order == *wanted)?;
    }
    check("no orders", !expect.no_orders || decision.orders.is_empty())?;
    for (ordinal, wanted) in &expect.priorities {
        let order = decision.orders.values().next().map(|order| order.desired().members[*ordinal].priority);
        check(&format!("priority of {ordinal} is {order:?}"), order == Some(*wanted))?;
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

fn scenarios() -> Vec<(String, Scenario)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/scenarios/mongo");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let scenario = serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap_or_else(|error| panic!("{name}: {error}"));
        (name, scenario)
    };
    files.map(read).collect()
}

#[test]
fn every_scenario_is_decided_as_written() {
    let scenarios = scenarios();
    let failures: Vec<String> = scenarios.iter().filter_map(|(name, scenario)| play(name, scenario).err()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(scenarios.len() >= 20, "only {} scenarios were found", scenarios.len());
}

#[test]
fn optimes_that_move_write_nothing_and_a_row_tells_votes_zone_and_lag() {
    let text = "{spec: {replicas: 3, storage: {size: 1Gi}}, replicas: 3, routed: 0, expect: {},
        status: {term: 3, primary: stock-0, electionTerm: 5, replicaSetId: 65920080aabbccddeeff0011},
        members: {0: {primary: true, zone: a}, 1: {hears: 0}, 2: {hears: 0, lag: 50}}}";
    let mut scenario: Scenario = serde_yaml::from_str(text).unwrap();
    let desired = checked(&scenario);
    let after = |scenario: &Scenario, old: &MongoReplicaSetStatus, now: &str| {
        let (observed, now) = (observed(scenario, &desired), now.parse().unwrap());
        let decision = decide(&desired, &observed, old, now);
        assert_eq!((&decision.intent, decision.state.as_str()), (&None, "Healthy"));
        let pass = Pass { desired: &desired, observed: &observed, decision: &decision, obstacles: &[], generation: Some(1), settled: true };
        Mongo::status(&pass, old, now)
    };
    let first = after(&scenario, &scenario.status, NOW);
    assert_eq!((first.ready.as_str(), first.term, first.observed_generation), ("3/3", 3, Some(1)));
    let row = &first.members[2];
    assert_eq!((row.role.as_str(), row.votes, row.priority, row.lag.as_deref()), ("SECONDARY", Some(true), Some(1), Some("seconds")));
    assert_eq!((first.members[0].role.as_str(), first.members[0].zone.as_deref()), ("PRIMARY", Some("a")));
    for (ordinal, seed) in &mut scenario.members {
        seed.optime = Some((5, 1000 + ordinal));
        seed.lag = Some(if *ordinal == 2 { 70 } else { 3 });
    }
    assert_eq!(after(&scenario, &first, "2026-01-01T01:00:00Z"), first);
}

/// What holds of every decision, whatever was seen: each scenario, with every member in turn silent, gone or ended.
#[test]
fn no_decision_initiates_a_second_set_or_stands_twice_or_shrinks_past_a_seat() {
    let spoil: [fn(&mut Seed); 5] = [
        |seed| seed.silent = true,
        |seed| seed.gone = true,
        |seed| seed.process = Some(Process::Down),
        |seed| seed.unsure = true,
        |seed| (seed.primary, seed.state) = (false, Some(3)),
    ];
    for (name, scenario) in scenarios() {
        for ordinal in scenario.members.keys() {
            for spoil in spoil {
                let mut other = scenario.clone();
                spoil(other.members.get_mut(ordinal).unwrap());
                laws(&name, &other);
            }
        }
    }
}

fn laws(name: &str, scenario: &Scenario) {
    let desired = checked(scenario);
    let observed = observed(scenario, &desired);
    let now = NOW.parse().unwrap();
    let (status, decision) = (&scenario.status, decide(&desired, &observed, &scenario.status, now));
    assert_eq!(decision, decide(&desired, &observed, status, now), "{name}: decided twice, differently");
    let part = |order: &Assignment| order.part().cloned().unwrap_or_default();
    let initiates = decision.orders.values().any(|order| matches!(order, Assignment::Initiate { .. }));
    assert!(!initiates || status.replica_set_id.is_none() && status.transition.is_some(), "{name}: a second set");
    let stands = decision.orders.values().filter(|order| part(order).stand.is_some()).count();
    let yields = decision.orders.values().filter(|order| part(order).yield_to.is_some()).count();
    assert!(stands + yields <= 1 && (stands + yields == 0 || status.transition.is_some()), "{name}: {stands} stand, {yields} yield");
    let forced = decision.orders.values().find_map(|order| order.desired().consent.force.clone());
    assert!(forced.is_none() || forced == status.consent, "{name}: a force that is not recorded");
    let seats = scenario.config.clone().unwrap_or_else(|| (0..desired.replicas).collect());
    let shrinks = decision.replicas < scenario.replicas && !desired.hibernate;
    assert!(!shrinks || seats.iter().all(|ordinal| *ordinal < decision.replicas), "{name}: a pod goes that the set still names");
    if let Some(authority) = decision.intent.clone() {
        let before = Authority::of(status);
        assert!(authority.term >= before.term, "{name}: the term fell");
        assert!(before.replica_set_id.is_none() || authority.replica_set_id == before.replica_set_id, "{name}: another set");
        assert!(authority != before, "{name}: a claim of what is so already would be written for ever");
    }
}
