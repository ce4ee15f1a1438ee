//! The whole of Understudy for MySQL in one process, without Kubernetes, MySQL, sockets or a clock: to break it millions of times.
//!
//! Real are the operator's `decide` and `status`, the sidecar's planner (`converge`), its readiness, its self-fence, and the value maths
//! between them. Modelled is what surrounds them:
//!
//! - [`world`]: members, operators, clients, wires, and virtual time. [`event`]: what can happen. [`dice`]: chance, from the seed.
//! - [`mysqld`], [`replication`], [`steps`], [`clients`], [`history`]: servers, semi-sync, statements, commits, transactions.
//! - [`sidecar`], [`filling`], [`contact`]: the loop beside each server. [`reports`]: what passes between it and an operator.
//! - [`operator`]: the pipeline, one write at a time. [`kube`], [`pods`]: the API server, the StatefulSet, the kubelets.
//! - [`faults`]: what goes wrong. [`laws`]: I1 to I13, checked when they could first be broken. [`run`](mod@run): one schedule, [`many`](mod@many): more.
//! - [`mutation`]: the bugs that it must find.
//!
//! docs/simulator.md says what is modelled and what is not, and how to read a failing seed.

pub mod clients;
pub mod contact;
pub mod dice;
pub mod event;
pub mod faults;
pub mod filling;
pub mod history;
pub mod kube;
pub mod laws;
pub mod many;
pub mod mutation;
pub mod mysqld;
pub mod network;
pub mod operator;
pub mod pods;
pub mod replication;
pub mod reports;
pub mod run;
pub mod sidecar;
pub mod steps;
pub mod world;

pub use many::many;
pub use run::{Counts, Outcome, run};
