//! The Sentinel endpoint on real sockets, beside a real Sentinel.
//!
//! `REDIS_ROOT` names a root file system with Redis; without it the lab's image in the cache is unpacked.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod certificates;
mod client;
mod hostile;
#[path = "../common/image.rs"]
mod image;
mod listeners;
mod logins;
mod member;
mod real;
mod rig;
