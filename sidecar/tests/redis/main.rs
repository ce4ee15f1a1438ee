//! The engine against real redis-server and valkey-server processes: what it does to one member and what follows for the others.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod accounts;
mod binary;
mod fence;
mod handover;
#[path = "../common/image.rs"]
mod image;
mod life;
mod options;
mod restarts;
mod rig;
mod standalone;
mod surplus;
