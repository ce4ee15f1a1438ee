//! WHAT DECIDES: custom resources in, Kubernetes objects and orders to sidecars out.

pub mod apply;
pub mod check;
pub mod cli;
pub mod clock;
pub mod context;
pub mod events;
pub mod explain;
pub mod hidden;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod mysql;
pub mod pauses;
pub mod pki;
pub mod quantity;
pub mod reconcile;
pub mod run;
pub mod secrets;
pub mod server;
pub mod telemetry;
pub mod wake;
pub mod watches;
