//! Room.

pub mod mysql;
