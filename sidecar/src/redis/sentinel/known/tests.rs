use sidecar_protocol::redis::{Lineage, Peer, Replica, Replication, Yield};

use super::*;

fn names(ordinal: u32) -> Names {
    let (member, host) = (format!("cache-{ordinal}"), format!("cache-{ordinal}.cache.shop.svc"));
    Names { member, host, master_name: "mymaster".into(), port: 26379 }
}

fn host(ordinal: u32) -> String {
    names(0).host(ordinal)
}

fn peer(ordinal: u32) -> Peer {
    Peer { member: format!("cache-{ordinal}"), host: host(ordinal) }
}

fn order(part: Part) -> Order<Assignment> {
    let assignment = Assignment { part, members: vec![0, 1, 2], users: vec![] };
    Order { cluster: "uid".into(), term: 7, claim: 0, incarnation: String::new(), after: 0, assignment }
}

fn primary(yield_to: Option<u32>) -> Order<Assignment> {
    let yield_to = yield_to.map(|to| Yield { to: peer(to), timeout_millis: 2000 });
    order(Part::Primary { identity: None, admitted: vec![1, 2], min_replicas: 0, max_lag_seconds: 10, yield_to })
}

fn replica(source: u32, heir_of: Option<u32>) -> Order<Assignment> {
    order(Part::Replica { source: peer(source), lineage: Lineage::default(), discard: None, heir_of, source_yields: false })
}

fn following(source: u32, connected: bool) -> State {
    let replication = Some(Replication { source: host(source), connected, lag_seconds: None });
    State { role: Role::Replica, replication, ..State::default() }
}

fn leading(online: &[u32]) -> State {
    let replicas = online.iter().map(|ordinal| Replica { host: host(*ordinal), offset: 90 + u64::from(*ordinal), online: true });
    State { role: Role::Primary, replicas: replicas.collect(), version: Some("7.2.4".into()), ..State::default() }
}

fn seen(ordinal: u32, order: Option<&Order<Assignment>>, state: &State) -> Option<String> {
    Known::new(names(ordinal)).see(order, state, Instant::now()).primary.map(|node| node.host)
}

#[test]
fn the_primary_is_whom_the_order_says_once_that_one_is_open() {
    assert_eq!(seen(0, Some(&primary(None)), &leading(&[1])), Some(host(0)));
    let opening = State { role: Role::Isolated, ..State::default() };
    assert_eq!(seen(0, Some(&primary(None)), &opening), None, "not open yet");
    assert_eq!(seen(1, Some(&replica(0, None)), &following(0, true)), Some(host(0)));
    assert_eq!(seen(1, Some(&replica(2, None)), &following(0, true)), Some(host(2)), "the order is newer than the link");
}

#[test]
fn who_follows_nobody_or_has_closed_itself_names_nobody() {
    assert_eq!(seen(1, Some(&order(Part::Isolated)), &following(0, true)), None);
    assert_eq!(seen(0, Some(&order(Part::Isolated)), &leading(&[])), None);
    assert_eq!(seen(0, Some(&primary(None)), &State { fenced: true, ..leading(&[1]) }), None);
}

#[test]
fn a_hand_over_is_seen_on_both_sides_before_the_next_order() {
    let yielding = primary(Some(1));
    assert_eq!(seen(0, Some(&yielding), &leading(&[1, 2])), Some(host(0)));
    assert_eq!(seen(0, Some(&yielding), &following(1, true)), Some(host(1)));
    let heir = replica(0, Some(0));
    assert_eq!(seen(1, Some(&heir), &following(0, true)), Some(host(0)));
    assert_eq!(seen(1, Some(&heir), &leading(&[0])), Some(host(1)));
}

#[test]
fn who_does_not_see_when_its_primary_hands_over_names_nobody() {
    let part = Part::Replica { source: peer(0), lineage: Lineage::default(), discard: None, heir_of: None, source_yields: true };
    assert_eq!(seen(2, Some(&order(part)), &following(0, true)), None);
    assert_eq!(seen(2, Some(&replica(1, None)), &following(0, true)), Some(host(1)), "it has");
}

