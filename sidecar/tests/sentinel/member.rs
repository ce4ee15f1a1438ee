//! The endpoint as a member runs it: from orders, the database's state and mounted files to what clients are answered.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use sidecar::redis::sentinel::{Config, Names, run};
use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, Lineage, Part, Peer, Replication, Role, State, User};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::certificates::{connect, mount};
use super::client::{Client, Reply};
use super::rig::scratch;

/// Longer than files are not looked at.
const LOOKS: Duration = Duration::from_millis(2500);

struct Member {
    root: PathBuf,
    address: SocketAddr,
    orders: watch::Sender<Option<Order<Assignment>>>,
    state: watch::Sender<State>,
    tls_changed: watch::Sender<u64>,
    running: JoinHandle<()>,
}

fn host(ordinal: u32) -> String {
    format!("shop-{ordinal}.shop.prod.svc")
}

fn order(part: Part) -> Option<Order<Assignment>> {
    let users = vec![User { name: "app".into(), rules: "~* +@all".into() }];
    let assignment = Assignment { part, members: vec![0, 1, 2], users };
    Some(Order { cluster: "uid".into(), term: 7, claim: 0, incarnation: String::new(), after: 0, assignment })
}

fn follow(source: u32) -> Option<Order<Assignment>> {
    let source = Peer { member: format!("shop-{source}"), host: host(source) };
    order(Part::Replica { source, lineage: Lineage::default(), discard: None, heir_of: None, source_yields: false })
}

impl Member {
    /// `shop-1`, which has no order yet.
    async fn start(tls: bool) -> Self {
        let root = scratch();
        fs::write(root.join("app"), "old\n").unwrap();
        if tls {
            mount(&root);
        }
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = Names { member: "shop-1".into(), host: host(1), master_name: "mymaster".into(), port: address.port() };
        let config = Config { names, tls_dir: tls.then(|| root.clone()), users_dir: Some(root.clone()) };
        let (orders, state, tls_changed) = (watch::Sender::new(None), watch::Sender::new(State::default()), watch::Sender::new(0));
        let running = tokio::spawn(run(config, listener, orders.subscribe(), state.subscribe(), tls_changed.subscribe()));
        Self { root, address, orders, state, tls_changed, running }
    }

    async fn login(&self, password: &str) -> (Client<TcpStream>, bool) {
        let mut client = Client::connect(self.address).await;
        let welcome = client.ask(&format!("AUTH app {password}")).await == Reply::Simple("OK".into());
        (client, welcome)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.running.abort();
    }
}

async fn primary<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(client: &mut Client<S>) -> Option<String> {
    match client.ask("SENTINEL get-master-addr-by-name mymaster").await {
        Reply::Null(_) => None,
        address => Some(address.list()[0].text().to_owned()),
    }
}

#[tokio::test]
async fn a_failover_is_answered_and_told_as_the_orders_have_it() {
    let member = Member::start(false).await;
    drop(member.orders.send_replace(follow(0)));
    let (mut client, welcome) = member.login("old").await;
    assert!(welcome);
    assert_eq!(primary(&mut client).await, Some(host(0)));
    let (mut listener, _) = member.login("old").await;
    let _ = listener.ask("SUBSCRIBE +switch-master").await;
    drop(member.orders.send_replace(order(Part::Isolated)));
    assert_eq!(primary(&mut client).await, None, "another Sentinel may know better");
    // It is the one that is promoted.
    let lead = Part::Primary { identity: None, admitted: vec![0, 2], min_replicas: 0, max_lag_seconds: 10, yield_to: None };
    drop(member.orders.send_replace(order(lead)));
    member.state.send_modify(|state| state.role = Role::Isolated);
    assert_eq!(primary(&mut client).await, None, "it has not opened yet");
    assert!(listener.is_silent(Duration::from_millis(200)).await);
    member.state.send_modify(|state| state.role = Role::Primary);
    let told = listener.read().await;
    assert_eq!(told.list()[2].text(), format!("mymaster {} 6379 {} 6379", host(0), host(1)));
    assert_eq!(primary(&mut client).await, Some(host(1)));
    member.state.send_modify(|state| state.fenced = true);
    assert_eq!(primary(&mut client).await, None, "it has closed itself");
}

