//! Bad histories made by hand: each must be found, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{Anomaly, check};
use crate::history::{Append, History, Lists, Outcome, Read, Tenure, key};

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Appended to list 7 in second `element` by `member`.
fn append(element: u64, member: &str, outcome: Outcome) -> Append {
    Append {
        client: 0,
        key: 7,
        element,
        member: member.into(),
        term: None,
        invoked: at(element),
        ended: at(element) + Duration::from_millis(5),
        outcome,
    }
}

fn tenures(of: &[(u64, &str)]) -> Vec<Tenure> {
    of.iter().map(|(term, member)| Tenure { term: *term, member: (*member).into(), since: at(term * 10) }).collect()
}

/// orders-0 acknowledges 1 and 2 and refuses 3, and nobody knows of 4; orders-1 has the second term and acknowledges 25.
fn history() -> History {
    let appends = vec![
        append(1, "orders-0", Outcome::Ok),
        append(2, "orders-0", Outcome::Ok),
        append(3, "orders-0", Outcome::Fail("read-only".into())),
        append(4, "orders-0", Outcome::Unknown("timeout".into())),
        append(25, "orders-1", Outcome::Ok),
    ];
    History {
        appends,
        reads: vec![],
        tenures: vec![Tenure { since: at(0), ..tenures(&[(1, "orders-0")])[0].clone() }, tenures(&[(2, "orders-1")])[0].clone()],
    }
}

fn hold(lists: &[(&str, &[u64])]) -> BTreeMap<String, Lists> {
    lists.iter().map(|(member, list)| ((*member).to_owned(), Lists::from([(7, list.to_vec())]))).collect()
}

fn all(list: &[u64]) -> BTreeMap<String, Lists> {
    hold(&[("orders-0", list), ("orders-1", list), ("orders-2", list)])
}

#[test]
fn a_good_history_is_accused_of_nothing_whatever_became_of_the_unknown() {
    assert_eq!(check(&history(), &all(&[1, 2, 25])), []);
    assert_eq!(check(&history(), &all(&[1, 2, 4, 25])), []);
    assert_eq!(check(&history(), &all(&[1, 2, 25, 4])), [], "a forgotten statement may run late");
}

#[test]
fn a_lost_acknowledged_append_is_found_at_each_member_that_lost_it() {
    let found = check(&history(), &all(&[1, 25]));
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|anomaly| matches!(anomaly, Anomaly::Lost { append, .. } if append.element == 2)), "{found:?}");
    let found = check(&history(), &hold(&[("orders-0", &[1, 2, 25]), ("orders-1", &[1, 2])]));
    assert!(matches!(&found[..], [Anomaly::Lost { member, .. }, Anomaly::Diverged { place: 2, .. }] if member == "orders-1"), "{found:?}");
}

#[test]
fn a_member_without_any_list_lost_everything() {
    let mut members = all(&[1, 2, 25]);
    members.insert("orders-2".into(), Lists::new());
    assert_eq!(check(&history(), &members).iter().filter(|anomaly| matches!(anomaly, Anomaly::Lost { .. })).count(), 3);
}

#[test]
fn an_element_that_is_there_twice_is_found() {
    let found = check(&history(), &hold(&[("orders-0", &[1, 2, 25, 2])]));
    assert!(matches!(&found[..], [Anomaly::Twice { element: 2, .. }, ..]), "{found:?}");
}

#[test]
fn a_refused_append_that_appears_is_found() {
    let found = check(&history(), &hold(&[("orders-0", &[1, 2, 3, 25])]));
    assert!(matches!(&found[..], [Anomaly::Refused { append, .. }] if append.element == 3), "{found:?}");
}

#[test]
fn an_element_that_nobody_appended_or_that_is_in_another_list_is_found() {
    let found = check(&history(), &hold(&[("orders-0", &[1, 2, 25, 99])]));
    assert!(matches!(&found[..], [Anomaly::Invented { element: 99, .. }]), "{found:?}");
    let mut members = hold(&[("orders-0", &[1, 2, 25])]);
    members.get_mut("orders-0").unwrap().insert(8, vec![4]);
    assert!(matches!(&check(&history(), &members)[..], [Anomaly::Invented { element: 4, key: 8, .. }]));
}

