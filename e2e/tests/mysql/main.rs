//! `MySQLCluster` in the lab: the operator from its Helm chart, real pods, real rows, through the Services.
//!
//! Needs a running lab: `lab up`, then `cargo test -p e2e --features lab --test mysqlcluster`. Each test has a namespace of its own, with Pod
//! Security *restricted* enforced, and prints pods, events and logs when it fails.

mod births;
mod changes;
mod clones;
mod durability;
mod endurance;
mod evictions;
mod failover;
mod fences;
mod idle;
mod lifecycle;
mod losses;
mod outages;
mod plugin;
mod pool;
mod refusals;
mod returns;
mod rig;
mod scales;
mod secrets;
mod standalone;
mod strangers;
mod switchovers;
mod updates;
mod verbs;
mod writer;
