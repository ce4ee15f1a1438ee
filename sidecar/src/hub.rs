//! Where the engine's state and the operator's orders meet.
//!
//! The engine publishes states and watches orders; this wraps the first as reports and checks the second. Nothing here knows
//! sockets or files but the term's, and nothing waits for the engine: an order is accepted or refused at once.
//!
//! The last order is kept on the volume and resumed after a restart, if the data directory is still the same and no higher term was
//! seen: at once where it lets nobody write, and where it does, when a majority of the members confirms that none of them knows of a
//! higher term (see [`Hub::resume`]). A resumed order counts as one in [`Report::orders`], like any other: an order that was decided
//! before it is overtaken, and is decided again.

use std::sync::Arc;

use sidecar_protocol::{Order, Refusal, RefusalCode, Report};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::engine::Engine;
use crate::fence::{Guard, Ordered};
use crate::term::{Kept, Promise, Term, TermError};
use crate::tls::Set;

/// Who this member is; fixed while the process lives.
#[derive(Clone, Debug)]
pub struct Identity {
    /// UID of the custom resource; the Service's name in standalone mode.
    pub cluster: String,
    /// Pod name.
    pub member: String,
    /// Random: tells one run of the sidecar from the next.
    pub incarnation: String,
}

/// What the hub reads.
#[derive(Debug)]
pub struct Sources<E: Engine> {
    /// Published by the engine.
    pub state: watch::Receiver<E::State>,
    /// The certificates in use; `None` in standalone mode.
    pub certificates: Option<watch::Receiver<Set>>,
    /// What is wrong with newer ones.
    pub trouble: watch::Receiver<Option<String>>,
}

// Not derived: that would ask for `E: Clone` of the state's channel too.
impl<E: Engine> Clone for Sources<E> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), certificates: self.certificates.clone(), trouble: self.trouble.clone() }
    }
}

/// How far orders have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Highest term seen.
    term: u64,
    /// Different orders accepted since this process started.
    orders: u64,
}

/// The meeting place; one a process.
#[derive(Debug)]
pub struct Hub<E: Engine> {
    engine: E,
    identity: Identity,
    sources: Sources<E>,
    progress: watch::Sender<Progress>,
    /// `None` in standalone mode: nobody gives orders.
    kept_term: Option<Arc<Mutex<Term>>>,
    orders: watch::Sender<Option<Order<E::Assignment>>>,
    guard: Guard,
    /// The order of before the restart, while it waits to be confirmed.
    unconfirmed: Mutex<Option<Order<E::Assignment>>>,
}

impl<E: Engine> Hub<E> {
    /// A hub that admits orders by `term`, hands them on through `orders`, and tells `guard` of them. Resumes the last one if it may.
    #[must_use]
    pub fn new(
        engine: E,
        identity: Identity,
        sources: Sources<E>,
        term: Option<Term>,
        orders: watch::Sender<Option<Order<E::Assignment>>>,
        guard: Guard,
    ) -> Arc<Self> {
        let current = term.as_ref().map_or(0, Term::current);
        let last = term.as_ref().and_then(Term::order).and_then(|kept| resumable(&engine, &identity, kept));
        let mut progress = Progress { term: current, orders: 0 };
        let mut unconfirmed = None;
        if let Some(order) = last {
            guard.order(ordered::<E>(&order));
            if guard.peers().is_empty() {
                info!(term = order.term, "the last order is resumed");
                progress.orders = 1;
                orders.send_replace(Some(order));
            } else {
                info!(term = order.term, "the last order is resumed when the other members confirm it");
                unconfirmed = Some(order);
            }
        }
        let kept_term = term.map(|term| Arc::new(Mutex::new(term)));
        let (progress, unconfirmed) = (watch::Sender::new(progress), Mutex::new(unconfirmed));
        Arc::new(Self { engine, identity, sources, progress, kept_term, orders, guard, unconfirmed })
    }

    /// Whether this member may stay open.
    pub fn guard(&self) -> &Guard {
        &self.guard
    }

