//! The shell on real sockets: what it lets in, what it sends out, what it keeps. No database takes part.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod binary;
mod certificates;
mod contact;
mod orders;
mod peer_finder;
mod probes;
mod reports;
mod rig;
