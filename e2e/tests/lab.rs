//! The lab itself: each fault that tests rely on really happens, to real pods. Needs a running lab: `lab up`, then
//! `cargo test -p e2e --features lab --test lab`. Tests run one at a time, since a lost node is a fault for everybody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Lab, TestNamespace, volumes};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use kube::{Api, ResourceExt};
use serde_json::json;
use tokio::sync::{Mutex, MutexGuard};

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
const PATIENCE: Duration = Duration::from_secs(60);
/// What a cut connection costs a client before it says so.
const CONNECT_SECONDS: u32 = 2;

async fn lab() -> Result<(MutexGuard<'static, ()>, Lab)> {
    let alone = ONE_AT_A_TIME.lock().await;
    Ok((alone, Lab::attach().await?))
}

/// A StatefulSet of `replicas` mysqld with a headless Service, on volumes of `class`, one on each node.
fn stage(replicas: usize, class: &str, size: &str) -> String {
    let restricted = json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    let start = "set -e; where='--datadir=/data --tmpdir=/data'; [ -d /data/mysql ] || mysqld $where --initialize-insecure; \
                 exec mysqld $where --socket=/data/s --pid-file=/data/pid --mysqlx=OFF --skip-name-resolve";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "actor"},
         "spec": {"clusterIP": "None", "publishNotReadyAddresses": true, "selector": {"app": "actor"}, "ports": [{"name": "mysql", "port": 3306}]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "box-office"},
         "spec": {"selector": {"app": "actor"}, "ports": [{"name": "mysql", "port": 3306}]}},
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "actor"}, "spec": {
            "serviceName": "actor", "replicas": replicas, "podManagementPolicy": "Parallel",
            "selector": {"matchLabels": {"app": "actor"}},
            "template": {"metadata": {"labels": {"app": "actor"}}, "spec": {
                "automountServiceAccountToken": false,
                "terminationGracePeriodSeconds": 3,
                "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
                "affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"labelSelector": {"matchLabels": {"app": "actor"}}, "topologyKey": "kubernetes.io/hostname"}]}},
                "containers": [{
                    "name": "mysql", "image": "localhost/mysql:9.7", "command": ["sh", "-c", start],
                    "env": [{"name": "STAGE_NAME", "value": "hamlet"}],
                    "securityContext": restricted, "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                    "readinessProbe": {"tcpSocket": {"port": 3306}, "periodSeconds": 1},
                }],
            }},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "storageClassName": class, "resources": {"requests": {"storage": size}}}}],
        }},
    ]})
    .to_string()
}

async fn perform(lab: &Lab, namespace: &str, replicas: usize, class: &str, size: &str) -> Result<()> {
    let file = std::env::temp_dir().join(format!("{namespace}.json"));
    std::fs::write(&file, stage(replicas, class, size))?;
    let applied = lab.kubectl(&["apply", "-n", namespace, "-f", &file.display().to_string()]).await;
    std::fs::remove_file(&file)?;
    applied?;
    ready(lab, namespace, replicas).await
}

async fn ready(lab: &Lab, namespace: &str, replicas: usize) -> Result<()> {
    wait(&format!("{replicas} ready pods"), async || {
        Ok(lab.kubectl(&["get", "sts", "actor", "-n", namespace, "-o", "jsonpath={.status.readyReplicas}"]).await? == replicas.to_string())
    })
    .await
}

