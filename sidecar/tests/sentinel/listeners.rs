//! Who listens hears of a new primary, once, whatever happens between.

use std::time::Duration;

use sidecar::redis::sentinel::Accounts;
use tokio::time::sleep;

use super::client::{Client, Reply};
use super::rig::{Endpoint, down, member, view};

const QUIET: Duration = Duration::from_millis(300);
const SWITCH: &str = "shop shop-0.shop.prod.svc 6379 shop-1.shop.prod.svc 6379";

fn words(reply: &Reply) -> Vec<String> {
    let word = |reply: &Reply| match reply {
        Reply::Integer(number) => number.to_string(),
        other => other.text().to_owned(),
    };
    reply.list().iter().map(word).collect()
}

async fn listener(endpoint: &Endpoint, version: u8) -> Client<tokio::net::TcpStream> {
    let mut client = endpoint.client().await;
    let _ = client.ask(&format!("HELLO {version}")).await;
    assert_eq!(words(&client.ask("SUBSCRIBE +switch-master").await), ["subscribe", "+switch-master", "1"]);
    client
}

#[tokio::test]
async fn a_new_primary_is_told_in_both_versions_and_offsets_are_not() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let (mut two, mut three) = (listener(&endpoint, 2).await, listener(&endpoint, 3).await);
    endpoint.show(|view| view.replicas[0].offset += 1000);
    assert!(two.is_silent(QUIET).await);
    endpoint.show(|now| *now = view(1));
    assert_eq!(words(&two.read().await), ["message", "+switch-master", SWITCH]);
    let pushed = three.read().await;
    assert!(matches!(pushed, Reply::List('>', _)));
    assert_eq!(words(&pushed), ["message", "+switch-master", SWITCH]);
    assert!(two.is_silent(QUIET).await, "once");
    let address = three.ask("SENTINEL get-master-addr-by-name shop").await;
    assert_eq!(words(&address), ["shop-1.shop.prod.svc", "6379"], "a listener of version 3 asks on the same connection");
}

#[tokio::test]
async fn a_time_without_a_primary_is_no_switch_and_hides_none() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = listener(&endpoint, 2).await;
    endpoint.show(|view| view.primary = None);
    sleep(QUIET).await;
    endpoint.show(|now| *now = view(0));
    assert!(client.is_silent(QUIET).await);
    endpoint.show(|view| view.primary = None);
    sleep(QUIET).await;
    endpoint.show(|now| *now = view(1));
    assert_eq!(words(&client.read().await)[2], SWITCH);
}

#[tokio::test]
async fn a_sidecar_that_knew_no_primary_at_its_start_tells_the_first_switch_after() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let bare = |now: &mut sidecar::redis::sentinel::View| (now.replicas, now.sentinels) = (vec![], vec![]);
    endpoint.show(|now| (now.primary, _) = (None, bare(now)));
    let mut client = listener(&endpoint, 2).await;
    endpoint.show(|now| now.primary = Some(member(0)));
    assert!(client.is_silent(QUIET).await);
    endpoint.show(|now| now.primary = Some(member(1)));
    assert_eq!(words(&client.read().await)[2], SWITCH);
}

#[tokio::test]
async fn who_asked_before_the_switch_and_listens_after_it_hears_of_it() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = endpoint.client().await;
    let _ = client.ask("SENTINEL get-master-addr-by-name shop").await;
    endpoint.show(|now| *now = view(1));
    sleep(QUIET).await;
    let _ = client.ask("SUBSCRIBE +switch-master").await;
    assert_eq!(words(&client.read().await)[2], SWITCH);
    let mut another = listener(&endpoint, 2).await;
    assert!(another.is_silent(QUIET).await, "who came after it does not");
}

#[tokio::test]
async fn patterns_hear_what_fits_them_and_nothing_once_they_are_taken_back() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = endpoint.client().await;
    let _ = client.ask("PSUBSCRIBE ?sdown").await;
    endpoint.show(|view| down(&mut view.replicas[1]));
    let at = "slave shop-2.shop.prod.svc:6379 shop-2.shop.prod.svc 6379 @ shop shop-0.shop.prod.svc 6379";
    assert_eq!(words(&client.read().await), ["pmessage", "?sdown", "+sdown", at]);
    endpoint.show(|now| now.replicas[1].down_since = None);
    assert_eq!(words(&client.read().await), ["pmessage", "?sdown", "-sdown", at]);
    assert_eq!(words(&client.ask("PUNSUBSCRIBE ?sdown").await), ["punsubscribe", "?sdown", "0"]);
    endpoint.show(|view| down(&mut view.replicas[1]));
    assert!(client.is_silent(QUIET).await);
    assert_eq!(client.ask("PING").await.text(), "PONG");
}

#[tokio::test]
async fn a_listener_that_falls_behind_hears_of_the_last_primary() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = listener(&endpoint, 2).await;
    // Nothing runs between the two: they are one change to everybody.
    endpoint.show(|now| *now = view(2));
    endpoint.show(|now| *now = view(1));
    assert_eq!(words(&client.read().await)[2], SWITCH);
    assert!(client.is_silent(QUIET).await);
}

#[tokio::test]
async fn when_the_sidecar_ends_its_listeners_know() {
    let endpoint = Endpoint::start(Accounts::Open).await;
    let mut client = listener(&endpoint, 2).await;
    drop(endpoint);
    assert!(client.is_closed().await);
}
