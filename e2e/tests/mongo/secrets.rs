//! Keys, passwords and TLS: nothing leaks, what is wrong or gone is told, what is replaced interrupts nobody, and no second set is ever made.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::doc;
use e2e::Engine;
use e2e::engine::Mongo;
use e2e::stage::{SYSTEM, eventually, on_light_stage};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use serde_json::json;

use crate::rig::{CONNECT, Set};
use crate::writer::Writer;

/// A password that a test hands in.
const FIRST: &str = "first-4f1c";
const SECOND: &str = "second-9b2d";

fn secrets(set: &Set) -> Api<Secret> {
    Api::namespaced(set.lab.client().clone(), &set.namespace)
}

async fn text(set: &Set, secret: &str, key: &str) -> Result<String> {
    let found = secrets(set).get(secret).await?;
    let value = found.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("{secret} has no {key}"))?;
    Ok(String::from_utf8(value.0.clone())?)
}

/// Writes one key of a Secret.
async fn put(set: &Set, secret: &str, key: &str, value: &str) -> Result<()> {
    let patch = json!({"stringData": {key: value}});
    secrets(set).patch(secret, &PatchParams::default(), &Patch::Merge(patch)).await?;
    Ok(())
}

/// A command as the application, with this password, with or without TLS.
async fn ping(set: &Set, password: &str, tls: bool) -> Result<()> {
    let application = set.application().await?;
    let address = application.primary();
    let client = if tls {
        application.with_password(password).client(address, CONNECT)?
    } else {
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(address)?];
        options.direct_connection = Some(true);
        let account = Credential::builder().username(Mongo::USER.to_owned()).password(password.to_owned());
        options.credential = Some(account.source(Mongo::DATABASE.to_owned()).build());
        (options.connect_timeout, options.server_selection_timeout) = (Some(CONNECT), Some(CONNECT));
        Client::with_options(options)?
    };
    // It is allowed to read: a ping would need no login.
    client.database(Mongo::DATABASE).run_command(doc! { "find": "ledger", "limit": 1 }).await?;
    Ok(())
}

