//! The pipeline, written once: from a custom resource to orders, and back to its status.
//!
//! Each step is a room of the engine and says whether it talks to Kubernetes. Authority is claimed by a guarded status write before
//! anything is done with it, and then all is looked at anew: a crash between any two steps resumes. What stands in the way of one
//! step ([`Obstacle`]) does not keep members from their orders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crds::shared::{ClusterStatus, TransitionKind};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::PostParams;
use kube::core::error_boundary::InvalidObject;
use kube::core::object::HasStatus;
use kube::runtime::controller::Action;
use kube::{Api, Resource, ResourceExt};
use tokio::time::timeout;
use tracing::{Instrument, Span, field};

use crate::act::{ActError, act};
use crate::apply::volumes::{Growth, Refused};
use crate::apply::{Applied, ApplyError, Live, apply};
use crate::build::template_size;
use crate::clock::now;
use crate::context::{Context, LISTEN, Notes};
use crate::decision::{Decision, Step};
use crate::desired::{Desired, Invalid};
use crate::engine::{Engine, News};
use crate::events::Kind;
use crate::members::{Said, Target};
use crate::metrics::Cluster;
use crate::observe::{self, ObserveError, observe};
use crate::observed::Observed;
use crate::pauses;
use crate::secrets::{self, Accounts, PasswordMissing, SecretsError};
use crate::status::{self, Obstacle, Pass};
use crate::watches::{ClusterRef, Guarded, NotSynced};

/// A pass that takes longer has met an API server that does not answer; all of it can be begun anew.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often a cluster is looked at although nothing happened, at least: what no watch shows, such as a deleted Secret. Jitter adds up
/// to as much again.
const RESYNC: Duration = Duration::from_secs(30);
/// How soon an obstacle is tried again.
const OBSTACLE: Duration = Duration::from_secs(3);
/// A change of primary is done in less, or something stands in its way.
const HURRY: Duration = Duration::from_secs(3);
/// Claims and conflicts in one pass; a cluster in good order needs two.
const ROUNDS: usize = 8;

