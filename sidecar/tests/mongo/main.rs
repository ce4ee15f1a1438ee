//! The engine against real processes of mongod, or of its model: what it does to one member and what follows for the set.
//!
//! `MONGOD=/path/to/mongod` names the program; without it the workspace's own `mongod-model` is built and started.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod binary;
mod late;
mod life;
mod logins;
mod pods;
mod rig;
mod standalone;
