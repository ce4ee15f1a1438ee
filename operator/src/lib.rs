//! WHAT DECIDES: custom resources in, Kubernetes objects and orders to sidecars out.

pub mod apply;
pub mod check;
pub mod mysql;
pub mod quantity;
pub mod secrets;