/// Why a pass failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The watches have not begun.
    #[error(transparent)]
    NotSynced(#[from] NotSynced),
    /// The custom resource cannot be read.
    #[error("get the custom resource: {0}")]
    Read(#[source] kube::Error),
    /// Observing failed.
    #[error(transparent)]
    Observe(#[from] ObserveError),
    /// The status, and with it the claim of a term, cannot be written.
    #[error("write status: {0}")]
    Status(#[source] kube::Error),
    /// The Secrets are not as they should be.
    #[error(transparent)]
    Secrets(#[from] SecretsError),
    /// The objects are not as they should be.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// Acting failed.
    #[error(transparent)]
    Act(#[from] ActError),
    /// Kubernetes does not answer.
    #[error("not done within {} s", DEADLINE.as_secs())]
    Deadline,
    /// Others write the status all the time.
    #[error("the status was written by somebody else {ROUNDS} times in a row")]
    Contended,
}

impl Error {
    /// For metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::NotSynced(_) => "NotSynced",
            Self::Read(_) => "Read",
            Self::Observe(_) => "Observe",
            Self::Status(_) => "Status",
            Self::Secrets(error) => error.category(),
            Self::Apply(error) => error.category(),
            Self::Act(_) => "Act",
            Self::Deadline => "Deadline",
            Self::Contended => "Contended",
        }
    }
}

/// One pass over one cluster.
///
/// # Errors
/// Never: what fails is logged, counted, and tried again ever later.
pub async fn reconcile<E: Engine>(cluster: Arc<Guarded<E>>, context: Arc<Context<E>>) -> Result<Action, std::convert::Infallible> {
    static RUN: AtomicU64 = AtomicU64::new(1);
    let name = ClusterRef::of(&*cluster);
    let run = RUN.fetch_add(1, Ordering::Relaxed);
    let label = name.to_string();
    let _measure = context.metrics.measure();
    let notes = context.notes(&name);
    if let Err(invalid) = &cluster.0 {
        unreadable(&context, &name, invalid);
        return Ok(Action::await_change());
    }
    let pass = Reconcile { context: &context, name: &name, label: &label, run, notes: &notes };
    let after = match timeout(DEADLINE, pass.run()).await.unwrap_or(Err(Error::Deadline)) {
        Ok(after) => {
            notes.succeeded();
            after
        }
        Err(error) => {
            let after = notes.failed();
            context.metrics.failed(error.category());
            tracing::warn!(cluster = label, run, category = error.category(), %error, retry_in = ?after, "reconcile failed");
            after
        }
    };
    Ok(Action::requeue(after))
}

/// What is malformed is told and left alone; it stops no other (I13).
fn unreadable<E: Engine>(context: &Context<E>, name: &ClusterRef, invalid: &InvalidObject) {
    let about = ObjectReference { uid: invalid.metadata.uid.clone(), ..ObjectReference::from(name.object::<E>()) };
    tracing::warn!(cluster = %name, error = invalid.error, "this object cannot be read; it is left alone");
    context.events.say(&about, Kind::Warning, "Unreadable", "Read", &format!("this object cannot be read: {}", invalid.error));
}

struct Reconcile<'a, E: Engine> {
    context: &'a Context<E>,
    name: &'a ClusterRef,
    label: &'a str,
    run: u64,
    notes: &'a Notes<E>,
}

impl<E: Engine> Reconcile<'_, E> {
    /// Returns when to look again.
    async fn run(&self) -> Result<Duration, Error> {
        self.context.caches.ready().await?;
        let mut known: Option<(E::Kind, Said<E>)> = None;
        for _ in 0..ROUNDS {
            let (cluster, said) = match known.take() {
                Some(known) => known,
                None => match self.read().await? {
                    Some(known) => known,
                    None => {
                        self.context.forget(self.name);
                        return Ok(RESYNC);
                    }
                },
            };
            let term = cluster.status().map_or(0, ClusterStatus::term);
            let span = tracing::info_span!("reconcile", cluster = self.label, run = self.run, term, state = field::Empty);
            match self.round(cluster, &said).instrument(span).await? {
                Round::Done(after) => return Ok(after.min(pauses::about(RESYNC))),
                Round::Claimed(cluster) => known = Some((*cluster, said)),
                Round::Conflict => {}
            }
        }
        Err(Error::Contended)
    }

    /// What the members say, then the custom resource, so that it is at least as new: an order that these reports do not know yet overtakes
    /// ours, and one that they know stands on a claim that is read here (I8).
    async fn read(&self) -> Result<Option<(E::Kind, Said<E>)>, Error> {
        let said = self.context.members.said(self.name);
        // talks to Kubernetes: the watch may be older than our own last write, and a claim stands on it.
        let cluster = self.api().get_opt(&self.name.name).await.map_err(Error::Read)?;
        Ok(cluster.map(|cluster| (cluster, said)))
    }

    async fn round(&self, cluster: E::Kind, said: &Said<E>) -> Result<Round<E>, Error> {
        let (context, now) = (self.context, now());
        let old = cluster.status().cloned().unwrap_or_default();
        let generation = cluster.meta().generation;
        if cluster.meta().deletion_timestamp.is_some() {
            // Its objects go with it, by their owner references; nobody is ordered about any more.
            context.members.forget(self.name);
            return Ok(Round::Done(RESYNC));
        }
        if E::is_suspended(&cluster) {
            return self.write(cluster, status::suspended(&old, generation, now), RESYNC).await;
        }

        // pure
        let checked = E::validate(&cluster);
        if let Err(invalid) = &checked {
            context.events.say(&cluster.object_ref(&()), Kind::Warning, Invalid::REASON, "Validate", &invalid.to_string());
        }
        let (desired, invalid) = match self.notes.wanted(cluster.meta().uid.as_deref(), checked) {
            Ok(wanted) => wanted,
            Err(invalid) => return self.write(cluster, status::invalid(&old, &invalid, generation, now), RESYNC).await,
        };

        // talks to Kubernetes
        let live = context.caches.live(self.name);
        let observed = observe(&context.client, &context.caches, said, &cluster, &desired, &live, now).await?;
        let targets = targets(&desired, &observed);
        if !self.notes.listened(context.members.heard(&desired.uid, &targets)) {
            self.listen(&desired, &observed, &old, targets, &mut Vec::new()).await?;
            return Ok(Round::Done(LISTEN));
        }

        // pure
        let decision = E::decide(&desired, &observed, &old, now);
        Span::current().record("state", decision.state.as_str());
        self.tell(&cluster, &old, &observed, &decision);
        context.explain.record(self.name, &desired, E::recorded(&cluster, &desired, &observed, &old, &decision, now));

        // talks to Kubernetes: the claim, guarded by resourceVersion. Nothing else of this decision is carried out.
        if let Some(authority) = decision.intent.clone() {
            tracing::info!(reason = decision.reason, ?authority, "claiming");
            let mut status = old.clone();
            E::claim(authority, &mut status);
            return self.claim(cluster, status).await;
        }

        // talks to members, and to Kubernetes: clients wait, so all else waits for them.
        if hurries(&old, now) {
            act(context, &desired, &observed, &old, &decision).await?;
            return Ok(Round::Done(decision.requeue.unwrap_or(OBSTACLE)));
        }

        // talks to Kubernetes: Secrets, then the objects that mount them; an obstacle there is no reason to leave members without orders.
        let (settled, mut obstacles, failure) = self.establish(&desired, &observed, &old, &decision, &live).await;
        obstacles.splice(0..0, invalid.map(|invalid| Obstacle { reason: Invalid::REASON, message: invalid.to_string(), passes: false }));

        // talks to members, and to Kubernetes
        let acted = act(context, &desired, &observed, &old, &decision).await;

        // pure
        let pass = Pass { desired: &desired, observed: &observed, decision: &decision, obstacles: &obstacles, generation, settled };
        let status = E::status(&pass, &old, now);
        let serving = observed.members.keys().filter(|ordinal| E::serves(&status, &desired.member_name(**ordinal))).count();
        let shown = Cluster { state: decision.state.as_str().to_owned(), term: status.term(), ready: serving, wanted: desired.replicas };
        context.metrics.show(E::LABEL, self.name, shown);

        // talks to Kubernetes
        let after = [decision.requeue, observe::look_again(&live, now), (!obstacles.is_empty()).then_some(OBSTACLE)];
        let round = self.write(cluster, status, after.into_iter().flatten().min().unwrap_or(Duration::MAX)).await?;
        acted?;
        match failure {
            Some(error) => Err(error),
            None => Ok(round),
        }
    }

    /// Secrets and objects. Returns whether Kubernetes has taken up all of it, what stands in the way, and what failed unexpectedly.
    async fn establish(
        &self,
        desired: &Desired<E>,
        observed: &Observed<E>,
        old: &E::Status,
        decision: &Decision<E>,
        live: &Live,
    ) -> (bool, Vec<Obstacle>, Option<Error>) {
        let mut obstacles = Vec::new();
        let result = async {
            let applied = self.ensure(desired, observed, old, decision, live, &mut obstacles).await?;
            if let Growth::Refused(refused) = applied.growth {
                obstacles.push(Obstacle { reason: Refused::REASON, message: refused.to_string(), passes: false });
            }
            // The pass saw the StatefulSet as it was before; only if it was the same is what was decided about it settled.
            let version = |set: &k8s_openapi::api::apps::v1::StatefulSet| set.metadata.generation;
            let seen = live.stateful_sets.iter().find(|set| set.name_any() == desired.name).and_then(|set| version(set));
            Ok::<_, Error>(seen.is_some() && seen == version(&applied.stateful_set))
        };
        match result.await {
            Ok(same) => (same && observed.stateful_set.as_ref().is_some_and(|set| set.current), obstacles, None),
            Err(error) => match obstacle(&error) {
                Some(obstacle) => {
                    obstacles.push(obstacle);
                    (false, obstacles, None)
                }
                None => (false, obstacles, Some(error)),
            },
        }
    }

    async fn ensure(
        &self,
        desired: &Desired<E>,
        observed: &Observed<E>,
        old: &E::Status,
        decision: &Decision<E>,
        live: &Live,
        obstacles: &mut Vec<Obstacle>,
    ) -> Result<Applied, Error> {
        let context = self.context;
        let accounts = self.listen(desired, observed, old, targets(desired, observed), obstacles).await?;
        let set = live.stateful_sets.iter().find(|set| set.name_any() == desired.name);
        let mut objects = E::build(desired, decision.replicas, set.and_then(|set| template_size(set)), &context.sidecar_image);
        objects.started_with(accounts.read_at_start, set.map(|set| &**set));
        Ok(apply(&context.client, desired, &objects, live, &self.notes.memory).await?)
    }

    /// Makes sure of the Secrets, and listens to the members with the certificates that are in them.
    async fn listen(
        &self,
        desired: &Desired<E>,
        observed: &Observed<E>,
        old: &E::Status,
        targets: Vec<Target>,
        obstacles: &mut Vec<Obstacle>,
    ) -> Result<Accounts, Error> {
        let ensured = secrets::ensure(&self.context.client, desired, observed, old, now()).await?;
        if let Some(missing) = &ensured.accounts.missing {
            obstacles.push(Obstacle { reason: PasswordMissing::REASON, message: missing.to_string(), passes: false });
        }
        match self.notes.tls(&ensured.credentials) {
            Ok(tls) => self.context.members.follow(self.name, &desired.uid, targets, &tls),
            Err(error) => obstacles.push(Obstacle { reason: "CertificatesFailed", message: error.to_string(), passes: false }),
        }
        Ok(ensured.accounts)
    }

    /// Log and Events of a decision, once.
    fn tell(&self, cluster: &E::Kind, old: &E::Status, observed: &Observed<E>, decision: &Decision<E>) {
        let (events, about) = (&self.context.events, cluster.object_ref(&()));
        let (state, before) = (decision.state.as_str(), old.head());
        if decision.intent.is_some() || before.state != state {
            events.say(&about, Kind::Normal, state, "Decide", &decision.reason);
        }
        if before.state != state || before.reason != decision.reason {
            tracing::info!(reason = decision.reason, "decided");
        } else {
            tracing::debug!(reason = decision.reason, "decided");
        }
        if let Some((reason, message)) = &decision.stalled {
            events.say(&about, Kind::Warning, reason, "Decide", message);
        }
        if let Some(Step::ReplacePod { why, .. }) = &decision.step {
            events.say(&about, Kind::Normal, "ReplacePod", "Act", why);
        }
        if let Some(refusal) = &decision.refused {
            events.say(&about, Kind::Warning, "SwitchoverRefused", "Decide", refusal);
        }
        for News { reason, action, message } in E::news(observed, old) {
            events.say(&about, Kind::Warning, reason, action, &message);
        }
        for (member, refusal) in self.context.members.refusals(about.uid.as_deref().unwrap_or_default()) {
            events.say(&about, Kind::Warning, "OrderRefused", "Act", &format!("{member} refused its order: {refusal}"));
        }
    }

    /// Writes the status unless it says so already.
    async fn write(&self, cluster: E::Kind, status: E::Status, after: Duration) -> Result<Round<E>, Error> {
        if cluster.status() == Some(&status) {
            return Ok(Round::Done(after));
        }
        match self.claim(cluster, status).await? {
            // Our own write comes back by the watch; what was decided stays decided.
            Round::Claimed(_) => Ok(Round::Done(after)),
            other => Ok(other),
        }
    }

    /// Writes the status if nobody else wrote the object since it was read.
    async fn claim(&self, mut cluster: E::Kind, status: E::Status) -> Result<Round<E>, Error> {
        *cluster.status_mut() = Some(status);
        match self.api().replace_status(&self.name.name, &PostParams::default(), &cluster).await {
            Ok(written) => Ok(Round::Claimed(Box::new(written))),
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(Round::Conflict),
            // Deleted in the meantime.
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Round::Conflict),
            Err(error) => Err(Error::Status(error)),
        }
    }

    fn api(&self) -> Api<E::Kind> {
        Api::namespaced(self.context.client.clone(), &self.name.namespace)
    }
}

