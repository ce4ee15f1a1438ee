use sidecar_protocol::redis::{ReplId, Replication};

use super::*;

fn at(replid: &str, offset: u64) -> Position {
    Position { replid: ReplId(replid.into()), offset, ..Position::default() }
}

fn empty() -> State {
    State { role: Role::Isolated, ..State::default() }
}

fn holds(role: Role, offset: u64) -> State {
    State { role, data: Data::Present, position: Some(at("a", offset)), ..State::default() }
}

fn following(source: &str, data: Data, offset: u64) -> State {
    let replication = Some(Replication { source: source.into(), connected: true, lag_seconds: None });
    State { data, replication, ..holds(Role::Replica, offset) }
}

fn part(ordinal: u32, me: &State, others: &[(u32, Option<State>)], settled: bool) -> Choice {
    let peer = |ordinal: u32| Peer { member: format!("r-{ordinal}"), host: format!("r-{ordinal}.r") };
    let others: Vec<Other> = others
        .iter()
        .map(|(ordinal, state)| Other {
            ordinal: *ordinal,
            peer: peer(*ordinal),
            state: state.clone().map(Box::new).ok_or("refused".into()),
        })
        .collect();
    let past = Lineage::default().written(&at("a", 1));
    choose(&Seen { ordinal, me, others: &others, settled, members: &BTreeSet::from([0, 1, 2]), past: &past })
}

fn is_primary(choice: &Choice) -> bool {
    matches!(choice, Choice::Part(Part::Primary { yield_to: None, .. }))
}

fn source(choice: &Choice) -> Option<&str> {
    match choice {
        Choice::Part(Part::Replica { source, .. }) => Some(&source.member),
        _ => None,
    }
}

#[test]
fn an_empty_first_member_leads_only_when_everybody_says_that_there_is_nothing() {
    assert!(is_primary(&part(0, &empty(), &[(1, Some(empty())), (2, Some(empty()))], true)));
    assert!(is_primary(&part(0, &empty(), &[], true)));
    assert!(!is_primary(&part(0, &empty(), &[(1, Some(empty()))], false)), "the name server may not know everybody yet");
    assert!(!is_primary(&part(0, &empty(), &[(1, Some(empty())), (2, None)], true)));
    assert!(!is_primary(&part(0, &State::default(), &[], true)), "not before its database has said that it is empty");
    let starts = State { data: Data::Present, ..State::default() };
    assert!(!is_primary(&part(0, &empty(), &[(1, Some(starts))], true)), "it holds data and does not say where it is");
}

#[test]
fn a_first_member_with_data_leads_whoever_is_there() {
    assert!(is_primary(&part(0, &holds(Role::Isolated, 5), &[(1, None)], false)));
    assert!(is_primary(&part(0, &holds(Role::Primary, 5), &[(1, Some(holds(Role::Replica, 4)))], false)));
}

#[test]
fn who_holds_most_leads_while_an_empty_first_member_copies_and_hands_over_then() {
    let two = holds(Role::Isolated, 7);
    let heard = [(1, Some(holds(Role::Isolated, 5))), (2, Some(two.clone()))];
    assert_eq!(source(&part(0, &empty(), &heard, false)), Some("r-2"));
    let others = [(0, Some(empty())), (1, Some(holds(Role::Isolated, 5)))];
    assert!(is_primary(&part(2, &two, &others, false)));
    assert!(matches!(part(2, &holds(Role::Replica, 7), &others, false), Choice::Part(Part::Isolated)), "it stands still first");
    assert_eq!(source(&part(1, &holds(Role::Isolated, 5), &[(0, Some(empty())), (2, Some(two.clone()))], false)), Some("r-0"));
    assert!(!is_primary(&part(2, &two, &[(0, Some(empty())), (1, None)], false)), "somebody silent may hold more");

    let leads = holds(Role::Primary, 7);
    let copies = following("r-2.r", Data::Syncing { copied: 1, total: 2 }, 0);
    assert!(is_primary(&part(2, &leads, &[(0, Some(copies.clone()))], false)));
    assert_eq!(source(&part(0, &copies, &[(2, Some(leads.clone()))], false)), Some("r-2"));
    let copied = following("r-2.r", Data::Present, 7);
    let Choice::Part(Part::Primary { yield_to: Some(heir), .. }) = part(2, &leads, &[(0, Some(copied.clone()))], false) else {
        panic!("hands over")
    };
    assert_eq!(heir.to.member, "r-0");
    let Choice::Part(Part::Replica { heir_of, .. }) = part(0, &copied, &[(2, Some(leads.clone()))], false) else { panic!("inherits") };
    assert_eq!(heir_of, Some(2));
    assert!(is_primary(&part(0, &holds(Role::Primary, 8), &[(2, Some(copied))], false)));
    assert_eq!(source(&part(2, &leads, &[(0, Some(holds(Role::Primary, 8)))], false)), Some("r-0"));
}

#[test]
fn histories_that_differ_are_left_to_a_person() {
    let stranger = State { position: Some(at("b", 9)), ..holds(Role::Isolated, 9) };
    let choice = part(0, &empty(), &[(1, Some(holds(Role::Isolated, 5))), (2, Some(stranger))], true);
    assert!(matches!(&choice, Choice::Wait(reason) if reason.contains("different histories")), "{choice:?}");
}