    /// Who this member is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Resumes the order that waits to be confirmed, if there is one. To be called only while [`Guard::confirmed`].
    pub async fn resume(&self) {
        let mut unconfirmed = self.unconfirmed.lock().await;
        if let Some(order) = unconfirmed.take() {
            info!(term = order.term, "the other members confirm: the last order is resumed");
            self.progress.send_modify(|progress| progress.orders += 1);
            self.orders.send_replace(Some(order));
        }
    }

    /// The engine.
    pub fn engine(&self) -> &E {
        &self.engine
    }

    /// When our certificate ends, in seconds since 1970.
    pub fn certificate_expires(&self) -> Option<i64> {
        self.sources.certificates.as_ref().map(|set| set.borrow().expires)
    }

    /// What is true of this member now.
    pub fn report(&self) -> Report<E::State> {
        let Identity { cluster, member, incarnation } = self.identity.clone();
        let mut state = self.sources.state.borrow().clone();
        if let Some(order) = self.orders.borrow().as_ref() {
            E::owe(&mut state, order);
        }
        if let Some(message) = self.sources.trouble.borrow().as_deref() {
            E::blame_credentials(&mut state, message);
        }
        let trust = self.sources.certificates.as_ref().map_or_else(String::new, |set| set.borrow().trust.clone());
        let Progress { term, orders } = *self.progress.borrow();
        Report { cluster, member, incarnation, term, orders, sidecar: env!("CARGO_PKG_VERSION").into(), trust, state }
    }

    /// For somebody who follows the reports.
    pub fn changes(&self) -> Changes<E> {
        Changes { sources: self.sources.clone(), progress: self.progress.subscribe() }
    }

    /// Admits an order, keeps its term, hands it to the engine. Answers with the report that follows; it converges later.
    ///
    /// # Errors
    /// The refusal to send back.
    pub async fn accept(self: &Arc<Self>, order: Order<E::Assignment>) -> Result<Report<E::State>, Refusal> {
        // On a task of its own: a caller that hangs up must not stop it between the disk and the memory of the term.
        let hub = Arc::clone(self);
        let accepting = tokio::spawn(async move { hub.admit(order).await });
        accepting.await.unwrap_or_else(|error| Err(unsafe_now(format!("interrupted: {error}"), true)))
    }

    async fn admit(&self, order: Order<E::Assignment>) -> Result<Report<E::State>, Refusal> {
        let Some(kept) = &self.kept_term else {
            return Err(unsafe_now("a standalone member takes no orders".into(), false));
        };
        if order.cluster == self.identity.cluster && order.incarnation != self.identity.incarnation {
            let message = format!("the order is for incarnation {}, this is {}", order.incarnation, self.identity.incarnation);
            warn!(message, "order refused");
            return Err(Refusal { code: RefusalCode::OtherIncarnation, message, retry: false });
        }
        // Held until the order is handed on: two orders reach the engine in the order of their terms.
        let mut kept = Arc::clone(kept).lock_owned().await;
        // Nor is an older one resumed in between.
        let mut unconfirmed = self.unconfirmed.lock().await;
        // The operator repeats itself; the engine hears of news only.
        let same = self
            .orders
            .borrow()
            .as_ref()
            .is_some_and(|old| (old.term, old.claim, &old.assignment) == (order.term, order.claim, &order.assignment));
        let last = kept.order().filter(|last| last.term == order.term).map(|last| last.promise);
        let promise =
            Promise::after(last, order.claim, E::acks(&order.assignment)).and_then(|promise| match self.objection(&order, same) {
                Some(refusal) => Err(refusal),
                None => Ok(promise),
            });
        let (cluster, term) = (order.cluster.clone(), order.term);
        let news = promise.as_ref().ok().filter(|_| !same).map(|promise| self.kept(&order, *promise));
        let (kept, admitted) = spawn_blocking(move || {
            let admitted = kept.admit(&cluster, term, news);
            (kept, admitted)
        })
        .await
        .map_err(|error| unsafe_now(format!("interrupted: {error}"), true))?;
        admitted.map_err(|error| {
            warn!(cluster = order.cluster, term, %error, "order refused");
            refusal(&error)
        })?;
        self.progress.send_if_modified(|old| std::mem::replace(&mut old.term, term) != term);
        if let Err(refusal) = promise {
            warn!(term, message = refusal.message, "order refused");
            return Err(refusal);
        }
        if !same {
            info!(term, order = %serde_json::to_string(&order.assignment).unwrap_or_default(), "order accepted");
            *unconfirmed = None;
            self.progress.send_modify(|progress| progress.orders += 1);
            self.guard.order(ordered::<E>(&order));
            self.orders.send_replace(Some(order));
        }
        drop((kept, unconfirmed));
        Ok(self.report())
    }

