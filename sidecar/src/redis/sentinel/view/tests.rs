use std::time::Duration;

use super::*;

fn node(ordinal: u8) -> Node {
    Node { host: format!("shop-{ordinal}"), port: 6379, run_id: "e".repeat(40), down_since: None, offset: 7, linked: true }
}

fn view(primary: Option<u8>, replicas: &[u8]) -> View {
    View {
        master_name: "shop".into(),
        quorum: 2,
        primary: primary.map(node),
        replicas: replicas.iter().copied().map(node).collect(),
        sentinels: (1..3).map(|at| Node::sentinel(format!("shop-{at}"), "uid", &format!("shop-{at}"), None)).collect(),
        me: Node::sentinel("shop-0", "uid", "shop-0", None),
        epoch: 4,
        version: "7.0.15".into(),
    }
}

fn told(now: &View, before: &View) -> Vec<(&'static str, String)> {
    now.events(before).into_iter().map(|event| (event.channel, event.payload)).collect()
}

fn down(node: &mut Node) {
    node.down_since = Some(Instant::now());
}

#[test]
fn another_primary_is_a_switch_after_which_all_replicas_are_told() {
    let now = View { epoch: 5, ..view(Some(1), &[0, 2]) };
    assert_eq!(
        told(&now, &view(Some(0), &[1, 2])),
        [
            ("+new-epoch", "5".into()),
            ("+switch-master", "shop shop-0 6379 shop-1 6379".into()),
            ("+slave", "slave shop-0:6379 shop-0 6379 @ shop shop-1 6379".into()),
            ("+slave", "slave shop-2:6379 shop-2 6379 @ shop shop-1 6379".into()),
        ]
    );
}

#[test]
fn the_first_primary_ever_is_no_switch() {
    assert!(told(&view(Some(0), &[1]), &view(None, &[])).iter().all(|(channel, _)| *channel != "+switch-master"));
}

#[test]
fn what_grows_falls_silent_and_speaks_again_is_told_and_offsets_are_not() {
    let before = view(Some(0), &[1]);
    let mut now = view(Some(0), &[1, 2]);
    now.replicas[0].offset += 1;
    down(&mut now.replicas[0]);
    down(now.primary.as_mut().unwrap());
    down(&mut now.sentinels[1]);
    let id = sentinel_id("uid", "shop-2");
    assert_eq!(
        told(&now, &before),
        [
            ("+slave", "slave shop-2:6379 shop-2 6379 @ shop shop-0 6379".into()),
            ("+sdown", "master shop shop-0 6379".into()),
            ("+sdown", "slave shop-1:6379 shop-1 6379 @ shop shop-0 6379".into()),
            ("+sdown", format!("sentinel {id} shop-2 26379 @ shop shop-0 6379")),
        ]
    );
    assert_eq!(told(&view(Some(0), &[1, 2]), &now).iter().map(|(channel, _)| *channel).collect::<Vec<_>>(), ["-sdown", "-sdown", "-sdown"]);
    let mut later = view(Some(0), &[1]);
    later.replicas[0].offset += 1000;
    assert_eq!(told(&later, &before), []);
}

#[test]
fn a_sidecar_that_joins_is_told() {
    let (mut before, now) = (view(Some(0), &[]), view(Some(0), &[]));
    before.sentinels.pop();
    assert_eq!(told(&now, &before)[0].0, "+sentinel");
}

#[test]
fn quorum_and_majority_are_counted_apart() {
    let mut view = view(Some(0), &[1, 2]);
    assert_eq!(view.quorum().unwrap(), "OK 3 usable Sentinels. Quorum and failover authorization can be reached");
    down(&mut view.sentinels[0]);
    assert!(view.quorum().is_ok());
    view.quorum = 3;
    assert_eq!(
        view.quorum().unwrap_err(),
        "NOQUORUM 2 usable Sentinels. Not enough available Sentinels to reach the specified quorum for this master"
    );
    view.quorum = 1;
    down(&mut view.sentinels[1]);
    assert_eq!(
        view.quorum().unwrap_err(),
        "NOQUORUM 1 usable Sentinels. Not enough available Sentinels to reach the majority and authorize a failover"
    );
}

#[test]
fn a_silent_node_says_for_how_long() {
    let mut view = view(Some(0), &[1]);
    let since = Instant::now().checked_sub(Duration::from_millis(1500));
    view.primary.as_mut().unwrap().down_since = since;
    let Some(Value::Map(row)) = view.master() else { panic!("a row") };
    assert!(row.contains(&field("flags", "s_down,master,disconnected")));
    for name in ["s-down-time", "last-ok-ping-reply", "last-ping-sent"] {
        let (_, value) = row.iter().find(|(field, _)| *field == Value::text(name)).unwrap();
        let Value::Bulk(value) = value else { panic!("a text") };
        assert!((1500..60_000).contains(&std::str::from_utf8(value).unwrap().parse::<u32>().unwrap()), "{name}");
    }
    assert!(view.section().contains("status=sdown"));
}

#[test]
fn an_identity_is_of_a_sidecar_and_of_a_cluster() {
    let id = sentinel_id("uid", "shop-1");
    assert!(id.len() == 40 && id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_ne!(id, sentinel_id("uid", "shop-2"));
    assert_ne!(id, sentinel_id("another", "shop-1"));
    assert_eq!(id, sentinel_id("uid", "shop-1"));
}
