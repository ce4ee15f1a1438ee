//! Bad input is refused with a message that names the field, or becomes a condition that names what is missing: point 9.

use anyhow::{Context, Result, ensure};
use e2e::volumes;
use serde_json::{Value, json};

use crate::rig::Cluster;
use e2e::stage::on_stage;

fn changed(path: &[&str], value: Value) -> Value {
    let mut spec = Cluster::spec(3);
    let mut at = &mut spec;
    for key in path {
        at = &mut at[*key];
    }
    *at = value;
    spec
}

#[tokio::test]
async fn bad_input_is_refused_with_the_name_of_the_field() -> Result<()> {
    on_stage("refused", |lab, namespace| async move {
        let cases = [
            (changed(&["replicas"], json!(0)), "spec.replicas"),
            (changed(&["replicas"], json!(-1)), "spec.replicas"),
            (changed(&["replicas"], json!("three")), "spec.replicas"),
            (changed(&["storage", "size"], json!("large")), "storage.size"),
            (changed(&["storage", "size"], json!("-1Gi")), "storage.size"),
            (changed(&["config", "server_id"], json!(7)), "set by the operator"),
            (changed(&["config", "super-read-only"], json!("OFF")), "set by the operator"),
            (changed(&["config", "loose_gtid_mode"], json!("OFF")), "set by the operator"),
            (changed(&["config", "max_connections"], json!("10\nskip-grant-tables")), "one line"),
            (changed(&["config", "[mysqld]\nskip-grant-tables"], json!(1)), "option names"),
            (changed(&["update"], json!({"strategy": "OnDelete", "partition": 1})), "partition"),
            (changed(&["suspend"], json!(true)).as_object().map(|spec| {
                let mut spec = spec.clone();
                spec.insert("hibernate".into(), json!(true));
                Value::Object(spec)
            }).context("a spec is an object")?, "contradict"),
            (changed(&["database", "owner"], json!("root")), "database.owner"),
            (changed(&["database", "name"], json!("shop`; DROP")), "database.name"),
            (changed(&["durability"], json!("Sometimes")), "durability"),
        ];
        let cluster = Cluster::new(&lab, &namespace);
        for (spec, words) in cases {
            let said = cluster.apply(spec.clone()).await.err().with_context(|| format!("accepted: {spec}"))?.to_string();
            ensure!(said.contains(words), "the refusal of {spec} does not say {words:?}: {said}");
        }
        // kubectl refuses unknown fields by default; so does an API client that asks for strict validation.
        let manifest = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": {"name": "orders", "namespace": namespace},
                              "spec": {"storage": {"size": "1Gi"}, "replica": 3}});
        let said = lab.kubectl_apply(&manifest.to_string()).await.err().context("an unknown field was accepted")?.to_string();
        ensure!(said.contains("spec.replica"), "{said}");
        let mut long = Cluster::new(&lab, &namespace);
        long.name = "a".repeat(41);
        let said = long.apply(Cluster::spec(1)).await.err().context("a long name was accepted")?.to_string();
        ensure!(said.contains("metadata.name"), "{said}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn what_is_missing_is_named_and_its_coming_heals() -> Result<()> {
    on_stage("missing", |lab, namespace| async move {
        let cluster = Cluster::new(&lab, &namespace);
        let mut spec = Cluster::spec(1);
        // Classes belong to the whole Kubernetes: one that no earlier run has left.
        let class = format!("late-{namespace}");
        spec["storage"]["className"] = json!(class);
        spec["database"]["secret"] = json!("no-such-secret");
        spec["image"] = json!("localhost/mysql:no-such-image");
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
        cluster.merge(json!({"image": crate::rig::IMAGE})).await?;
        let healed = cluster.ready(1).await;
        lab.kubectl(&["delete", &format!("storageclass/{class}"), &format!("persistentvolume/{namespace}"), "--wait=false"]).await?;
        healed
    })
    .await
}
