//! The definition and its rules at a real API server: accepted, affordable, and refusing with a message that says what to write.
#![expect(clippy::panic, reason = "helpers of tests fail like tests")]

use anyhow::{Context, Result};
use crds::mysql::MySQLCluster;
use crds::redis::RedisReplication;
use crds::shared::OptionValue;
use e2e::ControlPlane;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams, ValidationDirective};
use kube::runtime::wait::{await_condition, conditions};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Installs the generated definitions and waits until they serve.
async fn install(client: &Client) -> Result<()> {
    let api = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in crds::all() {
        let name = definition.metadata.name.clone().context("a definition has a name")?;
        // Strict: a field that the API server does not know is a mistake of ours.
        let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("test") };
        api.patch(&name, &strict, &Patch::Apply(&definition)).await?;
        let established = await_condition(api.clone(), &name, conditions::is_crd_established());
        tokio::time::timeout(std::time::Duration::from_secs(10), established).await??;
    }
    Ok(())
}

/// As a user writes it: untyped, so that wrong types can be sent.
struct User(&'static str, Api<DynamicObject>);

impl User {
    async fn apply(&self, name: &str, spec: Value) -> kube::Result<DynamicObject> {
        let object = json!({ "apiVersion": "understudy.dev/v1alpha1", "kind": self.0, "metadata": { "name": name }, "spec": spec });
        let strict = PatchParams { field_validation: Some(ValidationDirective::Strict), ..PatchParams::apply("user").force() };
        self.1.patch(name, &strict, &Patch::Apply(&object)).await
    }

    /// Refused, in words that hold all of `says`.
    #[track_caller]
    fn refused(result: kube::Result<DynamicObject>, says: &[&str]) {
        match result {
            Ok(object) => panic!("accepted: {}", serde_json::to_string(&object).unwrap_or_default()),
            Err(kube::Error::Api(status)) => {
                assert!(says.iter().all(|words| status.message.contains(words)), "{says:?} not in: {}", status.message);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn the_api_server_takes_the_definition_and_refuses_what_cannot_be_meant() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.namespace("shop").await?;
    let client = plane.client().clone();
    install(&client).await?;
    let user = User("MySQLCluster", Api::namespaced_with(client.clone(), "shop", &ApiResource::erase::<MySQLCluster>(&())));

    // The smallest object: a name and a size. Every default is filled in by the API server, equal to the types' own.
    let stored = user.apply("orders", json!({"storage": {"size": "1Gi"}})).await?;
    let typed: MySQLCluster = serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": {"name": "orders"}, "spec": {"storage": {"size": "1Gi"}}
    }))?;
    assert_eq!(stored.data["spec"], serde_json::to_value(&typed.spec)?, "defaults of the schema and of the types");

    for (what, spec, says) in [
        ("wrong type", json!({"storage": {"size": "1Gi"}, "replicas": "three"}), &["spec.replicas"][..]),
        ("unknown field", json!({"storage": {"size": "1Gi"}, "replica": 3}), &["spec.replica"]),
        ("no storage", json!({}), &["spec.storage"]),
        ("zero", json!({"storage": {"size": "1Gi"}, "replicas": 0}), &["spec.replicas"]),
        ("negative", json!({"storage": {"size": "1Gi"}, "replicas": -1}), &["spec.replicas"]),
        ("too many", json!({"storage": {"size": "1Gi"}, "replicas": 32}), &["spec.replicas"]),
        ("bad size", json!({"storage": {"size": "ten"}}), &["spec.storage", "such as 10Gi"]),
        ("zero size", json!({"storage": {"size": "0"}}), &["spec.storage", "such as 10Gi"]),
        ("bad image", json!({"storage": {"size": "1Gi"}, "image": "mysql: 8.4"}), &["spec.image", "such as mysql:8.4"]),
        ("our label", json!({"storage": {"size": "1Gi"}, "pod": {"labels": {"understudy.dev/cluster": "x"}}}), &["spec.pod.labels"]),
        ("contradiction", json!({"storage": {"size": "1Gi"}, "suspend": true, "hibernate": true}), &["set one of them"]),
        ("partition", json!({"storage": {"size": "1Gi"}, "update": {"strategy": "OnDelete", "partition": 1}}), &["update.partition"]),
        ("owned option", json!({"storage": {"size": "1Gi"}, "config": {"server-id": 7}}), &["spec.config", "set by the operator"]),
        ("bad option", json!({"storage": {"size": "1Gi"}, "config": {"!include": "/etc/passwd"}}), &["spec.config", "as in my.cnf"]),
        ("newline", json!({"storage": {"size": "1Gi"}, "config": {"max_connections": "1\nserver_id=2"}}), &["spec.config", "one line"]),
        ("empty secret", json!({"storage": {"size": "1Gi"}, "database": {"name": "a", "owner": "b", "secret": ""}}), &["database.secret"]),
        ("bad database", json!({"storage": {"size": "1Gi"}, "database": {"name": "a-b", "owner": "b"}}), &["database.name"]),
        ("system schema", json!({"storage": {"size": "1Gi"}, "database": {"name": "MySQL", "owner": "b"}}), &["database.name"]),
        ("root", json!({"storage": {"size": "1Gi"}, "database": {"name": "a", "owner": "Root"}}), &["database.owner"]),
        ("bad owner", json!({"storage": {"size": "1Gi"}, "database": {"name": "a", "owner": "b'@'%"}}), &["database.owner"]),
        ("bad word", json!({"storage": {"size": "1Gi"}, "durability": "Loose"}), &["spec.durability"]),
    ] {
        println!("{what}");
        User::refused(user.apply("bad", spec).await, says);
    }
    for name in ["1st", &"a".repeat(41), "a.b"] {
        User::refused(user.apply(name, json!({"storage": {"size": "1Gi"}})).await, &["metadata.name", "at most 40"]);
    }

    // What may change, and what may not.
    user.apply("orders", json!({"storage": {"size": "2Gi"}})).await?;
    User::refused(user.apply("orders", json!({"storage": {"size": "1Gi"}})).await, &["cannot shrink"]);
    User::refused(user.apply("orders", json!({"storage": {"size": "2Gi", "className": "fast"}})).await, &["volumes keep their class"]);
    let database = |name: &str| json!({"storage": {"size": "2Gi"}, "database": {"name": name, "owner": "clerk"}});
    user.apply("orders", database("shop")).await?;
    User::refused(user.apply("orders", database("shop2")).await, &["cannot be renamed"]);
    User::refused(user.apply("orders", json!({"storage": {"size": "2Gi"}})).await, &["cannot be renamed or removed"]);

    // What is long is still affordable.
    user.apply("long", json!({"storage": {"size": "1Gi"}, "config": (0..128).map(|n| (format!("option_{n}"), json!("v".repeat(1000)))).collect::<serde_json::Map<_, _>>()})).await?;

    // Numbers beyond 32 bits arrive as they are.
    let large = user.apply("large", json!({"storage": {"size": "1Gi"}, "config": {"innodb_buffer_pool_size": 8_i64 << 30}})).await?;
    let large: MySQLCluster = serde_json::from_value(serde_json::to_value(&large)?)?;
    assert_eq!(large.spec.config["innodb_buffer_pool_size"], OptionValue::Number(8 << 30));

    // The scale subresource and the columns.
    let scale = json!({"spec": {"replicas": 5}});
    let clusters = Api::<MySQLCluster>::namespaced(client.clone(), "shop");
    clusters.patch_scale("orders", &PatchParams::default(), &Patch::Merge(&scale)).await?;
    assert_eq!(clusters.get("orders").await?.spec.replicas, 5);
    let mut list =
        kube::core::request::Request::new("/apis/understudy.dev/v1alpha1/namespaces/shop/mysqlclusters").list(&ListParams::default())?;
    list.headers_mut().insert("accept", "application/json;as=Table;v=v1;g=meta.k8s.io".parse()?);
    let table: Value = client.request(list).await?;
    let columns: Vec<_> = table["columnDefinitions"].as_array().context("columns")?.iter().map(|column| column["name"].clone()).collect();
    assert_eq!(columns, ["Name", "Ready", "Primary", "State", "Reason", "Term", "Age"]);
    // The status is written apart.
    let status = json!({"status": {"state": "Healthy", "term": 1, "primary": "orders-0"}});
    let after = clusters.patch_status("orders", &PatchParams::default(), &Patch::Merge(&status)).await?;
    assert_eq!(after.status.context("status")?.primary.as_deref(), Some("orders-0"));
    let created = clusters
        .create(
            &PostParams::default(),
            &MySQLCluster { metadata: kube::core::ObjectMeta { name: Some("typed".into()), ..Default::default() }, ..typed },
        )
        .await?;
    assert_eq!(created.spec.image, "mysql:8.4");
    Ok(())
}

#[tokio::test]
async fn a_redis_replication_is_taken_with_all_that_is_long_and_refused_where_it_cannot_be_meant() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.namespace("shop").await?;
    let client = plane.client().clone();
    install(&client).await?;
    let user = User("RedisReplication", Api::namespaced_with(client.clone(), "shop", &ApiResource::erase::<RedisReplication>(&())));
    let spec = |more: Value| {
        let mut spec = json!({"storage": {"size": "1Gi"}});
        for (key, value) in more.as_object().into_iter().flatten() {
            spec[key] = value.clone();
        }
        spec
    };

    let users = |rules: String| (0..64).map(|n| json!({"name": format!("user{n}"), "rules": format!("~*{rules}")})).collect::<Vec<Value>>();

    let stored = user.apply("cache", spec(json!({}))).await?;
    let typed: RedisReplication = serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": {"name": "cache"}, "spec": spec(json!({})),
    }))?;
    assert_eq!(stored.data["spec"], serde_json::to_value(&typed.spec)?, "defaults of the schema and of the types");

    for (what, more, says) in [
        ("unknown field", json!({"aof": true}), &["spec.aof"][..]),
        ("too many", json!({"replicas": 32}), &["spec.replicas"]),
        ("owned option", json!({"config": {"masterauth": "x"}}), &["spec.config", "set by the operator"]),
        ("owned family", json!({"config": {"tls-port": 1}}), &["spec.config", "set by the operator"]),
        ("bad option", json!({"config": {"include /etc/passwd": ""}}), &["spec.config", "as in redis.conf"]),
        ("newline", json!({"config": {"save": "1 1\nport 1"}}), &["spec.config", "one line"]),
        ("open quote", json!({"config": {"proc-title-template": "\""}}), &["spec.config", "quotes in pairs"]),
        ("glued quote", json!({"config": {"proc-title-template": "'a'b"}}), &["spec.config", "quotes in pairs"]),
        ("NUL", json!({"config": {"proc-title-template": "\"\\x00\""}}), &["spec.config", "quotes in pairs"]),
        ("never saves", json!({"persistence": "Snapshot", "config": {"save": " '' "}}), &["config.save", "leave it out"]),
        ("too long", json!({"config": {"proc-title-template": "\u{1f600}".repeat(1025)}}), &["spec.config"]),
        ("bad image", json!({"image": "valkey/valkey: 8"}), &["spec.image", "such as valkey/valkey:8"]),
        ("our annotation", json!({"pod": {"annotations": {"understudy.dev/x": "x"}}}), &["spec.pod.annotations"]),
        ("our Secret", json!({"users": [{"name": "a", "secret": "bad-users"}]}), &["users.secret", "made by the operator"]),
        ("many rules", json!({"users": users(" +get".repeat(200))}), &["spec.users", "20480 characters together"]),
        ("too durable", json!({"replicas": 2, "durability": {"minReplicasToWrite": 2}}), &["minReplicasToWrite"]),
        ("negative", json!({"durability": {"minReplicasToWrite": -1}}), &["minReplicasToWrite"]),
        ("forgetful", json!({"persistence": "None", "hibernate": true}), &["would be forgotten"]),
        ("twice", json!({"users": [{"name": "a"}, {"name": "a"}]}), &["each name once"]),
        ("ours", json!({"users": [{"name": "understudy"}]}), &["users.name"]),
        ("a key of the Secret", json!({"users": [{"name": "host"}]}), &["has this key already"]),
        ("password", json!({"users": [{"name": "a", "rules": "~* >x"}]}), &["users.rules"]),
        ("let in", json!({"users": [{"name": "a", "rules": "~* NOPASS"}]}), &["users.rules"]),
        ("bad word", json!({"persistence": "Sometimes"}), &["spec.persistence"]),
        ("master name", json!({"sentinel": {"masterName": "a b"}}), &["sentinel.masterName"]),
    ] {
        println!("{what}");
        User::refused(user.apply("bad", spec(more)).await, says);
    }

    User::refused(user.apply("cache", spec(json!({"tls": "Disabled"}))).await, &["spec.tls cannot be changed"]);
    User::refused(user.apply("cache", spec(json!({"persistence": "None"}))).await, &["spec.persistence cannot be changed"]);
    User::refused(user.apply("cache", spec(json!({"persistence": "Snapshot"}))).await, &["spec.persistence cannot be changed"]);

    // What is long is still affordable.
    let values = ["v".repeat(1024), "\u{1f600}".repeat(1024), "'a' ".repeat(256)];
    let config = (0..128).map(|n| (format!("option-{n}"), json!(values[n % 3]))).collect::<serde_json::Map<_, _>>();
    user.apply("long", spec(json!({"users": users(" +get".repeat(63)), "config": config}))).await?;
    // The Secrets of another cluster are not ours.
    user.apply("other", spec(json!({"users": [{"name": "a", "secret": "cache-users"}]}))).await?;
    Ok(())
}
