//! The whole operator at a real API server without controllers: it is crashed after each of its writes, its objects are taken away, and
//! when all is in order it is silent.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use clap::Parser;
use crds::decisions::{self, Decided};
use crds::mysql::MySQLCluster;
use crds::redis::RedisReplication;
use e2e::ControlPlane;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, Service};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, CustomResourceExt, ResourceExt};
use operator::cli::{Cli, Command, Run};
use operator::lease::Candidate;
use operator::run::serve;
use operator::server::Health;
use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use mortal::{Operator, Writes};

#[path = "common/mortal.rs"]
mod mortal;

const NAMESPACE: &str = "shop";
/// Everything here takes a second or two; a loaded machine may take longer.
const SOON: Duration = Duration::from_secs(60);

struct Stage {
    plane: ControlPlane,
    client: Client,
}

impl Stage {
    async fn start() -> Result<Self> {
        let plane = ControlPlane::start().await?;
        plane.namespace(NAMESPACE).await?;
        let client = plane.client().clone();
        Ok(Self { plane, client })
    }

    /// An operator that may write all it wants, and the cluster `orders`, settled.
    async fn in_order() -> Result<(Self, Writes, Operator)> {
        let stage = Self::start().await?;
        stage.define(|_| {}).await?;
        let writes = Writes::new(usize::MAX);
        let operator = stage.operator(&writes).await?;
        stage.create("orders").await?;
        stage.settled("orders").await?;
        Ok((stage, writes, operator))
    }

    /// The definition, changed by `change`, and established.
    async fn define(&self, change: impl FnOnce(&mut serde_json::Value)) -> Result<()> {
        let mut definition = serde_json::to_value(MySQLCluster::crd())?;
        change(&mut definition);
        let api = Api::<CustomResourceDefinition>::all(self.client.clone());
        api.create(&PostParams::default(), &serde_json::from_value(definition)?).await?;
        eventually("the definition is served", || async { Ok(self.clusters().list(&ListParams::default()).await.is_ok().then_some(())) })
            .await
    }

    fn clusters(&self) -> Api<MySQLCluster> {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), NAMESPACE)
    }

    async fn create(&self, name: &str) -> Result<()> {
        let cluster = serde_json::from_value(json!({
            "apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster",
            "metadata": {"name": name}, "spec": {"storage": {"size": "1Gi"}},
        }))?;
        self.clusters().create(&PostParams::default(), &cluster).await?;
        Ok(())
    }

    /// An operator of its own, which ends when the answer is dropped.
    async fn operator(&self, writes: &Writes) -> Result<Operator> {
        Operator::start(&self.plane.kubeconfig(), options(&["--pod-name", "stage"])?, writes).await
    }

    /// What a cluster has, by name, with the hash of what was applied; the record of decisions is written when there is time.
    async fn objects(&self) -> Result<BTreeMap<String, String>> {
        let mut all = BTreeMap::new();
        let applied = |metadata: &kube::core::ObjectMeta| {
            let hash = metadata.annotations.as_ref().and_then(|all| all.get("understudy.dev/applied")).cloned();
            (metadata.name.clone().unwrap_or_default(), hash.unwrap_or_default())
        };
        for (version, kind) in [
            ("apps/v1", "StatefulSet"),
            ("v1", "Service"),
            ("v1", "ConfigMap"),
            ("policy/v1", "PodDisruptionBudget"),
            ("networking.k8s.io/v1", "NetworkPolicy"),
        ] {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let resource = ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(group, version, kind));
            let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), NAMESPACE, &resource);
            for object in api.list(&ListParams::default().labels("understudy.dev/cluster,!understudy.dev/record")).await?.items {
                let (name, hash) = applied(&object.metadata);
                all.insert(format!("{kind} {name}"), hash);
            }
        }
        for secret in self.api::<Secret>().list(&ListParams::default()).await?.items {
            all.insert(format!("Secret {}", secret.name_any()), String::new());
        }
        Ok(all)
    }

    /// The record of decisions, oldest first.
    async fn record(&self, name: &str) -> Result<Option<Vec<Decided>>> {
        let map = self.api::<ConfigMap>().get_opt(&decisions::name(name)).await?;
        let text = map.and_then(|map| map.data?.remove(decisions::KEY));
        Ok(text.map(|text| serde_json::from_str(&text)).transpose()?)
    }

    /// Merges `patch` into the spec.
    async fn merge(&self, name: &str, patch: serde_json::Value) -> Result<()> {
        self.clusters().patch(name, &PatchParams::default(), &Patch::Merge(&json!({"spec": patch}))).await?;
        Ok(())
    }

    async fn hibernate(&self, name: &str, hibernate: bool) -> Result<()> {
        self.merge(name, json!({"hibernate": hibernate})).await
    }

    async fn settled(&self, name: &str) -> Result<()> {
        eventually(&format!("{name} is created"), || async {
            let status = self.clusters().get(name).await?.status.unwrap_or_default();
            Ok((status.state == "Creating" && self.api::<StatefulSet>().get_opt(name).await?.is_some()).then_some(()))
        })
        .await
    }
}