#[tokio::test]
async fn nobody_logs_in_before_the_first_order_and_then_by_the_files() {
    let member = Member::start(false).await;
    let (mut early, welcome) = member.login("old").await;
    assert!(!welcome);
    assert_eq!(early.ask("SENTINEL masters").await.text(), "NOAUTH Authentication required.");
    drop(member.orders.send_replace(follow(0)));
    let (mut inside, welcome) = member.login("old").await;
    assert!(welcome);
    fs::write(member.root.join("app"), "old\nnew\n").unwrap();
    // The database takes both now: the state says so, and clients are given the new one.
    member.state.send_modify(|state| state.passwords = Some("both".into()));
    assert!(member.login("new").await.1 && member.login("old").await.1);
    fs::write(member.root.join("app"), "new\n").unwrap();
    sleep(LOOKS).await;
    assert!(member.login("new").await.1 && !member.login("old").await.1);
    fs::remove_file(member.root.join("app")).unwrap();
    sleep(LOOKS).await;
    assert!(member.login("new").await.1, "a file that cannot be read changes nothing");
    assert_eq!(inside.ask("PING").await.text(), "PONG");
    let nobody = order(Part::Isolated).map(|mut order| {
        order.assignment.users.clear();
        order
    });
    drop(member.orders.send_replace(nobody));
    assert!(inside.is_closed().await, "a user that is ordered no more is shown out");
}

#[tokio::test]
async fn a_primary_that_falls_silent_is_told_so_after_three_seconds() {
    let member = Member::start(false).await;
    drop(member.orders.send_replace(follow(0)));
    let link = |connected| Some(Replication { source: host(0), connected, lag_seconds: None });
    member.state.send_modify(|state| (state.role, state.replication) = (Role::Replica, link(true)));
    let (mut client, _) = member.login("old").await;
    let _ = client.ask("SUBSCRIBE +sdown -sdown").await;
    let _ = client.read().await;
    member.state.send_modify(|state| state.replication = link(false));
    assert!(client.is_silent(Duration::from_millis(2500)).await);
    let told = client.read().await;
    assert_eq!((told.list()[1].text(), told.list()[2].text()), ("+sdown", format!("master mymaster {} 6379", host(0)).as_str()));
    member.state.send_modify(|state| state.replication = link(true));
    assert_eq!(client.read().await.list()[1].text(), "-sdown");
}

#[tokio::test]
async fn its_certificate_follows_the_mounted_files_and_a_broken_one_changes_nothing() {
    let member = Member::start(true).await;
    drop(member.orders.send_replace(follow(0)));
    let tls13 = [&rustls::version::TLS13];
    let first = fs::read_to_string(member.root.join("ca.crt")).unwrap();
    let mut client = connect(member.address, &first, &tls13).await.unwrap();
    assert_eq!(client.ask("AUTH app old").await.text(), "OK");
    let key = fs::read(member.root.join("tls.key")).unwrap();
    fs::write(member.root.join("tls.key"), "broken").unwrap();
    member.tls_changed.send_modify(|count| *count += 1);
    sleep(Duration::from_millis(200)).await;
    assert!(connect(member.address, &first, &tls13).await.is_ok());
    fs::write(member.root.join("tls.key"), key).unwrap();
    let second = mount(&member.root);
    member.tls_changed.send_modify(|count| *count += 1);
    let taken = async { while connect(member.address, &second, &tls13).await.is_err() {} };
    timeout(Duration::from_secs(10), taken).await.expect("the new certificate is served");
    assert!(connect(member.address, &first, &tls13).await.is_err());
    assert_eq!(primary(&mut client).await, Some(host(0)), "who is connected stays so");
}
