//! What no client sends, and too much of what clients send: nobody else may notice.

use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidecar::redis::sentinel::Accounts;
use sidecar::redis::sentinel::serve::MAX_CLIENTS;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

use super::rig::Endpoint;

async fn clients(endpoint: &Endpoint) -> String {
    let info = endpoint.client().await.ask("INFO clients").await;
    info.text().lines().find_map(|line| line.strip_prefix("connected_clients:")).unwrap().to_owned()
}

async fn until_alone(endpoint: &Endpoint) {
    let begin = Instant::now();
    while clients(endpoint).await != "1" {
        assert!(begin.elapsed() < Duration::from_secs(10), "no connection is left behind");
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn what_breaks_the_protocol_is_told_so_and_ends_the_connection() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    for (bytes, said) in [
        ("*1000000000\r\n", "invalid multibulk length"),
        ("*9223372036854775808\r\n", "invalid multibulk length"),
        ("*1\r\n$999999999999\r\n", "invalid bulk length"),
        ("*1\r\n$-5\r\n", "invalid bulk length"),
        ("*1\r\nPING\r\n", "expected '$', got 'P'"),
        ("PING \"a\r\n", "unbalanced quotes in request"),
        (&"a".repeat(70_000), "too big inline request"),
        (&format!("*100\r\n{}", format!("$1000\r\n{}\r\n", "x".repeat(1000)).repeat(20)), "invalid bulk length"),
    ] {
        let mut client = endpoint.client().await;
        client.send(bytes).await;
        assert_eq!(client.read().await.text(), format!("ERR Protocol error: {said}"));
        assert!(client.is_closed().await);
    }
    for bytes in ["POST / HTTP/1.1\r\nHost: x\r\n\r\nFLUSHALL\r\n", "x\r\nHost: x\r\n"] {
        let mut client = endpoint.client().await;
        client.send(bytes).await;
        while let Some(reply) = client.next().await {
            assert!(reply.text().starts_with("ERR unknown command 'x'"), "a browser is not answered: {reply:?}");
        }
    }
    until_alone(&endpoint).await;
}

#[tokio::test]
async fn what_is_right_is_answered_before_the_end_that_follows_it() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = endpoint.client().await;
    client.send("PING\r\n*1\r\n$4\r\nPING\r\n*x\r\nPING\r\n").await;
    assert_eq!(client.read().await.text(), "PONG");
    assert_eq!(client.read().await.text(), "PONG");
    assert_eq!(client.read().await.text(), "ERR Protocol error: invalid multibulk length");
    assert!(client.is_closed().await);
    let mut client = endpoint.client().await;
    client.send("QUIT\r\nPING\r\n").await;
    assert_eq!(client.read().await.text(), "OK");
    assert!(client.is_closed().await);
}

#[tokio::test]
async fn a_command_that_comes_byte_by_byte_is_a_command() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = endpoint.client().await;
    for byte in b"*2\r\n$4\r\nPING\r\n$5\r\nhello\r\n" {
        client.send([*byte]).await;
        sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(client.read().await.text(), "hello");
}

#[tokio::test]
async fn ten_thousand_commands_at_once_are_answered_in_order() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let stream = TcpStream::connect(endpoint.address).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let asked: String = (0..10_000).map(|number| format!("PING {number}\r\n")).collect();
    let expected: String = (0..10_000).map(|number: u32| format!("${}\r\n{number}\r\n", number.to_string().len())).collect();
    let writing = tokio::spawn(async move {
        write.write_all(asked.as_bytes()).await.unwrap();
        write
    });
    let mut answers = vec![0; expected.len()];
    timeout(Duration::from_secs(10), read.read_exact(&mut answers)).await.unwrap().unwrap();
    assert!(answers == expected.as_bytes());
    drop(writing.await.unwrap());
}

#[tokio::test]
async fn who_asks_and_never_reads_is_shown_out() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut stream = TcpStream::connect(endpoint.address).await.unwrap();
    let flood = "SENTINEL sentinels shop\r\n".repeat(1000);
    let flooding = async { while stream.write_all(flood.as_bytes()).await.is_ok() {} };
    timeout(Duration::from_secs(30), flooding).await.expect("its connection ends");
    until_alone(&endpoint).await;
}

#[tokio::test]
async fn one_client_too_many_is_told_so_and_the_others_stay() {
    // Both ends of all of them are in this process.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut client = endpoint.client().await;
        assert_eq!(client.ask("PING").await.text(), "PONG");
        clients.push(client);
    }
    let mut late = endpoint.client().await;
    assert_eq!(late.read().await.text(), "ERR max number of clients reached");
    assert!(late.is_closed().await);
    assert_eq!(clients[0].ask("PING").await.text(), "PONG");
    clients.truncate(1);
    sleep(Duration::from_millis(200)).await;
    assert_eq!(endpoint.client().await.ask("PING").await.text(), "PONG", "there is room again");
}
