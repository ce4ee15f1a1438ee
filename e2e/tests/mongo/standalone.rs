//! The plain StatefulSets of the docs, no operator: with DNS alone, and with mongo-k8s-sidecar's labels and environment.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bson::{Document, doc};
use e2e::Lab;
use e2e::stage::{eventually, on_light_stage};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use mongodb::Client;
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use tokio::time::sleep;

use crate::rig::IMAGE;

const BY_DNS: &str = include_str!("../../../docs/standalone/mongodb.yaml");
const BY_LABELS: &str = include_str!("../../../docs/standalone/mongodb-labels.yaml");
/// What must not happen is watched for this long: several times the sidecar's own pace.
const WATCHED: Duration = Duration::from_secs(20);

/// The StatefulSet `mongo` of a manifest.
struct Plain {
    lab: Lab,
    namespace: String,
    login: Option<Credential>,
}

impl Plain {
    async fn apply(lab: &Lab, namespace: &str, manifest: &str, login: Option<Credential>) -> Result<Self> {
        let manifest = manifest
            .replace("ghcr.io/understudy-dev/understudy:0.1.0", "localhost/understudy:dev")
            // The image of the model has no programs beside mongod; any with coreutils copies a key.
            .replace(
                "image: mongo:8.0\n          command: [install",
                &format!("image: {}\n          command: [install", e2e::images::MYSQL),
            )
            .replace("image: mongo:8.0", &format!("image: {IMAGE}"))
            .replace("storage: 10Gi", "storage: 1Gi");
        let file = std::env::temp_dir().join(format!("{namespace}.yaml"));
        std::fs::write(&file, manifest)?;
        let applied = lab.kubectl(&["apply", "-n", namespace, "-f", &file.display().to_string()]).await;
        std::fs::remove_file(&file)?;
        applied?;
        Ok(Self { lab: lab.clone(), namespace: namespace.into(), login })
    }

    async fn scale(&self, replicas: u32) -> Result<()> {
        self.lab.kubectl(&["scale", "sts", "mongo", &format!("--replicas={replicas}"), "-n", &self.namespace]).await.map(drop)
    }

    async fn ready(&self, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let path = "jsonpath={.status.readyReplicas}/{.status.replicas}";
            let ready = self.lab.kubectl(&["get", "sts", "mongo", "-n", &self.namespace, "-o", path]).await?;
            ensure!(ready == format!("{replicas}/{replicas}"), "{ready}");
            Ok(())
        })
        .await
    }

    async fn client(&self, member: u32) -> Result<Client> {
        let pod = Api::<Pod>::namespaced(self.lab.client().clone(), &self.namespace).get(&format!("mongo-{member}")).await?;
        let address = pod.status.and_then(|status| status.pod_ip).context("no address yet")?;
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(address)?];
        options.direct_connection = Some(true);
        options.credential.clone_from(&self.login);
        options.server_selection_timeout = Some(Duration::from_secs(2));
        Ok(Client::with_options(options)?)
    }

    async fn config(&self) -> Result<Document> {
        let answer = self.client(self.leader().await?).await?.database("admin").run_command(doc! { "replSetGetConfig": 1 }).await?;
        Ok(answer.get_document("config")?.clone())
    }

    /// Ordinal of the member that takes writes, as any member says.
    async fn leader(&self) -> Result<u32> {
        for member in 0..10 {
            let Ok(client) = self.client(member).await else { continue };
            let Ok(hello) = client.database("admin").run_command(doc! { "hello": 1 }).await else { continue };
            if let Some(name) = hello.get_str("primary").ok().and_then(|host| host.split('.').next()) {
                return name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok()).with_context(|| format!("who is {name}?"));
            }
        }
        anyhow::bail!("nobody leads")
    }

    /// Waits until the configuration has so many members, and so many of them vote.
    async fn seats(&self, members: usize, voters: usize) -> Result<()> {
        eventually(&format!("{members} members, {voters} of them voters"), || async {
            let config = self.config().await?;
            let all: Vec<_> = config.get_array("members")?.iter().filter_map(|member| member.as_document()).collect();
            let voting = all.iter().filter(|member| member.get_i32("votes").unwrap_or(1) == 1).count();
            ensure!(all.len() == members && voting == voters, "{} members, {voting} voters", all.len());
            let named = all.iter().all(|member| member.get_str("host").is_ok_and(|host| host.starts_with("mongo-")));
            ensure!(named, "somebody is not called by its name: {all:?}");
            Ok(())
        })
        .await
    }

    /// A majority holds `number`.
    async fn write(&self, number: i32) -> Result<()> {
        eventually("a majority write", || async {
            let insert = doc! { "update": "ledger", "updates": [{ "q": { "_id": number }, "u": { "$set": { "n": number } }, "upsert": true }],
                "writeConcern": { "w": "majority", "wtimeout": 2000 } };
            let answer = self.client(self.leader().await?).await?.database("shop").run_command(insert).await?;
            ensure!(!answer.contains_key("writeErrors") && !answer.contains_key("writeConcernError"), "{answer}");
            Ok(())
        })
        .await
    }

    /// Kills the primary's mongod, and waits for another one that takes writes.
    async fn lose_primary(&self, number: i32) -> Result<()> {
        let old = self.leader().await?;
        self.lab.kill_container(&self.namespace, &format!("mongo-{old}"), "mongo").await?;
        self.write(number).await
    }
}

#[tokio::test]
async fn the_manifest_with_dns_alone_comes_up_scales_and_survives_its_primary() -> Result<()> {
    on_light_stage("plain", |lab, namespace| async move {
        let login = Credential::builder().username("root".to_owned()).password("change-me".to_owned()).source("admin".to_owned()).build();
        let set = Plain::apply(&lab, &namespace, BY_DNS, Some(login)).await?;
        set.ready(3).await?;
        set.seats(3, 3).await?;
        set.write(1).await?;
        for (replicas, voters) in [(5, 5), (10, 7)] {
            set.scale(replicas).await?;
            set.ready(replicas).await?;
            set.seats(replicas as usize, voters).await?;
        }
        set.lose_primary(2).await?;
        set.ready(10).await?;
        lab.lose_pvc(&namespace, "data-mongo-0").await?;
        set.ready(10).await?;
        set.write(3).await?;
        let pod = Api::<Pod>::namespaced(lab.client().clone(), &namespace).get("mongo-0").await?;
        ensure!(pod.spec.context("a pod has a spec")?.automount_service_account_token == Some(false), "a pod has an API token");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn the_manifest_with_labels_comes_up_scales_and_takes_a_forbidden_api_for_no_answer() -> Result<()> {
    on_light_stage("labels", |lab, namespace| async move {
        let set = Plain::apply(&lab, &namespace, BY_LABELS, None).await?;
        set.ready(3).await?;
        set.seats(3, 3).await?;
        set.scale(5).await?;
        set.ready(5).await?;
        set.seats(5, 5).await?;
        set.lose_primary(1).await?;
        set.ready(5).await?;

        lab.kubectl(&["delete", "rolebinding", "mongo", "-n", &namespace]).await?;
        sleep(WATCHED).await;
        set.seats(5, 5).await?;
        set.lose_primary(2).await?;
        set.seats(5, 5).await
    })
    .await
}
