//! Facts about the next step, and what holds whatever is seen and ordered.

use proptest::prelude::*;
use sidecar_protocol::mongo::Yield;
use sidecar_protocol::mongo::config::{Member, SetId, Settings};
use sidecar_protocol::mongo::plan::Wanted;
use sidecar_protocol::mongo::status::{MemberStatus, OpTime, Status, Timestamp};

use super::super::conf::tests::config;
use super::super::link::Hello;
use super::super::observe::Standing;
use super::*;

fn host(at: u32) -> String {
    format!("shop-{at}.shop.market.svc:27017")
}

fn desired(members: impl IntoIterator<Item = u32>) -> Desired {
    let wanted = |at| Wanted { host: host(at), aliases: vec![], zone: None, arbiter: false, priority: 1.0 };
    Desired { members: members.into_iter().map(wanted).collect(), ..Desired::default() }
}

fn id(digit: &str) -> SetId {
    SetId { hex: digit.repeat(24) }
}

/// What `shop-2` says of a set of three, where `states` are.
fn facts(states: [MemberState; 3]) -> Facts {
    let member = |at: u8| Member { votes: true, priority: 1.0, ..Member::newcomer(at, host(at.into())) };
    let optime = Some(OpTime { t: 3, ts: Timestamp { t: 100, i: 1 } });
    let seen = |(at, state): (u8, MemberState)| MemberStatus { id: at, name: host(at.into()), state, optime };
    let set = SetConfig {
        name: "shop".into(),
        version: 5,
        term: Some(3),
        members: (0..3).map(member).collect(),
        settings: Some(Settings { replica_set_id: Some(id("a")), rest: BTreeMap::new() }),
        rest: BTreeMap::new(),
    };
    let hello = Hello { writable: states[2] == MemberState::Primary, ..Hello::default() };
    Facts {
        hello,
        answer: Answer::InSet(id("a")),
        member: states[2],
        election_term: Some(3),
        optime,
        status: Some(Status { set: "shop".into(), term: 3, members: (0..).zip(states).map(seen).collect() }),
        config: Some(set),
        standing: Standing { version: "7.0.2".into(), fcv: Some("7.0".into()), has_default_write_concern: false },
        ..Facts::default()
    }
}

use MemberState::{Down, Primary, Removed, Secondary};

fn part(part: Part) -> Assignment {
    Assignment::Member(part.into())
}

fn member() -> Assignment {
    part(Part { desired: desired(0..3), ..Part::default() })
}

fn initiate(desired: Desired) -> Assignment {
    Assignment::Initiate { set: "shop".into(), desired }
}

fn unborn() -> Facts {
    Facts { answer: Answer::NotInSet, ..Facts::default() }
}

fn step(facts: &Facts, order: &Assignment, own: &Own) -> Option<Step> {
    converge(&config(), facts, order, own).step
}

#[test]
fn before_an_arbiter_comes_in_the_default_write_concern_is_written_down() {
    let mut order = Part { desired: desired(0..3), ..Part::default() };
    order.desired.members[1].arbiter = true;
    let mut leads = facts([Secondary, Secondary, Primary]);
    assert_eq!(step(&leads, &part(order.clone()), &Own::default()), Some(Step::SetWriteConcern));
    leads.standing.has_default_write_concern = true;
    assert_ne!(step(&leads, &part(order), &Own::default()), Some(Step::SetWriteConcern));
    leads.standing.has_default_write_concern = false;
    assert_eq!(step(&leads, &member(), &Own::default()), None, "and without one it is left alone");
}

#[test]
fn a_change_that_most_members_lack_is_not_done() {
    let changing = Own { changing: true, ..Own::default() };
    let verdict = converge(&config(), &facts([Secondary, Secondary, Primary]), &member(), &changing);
    assert!(!verdict.converged && verdict.step.is_none() && !verdict.said.unwrap().settled);
}

#[test]
fn a_set_as_desired_asks_for_nothing() {
    let verdict = converge(&config(), &facts([Secondary, Secondary, Primary]), &member(), &Own::default());
    assert!(verdict.converged && verdict.step.is_none() && verdict.said.unwrap().settled, "of who leads");
    let verdict = converge(&config(), &facts([Primary, Secondary, Secondary]), &member(), &Own::default());
    assert_eq!(verdict, Verdict { converged: true, ..Verdict::default() }, "of who follows");
}

