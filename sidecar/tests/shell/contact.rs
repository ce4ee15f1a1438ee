//! A primary and those who keep it open, on real sockets; and what it takes up again after a restart of its sidecar.

use std::fs;
use std::path::Path;
use std::time::Duration;

use sidecar_protocol::client::Client;
use sidecar_protocol::mysql::{Assignment, Peer, State};
use sidecar_protocol::{OPERATOR_COMMON_NAME, Order, RefusalCode, Report};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};

use super::rig::{Authority, HOST, Network, Rig, UID, order, refused, scratch};

const TERM: u64 = 7;

fn primary() -> Assignment {
    Assignment::Primary { acks: 1, members: vec![0, 1, 2], barred: vec![] }
}

fn replica() -> Assignment {
    let source = Peer { member: "shop-1".into(), host: "shop-1.shop.prod.svc".into() };
    Assignment::Replica { source, donors: vec![], acknowledges: true, replace: None }
}

/// The order of an operator that does not stay.
async fn ordered(rig: &Rig, network: &Network, ordinal: u32, term: u64, assignment: Assignment) {
    let host = format!("shop-{ordinal}.shop.prod.svc");
    let client = Client::connect(rig.api, &host, network.authority.client(OPERATOR_COMMON_NAME)).await.unwrap();
    let report: Report<State> = client.order(&order(UID, term, assignment)).await.unwrap();
    assert_eq!(report.term, term);
}

