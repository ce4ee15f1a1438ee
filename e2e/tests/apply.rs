//! The operator's applying hands at a real API server, which has no controllers here: what it writes is all that is written.

use anyhow::{Context, Result};
use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use crds::redis::{RedisReplication, RedisReplicationStatus};
use e2e::ControlPlane;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Secret, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use operator::apply::volumes::Growth;
use operator::apply::{Applied, ApplyError, Live, Memory, apply};
use operator::engine::Engine;
use operator::mongo::{self, Mongo};
use operator::mysql::MySql;
use operator::mysql::build::{build, template_size};
use operator::mysql::validate::{Desired, validate};
use operator::observed::{Member, Observed, PodSeen, Seen};
use operator::redis::{self, Redis};
use operator::secrets::{self, Accounts, PasswordMissing};
use serde_json::{Value, json};
use sidecar_protocol::Report;
use sidecar_protocol::mongo as mongo_state;
use sidecar_protocol::mysql::State;
use sidecar_protocol::redis as redis_state;

const NAMESPACE: &str = "shop";

#[expect(clippy::disallowed_methods, reason = "a test's clock")]
fn now() -> Timestamp {
    Timestamp::now()
}

struct Stage {
    plane: ControlPlane,
    client: Client,
    memory: Memory,
}

impl Stage {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start().await?;
        plane.namespace(NAMESPACE).await?;
        let client = plane.client().clone();
        Ok(Self { plane, client, memory: Memory::default() })
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    /// One pass of the operator.
    async fn pass(&self, desired: &Desired) -> Result<Applied, ApplyError> {
        let live = Live::list(&self.client, desired).await?;
        let size = live.stateful_sets.first().and_then(|live| template_size(live)).cloned();
        let objects = build(desired, desired.replicas, size.as_ref(), "registry.example/understudy:1");
        apply(&self.client, desired, &objects, &live, &self.memory).await
    }

    /// Writes that the API server has recorded in our namespace.
    fn writes(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.plane.audit_log())?;
        Ok(log.lines().filter(|line| line.contains("/namespaces/shop/")).count())
    }

    /// As the StatefulSet's controller would, had it seen everything.
    async fn controller_sees(&self, name: &str) -> Result<()> {
        let api = self.api::<StatefulSet>();
        let generation = api.get(name).await?.metadata.generation;
        let status = json!({"status": {"observedGeneration": generation, "replicas": 0}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await?;
        Ok(())
    }
}

fn desired(uid: &str, spec: Value) -> Result<Desired> {
    let mut whole = json!({"storage": {"size": "1Gi"}, "resources": {"requests": {"cpu": "0.5", "memory": "1024Mi"}}});
    for (key, value) in spec.as_object().context("an object")? {
        whole[key] = value.clone();
    }
    let cluster: MySQLCluster = serde_json::from_value(json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
        "metadata": {"name": "orders", "namespace": NAMESPACE, "uid": uid}, "spec": whole,
    }))?;
    Ok(validate(&cluster)?)
}