#[tokio::test]
async fn no_password_or_key_is_found_where_it_does_not_belong() -> Result<()> {
    on_light_stage("leaks", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 1).await?;
        let member = set.member(0);
        let mut canaries = Vec::new();
        for secret in secrets(&set).list(&ListParams::default()).await?.items {
            for (key, value) in secret.data.unwrap_or_default() {
                if key == "keyfile" || key == Mongo::USER || key.ends_with(".key") {
                    let text = String::from_utf8_lossy(&value.0).into_owned();
                    canaries.push(text.lines().max_by_key(|line| line.len()).unwrap_or_default().to_owned());
                }
            }
        }
        ensure!(canaries.len() >= 4 && canaries.iter().all(|canary| canary.len() > 8), "only {} secrets found", canaries.len());
        let objects = "mongoreplicasets,statefulsets,pods,configmaps,events,services,endpointslices";
        let places = [
            ("objects", lab.kubectl(&["get", objects, "-n", &namespace, "-o", "yaml"]).await?),
            ("the operator's log", lab.kubectl(&["logs", "-n", SYSTEM, "-l", "app.kubernetes.io/name=understudy", "--tail=-1"]).await?),
            ("logs", lab.kubectl(&["logs", "-n", &namespace, &member, "--all-containers"]).await?),
            ("argv", lab.process_cmdlines(&namespace, &member).await?.join("\n")),
            ("environment", lab.process_environ(&namespace, &member).await?.join("\n")),
        ];
        for (place, text) in &places {
            ensure!(!text.is_empty(), "{place} is empty");
            ensure!(!canaries.iter().any(|canary| text.contains(canary)), "a secret is in {place}");
        }
        let spec = set.pods().get(&member).await?.spec.unwrap_or_default();
        ensure!(spec.automount_service_account_token == Some(false), "a pod has an API token");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_wrong_key_and_a_lost_one_are_told_and_a_key_is_replaced_under_writes() -> Result<()> {
    on_light_stage("key", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let (id, old) = (set.status().await?.replica_set_id, text(&set, "stock-system", "keyfile").await?);

        put(&set, "stock-system", "keyfile", "bm90LXRoZS1rZXktb2YtdGhpcy1zZXQ=").await?;
        set.says("Stalled", "KeyRefused").await?;
        writer.goes_on().await?;
        put(&set, "stock-system", "keyfile", &old).await?;
        set.whole(3).await?;

        secrets(&set).delete("stock-system", &DeleteParams::default()).await?;
        set.says("Stalled", "kubectl patch secret stock-system").await?;
        writer.goes_on().await?;
        put(&set, "stock-system", "keyfile", &old).await?;
        set.whole(3).await?;

        set.annotate("understudy.dev/rotate-key", "now").await?;
        eventually("the new key alone", || async {
            let data = secrets(&set).get("stock-system").await?.data.unwrap_or_default();
            let file = data.get("keyfile").context("no key file")?;
            ensure!(file.0 != old.as_bytes() && !data.contains_key("keyfile.next"), "the rotation goes on");
            Ok(())
        })
        .await?;
        let annotation = "jsonpath={.spec.template.metadata.annotations.understudy\\.dev/read-at-start}";
        eventually("every pod to be started with it", || async {
            let wanted = lab.kubectl(&["get", "sts", "stock", "-n", &namespace, "-o", annotation]).await?;
            for pod in set.pods().list(&ListParams::default()).await?.items {
                let of = pod.metadata.annotations.unwrap_or_default().remove("understudy.dev/read-at-start");
                ensure!(of.as_ref() == Some(&wanted), "{:?} was started with {of:?}", pod.metadata.name);
            }
            Ok(())
        })
        .await?;
        set.whole(3).await?;
        ensure!(set.status().await?.replica_set_id == id, "it is another set");
        set.holds(&writer.finish().await?).await
    })
    .await
}

#[tokio::test]
async fn a_missing_password_is_told_and_a_new_one_is_taken_by_users() -> Result<()> {
    on_light_stage("password", |lab, namespace| async move {
        let set = Set::new(&lab, &namespace);
        let mut spec = Set::spec(1);
        spec["users"][0]["secret"] = json!("clerk-password");
        set.apply(spec).await?;
        set.says("Stalled", "clerk-password").await?;
        let secret = json!({"metadata": {"name": "clerk-password"}, "stringData": {"password": FIRST}});
        secrets(&set).create(&PostParams::default(), &serde_json::from_value(secret)?).await?;
        set.whole(1).await?;
        eventually("the first password", || ping(&set, FIRST, true)).await?;
        ensure!(ping(&set, SECOND, true).await.is_err(), "any password is taken");
        put(&set, "clerk-password", "password", SECOND).await?;
        eventually("the second password", || ping(&set, SECOND, true)).await?;
        eventually("the first one to be refused", || async {
            ensure!(ping(&set, FIRST, true).await.is_err(), "the old password is taken");
            Ok(())
        })
        .await?;
        ensure!(text(&set, "stock-app", Mongo::USER).await? == SECOND, "NAME-app has another password");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn tls_is_changed_one_step_at_a_time() -> Result<()> {
    on_light_stage("tls", |lab, namespace| async move {
        let set = Set::create(&lab, &namespace, 3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let password = text(&set, "stock-app", Mongo::USER).await?;
        ensure!(ping(&set, &password, false).await.is_err(), "plain text is taken though TLS is required");
        let refused = set.merge(json!({"tls": "Disabled"})).await.err().map(|error| format!("{error:#}")).unwrap_or_default();
        ensure!(refused.contains("one step at a time"), "members that do not understand each other: {refused:?}");
        set.merge(json!({"tls": "Preferred"})).await?;
        eventually("plain text to be taken", || ping(&set, &password, false)).await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        set.whole(3).await?;
        set.holds(&writer.finish().await?).await
    })
    .await
}
