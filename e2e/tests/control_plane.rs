//! A control plane alone: the real API server's rules, in seconds, without root.

use anyhow::Result;
use e2e::ControlPlane;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;

#[tokio::test]
async fn a_control_plane_applies_refuses_and_detects_conflicts() -> Result<()> {
    let plane = ControlPlane::start().await?;
    plane.namespace("stage").await?;
    let maps = Api::<ConfigMap>::namespaced(plane.client().clone(), "stage");
    let apply = |value: &str| {
        Patch::Apply(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "props"}, "data": {"lamp": value}}))
    };
    let first = maps.patch("props", &PatchParams::apply("director"), &apply("on")).await?;

    let again = maps.patch("props", &PatchParams::apply("director"), &apply("on")).await?;
    assert_eq!(first.metadata.resource_version, again.metadata.resource_version, "an apply that changes nothing writes nothing");

    let foreign = maps.patch("props", &PatchParams::apply("understudy"), &apply("off")).await;
    assert!(matches!(foreign, Err(kube::Error::Api(status)) if status.is_conflict()), "another owner's field is a conflict");

    let mut stale = first.clone();
    maps.patch("props", &PatchParams::apply("director"), &apply("dim")).await?;
    stale.data = None;
    let late = maps.replace("props", &PostParams::default(), &stale).await;
    assert!(matches!(late, Err(kube::Error::Api(status)) if status.is_conflict()), "a write with an old resourceVersion is a conflict");

    let nothing = serde_json::from_value::<StatefulSet>(json!({"metadata": {"name": "empty"}, "spec": {
        "serviceName": "empty", "selector": {"matchLabels": {"app": "a"}},
        "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
    }}))?;
    let refused = Api::<StatefulSet>::namespaced(plane.client().clone(), "stage").create(&PostParams::default(), &nothing).await;
    assert!(matches!(refused, Err(kube::Error::Api(status)) if status.is_invalid()), "validation is the real one");

    let pod = serde_json::from_value::<Pod>(json!({"metadata": {"name": "actor"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}))?;
    Api::<Pod>::namespaced(plane.client().clone(), "stage").create(&PostParams::default(), &pod).await?;
    let audit = std::fs::read_to_string(plane.audit_log())?;
    assert!(audit.contains("/namespaces/stage/configmaps/props"), "writes are recorded");
    Ok(())
}

#[tokio::test]
async fn control_planes_do_not_see_each_other_and_leave_no_files() -> Result<()> {
    let (left, right) = tokio::try_join!(ControlPlane::start(), ControlPlane::start())?;
    left.namespace("mine").await?;
    let namespaces = Api::<k8s_openapi::api::core::v1::Namespace>::all(right.client().clone());
    assert!(namespaces.get_opt("mine").await?.is_none());
    let kubeconfig = left.kubeconfig();
    assert!(kubeconfig.exists());
    drop(left);
    assert!(!kubeconfig.exists());
    Ok(())
}
