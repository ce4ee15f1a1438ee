//! One task a member, that holds its sidecar's report stream and carries orders to it.
//!
//! What a member says is kept here, recent or not at all: a member that said nothing for three seconds is silent. When it says
//! something that could change a decision, its cluster is looked at again. What is decided is not known here.
//!
//! An order is given once, in the background, and one at a time a member: a frozen member holds up nobody, and a later decision's
//! order is never overtaken by an earlier one on its way.

mod stream;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rustls::ClientConfig;
use sidecar_protocol::client::{Client, ClientError};
use sidecar_protocol::{Order, RefusalCode, Report};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

use crate::clock::now;
use crate::engine::Engine;
use crate::observed::Seen;
use crate::pauses;
use crate::wake::Wake;
use crate::watches::ClusterRef;

/// A refused or lost order is given again after this long, and up to as long again by chance.
const ORDER_AGAIN: Duration = Duration::from_millis(500);
/// A report takes less to arrive.
const OVERTAKEN: Duration = Duration::from_millis(20);
/// An accepted order is not given again before the member's report had the time to say so.
const TAKING_UP: Duration = Duration::from_secs(2);
/// A clone's progress is worth a status write this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// A member to listen to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Pod name.
    pub member: String,
    /// UID of the pod.
    pub pod: String,
    /// Its address.
    pub ip: IpAddr,
    /// The host name that its certificate must show.
    pub host: String,
}

/// Every member of every cluster.
#[derive(Debug)]
pub struct Members<E: Engine> {
    wake: Wake,
    followed: Mutex<HashMap<Key, Followed<E>>>,
}

/// UID of the custom resource, name of the pod.
type Key = (String, String);

/// What members said at one moment.
#[derive(Debug)]
pub struct Said<E: Engine>(HashMap<Key, Seen<Report<E::State>>>);

impl<E: Engine> Said<E> {
    /// What this one said; `None` when nobody listened to it.
    #[must_use]
    pub fn by(&self, uid: &str, member: &str) -> Option<Seen<Report<E::State>>> {
        self.0.get(&(uid.to_owned(), member.to_owned())).cloned()
    }
}

#[derive(Debug)]
struct Followed<E: Engine> {
    target: Target,
    cluster: ClusterRef,
    tls: watch::Sender<Arc<ClientConfig>>,
    slot: Arc<Slot<E>>,
    task: AbortHandle,
}

impl<E: Engine> Drop for Followed<E> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is known of one member.
#[derive(Debug)]
struct Slot<E: Engine> {
    known: Mutex<Known<E>>,
    /// The connection failed under an order: the stream on it is given up too.
    broken: Notify,
}

#[derive(Debug)]
struct Known<E: Engine> {
    report: Option<Report<E::State>>,
    since: Timestamp,
    client: Option<Client>,
    ordering: bool,
    /// The order that was accepted last, and when.
    given: Option<(Order<E::Assignment>, Instant)>,
    refusal: Option<String>,
    progress: Option<(u64, Instant)>,
}

impl<E: Engine> Members<E> {
    /// Nobody yet. `wake` is told of news.
    #[must_use]
    pub fn new(wake: Wake) -> Self {
        Self { wake, followed: Mutex::default() }
    }

    /// Listens to exactly `targets` of the cluster with this `uid`, with these certificates.
    pub fn follow(&self, cluster: &ClusterRef, uid: &str, targets: Vec<Target>, tls: &Arc<ClientConfig>) {
        let mut followed = self.followed();
        followed.retain(|(of, _), one| of != uid || targets.contains(&one.target));
        for target in targets {
            let key = (uid.to_owned(), target.member.clone());
            match followed.get(&key) {
                // A new certificate: the connection is made anew, and what was said stays said.
                Some(known) => {
                    _ = known.tls.send_if_modified(|old| {
                        !Arc::ptr_eq(old, tls) && {
                            *old = Arc::clone(tls);
                            true
                        }
                    })
                }
                None => {
                    followed.insert(key, self.start(cluster, uid, target, tls));
                }
            }
        }
    }

    fn start(&self, cluster: &ClusterRef, uid: &str, target: Target, tls: &Arc<ClientConfig>) -> Followed<E> {
        let slot = Arc::new(Slot::new());
        let (sender, receiver) = watch::channel(Arc::clone(tls));
        let stream = stream::Stream {
            cluster: cluster.clone(),
            uid: uid.to_owned(),
            target: target.clone(),
            slot: Arc::clone(&slot),
            wake: self.wake.clone(),
        };
        let task = tokio::spawn(stream.run(receiver)).abort_handle();
        Followed { target, cluster: cluster.clone(), tls: sender, slot, task }
    }

    /// Whether each of `targets` was heard at least once since it is listened to.
    #[must_use]
    pub fn heard(&self, uid: &str, targets: &[Target]) -> bool {
        targets.iter().all(|target| self.slot(uid, &target.member).is_some_and(|slot| slot.known().report.is_some()))
    }