#[tokio::test]
async fn what_is_applied_is_kept_repaired_and_pruned_and_an_idle_pass_writes_nothing() -> Result<()> {
    let stage = Stage::start().await?;
    let orders = desired("uid-1", json!({"pod": {"labels": {"team": "sales"}}, "config": {"max_connections": 7}}))?;
    let applied = stage.pass(&orders).await?;
    assert_eq!(applied.stateful_set.name_any(), "orders");
    assert_eq!(applied.growth, Growth::Settled);

    let before = stage.writes()?;
    assert!(before >= 7, "each object was written: {before}");
    stage.pass(&orders).await?;
    stage.pass(&orders).await?;
    assert_eq!(stage.writes()?, before, "an idle pass writes nothing");
    let forgetful = Memory::default();
    let live = Live::list(&stage.client, &orders).await?;
    apply(&stage.client, &orders, &build(&orders, 3, None, "registry.example/understudy:1"), &live, &forgetful).await?;
    assert_eq!(stage.writes()?, before, "nor does the first pass of a restarted operator");

    // Drift: a changed field and a deleted object come back; what others add stays.
    let services = stage.api::<Service>();
    let meddle = json!({"spec": {"selector": {"understudy.dev/cluster": "other"}}, "metadata": {"annotations": {"theirs": "stays"}}});
    services.patch("orders-read", &PatchParams::default(), &Patch::Merge(&meddle)).await?;
    services.delete("orders-primary", &DeleteParams::default()).await?;
    stage.pass(&orders).await?;
    let read = services.get("orders-read").await?;
    assert_eq!(read.spec.clone().and_then(|spec| spec.selector).context("selector")?["understudy.dev/cluster"], "orders");
    assert_eq!(read.annotations().get("theirs").map(String::as_str), Some("stays"));
    services.get("orders-primary").await?;

    // A field that the user takes back goes.
    let fewer = desired("uid-1", json!({"config": {"max_connections": 7}}))?;
    let template = |set: &StatefulSet| set.spec.clone().and_then(|spec| spec.template.metadata).and_then(|metadata| metadata.labels);
    assert!(template(&stage.pass(&orders).await?.stateful_set).context("labels")?.contains_key("team"));
    assert!(!template(&stage.pass(&fewer).await?.stateful_set).context("labels")?.contains_key("team"));

    // An outdated my.cnf goes once no pod can need it, the budget with the second member.
    let single = desired("uid-1", json!({"replicas": 1, "config": {"max_connections": 8}}))?;
    stage.pass(&single).await?;
    assert_eq!(
        stage.api::<ConfigMap>().list(&Default::default()).await?.items.iter().filter(|map| map.name_any().starts_with("orders-")).count(),
        2,
        "the controller has not seen the new spec"
    );
    assert!(stage.api::<PodDisruptionBudget>().get_opt("orders").await?.is_none());
    stage.controller_sees("orders").await?;
    stage.pass(&single).await?;
    assert_eq!(
        stage.api::<ConfigMap>().list(&Default::default()).await?.items.iter().filter(|map| map.name_any().starts_with("orders-")).count(),
        1
    );
    Ok(())
}

#[tokio::test]
async fn an_idle_pass_writes_nothing_whatever_the_user_wrote() -> Result<()> {
    let stage = Stage::start().await?;
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../operator/tests/build/mysql/everything.yaml"))?;
    let everything = validate(&serde_yaml::from_str(&text)?)?;
    stage.pass(&everything).await?;
    let before = stage.writes()?;
    let restarted = Stage { memory: Memory::default(), ..stage };
    restarted.pass(&everything).await?;
    assert_eq!(restarted.writes()?, before);

    // Services become plain again, ports of nodes and all.
    let plain = Desired { services: crds::shared::Services::default(), ..everything };
    restarted.pass(&plain).await?;
    let service = restarted.api::<Service>().get("billing-primary").await?.spec.context("spec")?;
    assert_eq!(service.type_.as_deref(), Some("ClusterIP"));
    assert!(service.ports.context("ports")?.iter().all(|port| port.node_port.is_none()));
    let before = restarted.writes()?;
    restarted.pass(&plain).await?;
    assert_eq!(restarted.writes()?, before);
    Ok(())
}

#[tokio::test]
async fn an_idle_pass_over_redis_writes_nothing_either() -> Result<()> {
    let stage = Stage::start().await?;
    for file in ["everything", "smallest"] {
        let text = std::fs::read_to_string(format!("{}/../operator/tests/build/redis/{file}.yaml", env!("CARGO_MANIFEST_DIR")))?;
        let cache = Redis::validate(&serde_yaml::from_str(&text)?)?;
        let pass = async |memory: &Memory| {
            let live = Live::list(&stage.client, &cache).await?;
            let objects = Redis::build(&cache, cache.replicas, None, "registry.example/understudy:1");
            anyhow::Ok(apply(&stage.client, &cache, &objects, &live, memory).await?)
        };
        pass(&Memory::default()).await?;
        stage.api::<Service>().get(&format!("{}-sentinel", cache.name)).await?;
        let before = stage.writes()?;
        pass(&Memory::default()).await?;
        assert_eq!(stage.writes()?, before, "{file}");
    }
    Ok(())
}

