//! Who is wanted, and the known bugs of mongo-k8s-sidecar (by their issues there), each a fact.

use sidecar_protocol::mongo::config::{Member, SetId};
use sidecar_protocol::mongo::status::{MemberState, MemberStatus, Status};

use super::super::conf::tests::config;
use super::*;

const PATIENCE: Duration = Duration::from_secs(15);

fn name(at: u32) -> String {
    format!("shop-{at}.shop.market.svc:27017")
}

fn found(at: u32) -> Found {
    Found { ordinal: at, host: name(at), aliases: vec![format!("10.1.0.{at}:27017")] }
}

fn all(members: impl IntoIterator<Item = u32>) -> Vec<Found> {
    members.into_iter().map(found).collect()
}

fn state(hosts: &[(String, MemberState)]) -> State {
    let members =
        (0..).zip(hosts).map(|(id, (host, _))| Member { votes: true, priority: 2.0, ..Member::newcomer(id, host.clone()) }).collect();
    let seen = (0..).zip(hosts).map(|(id, (host, state))| MemberStatus { id, name: host.clone(), state: *state, optime: None }).collect();
    let set = SetConfig { name: "rs0".into(), version: 1, term: None, members, settings: None, rest: BTreeMap::new() };
    let status = Status { set: "rs0".into(), term: 1, members: seen };
    let answer = Answer::InSet(SetId { hex: "a".repeat(24) });
    State { answer, config: Some(set), status: Some(status), ..State::default() }
}

fn hosts(desired: &Desired) -> Vec<&str> {
    desired.members.iter().map(|wanted| wanted.host.as_str()).collect()
}

fn zero() -> Config {
    Config { ordinal: 0, member: "shop-0".into(), host: name(0), set: None, standalone: true, ..config() }
}

fn unborn() -> State {
    State { answer: Answer::NotInSet, ..State::default() }
}

#[test]
fn ordinal_0_begins_the_set_when_the_list_is_settled_and_has_it() {
    let choice = |config: &Config, found: &[Found], state: &State, settled| {
        matches!(choose(config, found, &BTreeSet::new(), state, settled), Assignment::Initiate { .. })
    };
    assert!(choice(&zero(), &all(0..3), &unborn(), true));
    assert!(
        !choice(&zero(), &all(0..3), &unborn(), false)
            && !choice(&zero(), &all(1..3), &unborn(), true)
            && !choice(&zero(), &[], &unborn(), true)
    );
    assert!(!choice(&zero(), &all(0..3), &State::default(), true), "what is not known is no no");
    assert!(!choice(&config(), &all(0..3), &unborn(), true), "others do not");
}

#[test]
fn a_pod_that_restarts_stays_and_one_that_is_gone_for_long_goes() {
    let (mut absent, start) = (BTreeMap::new(), Instant::now());
    let down = state(&[(name(0), MemberState::Primary), (name(1), MemberState::Secondary), (name(2), MemberState::Down)]);
    let mut gone_at =
        |seconds, found: &[Found], state: &State| gone(&mut absent, start + Duration::from_secs(seconds), PATIENCE, found, state);
    assert!(gone_at(0, &all(0..2), &down).is_empty() && gone_at(14, &all(0..2), &down).is_empty());
    assert_eq!(gone_at(15, &all(0..2), &down), BTreeSet::from([name(2)]));
    assert!(gone_at(16, &all(0..3), &down).is_empty(), "it is found again");
    assert!(gone_at(17, &all(0..2), &down).is_empty(), "and its time begins anew");
}

#[test]
fn who_is_well_and_on_no_list_stays() {
    let (mut absent, start) = (BTreeMap::new(), Instant::now());
    let elsewhere = state(&[(name(0), MemberState::Primary), ("db.example.com:27017".into(), MemberState::Secondary)]);
    for seconds in [0, 100] {
        assert!(gone(&mut absent, start + Duration::from_secs(seconds), PATIENCE, &all(0..1), &elsewhere).is_empty());
    }
    let wanted = desired(&all(0..1), &BTreeSet::new(), elsewhere.config.as_ref());
    assert_eq!(hosts(&wanted), [name(0).as_str(), "db.example.com:27017"]);
    assert_eq!(wanted.members[1].priority, 2.0, "as somebody set it");
}

#[test]
fn issues_52_and_53_a_member_known_by_its_address_is_the_same_member_and_gets_its_name() {
    let by_address = state(&[("10.1.0.0:27017".into(), MemberState::Primary), (name(1), MemberState::Secondary)]);
    let wanted = desired(&all(0..2), &BTreeSet::new(), by_address.config.as_ref());
    assert_eq!(hosts(&wanted), [name(0), name(1)]);
    assert_eq!(wanted.members[0].aliases, ["10.1.0.0:27017"]);
}

#[test]
fn issue_119_ten_pods_are_ten_members_of_whom_the_planner_lets_seven_vote() {
    assert_eq!(desired(&all(0..10), &BTreeSet::new(), None).members.len(), 10);
}

#[test]
fn issue_66_nobody_consents_to_a_forced_configuration() {
    let minority = state(&[(name(0), MemberState::Down), (name(1), MemberState::Down), (name(2), MemberState::Secondary)]);
    for gone in [BTreeSet::new(), BTreeSet::from([name(0), name(1)])] {
        let order = choose(&config(), &all([2]), &gone, &minority, true);
        assert_eq!(order.desired().consent.force, None);
        assert!(order.part().is_some_and(|part| part.stand.is_none() && part.yield_to.is_none()));
    }
}

#[test]
fn issue_80_a_pod_of_a_dead_node_that_is_still_listed_is_no_reason_to_wait_or_to_remove() {
    let (mut absent, start) = (BTreeMap::new(), Instant::now());
    let dead = state(&[(name(0), MemberState::Down), (name(1), MemberState::Primary), (name(2), MemberState::Secondary)]);
    assert!(gone(&mut absent, start + Duration::from_secs(600), PATIENCE, &all(0..3), &dead).is_empty());
    assert_eq!(desired(&all(0..3), &BTreeSet::new(), dead.config.as_ref()).members.len(), 3, "whoever leads plans, whichever pod that is");
}

#[test]
fn issue_27_a_member_of_a_set_is_never_told_to_begin_one() {
    let member = state(&[(name(0), MemberState::Removed)]);
    assert!(choose(&zero(), &all(0..3), &BTreeSet::new(), &member, true).part().is_some());
}

#[test]
fn arbiters_that_are_there_stay_arbiters() {
    let mut psa =
        state(&[(name(0), MemberState::Primary), (name(1), MemberState::Secondary), ("arbiter:27017".into(), MemberState::Arbiter)]);
    let arbiter = &mut psa.config.as_mut().unwrap().members[2];
    (arbiter.arbiter_only, arbiter.priority) = (true, 0.0);
    let wanted = desired(&all(0..2), &BTreeSet::new(), psa.config.as_ref());
    assert!(wanted.members[2].arbiter && wanted.consent.thin);
}
