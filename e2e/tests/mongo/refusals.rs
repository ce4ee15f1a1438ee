//! Bad input is refused at admission with the name of the field; what goes wrong later is said.

use anyhow::{Result, ensure};
use e2e::stage::on_light_stage;
use serde_json::{Value, json};

use crate::rig::Set;

#[tokio::test]
async fn bad_input_is_refused_with_the_name_of_the_field() -> Result<()> {
    on_light_stage("refuse", |lab, namespace| async move {
        let set = Set::new(&lab, &namespace);
        let with = |field: &str, value: Value| {
            let mut spec = Set::spec(3);
            spec[field] = value;
            spec
        };
        let cases = [
            (with("replicas", json!(0)), "replicas"),
            (with("replicas", json!(51)), "replicas"),
            (with("arbiters", json!(1)), "arbiters"),
            (with("config", json!({"net.port": 1})), "spec.config"),
            (with("config", json!({"replication.replSetName": "x"})), "spec.config"),
            (with("users", json!([{"name": "understudy-x", "database": "shop", "roles": []}])), "users"),
            (with("tls", json!("Perhaps")), "tls"),
            (with("featureCompatibilityVersion", json!("latest")), "featureCompatibilityVersion"),
        ];
        for (spec, word) in cases {
            let refused = set.apply(spec.clone()).await;
            let message = refused.err().map(|error| format!("{error:#}")).unwrap_or_default();
            ensure!(message.contains(word), "{spec} is refused with: {message:?}");
        }
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_wrong_image_is_said_and_heals_when_it_is_mended() -> Result<()> {
    on_light_stage("image", |lab, namespace| async move {
        let set = Set::new(&lab, &namespace);
        let mut spec = Set::spec(3);
        spec["image"] = json!("localhost/no-such-image:1");
        set.apply(spec).await?;
        set.says("Stalled", "stock-").await?;
        set.apply(Set::spec(3)).await?;
        set.whole(3).await
    })
    .await
}
