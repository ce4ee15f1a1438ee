//! MongoReplicaSet: its own rules, and that the shared ones are there.

use crds::mongo::{MongoReplicaSet, OWNED_OPTIONS, PSA_CONSENT};
use serde_json::{Value, json};

use super::{accepted, accepted_change, merge, refused, refused_change};

/// A valid object with `spec` merged in.
fn set(spec: Value) -> MongoReplicaSet {
    named("stock", spec)
}

fn named(name: &str, spec: Value) -> MongoReplicaSet {
    let mut whole = json!({ "storage": { "size": "1Gi" } });
    merge(&mut whole, spec);
    serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet", "metadata": { "name": name, "namespace": "shop" }, "spec": whole
    }))
    .unwrap()
}

#[test]
fn the_smallest_object_is_accepted() {
    accepted(&set(json!({})));
}

#[test]
fn the_shared_rules_hold() {
    refused(&named("1stock", json!({})), "metadata.name: use at most 40");
    refused(&set(json!({"suspend": true, "hibernate": true})), "set one of them");
    refused(&set(json!({"update": {"strategy": "OnDelete", "partition": 1}})), "needs update.strategy: Automatic");
    refused(&set(json!({"storage": {"size": "ten"}})), "write a positive quantity such as 10Gi");
    refused(&set(json!({"image": "mongo: 8.0"})), "name one such as mongo:8.0");
    refused(&set(json!({"pod": {"labels": {"understudy.dev/cluster": "x"}}})), "are the operator's");
    refused_change(&set(json!({})), &set(json!({"storage": {"size": "1023Mi"}})), "cannot shrink");
    refused_change(&set(json!({})), &set(json!({"storage": {"className": "slow"}})), "volumes keep their class");
}

#[test]
fn an_arbiter_stands_beside_an_even_number_and_beside_two_only_with_consent() {
    accepted(&set(json!({"replicas": 4, "arbiters": 1})));
    accepted(&set(json!({"replicas": 2, "arbiters": 1, "arbiterConsent": PSA_CONSENT})));
    refused(&set(json!({"replicas": 3, "arbiters": 1})), "set it to 0");
    refused(&set(json!({"replicas": 8, "arbiters": 1})), "fill all seats");
    refused(&set(json!({"replicas": 2, "arbiters": 1})), "or consent by arbiterConsent");
    refused(&set(json!({"replicas": 2, "arbiters": 1, "arbiterConsent": "yes"})), "or consent by arbiterConsent");
}

#[test]
fn the_number_of_members_stays_while_there_is_an_arbiter() {
    let of = |replicas: u8, arbiters: u8| set(json!({"replicas": replicas, "arbiters": arbiters, "arbiterConsent": PSA_CONSENT}));
    accepted_change(&of(3, 0), &of(5, 0));
    accepted_change(&of(4, 0), &of(4, 1));
    accepted_change(&of(4, 1), &of(4, 0));
    for (from, to) in [((4, 1), (6, 1)), ((4, 1), (5, 0)), ((3, 0), (4, 1))] {
        refused_change(&of(from.0, from.1), &of(to.0, to.1), "set arbiters to 0 first");
    }
}

#[test]
fn options_are_paths_with_values_of_one_line() {
    let option = |name: &str, value: Value| set(json!({"config": {name: value}}));
    accepted(&option("net.maxIncomingConnections", json!(500)));
    accepted(&option("storage.wiredTiger.engineConfig.cacheSizeGB", json!("1.5")));
    for name in ["net.", ".net", "a b", "a\nb", "a:b", "", "1a"] {
        refused(&option(name, json!("1")), "option names are paths");
    }
    refused(&option("systemLog.verbosity", json!("1\nnet:")), "a value is one line");
}

#[test]
fn owned_options_are_refused_with_all_below_them() {
    for owned in OWNED_OPTIONS {
        refused(&set(json!({"config": {*owned: 1}})), "this option is set by the operator");
        refused(&set(json!({"config": {format!("{owned}.x"): 1}})), "this option is set by the operator");
        accepted(&set(json!({"config": {format!("{owned}X"): 1}})));
    }
}

#[test]
fn users_have_plain_names_each_once() {
    let user = |name: &str, patch: Value| {
        let mut user = json!({"name": name, "roles": [{"role": "readWrite", "db": "shop"}]});
        merge(&mut user, patch);
        user
    };
    let with = |users: Vec<Value>| set(json!({"users": users}));
    accepted(&with(vec![user("clerk", json!({})), user("boss_2", json!({"database": "shop", "secret": "mine"}))]));
    refused(&with(vec![user("clerk", json!({})), user("clerk", json!({"database": "shop"}))]), "each name once");
    for name in ["a/b", "a.b", "-a", "understudy", "__system"] {
        refused(&with(vec![user(name, json!({}))]), "users.name: use letters");
    }
    for database in ["local", "config", "a.b"] {
        refused(&with(vec![user("clerk", json!({"database": database}))]), "users.database");
    }
    refused(&with(vec![user("clerk", json!({"secret": ""}))]), "name a Secret with the key");
}

#[test]
fn a_feature_version_is_a_policy_or_a_version() {
    for version in ["Automatic", "Manual", "7.0", "4.4", "10.0"] {
        accepted(&set(json!({"featureCompatibilityVersion": version})));
    }
    for version in ["", "automatic", "7", "7.0.1", "07.0"] {
        refused(&set(json!({"featureCompatibilityVersion": version})), "write Automatic, Manual, or a version");
    }
}

#[test]
fn a_priority_is_what_mongod_takes() {
    let priority = |priority: i32| set(json!({"zones": {"priorities": {"a": priority}}}));
    accepted(&priority(0));
    accepted(&priority(1000));
    refused(&priority(-1), "a priority is 0 to 1000");
    refused(&priority(1001), "a priority is 0 to 1000");
}

#[test]
fn tls_is_turned_on_and_off_one_step_at_a_time() {
    let tls = |mode: &str| set(json!({"tls": mode}));
    for (from, to) in [
        ("Required", "Preferred"),
        ("Preferred", "Allowed"),
        ("Allowed", "Disabled"),
        ("Disabled", "Allowed"),
        ("Allowed", "Preferred"),
        ("Preferred", "Required"),
        ("Disabled", "Disabled"),
    ] {
        accepted_change(&tls(from), &tls(to));
    }
    for (from, to) in [
        ("Required", "Disabled"),
        ("Disabled", "Required"),
        ("Required", "Allowed"),
        ("Preferred", "Disabled"),
        ("Disabled", "Preferred"),
        ("Allowed", "Required"),
    ] {
        refused_change(&tls(from), &tls(to), "one step at a time");
    }
}
