//! The engine against real mysqld processes: what it does to one member and what follows for the others.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod condemned;
mod fence;
#[path = "../common/image.rs"]
mod image;
mod interruptions;
mod life;
mod prompt;
mod rig;