#[tokio::test]
async fn what_belongs_to_others_or_to_an_earlier_cluster_is_left_alone() -> Result<()> {
    let stage = Stage::start().await?;
    let services = stage.api::<Service>();
    let foreign: Service = serde_json::from_value(json!({"metadata": {"name": "orders-read"}, "spec": {"ports": [{"port": 1}]}}))?;
    services.create(&PostParams::default(), &foreign).await?;
    let first = desired("uid-1", json!({}))?;
    let refused = stage.pass(&first).await.err().context("a foreign Service")?;
    assert!(matches!(&refused, ApplyError::NotOurs { kind, name } if kind == "Service" && name == "orders-read"), "{refused}");
    services.delete("orders-read", &DeleteParams::default()).await?;
    stage.pass(&first).await?;

    // Deleted and created again under the same name, before the garbage collector has seen it.
    let second = desired("uid-2", json!({}))?;
    let before = stage.writes()?;
    let waiting = stage.pass(&second).await.err().context("objects of the earlier cluster")?;
    assert!(matches!(waiting, ApplyError::StillOwnedByOld { .. }), "{waiting}");
    assert_eq!(stage.writes()?, before);

    // The old objects are gone, its volume is about to go with the old StatefulSet.
    let old_set = stage.api::<StatefulSet>().get("orders").await?;
    stage.api::<StatefulSet>().delete("orders", &DeleteParams::background()).await?;
    for name in ["orders", "orders-primary", "orders-read"] {
        services.delete(name, &DeleteParams::default()).await?;
    }
    stage.api::<k8s_openapi::api::networking::v1::NetworkPolicy>().delete("orders", &DeleteParams::default()).await?;
    stage.api::<PodDisruptionBudget>().delete("orders", &DeleteParams::default()).await?;
    for map in stage.api::<ConfigMap>().list(&Default::default()).await?.items.iter().filter(|map| map.name_any().starts_with("orders-")) {
        stage.api::<ConfigMap>().delete(&map.name_any(), &DeleteParams::default()).await?;
    }
    let claims = stage.api::<PersistentVolumeClaim>();
    let going =
        claim("data-orders-0", None, json!([{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "orders", "uid": old_set.uid()}]))?;
    claims.create(&PostParams::default(), &going).await?;
    let waiting = stage.pass(&second).await.err().context("the earlier cluster's volume")?;
    assert!(matches!(&waiting, ApplyError::StillOwnedByOld { kind, .. } if kind == "PersistentVolumeClaim"), "{waiting}");
    assert!(stage.api::<StatefulSet>().get_opt("orders").await?.is_none(), "no pod may take it");

    // A volume that is kept has no owner, and is taken.
    let kept = json!({"metadata": {"ownerReferences": null}});
    claims.patch("data-orders-0", &PatchParams::default(), &Patch::Merge(&kept)).await?;
    stage.pass(&second).await?;
    stage.api::<StatefulSet>().get("orders").await?;
    Ok(())
}

fn claim(name: &str, class: Option<&str>, owners: Value) -> Result<PersistentVolumeClaim> {
    let labels = json!({"app.kubernetes.io/name": "mysql", "app.kubernetes.io/instance": "orders", "understudy.dev/cluster": "orders"});
    Ok(serde_json::from_value(json!({
        "metadata": {"name": name, "labels": labels, "ownerReferences": owners},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class, "volumeName": "pv", "resources": {"requests": {"storage": "1Gi"}}},
    }))?)
}

