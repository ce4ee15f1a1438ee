//! `RedisReplication` in the lab: the operator from its Helm chart, real Redis and Valkey, real clients, through the Services.
//!
//! Needs a running lab: `lab up`, then `cargo test -p e2e --features lab --test redisreplication`. Each test has a namespace of its own, with
//! Pod Security *restricted* enforced, and prints pods, events and logs when it fails. A write counts when `WAIT 1` has said so.

mod births;
mod changes;
mod failover;
mod fences;
mod idle;
mod lifecycle;
mod losses;
#[path = "../common/mortal.rs"]
mod mortal;
mod outages;
mod pool;
mod refusals;
mod returns;
mod rig;
mod scales;
mod secrets;
mod sentinels;
mod standalone;
mod strangers;
mod switchovers;
mod updates;
mod verbs;
mod way;
mod writer;
