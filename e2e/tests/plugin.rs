//! `kubectl understudy` at a real API server: what it prints, what it asks, and how it ends. The operator's part is played by the test.

use std::time::Duration;

use anyhow::{Result, ensure};
use crds::annotations::offer;
use crds::decisions::{self, Decided, Input};
use crds::mongo::MongoReplicaSet;
use crds::mysql::MySQLCluster;
use crds::redis::RedisReplication;
use e2e::{ControlPlane, Plugin};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::discovery::ApiResource;
use kube::{Api, CustomResourceExt, ResourceExt};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

const NAMESPACE: &str = "db";
const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const SOON: Duration = Duration::from_secs(30);

/// A person's consent, without being asked.
const CONSENTED: &str = "--yes-lose-what-others-hold";
/// What `stock` without a majority offers.
const WORDS: &str = "force stock-2.stock.db.svc:27017 at term 5 time 9.1 without stock-0.stock.db.svc:27017, stock-1.stock.db.svc:27017";

/// One cluster, and the plugin in front of it.
struct Stage {
    plane: ControlPlane,
    plugin: Plugin,
    kind: ApiResource,
    name: &'static str,
}

impl Stage {
    /// With the healthy MySQLCluster `shop`: three members, `shop-0` leads in term 3. No other kind is installed.
    async fn start() -> Result<Self> {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "serverUuid": format!("uuid-of-{name}")});
        let status = json!({"state": "Healthy", "reason": "shop-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
            "primary": "shop-0", "initialised": true,
            "members": [row("shop-0", "Primary"), row("shop-1", "Replica"), row("shop-2", "Replica")]});
        Self::with(&[MySQLCluster::crd()], ApiResource::erase::<MySQLCluster>(&()), "shop", status).await
    }

    /// With the healthy MongoReplicaSet `stock`: three members, `stock-0` leads in term 3. Every kind is installed.
    async fn start_set() -> Result<Self> {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "votes": true, "priority": 1});
        let status = json!({"state": "Healthy", "reason": "stock-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
            "primary": "stock-0", "electionTerm": 5, "replicaSetId": "65920080aabbccddeeff0011",
            "members": [row("stock-0", "PRIMARY"), row("stock-1", "SECONDARY"), row("stock-2", "SECONDARY")]});
        Self::with(&crds::all(), ApiResource::erase::<MongoReplicaSet>(&()), "stock", status).await
    }

    /// With the healthy RedisReplication `cache`: three members, `cache-0` leads in term 3. Every kind is installed.
    async fn start_cache() -> Result<Self> {
        let row = |name: &str, role: &str| json!({"name": name, "role": role, "ready": true, "identity": format!("data-of-{name}")});
        let status = json!({"state": "Healthy", "reason": "cache-0 is the primary and all 3 members serve", "ready": "3/3", "term": 3,
            "primary": "cache-0", "initialised": true, "acks": 1, "ackSet": [{"name": "cache-1", "identity": "data-of-cache-1"}],
            "members": [row("cache-0", "Primary"), row("cache-1", "Replica"), row("cache-2", "Replica")]});
        Self::with(&crds::all(), ApiResource::erase::<RedisReplication>(&()), "cache", status).await
    }

    async fn with(installed: &[CustomResourceDefinition], kind: ApiResource, name: &'static str, status: Value) -> Result<Self> {
        let plane = ControlPlane::start().await?;
        plane.namespace(NAMESPACE).await?;
        let definitions = Api::<CustomResourceDefinition>::all(plane.client().clone());
        for definition in installed {
            definitions.create(&PostParams::default(), definition).await?;
        }
        let plugin = Plugin::new(&plane.kubeconfig(), NAMESPACE).await?;
        let stage = Self { plane, plugin, kind: kind.clone(), name };
        stage.create(&kind, name).await?;
        stage.status(status).await?;
        Ok(stage)
    }

    /// Makes a cluster, once its definition is served.
    async fn create(&self, kind: &ApiResource, name: &str) -> Result<()> {
        let clusters = Api::<DynamicObject>::namespaced_with(self.plane.client().clone(), NAMESPACE, kind);
        let end = Instant::now() + SOON;
        while clusters.list(&ListParams::default()).await.is_err() {
            ensure!(Instant::now() < end, "the definition is not served");
            sleep(Duration::from_millis(50)).await;
        }
        let object = DynamicObject::new(name, kind).data(json!({"spec": {"storage": {"size": "1Gi"}}}));
        clusters.create(&PostParams::default(), &object).await?;
        Ok(())
    }

    fn clusters(&self) -> Api<DynamicObject> {
        Api::namespaced_with(self.plane.client().clone(), NAMESPACE, &self.kind)
    }

    async fn status(&self, status: Value) -> Result<()> {
        self.clusters().patch_status(self.name, &PatchParams::default(), &Patch::Merge(json!({ "status": status }))).await?;
        Ok(())
    }

    async fn asked(&self, annotation: &str) -> Result<Option<String>> {
        Ok(self.clusters().get(self.name).await?.annotations().get(annotation).cloned())
    }

    /// Waits until it is asked for.
    async fn is_asked(&self, annotation: &str) -> Result<String> {
        let end = Instant::now() + SOON;
        loop {
            if let Some(value) = self.asked(annotation).await? {
                return Ok(value);
            }
            ensure!(Instant::now() < end, "{annotation} is not asked for");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn record(&self, all: &[Decided]) -> Result<()> {
        let map: ConfigMap = serde_json::from_value(json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": decisions::name(self.name)},
            "data": {decisions::KEY: serde_json::to_string(all)?},
        }))?;
        let maps = Api::<ConfigMap>::namespaced(self.plane.client().clone(), NAMESPACE);
        maps.patch(&decisions::name(self.name), &PatchParams::apply("test").force(), &Patch::Apply(&map)).await?;
        Ok(())
    }
}

