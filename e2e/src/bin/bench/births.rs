//! From apply to three ready members, beside three mysqlds that initialise and do nothing else.

use anyhow::Result;
use e2e::ui::Ui;
use e2e::{Lab, TestNamespace, images};
use serde_json::json;
use tokio::time::Instant;

use crate::stage::{apply, gone, spec, until_ready};
use crate::table::{median, row};

const RUNS: usize = 3;

pub async fn measure(lab: &Lab, ui: &Ui) -> Result<()> {
    let (mut ours, mut floor) = (Vec::new(), Vec::new());
    for run in 1..=RUNS {
        ui.step(&format!("three members and three bare mysqlds, run {run} of {RUNS}"), async {
            floor.push(bare(lab).await?);
            ours.push(cluster(lab).await?);
            Ok(())
        })
        .await?;
    }
    row("apply to 3 Ready, against 3 bare --initialize pods, s", median(&mut ours), median(&mut floor), "ratio <= 1.3");
    Ok(())
}

async fn cluster(lab: &Lab) -> Result<f64> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let start = Instant::now();
    apply(lab, namespace.name(), spec(3)).await?;
    let seconds = until_ready(lab, namespace.name(), "bench", 3, start).await?;
    gone(lab, namespace).await?;
    Ok(seconds)
}

/// The floor: three pods of the same image that initialise and start, and do nothing else.
async fn bare(lab: &Lab) -> Result<f64> {
    let namespace = TestNamespace::new(lab, "bench").await?;
    let script = "mysqld --initialize-insecure --datadir=/data/data && exec mysqld --datadir=/data/data --socket=/tmp/s --pid-file=/tmp/p --mysqlx=OFF";
    let restricted = json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true});
    let set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "bare"}, "spec": {
        "serviceName": "bare", "replicas": 3, "podManagementPolicy": "Parallel", "selector": {"matchLabels": {"app": "bare"}},
        "template": {"metadata": {"labels": {"app": "bare"}}, "spec": {
            "automountServiceAccountToken": false, "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": true, "runAsUser": 999, "runAsGroup": 999, "fsGroup": 999, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": "tmp", "emptyDir": {}}],
            "containers": [{"name": "mysql", "image": images::MYSQL, "imagePullPolicy": "Never", "command": ["sh", "-c", script], "securityContext": restricted,
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "tmp", "mountPath": "/tmp"}],
                "readinessProbe": {"tcpSocket": {"port": 3306}, "periodSeconds": 1}}]}},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "8Gi"}}}}]}});
    let start = Instant::now();
    apply(lab, namespace.name(), set).await?;
    let seconds = until_ready(lab, namespace.name(), "bare", 3, start).await?;
    gone(lab, namespace).await?;
    Ok(seconds)
}