#[test]
fn only_the_operators_word_initiates_and_never_beside_a_set_or_after_an_error() {
    let own = |answers: &[(u32, Answer)]| Own {
        answers: answers.iter().map(|(at, answer)| (host(*at), answer.clone())).collect(),
        ..Own::default()
    };
    assert_eq!(step(&unborn(), &member(), &Own::default()), None);
    assert!(matches!(step(&unborn(), &initiate(desired(0..3)), &own(&[])), Some(Step::Initiate(Some(_)))));
    assert_eq!(step(&unborn(), &initiate(desired(0..3)), &own(&[(0, Answer::InSet(id("b")))])), None);
    assert_eq!(step(&Facts::default(), &initiate(desired(0..3)), &own(&[])), None, "an error is no no");
    assert_eq!(step(&Facts { locked: true, ..Facts::default() }, &initiate(desired(0..3)), &own(&[])), None, "13 neither");
    let pinned = Desired { set_id: Some(id("a")), ..desired(0..3) };
    assert_eq!(step(&unborn(), &initiate(pinned), &own(&[])), None, "a lost volume begins no second set");
    assert_eq!(step(&unborn(), &initiate(desired(0..2)), &own(&[])), None, "who is not wanted begins nothing");
}

#[test]
fn on_its_own_a_member_initiates_when_everybody_was_asked_and_is_in_no_set() {
    let alone = |ordinal: u32| Config { standalone: true, ordinal, member: format!("shop-{ordinal}"), host: host(ordinal), ..config() };
    let own = |one: Answer| Own { answers: BTreeMap::from([(host(1), one), (host(2), Answer::NotInSet)]), ..Own::default() };
    let of = |ordinal, own: &Own| converge(&alone(ordinal), &unborn(), &initiate(desired(0..3)), own).step;
    assert!(matches!(of(0, &own(Answer::NotInSet)), Some(Step::Initiate(_))));
    assert_eq!(of(0, &own(Answer::Unknown)), None);
    assert_eq!(of(0, &Own::default()), None, "nobody was asked yet");
    let both = Own { answers: BTreeMap::from([(host(0), Answer::NotInSet), (host(2), Answer::NotInSet)]), ..Own::default() };
    assert_eq!(of(1, &both), None, "ordinal 0 does");
}

#[test]
fn who_is_told_to_stand_does_so_unless_somebody_was_elected_since() {
    let order = |stand| part(Part { desired: desired(0..3), stand: Some(stand), ..Part::default() });
    let (led, leaderless) = (facts([Primary, Secondary, Secondary]), facts([Down, Secondary, Secondary]));
    assert_eq!(step(&leaderless, &order(3), &Own::default()), Some(Step::Stand));
    assert_eq!(step(&led, &order(3), &Own::default()), Some(Step::Stand), "a switchover is directed the same way");
    assert_eq!(step(&leaderless, &order(2), &Own::default()), None);
    assert_eq!(step(&facts([Secondary, Secondary, Primary]), &order(3), &Own::default()), None, "it leads");
    assert_eq!(step(&leaderless, &order(3), &Own { leaving: true, ..Own::default() }), None, "it goes");
}

#[test]
fn who_leads_yields_in_that_term_only() {
    let order = |term| part(Part { desired: desired(0..3), yield_to: Some(Yield { host: host(0), term }), ..Part::default() });
    let leads = facts([Secondary, Secondary, Primary]);
    assert_eq!(step(&leads, &order(3), &Own::default()), Some(Step::HandOver(host(0))));
    assert_eq!(step(&leads, &order(2), &Own::default()), None);
    assert_eq!(step(&facts([Primary, Secondary, Secondary]), &order(3), &Own::default()), None);
}

#[test]
fn who_leaves_steps_down_if_somebody_else_could_lead() {
    let leaving = Own { leaving: true, ..Own::default() };
    let mut leads = facts([Secondary, Secondary, Primary]);
    assert_eq!(step(&leads, &member(), &leaving), Some(Step::StepDown));
    assert_eq!(step(&facts([Primary, Secondary, Secondary]), &member(), &leaving), None);
    leads.config.as_mut().unwrap().members.retain(|member| member.id == 2);
    assert_eq!(step(&leads, &member(), &leaving), None, "alone it just ends");
}

#[test]
fn accounts_come_before_membership_and_the_feature_version_after() {
    let leads = facts([Secondary, Secondary, Primary]);
    let order = part(Part { desired: desired(0..2), fcv: Some("8.0".into()), ..Part::default() });
    assert_eq!(step(&leads, &order, &Own { users_due: true, ..Own::default() }), Some(Step::Users));
    let order = part(Part { desired: desired([2]), fcv: Some("8.0".into()), ..Part::default() });
    assert!(matches!(step(&leads, &order, &Own::default()), Some(Step::Reconfig(_))));
    let order = part(Part { desired: desired(0..3), fcv: Some("8.0".into()), ..Part::default() });
    assert_eq!(step(&leads, &order, &Own::default()), Some(Step::SetFcv("8.0".into())));
}

