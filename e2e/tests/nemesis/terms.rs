//! Who was primary of which term, and what the operator said: every status that it wrote, by a watch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::engine::{Cluster, Engine, Glance};
use e2e::history::Tenure;
use e2e::stage::eventually;
use futures::{StreamExt, TryStreamExt};
use jiff::Timestamp;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::log::Log;

pub struct Terms {
    seen: Arc<Mutex<Vec<Tenure>>>,
    task: JoinHandle<()>,
}

impl Terms {
    /// Watches from now on.
    pub fn watch<E: Engine>(cluster: &Cluster<E>, log: Log) -> Self {
        let (api, start) = (cluster.api(), log.start);
        let seen = Arc::<Mutex<Vec<Tenure>>>::default();
        let config = watcher::Config::default().fields(&format!("metadata.name={}", cluster.name));
        let found = seen.clone();
        let task = tokio::spawn(async move {
            let mut objects = watcher(api, config).default_backoff().applied_objects().boxed();
            let (mut before, mut said) = (Duration::ZERO, String::new());
            loop {
                // The watcher begins again by itself after an error.
                let Ok(object) = objects.try_next().await else { continue };
                let Some(object) = object else { return };
                let glance = E::glance(&object);
                if let Some(glance) = glance.as_ref().filter(|glance| glance.story != said) {
                    log.note(&format!("    {}", glance.story));
                    said.clone_from(&glance.story);
                }
                let mut tenures = found.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(tenure) = glance.and_then(|glance| tenure(&glance, start, before))
                    && !tenures.iter().any(|known| (known.term, &known.member) == (tenure.term, &tenure.member))
                {
                    tenures.push(tenure);
                }
                before = start.elapsed();
            }
        });
        Self { seen, task }
    }

    /// All of them, when the one that is `last` has been seen.
    pub async fn until(self, last: &Glance) -> Result<Vec<Tenure>> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        eventually("the watch of terms", || async {
            ensure!(seen().iter().any(|tenure| tenure.term >= last.term), "term {} is not seen yet", last.term);
            Ok(())
        })
        .await?;
        self.task.abort();
        Ok(seen())
    }
}

/// Whom this status lets acknowledge writes. A claim without a transition was made after the status `before` it at the earliest.
fn tenure(status: &Glance, start: Instant, before: Duration) -> Option<Tenure> {
    let (member, since) = match &status.transition {
        None => (status.primary.clone()?, before),
        Some(change) if change.promoting => (change.to.clone()?, since(&change.since, start).unwrap_or(before)),
        Some(_) => return None,
    };
    Some(Tenure { term: status.term, member, since })
}

/// A moment of the operator's clock, which is this machine's, in time since `start`.
#[allow(clippy::disallowed_methods, reason = "a test's clock")]
fn since(text: &str, start: Instant) -> Option<Duration> {
    let ago = Timestamp::now().duration_since(text.parse().ok()?);
    Some(start.elapsed().saturating_sub(ago.unsigned_abs()))
}
