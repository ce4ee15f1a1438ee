//! Where the engine's state and the operator's orders meet.
//!
//! The engine publishes states and watches orders; this wraps the first as reports and checks the second. Nothing here knows
//! sockets or files but the term's, and nothing waits for the engine: an order is accepted or refused at once.

use std::sync::Arc;

use sidecar_protocol::{Order, Refusal, RefusalCode, Report};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use crate::engine::Engine;
use crate::term::{Term, TermError};
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
}

impl<E: Engine> Hub<E> {
    /// A hub that admits orders by `term` and hands them on through `orders`.
    #[must_use]
    pub fn new(
        engine: E,
        identity: Identity,
        sources: Sources<E>,
        term: Option<Term>,
        orders: watch::Sender<Option<Order<E::Assignment>>>,
    ) -> Arc<Self> {
        let current = term.as_ref().map_or(0, Term::current);
        let kept_term = term.map(|term| Arc::new(Mutex::new(term)));
        Arc::new(Self { engine, identity, sources, progress: watch::Sender::new(Progress { term: current, orders: 0 }), kept_term, orders })
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
        let (cluster, term) = (order.cluster.clone(), order.term);
        let (kept, admitted) = spawn_blocking(move || {
            let admitted = kept.admit(&cluster, term);
            (kept, admitted)
        })
        .await
        .map_err(|error| unsafe_now(format!("interrupted: {error}"), true))?;
        admitted.map_err(|error| {
            warn!(cluster = order.cluster, term, %error, "order refused");
            refusal(&error)
        })?;
        self.progress.send_if_modified(|old| std::mem::replace(&mut old.term, term) != term);
        let reason = E::refuse(&self.sources.state.borrow(), &order.assignment);
        if let Some(message) = reason {
            warn!(term, message, "order refused");
            return Err(unsafe_now(message, true));
        }
        // The operator repeats itself; the engine hears of news only.
        let same = self.orders.borrow().as_ref().is_some_and(|old| (old.term, &old.assignment) == (order.term, &order.assignment));
        if !same {
            let accepted = self.progress.borrow().orders;
            if order.after != accepted {
                let message = format!("{accepted} orders were accepted here; this one was made after {}", order.after);
                warn!(term, message, "order refused");
                return Err(Refusal { code: RefusalCode::Overtaken, message, retry: true });
            }
            info!(term, order = %serde_json::to_string(&order.assignment).unwrap_or_default(), "order accepted");
            self.progress.send_modify(|progress| progress.orders += 1);
            self.orders.send_replace(Some(order));
        }
        drop(kept);
        Ok(self.report())
    }
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