#[tokio::test]
async fn a_volume_grows_where_its_class_allows_it_and_the_rest_is_applied_where_not() -> Result<()> {
    let stage = Stage::start().await?;
    for (name, expands) in [("rigid", false), ("elastic", true)] {
        let class: StorageClass =
            serde_json::from_value(json!({"metadata": {"name": name}, "provisioner": "example.com/x", "allowVolumeExpansion": expands}))?;
        Api::all(stage.client.clone()).create(&PostParams::default(), &class).await?;
    }
    let claims = stage.api::<PersistentVolumeClaim>();
    for (name, class) in [("data-orders-0", "elastic"), ("data-orders-1", "rigid"), ("data-orders-9", "elastic")] {
        claims.create(&PostParams::default(), &claim(name, Some(class), json!([]))?).await?;
        let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
        claims.patch_status(name, &PatchParams::default(), &Patch::Merge(&bound)).await?;
    }
    stage.pass(&desired("uid-1", json!({}))?).await?;
    let larger = desired("uid-1", json!({"storage": {"size": "2Gi"}, "config": {"max_connections": 9}}))?;
    let applied = stage.pass(&larger).await?;
    let Growth::Refused(refused) = applied.growth else { panic!("{:?}", applied.growth) };
    assert_eq!((refused.claim.as_str(), refused.class.as_str(), refused.size.as_str()), ("data-orders-1", "rigid", "2Gi"));
    println!("{refused}");
    let request = |claim: PersistentVolumeClaim| claim.spec?.resources?.requests?.get("storage").map(|size| size.0.clone());
    assert_eq!(request(claims.get("data-orders-0").await?).as_deref(), Some("2Gi"));
    assert_eq!(request(claims.get("data-orders-9").await?).as_deref(), Some("1Gi"), "not a member's");
    let maps = stage.api::<ConfigMap>().list(&Default::default()).await?;
    assert!(
        maps.items.iter().any(|map| map.data.iter().flatten().any(|(_, text)| text.contains("max_connections=\"9\""))),
        "the rest is applied"
    );

    let before = stage.writes()?;
    let again = stage.pass(&larger).await?;
    assert!(matches!(again.growth, Growth::Refused(_)), "it still says so");
    assert_eq!(stage.writes()?, before, "and does not ask again at once");
    let reverted = stage.pass(&desired("uid-1", json!({"config": {"max_connections": 9}}))?).await?;
    assert_eq!(reverted.growth, Growth::Settled);
    Ok(())
}

fn report<S>(trust: String, state: S) -> Report<S> {
    let [cluster, member, incarnation, sidecar] = Default::default();
    Report { cluster, member, incarnation, term: 0, orders: 0, sidecar, trust, state }
}

/// Members that run, each with what it says, or silent.
fn running<E: Engine>(said: Vec<Option<Report<E::State>>>) -> Observed<E> {
    let member = |said: Option<Report<E::State>>| Member {
        name: String::new(),
        pod: Some(PodSeen { ready: true, ..PodSeen::default() }),
        report: said.map_or(Seen::Silent { since: now() }, Seen::Answered),
        fresh_volume: false,
    };
    Observed { members: (0..).zip(said.into_iter().map(member)).collect(), ..Observed::default() }
}

/// The same with what each says it trusts.
fn trusting(trusts: Vec<Option<String>>) -> Observed<MySql> {
    running(trusts.into_iter().map(|trust| Some(report(trust?, State::default()))).collect())
}

