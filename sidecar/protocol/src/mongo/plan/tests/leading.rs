//! One rule a test: who leads, who takes over, and a majority that is lost.

use super::world::{World, arbiter, at, desired, silent, voter};
use crate::mongo::config::Member;
use crate::mongo::plan::{Lost, Next, plan};
use crate::mongo::rules::check;
use crate::mongo::status::MemberState;

#[test]
fn the_primary_hands_over_before_it_goes() {
    let mut world = World::new(vec![voter(2), voter(0), voter(1)], desired(1));
    assert_eq!(world.walk().unwrap(), ["removed m-1:27017", "m-2:27017 leads and is to go", "removed m-2:27017"]);
    assert_eq!(world.voting(), ["m-0:27017"]);
}

#[test]
fn the_most_advanced_takes_over() {
    let mut world = World::new(vec![voter(5), voter(0), voter(1), voter(2)], desired(3));
    world.optimes.extend([(0, at(3, 997)), (1, at(3, 999)), (2, at(3, 998))]);
    let Next::HandOver { to, .. } = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!(to, "m-1:27017");
}

#[test]
fn a_primary_that_is_to_have_priority_0_hands_over_first() {
    let mut wanted = desired(3);
    wanted.members[0].priority = 0.0;
    let mut world = World::new((0..3).map(voter).collect(), wanted);
    assert_eq!(world.walk().unwrap(), ["m-0:27017 leads and is to have priority 0", "priority of m-0:27017 to 0"]);
}

#[test]
fn nobody_hands_over_while_most_voters_are_not_well() {
    let mut wanted = desired(5);
    wanted.members[0].priority = 0.0;
    let mut world = World::new((0..5).map(voter).collect(), wanted);
    world.states.extend([(2, MemberState::Recovering), (3, MemberState::Rollback), (4, MemberState::Down)]);
    let why = world.waits().unwrap();
    assert!(why.contains("of the voters m-2:27017 is RECOVERING, m-3:27017 is ROLLBACK, m-4:27017 is DOWN"), "{why}");
}

#[test]
fn a_primary_stays_until_somebody_can_replace_its_vote() {
    let mut world = World::new(vec![voter(9), voter(0), voter(1)], desired(3));
    world.broken.insert("m-2:27017".into());
    world.walk().unwrap();
    assert_eq!(world.leader().unwrap().host, "m-9:27017");
    assert!(world.waits().unwrap().contains("m-2:27017 has not said"));
}

#[test]
fn one_of_seven_makes_room_for_the_only_one_who_may_take_over() {
    let mut wanted = desired(7);
    wanted.members[..6].iter_mut().for_each(|wanted| wanted.priority = 0.0);
    let others = (0..6).map(|id| Member { priority: 0.0, ..voter(id) }).collect();
    let mut world = World::new([vec![voter(9)], others, vec![silent(6)]].concat(), wanted);
    assert_eq!(
        world.walk().unwrap(),
        [
            "m-5:27017 does not vote any more",
            "m-6:27017 votes from now on",
            "m-9:27017 leads and is to go",
            "removed m-9:27017",
            "m-5:27017 votes from now on"
        ]
    );
    assert_eq!(world.next(), Next::Settled);
}

#[test]
fn nothing_is_sent_to_a_primary_that_takes_no_writes_yet() {
    let world = World::new(vec![voter(0)], desired(2));
    let mut seen = world.seen();
    seen.writable = false;
    assert!(matches!(plan(&world.config, &seen, &world.desired), Next::Wait { why } if why.contains("does not take writes yet")));
}

#[test]
fn nothing_is_done_while_two_claim_to_lead() {
    let mut world = World::new(vec![voter(0), voter(1), voter(2)], desired(3));
    world.states.insert(1, MemberState::Primary);
    assert_eq!(world.waits().unwrap(), "m-0:27017 and m-1:27017 claim to lead");
}

