//! WHAT DECIDES: custom resources in, Kubernetes objects and orders to sidecars out.

pub mod apply;
pub mod check;
pub mod hidden;
pub mod mysql;
pub mod pki;
pub mod quantity;
pub mod secrets;
