//! What a replica set of mongod promises, rule by rule: held against the model, and against a real mongod with `MONGOD=/path/to/mongod`.
//!
//! Nothing here knows which of the two it is. Times are orders ("before", "within the patience of a loaded machine"), never speeds.

#![expect(clippy::panic, reason = "helpers of tests fail like tests")]

mod basics;
mod data;
mod elections;
mod initiate;
mod logins;
mod raw;
mod reconfig;
mod roles;
mod server;
mod startup;
mod transcripts;
mod wire;
