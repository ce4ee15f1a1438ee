//! Bad input is refused with a message that names the field, or becomes a condition that names what is missing; one cluster's trouble is its own.

use anyhow::{Context, Result, ensure};
use e2e::stage::on_light_stage;
use e2e::volumes;
use serde_json::{Value, json};

use crate::rig::{Cluster, IMAGE, USER};
use crate::writer::Writer;

fn changed(path: &[&str], value: Value) -> Value {
    let mut spec = Cluster::spec(3);
    let mut at = &mut spec;
    for key in path {
        at = &mut at[*key];
    }
    *at = value;
    spec
}

fn user(field: &str, value: &str) -> Value {
    let mut user = json!({"name": "clerk"});
    user[field] = json!(value);
    changed(&["users"], json!([user]))
}

#[tokio::test]
async fn bad_input_is_refused_with_the_name_of_the_field() -> Result<()> {
    on_light_stage("refused", |lab, namespace| async move {
        let cases = [
            (changed(&["replicas"], json!(0)), "spec.replicas"),
            (changed(&["replicas"], json!(-1)), "spec.replicas"),
            (changed(&["replicas"], json!(32)), "spec.replicas"),
            (changed(&["replicas"], json!("three")), "spec.replicas"),
            (changed(&["storage", "size"], json!("large")), "storage.size"),
            (changed(&["storage", "size"], json!("-1Gi")), "storage.size"),
            (changed(&["image"], json!("")), "spec.image"),
            (changed(&["engine"], json!("KeyDB")), "spec.engine"),
            (changed(&["persistence"], json!("Sometimes")), "spec.persistence"),
            (changed(&["tls"], json!("Perhaps")), "spec.tls"),
            (changed(&["config"], json!({"replicaof": "10.0.0.1 6379"})), "set by the operator"),
            (changed(&["config"], json!({"tls-port": 1})), "set by the operator"),
            (changed(&["config"], json!({"min-slaves-to-write": 0})), "set by the operator"),
            (changed(&["config"], json!({"cluster-enabled": "yes"})), "set by the operator"),
            (changed(&["config"], json!({"maxmemory": "1gb\nreplicaof no one"})), "one line"),
            (changed(&["config"], json!({"maxmemory 1gb\nrequirepass": "x"})), "option names"),
            (changed(&["config"], json!({"MaxMemory": "1gb"})), "option names"),
            (changed(&["durability"], json!({"minReplicasToWrite": 3})), "minReplicasToWrite"),
            (changed(&["durability"], json!({"maxLagSeconds": 0})), "maxLagSeconds"),
            (changed(&["maxReplicaLagSeconds"], json!(1)), "maxReplicaLagSeconds"),
            (changed(&["passwordOverlapSeconds"], json!(1)), "passwordOverlapSeconds"),
            (changed(&["sentinel"], json!({"masterName": "my master"})), "masterName"),
            (changed(&["update"], json!({"strategy": "OnDelete", "partition": 1})), "partition"),
            (changed(&["suspend"], json!(true)).as_object().map(|spec| {
                let mut spec = spec.clone();
                spec.insert("hibernate".into(), json!(true));
                Value::Object(spec)
            }).context("a spec is an object")?, "contradict"),
            (user("name", "understudy-x"), "users.name"),
            (user("name", "two words"), "users.name"),
            (user("rules", "~* +@all >password"), "users.rules"),
            (user("rules", "nopass ~* +@all"), "users.rules"),
            (user("rules", "~* +@all\nuser evil on nopass +@all"), "users.rules"),
            (user("secret", ""), "users.secret"),
            (changed(&["users"], json!([{"name": "clerk"}, {"name": "clerk"}])), "each name once"),
        ];
        let cluster = Cluster::new(&lab, &namespace);
        for (spec, words) in cases {
            let said = cluster.apply(spec.clone()).await.err().with_context(|| format!("accepted: {spec}"))?.to_string();
            ensure!(said.contains(words), "the refusal of {spec} does not say {words:?}: {said}");
        }
        // kubectl refuses unknown fields by default; so does an API client that asks for strict validation.
        let manifest = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": {"name": "cache", "namespace": namespace},
                              "spec": {"storage": {"size": "1Gi"}, "replica": 3}});
        let said = lab.kubectl_apply(&manifest.to_string()).await.err().context("an unknown field was accepted")?.to_string();
        ensure!(said.contains("spec.replica"), "{said}");
        let long = Cluster::named(&lab, &namespace, &"a".repeat(41));
        let said = long.apply(Cluster::spec(1)).await.err().context("a long name was accepted")?.to_string();
        ensure!(said.contains("metadata.name"), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_named_and_heals_when_it_comes() -> Result<()> {
    on_light_stage("missing", |lab, namespace| async move {
        let cluster = Cluster::new(&lab, &namespace);
        let mut spec = Cluster::spec(1);
        // Classes belong to the whole Kubernetes: one that no earlier run has left.
        let class = format!("late-{namespace}");
        spec["storage"]["className"] = json!(class);
        spec["users"][0]["secret"] = json!("no-such-secret");
        spec["image"] = json!("localhost/redis:no-such-image");
        cluster.apply(spec).await?;
        cluster.says("Stalled", "no-such-secret").await?;
        lab.kubectl(&["create", "secret", "generic", "no-such-secret", "-n", &namespace, "--from-literal=password=opening-night"]).await?;
        cluster.says("Stalled", &class).await?;
        // The class comes, with a volume that somebody has provisioned by hand.
        let late = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": class},
                          "provisioner": "kubernetes.io/no-provisioner", "volumeBindingMode": "WaitForFirstConsumer"});
        lab.kubectl_apply(&late.to_string()).await?;
        let directory = volumes::directory(&lab.dirs().lab, &namespace);
        volumes::make_directory(&directory, None).await?;
        lab.kubectl_apply(&volumes::local_volume(&namespace, &class, "1Gi", "node1", &directory).to_string()).await?;
        cluster.says("Stalled", "no-such-image").await?;
        // An image of something else, and one of the other engine.
        cluster.merge(json!({"image": e2e::images::PAUSE})).await?;
        cluster.says("Stalled", "cache-0").await?;
        cluster.merge(json!({"image": IMAGE, "engine": "Valkey"})).await?;
        cluster.says("Stalled", "WrongEngine").await?;
        cluster.merge(json!({"engine": null})).await?;
        let healed = cluster.whole(1).await;
        lab.kubectl(&["delete", &format!("storageclass/{class}"), &format!("persistentvolume/{namespace}"), "--wait=false"]).await?;
        healed
    })
    .await
}

