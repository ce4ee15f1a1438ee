//! The shell on real sockets: what it lets in, what it sends out, what it keeps. No database takes part.

mod binary;
mod certificates;
mod orders;
mod probes;
mod reports;
mod rig;