fn options(more: &[&str]) -> Result<Run> {
    let arguments = ["operator", "run", "--sidecar-image", "registry.example/understudy:1"].into_iter().chain(more.iter().copied());
    match Cli::try_parse_from(arguments)?.command {
        Command::Run(options) => Ok(options),
        Command::Check { .. } => bail!("not run"),
    }
}

async fn eventually<T, F: Future<Output = Result<Option<T>>>>(what: &str, mut look: impl FnMut() -> F) -> Result<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if begun.elapsed() > SOON {
            bail!("not within {} s: {what}", SOON.as_secs());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_taken_away_comes_back_and_in_good_order_nothing_is_written() -> Result<()> {
    let (stage, writes, operator) = Stage::in_order().await?;
    let whole = stage.objects().await?;

    stage.api::<Service>().delete("orders-read", &DeleteParams::default()).await?;
    stage.api::<Secret>().delete("orders-tls", &DeleteParams::default()).await?;
    let drift = json!({"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}});
    stage.api::<StatefulSet>().patch("orders", &PatchParams::default(), &Patch::Merge(&drift)).await?;
    eventually("what was taken away is back", || async {
        let set = stage.api::<StatefulSet>().get("orders").await?.spec.unwrap_or_default();
        let grace = set.template.spec.and_then(|pod| pod.termination_grace_period_seconds);
        Ok((stage.objects().await? == whole && grace == Some(120)).then_some(()))
    })
    .await?;

    // Longer than a resync: whatever is written again and again is seen.
    sleep(Duration::from_secs(2)).await;
    let before = writes.done();
    sleep(Duration::from_secs(62)).await;
    assert_eq!(writes.done(), before, "an idle cluster costs no write");
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_after_any_write_is_resumed() -> Result<()> {
    let stage = Stage::start().await?;
    stage.define(|_| {}).await?;
    stage.create("whole").await?;
    let all = Writes::new(usize::MAX);
    let operator = stage.operator(&all).await?;
    stage.settled("whole").await?;
    sleep(Duration::from_secs(1)).await;
    operator.stop().await?;
    let needed = all.done();
    assert!((8..30).contains(&needed), "{needed} writes for a new cluster");

    stage.create("broken").await?;
    let mut password = None;
    for _ in 0..needed {
        // One write a life.
        let writes = Writes::new(1);
        let operator = stage.operator(&writes).await?;
        let crashed = eventually("one write", || async { Ok((writes.done() >= 1).then_some(())) });
        if timeout(Duration::from_secs(5), crashed).await.is_err() {
            break;
        }
        drop(operator);
        let system = stage.api::<Secret>().get_opt("broken-system").await?.and_then(|secret| secret.data);
        assert!(password.is_none() || password == system, "a password is made once");
        password = system;
    }
    let operator = stage.operator(&Writes::new(usize::MAX)).await?;
    stage.settled("broken").await?;
    let objects = stage.objects().await?;
    let of = |name: &str| -> Vec<String> {
        let mine = objects.keys().filter(|key| key.contains(&format!(" {name}")));
        mine.map(|key| key.replace(name, "").split("-config-").next().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(of("whole"), of("broken"));
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_are_recorded_across_restarts_and_an_idle_cluster_writes_nothing() -> Result<()> {
    let (stage, _, operator) = Stage::in_order().await?;
    let newest = |state: &'static str| {
        let stage = &stage;
        async move {
            eventually(&format!("the decision {state} is recorded"), || async {
                let record = stage.record("orders").await?;
                Ok(record.filter(|record| record.last().is_some_and(|last| last.state == state)))
            })
            .await
        }
    };
    let first = newest("Creating").await?;
    let map = stage.api::<ConfigMap>().get("orders-decisions").await?;
    let cluster = stage.clusters().get("orders").await?;
    assert_eq!(map.owner_references().iter().map(|owner| Some(owner.uid.clone())).collect::<Vec<_>>(), [cluster.uid()]);
    assert_eq!(map.labels().get("understudy.dev/cluster").map(String::as_str), Some("orders"));

    stage.hibernate("orders", true).await?;
    let asleep = newest("Hibernated").await?;
    assert!(asleep.starts_with(&first) && asleep.len() > first.len(), "{first:?} {asleep:?}");
    operator.stop().await?;

    // An operator that finds nothing new writes nothing, and does not wake itself by what it wrote.
    let version = |map: &ConfigMap| map.resource_version();
    let before = stage.api::<ConfigMap>().get("orders-decisions").await?;
    let writes = Writes::new(usize::MAX);
    let operator = stage.operator(&writes).await?;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(version(&stage.api::<ConfigMap>().get("orders-decisions").await?), version(&before));
    let idle = writes.done();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(writes.done(), idle, "an idle cluster costs no write");

    stage.hibernate("orders", false).await?;
    let awake = newest("Creating").await?;
    assert!(awake.starts_with(&asleep) && awake.len() > asleep.len(), "it goes on where it ended: {asleep:?} {awake:?}");
    // Nobody prunes it: it is not among what is applied.
    sleep(Duration::from_secs(3)).await;
    assert_eq!(stage.record("orders").await?.unwrap_or_default(), awake);
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_config_map_of_somebody_else_is_not_taken_for_the_record() -> Result<()> {
    let stage = Stage::start().await?;
    stage.define(|_| {}).await?;
    let theirs: ConfigMap = serde_json::from_value(json!({"metadata": {"name": "orders-decisions"}, "data": {"decisions.json": "mine"}}))?;
    stage.api::<ConfigMap>().create(&PostParams::default(), &theirs).await?;
    let operator = stage.operator(&Writes::new(usize::MAX)).await?;
    stage.create("orders").await?;
    stage.settled("orders").await?;
    sleep(Duration::from_secs(4)).await;
    assert_eq!(stage.api::<ConfigMap>().get("orders-decisions").await?.data, theirs.data);
    // Its place is free: the record is written although the first attempts failed.
    stage.api::<ConfigMap>().delete("orders-decisions", &DeleteParams::default()).await?;
    eventually("the record is written", || async { stage.record("orders").await }).await?;
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_and_changed_back_while_nobody_looked_changes_nothing() -> Result<()> {
    let (stage, _, operator) = Stage::in_order().await?;
    sleep(Duration::from_secs(1)).await;
    operator.stop().await?;
    let (whole, set) = (stage.objects().await?, stage.api::<StatefulSet>().get("orders").await?);

    // Up and down, down and up, on and off: an operator that had seen only the middle would delete members.
    for spec in [
        json!({"replicas": 5}),
        json!({"replicas": 1}),
        json!({"replicas": 3}),
        json!({"hibernate": true}),
        json!({"hibernate": false}),
        json!({"config": {"max_connections": 50}, "services": {"read": {"annotations": {"shop/tier": "gold"}}}}),
        json!({"config": {"max_connections": null}, "services": {"read": {"annotations": {"shop/tier": null}}}}),
    ] {
        stage.merge("orders", spec).await?;
    }
    let writes = Writes::new(usize::MAX);
    let operator = stage.operator(&writes).await?;
    sleep(Duration::from_secs(6)).await;
    assert_eq!(stage.objects().await?, whole);
    let now = stage.api::<StatefulSet>().get("orders").await?;
    assert_eq!((now.uid(), now.metadata.generation), (set.uid(), set.metadata.generation), "the StatefulSet was touched");
    let done = writes.done();
    assert!(done <= 2, "{done} writes, where only the status and the record have something to say");
    // It did look.
    stage.merge("orders", json!({"replicas": 4})).await?;
    eventually("a fourth member", || async {
        let replicas = stage.api::<StatefulSet>().get("orders").await?.spec.and_then(|spec| spec.replicas);
        Ok((replicas == Some(4)).then_some(()))
    })
    .await?;
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_user_takes_out_of_the_spec_goes_from_the_children_and_then_nothing_is_written() -> Result<()> {
    let (stage, writes, operator) = Stage::in_order().await?;
    let mark = |value: serde_json::Value| {
        json!({
            "services": {"read": {"annotations": {"shop/mark": value}}, "primary": {"annotations": {"shop/mark": value}}},
            "pod": {"annotations": {"shop/mark": value}, "labels": {"shop-mark": value}, "nodeSelector": {"shop-mark": value}},
            "config": {"max_user_connections": if value.is_null() { value.clone() } else { json!(77) }},
        })
    };
    let marked = || async {
        let mut texts = Vec::new();
        for service in ["orders-read", "orders-primary"] {
            texts.push(serde_json::to_string(&stage.api::<Service>().get(service).await?.metadata.annotations)?);
        }
        texts.push(serde_json::to_string(&stage.api::<StatefulSet>().get("orders").await?.spec)?);
        anyhow::Ok(texts.iter().map(|text| text.contains("shop/mark")).collect::<Vec<_>>())
    };
    let before = stage.objects().await?;
    stage.merge("orders", mark(json!("yes"))).await?;
    eventually("the marks are on every child", || async { Ok((marked().await? == [true; 3]).then_some(())) }).await?;
    stage.merge("orders", mark(json!(null))).await?;
    eventually("the marks are gone", || async {
        // A configuration that pods may still use stays beside the one that counts.
        let now = stage.objects().await?;
        Ok((marked().await? == [false; 3] && before.iter().all(|(name, hash)| now.get(name) == Some(hash))).then_some(()))
    })
    .await?;
    sleep(Duration::from_secs(3)).await;
    let done = writes.done();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(writes.done(), done, "it goes on writing");
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_object_stops_no_other() -> Result<()> {
    let stage = Stage::start().await?;
    // Definitions that let through what the types do not: as an older or a newer one may.
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    stage.define(|definition| definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything.clone()).await?;
    let mut definition = serde_json::to_value(RedisReplication::crd())?;
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] = anything;
    let definitions = Api::<CustomResourceDefinition>::all(stage.client.clone());
    definitions.create(&PostParams::default(), &serde_json::from_value(definition)?).await?;
    let mut kinds = Vec::new();
    for (resource, kind) in [(ApiResource::erase::<MySQLCluster>(&()), "mysql"), (ApiResource::erase::<RedisReplication>(&()), "redis")] {
        let api = Api::<DynamicObject>::namespaced_with(stage.client.clone(), NAMESPACE, &resource);
        eventually(&format!("the definition of {kind} is served"), || async { Ok(api.list(&ListParams::default()).await.ok()) }).await?;
        let (malformed, wellformed) = (format!("malformed-{kind}"), format!("wellformed-{kind}"));
        let object = DynamicObject::new(&malformed, &resource).data(json!({"spec": {"storage": "big"}}));
        api.create(&PostParams::default(), &object).await?;
        let object = DynamicObject::new(&wellformed, &resource).data(json!({"spec": {"storage": {"size": "1Gi"}}}));
        api.create(&PostParams::default(), &object).await?;
        kinds.push((api, malformed, wellformed));
    }

    let operator = stage.operator(&Writes::new(usize::MAX)).await?;
    for (api, malformed, wellformed) in kinds {
        eventually("the other one is served", || async { Ok(stage.api::<StatefulSet>().get_opt(&wellformed).await?) }).await?;
        let events = Api::<k8s_openapi::api::events::v1::Event>::namespaced(stage.client.clone(), NAMESPACE);
        eventually("the malformed one is told", || async {
            let all = events.list(&ListParams::default()).await?.items;
            let told = |event: &k8s_openapi::api::events::v1::Event| {
                event.reason.as_deref() == Some("Unreadable")
                    && event.regarding.as_ref().and_then(|about| about.name.as_deref()) == Some(&malformed)
            };
            Ok(all.iter().any(told).then_some(()))
        })
        .await?;
        assert!(api.get(&malformed).await?.data.get("status").is_none(), "it is left alone");
    }
    operator.stop().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_definition_it_says_what_to_do() -> Result<()> {
    let stage = Stage::start().await?;
    let (_stop, stopped) = watch::channel(false);
    let error =
        serve(stage.client.clone(), &options(&[])?, Arc::new(Health::default()), stopped).await.expect_err("there is no definition");
    assert_eq!(error.to_string(), "no CRD of Understudy found; kubectl apply -f crds/yaml");
    assert!(stage.api::<ConfigMap>().list(&ListParams::default()).await?.items.len() <= 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_has_one_holder_and_goes_to_the_next_when_it_is_released() -> Result<()> {
    let stage = Stage::start().await?;
    let candidate = |pod: &str| Candidate::new(&stage.client, NAMESPACE, "understudy", pod);
    let mut first = timeout(SOON, candidate("one").acquire()).await?;
    let mut second = tokio::spawn(candidate("two").acquire());
    assert!(timeout(Duration::from_secs(4), &mut second).await.is_err(), "it is held");
    // Renewed in time, it stays; taken by force, it is given up at once.
    assert!(timeout(Duration::from_secs(6), first.keep()).await.is_err());
    first.release().await;
    let mut second = timeout(SOON, second).await??;

    let api = stage.api::<Lease>();
    let mut thief = api.get("understudy").await?;
    thief.spec.get_or_insert_default().holder_identity = Some("thief".to_owned());
    api.replace("understudy", &PostParams::default(), &thief).await?;
    let lost = timeout(SOON, second.keep()).await?;
    assert!(lost.to_string().contains("thief"), "{lost}");
    // A holder that does not renew loses it after its duration, and not before.
    let begun = Instant::now();
    timeout(SOON, candidate("three").acquire()).await?;
    assert!(begun.elapsed() > Duration::from_secs(14), "{:?}", begun.elapsed());
    Ok(())
}
