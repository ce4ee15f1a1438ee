//! `MySQLCluster` in the lab: the operator from its Helm chart, real pods, real rows, through the Services.
//!
//! Needs a running lab: `lab up`, then `cargo test -p e2e --features lab --test mysqlcluster`. Each test has a namespace of its own, with Pod
//! Security *restricted* enforced, and prints pods, events and logs when it fails.

mod births;
mod clones;
mod idle;
mod lifecycle;
mod losses;
mod refusals;
mod rig;
mod scales;
mod secrets;
mod standalone;
mod strangers;
mod updates;