async fn wait(what: &str, mut check: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let end = tokio::time::Instant::now() + PATIENCE;
    while !check().await? {
        ensure!(tokio::time::Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// What mysqld of `pod` answers to `sql`, asked from inside of pod `from`.
async fn query(lab: &Lab, namespace: &str, from: &str, host: &str, sql: &str) -> Result<String> {
    let connect = format!("--connect-timeout={CONNECT_SECONDS}");
    lab.kubectl(&["exec", "-n", namespace, from, "--", "mysql", &connect, "-h", host, "-uonlooker", "-N", "-e", sql]).await
}

/// An account that may come from anywhere; the real ones are the operator's affair.
async fn admit_onlookers(lab: &Lab, namespace: &str, pods: usize) -> Result<()> {
    for index in 0..pods {
        let sql = "CREATE USER IF NOT EXISTS onlooker@'%'; GRANT ALL ON *.* TO onlooker@'%'";
        lab.kubectl(&["exec", "-n", namespace, &format!("actor-{index}"), "--", "mysql", "-S/data/s", "-uroot", "-e", sql]).await?;
    }
    Ok(())
}

async fn get_pod(lab: &Lab, namespace: &str, name: &str) -> Result<Pod> {
    Ok(Api::<Pod>::namespaced(lab.client().clone(), namespace).get(name).await?)
}

fn restarts(pod: &Pod) -> i32 {
    pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten()).map(|container| container.restart_count).sum()
}

#[tokio::test]
async fn a_killed_container_restarts_and_a_frozen_one_answers_nobody_until_it_thaws() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "kill", async |lab, namespace| {
        perform(&lab, &namespace, 2, volumes::DYNAMIC, "1Gi").await?;
        admit_onlookers(&lab, &namespace, 2).await?;

        lab.kill_container(&namespace, "actor-0", "mysql").await?;
        wait("the restart", async || Ok(restarts(&get_pod(&lab, &namespace, "actor-0").await?) == 1)).await?;
        let state = get_pod(&lab, &namespace, "actor-0").await?.status.and_then(|status| status.container_statuses);
        let last = state.and_then(|all| all.into_iter().next()?.last_state?.terminated).context("a restart has a last state")?;
        assert_eq!(last.exit_code, 137, "SIGKILL, nothing gentler");
        ready(&lab, &namespace, 2).await?;

        let cmdlines = lab.process_cmdlines(&namespace, "actor-0").await?;
        assert!(cmdlines.iter().any(|line| line.contains("mysqld --datadir=/data")), "{cmdlines:?}");
        assert!(lab.process_environ(&namespace, "actor-0").await?.contains(&"STAGE_NAME=hamlet".into()));

        lab.freeze(&namespace, "actor-0").await?;
        assert!(query(&lab, &namespace, "actor-1", "actor-0.actor", "SELECT 1").await.is_err(), "a frozen server greets nobody");
        lab.thaw(&namespace, "actor-0").await?;
        assert_eq!(query(&lab, &namespace, "actor-1", "actor-0.actor", "SELECT 1").await?.trim(), "1");
        assert_eq!(restarts(&get_pod(&lab, &namespace, "actor-0").await?), 1, "a freeze is no restart");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn cut_pods_lose_even_open_connections_and_only_those_that_were_cut() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "cut", async |lab, namespace| {
        perform(&lab, &namespace, 3, volumes::DYNAMIC, "1Gi").await?;
        admit_onlookers(&lab, &namespace, 3).await?;
        let asks = async |from: &str, host: &str| query(&lab, &namespace, from, host, "SELECT 1").await.is_ok();
        assert!(asks("actor-0", "actor-1.actor").await);

        // A connection that is open when the cut comes, and has something to say afterwards.
        let talk = query(&lab, &namespace, "actor-0", "actor-1.actor", "SELECT SLEEP(4); SELECT 'still here'");
        let cut = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            lab.cut(&namespace, &["actor-0"], &["actor-1"]).await
        };
        let (talked, cut) = tokio::join!(tokio::time::timeout(Duration::from_secs(10), talk), cut);
        cut?;
        assert!(talked.is_err(), "nothing comes through an open connection either: {talked:?}");
        assert!(!asks("actor-0", "actor-1.actor").await && !asks("actor-1", "actor-0.actor").await);
        assert!(asks("actor-0", "actor-2.actor").await && asks("actor-2", "actor-1.actor").await, "others are not cut");
        ready(&lab, &namespace, 3).await.context("probes go on")?;
        lab.heal_namespace("somebody-else").await?;
        assert!(!asks("actor-0", "actor-1.actor").await, "another test's cuts are not healed");
        lab.heal_namespace(&namespace).await?;
        assert!(asks("actor-0", "actor-1.actor").await);

        lab.isolate(&namespace, "actor-2").await?;
        assert!(!asks("actor-2", "actor-0.actor").await && !asks("actor-1", "actor-2.actor").await);
        tokio::time::sleep(Duration::from_secs(5)).await;
        ready(&lab, &namespace, 3).await.context("an isolated pod's own kubelet still reaches it")?;
        lab.heal().await?;
        assert!(asks("actor-2", "actor-0.actor").await && asks("actor-1", "actor-2.actor").await);

        lab.silence(&namespace, "actor-2").await?;
        ready(&lab, &namespace, 2).await.context("a silent pod is not ready")?;
        lab.heal().await?;
        ready(&lab, &namespace, 3).await
    })
    .await
}