#[test]
fn when_nobody_leads_the_most_advanced_by_term_and_then_time_stands() {
    let mut world = World::new((0..5).map(voter).collect(), desired(5));
    world.states.insert(0, MemberState::Down);
    world.optimes.extend([(1, at(2, 2000)), (2, at(3, 1000)), (3, at(3, 1001)), (4, at(3, 999))]);
    let Next::Stand { who, .. } = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!(who, "m-3:27017");
}

#[test]
fn nobody_stands_who_may_not_lead() {
    let mut world = World::new(vec![voter(0), arbiter(1), Member { priority: 0.0, ..voter(2) }], desired(3));
    world.states.insert(0, MemberState::Down);
    assert!(world.waits().unwrap().contains("nobody who may is a secondary"));
}

/// Of five voters and one without a vote three voters are gone, the primary among them.
fn lost() -> World {
    let mut world = World::new([(0..5).map(voter).collect(), vec![silent(5)]].concat(), desired(6));
    world.states.extend([(0, MemberState::Down), (1, MemberState::Unknown), (2, MemberState::Down)]);
    world.optimes.extend([(3, at(2, 2000)), (4, at(3, 998)), (5, at(3, 999))]);
    world
}

fn evidence(world: &World) -> Lost {
    match world.next() {
        Next::Lost(lost) => lost,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_majority_is_shown_and_nothing_is_done() {
    let lost = evidence(&lost());
    let reachable: Vec<_> = lost.reachable.iter().map(|survivor| (survivor.host.as_str(), survivor.optime)).collect();
    assert_eq!(
        reachable,
        [("m-5:27017", Some(at(3, 999))), ("m-4:27017", Some(at(3, 998))), ("m-3:27017", Some(at(2, 2000)))],
        "by term and then by time"
    );
    assert_eq!(lost.missing, ["m-0:27017", "m-1:27017", "m-2:27017"]);
    assert_eq!(lost.consent.as_deref(), Some("force m-5:27017 at term 3 time 999.1 without m-0:27017, m-1:27017, m-2:27017"));
    assert!(lost.why.starts_with("2 of the 3 voters that make a majority can be reached"), "{}", lost.why);
}

#[test]
fn the_exact_consent_forces_the_most_advanced() {
    let mut world = lost();
    world.desired.consent.force = evidence(&world).consent;
    let Next::Force { on, config, .. } = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!((on.as_str(), check(&config.members)), ("m-5:27017", Ok(())));
    let voting: Vec<_> = config.members.iter().map(|member| (member.id, member.votes, member.priority)).collect();
    assert_eq!(voting, [(0, false, 0.0), (1, false, 0.0), (2, false, 0.0), (3, true, 1.0), (4, true, 1.0), (5, true, 1.0)]);
}

#[test]
fn a_consent_to_something_else_forces_nothing() {
    let mut world = lost();
    world.desired.consent.force = evidence(&world).consent;
    world.optimes.insert(5, at(3, 1000));
    assert!(matches!(world.next(), Next::Lost(_)), "it has gone on since");
    world.optimes.insert(5, at(3, 999));
    world.states.insert(2, MemberState::Secondary);
    assert!(matches!(world.next(), Next::Stand { .. }), "the majority is back");
    world.desired.consent.force = Some("yes".into());
    world.states.insert(2, MemberState::Down);
    assert!(matches!(world.next(), Next::Lost(_)));
}

#[test]
fn nobody_is_forced_while_the_most_advanced_could_not_lead() {
    let mut world = lost();
    world.states.insert(5, MemberState::Recovering);
    assert_eq!(evidence(&world).consent, None);
    world.states.insert(5, MemberState::Startup2);
    assert!(evidence(&world).consent.unwrap().starts_with("force m-4:27017"), "half a copy holds nothing");
}

#[test]
fn an_arbiter_that_is_gone_is_not_in_what_is_forced() {
    let mut world = World::new(vec![voter(0), voter(1), arbiter(2)], desired(2));
    world.states.extend([(0, MemberState::Down), (2, MemberState::Down)]);
    world.desired.consent.force = evidence(&world).consent;
    let Next::Force { config, .. } = world.next() else { panic!("{:?}", world.next()) };
    assert_eq!((config.members.len(), check(&config.members)), (2, Ok(())));
}
