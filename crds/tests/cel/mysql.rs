//! MySQLCluster.

use crds::mysql::{MySQLCluster, OWNED_FAMILIES, OWNED_OPTIONS};
use serde_json::{Value, json};

use super::{accepted, merge, refused};

/// A valid object with `spec` merged in.
fn cluster(spec: Value) -> MySQLCluster {
    named("orders", spec)
}

fn named(name: &str, spec: Value) -> MySQLCluster {
    let mut whole = json!({ "storage": { "size": "1Gi" } });
    merge(&mut whole, spec);
    serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": { "name": name, "namespace": "shop" }, "spec": whole
    }))
    .unwrap()
}

#[track_caller]
fn refused_change(from: Value, to: Value, says: &str) {
    super::refused_change(&cluster(from), &cluster(to), says);
}

#[track_caller]
fn accepted_change(from: Value, to: Value) {
    super::accepted_change(&cluster(from), &cluster(to));
}

#[test]
fn the_smallest_object_is_accepted() {
    accepted(&cluster(json!({})));
}

#[test]
fn an_image_has_no_spaces_and_a_pod_no_label_of_ours() {
    refused(&cluster(json!({"image": "mysql: 8.4"})), "name one such as mysql:8.4");
    accepted(&cluster(json!({"image": "registry.local:5000/mysql:9.4@sha256:0a"})));
    refused(&cluster(json!({"pod": {"annotations": {"understudy.dev/x": "1"}}})), "are the operator's");
    accepted(&cluster(json!({"pod": {"annotations": {"team": "shop"}}})));
}

#[test]
fn a_name_makes_services_and_hosts() {
    let longest = format!("a{}9", "-".repeat(38));
    for name in ["orders", "o", "o-1", longest.as_str()] {
        accepted(&named(name, json!({})));
    }
    for name in ["1orders", "Orders", "orders-", "or.ders", &format!("{longest}9")] {
        refused(&named(name, json!({})), "metadata.name: use at most 40");
    }
}

#[test]
fn a_cluster_is_suspended_or_hibernated() {
    accepted(&cluster(json!({"suspend": true})));
    accepted(&cluster(json!({"hibernate": true})));
    refused(&cluster(json!({"suspend": true, "hibernate": true})), "set one of them");
}

#[test]
fn a_partition_needs_automatic_updates() {
    accepted(&cluster(json!({"update": {"strategy": "Automatic", "partition": 2}})));
    accepted(&cluster(json!({"update": {"strategy": "OnDelete"}})));
    refused(&cluster(json!({"update": {"strategy": "OnDelete", "partition": 1}})), "needs update.strategy: Automatic");
}

#[test]
fn a_size_is_a_positive_quantity() {
    for size in ["1Gi", "0.5Gi", "1e9", "100000"] {
        accepted(&cluster(json!({"storage": {"size": size}})));
    }
    for size in ["0", "-1Gi", "ten", "", "1 Gi", "10GB"] {
        refused(&cluster(json!({"storage": {"size": size}})), "write a positive quantity such as 10Gi");
    }
}

#[test]
fn a_volume_grows_and_never_shrinks() {
    let size = |size: &str| json!({"storage": {"size": size}});
    accepted_change(size("1Gi"), size("1536Mi"));
    accepted_change(size("1Gi"), size("1024Mi"));
    refused_change(size("1Gi"), size("1023Mi"), "cannot shrink");
}

#[test]
fn a_volume_keeps_its_class() {
    let class = |name: &str| json!({"storage": {"className": name}});
    accepted_change(class("fast"), class("fast"));
    accepted_change(json!({}), json!({}));
    refused_change(class("fast"), class("slow"), "volumes keep their class");
    refused_change(json!({}), class("slow"), "volumes keep their class");
    refused_change(class("fast"), json!({}), "volumes keep their class");
}

#[test]
fn a_database_keeps_its_name_and_owner() {
    let database = |name: &str, owner: &str| json!({"database": {"name": name, "owner": owner}});
    accepted_change(json!({}), database("shop", "clerk"));
    accepted_change(database("shop", "clerk"), json!({"database": {"name": "shop", "owner": "clerk", "secret": "mine"}}));
    refused_change(database("shop", "clerk"), json!({}), "cannot be renamed or removed");
    refused_change(database("shop", "clerk"), database("shop2", "clerk"), "cannot be renamed or removed");
    refused_change(database("shop", "clerk"), database("shop", "boss"), "cannot be renamed or removed");
}

#[test]
fn a_database_and_its_owner_have_plain_names_of_their_own() {
    let database = |name: &str, owner: &str| cluster(json!({"database": {"name": name, "owner": owner}}));
    accepted(&database("shop_2", "clerk_2"));
    refused(&database("shop-2", "clerk"), "database.name: use letters");
    refused(&database("shop`; DROP", "clerk"), "database.name: use letters");
    refused(&database("shop", "clerk'@'%"), "database.owner: use letters");
    for system in ["mysql", "SYS", "Information_Schema", "performance_schema"] {
        refused(&database(system, "clerk"), "system schema");
    }
    for account in ["root", "ROOT", "understudy", "Understudy_clone"] {
        refused(&database("shop", account), "choose another name");
    }
    accepted(&database("understudy", "rooted"));
}

#[test]
fn a_named_secret_has_a_name() {
    let secret = |secret: Value| cluster(json!({"database": {"name": "shop", "owner": "clerk", "secret": secret}}));
    accepted(&secret(json!("mine")));
    refused(&secret(json!("")), "name a Secret with the key 'password'");
}

#[test]
fn options_have_names_as_in_my_cnf_and_values_of_one_line() {
    let option = |name: &str, value: Value| cluster(json!({"config": {name: value}}));
    accepted(&option("max_connections", json!(500)));
    accepted(&option("innodb_buffer_pool_size", json!(8_i64 << 30)));
    accepted(&option("loose-validate_password.length", json!("8")));
    accepted(&option("init_connect", json!("SET NAMES 'utf8mb4'; # [mysqld] \" \\n")));
    for name in ["--max_connections", "Max", "a b", "[mysqld]", "!include", "a=b", "a\nb", "#a", "", "ö"] {
        refused(&option(name, json!("1")), "option names are lower-case");
    }
    for value in ["1\nserver_id=2", "1\r", "\n", "\0"] {
        refused(&option("max_connections", json!(value)), "a value is one line");
    }
}

#[test]
fn owned_options_are_refused_under_every_spelling() {
    let option = |name: &str| cluster(json!({"config": {name: 1}}));
    let families = OWNED_FAMILIES.iter().map(|family| format!("{family}x"));
    for owned in OWNED_OPTIONS.iter().map(|name| (*name).to_owned()).chain(families) {
        refused(&option(&owned), "this option is set by the operator");
    }
    for spelling in
        ["server-id", "loose_server_id", "skip-networking", "networking", "loose-disable_log_bin", "rpl-semi-sync-source-enabled"]
    {
        refused(&option(spelling), "this option is set by the operator");
    }
    let free = ["max_connections", "innodb_buffer_pool_size", "require_secure_transport", "report_hosts", "sync_binlog_x", "userstat"];
    for name in free {
        accepted(&option(name));
    }
}
