//! The few questions that the shell asks of an engine. Each room answers them in its own `engine.rs`.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_protocol::Order;
use tokio::sync::watch;

use crate::fence::Guard;

/// Who would miss a database that ended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It serves, and another member could relieve it.
    ByClients,
    /// It is closed, and the others have yet to read what it holds before one of them leads.
    ByMembers,
    /// Nobody.
    ByNobody,
}

/// What the shell knows of an engine.
pub trait Engine: Clone + Debug + Send + Sync + 'static {
    /// The role to hold.
    type Assignment: DeserializeOwned + Serialize + Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What is true of the database.
    type State: Serialize + Clone + Debug + Send + Sync + 'static;
    /// For metric labels and logs.
    const NAME: &'static str;

    /// Pod name of this member.
    fn member(&self) -> &str;
    /// Its ordinal.
    fn ordinal(&self) -> u32;
    /// The volume, on which the shell keeps the highest term.
    fn volume(&self) -> &Path;
    /// Where the certificates are mounted, if there are any.
    fn certificates(&self) -> Option<&Path>;
    /// What is known before anything was looked at.
    fn first_state(&self) -> Self::State;
    /// Brings the member to the last order given and keeps it there. Returns only with an error that no retry mends; ends when dropped.
    fn obey(self, posts: Posts<Self>) -> impl Future<Output = anyhow::Result<()>>;
    /// The same with no operator: it gives itself the orders that follow from who else is there.
    fn stand_alone(self, state: watch::Sender<Self::State>) -> impl Future<Output = anyhow::Result<()>>;

    /// Whether the database container may start.
    fn curtain_is_open(&self) -> bool;
    /// Why the order would break an invariant on this member, if so.
    fn refuse(state: &Self::State, assignment: &Self::Assignment) -> Option<String>;
    /// Says that `order` is worked on, unless the state speaks of that very order: what was true of an earlier one proves nothing of this
    /// one, and who counts our orders would take it for that.
    fn owe(state: &mut Self::State, order: &Order<Self::Assignment>);
    /// What tells this member's data from those of an earlier or a later volume, once there are any.
    fn data(&self) -> Option<String>;
    /// The DNS name of the member `ordinal`.
    fn host(&self, ordinal: u32) -> String;
    /// Whether the order may be taken up again after a restart of the sidecar.
    fn resumable(assignment: &Self::Assignment) -> bool;
    /// How many others must hold a write before it is acknowledged; `None` where nobody may write.
    fn acks(assignment: &Self::Assignment) -> Option<u32>;
    /// Ordinals of the members whose majority keeps this one open, when it is to be the primary.
    fn electorate(assignment: &Self::Assignment) -> Option<BTreeSet<u32>>;
    /// Somebody waits for the database to end: an engine that hands over by itself does so.
    fn leave(&self) {}
    /// Who would miss the database if it ended now.
    fn missed(state: &Self::State) -> Missed;
    /// Why the database may not serve, if so.
    fn unready(state: &Self::State) -> Option<String>;
    /// Adds the shell's own trouble with certificates, unless the engine has a worse one.
    fn blame_credentials(state: &mut Self::State, message: &str);
    /// Gauges of `state`.
    fn gauges(state: &Self::State) -> Vec<Gauge>;
}

/// What a member under an operator hears and says.
#[derive(Debug)]
pub struct Posts<E: Engine> {
    /// The last order.
    pub orders: watch::Receiver<Option<Order<E::Assignment>>>,
    /// What is true of the database.
    pub state: watch::Sender<E::State>,
    /// Counts changes of the certificates.
    pub tls_changed: watch::Receiver<u64>,
    /// Whether a primary may stay open.
    pub guard: Guard,
}

/// One value of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Name, without the prefix.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// A label, where the metric has one.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Gauge {
    /// A value.
    pub(crate) fn new(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, label: None, value }
    }

    /// A yes or no.
    pub(crate) fn flag(name: &'static str, help: &'static str, value: bool) -> Self {
        Self::new(name, help, f64::from(u8::from(value)))
    }
}

/// A count as Prometheus wants it; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}
