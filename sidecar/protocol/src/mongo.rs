//! MongoDB's part: replica set configurations as values, mongod's rules for them, and the planner of membership.
//!
//! mongod elects; we plan who is a member and who may vote. What the planner says is the same for the operator and for a sidecar
//! on its own.

pub mod plan;
pub mod rules;

use serde::{Deserialize, Serialize};

/// Port of mongod.
pub const PORT: u16 = 27017;
/// Most members of a replica set (MongoDB manual, "Replica Set Limits").
pub const MAX_MEMBERS: usize = 50;
/// Most members that vote.
pub const MAX_VOTERS: usize = 7;

/// One member of a replica set's configuration, as far as membership goes. What else mongod keeps of it is left as it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member {
    /// `_id`: 0 to 255, and the same for as long as it is a member.
    #[serde(rename = "_id")]
    pub id: u8,
    /// `NAME:PORT`.
    pub host: String,
    /// Whether it votes.
    pub votes: bool,
    /// 0 never leads; 1 is usual.
    pub priority: f64,
    /// Votes and holds no data. Fixed for as long as it is a member.
    pub arbiter_only: bool,
    /// Clients are not told of it. It never leads.
    pub hidden: bool,
}

/// `myState` and `members[].state` of `replSetGetStatus`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MemberState {
    /// It has read no configuration yet.
    Startup,
    /// It accepts writes, or is about to.
    Primary,
    /// It follows and may serve reads.
    Secondary,
    /// It follows, and may not serve reads.
    Recovering,
    /// It copies what it lacks.
    Startup2,
    /// Nobody has heard of it.
    #[default]
    Unknown,
    /// It votes only.
    Arbiter,
    /// It cannot be reached.
    Down,
    /// It undoes what nobody else has.
    Rollback,
    /// It is in no configuration any more.
    Removed,
}

// === impl MemberState ===

impl MemberState {
    /// By mongod's number; a number that nobody knows is unknown.
    #[must_use]
    pub fn of(number: i64) -> Self {
        match number {
            0 => Self::Startup,
            1 => Self::Primary,
            2 => Self::Secondary,
            3 => Self::Recovering,
            5 => Self::Startup2,
            7 => Self::Arbiter,
            8 => Self::Down,
            9 => Self::Rollback,
            10 => Self::Removed,
            _ => Self::Unknown,
        }
    }

    /// Whether it does what its place in the set asks of it: its vote counts, and it confirms what it holds.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Primary | Self::Secondary | Self::Arbiter)
    }
}
