//! What the operator and the sidecar say to each other.
//!
//! One mTLS connection (TLS 1.3, HTTP/2) a member carries both directions: the operator `PUT`s an [`Order`] to
//! [`route::ASSIGNMENT`], and reads [`Report`]s, one JSON document a line, from [`route::REPORTS`]. The engine's own
//! vocabulary ([`mysql::Assignment`], [`mysql::State`]; [`mongo::Assignment`], [`mongo::State`]; [`redis::Assignment`], [`redis::State`]) and its value maths ([`gtid::GtidSet`]) live
//! here too, so that deciding needs neither a server nor a driver. What states of all engines have in common is in [`member`]. Who is a member of a MongoDB replica set is planned here ([`mongo::plan`]), since the operator and a
//! sidecar on its own both ask. No Kubernetes, no database driver, no other policy belongs in this package.

pub mod client;
pub mod gtid;
pub mod member;
pub mod mongo;
pub mod mysql;
pub mod redis;

use serde::{Deserialize, Serialize};

/// Port of the sidecar's API: mTLS, HTTP/2.
pub const API_PORT: u16 = 3380;
/// Port of the sidecar's probes and metrics: plain HTTP/1.1, nothing secret, nothing that changes anything.
pub const HEALTH_PORT: u16 = 3381;
/// How often a sidecar repeats its report when nothing changes, in milliseconds.
pub const HEARTBEAT_MILLIS: u64 = 1_000;
/// A member that sent nothing for this long is *silent* (unknown, never "down"): three missed heartbeats, in milliseconds.
pub const SILENCE_MILLIS: u64 = 3_000;
/// Longest order that a sidecar reads, in bytes.
pub const MAX_ORDER_BYTES: usize = 64 * 1024;
/// Common name of the only client certificate that may give orders.
pub const OPERATOR_COMMON_NAME: &str = "understudy-operator";
/// Common name of the certificate that members share.
pub const MEMBER_COMMON_NAME: &str = "understudy-member";

/// Paths of the API port.
pub mod route {
    /// `PUT` an [`Order`](super::Order); answers 200 with the fresh [`Report`](super::Report) or a [`Refusal`](super::Refusal).
    pub const ASSIGNMENT: &str = "/v1/assignment";
    /// `GET` an endless stream of [`Report`](super::Report)s, newline-delimited JSON.
    pub const REPORTS: &str = "/v1/reports";
}

/// Paths of the health port.
pub mod probe {
    /// 200 once the data directory is ready: the sidecar opens the curtain.
    pub const STARTUP: &str = "/startupz";
    /// 200 while the database may serve: right role, replicating, lag within the bound.
    pub const READY: &str = "/readyz";
    /// 200 while the sidecar itself lives.
    pub const LIVE: &str = "/livez";
    /// The database container's preStop hook: answers when this member may go, since it is no open primary (any more), or is alone.
    pub const RELEASE: &str = "/releasez";
    /// Its answer when nobody would miss the database.
    pub const RELEASED: &str = "released";
    /// Prometheus text.
    pub const METRICS: &str = "/metrics";
}

/// An assignment with the authority it is given under.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order<A> {
    /// UID of the custom resource. A sidecar refuses every other cluster's (I8).
    pub cluster: String,
    /// Term of the order. A sidecar refuses a term lower than the highest it has seen (I8).
    pub term: u64,
    /// How often authority had been recorded when the order was made. A sidecar obeys no order of an older record, and within one record no
    /// order for fewer acknowledgements: what the operator saw in force before it recorded more is still in force after that (I4).
    #[serde(default)]
    pub claim: u64,
    /// [`Report::incarnation`] of the sidecar that the order was made for. Another one refuses it: an order that was late on its way
    /// must not reach a member that has lost its volume, and with it the memory of the terms it saw.
    pub incarnation: String,
    /// [`Report::orders`] that the order was decided upon: compare and swap. An order that was stuck on its way, in the socket of a frozen
    /// member for instance, never takes effect after a newer one of the same term.
    pub after: u64,
    /// The role to hold, and how.
    pub assignment: A,
}

/// What is true of one member now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report<S> {
    /// UID of the custom resource that this member belongs to.
    pub cluster: String,
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Changes at each start of the sidecar process.
    pub incarnation: String,
    /// Highest term this member has seen; survives restarts.
    pub term: u64,
    /// How many different orders this incarnation has accepted.
    #[serde(default)]
    pub orders: u64,
    /// Version of the sidecar.
    pub sidecar: String,
    /// SHA-256, in hex, of the CA bundle that it trusts now; the operator moves to a new CA only when everybody trusts it.
    pub trust: String,
    /// The engine's part.
    pub state: S,
}

/// Why a sidecar refuses an order or a reader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code:?}: {message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people: what happened and what to do.
    pub message: String,
    /// Whether the same order may succeed later.
    pub retry: bool,
}

/// The kinds of refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RefusalCode {
    /// The order's term is lower than the highest seen, or its record older than that of the last order (I8).
    StaleTerm,
    /// The order names another cluster's uid (I8).
    OtherCluster,
    /// The order was made for an earlier start of this sidecar (I8).
    OtherIncarnation,
    /// Another order was accepted since this one was decided (I8).
    Overtaken,
    /// The caller's certificate may read but not order.
    NotTheOperator,
    /// The body is not an order.
    Malformed,
    /// It would break an invariant on this member, such as initialising over data (I10).
    Unsafe,
    /// A code of a newer sidecar.
    #[serde(other)]
    Unknown,
}
