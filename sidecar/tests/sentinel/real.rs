//! Beside a real Sentinel: the same questions, the same answers.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sidecar::redis::sentinel::{Accounts, View};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use super::client::{Client, Reply};
use super::image;
use super::rig::{Endpoint, database, down, scratch};

const NAME: &str = "mymaster";
/// A Sentinel looks every second, and asks for roles every ten.
const PATIENCE: Duration = Duration::from_secs(30);

/// A primary, a replica and two Sentinels.
struct Real {
    directory: PathBuf,
    program: PathBuf,
    children: Vec<Child>,
    primary: u16,
    replica: u16,
    sentinels: [u16; 2],
}

fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

impl Drop for Real {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = fs::remove_dir_all(&self.directory);
    }
}

impl Real {
    async fn start(security: &str) -> Self {
        let directory = scratch();
        let program = image::wrapper(&directory, &image::root("redis-7.0", "REDIS_ROOT"), "usr/bin/redis-server", &[], "");
        let (primary, replica, sentinels) = (port(), port(), [port(), port()]);
        let mut real = Self { directory, program, children: Vec::new(), primary, replica, sentinels };
        real.run(primary, "save ''\n", &[]);
        real.run(replica, &format!("save ''\nreplicaof 127.0.0.1 {primary}\n"), &[]);
        for port in sentinels {
            let text = format!(
                "{security}sentinel monitor {NAME} 127.0.0.1 {primary} 2\nsentinel down-after-milliseconds {NAME} 1000\n\
                 sentinel failover-timeout {NAME} 5000\n"
            );
            real.run(port, &text, &["--sentinel"]);
        }
        real
    }

    fn run(&mut self, port: u16, text: &str, arguments: &[&str]) {
        let dir = self.directory.join(port.to_string());
        fs::create_dir_all(&dir).unwrap();
        let conf = dir.join("conf");
        fs::write(&conf, format!("port {port}\nbind 127.0.0.1\ndir {}\n{text}", dir.display())).unwrap();
        let log = fs::File::create(dir.join("log")).unwrap();
        let mut command = Command::new(&self.program);
        self.children.push(command.arg(&conf).args(arguments).stdout(log).stderr(Stdio::null()).spawn().unwrap());
    }

    async fn client(&self) -> Client<TcpStream> {
        connect(self.sentinels[0]).await
    }