/// Polls what `fence` says until `holds`; says how long that took.
async fn until(rig: &Rig, what: &str, holds: impl Fn(bool, bool) -> bool) -> Duration {
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(12) {
        let verdict = rig.guard.verdict();
        if holds(verdict.fenced, verdict.may_open) {
            return start.elapsed();
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("never {what}: {:?}", rig.guard.verdict());
}

fn seconds(range: std::ops::Range<f64>, took: Duration) {
    assert!(range.contains(&took.as_secs_f64()), "took {took:?}, not {range:?} s");
}

#[tokio::test]
async fn a_primary_whose_operator_goes_closes_five_seconds_later_and_opens_when_one_comes() {
    let network = Network::new().await;
    let zero = network.member(0).await;
    let operator = zero.operator().await;
    let reports = operator.reports::<State>().await.unwrap();
    let _: Report<State> = operator.order(&order(UID, TERM, primary())).await.unwrap();
    seconds(0.5..2.0, until(&zero, "open", |_, open| open).await);
    drop((reports, operator));
    seconds(0.0..0.5, until(&zero, "alone", |_, open| !open).await);
    seconds(4.5..6.0, until(&zero, "fenced", |fenced, _| fenced).await);
    let again = zero.operator().await.reports::<State>().await.unwrap();
    seconds(0.5..2.0, until(&zero, "open", |_, open| open).await);
    drop(again);
}

#[tokio::test]
async fn an_operator_that_answers_no_ping_is_gone() {
    let network = Network::new().await;
    let zero = network.member(0).await;
    let (relay, api) = (TcpListener::bind("127.0.0.1:0").await.unwrap(), zero.api);
    let address = relay.local_addr().unwrap();
    let wire = tokio::spawn(async move {
        let (mut near, mut far) = (relay.accept().await.unwrap().0, TcpStream::connect(api).await.unwrap());
        let _ = timeout(Duration::from_secs(3), copy_bidirectional(&mut near, &mut far)).await;
        // Cut: both ends look alive, nothing passes.
        sleep(Duration::from_secs(60)).await;
        drop((near, far));
    });
    let operator = Client::connect(address, HOST, network.authority.client(OPERATOR_COMMON_NAME)).await.unwrap();
    let _reports = operator.reports::<State>().await.unwrap();
    let _: Report<State> = operator.order(&order(UID, TERM, primary())).await.unwrap();
    until(&zero, "open", |_, open| open).await;
    // Three seconds from the connection to the cut, one of them gone; a second to the ping and three to its answer.
    seconds(3.0..7.5, until(&zero, "alone", |_, open| !open).await);
    wire.abort();
}

#[tokio::test]
async fn a_majority_of_members_keeps_it_open_and_one_that_knows_a_higher_term_closes_it_at_once() {
    let network = Network::new().await;
    let (zero, one, two) = (network.member(0).await, network.member(1).await, network.member(2).await);
    ordered(&zero, &network, 0, TERM, primary()).await;
    sleep(Duration::from_millis(1500)).await;
    assert!(!zero.guard.verdict().may_open, "they have seen no term: they prove nothing");
    ordered(&one, &network, 1, TERM, replica()).await;
    seconds(0.0..1.0, until(&zero, "open", |_, open| open).await);
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        assert!(zero.guard.verdict().may_open, "heard once a second");
        sleep(Duration::from_millis(100)).await;
    }
    let _operator = zero.operator().await.reports::<State>().await.unwrap();
    ordered(&two, &network, 2, TERM + 1, Assignment::Isolated).await;
    seconds(0.0..0.5, until(&zero, "fenced", |fenced, _| fenced).await);
    sleep(Duration::from_millis(1500)).await;
    assert!(zero.guard.verdict().fenced, "whatever operator is connected");
}

#[tokio::test]
async fn after_a_freeze_nothing_of_before_counts() {
    let network = Network::new().await;
    let (zero, one) = (network.member(0).await, network.member(1).await);
    ordered(&one, &network, 1, TERM, replica()).await;
    ordered(&zero, &network, 0, TERM, primary()).await;
    until(&zero, "open", |_, open| open).await;
    // All tasks share this thread: none of them moves.
    std::thread::sleep(Duration::from_secs(6));
    assert!(zero.guard.verdict().fenced, "before anything else");
    seconds(0.0..2.0, until(&zero, "open", |_, open| open).await);
}

#[tokio::test]
async fn a_replica_listens_to_nobody() {
    let network = Network::new().await;
    let (zero, one) = (network.member(0).await, network.member(1).await);
    ordered(&one, &network, 1, TERM + 1, replica()).await;
    ordered(&zero, &network, 0, TERM, replica()).await;
    sleep(Duration::from_millis(1500)).await;
    // Had it heard of the higher term, it would know it now.
    ordered(&zero, &network, 0, TERM, replica()).await;
    assert!(zero.guard.peers().is_empty() && !zero.guard.confirmed());
}

#[tokio::test]
async fn a_member_of_another_authority_is_not_heard() {
    let (network, foreign) = (Network::new().await, Network::new().await);
    let zero = network.member(0).await;
    // Where the name server sends it, somebody else sits.
    let one = foreign.instead_of(&network, 1).await;
    ordered(&one, &foreign, 1, TERM, replica()).await;
    ordered(&zero, &network, 0, TERM, Assignment::Primary { acks: 1, members: vec![0, 1], barred: vec![] }).await;
    sleep(Duration::from_secs(2)).await;
    assert!(!zero.guard.verdict().may_open);
}

/// A data directory that mysqld has named.
fn data(root: &Path, uuid: &str) {
    let data = root.join("volume/data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("auto.cnf"), format!("[auto]\nserver-uuid={uuid}\n")).unwrap();
}

/// The sidecar of shop-0 after a restart: what it was ordered before is `assignment`, of `TERM`.
async fn restarted(network: &Network, assignment: Assignment, between: impl FnOnce(&Path)) -> Rig {
    let root = scratch();
    data(&root, "3e11fa47-71ca-11e1-9e33-c80aa9429562");
    let alone = Rig::start_in(root, Authority::new(), false).await;
    let _: Report<State> = alone.operator().await.order(&order(UID, TERM, assignment)).await.unwrap();
    between(&alone.root);
    network.member_in(alone.root, 0).await
}

async fn resumes(rig: &Rig) -> Option<Order<Assignment>> {
    let mut orders = rig.orders.clone();
    let found = timeout(Duration::from_secs(2), orders.wait_for(Option::is_some)).await;
    found.ok().and_then(|order| order.unwrap().clone())
}

#[tokio::test]
async fn a_restarted_primary_goes_on_when_a_majority_confirms_its_term() {
    let network = Network::new().await;
    let zero = restarted(&network, primary(), |_| ()).await;
    assert_eq!(resumes(&zero).await, None, "nobody confirms it");
    let two = network.member(2).await;
    ordered(&two, &network, 2, TERM, replica()).await;
    let resumed = resumes(&zero).await.expect("resumed");
    assert_eq!((resumed.term, resumed.assignment), (TERM, primary()));
    assert!(zero.guard.verdict().may_open);
    // It counts: what an operator decided before it saw that is decided again.
    let operator = zero.operator().await;
    let late = refused(operator.order(&order(UID, TERM, Assignment::Isolated)).await);
    assert_eq!((late.code, late.retry), (RefusalCode::Overtaken, true));
    let report: Report<State> = operator.order(&Order { after: 1, ..order(UID, TERM, Assignment::Isolated) }).await.unwrap();
    assert_eq!(report.orders, 2);
}

#[tokio::test]
async fn a_restarted_primary_that_was_deposed_meanwhile_stays_without_an_order_and_closes() {
    let network = Network::new().await;
    let (one, two) = (network.member(1).await, network.member(2).await);
    ordered(&one, &network, 1, TERM, replica()).await;
    ordered(&two, &network, 2, TERM + 1, Assignment::Isolated).await;
    let zero = restarted(&network, primary(), |_| ()).await;
    seconds(0.0..1.5, until(&zero, "fenced", |fenced, _| fenced).await);
}

#[tokio::test]
async fn a_restarted_primary_without_contact_closes_what_is_open() {
    let network = Network::new().await;
    let zero = restarted(&network, primary(), |_| ()).await;
    seconds(4.0..6.0, until(&zero, "fenced", |fenced, _| fenced).await);
    assert_eq!(*zero.orders.borrow(), None);
}

#[tokio::test]
async fn a_restarted_replica_goes_on_by_itself_and_so_does_a_primary_that_is_alone() {
    let network = Network::new().await;
    let zero = restarted(&network, replica(), |_| ()).await;
    assert_eq!(zero.orders.borrow().as_ref().map(|order| order.assignment.clone()), Some(replica()));
    drop(zero);
    let network = Network::new().await;
    let alone = Assignment::Primary { acks: 0, members: vec![0], barred: vec![] };
    let zero = restarted(&network, alone.clone(), |_| ()).await;
    assert_eq!(zero.orders.borrow().as_ref().map(|order| order.assignment.clone()), Some(alone));
    assert!(zero.guard.verdict().may_open);
}

#[tokio::test]
async fn nothing_is_resumed_on_other_data_or_after_a_higher_term() {
    let network = Network::new().await;
    let another = restarted(&network, replica(), |root| data(root, "aaaaaaaa-71ca-11e1-9e33-c80aa9429562")).await;
    assert_eq!(*another.orders.borrow(), None, "cloned anew");
    let network = Network::new().await;
    let lost = restarted(&network, replica(), |root| fs::remove_dir_all(root.join("volume")).unwrap()).await;
    assert_eq!(*lost.orders.borrow(), None, "the volume is another one");
    let network = Network::new().await;
    let condemned = restarted(&network, replica(), |root| {
        fs::write(root.join("volume/.understudy/condemned"), "3e11fa47-71ca-11e1-9e33-c80aa9429562").unwrap();
    });
    assert_eq!(*condemned.await.orders.borrow(), None, "about to be discarded");
    let network = Network::new().await;
    let root = scratch();
    data(&root, "3e11fa47-71ca-11e1-9e33-c80aa9429562");
    let alone = Rig::start_in(root, Authority::new(), false).await;
    let operator = alone.operator().await;
    let _: Report<State> = operator.order(&order(UID, TERM, replica())).await.unwrap();
    // Overtaken, and yet its term deposes the order before.
    let _ = refused(operator.order(&order(UID, TERM + 1, Assignment::Isolated)).await);
    let zero = network.member_in(alone.root, 0).await;
    assert_eq!(*zero.orders.borrow(), None);
}
