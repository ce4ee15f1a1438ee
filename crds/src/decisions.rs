//! The record of what the operator decided of late, and upon what: key [`KEY`] of the ConfigMap [`name`], oldest first.
//!
//! The operator writes it, `kubectl understudy explain` reads it. Values are text for people; nothing decides by them, and nothing in
//! them is secret.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::shared::Transition;

/// Key in the ConfigMap's data.
pub const KEY: &str = "decisions.json";

/// Name of the ConfigMap of a cluster.
#[must_use]
pub fn name(cluster: &str) -> String {
    format!("{cluster}-decisions")
}

/// One decision with its inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Decided {
    /// When it was first taken, RFC 3339.
    pub time: String,
    /// Term of the status that it was taken upon.
    pub term: u64,
    /// State in one word.
    pub state: String,
    /// Why, in one sentence.
    pub reason: String,
    /// Authority that was claimed; nothing else was done then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<Claim>,
    /// Order of each member.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub orders: BTreeMap<String, String>,
    /// Whom `NAME-primary` routes to.
    pub route: String,
    /// The step that cannot be taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why a request of a person is not granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What only a person can mend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// What was asked for by annotations.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub asked: BTreeMap<String, String>,
    /// What was known of each member.
    pub members: Vec<Input>,
}

/// The fields of status that claim authority, as they were to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Claim {
    /// Term.
    pub term: u64,
    /// Who is, or becomes, primary.
    pub primary: Option<String>,
    /// Change of primary under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transition: Option<Transition>,
    /// Who acknowledges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ack_set: Vec<String>,
    /// How many at least.
    pub acks: u32,
    /// The hand-over that was asked for, and whether it waits or is refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handover: Option<String>,
}

/// What was known of one member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Input {
    /// Pod name.
    pub name: String,
    /// `answers`, or since when it is silent.
    pub seen: String,
    /// Its pod: `none`, `deleting`, `ready`, `not ready`, or why it cannot start.
    pub pod: String,
    /// The database process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// What the database does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// What the volume holds, unless that is complete data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Highest term it has seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub term: Option<u64>,
    /// The last order it accepted, and whether that holds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order: Option<String>,
    /// How much of the history it holds: MySQL's GTID set, MongoDB's optime, Redis' offset in which history.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<String>,
    /// Whom it follows, and whether it receives and applies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
    /// Age of the oldest transaction it has received and not applied, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_seconds: Option<u64>,
    /// Which data directory: `@@server_uuid` of MySQL, the identity of Redis' data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_uuid: Option<String>,
    /// What is wrong with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

impl Decided {
    /// Whether `other` decides the same, whenever and upon whatever positions it was taken: those move all the time.
    #[must_use]
    pub fn same(&self, other: &Self) -> bool {
        // Destructured whole: a new field has to be thought about.
        let Self { time: _, term, state, reason, intent, orders, route, step, refused, stalled, asked, members: _ } = self;
        *term == other.term
            && *state == other.state
            && *reason == other.reason
            && same_claim(intent.as_ref(), other.intent.as_ref())
            && *orders == other.orders
            && *route == other.route
            && *step == other.step
            && *refused == other.refused
            && *stalled == other.stalled
            && *asked == other.asked
    }
}

/// A claim that met a conflict is made again, with another moment of its beginning.
fn same_claim(one: Option<&Claim>, other: Option<&Claim>) -> bool {
    let timeless = |claim: &Claim| {
        let mut claim = claim.clone();
        if let Some(transition) = &mut claim.transition {
            transition.since.clear();
        }
        claim
    };
    one.map(timeless) == other.map(timeless)
}
