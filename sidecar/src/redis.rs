//! Redis' and Valkey's room: all that touches a redis-server.

pub mod sentinel;
