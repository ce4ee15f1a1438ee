use super::*;

const OLD: Server = Server { version: (4, 4), has_default_write_concern: false };
const NEW: Server = Server { version: (5, 0), has_default_write_concern: false };

fn voter(id: u8) -> Member {
    Member { votes: true, priority: 1.0, ..Member::newcomer(id, format!("m-{id}:27017")) }
}

fn arbiter(id: u8) -> Member {
    Member { votes: true, arbiter_only: true, ..Member::newcomer(id, format!("m-{id}:27017")) }
}

fn config(version: i32, members: Vec<Member>) -> Config {
    Config { name: "rs0".into(), version, term: Some(1), members, settings: None, rest: [].into() }
}

fn step(old: Vec<Member>, new: Vec<Member>, server: Server) -> Result<(), String> {
    check_step(&config(1, old), &config(2, new), server)
}

fn refused(result: Result<(), String>, why: &str) {
    let error = result.unwrap_err();
    assert!(error.contains(why), "{error}");
}

// The configurations of these two were asked of a real mongod 5.0.7 on loopback, so the hosts differ.
#[test]
fn one_vote_may_be_taken_and_not_two() {
    let all: Vec<_> = (0..7).map(voter).collect();
    let mut one = all.clone();
    (one[6].votes, one[6].priority) = (false, 0.0);
    let mut two = one.clone();
    (two[5].votes, two[5].priority) = (false, 0.0);
    assert_eq!(step(all.clone(), one.clone(), NEW), Ok(()));
    refused(step(all.clone(), two, NEW), "add or remove at most 1 voting member");
    refused(step(all, one[..5].to_vec(), NEW), "add or remove at most 1 voting member");
    assert_eq!(step(one.clone(), one[..6].to_vec(), NEW), Ok(()), "one without a vote costs nothing");
}

#[test]
fn two_new_voters_at_once_are_for_a_newer_mongod() {
    let both: Vec<_> = (0..3).map(voter).collect();
    assert_eq!(step(vec![voter(0)], both.clone(), NEW), Ok(()));
    refused(step(vec![voter(0)], both, OLD), "at most 1 voting member");
}

#[test]
fn two_members_that_are_there_get_their_votes_one_by_one() {
    let host = |id: u8| Member::newcomer(id, format!("m-{id}:27017"));
    refused(step(vec![voter(0), host(1), host(2)], (0..3).map(voter).collect(), NEW), "at most 1 voting member");
}

#[test]
fn an_eighth_voter_is_one_too_many() {
    refused(check(&(0..8).map(voter).collect::<Vec<_>>()), "8 voting members");
}

#[test]
fn a_host_keeps_its_id_and_an_id_may_change_its_host() {
    let mut moved = vec![voter(0), voter(1)];
    moved[1].host = "elsewhere:27017".into();
    assert_eq!(step(vec![voter(0), voter(1)], moved, NEW), Ok(()));
    let mut other = vec![voter(0), voter(44)];
    other[1].host = "m-1:27017".into();
    refused(step(vec![voter(0), voter(1)], other, NEW), "MemberId(44)");
}

#[test]
fn an_arbiter_stays_one() {
    refused(step(vec![voter(0), voter(1), voter(2)], vec![voter(0), voter(1), arbiter(2)], NEW), "arbiterOnly");
}

#[test]
fn the_version_has_to_grow() {
    refused(check_step(&config(3, vec![voter(0)]), &config(3, vec![voter(0)]), NEW), "version");
}

#[test]
fn the_set_stays_itself() {
    let mut other = config(2, vec![voter(0)]);
    other.name = "rs1".into();
    refused(check_step(&config(1, vec![voter(0)]), &other, NEW), "replicaSetId");
}

#[test]
fn who_has_no_vote_hides_lags_or_lacks_indexes_has_no_priority() {
    let with = |change: fn(&mut Member)| {
        let mut member = voter(1);
        change(&mut member);
        check(&[voter(0), member])
    };
    refused(with(|member| member.votes = false), "non-voting");
    refused(with(|member| member.hidden = true), "hidden");
    refused(with(|member| member.build_indexes = false), "buildIndexes");
    refused(with(|member| member.secondary_delay_secs = Some(60)), "secondaryDelaySecs");
    refused(with(|member| member.slave_delay = Some(60)), "secondaryDelaySecs");
    refused(with(|member| member.arbiter_only = true), "Arbiter priority");
    refused(with(|member| (member.arbiter_only, member.votes) = (true, false)), "Arbiter must vote");
    refused(with(|member| member.priority = 1001.0), "1000");
    refused(check(&[Member { priority: 0.0, ..voter(0) }]), "at least one non-arbiter");
}

#[test]
fn localhost_is_for_all_or_for_none() {
    let local = |id| Member { host: format!("localhost:2800{id}"), ..voter(id) };
    assert_eq!(check(&[local(0), local(1)]), Ok(()));
    refused(check(&[local(0), voter(1)]), "found 1 out of 2");
}

#[test]
fn a_secondary_beside_an_arbiter_first_votes_and_then_may_lead() {
    let explicit = Server { has_default_write_concern: true, ..NEW };
    let short = vec![voter(0), arbiter(2)];
    let unable = vec![voter(0), Member { priority: 0.0, ..voter(1) }, arbiter(2)];
    let able = vec![voter(0), voter(1), arbiter(2)];
    refused(step(short.clone(), able.clone(), explicit), "PSA topology");
    assert_eq!(step(short, unable.clone(), explicit), Ok(()));
    assert_eq!(step(unable, able, explicit), Ok(()));
}

#[test]
fn an_arbiter_that_makes_data_scarce_needs_a_default_write_concern_from_5_0_on() {
    let (before, after) = (vec![voter(0), voter(1)], vec![voter(0), voter(1), arbiter(2)]);
    refused(step(before.clone(), after.clone(), NEW), "setDefaultRWConcern");
    assert_eq!(step(before.clone(), after.clone(), OLD), Ok(()));
    assert_eq!(step(before, after, Server { has_default_write_concern: true, ..NEW }), Ok(()));
    let four: Vec<_> = (0..4).map(voter).collect();
    let five = [four.clone(), vec![arbiter(4)]].concat();
    assert_eq!(step(four, five, NEW), Ok(()), "four that hold data are more than three of five");
}
