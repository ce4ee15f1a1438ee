//! RedisReplication: its own rules, and that the shared ones are there.

use crds::redis::{OWNED_FAMILIES, OWNED_OPTIONS, RESERVED_USERS, RedisReplication};
use serde_json::{Value, json};

use super::{accepted, accepted_change, merge, refused, refused_change};

/// A valid object with `spec` merged in.
fn cache(spec: Value) -> RedisReplication {
    named("cache", spec)
}

fn named(name: &str, spec: Value) -> RedisReplication {
    let mut whole = json!({ "storage": { "size": "1Gi" } });
    merge(&mut whole, spec);
    serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": { "name": name, "namespace": "shop" }, "spec": whole
    }))
    .unwrap()
}

#[test]
fn the_smallest_object_is_accepted() {
    accepted(&cache(json!({})));
}

#[test]
fn the_shared_rules_hold() {
    refused(&named("1cache", json!({})), "metadata.name: use at most 40");
    refused(&cache(json!({"suspend": true, "hibernate": true})), "set one of them");
    refused(&cache(json!({"update": {"strategy": "OnDelete", "partition": 1}})), "needs update.strategy: Automatic");
    refused(&cache(json!({"storage": {"size": "ten"}})), "write a positive quantity such as 10Gi");
    for image in ["", " ", "a b", "valkey/valkey:8\n", "a\u{a0}b"] {
        refused(&cache(json!({"image": image})), "name one such as valkey/valkey:8");
    }
    accepted(&cache(json!({"image": "registry.local:5000/a/redis:7@sha256:0a"})));
    for field in ["labels", "annotations"] {
        accepted(&cache(json!({"pod": {field: {"a.understudy.dev/x": "1", "team": "shop"}}})));
        refused(&cache(json!({"pod": {field: {"understudy.dev/cluster": "1"}}})), "are the operator's");
    }
    refused_change(&cache(json!({})), &cache(json!({"storage": {"size": "1023Mi"}})), "cannot shrink");
    refused_change(&cache(json!({})), &cache(json!({"storage": {"className": "slow"}})), "volumes keep their class");
}

#[test]
fn a_write_waits_for_no_more_replicas_than_there_are() {
    let of = |replicas: u8, least: u8| cache(json!({"replicas": replicas, "durability": {"minReplicasToWrite": least}}));
    accepted(&of(3, 2));
    accepted(&of(1, 0));
    accepted(&cache(json!({"replicas": 1})));
    refused(&of(3, 3), "no write would ever be taken");
    refused(&of(1, 1), "no write would ever be taken");
}

#[test]
fn what_is_kept_nowhere_is_not_put_to_sleep() {
    accepted(&cache(json!({"hibernate": true})));
    accepted(&cache(json!({"persistence": "None"})));
    refused(&cache(json!({"hibernate": true, "persistence": "None"})), "everything would be forgotten");
}

#[test]
fn options_are_named_as_in_redis_conf_with_values_of_one_line() {
    let option = |name: &str, value: Value| cache(json!({"config": {name: value}}));
    accepted(&option("maxmemory", json!(2_i64 << 30)));
    accepted(&option("save", json!("900 1 300 10")));
    for name in ["", "-a", "1a", "A", "a_b", "a.b", "a b", "a\nb", "a#", &"a".repeat(65)] {
        refused(&option(name, json!("1")), "option names are lower-case letters");
    }
    for value in ["noeviction\nport 1", "\0", "\u{7f}", "\u{85}"] {
        refused(&option("maxmemory-policy", json!(value)), "a value is one line");
    }
}

#[test]
fn a_value_is_words_in_quotes_that_are_closed() {
    let option = |value: &str| cache(json!({"config": {"proc-title-template": value}}));
    for value in [
        "",
        "  ",
        "yes",
        "\"a b\" 'c'",
        "a\"b c\" d",
        "\"\"",
        "\"\" ''",
        "it is #1",
        "\"a \\\" b\"",
        "\"a\\\\\"",
        "\"\\n\"",
        "\"\\x41\"",
        "'it\\'s'",
        "'\\x00'",
        "\\x00",
        "ö \"ö\" '\u{1f600}'",
    ] {
        accepted(&option(value));
    }
    for value in ["\"", "'", "a\"", "\"a\"b", "'a''b'", "a \"b", "\"a\\\"", "'a\\'", "'a\\\\'", "\"\\x00\"", "\"\\xff\"", "\"\\xC3\""] {
        refused(&option(value), "quotes in pairs");
    }
}