#[tokio::test]
async fn secrets_are_made_once_kept_and_made_again_when_lost() -> Result<()> {
    let stage = Stage::start().await?;
    let api = stage.api::<Secret>();
    let text = |secret: &Secret, key: &str| {
        secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default()
    };
    let orders = desired("uid-1", json!({"database": {"name": "shop", "owner": "clerk", "secret": "clerk-password"}}))?;
    let ensure = |trusts: Vec<Option<String>>| {
        let (client, orders) = (stage.client.clone(), orders.clone());
        async move { secrets::ensure(&client, &orders, &trusting(trusts), &MySQLClusterStatus::default(), now()).await }
    };

    // The user's Secret is missing: everything else is made, and what is missing is named.
    let first = ensure(vec![]).await?;
    assert_eq!(first.accounts.missing, Some(PasswordMissing::NoSecret("clerk-password".into(), "spec.database.secret")));
    assert!(api.get_opt("orders-app").await?.is_none());
    first.credentials.tls()?;
    let password =
        |value: &str| serde_json::from_value::<Secret>(json!({"metadata": {"name": "clerk-password"}, "stringData": {"password": value}}));
    api.create(&PostParams::default(), &password("p@ss w/ord")?).await?;
    assert_eq!(ensure(vec![]).await?.accounts.missing, None);
    let app = api.get("orders-app").await?;
    assert_eq!(text(&app, "uri"), "mysql://clerk:p%40ss%20w%2Ford@orders-primary.shop.svc:3306/shop");
    assert_eq!(text(&app, "password"), "p@ss w/ord");

    let before = stage.writes()?;
    assert_eq!(ensure(vec![]).await?.credentials, first.credentials);
    assert_eq!(stage.writes()?, before, "an idle pass writes nothing");

    // Lost: the same CA issues again; a lost CA is replaced in phases, and members keep what they trust until they trust both.
    let tls = api.get("orders-tls").await?;
    assert_eq!(tls.type_.as_deref(), Some("kubernetes.io/tls"));
    api.delete("orders-tls", &DeleteParams::default()).await?;
    ensure(vec![None]).await?;
    assert_eq!(text(&api.get("orders-tls").await?, "ca.crt"), text(&tls, "ca.crt"));
    let system = api.get("orders-system").await?;
    assert_eq!(text(&system, "replication").len(), 32);
    assert_ne!(text(&system, "replication"), text(&system, "clone"));

    api.delete("orders-ca", &DeleteParams::default()).await?;
    let trust = |bundle: &str| Some(operator::pki::trust(bundle));
    let old = text(&tls, "ca.crt");
    let adopted = ensure(vec![trust(&old)]).await?.credentials;
    assert!(adopted.bundle.starts_with(&old) && adopted.bundle != old);
    assert_eq!(ensure(vec![trust(&old)]).await?.credentials.bundle, adopted.bundle, "not before members trust it");
    let switched = ensure(vec![trust(&adopted.bundle)]).await?.credentials;
    let finished = ensure(vec![trust(&switched.bundle)]).await?.credentials;
    assert!(!finished.bundle.contains(&old) && switched.bundle.starts_with(&finished.bundle));
    assert_eq!(text(&api.get("orders-tls").await?, "ca.crt"), finished.bundle);

    // A Secret of somebody else is not taken.
    let stranger = desired("uid-2", json!({}))?;
    let refused = secrets::ensure(&stage.client, &stranger, &trusting(vec![]), &MySQLClusterStatus::default(), now())
        .await
        .err()
        .context("an earlier cluster's Secrets")?;
    assert_eq!(refused.category(), "StillOwnedByOld");
    Ok(())
}

#[tokio::test]
async fn a_set_has_one_key_which_is_replaced_by_way_of_two_and_never_made_a_second_time() -> Result<()> {
    let stage = Stage::start().await?;
    let api = stage.api::<Secret>();
    let data = async |name: &str| anyhow::Ok(api.get(name).await?.data.unwrap_or_default());
    let metadata = json!({"name": "stock", "namespace": NAMESPACE, "uid": "uid-1"});
    let users = json!([{"name": "clerk", "database": "shop", "roles": [{"role": "readWrite", "db": "shop"}]}]);
    let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MongoReplicaSet", "metadata": metadata,
        "spec": {"storage": {"size": "1Gi"}, "users": users}});
    let stock = mongo::validate::validate(&serde_json::from_value::<MongoReplicaSet>(object)?)?;
    let born = MongoReplicaSetStatus { replica_set_id: Some("a".repeat(24)), ..Default::default() };
    let with_keys = |count: usize, asked: Option<&str>| {
        let state = || mongo_state::State { keys: vec![String::new(); count], ..Default::default() };
        let mut observed: Observed<Mongo> = running((0..3).map(|_| Some(report(String::new(), state()))).collect());
        observed.asked.key = asked.map(str::to_owned);
        observed
    };
    let ensure = async |status: &MongoReplicaSetStatus, observed: &Observed<Mongo>| {
        anyhow::Ok(secrets::ensure(&stage.client, &stock, observed, status, now()).await?.accounts)
    };

    let first = ensure(&MongoReplicaSetStatus::default(), &Observed::default()).await?;
    assert_eq!(first.missing, None);
    let (made, app) = (data("stock-system").await?, data("stock-app").await?);
    assert_eq!(made["keyfile"].0.len(), 756);
    assert!(String::from_utf8_lossy(&app["clerk.uri"].0).contains("stock-2.stock.shop.svc:27017"));
    let before = stage.writes()?;
    assert_eq!(ensure(&born, &with_keys(1, None)).await?, first);
    assert_eq!(stage.writes()?, before, "an idle pass writes nothing");

    let added = ensure(&born, &with_keys(1, Some("now"))).await?;
    assert_ne!(added.read_at_start, first.read_at_start, "members have to be started anew");
    let both = data("stock-system").await?;
    assert_eq!(ensure(&born, &with_keys(1, Some("now"))).await?, added, "not before everybody takes both");
    let finished = ensure(&born, &with_keys(2, Some("now"))).await?;
    let last = data("stock-system").await?;
    assert!(finished.read_at_start != added.read_at_start && last["keyfile"] == both["keyfile.next"] && last["keyfile"] != made["keyfile"]);
    assert_eq!(ensure(&born, &with_keys(1, Some("now"))).await?, finished, "asked once, answered once");

    api.delete("stock-system", &DeleteParams::default()).await?;
    let Accounts { missing, read_at_start } = ensure(&born, &with_keys(1, None)).await?;
    let words = missing.context("it is told")?.to_string();
    assert!(words.contains("kubectl patch secret stock-system") && words.contains("kubectl exec stock-0"), "{words}");
    assert_eq!(read_at_start, None, "nobody is started anew without a key");
    assert!(!data("stock-system").await?.contains_key("keyfile"));
    Ok(())
}