#[test]
fn without_an_order_it_says_what_its_database_does() {
    assert_eq!(seen(0, None, &State::default()), None);
    assert_eq!(seen(0, None, &leading(&[])), Some(host(0)));
    assert_eq!(seen(1, None, &following(0, true)), Some(host(0)));
    let nobody = Replication { source: "127.0.0.1".into(), connected: false, lag_seconds: None };
    assert_eq!(seen(1, None, &State { replication: Some(nobody), ..following(0, false) }), None);
}

#[test]
fn everybody_else_is_named_with_what_is_known_of_them() {
    let view = Known::new(names(0)).see(Some(&primary(None)), &leading(&[1]), Instant::now());
    assert_eq!((view.epoch, view.quorum, view.version.as_str(), view.master_name.as_str()), (7, 2, "7.2.4", "mymaster"));
    let replicas: Vec<_> = view.replicas.iter().map(|node| (node.host.clone(), node.offset, node.linked)).collect();
    assert_eq!(replicas, [(host(1), 91, true), (host(2), 0, false)]);
    let sentinels: Vec<_> = view.sentinels.iter().map(|node| (node.host.clone(), node.port)).collect();
    assert_eq!(sentinels, [(host(1), 26379), (host(2), 26379)]);
    let other = Known::new(names(1)).see(Some(&replica(0, None)), &following(0, true), Instant::now());
    assert_eq!(other.me, view.sentinels[0], "one sidecar has one identity, whoever tells of it");
    assert_eq!(other.replicas.iter().map(|node| node.host.clone()).collect::<Vec<_>>(), [host(1), host(2)]);
}

#[test]
fn a_node_is_down_after_three_seconds_of_silence_and_since_its_beginning() {
    let begin = Instant::now();
    let at = |millis| begin + Duration::from_millis(millis);
    let mut known = Known::new(names(1));
    let mut down = |connected, millis| {
        let view = known.see(Some(&replica(0, None)), &following(0, connected), at(millis));
        view.primary.unwrap().down_since
    };
    assert_eq!(down(true, 0), None);
    assert_eq!(down(false, 1000), None);
    assert_eq!(down(false, 3900), None);
    assert_eq!(down(false, 4000), Some(at(1000)));
    assert_eq!(down(true, 5000), None);
    assert_eq!(down(false, 6000), None, "counted anew");
    let mut known = Known::new(names(0));
    let _ = known.see(Some(&primary(None)), &leading(&[1]), begin);
    let view = known.see(Some(&primary(None)), &leading(&[1]), at(3000));
    assert_eq!(view.replicas.iter().map(|node| node.down_since.is_some()).collect::<Vec<_>>(), [false, true]);
    let gone = State { role: Role::Unknown, ..State::default() };
    let _ = known.see(Some(&primary(None)), &gone, at(4000));
    let view = known.see(Some(&primary(None)), &gone, at(7000));
    assert_eq!(view.primary.unwrap().down_since, Some(at(4000)), "its own process is gone");
}

#[test]
fn members_are_called_after_this_one_whatever_the_service_is_called() {
    let names = |member: &str, host: &str| Names { member: member.into(), host: host.into(), ..names(0) };
    assert_eq!(names("redis-a-10", "redis-a-10.peers").host(2), "redis-a-2.peers");
    assert_eq!(names("redis-0", "redis-0").host(2), "redis-2");
    assert_eq!(names("redis-a-10", "redis-a-10.peers").ordinal("redis-a-3"), Some(3));
    for stranger in ["redis-3", "redis-a-x", "redis-a-03", "redis-a", "127"] {
        assert_eq!(names("redis-a-10", "redis-a-10.peers").ordinal(stranger), None, "{stranger}");
    }
}
