//! The configuration of a replica set, as `replSetGetConfig` shows it and `replSetReconfig` takes it.
//!
//! What the planner neither reads nor changes is carried along in `rest`: `tags`, `horizons`, `protocolVersion`, timeouts.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A configuration: the field `config` of `replSetGetConfig`'s reply. `V` holds what is only carried along.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config<V = Value> {
    /// Name of the set: `--replSet` of each member.
    #[serde(rename = "_id")]
    pub name: String,
    /// Grows with each change, mongod's own included; at most 2^31-1. Sent as what was read plus one, so one that was overtaken is refused (103).
    pub version: i32,
    /// Of the primary that installed it; mongod puts its own in its place. Absent after a forced change until the next election.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub term: Option<i64>,
    /// Who is in it.
    pub members: Vec<Member<V>>,
    /// Timeouts and the identity of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settings: Option<Settings<V>>,
    /// What else there is.
    #[serde(flatten)]
    pub rest: BTreeMap<String, V>,
}

/// The settings of a set, as far as they matter here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Settings<V = Value> {
    /// Chosen by mongod when the set is initiated; never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replica_set_id: Option<SetId>,
    /// What else there is.
    #[serde(flatten)]
    pub rest: BTreeMap<String, V>,
}

/// One member of a configuration. mongod shows every field, and takes a member with some of them left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Member<V = Value> {
    /// `_id`: 0 to 255, and the same for as long as it is a member.
    #[serde(rename = "_id")]
    pub id: u8,
    /// `NAME:PORT`.
    pub host: String,
    /// Whether it votes: 1 or 0 on the wire.
    #[serde(default = "yes", with = "bit")]
    pub votes: bool,
    /// 0 to 1000, a double; 0 never leads, 1 is usual.
    #[serde(default = "usual")]
    pub priority: f64,
    /// Votes and holds no data. Fixed for as long as it is a member.
    #[serde(default)]
    pub arbiter_only: bool,
    /// Clients are not told of it. It never leads.
    #[serde(default)]
    pub hidden: bool,
    /// Whether it has all indexes. Without them it never leads. Fixed for as long as it is a member.
    #[serde(default = "yes")]
    pub build_indexes: bool,
    /// How far it stays behind, in seconds, from FCV 5.0 on. One that does never leads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secondary_delay_secs: Option<i64>,
    /// The same before FCV 5.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slave_delay: Option<i64>,
    /// What else there is.
    #[serde(flatten)]
    pub rest: BTreeMap<String, V>,
}

/// `settings.replicaSetId`: which set this is, whatever its name. In JSON `{"$oid": "…"}`, in BSON an `ObjectId`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename = "$oid")]
pub struct SetId {
    /// 24 hex digits.
    #[serde(rename = "$oid")]
    pub hex: String,
}

fn yes() -> bool {
    true
}

fn usual() -> f64 {
    1.0
}

/// A yes or no that mongod writes as a number.
mod bit {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(yes: &bool, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_i32(i32::from(*yes))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
        match i64::deserialize(deserializer)? {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(D::Error::custom(format!("votes must be 0 or 1, not {other}"))),
        }
    }
}

// === impl Config ===

impl<V> Config<V> {
    /// Which set this is, when it says so.
    #[must_use]
    pub fn set_id(&self) -> Option<&SetId> {
        self.settings.as_ref()?.replica_set_id.as_ref()
    }
}

// === impl Member ===

impl<V> Member<V> {
    /// One that holds data, neither votes nor leads, and so changes nothing for the others: how everybody begins.
    #[must_use]
    pub fn newcomer(id: u8, host: String) -> Self {
        Self {
            id,
            host,
            votes: false,
            priority: 0.0,
            arbiter_only: false,
            hidden: false,
            build_indexes: true,
            secondary_delay_secs: None,
            slave_delay: None,
            rest: BTreeMap::new(),
        }
    }

    /// Whether mongod lets it have a priority (with a vote), as it is configured.
    #[must_use]
    pub fn may_lead(&self) -> bool {
        let delay = self.secondary_delay_secs.or(self.slave_delay).unwrap_or(0);
        !self.arbiter_only && !self.hidden && self.build_indexes && delay == 0
    }
}

// === impl SetId ===

impl fmt::Display for SetId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a real mongod 5.0.7 answered to `replSetGetConfig`, with a tag, a horizon, a delay and a field of a later release put in.
    const CONFIG: &str = r#"{"_id": "rs0", "version": 3, "term": 1, "members": [
        {"_id": 0, "host": "m-0:27017", "arbiterOnly": false, "buildIndexes": true, "hidden": false, "priority": 1.0, "tags": {"zone": "a"},
         "horizons": {"outside": "m-0.example.com:30000"}, "secondaryDelaySecs": 0, "votes": 1},
        {"_id": 1, "host": "m-1:27017", "arbiterOnly": false, "buildIndexes": true, "hidden": true, "priority": 0.0, "tags": {},
         "secondaryDelaySecs": 3600, "votes": 0, "ofLater": {"int": 1, "double": 1.0}}],
        "protocolVersion": 1, "writeConcernMajorityJournalDefault": true, "settings": {"chainingAllowed": true,
         "heartbeatIntervalMillis": 2000, "heartbeatTimeoutSecs": 10, "electionTimeoutMillis": 10000, "catchUpTimeoutMillis": -1,
         "catchUpTakeoverDelayMillis": 30000, "getLastErrorModes": {}, "getLastErrorDefaults": {"w": 1, "wtimeout": 0},
         "replicaSetId": {"$oid": "6b0182669e2f03cc7d5e798b"}}}"#;

    #[test]
    fn what_mongod_shows_goes_back_as_it_came() {
        let shown: Value = serde_json::from_str(CONFIG).unwrap();
        let config: Config = serde_json::from_value(shown.clone()).unwrap();
        assert_eq!(config.set_id().unwrap().to_string(), "6b0182669e2f03cc7d5e798b");
        assert_eq!((config.members[0].votes, config.members[1].votes, config.members[1].may_lead()), (true, false, false));
        let sent = serde_json::to_value(&config).unwrap();
        assert_eq!(sent, shown);
        assert!(sent["members"][1]["priority"].is_f64() && sent["members"][1]["secondaryDelaySecs"].is_i64());
        assert!(sent["protocolVersion"].is_i64() && sent["members"][1]["ofLater"]["double"].is_f64());
    }

    #[test]
    fn the_delay_of_an_older_mongod_keeps_its_name() {
        let shown = serde_json::json!({"_id": 2, "host": "m-2:27017", "arbiterOnly": false, "buildIndexes": true, "hidden": false,
            "priority": 0.0, "tags": {}, "slaveDelay": 60, "votes": 1});
        let member: Member = serde_json::from_value(shown.clone()).unwrap();
        assert!(!member.may_lead());
        assert_eq!(serde_json::to_value(&member).unwrap(), shown);
    }

    #[test]
    fn what_a_user_left_out_is_as_mongod_has_it() {
        let member: Member = serde_json::from_str(r#"{"_id": 1, "host": "m-1:27017"}"#).unwrap();
        assert!(member.votes && member.may_lead() && member.priority == 1.0);
    }

    #[test]
    fn two_votes_are_no_vote() {
        assert!(serde_json::from_str::<Member>(r#"{"_id": 1, "host": "m-1:27017", "votes": 2}"#).is_err());
    }
}