#[test]
fn snapshots_are_taken() {
    let with = |persistence: &str, save: &str| cache(json!({"persistence": persistence, "config": {"save": save}}));
    for save in ["", " ", "''", "\"\"", "\" \" ''"] {
        refused(&with("Snapshot", save), "leave it out for the server's default");
        accepted(&with("AppendOnly", save));
        accepted(&with("None", save));
    }
    accepted(&with("Snapshot", "3600 1"));
    accepted(&with("Snapshot", "\"3600\" '1'"));
    accepted(&cache(json!({"persistence": "Snapshot", "config": {"maxmemory": "1gb"}})));
    accepted(&cache(json!({"persistence": "Snapshot"})));
}

#[test]
fn owned_options_are_refused_with_their_families() {
    for owned in OWNED_OPTIONS {
        refused(&cache(json!({"config": {*owned: 1}})), "this option is set by the operator");
        accepted(&cache(json!({"config": {format!("x-{owned}"): 1}})));
    }
    for family in OWNED_FAMILIES {
        refused(&cache(json!({"config": {format!("{family}x"): 1}})), "this option is set by the operator");
        accepted(&cache(json!({"config": {format!("x-{family}x"): 1}})));
    }
    accepted(&cache(json!({"config": {"ports": 1, "save": "", "appendfsync": "always"}})));
}

#[test]
fn users_have_plain_names_each_once_and_no_keys_of_the_secret() {
    let with = |users: Value| cache(json!({"users": users}));
    accepted(&with(json!([{"name": "clerk"}, {"name": "boss_2", "secret": "mine"}, {"name": "default"}])));
    accepted(&with(json!([])));
    refused(&with(json!([{"name": "clerk"}, {"name": "clerk", "rules": "~*"}])), "users: each name once");
    for name in ["a/b", "a.b", "-a", "_a", "a b", "understudy", "understudy-replica-0"] {
        refused(&with(json!([{"name": name}])), "users.name: use letters");
    }
    for name in RESERVED_USERS {
        refused(&with(json!([{"name": name}])), "has this key already");
    }
    refused(&with(json!([{"name": "clerk", "secret": ""}])), "name a Secret with the key");
    for end in ["system", "app", "users", "tls", "ca"] {
        refused(&with(json!([{"name": "boss"}, {"name": "clerk", "secret": format!("cache-{end}")}])), "is made by the operator");
        accepted(&with(json!([{"name": "clerk", "secret": format!("caches-{end}")}, {"name": "boss", "secret": end}])));
    }
}

#[test]
fn the_rules_of_all_users_fit_into_an_order() {
    let rules = |first: usize| {
        let of = |n: u8| json!({"name": format!("u{n}"), "rules": "x".repeat(if n == 0 { first } else { 320 })});
        cache(json!({"users": (0..64).map(of).collect::<Vec<_>>()}))
    };
    accepted(&rules(320));
    refused(&rules(321), "at most 20480 characters together");
}

#[test]
fn the_rules_of_a_user_let_nobody_in_and_hold_no_password() {
    let with = |rules: &str| cache(json!({"users": [{"name": "clerk", "rules": rules}]}));
    for rules in ["~* &* +@all -@dangerous", "%R~app:* +@read (~other:* +get)", "allkeys allcommands", "~on +offline", "resetkeys ~x*"] {
        accepted(&with(rules));
    }
    for rules in [
        ">secret",
        "~* <secret",
        "#5e88",
        "~* !5e88",
        "on",
        "~* off +@all",
        "NoPass",
        "resetpass",
        "reset",
        "clearselectors",
        "sanitize-payload",
        "SKIP-sanitize-payload",
    ] {
        refused(&with(rules), "passwords and on or off are not given here");
    }
    for rules in ["~*\n+@all", "~*\t+@all", "~ö"] {
        refused(&with(rules), "one line of printable text");
    }
}

#[test]
fn a_primary_is_asked_for_by_a_plain_name() {
    let with = |name: &str| cache(json!({"sentinel": {"masterName": name}}));
    for name in ["mymaster", "my.Master_1", "a-b"] {
        accepted(&with(name));
    }
    for name in ["a b", "a\n", "a/b", "ö"] {
        refused(&with(name), "sentinel.masterName: use letters");
    }
}

#[test]
fn tls_stays_as_it_is() {
    let tls = |mode: &str| cache(json!({"tls": mode}));
    accepted_change(&tls("Required"), &tls("Required"));
    refused_change(&tls("Required"), &tls("Disabled"), "spec.tls cannot be changed");
    refused_change(&tls("Disabled"), &tls("Required"), "spec.tls cannot be changed");
}

#[test]
fn persistence_stays_as_it_is() {
    let with = |persistence: &str| cache(json!({"persistence": persistence}));
    accepted_change(&with("Snapshot"), &with("Snapshot"));
    for (from, to) in [("Snapshot", "AppendOnly"), ("AppendOnly", "Snapshot"), ("AppendOnly", "None"), ("None", "Snapshot")] {
        refused_change(&with(from), &with(to), "spec.persistence cannot be changed");
    }
}
