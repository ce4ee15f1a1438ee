//! Nothing secret leaks, lost Secrets come back, and passwords and certificates change while everybody works.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::stage::{SYSTEM, eventually, on_light_stage};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use redis::cmd;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, sleep};

use crate::rig::{Cluster, USER, answer};
use crate::way::Way;
use crate::writer::Writer;

/// Passwords that a test hands in.
const FIRST: &str = "first-4f1c";
const SECOND: &str = "second-9b2d";
/// The shortest that there is.
const OVERLAP: Duration = Duration::from_secs(60);

/// Logs in to each member again and again, with the password that `NAME-app` has at that moment.
struct Logins {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    task: JoinHandle<Vec<String>>,
}

impl Logins {
    fn start(cluster: &Cluster) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (cluster, stopped, counted) = (cluster.clone(), Arc::clone(&stop), Arc::clone(&count));
        let task = tokio::spawn(async move {
            let mut failed = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                for ordinal in 0..3 {
                    match cluster.to(&cluster.member(ordinal)).await {
                        Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                        // A machine that is busy is none that refuses.
                        Err(error) if error.is::<Elapsed>() => {}
                        Err(error) => failed.push(format!("{}: {error:#}", cluster.member(ordinal))),
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
            failed
        });
        Self { stop, count, task }
    }

    /// Not one may have failed.
    async fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        let failed = self.task.await?;
        ensure!(failed.is_empty(), "{} logins failed, the first: {:?}", failed.len(), failed.first());
        Ok(self.count.load(Ordering::Relaxed))
    }
}