    /// What there is to say against an order of a current record.
    fn objection(&self, order: &Order<E::Assignment>, same: bool) -> Option<Refusal> {
        if let Some(message) = E::refuse(&self.sources.state.borrow(), &order.assignment) {
            return Some(unsafe_now(message, true));
        }
        let accepted = self.progress.borrow().orders;
        (!same && order.after != accepted).then(|| {
            let message = format!("{accepted} orders were accepted here; this one was made after {}", order.after);
            Refusal { code: RefusalCode::Overtaken, message, retry: true }
        })
    }

    fn kept(&self, order: &Order<E::Assignment>, promise: Promise) -> Kept {
        let assignment = serde_json::to_value(&order.assignment).expect("an assignment came as JSON");
        Kept { term: order.term, promise, data: self.engine.data(), assignment }
    }
}

/// `kept` as an order to this run of the sidecar, if it was accepted with the data that are here now and may be resumed at all.
fn resumable<E: Engine>(engine: &E, identity: &Identity, kept: &Kept) -> Option<Order<E::Assignment>> {
    let same_data = kept.data.is_some() && kept.data == engine.data();
    let assignment: E::Assignment = serde_json::from_value(kept.assignment.clone()).ok()?;
    let Identity { cluster, incarnation, .. } = identity.clone();
    (same_data && E::resumable(&assignment)).then_some(Order {
        cluster,
        term: kept.term,
        claim: kept.promise.claim,
        incarnation,
        after: 0,
        assignment,
    })
}

fn ordered<E: Engine>(order: &Order<E::Assignment>) -> Option<Ordered> {
    E::electorate(&order.assignment).map(|members| Ordered { term: order.term, members })
}

fn refusal(error: &TermError) -> Refusal {
    let (code, retry) = match error {
        TermError::OtherCluster { .. } => (RefusalCode::OtherCluster, false),
        TermError::Stale { .. } => (RefusalCode::StaleTerm, false),
        // Obeying a term that a restart would forget breaks I8.
        TermError::Storage { .. } | TermError::Damaged { .. } => (RefusalCode::Unsafe, true),
    };
    Refusal { code, message: error.to_string(), retry }
}

fn unsafe_now(message: String, retry: bool) -> Refusal {
    Refusal { code: RefusalCode::Unsafe, message, retry }
}

/// Tells when a report differs from the last one seen.
#[derive(Debug)]
pub struct Changes<E: Engine> {
    sources: Sources<E>,
    progress: watch::Receiver<Progress>,
}

impl<E: Engine> Changes<E> {
    /// Returns at the next change, or at once when something changed since the last call; many changes count as one.
    /// Never returns once the engine has ended.
    pub async fn next(&mut self) {
        let Sources { state, certificates, trouble } = &mut self.sources;
        let certificates = async {
            match certificates {
                Some(sets) => sets.changed().await,
                None => std::future::pending().await,
            }
        };
        let changed = tokio::select! {
            changed = state.changed() => changed,
            changed = certificates => changed,
            changed = trouble.changed() => changed,
            changed = self.progress.changed() => changed,
        };
        if changed.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
