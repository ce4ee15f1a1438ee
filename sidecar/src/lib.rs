//! Understudy's sidecar: one static binary beside every database process.
//!
//! A tour, from the rim inwards:
//! - [`cli`]: the subcommands. [`shell`]: how the parts start and end. [`live`]: the exec probe, and installing itself.
//! - [`server`]: the API port (mTLS, HTTP/2): reports out, orders in. [`health`]: probes and metrics in plain HTTP. Both read the hub.
//! - [`hub`]: where the engine's state and the operator's orders meet; it wraps states as reports and checks orders.
//! - [`term`]: the highest term seen, kept on the volume. [`tls`]: certificates, followed without a restart.
//! - [`fence`]: whether a primary that is on its own may stay open. [`peers`]: what the other members say of it.
//! - [`discovery`]: the other members by DNS, for standalone mode. [`neighbour`]: what they say of themselves. [`peer_finder`]: the same for scripts, instead of an engine.
//! - [`engine`]: the few questions that the shell asks of an engine. [`report`], [`files`]: how engines publish and write.
//! - [`mysql`]: MySQL's room: all that touches a mysqld. [`mongo`]: MongoDB's: all that touches a mongod.
//!
//! The shell knows no engine but through [`engine::Engine`]; an engine knows the shell only as watch channels and the fence. Nothing in here
//! knows Kubernetes' API: no kube and no k8s-openapi is in this package's tree.

pub mod cli;
pub mod discovery;
pub mod engine;
pub mod fence;
pub mod files;
pub mod guard;
pub mod health;
pub mod hub;
pub mod live;
pub mod mongo;
pub mod mysql;
pub mod neighbour;
pub mod peer_finder;
pub mod peers;
pub mod redis;
pub mod report;
pub mod server;
pub mod shell;
pub mod term;
pub mod tls;
