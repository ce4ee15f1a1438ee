//! Leader election: with more than one operator, the one that holds the Lease works and the others wait.
//!
//! A Lease is no fence: what keeps two operators from harming each other is the term, claimed by a write that is guarded by
//! resourceVersion before the first order that carries it. The Lease only keeps them from wasting each other's work. Still it is held
//! strictly: time is counted from before the last renewal that succeeded, on a clock that does not jump, and who cannot renew in time
//! ends its process. A candidate trusts no clock but its own either: it takes over a Lease that has not changed for its whole duration.
//!
//! One operator alone (the chart's default, with strategy Recreate) runs without a Lease, and then writes nothing while nothing happens.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::clock::now;
use crate::pauses;

/// How long a candidate waits for a holder that does not renew.
const DURATION: Duration = Duration::from_secs(15);
/// How long the holder believes itself, counted from before its last renewal: well before a candidate's patience ends.
const BELIEF: Duration = Duration::from_secs(10);
/// How often it renews.
const RENEW: Duration = Duration::from_secs(4);
/// How often a candidate looks; jitter adds up to as much again.
const LOOK: Duration = Duration::from_secs(1);
/// One call to the API server.
const CALL: Duration = Duration::from_secs(4);

/// Why the Lease is not held any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Another operator holds it.
    #[error("lease {lease}: now held by {holder}")]
    Taken {
        /// The Lease.
        lease: String,
        /// Who holds it.
        holder: String,
    },
    /// It was not renewed in time.
    #[error("lease {lease}: not renewed for {} s, the last attempt failed: {why}", BELIEF.as_secs())]
    Expired {
        /// The Lease.
        lease: String,
        /// The last error.
        why: String,
    },
}

/// A place in the queue for the Lease.
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// The Lease, held.
pub struct Held {
    candidate: Candidate,
    lease: Lease,
    /// Until when the holder believes itself.
    until: Instant,
}

/// What one attempt to hold came to.
enum Attempt {
    Held(Box<Lease>),
    HeldBy { holder: String, version: Option<String> },
}

impl Candidate {
    /// A candidate for the Lease `name`. The identity differs at each start: a restarted container is another operator.
    #[must_use]
    pub fn new(client: &Client, namespace: &str, name: &str, pod: &str) -> Self {
        let mut random = [0_u8; 4];
        // Without randomness the time still tells two starts apart.
        if SystemRandom::new().fill(&mut random).is_err() {
            random.copy_from_slice(&now().subsec_nanosecond().to_be_bytes());
        }
        let identity = format!("{pod}_{:08x}", u32::from_be_bytes(random));
        Self { api: Api::namespaced(client.clone(), namespace), name: name.to_owned(), identity }
    }

    /// Waits until the Lease is ours.
    pub async fn acquire(self) -> Held {
        let mut unchanged: Option<(Option<String>, Instant)> = None;
        loop {
            let begun = Instant::now();
            let expired = |version: &Option<String>, patience: Duration| {
                unchanged.as_ref().is_some_and(|(seen, since)| seen == version && since.elapsed() >= patience)
            };
            match timeout(CALL, self.attempt(expired)).await {
                Ok(Ok(Attempt::Held(lease))) => {
                    tracing::info!(lease = self.name, identity = self.identity, "leading");
                    return Held { candidate: self, lease: *lease, until: begun + BELIEF };
                }
                Ok(Ok(Attempt::HeldBy { holder, version })) => {
                    if unchanged.as_ref().is_none_or(|(seen, _)| *seen != version) {
                        if unchanged.is_none() {
                            tracing::info!(lease = self.name, holder, "standing by");
                        }
                        unchanged = Some((version, begun));
                    }
                }
                Ok(Err(error)) => tracing::warn!(lease = self.name, %error, "cannot take the lease"),
                Err(_) => tracing::warn!(lease = self.name, "the API server does not answer"),
            }
            sleep(pauses::about(LOOK)).await;
        }
    }

    async fn attempt(&self, expired: impl Fn(&Option<String>, Duration) -> bool) -> Result<Attempt, kube::Error> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            return self
                .api
                .create(&PostParams::default(), &self.filled(Lease::default()))
                .await
                .map(|lease| Attempt::Held(Box::new(lease)));
        };
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let patience = u64::try_from(spec.lease_duration_seconds.unwrap_or_default()).map_or(DURATION, Duration::from_secs);
        let version = lease.metadata.resource_version.clone();
        if holder.is_empty() || holder == self.identity || expired(&version, patience) {
            // Guarded by the resourceVersion that was read: of two candidates one fails.
            return self
                .api
                .replace(&self.name, &PostParams::default(), &self.filled(lease))
                .await
                .map(|lease| Attempt::Held(Box::new(lease)));
        }
        Ok(Attempt::HeldBy { holder, version })
    }

    /// `lease`, held by us.
    fn filled(&self, lease: Lease) -> Lease {
        let old = lease.spec.unwrap_or_default();
        let kept = old.holder_identity.as_deref() == Some(&self.identity);
        let time = Some(MicroTime(now()));
        Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..lease.metadata },
            spec: Some(LeaseSpec {
                holder_identity: Some(self.identity.clone()),
                lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
                acquire_time: if kept { old.acquire_time } else { time.clone() },
                renew_time: time,
                lease_transitions: Some(old.lease_transitions.unwrap_or_default() + i32::from(!kept)),
                ..LeaseSpec::default()
            }),
        }
    }
}

impl Held {
    /// Renews until that fails for too long; then the process must end.
    pub async fn keep(&mut self) -> Lost {
        let mut why = "the API server does not answer".to_owned();
        loop {
            let begun = Instant::now();
            let candidate = &self.candidate;
            let (parameters, renewed) = (PostParams::default(), candidate.filled(self.lease.clone()));
            let renewal = candidate.api.replace(&candidate.name, &parameters, &renewed);
            match timeout_at(self.until.min(begun + CALL), renewal).await {
                Ok(Ok(lease)) => {
                    self.lease = lease;
                    self.until = begun + BELIEF;
                    sleep(RENEW).await;
                    continue;
                }
                Ok(Err(kube::Error::Api(status))) if status.is_conflict() => match candidate.api.get(&candidate.name).await {
                    Ok(lease) => {
                        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
                        if holder != candidate.identity {
                            return Lost::Taken { lease: candidate.name.clone(), holder };
                        }
                        // Somebody touched it, or our own write's answer was lost.
                        self.lease = lease;
                    }
                    Err(error) => why = error.to_string(),
                },
                Ok(Err(error)) => why = error.to_string(),
                Err(_) => {}
            }
            if Instant::now() >= self.until {
                return Lost::Expired { lease: self.candidate.name.clone(), why };
            }
            sleep(pauses::about(LOOK / 4)).await;
        }
    }

    /// Lets the next one begin at once.
    pub async fn release(self) {
        let Self { candidate, mut lease, .. } = self;
        if let Some(spec) = &mut lease.spec {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
        }
        match timeout(CALL, candidate.api.replace(&candidate.name, &PostParams::default(), &lease)).await {
            Ok(Ok(_)) => tracing::info!(lease = candidate.name, "released"),
            _ => tracing::warn!(lease = candidate.name, "not released; the next operator waits until it expires"),
        }
    }
}
