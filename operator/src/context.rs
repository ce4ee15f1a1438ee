//! What every reconcile of one scope shares.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use backon::ExponentialBackoff;
use kube::Client;
use rustls::ClientConfig;
use sidecar_protocol::SILENCE_MILLIS;
use sidecar_protocol::client::ClientError;
use tokio::time::Instant;

use crate::apply::Memory;
use crate::desired::{Desired, Invalid};
use crate::engine::Engine;
use crate::events::Events;
use crate::explain::Explain;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::pauses;
use crate::secrets::Credentials;
use crate::watches::{Caches, ClusterRef};

/// A failed reconcile is tried again after this, then ever later.
const FIRST_RETRY: Duration = Duration::from_millis(250);
/// Jitter adds up to as much again. Not longer: when the API server is back, a lost primary waits for this.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// How long the first pass listens to members before it decides.
pub const LISTEN: Duration = Duration::from_millis(SILENCE_MILLIS);

/// What every reconcile of one engine in one scope shares.
pub struct Context<E: Engine> {
    /// Access to Kubernetes.
    pub client: Client,
    /// What the watches show.
    pub caches: Caches,
    /// What the members say.
    pub members: Arc<Members<E>>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What is told to people.
    pub events: Events,
    /// What is recorded of decisions.
    pub explain: Explain,
    /// Where pods take the sidecar from.
    pub sidecar_image: String,
    notes: Mutex<HashMap<ClusterRef, Arc<Notes<E>>>>,
}

/// What the passes over one cluster remember of each other. It may be lost at any time.
#[derive(Debug, Default)]
pub struct Notes<E: Engine> {
    /// Of applying.
    pub memory: Memory,
    wanted: Mutex<Option<Desired<E>>>,
    tls: Mutex<Option<(Credentials, Arc<ClientConfig>)>>,
    retries: Mutex<Option<ExponentialBackoff>>,
    begun: OnceLock<Instant>,
    listened: AtomicBool,
}

impl<E: Engine> Context<E> {
    /// With nothing noted yet.
    #[must_use]
    pub fn new(
        client: Client,
        caches: Caches,
        members: Arc<Members<E>>,
        metrics: Arc<Metrics>,
        events: Events,
        sidecar_image: String,
    ) -> Self {
        let explain = Explain::new(client.clone());
        Self { client, caches, members, metrics, events, explain, sidecar_image, notes: Mutex::default() }
    }

    /// The notes on a cluster.
    #[must_use]
    pub fn notes(&self, cluster: &ClusterRef) -> Arc<Notes<E>> {
        Arc::clone(lock(&self.notes).entry(cluster.clone()).or_default())
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterRef) {
        lock(&self.notes).remove(cluster);
        self.members.forget(cluster);
        self.explain.forget(cluster);
        self.metrics.forget(E::LABEL, cluster);
    }
}

impl<E: Engine> Notes<E> {
    /// What is wanted of the object with this UID. While its newest spec cannot be meant, that is what was wanted before, and what is
    /// wrong: a typing error is no reason to leave a lost primary without a successor.
    ///
    /// # Errors
    /// When this process saw no spec before that could be meant.
    pub fn wanted(&self, uid: Option<&str>, checked: Result<Desired<E>, Invalid>) -> Result<(Desired<E>, Option<Invalid>), Invalid> {
        let mut before = lock(&self.wanted);
        match checked {
            Ok(desired) => Ok((before.insert(desired).clone(), None)),
            // An object of the same name is another one.
            Err(invalid) => match before.as_ref().filter(|desired| Some(desired.uid.as_str()) == uid) {
                Some(desired) => Ok((desired.clone(), Some(invalid))),
                None => Err(invalid),
            },
        }
    }

    /// How to call members with `credentials`: the same value as long as they are the same.
    ///
    /// # Errors
    /// When the certificates cannot be used.
    pub fn tls(&self, credentials: &Credentials) -> Result<Arc<ClientConfig>, ClientError> {
        let mut known = lock(&self.tls);
        if let Some((_, config)) = known.as_ref().filter(|(of, _)| of == credentials) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(credentials.tls()?);
        *known = Some((credentials.clone(), Arc::clone(&config)));
        Ok(config)
    }

    /// Whether the members had their chance to speak since this process first looked at the cluster: `heard`, or enough time.
    /// Before that nothing is decided: a healthy cluster would be told that nobody answers.
    #[must_use]
    pub fn listened(&self, heard: bool) -> bool {
        let begun = self.begun.get_or_init(Instant::now);
        if heard || begun.elapsed() >= LISTEN {
            self.listened.store(true, Ordering::Relaxed);
        }
        self.listened.load(Ordering::Relaxed)
    }

    /// How long to wait after one more failure.
    #[must_use]
    pub fn failed(&self) -> Duration {
        let mut retries = lock(&self.retries);
        retries.get_or_insert_with(|| pauses::growing(FIRST_RETRY, LAST_RETRY)).next().unwrap_or(LAST_RETRY)
    }

    /// The last pass did not fail.
    pub fn succeeded(&self) {
        lock(&self.retries).take();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::redis::Redis;

    fn spec(uid: &str, image: &str) -> Result<Desired<Redis>, Invalid> {
        let spec = json!({"storage": {"size": "1Gi"}, "image": image});
        let metadata = json!({"name": "cache", "namespace": "shop", "uid": uid});
        let object = json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "RedisReplication", "metadata": metadata, "spec": spec});
        Redis::validate(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn what_was_wanted_before_holds_while_the_newest_spec_cannot_be_meant() {
        let notes = Notes::default();
        let (first, second, bad) = (spec("a", "redis:7").unwrap(), spec("a", "redis:8").unwrap(), spec("a", "a b"));
        let wrong = bad.clone().unwrap_err();
        assert_eq!(notes.wanted(Some("a"), bad.clone()), Err(wrong.clone()), "nothing is known yet");
        assert_eq!(notes.wanted(Some("a"), Ok(first.clone())), Ok((first.clone(), None)));
        for _ in 0..2 {
            assert_eq!(notes.wanted(Some("a"), bad.clone()), Ok((first.clone(), Some(wrong.clone()))));
        }
        assert_eq!(notes.wanted(Some("b"), bad.clone()), Err(wrong.clone()), "made anew under the same name");
        assert_eq!(notes.wanted(Some("a"), Ok(second.clone())), Ok((second.clone(), None)));
        assert_eq!(notes.wanted(Some("a"), bad), Ok((second, Some(wrong))));
    }
}