#[tokio::test]
async fn a_lost_node_goes_silent_and_comes_back_with_its_data() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "node", async |lab, namespace| {
        perform(&lab, &namespace, 2, volumes::DYNAMIC, "1Gi").await?;
        admit_onlookers(&lab, &namespace, 2).await?;
        query(&lab, &namespace, "actor-1", "actor-0.actor", "CREATE TABLE mysql.prop (name TEXT); INSERT INTO mysql.prop VALUES ('skull')")
            .await?;
        let node = get_pod(&lab, &namespace, "actor-0").await?.spec.and_then(|spec| spec.node_name).context("a ready pod has a node")?;
        let address =
            get_pod(&lab, &namespace, "actor-0").await?.status.and_then(|status| status.pod_ip).context("a ready pod has an address")?;

        lab.lose_node(&node).await?;
        assert!(query(&lab, &namespace, "actor-1", &address, "SELECT 1").await.is_err());
        wait("Kubernetes to notice", async || {
            let status = lab.kubectl(&["get", "node", &node, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"]).await?;
            Ok(status == "Unknown")
        })
        .await?;
        lab.return_node(&node).await?;
        ready(&lab, &namespace, 2).await?;
        wait("the old rows", async || {
            Ok(query(&lab, &namespace, "actor-1", "actor-0.actor", "SELECT name FROM mysql.prop")
                .await
                .is_ok_and(|row| row.trim() == "skull"))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn a_paused_api_server_answers_nobody_until_it_goes_on() -> Result<()> {
    let (_alone, lab) = lab().await?;
    let asked = async || tokio::time::timeout(Duration::from_secs(2), lab.client().apiserver_version()).await;
    assert!(asked().await.is_ok());
    lab.pause_api()?;
    let paused = asked().await;
    lab.resume_api()?;
    assert!(paused.is_err(), "a paused API server does not even refuse: {paused:?}");
    assert!(asked().await.context("it goes on")?.is_ok());
    Ok(())
}

#[tokio::test]
async fn a_lost_claim_is_made_again_empty_and_its_volume_is_removed() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "pvc", async |lab, namespace| {
        perform(&lab, &namespace, 1, volumes::DYNAMIC, "1Gi").await?;
        admit_onlookers(&lab, &namespace, 1).await?;
        let claims = Api::<PersistentVolumeClaim>::namespaced(lab.client().clone(), &namespace);
        let volumes = Api::<PersistentVolume>::all(lab.client().clone());
        let before = claims.get("data-actor-0").await?;
        let old_volume = before.spec.as_ref().and_then(|spec| spec.volume_name.clone()).context("a claim in use is bound")?;

        lab.lose_pvc(&namespace, "data-actor-0").await?;
        assert_ne!(claims.get("data-actor-0").await?.uid(), before.uid());
        wait("the new pod", async || Ok(get_pod(&lab, &namespace, "actor-0").await.is_ok())).await?;
        ready(&lab, &namespace, 1).await?;
        assert!(query(&lab, &namespace, "actor-0", "127.0.0.1", "SELECT 1").await.is_err(), "the account went with the data");
        wait("the old volume to go", async || Ok(volumes.get_opt(&old_volume).await?.is_none())).await?;
        assert!(!volumes::directory(&lab.dirs().lab, &old_volume).exists());
        Ok(())
    })
    .await
}

#[tokio::test]
async fn static_volumes_are_made_beforehand_and_small_ones_really_fill_up() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "volumes", async |lab, namespace| {
        let names = volumes::make_static(&lab, 3, "1Gi").await?;
        perform(&lab, &namespace, 1, volumes::STATIC, "1Gi").await?;
        let claim = Api::<PersistentVolumeClaim>::namespaced(lab.client().clone(), &namespace).get("data-actor-0").await?;
        assert!(claim.spec.and_then(|spec| spec.volume_name).is_some_and(|volume| names.contains(&volume)));
        lab.kubectl(&["delete", "sts,pvc", "--all", "-n", &namespace]).await?;
        for name in &names {
            lab.kubectl(&["delete", "pv", name]).await?;
            volumes::remove_directory(&volumes::directory(&lab.dirs().lab, name)).await?;
        }

        perform(&lab, &namespace, 1, volumes::SMALL, "400Mi").await?;
        let fill =
            lab.kubectl(&["exec", "-n", &namespace, "actor-0", "--", "dd", "if=/dev/zero", "of=/data/fill", "bs=1M", "count=500"]).await;
        assert!(fill.is_err_and(|error| format!("{error:#}").contains("No space left on device")));
        Ok(())
    })
    .await
}

#[tokio::test]
async fn names_resolve_to_every_member_by_srv_and_services_reach_them() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "dns", async |lab, namespace| {
        perform(&lab, &namespace, 2, volumes::DYNAMIC, "1Gi").await?;
        admit_onlookers(&lab, &namespace, 2).await?;
        let mut config = hickory_resolver::config::ResolverConfig::default();
        config.add_name_server(hickory_resolver::config::NameServerConfig::udp(e2e::network::DNS.parse()?));
        let resolver =
            hickory_resolver::Resolver::builder_with_config(config, hickory_resolver::net::runtime::TokioRuntimeProvider::default())
                .build()?;
        wait("both members in SRV", async || {
            let Ok(found) = resolver.srv_lookup(format!("_mysql._tcp.actor.{namespace}.svc.cluster.local.")).await else {
                return Ok(false);
            };
            let answers = format!("{:?}", found.answers());
            Ok(["actor-0", "actor-1"].iter().all(|member| answers.contains(member)) && answers.contains("3306"))
        })
        .await?;
        // kube-proxy takes up one change of Services a second.
        wait("the Service to lead to a member", async || {
            let name = query(&lab, &namespace, "actor-0", "box-office", "SELECT @@hostname").await;
            Ok(name.is_ok_and(|name| name.starts_with("actor-")))
        })
        .await
    })
    .await
}

#[tokio::test]
async fn writes_are_counted_by_user_agent_and_restricted_namespaces_refuse_root() -> Result<()> {
    let (_alone, lab) = lab().await?;
    TestNamespace::run(&lab, "audit", async |lab, namespace| {
        #[allow(clippy::disallowed_methods, reason = "a test's clock")]
        let start = Timestamp::now();
        lab.kubectl(&["create", "configmap", "programme", "-n", &namespace]).await?;
        lab.kubectl(&["get", "configmaps", "-n", &namespace]).await?;
        let mine = |writes: Vec<e2e::audit::Write>| writes.into_iter().filter(|write| write.uri.contains(&namespace)).count();
        assert_eq!(mine(lab.audit_writes("kubectl", start).await?), 1, "reads are not writes");
        assert_eq!(mine(lab.audit_writes("somebody-else", start).await?), 0);

        let run = lab.kubectl(&["run", "rogue", "-n", &namespace, "--image=localhost/pause:1"]).await;
        assert!(run.is_err_and(|error| format!("{error:#}").contains("restricted")));
        Ok(())
    })
    .await
}
