//! What was written to the API, by whom: the API server's audit log, read by tests that count. And what the operator says that it decided.

use anyhow::{Context, Result};
use crds::decisions::{self, Decided};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde::Deserialize;

use crate::lab::Lab;

/// One write that the API server answered.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Write {
    /// create, update, patch, delete or deletecollection.
    pub verb: String,
    /// The path, which names the object.
    #[serde(rename = "requestURI")]
    pub uri: String,
    /// The client, as it calls itself.
    #[serde(default)]
    pub user_agent: String,
    /// The authenticated user.
    pub user: User,
    /// When the request arrived.
    #[serde(rename = "requestReceivedTimestamp")]
    pub at: Timestamp,
}

/// Who wrote.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// `system:serviceaccount:NAMESPACE:NAME` for a pod.
    pub username: String,
}

impl Lab {
    /// The operator's record of its decisions about a cluster.
    pub async fn decided(&self, namespace: &str, cluster: &str) -> Result<Vec<Decided>> {
        let map = Api::<ConfigMap>::namespaced(self.client().clone(), namespace).get(&decisions::name(cluster)).await?;
        let text = map.data.and_then(|mut data| data.remove(decisions::KEY)).context("no record")?;
        Ok(serde_json::from_str(&text)?)
    }

    /// Writes since `since` by clients whose user agent begins with `user_agent`; Leases are not counted, since holding one is a heartbeat.
    pub async fn audit_writes(&self, user_agent: &str, since: Timestamp) -> Result<Vec<Write>> {
        let found = self.writes_since(since).await?;
        Ok(found.into_iter().filter(|write| write.user_agent.starts_with(user_agent) && !write.uri.contains("/leases")).collect())
    }

    /// Every write since `since`.
    pub async fn writes_since(&self, since: Timestamp) -> Result<Vec<Write>> {
        let path = self.dirs().audit_log();
        let text =
            tokio::fs::read_to_string(&path).await.with_context(|| format!("cannot read {} (it belongs to root)", path.display()))?;
        // The last line may be half written.
        let writes = text.lines().filter_map(|line| serde_json::from_str::<Write>(line).ok());
        Ok(writes.filter(|write| write.at >= since).collect())
    }
}
