//! Who is let in, and what a change of the accounts does to who is in.

use std::time::Duration;

use sidecar::redis::sentinel::Accounts;
use tokio::time::{Instant, sleep, timeout};

use super::client::Reply;
use super::rig::Endpoint;

fn users(users: &[(&str, &str)]) -> Accounts {
    Accounts::of(users.iter().map(|(user, password)| (*user, password.as_bytes())))
}

fn error(reply: &Reply) -> &str {
    match reply {
        Reply::Error(text) => text,
        other => panic!("no error: {other:?}"),
    }
}

#[tokio::test]
async fn nothing_is_told_before_the_login_and_everything_after() {
    let endpoint = Endpoint::start(users(&[("app", "secret")])).await;
    let mut client = endpoint.client().await;
    assert_eq!(error(&client.ask("SENTINEL get-master-addr-by-name shop").await), "NOAUTH Authentication required.");
    assert!(error(&client.ask("AUTH app wrong").await).starts_with("WRONGPASS "));
    assert_eq!(client.ask("AUTH app secret").await.text(), "OK");
    let address = client.ask("SENTINEL get-master-addr-by-name shop").await;
    assert_eq!(address.list().iter().map(Reply::text).collect::<Vec<_>>(), ["shop-0.shop.prod.svc", "6379"]);
}

#[tokio::test]
async fn a_rotation_fails_no_login_and_ends_no_connection() {
    let endpoint = Endpoint::start(users(&[("app", "old")])).await;
    let mut client = endpoint.client().await;
    assert_eq!(client.ask("AUTH app old").await.text(), "OK");
    endpoint.admit(users(&[("app", "old"), ("app", "new")]));
    for password in ["old", "new"] {
        assert_eq!(endpoint.client().await.ask(&format!("AUTH app {password}")).await.text(), "OK");
    }
    endpoint.admit(users(&[("app", "new")]));
    assert!(error(&endpoint.client().await.ask("AUTH app old").await).starts_with("WRONGPASS "));
    assert_eq!(endpoint.client().await.ask("AUTH app new").await.text(), "OK");
    assert_eq!(client.ask("PING").await.text(), "PONG", "who is in stays in");
}

#[tokio::test]
async fn a_removed_user_is_shown_out_at_once_even_while_it_listens() {
    let endpoint = Endpoint::start(users(&[("app", "a"), ("other", "b")])).await;
    let (mut gone, mut stays) = (endpoint.client().await, endpoint.client().await);
    assert_eq!(gone.ask("AUTH app a").await.text(), "OK");
    assert_eq!(stays.ask("AUTH other b").await.text(), "OK");
    let _ = gone.ask("SUBSCRIBE +switch-master").await;
    endpoint.admit(users(&[("other", "b")]));
    assert!(gone.is_closed().await);
    assert_eq!(stays.ask("PING").await.text(), "PONG");
}

#[tokio::test]
async fn who_does_not_log_in_is_shown_out_after_ten_seconds_however_much_it_says() {
    let endpoint = Endpoint::start(users(&[("app", "secret")])).await;
    let begin = Instant::now();
    let (silent, mut half, mut busy) = (endpoint.client().await, endpoint.client().await, endpoint.client().await);
    half.send("*2\r\n$4\r\nAU").await;
    let knocking = async {
        loop {
            busy.send("AUTH app guess\r\n").await;
            if busy.next().await.is_none() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(Duration::from_secs(20), knocking).await.expect("guessing is no login");
    for mut client in [silent, half] {
        assert!(timeout(Duration::from_secs(2), client.is_closed()).await.expect("its time is over"));
    }
    assert!((9.5..22.0).contains(&begin.elapsed().as_secs_f64()), "{:?}", begin.elapsed());
}

#[tokio::test]
async fn strangers_who_fill_the_door_keep_nobody_out_for_longer_than_their_time() {
    let endpoint = Endpoint::start(users(&[("app", "secret")])).await;
    let mut inside = endpoint.client().await;
    assert_eq!(inside.ask("AUTH app secret").await.text(), "OK");
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(endpoint.client().await);
    }
    sleep(Duration::from_millis(200)).await;
    assert_eq!(inside.ask("PING").await.text(), "PONG", "who is in does not notice");
    let mut late = endpoint.client().await;
    late.send("AUTH app secret\r\n").await;
    // Eight wait behind thirty-two that have ten seconds, and so does this one.
    let begin = Instant::now();
    while late.is_silent(Duration::from_secs(1)).await {
        assert!(begin.elapsed() < Duration::from_secs(20), "its turn comes");
    }
    assert_eq!(late.read().await.text(), "OK");
}