#[test]
fn two_members_with_another_order_are_found() {
    let found = check(&history(), &hold(&[("orders-0", &[1, 2, 4, 25]), ("orders-1", &[1, 4, 2, 25])]));
    assert!(found.iter().any(|anomaly| matches!(anomaly, Anomaly::Diverged { place: 1, .. })), "{found:?}");
}

#[test]
fn an_order_against_the_clock_is_found_although_all_members_agree() {
    let found = check(&history(), &hold(&[("orders-0", &[2, 1, 25])]));
    assert!(matches!(&found[..], [Anomaly::Overtook { first, second }] if first.element == 2 && second.element == 1), "{found:?}");
    // The unknown one cannot have run before it was sent either.
    let found = check(&history(), &hold(&[("orders-0", &[4, 1, 2, 25])]));
    assert!(matches!(&found[..], [Anomaly::Overtook { first, .. }] if first.element == 4), "{found:?}");
}

#[test]
fn a_former_primary_that_acknowledges_after_the_newer_term_is_found_although_nothing_is_lost() {
    let mut history = history();
    history.appends.push(append(30, "orders-0", Outcome::Ok));
    let found = check(&history, &all(&[1, 2, 25, 30]));
    assert!(matches!(&found[..], [Anomaly::StaleWriter { own: Some(1), newer: 2, append }] if append.element == 30), "{found:?}");
}

#[test]
fn an_append_that_was_sent_before_the_newer_term_acknowledged_may_be_acknowledged_late() {
    let mut history = history();
    history.appends.push(Append { invoked: at(24), ended: at(26), ..append(30, "orders-0", Outcome::Ok) });
    assert_eq!(check(&history, &all(&[1, 2, 30, 25])), []);
}

#[test]
fn a_member_may_lead_again_under_a_newer_term_and_not_after_that() {
    let mut history = history();
    history.tenures.extend(tenures(&[(3, "orders-0"), (4, "orders-1")]));
    history.appends.extend([append(35, "orders-0", Outcome::Ok), append(45, "orders-1", Outcome::Ok)]);
    assert_eq!(check(&history, &all(&[1, 2, 25, 35, 45])), []);
    history.appends.push(append(46, "orders-0", Outcome::Ok));
    let found = check(&history, &all(&[1, 2, 25, 35, 45, 46]));
    assert!(matches!(&found[..], [Anomaly::StaleWriter { own: Some(3), newer: 4, .. }]), "{found:?}");
}

#[test]
fn an_acknowledgement_before_the_claim_is_found() {
    let mut history = history();
    history.appends.push(append(15, "orders-1", Outcome::Ok));
    let found = check(&history, &all(&[1, 2, 15, 25]));
    assert!(matches!(&found[..], [Anomaly::StaleWriter { own: None, .. }]), "{found:?}");
}

#[test]
fn what_a_client_saw_must_be_the_beginning_of_what_became_of_it() {
    let read = |elements: &[u64]| Read { client: 1, key: 7, elements: elements.to_vec(), member: "orders-0".into(), ended: at(5) };
    let mut history = history();
    history.reads = vec![read(&[]), read(&[1]), read(&[1, 2])];
    assert_eq!(check(&history, &all(&[1, 2, 25])), []);
    history.reads = vec![read(&[1, 2, 4])];
    assert!(matches!(&check(&history, &all(&[1, 2, 25]))[..], [Anomaly::Unseen { place: 2, .. }]));
}

#[test]
fn lists_are_left_when_they_are_long_and_appends_meet_before() {
    let mut lengths = BTreeMap::<u64, u64>::new();
    (0..5000).for_each(|attempt| *lengths.entry(key(attempt)).or_default() += 1);
    assert!(lengths.values().all(|length| *length <= 128) && lengths.values().filter(|length| **length == 128).count() >= 32);
}

#[test]
fn a_term_that_the_answer_names_counts_whatever_was_claimed() {
    let mut history = history();
    for append in &mut history.appends {
        append.term = Some(if append.element < 25 { 8 } else { 9 });
    }
    assert_eq!(check(&history, &all(&[1, 2, 25])), []);
    history.appends.push(Append { term: Some(8), ..append(26, "orders-1", Outcome::Ok) });
    let found = check(&history, &all(&[1, 2, 25, 26]));
    assert!(matches!(&found[..], [Anomaly::StaleWriter { own: Some(8), newer: 9, .. }]), "{found:?}");
}