    /// The real Sentinel's view, once it knows everybody, as an endpoint's.
    async fn view(&self) -> View {
        let begin = Instant::now();
        let mut client = self.client().await;
        loop {
            let master = client.ask(&format!("SENTINEL master {NAME}")).await.row();
            let replicas = client.ask(&format!("SENTINEL replicas {NAME}")).await;
            let sentinels = client.ask(&format!("SENTINEL sentinels {NAME}")).await;
            let rows = |reply: &Reply| reply.list().iter().map(Reply::row).collect::<Vec<_>>();
            let (replicas, sentinels) = (rows(&replicas), rows(&sentinels));
            let linked = replicas.first().is_some_and(|row| row["master-link-status"] == "ok");
            if linked && sentinels.len() == 1 && [&master, &replicas[0], &sentinels[0]].iter().all(|row| !row["runid"].is_empty()) {
                return self.of(&master, &replicas[0], &sentinels[0], client.ask("SENTINEL myid").await.text());
            }
            assert!(begin.elapsed() < PATIENCE, "they find each other: {replicas:?} {sentinels:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn of(
        &self,
        master: &BTreeMap<String, String>,
        replica: &BTreeMap<String, String>,
        other: &BTreeMap<String, String>,
        me: &str,
    ) -> View {
        let node = |row: &BTreeMap<String, String>| {
            let mut node = database("127.0.0.1", row["port"].parse().unwrap());
            node.run_id.clone_from(&row["runid"]);
            node
        };
        let mut me_node = database("127.0.0.1", self.sentinels[0]);
        me_node.run_id = me.to_owned();
        View {
            master_name: NAME.into(),
            quorum: 2,
            primary: Some(node(master)),
            replicas: vec![node(replica)],
            sentinels: vec![node(other)],
            me: me_node,
            epoch: 0,
            version: "7.0.15".into(),
        }
    }
}

async fn connect(port: u16) -> Client<TcpStream> {
    let begin = Instant::now();
    while TcpStream::connect(address(port)).await.is_err() {
        assert!(begin.elapsed() < PATIENCE, "it starts");
        sleep(Duration::from_millis(50)).await;
    }
    Client::connect(address(port)).await
}

/// What differs between any two looks, or is a setting: only its kind is compared.
fn is_volatile(field: &str) -> bool {
    let settings = ["down-after-milliseconds", "failover-timeout", "slave-repl-offset", "info-refresh", "role-reported-time"];
    field.starts_with("last-") || field.starts_with("link-") || field.ends_with("-down-time") || settings.contains(&field)
}

fn assert_same_row(question: &str, real: &Reply, ours: &Reply) {
    let (real, ours) = (real.row(), ours.row());
    assert_eq!(real.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "{question}");
    for (field, value) in &real {
        if is_volatile(field) {
            assert_eq!(value.parse::<i64>().is_ok(), ours[field].parse::<i64>().is_ok(), "{question}: {field} {value} {}", ours[field]);
        } else {
            assert_eq!(*value, ours[field], "{question}: {field}");
        }
    }
}

fn is_same_kind(real: &Reply, ours: &Reply) -> bool {
    match (real, ours) {
        (Reply::List(a, _), Reply::List(b, _)) => a == b,
        _ => std::mem::discriminant(real) == std::mem::discriminant(ours),
    }
}

#[tokio::test]
async fn every_row_has_the_fields_and_the_kinds_of_a_real_sentinels() {
    let real = Real::start("").await;
    let view = real.view().await;
    let endpoint = Endpoint::start(Accounts::Open).await;
    endpoint.view.send_replace(Arc::new(view));
    let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
    for version in [2, 3] {
        let hello = format!("HELLO {version} SETNAME me");
        let (a, b) = (theirs.ask(&hello).await, ours.ask(&hello).await);
        assert!(is_same_kind(&a, &b));
        // All but the client's number and, after it, its value.
        let of = |reply: &Reply| match reply {
            Reply::Map(pairs) => pairs.iter().filter(|(name, _)| name.text() != "id").cloned().collect::<Vec<_>>(),
            other => other.list().chunks(2).filter(|pair| pair[0].text() != "id").map(|pair| (pair[0].clone(), pair[1].clone())).collect(),
        };
        let at = |pairs: Vec<(Reply, Reply)>| pairs.into_iter().filter(|(name, _)| name.text() != "version").collect::<Vec<_>>();
        assert_eq!(at(of(&a)), at(of(&b)));
        let question = format!("SENTINEL master {NAME}");
        let (a, b) = (theirs.ask(&question).await, ours.ask(&question).await);
        assert!(is_same_kind(&a, &b), "version {version}");
        assert_same_row(&question, &a, &b);
        for question in [
            "SENTINEL masters".to_owned(),
            format!("SENTINEL replicas {NAME}"),
            format!("SENTINEL slaves {NAME}"),
            format!("SENTINEL sentinels {NAME}"),
        ] {
            let (a, b) = (theirs.ask(&question).await, ours.ask(&question).await);
            assert!(is_same_kind(&a, &b) && a.list().len() == 1 && b.list().len() == 1, "{question}: {a:?} {b:?}");
            assert!(is_same_kind(&a.list()[0], &b.list()[0]));
            assert_same_row(&question, &a.list()[0], &b.list()[0]);
        }
    }
}

#[tokio::test]
async fn what_is_silent_is_told_as_a_real_sentinel_tells_it() {
    let mut real = Real::start("").await;
    let view = real.view().await;
    let endpoint = Endpoint::start(Accounts::Open).await;
    endpoint.view.send_replace(Arc::new(view));
    // The replica and the other Sentinel: without a second one there is no failover.
    for child in [1, 3] {
        real.children[child].kill().unwrap();
    }
    let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
    let begin = Instant::now();
    let is_down = |reply: &Reply| reply.list()[0].row()["flags"].contains("s_down");
    let questions = [format!("SENTINEL replicas {NAME}"), format!("SENTINEL sentinels {NAME}")];
    while !(is_down(&theirs.ask(&questions[0]).await) && is_down(&theirs.ask(&questions[1]).await)) {
        assert!(begin.elapsed() < PATIENCE, "they are noticed");
        sleep(Duration::from_millis(100)).await;
    }
    endpoint.show(|view| (down(&mut view.replicas[0]), down(&mut view.sentinels[0])).0);
    for question in &questions {
        let (a, b) = (theirs.ask(question).await, ours.ask(question).await);
        assert_same_row(question, &a.list()[0], &b.list()[0]);
    }
    let quorum = format!("SENTINEL CKQUORUM {NAME}");
    assert_eq!(theirs.ask(&quorum).await, ours.ask(&quorum).await);
    real.children[0].kill().unwrap();
    let master = format!("SENTINEL master {NAME}");
    while !theirs.ask(&master).await.row()["flags"].contains("s_down") {
        assert!(begin.elapsed() < PATIENCE, "the primary too");
        sleep(Duration::from_millis(100)).await;
    }
    endpoint.show(|view| down(view.primary.as_mut().unwrap()));
    assert_same_row(&master, &theirs.ask(&master).await, &ours.ask(&master).await);
    assert_eq!(theirs.ask("INFO sentinel").await, ours.ask("INFO sentinel").await);
    let is_down = format!("SENTINEL is-master-down-by-addr 127.0.0.1 {} 0 *", real.primary);
    assert_eq!(theirs.ask(&is_down).await, ours.ask(&is_down).await);
}

#[tokio::test]
async fn answers_are_the_same_to_the_byte_in_both_versions() {
    let real = Real::start("").await;
    let view = real.view().await;
    let primary = real.primary;
    let endpoint = Endpoint::start(Accounts::Open).await;
    endpoint.view.send_replace(Arc::new(view));
    let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
    let is_down = format!("SENTINEL is-master-down-by-addr 127.0.0.1 {primary} 0 *");
    let questions = [
        "PING",
        "ping hello",
        "PING a b",
        "ROLE",
        "ROLE x",
        "SENTINEL get-master-addr-by-name mymaster",
        "SENTINEL get-master-addr-by-name nix",
        "sentinel GET-MASTER-ADDR-BY-NAME",
        "SENTINEL master nix",
        "SENTINEL master",
        "SENTINEL replicas nix",
        "SENTINEL slaves nix",
        "SENTINEL sentinels nix",
        "SENTINEL ckquorum mymaster",
        "SENTINEL ckquorum nix",
        "SENTINEL myid",
        "SENTINEL failover nix",
        "SENTINEL remove nix",
        "SENTINEL set nix quorum 1",
        "SENTINEL reset",
        "SENTINEL nix",
        "SENTINEL",
        "SENTINEL pending-scripts",
        "SENTINEL config get nix",
        "SENTINEL config nix x",
        "SENTINEL config",
        "SENTINEL is-master-down-by-addr 127.0.0.1 x 0 *",
        &is_down,
        "INFO sentinel",
        "INFO nix",
        "CLIENT GETNAME",
        "CLIENT SETNAME me",
        "CLIENT GETNAME",
        "CLIENT SETNAME ",
        "CLIENT GETNAME",
        "CLIENT SETNAME",
        "CLIENT nix",
        "CLIENT",
        "CLIENT GETNAME x",
        "AUTH",
        "AUTH a",
        "AUTH a b",
        "AUTH a b c",
        "AUTH default x",
        "HELLO 4",
        "HELLO x",
        "HELLO 2 nix",
        "HELLO 2 auth a",
        "HELLO 2 auth a b",
        "ACL WHOAMI",
        "ACL nix",
        "nix",
        "nix a b c",
        "SELECT 0",
        "GET key",
        "CONFIG GET *",
        "SUBSCRIBE",
        "PSUBSCRIBE",
        "UNSUBSCRIBE",
        "PUNSUBSCRIBE nix",
        "COMMAND nix",
        "COMMAND DOCS nix",
    ];
    for question in questions {
        assert_eq!(theirs.ask(question).await, ours.ask(question).await, "{question}");
    }
    for line in ["CLIENT SETNAME 'a b'\r\n", "HELLO 2 SETNAME \"a\\nb\"\r\n", "\r\n  \r\nPING\r\n"] {
        theirs.send(line).await;
        ours.send(line).await;
        assert_eq!(theirs.read().await, ours.read().await, "{line}");
    }
    let listening = [
        "SUBSCRIBE a",
        "SUBSCRIBE a",
        "PING",
        "PING x",
        "SENTINEL myid",
        "HELLO 3",
        "PSUBSCRIBE b*",
        "UNSUBSCRIBE nix",
        "UNSUBSCRIBE a",
        "PUNSUBSCRIBE",
        "UNSUBSCRIBE",
    ];
    for question in listening {
        assert_eq!(theirs.ask(question).await, ours.ask(question).await, "{question}");
    }
    let _ = (theirs.ask("HELLO 3").await, ours.ask("HELLO 3").await);
    // Clients have numbers, which HELLO tells.
    for question in questions.iter().chain(&listening).filter(|question| !question.starts_with("HELLO 2") && **question != "HELLO 3") {
        assert_eq!(theirs.ask(question).await, ours.ask(question).await, "version 3: {question}");
    }
}

#[tokio::test]
async fn strangers_hear_the_same() {
    let real = Real::start("requirepass secret\nuser app on >a >b allchannels +@all\nuser off off >x\n").await;
    let endpoint = Endpoint::start(Accounts::of([("default", &b"secret"[..]), ("app", b"a"), ("app", b"b")])).await;
    let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
    for question in [
        "PING",
        "PING a b",
        "nix",
        "ROLE",
        "ROLE x",
        "INFO",
        "SENTINEL masters",
        "SENTINEL nix",
        "CLIENT ID",
        "SUBSCRIBE x",
        "COMMAND",
        "HELLO",
        "HELLO 2",
        "HELLO 3",
        "HELLO 3 AUTH default wrong",
        "AUTH",
        "AUTH wrong",
        "AUTH app wrong",
        "AUTH off x",
        "AUTH nobody x",
        "AUTH a b c",
        "HELLO 9 AUTH app a",
        "PING",
        "AUTH app a",
        "PING",
        "AUTH app wrong",
        "ACL WHOAMI",
        "AUTH app b",
        "AUTH secret",
        "ACL WHOAMI",
    ] {
        assert_eq!(theirs.ask(question).await, ours.ask(question).await, "{question}");
    }
    for bytes in ["*11\r\n", "*x\r\n", "*1\r\nPING\r\n", "*1\r\n$999999999999\r\n"] {
        let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
        theirs.send(bytes).await;
        ours.send(bytes).await;
        assert_eq!(theirs.read().await, ours.read().await, "{bytes}");
        assert!(theirs.is_closed().await && ours.is_closed().await);
    }
}

/// What a listener to everything is told, of these kinds, until one of the last kind.
async fn told(client: &mut Client<TcpStream>, kinds: &[&str], count: usize) -> BTreeSet<(String, String)> {
    let mut events = BTreeSet::new();
    let begin = Instant::now();
    while events.len() < count {
        assert!(begin.elapsed() < PATIENCE, "{events:?}");
        if client.is_silent(Duration::from_secs(1)).await {
            continue;
        }
        let message = client.read().await;
        let [_, _, channel, payload] = message.list() else { panic!("{message:?}") };
        if kinds.contains(&channel.text()) {
            events.insert((channel.text().to_owned(), payload.text().to_owned()));
        }
    }
    events
}

#[tokio::test]
async fn a_failover_is_told_in_the_same_words() {
    let mut real = Real::start("").await;
    let view = real.view().await;
    let endpoint = Endpoint::start(Accounts::Open).await;
    endpoint.view.send_replace(Arc::new(view));
    let (mut theirs, mut ours) = (real.client().await, endpoint.client().await);
    assert_eq!(theirs.ask("PSUBSCRIBE *").await, ours.ask("PSUBSCRIBE *").await);
    real.children[0].kill().unwrap();
    let kinds = ["+sdown", "+new-epoch", "+switch-master", "+slave"];
    // The old primary is told as silent twice: as the primary, and as the replica that it is after.
    let expected = told(&mut theirs, &kinds, 5).await;
    endpoint.show(|view| down(view.primary.as_mut().unwrap()));
    let mut heard = told(&mut ours, &kinds, 1).await;
    endpoint.show(|view| {
        let old = view.primary.replace(view.replicas.remove(0)).unwrap();
        view.replicas = vec![sidecar::redis::sentinel::Node { down_since: None, ..old }];
        view.epoch += 1;
    });
    heard.extend(told(&mut ours, &kinds, 3).await);
    endpoint.show(|view| down(&mut view.replicas[0]));
    heard.extend(told(&mut ours, &kinds, 1).await);
    assert_eq!(expected, heard);
    let question = format!("SENTINEL get-master-addr-by-name {NAME}");
    let address = real.client().await.ask(&question).await;
    assert_eq!(address.list()[1].text(), real.replica.to_string());
    assert_eq!(address, endpoint.client().await.ask(&question).await);
}
