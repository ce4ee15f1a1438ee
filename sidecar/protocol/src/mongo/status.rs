//! What a member says of the set: the part of `replSetGetStatus` that membership hangs on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `replSetGetStatus`. Each member has its own view; the primary's is the one to plan from.
///
/// Who knows better puts it in: a sidecar that saw its mongod crash knows before the others miss its heartbeats.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Name of the set.
    pub set: String,
    /// Of the election that the one who answers knows of last.
    #[serde(default)]
    pub term: i64,
    /// Everybody, itself included.
    pub members: Vec<MemberStatus>,
}

/// One member, as seen by the one who answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemberStatus {
    /// `_id` in the configuration.
    #[serde(rename = "_id")]
    pub id: u8,
    /// `host` in the configuration.
    pub name: String,
    /// What it does.
    pub state: MemberState,
    /// What it has applied. Absent or null of an arbiter and before its first copy is complete; of term -1 when it was never heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub optime: Option<OpTime>,
}

/// A place in the oplog. Terms compare before times: a primary that was cut off writes on, in the old term, with later times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct OpTime {
    /// Term of the primary that wrote it.
    pub t: i64,
    /// When it did.
    pub ts: Timestamp,
}

/// A BSON timestamp; in JSON `{"$timestamp": {"t": …, "i": …}}`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "Wire", into = "Wire")]
pub struct Timestamp {
    /// Seconds since 1970.
    pub t: u32,
    /// The how-manieth of that second.
    pub i: u32,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename = "$timestamp")]
struct Wire {
    #[serde(rename = "$timestamp")]
    body: Body,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
struct Body {
    #[serde(serialize_with = "as_i64")]
    t: u32,
    #[serde(serialize_with = "as_i64")]
    i: u32,
}

/// As `bson` writes the halves of its own timestamps; it takes no other number there.
fn as_i64<S: serde::Serializer>(number: &u32, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_i64(i64::from(*number))
}

/// `myState` and `members[].state`, by mongod's numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub enum MemberState {
    /// It has read no configuration yet.
    Startup,
    /// It leads. Until `hello` says `isWritablePrimary` it refuses writes and reconfigurations (10107).
    Primary,
    /// It follows and may serve reads.
    Secondary,
    /// It follows, and may not serve reads.
    Recovering,
    /// It copies what it lacks.
    Startup2,
    /// Nobody has heard of it, or its number is of a later release.
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

// === impl Status ===

impl Status {
    /// What is known of a member by its `_id`.
    #[must_use]
    pub fn of(&self, id: u8) -> Option<&MemberStatus> {
        self.members.iter().find(|member| member.id == id)
    }

    /// What a member does; nothing is known of one that is not in it.
    #[must_use]
    pub fn state(&self, id: u8) -> MemberState {
        self.of(id).map(|member| member.state).unwrap_or_default()
    }

    /// What a member has applied, when it ever said so.
    #[must_use]
    pub fn optime(&self, id: u8) -> Option<OpTime> {
        self.of(id)?.optime.filter(|optime| optime.t >= 0)
    }

    /// `_id` of who leads: nobody when two claim to.
    #[must_use]
    pub fn primary(&self) -> Option<u8> {
        let mut leading = self.members.iter().filter(|member| member.state == MemberState::Primary);
        leading.next().filter(|_| leading.next().is_none()).map(|member| member.id)
    }
}

// === impl OpTime ===

impl fmt::Display for OpTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "term {} time {}.{}", self.t, self.ts.t, self.ts.i)
    }
}

// === impl Timestamp ===

impl From<Wire> for Timestamp {
    fn from(Wire { body: Body { t, i } }: Wire) -> Self {
        Self { t, i }
    }
}

impl From<Timestamp> for Wire {
    fn from(Timestamp { t, i }: Timestamp) -> Self {
        Self { body: Body { t, i } }
    }
}

// === impl MemberState ===

impl MemberState {
    /// Whether it does what its place in the set asks of it: its vote counts, and it confirms what it holds.
    #[must_use]
    pub fn is_well(self) -> bool {
        matches!(self, Self::Primary | Self::Secondary | Self::Arbiter)
    }

    /// Whether it can be talked to, and so would vote.
    #[must_use]
    pub fn is_reachable(self) -> bool {
        self.is_well() || matches!(self, Self::Recovering | Self::Startup2 | Self::Rollback)
    }
}

impl From<i64> for MemberState {
    fn from(number: i64) -> Self {
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
}

impl From<MemberState> for i64 {
    fn from(state: MemberState) -> Self {
        match state {
            MemberState::Startup => 0,
            MemberState::Primary => 1,
            MemberState::Secondary => 2,
            MemberState::Recovering => 3,
            MemberState::Startup2 => 5,
            MemberState::Unknown => 6,
            MemberState::Arbiter => 7,
            MemberState::Down => 8,
            MemberState::Rollback => 9,
            MemberState::Removed => 10,
        }
    }
}

impl fmt::Display for MemberState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&format!("{self:?}").to_uppercase())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mongods_status_is_read_and_what_is_ours_of_it_written_again() {
        // A real mongod 5.0.7's, cut down, with one that was never heard of and an arbiter.
        let status: Status = serde_json::from_str(
            r#"{"set": "rs0", "date": {"$date": "2026-11-21T11:37:10.196Z"}, "myState": 1, "term": 1, "members": [
                {"_id": 0, "name": "m-0:27017", "health": 1.0, "state": 1, "stateStr": "PRIMARY", "self": true,
                 "optime": {"ts": {"$timestamp": {"t": 1795261030, "i": 15}}, "t": 1}},
                {"_id": 1, "name": "m-1:27017", "health": 0.0, "state": 8, "optime": {"ts": {"$timestamp": {"t": 0, "i": 0}}, "t": -1}},
                {"_id": 2, "name": "m-2:27017", "health": 1.0, "state": 7}, {"_id": 3, "name": "m-3:27017", "state": 5, "optime": null}],
                "ok": 1.0}"#,
        )
        .unwrap();
        assert_eq!((status.primary(), status.state(2), status.state(9)), (Some(0), MemberState::Arbiter, MemberState::Unknown));
        assert_eq!(status.optime(0), Some(OpTime { t: 1, ts: Timestamp { t: 1_795_261_030, i: 15 } }));
        assert_eq!((status.optime(1), status.optime(2), status.optime(3)), (None, None, None));
        assert_eq!(serde_json::from_value::<Status>(serde_json::to_value(&status).unwrap()).unwrap(), status);
    }

    #[test]
    fn a_later_term_is_ahead_of_a_later_time() {
        let at = |t, seconds| OpTime { t, ts: Timestamp { t: seconds, i: 1 } };
        assert!(at(3, 100) > at(2, 900) && at(3, 101) > at(3, 100));
    }

    #[test]
    fn nobody_leads_when_two_claim_to() {
        let leading = |id| MemberStatus { id, name: format!("m-{id}:27017"), state: MemberState::Primary, optime: None };
        let status = Status { members: vec![leading(0), leading(1)], ..Status::default() };
        assert_eq!(status.primary(), None);
    }
}
