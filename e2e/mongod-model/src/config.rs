//! The replica set's configuration: parsing and printing it, as mongod's own types do.
//!
//! Pure. What a configuration may be is in `validate`, what it may become in `change`.

pub mod change;
pub mod parse;
pub mod validate;

use std::time::Duration;

use bson::oid::ObjectId;
use bson::{Document, doc};

use crate::version::Version;

/// How many members may vote.
pub const MAX_VOTERS: usize = 7;
/// How many members there may be.
pub const MAX_MEMBERS: usize = 50;

/// A whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The set's name.
    pub set: String,
    /// Raised by each change.
    pub version: i64,
    /// The term of the primary that wrote it; -1 when it was forced.
    pub term: i64,
    /// Members in the order given.
    pub members: Vec<Member>,
    /// A config server's set.
    pub configsvr: bool,
    /// `w: majority` waits for the journal.
    pub majority_journaled: bool,
    /// The rest.
    pub settings: Settings,
}

/// `settings`.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// May a secondary copy from a secondary?
    pub chaining: bool,
    /// Between two heartbeats.
    pub heartbeat_interval: i64,
    /// Until a heartbeat counts as lost, in seconds.
    pub heartbeat_timeout_secs: i64,
    /// Without a primary until an election.
    pub election_timeout: i64,
    /// How long a new primary may catch up; -1 without end.
    pub catch_up_timeout: i64,
    /// Until a member ahead of a primary that catches up takes over.
    pub catch_up_takeover_delay: i64,
    /// Tagged write concerns, kept as given.
    pub modes: Document,
    /// Kept as given.
    pub defaults: Document,
    /// The set's identity for ever.
    pub id: Option<ObjectId>,
}

/// One member.
#[derive(Clone, Debug, PartialEq)]
pub struct Member {
    /// Its number for ever.
    pub id: i32,
    /// `host:port`.
    pub host: String,
    /// Votes but has no data.
    pub arbiter: bool,
    /// Builds secondary indexes.
    pub build_indexes: bool,
    /// Not shown to clients.
    pub hidden: bool,
    /// As written; a newly added member's counts as 0.
    pub priority: f64,
    /// `name: value`.
    pub tags: Document,
    /// How far it stays behind on purpose, in seconds.
    pub delay: i64,
    /// As written: 0 or 1; a newly added member's counts as 0.
    pub votes: i32,
    /// Other names by which clients of a network know it.
    pub horizons: Document,
    /// Has no say until it was seen with data.
    pub newly_added: bool,
}

// === impl Config ===

impl Config {
    /// As `replSetGetConfig` shows it (`newly_added` stays hidden), or with everything, for peers and for the journal.
    pub fn document(&self, version: Version, everything: bool) -> Document {
        let mut document = doc! { "_id": &self.set, "version": whole(self.version) };
        if self.term >= 0 {
            document.insert("term", self.term);
        }
        if self.configsvr {
            document.insert("configsvr", true);
        }
        let members: Vec<Document> = self.members.iter().map(|member| member.document(version, everything)).collect();
        document.insert("members", members);
        document.insert("protocolVersion", 1_i64);
        document.insert("writeConcernMajorityJournalDefault", self.majority_journaled);
        document.insert("settings", self.settings.document());
        document
    }

    /// `{version: 2, term: 1}`.
    pub fn name(&self) -> String {
        format!("{{version: {}, term: {}}}", self.version, self.term)
    }

    /// Is it newer than `(version, term)`? A forced one has no term: then only versions count.
    pub fn is_newer_than(&self, version: i64, term: i64) -> bool {
        if self.term < 0 || term < 0 { self.version > version } else { (self.term, self.version) > (term, version) }
    }

    /// Members with a say.
    pub fn voters(&self) -> impl Iterator<Item = (usize, &Member)> {
        self.members.iter().enumerate().filter(|(_, member)| member.votes())
    }

