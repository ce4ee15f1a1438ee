//! What an idle set costs the API.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::stage::{SYSTEM, on_light_stage};
use jiff::Timestamp;
use tokio::time::sleep;

use crate::rig::Set;

#[tokio::test]
async fn an_idle_set_costs_no_api_write() -> Result<()> {
    on_light_stage("quiet", |lab, namespace| async move {
        let _set = Set::create(&lab, &namespace, 3).await?;
        sleep(Duration::from_secs(5)).await;
        #[expect(clippy::disallowed_methods, reason = "the audit log has wall-clock times")]
        let since = Timestamp::now();
        sleep(Duration::from_secs(60)).await;
        let user = format!("system:serviceaccount:{SYSTEM}:");
        let own = |uri: &str| uri.contains(&format!("/namespaces/{namespace}/"));
        let writes = lab.writes_since(since).await?;
        let writes: Vec<_> = writes.iter().filter(|write| write.user.username.starts_with(&user) && own(&write.uri)).collect();
        ensure!(writes.is_empty(), "{} writes in an idle minute: {writes:?}", writes.len());
        Ok(())
    })
    .await
}
