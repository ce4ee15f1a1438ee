//! The engine against real mysqld processes: what it does to one member and what follows for the others.

mod interruptions;
mod life;
mod rig;
