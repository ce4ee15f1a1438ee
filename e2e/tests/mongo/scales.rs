//! More members and fewer: every configuration on the way is legal, never more than seven vote, and whoever leads stays in.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use bson::{Bson, doc};
use e2e::Engine;
use e2e::engine::Mongo;
use e2e::stage::on_light_stage;
use serde_json::json;
use sidecar_protocol::mongo::MAX_VOTERS;
use sidecar_protocol::mongo::config::Config;
use sidecar_protocol::mongo::rules::{Server, check, check_step, voters};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::rig::{CONNECT, Set};
use crate::writer::Writer;

/// Configurations change a few times a second at most.
const PERIOD: Duration = Duration::from_millis(50);
/// Whose rules are the strictest about votes: one change a step.
const STRICTEST: Server = Server { version: (4, 4), has_default_write_concern: false };

/// Every configuration that whoever leads has shown, by its version.
struct Steps {
    seen: Arc<Mutex<BTreeMap<i32, Config<Bson>>>>,
    task: JoinHandle<()>,
}

impl Steps {
    async fn watch(set: &Set) -> Result<Self> {
        let application = set.application().await?;
        let seen = Arc::new(Mutex::new(BTreeMap::new()));
        let (into, mut client) = (seen.clone(), None);
        let task = tokio::spawn(async move {
            loop {
                if client.is_none() {
                    client = application.client(application.primary(), CONNECT).ok();
                }
                if let Some(open) = &client {
                    match open.database("admin").run_command(doc! { "replSetGetConfig": 1 }).await {
                        Ok(answer) => {
                            let config = answer.get_document("config").ok().cloned().unwrap_or_default();
                            if let Ok(config) = bson::deserialize_from_document::<Config<Bson>>(config) {
                                into.lock().unwrap_or_else(PoisonError::into_inner).entry(config.version).or_insert(config);
                            }
                        }
                        Err(_) => client = None,
                    }
                }
                sleep(PERIOD).await;
            }
        });
        Ok(Self { seen, task })
    }

    /// Checks all of them; says how many there were.
    fn check(&self) -> Result<usize> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        for config in seen.values() {
            let count = voters(&config.members).count();
            ensure!(count <= MAX_VOTERS, "{count} vote in version {}", config.version);
            check(&config.members).map_err(|why| anyhow::anyhow!("version {} is not legal: {why}", config.version))?;
        }
        for (old, new) in seen.values().zip(seen.values().skip(1)).filter(|(old, new)| old.version + 1 == new.version) {
            check_step(old, new, STRICTEST).map_err(|why| anyhow::anyhow!("the step to version {} is not legal: {why}", new.version))?;
        }
        Ok(seen.len())
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test]
async fn three_to_five_to_ten_to_three_under_writes_by_legal_steps() -> Result<()> {
    on_light_stage("scale", |lab, namespace| async move {
        let set = Set::new(&lab, &namespace);
        let mut spec = Set::spec(3);
        // The application may look at the set.
        spec["users"][0]["roles"] = json!([{"role": "readWrite", "db": Mongo::DATABASE}, {"role": "clusterMonitor", "db": "admin"}]);
        set.apply(spec).await?;
        set.whole(3).await?;
        let writer = Writer::start(&set, 1).await?;
        writer.goes_on().await?;
        let steps = Steps::watch(&set).await?;
        for replicas in [5, 10, 3] {
            set.merge(json!({"replicas": replicas})).await?;
            set.whole(replicas).await?;
            writer.goes_on().await?;
        }
        let count = steps.check()?;
        // Two members that come and go are four votes at least; ten have seven.
        ensure!(count > 8, "only {count} configurations were seen");
        set.holds(&writer.finish().await?).await
    })
    .await
}