    /// Voters needed to elect.
    pub fn majority(&self) -> usize {
        self.voters().count() / 2 + 1
    }

    /// Voters that have data.
    pub fn writable_voters(&self) -> usize {
        self.voters().filter(|(_, member)| !member.arbiter).count()
    }

    /// Voters with data that `w: majority` asks for.
    pub fn write_majority(&self) -> usize {
        self.majority().min(self.writable_voters())
    }

    /// Do writes without a concern wait for a majority? With arbiters only while more than a majority have data.
    pub fn implicit_majority(&self) -> bool {
        !self.members.iter().any(|member| member.arbiter) || self.writable_voters() > self.majority()
    }

    /// A member by its number.
    pub fn index_of(&self, id: i32) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    /// `heartbeatIntervalMillis`.
    pub fn heartbeat_interval(&self) -> Duration {
        millis(self.settings.heartbeat_interval)
    }

    /// `heartbeatTimeoutSecs`.
    pub fn heartbeat_timeout(&self) -> Duration {
        millis(self.settings.heartbeat_timeout_secs.saturating_mul(1000))
    }

    /// `electionTimeoutMillis`.
    pub fn election_timeout(&self) -> Duration {
        millis(self.settings.election_timeout)
    }

    /// How many members come before this one by priority.
    pub fn priority_rank(&self, index: usize) -> u32 {
        let mine = self.members.get(index).map_or(0.0, Member::priority);
        self.members.iter().filter(|member| member.priority() > mine).count().try_into().unwrap_or(u32::MAX)
    }
}

fn millis(value: i64) -> Duration {
    Duration::from_millis(value.try_into().unwrap_or(0))
}

/// mongod prints a version as int32, which every version fits.
fn whole(version: i64) -> i32 {
    version.try_into().unwrap_or(i32::MAX)
}

// === impl Settings ===

impl Settings {
    fn document(&self) -> Document {
        let mut document = doc! {
            "chainingAllowed": self.chaining,
            "heartbeatIntervalMillis": whole(self.heartbeat_interval),
            "heartbeatTimeoutSecs": whole(self.heartbeat_timeout_secs),
            "electionTimeoutMillis": whole(self.election_timeout),
            "catchUpTimeoutMillis": whole(self.catch_up_timeout),
            "catchUpTakeoverDelayMillis": whole(self.catch_up_takeover_delay),
            "getLastErrorModes": self.modes.clone(),
            "getLastErrorDefaults": self.defaults.clone(),
        };
        if let Some(id) = self.id {
            document.insert("replicaSetId", id);
        }
        document
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            chaining: true,
            heartbeat_interval: 2000,
            heartbeat_timeout_secs: 10,
            election_timeout: 10_000,
            catch_up_timeout: -1,
            catch_up_takeover_delay: 30_000,
            modes: Document::new(),
            defaults: doc! { "w": 1, "wtimeout": 0 },
            id: None,
        }
    }
}

// === impl Member ===

impl Member {
    /// Has it a say now?
    pub fn votes(&self) -> bool {
        self.votes > 0 && !self.newly_added
    }

    /// What its priority counts now.
    pub fn priority(&self) -> f64 {
        if self.newly_added { 0.0 } else { self.priority }
    }

    /// May it become primary?
    pub fn is_electable(&self) -> bool {
        !self.arbiter && self.priority() > 0.0
    }

    fn document(&self, version: Version, everything: bool) -> Document {
        let mut document = doc! {
            "_id": self.id,
            "host": &self.host,
            "arbiterOnly": self.arbiter,
            "buildIndexes": self.build_indexes,
            "hidden": self.hidden,
            "priority": self.priority,
            "tags": self.tags.clone(),
        };
        if everything && self.newly_added {
            document.insert("newlyAdded", true);
        }
        if !self.horizons.is_empty() {
            document.insert("horizons", self.horizons.clone());
        }
        document.insert(version.delay_field(), self.delay);
        document.insert("votes", self.votes);
        document
    }
}