/// Writes one key of a Secret.
async fn put(cluster: &Cluster, secret: &str, key: &str, value: &str) -> Result<()> {
    let patch = json!({"stringData": {key: value}});
    cluster.secrets().patch(secret, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

#[tokio::test]
async fn no_password_is_found_where_it_does_not_belong() -> Result<()> {
    on_light_stage("leaks", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 2).await?;
        let mut canaries = Vec::new();
        for secret in cluster.secrets().list(&ListParams::default()).await?.items {
            for (key, value) in secret.data.unwrap_or_default() {
                let text = String::from_utf8_lossy(&value.0).into_owned();
                let secret_key = [USER, "replication", "exporter"].contains(&key.as_str()) || key.ends_with(".key");
                // A PEM key is looked for by a line of its body.
                canaries.extend(text.lines().max_by_key(|line| line.len()).filter(|_| secret_key).map(str::to_owned));
            }
        }
        ensure!(canaries.len() >= 4 && canaries.iter().all(|canary| canary.len() > 8), "only {} secrets found", canaries.len());
        let objects = "redisreplications,statefulsets,pods,configmaps,events,services,endpointslices";
        let mut places = vec![
            ("objects", lab.kubectl(&["get", objects, "-n", &namespace, "-o", "yaml"]).await?),
            ("the operator's log", lab.kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "--tail=-1"]).await?),
        ];
        for member in ["cache-0", "cache-1"] {
            places.push(("logs", lab.kubectl(&["logs", "-n", &namespace, member, "--all-containers"]).await?));
            places.push(("argv", lab.process_cmdlines(&namespace, member).await?.join("\n")));
            places.push(("environment", lab.process_environ(&namespace, member).await?.join("\n")));
        }
        for (place, text) in &places {
            ensure!(!text.is_empty(), "{place} is empty");
            ensure!(!canaries.iter().any(|canary| text.contains(canary)), "a secret is in {place}");
        }
        for pod in cluster.pods().list(&ListParams::default()).await?.items {
            let spec = pod.spec.unwrap_or_default();
            ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
        }
        let users: Vec<String> = cluster.asks("cache-0", cmd("ACL").arg("LIST")).await?;
        let default = users.iter().find(|line| line.starts_with("user default ")).context("no account default")?;
        ensure!(default.contains(" off "), "whoever gives no name is let in: {default}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_password_that_is_replaced_under_load_fails_no_login_and_the_old_one_ends_after_its_overlap() -> Result<()> {
    on_light_stage("password", |lab, namespace| async move {
        let cluster = Cluster::new(&lab, &namespace);
        let mut spec = Cluster::spec(3);
        (spec["users"][0]["secret"], spec["passwordOverlapSeconds"]) = (json!("app-password"), json!(OVERLAP.as_secs()));
        cluster.apply(spec).await?;
        cluster.says("Stalled", "app-password").await?;
        let secret = json!({"metadata": {"name": "app-password"}, "stringData": {"password": FIRST}});
        cluster.secrets().create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        cluster.whole(3).await?;
        let pods = [cluster.pod_uid("cache-0").await?, cluster.pod_uid("cache-1").await?, cluster.pod_uid("cache-2").await?];
        let (logins, writer) = (Logins::start(&cluster), Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let old = Way::of(&cluster).await?;
        ensure!(old.password == FIRST, "NAME-app has another password");
        let mut open = old.connect(&old.primary).await?;

        put(&cluster, "app-password", "password", SECOND).await?;
        let asked = Instant::now();
        eventually("the new password to be handed out", || async {
            ensure!(cluster.secret_value("app", USER).await? == SECOND, "not yet");
            Ok(())
        })
        .await?;
        println!("a new password was handed out after {} ms", asked.elapsed().as_millis());
        let handed_out = Instant::now();
        // Who has not looked since may still log in.
        for ordinal in 0..3 {
            old.connect(&cluster.address(&cluster.member(ordinal)).await?).await.context("the old password was taken away at once")?;
        }
        writer.goes_on().await?;
        eventually("the old password to be refused", || async {
            for ordinal in 0..3 {
                ensure!(old.connect(&cluster.address(&cluster.member(ordinal)).await?).await.is_err(), "the old password is taken");
            }
            Ok(())
        })
        .await?;
        let ended = handed_out.elapsed();
        ensure!(ended + Duration::from_secs(5) > OVERLAP, "the old password was taken for {ended:?} only");
        answer::<String>(&mut open, &cmd("PING")).await.context("a connection that was open was cut off")?;
        println!("{} logins", logins.finish().await?);
        let now = [cluster.pod_uid("cache-0").await?, cluster.pod_uid("cache-1").await?, cluster.pod_uid("cache-2").await?];
        ensure!(now == pods, "a password cost a restart");
        cluster.whole(3).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn all_passwords_of_ours_are_replaced_on_request_without_a_failed_login_or_a_broken_link() -> Result<()> {
    on_light_stage("rotate", |lab, namespace| async move {
        let mut spec = Cluster::spec(3);
        spec["passwordOverlapSeconds"] = json!(OVERLAP.as_secs());
        let cluster = Cluster::create_from(&lab, &namespace, spec).await?;
        let (logins, writer) = (Logins::start(&cluster), Writer::start(&cluster, 1));
        writer.goes_on().await?;
        let (application, replication) = (cluster.secret_value("app", USER).await?, cluster.secret_value("system", "replication").await?);
        let certificate = cluster.secret_value("tls", "tls.crt").await?;
        cluster.annotate("understudy.dev/rotate-passwords", "now").await?;
        eventually("new passwords alone", || async {
            ensure!(cluster.secret_value("app", USER).await? != application, "the application has the old one");
            let now = cluster.secret_value("system", "replication").await?;
            ensure!(now != replication && now.trim().lines().count() == 1, "the members have the old one");
            Ok(())
        })
        .await?;
        cluster.annotate("understudy.dev/rotate-certificates", "now").await?;
        eventually("a new certificate by a new authority, trusted alone", || async {
            let (now, trusted) = (cluster.secret_value("tls", "tls.crt").await?, cluster.secret_value("tls", "ca.crt").await?);
            ensure!(now != certificate && trusted.matches("BEGIN CERTIFICATE").count() == 1, "the bundle is still in change");
            Ok(())
        })
        .await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;

        println!("{} logins", logins.finish().await?);
        // What is lost is made again; what members use is not taken from them.
        for secret in ["cache-app", "cache-tls"] {
            cluster.secrets().delete(secret, &DeleteParams::default()).await?;
        }
        eventually("the Secrets to be back", || async { Way::of(&cluster).await.map(drop) }).await?;
        // A member that joins with the new passwords and certificates, and a primary that is made with them.
        cluster.merge(json!({"replicas": 4})).await?;
        cluster.whole(4).await?;
        cluster.crashed(&cluster.primary().await?).await?;
        writer.goes_on().await?;
        cluster.whole(4).await?;
        cluster.holds(&writer.finish().await?).await
    })
    .await
}