fn decided(state: &str, reason: &str) -> Decided {
    let (time, state, reason) = ("2026-01-01T00:00:00.000Z".to_owned(), state.to_owned(), reason.to_owned());
    Decided { time, term: 3, state, reason, route: "shop-0".to_owned(), ..Decided::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_is_asked_in_the_term_that_was_seen_and_ends_with_the_new_primary() -> Result<()> {
    let stage = Stage::start().await?;
    let operator = async {
        let asked = stage.is_asked("understudy.dev/switchover").await?;
        ensure!(asked == "shop-1@3", "{asked}");
        let change = json!({"kind": "Switchover", "from": "shop-0", "to": "shop-1", "promoting": true, "since": "2026-01-01T00:00:00Z"});
        stage
            .status(json!({"state": "SwitchingOver", "reason": "shop-1 opens", "term": 4, "primary": "shop-1", "transition": change}))
            .await?;
        sleep(Duration::from_millis(500)).await;
        stage.status(json!({"state": "Healthy", "reason": "shop-1 is the primary", "transition": null})).await
    };
    let (said, operated) = tokio::join!(stage.plugin.says(&["switchover", "shop", "--to", "shop-1"]), operator);
    operated?;
    let said = said?;
    assert!(said.starts_with("shop-1 is the primary: "), "{said}");

    // What cannot be meant is not asked at all.
    let refused = stage.plugin.refuses(&["switchover", "shop", "--to", "shop-1"]).await?;
    assert!(refused.contains("shop-1 is the primary already"), "{refused}");
    let refused = stage.plugin.refuses(&["switchover", "shop", "--to", "shop-9"]).await?;
    assert!(refused.contains("its members are: shop-0, shop-1, shop-2"), "{refused}");
    assert_eq!(stage.asked("understudy.dev/switchover").await?.as_deref(), Some("shop-1@3"), "of a term that is over: it asks for nothing");

    // Nobody waits: it is asked, and that is all.
    stage.plugin.says(&["switchover", "shop", "--wait", "0"]).await?;
    assert_eq!(stage.asked("understudy.dev/switchover").await?.as_deref(), Some("any@4"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switchover_that_is_not_granted_fails_with_the_reason_and_leaves_nothing_behind() -> Result<()> {
    let stage = Stage::start().await?;
    let refusal = |request: &str, why: &str| json!({"handover": {"request": request, "since": "2026-01-01T00:00:00Z", "refused": why}});
    // A refusal of another request is not the answer to this one.
    stage.status(refusal("shop-2@3", "shop-2 has errant transactions")).await?;
    let operator = async {
        stage.is_asked("understudy.dev/switchover").await?;
        sleep(Duration::from_millis(500)).await;
        stage.status(refusal("shop-1@3", "shop-1 lags 40 s")).await
    };
    let (complained, operated) = tokio::join!(stage.plugin.refuses(&["switchover", "shop", "--to", "shop-1"]), operator);
    operated?;
    let complained = complained?;
    assert!(complained.contains("shop-1 lags 40 s") && complained.contains("withdrawn"), "{complained}");
    assert_eq!(stage.asked("understudy.dev/switchover").await?, None);

    // Asked again, it is considered again, although the last refusal is still there.
    let operator = async {
        sleep(Duration::from_secs(1)).await;
        ensure!(stage.asked("understudy.dev/switchover").await?.is_none(), "it waits until its refusal is forgotten");
        stage.status(json!({"handover": null})).await?;
        stage.is_asked("understudy.dev/switchover").await?;
        stage.status(json!({"term": 4, "primary": "shop-1", "reason": "shop-1 is the primary"})).await
    };
    let (said, operated) = tokio::join!(stage.plugin.says(&["switchover", "shop", "--to", "shop-1"]), operator);
    operated?;
    said?;

    // Nobody answers at all.
    let complained = stage.plugin.refuses(&["switchover", "shop", "--wait", "1"]).await?;
    assert!(complained.contains("not within 1 s") && complained.contains("withdrawn"), "{complained}");
    assert_eq!(stage.asked("understudy.dev/switchover").await?, None);

    // It was begun and taken back.
    let operator = async {
        stage.is_asked("understudy.dev/switchover").await?;
        let back = json!({"kind": "TakenBack", "since": "2026-01-01T00:00:00Z"});
        stage.status(json!({"reason": "shop-0 did not catch up in time", "transition": back})).await
    };
    let (complained, operated) = tokio::join!(stage.plugin.refuses(&["switchover", "shop"]), operator);
    operated?;
    let complained = complained?;
    assert!(complained.contains("taken back: shop-0 did not catch up in time"), "{complained}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_cluster_says_so_and_what_a_promotion_costs_before_it_is_asked_for() -> Result<()> {
    let stage = Stage::start().await?;
    let refused = stage.plugin.refuses(&["promote", "shop", "shop-1", "--yes-lose-what-others-hold"]).await?;
    assert!(refused.contains("shop is Healthy, not Lost"), "{refused}");

    stage.status(json!({"state": "Lost", "reason": "shop-0 and shop-2 do not answer", "ready": "0/3"})).await?;
    let held = |name: &str, set: Option<&str>| Input {
        name: name.to_owned(),
        seen: if set.is_some() { "answers" } else { "silent since 2026-01-01T00:00:00Z" }.to_owned(),
        held: set.map(|set| format!("{UUID}:{set}")),
        ..Input::default()
    };
    let lost = Decided {
        members: vec![held("shop-0", None), held("shop-1", Some("1-90")), held("shop-2", Some("1-100"))],
        ..decided("Lost", "shop-0 and shop-2 do not answer")
    };
    stage.record(&[decided("Healthy", "all is well"), lost]).await?;

    let status = stage.plugin.says(&["status", "shop"]).await?;
    for part in ["shop  Lost  0/3 ready", "shop-0 and shop-2 do not answer", "kubectl understudy promote shop MEMBER", "3e11fa47…:1-90"] {
        assert!(status.contains(part), "{part:?} is missing in\n{status}");
    }
    assert!(!status.contains('\u{1b}'), "no colour for a pipe");
    let explained = stage.plugin.says(&["explain", "shop", "--last", "1"]).await?;
    assert!(explained.contains("term 3  Lost") && !explained.contains("all is well"), "{explained}");
    assert!(stage.plugin.says(&["explain", "shop"]).await?.contains("all is well"));

    // Nobody is there to confirm it.
    let output = stage.plugin.run(&["promote", "shop", "shop-1"]).await?;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && shown.contains(&format!("loses 10 transactions: {UUID}:91-100")), "{shown}");
    assert!(shown.contains("What shop-0 may hold besides is not known"), "{shown}");
    assert_eq!(stage.asked("understudy.dev/accept-loss").await?, None);

    let operator = async {
        let asked = stage.is_asked("understudy.dev/accept-loss").await?;
        ensure!(asked == "shop-1@3", "{asked}");
        stage
            .status(
                json!({"state": "Degraded", "reason": "shop-1 is the primary; not ready: shop-0, shop-2", "term": 4, "primary": "shop-1"}),
            )
            .await
    };
    let (said, operated) = tokio::join!(stage.plugin.says(&["promote", "shop", "shop-1", "--yes-lose-what-others-hold"]), operator);
    operated?;
    assert!(said?.contains("shop-1 is the primary"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fencing_and_recloning_name_exactly_whom_they_mean() -> Result<()> {
    let stage = Stage::start().await?;
    let fenced = || stage.asked("understudy.dev/fenced");
    stage.plugin.says(&["fence", "shop", "shop-2"]).await?;
    let said = stage.plugin.says(&["fence", "shop", "shop-0"]).await?;
    assert!(said.contains("fenced: shop-0, shop-2") && said.contains("nobody writes until"), "{said}");
    assert_eq!(fenced().await?.as_deref(), Some("shop-0,shop-2"));
    let status = stage.plugin.says(&["status", "shop"]).await?;
    assert!(status.contains("kubectl understudy unfence shop shop-0"), "{status}");
    stage.plugin.says(&["unfence", "shop", "shop-0"]).await?;
    assert_eq!(fenced().await?.as_deref(), Some("shop-2"));
    stage.plugin.refuses(&["unfence", "shop", "shop-0"]).await?;
    stage.plugin.says(&["unfence", "shop", "--all"]).await?;
    assert_eq!(fenced().await?, None);

    let refused = stage.plugin.refuses(&["reclone", "shop", "shop-0"]).await?;
    assert!(refused.contains("shop-0 is the primary"), "{refused}");
    let operator = async {
        let asked = stage.is_asked("understudy.dev/reclone").await?;
        ensure!(asked == "shop-1@uuid-of-shop-1", "{asked}");
        let mut members = stage.clusters().get("shop").await?.data["status"]["members"].take();
        members[1] = json!({"name": "shop-1", "role": "Joining", "ready": false, "message": "cloning from shop-2: 40 %"});
        stage.status(json!({ "members": members })).await?;
        sleep(Duration::from_millis(500)).await;
        members[1] = json!({"name": "shop-1", "role": "Replica", "ready": true, "serverUuid": "another", "clonedFrom": "shop-2",
            "archive": "/var/lib/mysql/.understudy/archive/1"});
        stage.status(json!({ "members": members })).await
    };
    let (output, operated) = tokio::join!(stage.plugin.run(&["reclone", "shop", "shop-1"]), operator);
    operated?;
    let output = output?;
    let (said, progress) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(said.contains("shop-1 is cloned from shop-2 and follows") && said.contains("archive/1"), "{said}");
    assert!(progress.contains("cloning from shop-2: 40 %"), "{progress}");

    let refused = stage.plugin.refuses(&["status", "nothing"]).await?;
    assert!(
        refused.contains("no MySQLCluster or MongoReplicaSet or RedisReplication nothing in namespace db; there are: myc/shop"),
        "{refused}"
    );
    let refused = stage.plugin.refuses(&["status", "mrs/shop"]).await?;
    assert!(refused.contains("no MongoReplicaSet shop in namespace db; there are: myc/shop"), "{refused}");
    Ok(())
}

// === MongoReplicaSet ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_hands_over_on_request_or_says_why_not() -> Result<()> {
    let stage = Stage::start_set().await?;
    let operator = async {
        let asked = stage.is_asked("understudy.dev/switchover").await?;
        ensure!(asked == "stock-1@3", "{asked}");
        let change = json!({"kind": "Switchover", "from": "stock-0", "to": "stock-1", "since": "2026-01-01T00:00:00Z"});
        stage.status(json!({"state": "SwitchingOver", "reason": "stock-0 hands over to stock-1", "term": 4, "transition": change})).await?;
        sleep(Duration::from_millis(500)).await;
        stage.status(json!({"reason": "stock-1 leads", "primary": "stock-1", "electionTerm": 6, "transition": null})).await
    };
    let (output, operated) = tokio::join!(stage.plugin.run(&["switchover", "stock", "--to", "stock-1"]), operator);
    operated?;
    let output = output?;
    let (said, progress) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(said.starts_with("stock-1 is the primary: ") && progress.contains("stock-0 hands over to stock-1"), "{said}{progress}");

    let operator = async {
        let asked = loop {
            let asked = stage.is_asked("understudy.dev/switchover").await?;
            if asked != "stock-1@3" {
                break asked;
            }
            sleep(Duration::from_millis(20)).await;
        };
        ensure!(asked == "any@4", "{asked}");
        stage
            .status(json!({"handover": {"request": asked, "since": "2026-01-01T00:00:00Z", "refused": "no other member can lead now"}}))
            .await
    };
    let (complained, operated) = tokio::join!(stage.plugin.refuses(&["switchover", "mrs/stock"]), operator);
    operated?;
    let complained = complained?;
    assert!(complained.contains("no other member can lead now") && complained.contains("withdrawn"), "{complained}");
    assert_eq!(stage.asked("understudy.dev/switchover").await?, None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_without_a_majority_is_forced_by_its_own_words_and_only_on_the_member_in_them() -> Result<()> {
    let stage = Stage::start_set().await?;
    let refused = stage.plugin.refuses(&["promote", "stock", "stock-2", CONSENTED]).await?;
    assert!(refused.contains("stock is Healthy, not Lost"), "{refused}");

    let why = format!("bring back stock-0, stock-1, or annotate it with {}, which loses what only they hold", offer(WORDS));
    let stalled = json!({"type": "Stalled", "status": "True", "reason": "MajorityLost", "message": why,
        "lastTransitionTime": "2026-01-01T00:00:00Z"});
    // It led before as well: that it is recorded says nothing.
    stage.status(json!({"state": "Lost", "reason": why, "ready": "0/3", "primary": "stock-2", "conditions": [stalled]})).await?;
    let held = |name: &str, held: Option<&str>| Input {
        name: name.to_owned(),
        seen: if held.is_some() { "answers" } else { "silent since 2026-01-01T00:00:00Z" }.to_owned(),
        held: held.map(str::to_owned),
        ..Input::default()
    };
    let members = vec![held("stock-0", None), held("stock-1", None), held("stock-2", Some("term 5 time 9.1"))];
    stage.record(&[Decided { members, ..decided("Lost", &why) }]).await?;

    let status = stage.plugin.says(&["status", "stock"]).await?;
    for part in
        ["stock  Lost  0/3 ready", "MongoDB's term 5", "kubectl understudy promote stock stock-2", "term 5 time 9.1", "MajorityLost"]
    {
        assert!(status.contains(part), "{part:?} is missing in\n{status}");
    }
    let refused = stage.plugin.refuses(&["promote", "stock", "stock-1", CONSENTED]).await?;
    assert!(refused.contains("stock-2 is the most advanced that answers"), "{refused}");
    let output = stage.plugin.run(&["promote", "stock", "stock-2"]).await?;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && shown.contains(&format!("The consent is to these words: {WORDS}\n")), "{shown}");
    assert!(shown.contains("What only stock-0, stock-1 may hold is not known, and lost."), "{shown}");
    assert_eq!(stage.asked("understudy.dev/force").await?, None, "nobody was there to confirm it");

    let operator = async {
        let asked = stage.is_asked("understudy.dev/force").await?;
        ensure!(asked == WORDS, "{asked}");
        let consented = format!("by a person's consent: {WORDS}");
        stage.status(json!({"state": "FailingOver", "reason": consented, "term": 4, "consent": WORDS, "conditions": []})).await?;
        sleep(Duration::from_millis(500)).await;
        let led = json!({"state": "Degraded", "reason": "stock-2 is the primary", "electionTerm": 6, "consent": null});
        stage.status(led).await
    };
    let (output, operated) = tokio::join!(stage.plugin.run(&["promote", "stock", "stock-2", CONSENTED]), operator);
    operated?;
    let output = output?;
    let (said, progress) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert!(output.status.success() && said.contains("stock-2 is the primary"), "{said}{progress}");
    assert!(progress.contains("FailingOver: by a person's consent"), "it waits until that one leads: {progress}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_fenced_as_a_cluster_is_and_what_is_for_mysql_says_what_to_do_instead() -> Result<()> {
    let stage = Stage::start_set().await?;
    let said = stage.plugin.says(&["fence", "stock", "stock-0"]).await?;
    assert!(said.contains("fenced: stock-0") && said.contains("it hands over"), "{said}");
    stage.plugin.says(&["fence", "mrs/stock", "stock-2"]).await?;
    assert_eq!(stage.asked("understudy.dev/fenced").await?.as_deref(), Some("stock-0,stock-2"));
    let refused = stage.plugin.refuses(&["switchover", "stock", "--to", "stock-2"]).await?;
    assert!(refused.contains("kubectl understudy unfence stock stock-2"), "{refused}");
    stage.plugin.says(&["unfence", "stock", "--all"]).await?;
    assert_eq!(stage.asked("understudy.dev/fenced").await?, None);

    let refused = stage.plugin.refuses(&["reclone", "mrs/stock", "stock-1"]).await?;
    assert!(refused.contains("kubectl delete --wait=false pvc/data-stock-1 && kubectl delete pod/stock-1"), "{refused}");
    let refused = stage.plugin.refuses(&["sql", "stock"]).await?;
    assert!(refused.contains("mongosh") && refused.contains("Secret stock-app"), "{refused}");
    Ok(())
}

// === RedisReplication ===

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_redis_is_promoted_in_its_term_by_one_who_saw_the_offsets_and_data_of_another_history_are_given_up_by_name() -> Result<()> {
    let stage = Stage::start_cache().await?;
    let said = stage.plugin.says(&["fence", "rr/cache", "cache-0"]).await?;
    assert!(said.contains("fenced: cache-0") && said.contains("nobody writes until"), "{said}");
    stage.plugin.says(&["unfence", "cache", "--all"]).await?;
    let refused = stage.plugin.refuses(&["reclone", "cache", "cache-1"]).await?;
    assert!(refused.contains("cache-1 follows"), "{refused}");
    let refused = stage.plugin.refuses(&["sql", "cache"]).await?;
    assert!(refused.contains("redis-cli") && refused.contains("Secret cache-app"), "{refused}");

    let held = |name: &str, held: Option<&str>| Input { name: name.to_owned(), held: held.map(str::to_owned), ..Input::default() };
    let members = vec![held("cache-0", None), held("cache-1", Some("aaaaaaaa:870")), held("cache-2", Some("aaaaaaaa:900"))];
    stage.record(&[Decided { members, ..decided("Lost", "too few answer") }]).await?;
    stage.status(json!({"state": "Lost", "reason": "too few answer", "ready": "0/3"})).await?;
    let output = stage.plugin.run(&["promote", "cache", "cache-1"]).await?;
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && shown.contains("Promoting cache-1 loses the last 30 bytes of the history aaaaaaaa."), "{shown}");
    assert_eq!(stage.asked("understudy.dev/accept-loss").await?, None);
    let operator = async {
        let asked = stage.is_asked("understudy.dev/accept-loss").await?;
        ensure!(asked == "cache-1@3", "{asked}");
        let stuck =
            json!({"name": "cache-0", "role": "Isolated", "ready": false, "identity": "old", "message": "its data are of another history"});
        let leads = json!({"name": "cache-1", "role": "Primary", "ready": true, "identity": "data-of-cache-1"});
        stage
            .status(json!({"state": "Degraded", "reason": "cache-1 leads", "term": 4, "primary": "cache-1", "members": [stuck, leads]}))
            .await
    };
    let (said, operated) = tokio::join!(stage.plugin.says(&["promote", "rr/cache", "cache-1", CONSENTED]), operator);
    operated?;
    assert!(said?.contains("cache-1 is the primary"));

    let operator = async {
        let asked = stage.is_asked("understudy.dev/reclone").await?;
        ensure!(asked == "cache-0@old", "{asked}");
        let mut members = stage.clusters().get("cache").await?.data["status"]["members"].take();
        members[0] = json!({"name": "cache-0", "role": "Replica", "ready": true, "identity": "new", "source": "cache-1",
            "archive": "/data/.understudy/errant/1.rdb"});
        stage.status(json!({ "members": members })).await
    };
    let (said, operated) = tokio::join!(stage.plugin.says(&["reclone", "cache", "cache-0"]), operator);
    operated?;
    let said = said?;
    assert!(said.contains("cache-0 is cloned from cache-1 and follows") && said.contains("errant/1.rdb"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_without_a_kind_means_the_only_one_that_has_it() -> Result<()> {
    let stage = Stage::start_set().await?;
    let mysql = ApiResource::erase::<MySQLCluster>(&());
    stage.create(&mysql, "shop").await?;
    assert!(stage.plugin.says(&["status", "stock"]).await?.starts_with("stock  Healthy"));
    assert!(stage.plugin.says(&["status", "shop"]).await?.contains("no operator has looked at it"));
    for (name, what) in [("nothing", "MySQLCluster or MongoReplicaSet or RedisReplication nothing"), ("myc/stock", "MySQLCluster stock")] {
        let refused = stage.plugin.refuses(&["status", name]).await?;
        assert!(refused.contains(&format!("no {what} in namespace db; there are: myc/shop, mrs/stock")), "{refused}");
    }

    stage.create(&mysql, "stock").await?;
    let refused = stage.plugin.refuses(&["fence", "stock", "stock-1"]).await?;
    assert!(refused.contains("write myc/stock or mrs/stock or rr/stock"), "{refused}");
    assert_eq!(stage.asked("understudy.dev/fenced").await?, None);
    assert!(stage.plugin.says(&["status", "mrs/stock"]).await?.contains("MongoDB's term 5"));
    assert!(stage.plugin.says(&["status", "myc/stock"]).await?.contains("no operator has looked at it"));
    Ok(())
}
