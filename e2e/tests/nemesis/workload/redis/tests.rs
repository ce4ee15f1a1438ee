//! The words against a Redis of the lab's image and a replica of it, and what each answer means.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use e2e::Engine;
use e2e::engine::Redis;
use e2e::history::Outcome;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, cmd};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::Workload;
use crate::image;

/// A server on this machine answers within this.
const PATIENCE: Duration = Duration::from_secs(60);

struct Server {
    port: u16,
    directory: PathBuf,
    _process: Child,
}

impl Server {
    fn start(options: &[&str]) -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let directory = std::env::temp_dir().join(format!("nemesis-redis-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let program = image::wrapper(&directory, &image::root("redis-7.0", "REDIS_ROOT"), "usr/bin/redis-server", &[], "");
        let mut command = Command::new(program);
        command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--dir"]).arg(&directory).args(options);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        Self { port, directory, _process: process }
    }

    async fn connect(&self) -> MultiplexedConnection {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port)).unwrap();
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let end = Instant::now() + PATIENCE;
        loop {
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

#[tokio::test]
async fn appends_to_redis_are_refused_or_unknown_without_a_replica_and_acknowledged_in_order_with_one() {
    let primary = Server::start(&["--save", "", "--repl-diskless-sync-delay", "0", "--replica-announce-ip", "cache-0.cache.shop.svc"]);
    let mut client = primary.connect().await;
    assert_eq!(Redis::member(&mut client).await.unwrap(), "cache-0");
    let alone = Redis::append(&mut client, 7, 0).await;
    assert_eq!(alone.outcome, Outcome::Unknown("no replica has acknowledged it".into()));
    assert!(Redis::read(&mut client, 7).await.is_err(), "what nobody else has was read");
    let set = |option: &'static str, value: &'static str| {
        let mut client = client.clone();
        async move { cmd("CONFIG").arg("SET").arg(option).arg(value).exec_async(&mut client).await.unwrap() }
    };
    set("min-replicas-to-write", "1").await;
    let refused = Redis::append(&mut client, 7, 1).await;
    assert!(matches!(refused.outcome, Outcome::Fail(_)), "{refused:?}");

    let replica = Server::start(&["--save", "", "--replicaof", "127.0.0.1", &primary.port.to_string()]);
    let end = Instant::now() + PATIENCE;
    while Redis::append(&mut client, 8, 2).await.outcome != Outcome::Ok {
        assert!(Instant::now() < end, "no replica acknowledges");
        cmd("DEL").arg("list:8").exec_async(&mut client).await.ok();
    }
    for element in [9, 5] {
        assert_eq!(Redis::append(&mut client, 7, element).await.outcome, Outcome::Ok);
    }
    assert_eq!(Redis::read(&mut client, 7).await.unwrap(), [0, 9, 5]);
    let mut follower = replica.connect().await;
    let refused = Redis::append(&mut follower, 7, 3).await;
    assert!(matches!(refused.outcome, Outcome::Fail(_)), "{refused:?}");

    let (lists, before) = Redis::contents(&mut client).await.unwrap();
    assert_eq!(lists, [(7, vec![0, 9, 5]), (8, vec![2])].into());
    assert_eq!(Redis::contents(&mut follower).await.unwrap(), (lists, before), "members are equal");
    cmd("RPUSH").arg("stray").arg("x").exec_async(&mut client).await.unwrap();
    let (lists, after) = Redis::contents(&mut client).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(lists.get(&u64::MAX), Some(&vec![u64::MAX]), "what nobody appended is found as that");
}