    /// Forgets every member of a cluster.
    pub fn forget(&self, cluster: &ClusterRef) {
        self.followed().retain(|_, one| one.cluster != *cluster);
    }

    /// What the members of a cluster say now.
    #[must_use]
    pub fn said(&self, cluster: &ClusterRef) -> Said<E> {
        let said = |one: &Followed<E>| {
            let known = one.slot.known();
            known.report.clone().map_or(Seen::Silent { since: known.since }, Seen::Answered)
        };
        let followed = self.followed();
        Said(followed.iter().filter(|(_, one)| one.cluster == *cluster).map(|(key, one)| (key.clone(), said(one))).collect())
    }

    /// The members of a cluster that refused their last order, and why.
    #[must_use]
    pub fn refusals(&self, uid: &str) -> Vec<(String, String)> {
        let followed = self.followed();
        let ours = followed.iter().filter(|((of, _), _)| of == uid);
        ours.filter_map(|((_, member), one)| Some((member.clone(), one.slot.known().refusal.clone()?))).collect()
    }

    /// Calls `read` with each member that answers, its cluster and its report.
    pub fn each_report(&self, mut read: impl FnMut(&ClusterRef, &str, &Report<E::State>)) {
        for ((_, member), one) in self.followed().iter() {
            if let Some(report) = &one.slot.known().report {
                read(&one.cluster, member, report);
            }
        }
    }

    /// Gives an order in the background, unless one is on its way: then the cluster is looked at again when that one has ended.
    pub fn order(&self, uid: &str, member: &str, order: Order<E::Assignment>) {
        let followed = self.followed();
        let Some(one) = followed.get(&(uid.to_owned(), member.to_owned())) else { return };
        let mut known = one.slot.known();
        let just_given = known.given.as_ref().is_some_and(|(given, at)| *given == order && at.elapsed() < TAKING_UP);
        let Some(client) = known.client.clone().filter(|_| !known.ordering && !just_given) else { return };
        known.ordering = true;
        drop(known);
        let (slot, wake, cluster, member) = (Arc::clone(&one.slot), self.wake.clone(), one.cluster.clone(), member.to_owned());
        tokio::spawn(async move {
            match client.order::<_, E::State>(&order).await {
                Ok(report) => {
                    tracing::info!(%cluster, member, term = order.term, assignment = ?order.assignment, "order accepted");
                    slot.record(report);
                    let mut known = slot.known();
                    known.refusal = None;
                    known.given = Some((order, Instant::now()));
                }
                // The report that says so is on its way.
                Err(ClientError::Refused(refusal)) if refusal.code == RefusalCode::Overtaken => sleep(OVERTAKEN).await,
                Err(error) => {
                    tracing::warn!(%cluster, member, term = order.term, assignment = ?order.assignment, %error, "order not accepted");
                    match error {
                        ClientError::Refused(refusal) => slot.known().refusal = Some(refusal.to_string()),
                        _ => slot.give_up(),
                    }
                    sleep(pauses::about(ORDER_AGAIN)).await;
                }
            }
            slot.known().ordering = false;
            wake.wake(&cluster);
        });
    }

    fn slot(&self, uid: &str, member: &str) -> Option<Arc<Slot<E>>> {
        Some(Arc::clone(&self.followed().get(&(uid.to_owned(), member.to_owned()))?.slot))
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Key, Followed<E>>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Engine> Slot<E> {
    fn new() -> Self {
        let known = Known { report: None, since: now(), client: None, ordering: false, given: None, refusal: None, progress: None };
        Self { known: Mutex::new(known), broken: Notify::new() }
    }

    fn known(&self) -> MutexGuard<'_, Known<E>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `report`; whether it says something new.
    fn record(&self, report: Report<E::State>) -> bool {
        let mut known = self.known();
        // On their way for longer than the answer to an order, which said more.
        if known.report.as_ref().is_some_and(|old| old.incarnation == report.incarnation && old.orders > report.orders) {
            return false;
        }
        let news = known.report.as_ref().is_none_or(|old| !E::same(old, &report)) | known.has_progress(&report.state);
        known.report = Some(report);
        known.since = now();
        news
    }

    /// It does not answer; whether that is new.
    fn silent(&self) -> bool {
        let mut known = self.known();
        known.client = None;
        known.report.take().is_some()
    }

    /// The connection is of no use any more.
    fn give_up(&self) {
        self.known().client = None;
        self.broken.notify_one();
    }
}

impl<E: Engine> Known<E> {
    /// Whether a clone is far enough beyond what was last shown, and not shown just now.
    fn has_progress(&mut self, state: &E::State) -> bool {
        let Some(step) = E::progress(state) else {
            self.progress = None;
            return false;
        };
        let shown = self.progress.is_some_and(|(shown, at)| shown == step || at.elapsed() < PROGRESS_EVERY);
        if !shown {
            self.progress = Some((step, Instant::now()));
        }
        !shown
    }
}