#[tokio::test]
async fn clusters_that_hang_or_cannot_start_delay_no_other() -> Result<()> {
    on_light_stage("neighbours", |lab, namespace| async move {
        let (hangs, broken) = (Cluster::named(&lab, &namespace, "hangs"), Cluster::named(&lab, &namespace, "broken"));
        let typo = Cluster::named(&lab, &namespace, "typo");
        hangs.apply(Cluster::spec(1)).await?;
        broken.apply(changed(&["image"], json!("localhost/there-is-no-such-image"))).await?;
        typo.apply(changed(&["config"], json!({"maxmemmory": "1gb"}))).await?;
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        hangs.whole(1).await?;

        // It keeps its connections, and says nothing more.
        lab.freeze(&namespace, "hangs-0").await?;
        hangs.says("Degraded", "does not answer").await?;
        ensure!(hangs.status().await?.state == "PrimaryUnavailable", "{:?}", hangs.status().await?);
        broken.says("Stalled", "broken-0").await?;
        typo.says("Stalled", "maxmemmory").await?;
        let writer = Writer::start(&cluster, 1);
        writer.goes_on().await?;
        let new = cluster.crashed(&cluster.primary().await?).await?;
        cluster.leads(&new).await?;
        writer.goes_on().await?;
        cluster.whole(3).await?;
        cluster.holds(&writer.finish().await?).await?;
        lab.thaw(&namespace, "hangs-0").await?;
        hangs.whole(1).await?;
        typo.merge(json!({"config": {"maxmemmory": null}, "users": [{"name": USER}]})).await?;
        typo.whole(3).await
    })
    .await
}
