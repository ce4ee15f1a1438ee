//! MongoDB's part: replica set configurations as values, mongod's rules for them, and the planner of membership.
//!
//! mongod elects; we plan who is a member and who may vote. What the planner says is the same for the operator and for a sidecar
//! on its own. [`config`] and [`status`] are mongod's replies as values, [`rules`] what mongod takes, [`plan`] the next step, [`birth`]
//! the first one. [`order`] is what a member is to bring about, [`state`] what is true of it.
//!
//! No BSON here. The `bson` crate reads and writes these types through serde, and with `bson::Bson` as the `V` of [`config::Config`] what
//! is not ours to change keeps its exact type; [`config::SetId`] and [`status::Timestamp`] have the names that `bson` knows its own by.

pub mod birth;
pub mod config;
pub mod order;
pub mod plan;
pub mod rules;
pub mod state;
pub mod status;

pub use order::{Assignment, Part, Role, User, Yield};
pub use state::{Accepted, Data, Problem, ProblemCode, Process, Said, State};

use serde::{Deserialize, Serialize};

use config::SetId;

/// Port of mongod.
pub const PORT: u16 = 27017;
/// Most members of a replica set (MongoDB manual, "Replica Set Limits").
pub const MAX_MEMBERS: usize = 50;
/// Most members that vote (the same page).
pub const MAX_VOTERS: usize = 7;

/// Whether a mongod is in a set already.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// It has no configuration: error 94 of `replSetGetStatus`, and nothing else.
    NotInSet,
    /// It has one, of this set; it may have been removed from it.
    InSet(SetId),
    /// It did not answer, or with an error. An error is no "no".
    #[default]
    Unknown,
}