/// A change of primary that began a moment ago: orders and the route are all that matters. One that takes longer is told in status, and what
/// stands in its way is mended.
fn hurries(status: &impl ClusterStatus, now: Timestamp) -> bool {
    let change = status.transition().filter(|change| matches!(change.kind, TransitionKind::Switchover | TransitionKind::Failover));
    let since = change.and_then(|change| change.since.parse::<Timestamp>().ok());
    since.is_some_and(|since| now.duration_since(since).abs() < SignedDuration::try_from(HURRY).unwrap_or(SignedDuration::ZERO))
}

/// How a round ended.
enum Round<E: Engine> {
    /// All done; look again after this.
    Done(Duration),
    /// The status was written: decide again on what it says now.
    Claimed(Box<E::Kind>),
    /// Somebody else wrote it: start over.
    Conflict,
}

/// What a person, or time, can mend; anything else is tried again with ever longer pauses.
fn obstacle(error: &Error) -> Option<Obstacle> {
    let apply = match error {
        Error::Apply(error) | Error::Secrets(SecretsError::Objects(error)) => error,
        _ => return None,
    };
    let (reason, passes) = match apply {
        ApplyError::StillOwnedByOld { .. } => ("WaitingForOldObjects", true),
        ApplyError::Leaving { .. } => (apply.category(), true),
        ApplyError::NotOurs { .. } => (apply.category(), false),
        // Refused for what it is, not for when it came.
        ApplyError::Api { source, .. } => match &**source {
            kube::Error::Api(status) if matches!(status.code, 400 | 403 | 422) => (apply.category(), false),
            _ => return None,
        },
    };
    Some(Obstacle { reason, message: apply.to_string(), passes })
}

fn targets<E: Engine>(desired: &Desired<E>, observed: &Observed<E>) -> Vec<Target> {
    let targets = observed.members.iter().filter_map(|(ordinal, member)| {
        let pod = member.pod.as_ref()?;
        Some(Target { member: member.name.clone(), pod: pod.uid.clone(), ip: pod.ip.as_ref()?.parse().ok()?, host: desired.host(*ordinal) })
    });
    targets.collect()
}