#[tokio::test]
async fn a_password_of_redis_is_taken_everywhere_before_it_is_handed_out_and_so_is_the_members_own() -> Result<()> {
    let stage = Stage::start().await?;
    let api = stage.api::<Secret>();
    let text = async |name: &str, key: &str| {
        let data = api.get(name).await?.data.unwrap_or_default();
        anyhow::Ok(data.get(key).map(|bytes| String::from_utf8_lossy(&bytes.0).into_owned()).unwrap_or_default())
    };
    let metadata = json!({"name": "cache", "namespace": NAMESPACE, "uid": "uid-1"});
    let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": metadata,
        "spec": {"storage": {"size": "1Gi"}, "passwordOverlapSeconds": 60, "users": [{"name": "app"}, {"name": "clerk", "secret": "clerk-password"}]}});
    let cache = redis::validate::validate(&serde_json::from_value::<RedisReplication>(object)?)?;
    // As sidecars say it that have read what is in the Secrets now.
    let taken = async || {
        let mut files = Vec::new();
        for (secret, name) in
            [("cache-system", "exporter"), ("cache-system", "replication"), ("cache-users", "app"), ("cache-users", "clerk")]
        {
            files.push((name, text(secret, name).await?));
        }
        let there = files.iter().filter(|(_, text)| !text.is_empty()).map(|(name, text)| (*name, text.as_str()));
        anyhow::Ok(operator::build::fingerprint(&redis_state::passwords_text(there), 32))
    };
    let members = |digest: Option<String>, asked: Option<&str>| {
        let state = || redis_state::State { passwords: digest.clone(), ..Default::default() };
        let mut observed: Observed<Redis> = running((0..3).map(|_| Some(report(String::new(), state()))).collect());
        observed.asked.passwords = asked.map(str::to_owned);
        observed
    };
    let ensure = async |observed: &Observed<Redis>, later: i64| {
        let now = now().checked_add(jiff::SignedDuration::from_secs(later))?;
        let slots = secrets::Secrets::of(&stage.client, &cache);
        anyhow::Ok(redis::accounts::ensure(&slots, observed, now).await?.missing)
    };

    // At birth: what is known is handed out, and the user whose Secret is missing waits.
    let missing = ensure(&Observed::default(), 0).await?;
    assert_eq!(missing, Some(PasswordMissing::NoSecret("clerk-password".into(), "spec.users[].secret")));
    let app = text("cache-app", "app").await?;
    assert_eq!((app.len(), text("cache-users", "app").await?), (32, app.clone()));
    assert_eq!(text("cache-app", "app.uri").await?, format!("rediss://app:{app}@cache-primary.shop.svc:6379"));
    assert_eq!(text("cache-app", "sentinel").await?, "cache-sentinel.shop.svc:26379");
    assert_eq!((text("cache-app", "masterName").await?, text("cache-app", "clerk").await?), ("cache".into(), String::new()));
    let password = async |value: &str| {
        let secret: Secret = serde_json::from_value(json!({"metadata": {"name": "clerk-password"}, "stringData": {"password": value}}))?;
        if api.get_opt("clerk-password").await?.is_none() {
            api.create(&PostParams::default(), &secret).await?;
        }
        anyhow::Ok(api.patch("clerk-password", &PatchParams::default(), &Patch::Merge(&secret)).await.map(drop)?)
    };
    password("one@").await?;
    assert_eq!(ensure(&Observed::default(), 0).await?, None);
    assert_eq!(text("cache-app", "clerk.uri").await?, "rediss://clerk:one%40@cache-primary.shop.svc:6379");
    let before = stage.writes()?;
    ensure(&members(Some(taken().await?), None), 0).await?;
    assert_eq!(stage.writes()?, before, "an idle pass writes nothing");

    // Another password: taken by all, handed out, and the old one gone after its time.
    let old = taken().await?;
    password("two").await?;
    ensure(&members(Some(old.clone()), None), 0).await?;
    assert_eq!(text("cache-users", "clerk").await?, "two\none@");
    ensure(&members(Some(old), None), 0).await?;
    assert_eq!(text("cache-app", "clerk").await?, "one@", "not before everybody takes both");
    let both = taken().await?;
    let mut one_silent = members(Some(both.clone()), None);
    one_silent.members.entry(1).and_modify(|member| member.report = Seen::Silent { since: now() });
    ensure(&one_silent, 0).await?;
    assert_eq!(text("cache-app", "clerk").await?, "one@", "who is silent may not take it");
    ensure(&members(Some(both.clone()), None), 0).await?;
    assert_eq!(text("cache-app", "clerk").await?, "two");
    ensure(&members(Some(both.clone()), None), 50).await?;
    assert_eq!(text("cache-users", "clerk").await?, "two\none@", "it has its time");
    ensure(&members(Some(both), None), 70).await?;
    assert_eq!(text("cache-users", "clerk").await?, "two");

    // A Secret that is gone takes nothing from its user.
    api.delete("clerk-password", &DeleteParams::default()).await?;
    assert!(ensure(&members(None, None), 0).await?.is_some());
    assert_eq!((text("cache-users", "clerk").await?, text("cache-app", "clerk").await?), ("two".into(), "two".into()));

    // On request: what we made ourselves, for members and applications.
    let (first, exporter) = (text("cache-system", "replication").await?, text("cache-system", "exporter").await?);
    ensure(&members(None, Some("now")), 0).await?;
    let added = text("cache-system", "replication").await?;
    let (used, fresh) = added.trim().split_once('\n').context("two")?;
    assert_eq!(used, first, "the old one is used until everybody takes the new one");
    assert!(text("cache-users", "app").await?.ends_with(&format!("\n{app}")));
    ensure(&members(Some(taken().await?), Some("now")), 0).await?;
    assert_eq!(text("cache-system", "replication").await?, format!("{fresh}\n{first}\n"));
    assert_ne!(text("cache-app", "app").await?, app);
    ensure(&members(Some(taken().await?), Some("now")), 0).await?;
    assert_eq!(text("cache-system", "replication").await?, fresh);
    let settled = stage.writes()?;
    ensure(&members(Some(taken().await?), Some("now")), 0).await?;
    assert_eq!(stage.writes()?, settled, "asked once, answered once");
    assert_eq!(text("cache-system", "exporter").await?, exporter);

    // All of it by the way that the pipeline takes.
    let ensured = secrets::ensure(&stage.client, &cache, &members(None, None), &RedisReplicationStatus::default(), now()).await?;
    ensured.credentials.tls()?;
    assert!(ensured.accounts.missing.is_some() && ensured.accounts.read_at_start.is_none());
    Ok(())
}