#[test]
fn a_lost_majority_is_told_after_a_while_and_forced_only_by_its_own_words() {
    let alone = facts([Down, Down, Secondary]);
    let patient = Own { leaderless: LEADERLESS, ..Own::default() };
    assert_eq!(converge(&config(), &alone, &member(), &Own::default()).problem, None, "an election may be on its way");
    let verdict = converge(&config(), &alone, &member(), &patient);
    assert_eq!((verdict.step, verdict.problem.unwrap().code), (None, ProblemCode::MajorityLost));
    let words = verdict.said.unwrap().lost.unwrap().consent.unwrap();
    let consenting = |words: String| {
        let mut desired = desired(0..3);
        desired.consent.force = Some(words);
        part(Part { desired, ..Part::default() })
    };
    assert_eq!(step(&alone, &consenting("yes".into()), &patient), None);
    assert!(matches!(step(&alone, &consenting(words.clone()), &patient), Some(Step::Force(_))));
    let another = Config { member: "shop-1".into(), host: host(1), ..config() };
    assert_eq!(converge(&another, &alone, &consenting(words), &patient).step, None, "another one than it names");
}

#[test]
fn a_member_that_does_not_find_its_name_looks_again_once_the_name_is_known() {
    let lost = Facts { lost: true, member: Removed, status: None, ..facts([Primary, Secondary, Removed]) };
    let verdict = converge(&config(), &lost, &member(), &Own::default());
    assert_eq!((verdict.step, verdict.problem.unwrap().code), (None, ProblemCode::NotAMember));
    assert_eq!(step(&lost, &member(), &Own { look_anew: true, ..Own::default() }), Some(Step::LookAnew));
    let mut removed = lost.clone();
    removed.config.as_mut().unwrap().members.pop();
    assert_eq!(step(&removed, &member(), &Own { look_anew: true, ..Own::default() }), None, "it was removed in truth");
    assert!(converge(&config(), &removed, &part(Part { desired: desired(0..2), ..Part::default() }), &Own::default()).converged);
}

#[test]
fn those_who_are_wanted_and_not_there_are_asked_by_who_leads_only() {
    let order = part(Part { desired: desired(0..5), ..Part::default() });
    assert_eq!(inquiry(&config(), &facts([Secondary, Secondary, Primary]), &order), [host(3), host(4)]);
    assert!(inquiry(&config(), &facts([Primary, Secondary, Secondary]), &order).is_empty());
    assert_eq!(inquiry(&config(), &unborn(), &initiate(desired(0..3))), [host(0), host(1)]);
    assert!(inquiry(&config(), &unborn(), &member()).is_empty());
}

fn states() -> impl Strategy<Value = [MemberState; 3]> {
    let any =
        prop::sample::select(vec![Primary, Secondary, MemberState::Startup2, MemberState::Recovering, Down, MemberState::Unknown, Removed]);
    [any.clone(), any.clone(), any]
}

fn orders() -> impl Strategy<Value = Assignment> {
    (any::<bool>(), 0..4_u32, prop::option::of(0..6_i64), prop::option::of(0..6_i64), prop::option::of(any::<bool>())).prop_map(
        |(begins, count, stand, term, pinned)| {
            let desired = Desired { set_id: pinned.map(|ours| id(if ours { "a" } else { "b" })), ..desired(0..count) };
            let yield_to = term.map(|term| Yield { host: host(0), term });
            if begins { initiate(desired) } else { part(Part { desired, stand, yield_to, ..Part::default() }) }
        },
    )
}

proptest! {
    #[test]
    fn nobody_changes_a_set_that_it_does_not_lead_nor_forces_nor_initiates_beside_one(
        states in states(), order in orders(), leaving in any::<bool>(), users_due in any::<bool>(), seconds in 0..60_u64
    ) {
        let facts = facts(states);
        let own = Own { leaving, users_due, leaderless: Duration::from_secs(seconds), ..Own::default() };
        let verdict = converge(&config(), &facts, &order, &own);
        if !facts.leads() {
            prop_assert!(matches!(verdict.step, None | Some(Step::Stand)), "{:?}", verdict.step);
        }
        prop_assert!(!matches!(verdict.step, Some(Step::Force(_) | Step::Initiate(_) | Step::FirstUser)), "{:?}", verdict.step);
        if order.desired().set_id == Some(id("b")) {
            prop_assert!(verdict.step.is_none(), "another set is not touched");
        }
        prop_assert_eq!(&converge(&config(), &facts, &order, &own), &verdict, "asked again it says the same");
        if let Some(Step::Reconfig(next)) = verdict.step {
            prop_assert_eq!(next.version, 6, "one more than was read: compare and swap");
        }
    }
}
