//! What a restart remembers: the configuration, the vote, the oplog.
//!
//! One append-only journal of BSON documents, synced after each change. The data are what the oplog says, so initial sync is
//! copying the oplog and rollback is cutting it. Nothing is ever compacted: this is a test tool.

pub mod data;
pub mod query;
pub mod update;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result};
use bson::oid::ObjectId;
use bson::{Bson, DateTime, Document, doc};

use crate::config::{Config, parse};
use crate::optime::OpTime;
use crate::version::Version;
use data::Data;

/// One entry of the oplog.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place.
    pub at: OpTime,
    /// When, by the clock of the primary that wrote it.
    pub wall: DateTime,
    /// The whole of it: `{op, ns, o, o2, ts, t, v, wall}`.
    pub document: Document,
}

/// The last vote given.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vote {
    /// In this term.
    pub term: i64,
    /// To this member.
    pub candidate: i64,
}

/// The data directory and what is in it.
#[derive(Debug)]
pub struct Store {
    journal: File,
    version: Version,
    /// The configuration last installed.
    pub config: Option<Config>,
    /// The last vote given.
    pub vote: Vote,
    /// Everything written, oldest first.
    pub oplog: Vec<Entry>,
    /// What the oplog made.
    pub data: Data,
    /// Initial sync is over, or never was needed.
    pub synced: bool,
}

/// Which entries of the journal there are.
mod kind {
    pub const CONFIG: &str = "config";
    pub const VOTE: &str = "vote";
    pub const OPS: &str = "ops";
    pub const CUT: &str = "cut";
    pub const RESET: &str = "reset";
    pub const SYNCED: &str = "synced";
}

// === impl Entry ===

impl Entry {
    /// From its document.
    pub fn read(document: Document) -> Self {
        let wall = document.get_datetime("wall").copied().unwrap_or(DateTime::MIN);
        Self { at: OpTime::read(&document), wall, document }
    }

    /// Which document of this collection it changes, and how.
    fn of(&self, name: &str) -> Option<(Vec<u8>, &str)> {
        let (op, object) = (self.document.get_str("op").ok()?, self.document.get_document("o").ok()?);
        (self.document.get_str("ns").is_ok_and(|space| space == name) && ["i", "u", "d"].contains(&op)).then(|| (data::id(object), op))
    }

    /// A new one.
    pub fn new(at: OpTime, op: Document) -> Self {
        let wall = DateTime::now();
        let mut document = op;
        document.extend(doc! { "ts": at.timestamp(), "t": at.term, "v": 2_i64, "wall": wall });
        Self { at, wall, document }
    }
}

// === impl Store ===

impl Store {
    /// Opens a data directory; a journal that was cut short in a write loses that write only.
    pub fn open(path: &Path, version: Version) -> Result<Self> {
        let name = path.join("journal.bson");
        let journal = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&name);
        let mut journal = journal.with_context(|| format!("Data directory {} not found", path.display()))?;
        journal.try_lock().with_context(|| format!("DBPathInUse: {} is locked; is another mongod running?", name.display()))?;
        let mut bytes = Vec::new();
        journal.read_to_end(&mut bytes)?;
        let clone = journal.try_clone()?;
        let mut store =
            Self { journal: clone, version, config: None, vote: Vote::default(), oplog: Vec::new(), data: Data::default(), synced: false };
        let mut read = 0;
        while let Some(record) = next_record(bytes.get(read..).unwrap_or_default()) {
            let document: Document = bson::deserialize_from_slice(record).with_context(|| format!("{} at {read}", name.display()))?;
            store.replay(&document).map_err(anyhow::Error::msg)?;
            read += record.len();
        }
        journal.set_len(read.try_into()?)?;
        journal.seek(SeekFrom::End(0))?;
        store.data = Data::of(&store.oplog);
        Ok(store)
    }

    fn replay(&mut self, record: &Document) -> Result<(), String> {
        let value = record.get_document("v").map_err(|error| error.to_string())?;
        match record.get_str("k").unwrap_or_default() {
            kind::CONFIG => self.config = Some(parse::config(value, self.version)?),
            kind::VOTE => {
                self.vote = Vote { term: value.get_i64("term").unwrap_or(0), candidate: value.get_i64("candidate").unwrap_or(-1) }
            }
            kind::OPS => {
                let ops = value.get_array("ops").map_err(|error| error.to_string())?;
                self.oplog.extend(ops.iter().filter_map(Bson::as_document).cloned().map(Entry::read));
            }
            kind::CUT => {
                let after = OpTime::read(value);
                self.oplog.retain(|entry| entry.at <= after);
            }
            kind::RESET => {
                self.oplog.clear();
                self.synced = false;
            }
            kind::SYNCED => self.synced = true,
            other => return Err(format!("a journal entry of kind {other}")),
        }
        Ok(())
    }

    fn record(&mut self, kind: &str, value: Document) {
        let written = bson::serialize_to_vec(&doc! { "k": kind, "v": value })
            .map_err(std::io::Error::other)
            .and_then(|bytes| self.journal.write_all(&bytes))
            .and_then(|()| self.journal.sync_data());
        if let Err(error) = written {
            // As mongod does when its journal fails: an acknowledgement that is not on disk would be a lie.
            tracing::error!(%error, "the journal cannot be written");
            std::process::exit(14);
        }
    }

    /// Remembers a configuration.
    pub fn save_config(&mut self, config: Config) {
        self.record(kind::CONFIG, config.document(self.version, true));
        self.config = Some(config);
    }

    /// Remembers a vote: it is given once a term, restarts or not.
    pub fn save_vote(&mut self, vote: Vote) {
        self.record(kind::VOTE, doc! { "term": vote.term, "candidate": vote.candidate });
        self.vote = vote;
    }

    /// Appends to the oplog and applies.
    pub fn append(&mut self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let documents: Vec<Document> = entries.iter().map(|entry| entry.document.clone()).collect();
        self.record(kind::OPS, doc! { "ops": documents });
        for entry in entries {
            self.data.apply(&entry.document);
            self.oplog.push(entry);
        }
    }

    /// Rolls back to `after`; answers how many entries went.
    pub fn cut(&mut self, after: OpTime) -> usize {
        let before = self.oplog.len();
        self.record(kind::CUT, after.document());
        self.oplog.retain(|entry| entry.at <= after);
        self.data = Data::of(&self.oplog);
        before - self.oplog.len()
    }

    /// Forgets the data: initial sync begins.
    pub fn reset(&mut self) {
        self.record(kind::RESET, Document::new());
        self.oplog.clear();
        self.data = Data::default();
        self.synced = false;
    }

    /// Initial sync is over.
    pub fn save_synced(&mut self) {
        self.record(kind::SYNCED, Document::new());
        self.synced = true;
    }

    /// The documents of a collection as they were after the entry at `at`.
    pub fn as_of<'a>(&'a self, name: &'a str, at: OpTime) -> Vec<Cow<'a, Document>> {
        let (before, after) = self.oplog.split_at(self.oplog.partition_point(|entry| entry.at <= at));
        // Collections come and go seldom: then everything is made anew.
        if after.iter().any(|entry| entry.document.get_str("op").is_ok_and(|op| op == "c")) {
            return Data::of(before).all(name).cloned().map(Cow::Owned).collect();
        }
        // Of what was changed since, the first change tells whether it was there.
        let mut changed = BTreeMap::new();
        for (id, op) in after.iter().filter_map(|entry| entry.of(name)) {
            changed.entry(id).or_insert(op);
        }
        let same = |held: &&Document| changed.is_empty() || !changed.contains_key(&data::id(held));
        let mut documents: Vec<_> = self.data.all(name).filter(same).map(Cow::Borrowed).collect();
        for (id, _) in changed.iter().filter(|(_, op)| **op != "i") {
            let last = before.iter().rev().find(|entry| entry.of(name).is_some_and(|(other, _)| other == *id));
            documents.extend(last.and_then(|entry| entry.document.get_document("o").ok()).map(Cow::Borrowed));
        }
        documents
    }

    /// The last entry's place.
    pub fn last(&self) -> OpTime {
        self.oplog.last().map_or(OpTime::NULL, |entry| entry.at)
    }

    /// When the entry at `at` was written; the epoch when it is not here.
    pub fn wall(&self, at: OpTime) -> DateTime {
        self.find(at).map_or(DateTime::from_millis(0), |index| self.oplog.get(index).map_or(DateTime::from_millis(0), |entry| entry.wall))
    }

    /// Which entry is at `at`.
    pub fn find(&self, at: OpTime) -> Option<usize> {
        self.oplog.binary_search_by(|entry| entry.at.cmp(&at)).ok()
    }

    /// The set's identity, when there is a configuration.
    pub fn set_id(&self) -> Option<ObjectId> {
        self.config.as_ref().and_then(|config| config.settings.id)
    }
}

fn next_record(bytes: &[u8]) -> Option<&[u8]> {
    let size = i32::from_le_bytes(bytes.get(..4)?.try_into().ok()?);
    bytes.get(..usize::try_from(size).ok()?).filter(|record| record.last() == Some(&0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(second: u32, op: Document) -> Entry {
        Entry::new(OpTime { term: 1, time: (second, 1) }, op)
    }

    fn insert(second: u32, id: i32) -> Entry {
        entry(second, doc! { "op": "i", "ns": "t.a", "o": { "_id": id } })
    }

    #[test]
    fn what_it_held_before_is_told_whatever_was_changed_since() {
        let path = std::env::temp_dir().join(format!("mongod-model-as-of-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let mut store = Store::open(&path, "5.0.7".parse().expect("a version")).expect("opens");
        let update = entry(3, doc! { "op": "u", "ns": "t.a", "o": { "_id": 1, "x": 1 }, "o2": { "_id": 1 } });
        let delete = entry(4, doc! { "op": "d", "ns": "t.a", "o": { "_id": 2 } });
        store.append(vec![insert(1, 1), insert(2, 2), update, delete, insert(5, 2), insert(6, 3)]);
        let at = |second: u32| {
            let mut found: Vec<String> =
                store.as_of("t.a", OpTime { term: 1, time: (second, 1) }).iter().map(ToString::to_string).collect();
            found.sort();
            found.join(" ")
        };
        let by_replay = |second: usize| {
            let mut found: Vec<String> = Data::of(&store.oplog[..second]).all("t.a").map(ToString::to_string).collect();
            found.sort();
            found.join(" ")
        };
        for second in 0..=6 {
            assert_eq!(at(u32::try_from(second).expect("small")), by_replay(second), "after {second}");
        }
        std::fs::remove_dir_all(&path).expect("removes");
    }

    #[test]
    fn a_restart_remembers_all_but_the_write_that_was_cut_short() {
        let path = std::env::temp_dir().join(format!("mongod-model-store-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        let version = "5.0.7".parse().expect("a version");
        let mut store = Store::open(&path, version).expect("opens");
        store.append(vec![insert(1, 1), insert(2, 2)]);
        store.save_vote(Vote { term: 7, candidate: 2 });
        store.append(vec![insert(3, 3)]);
        assert_eq!(store.cut(OpTime { term: 1, time: (2, 1) }), 1);
        assert!(Store::open(&path, version).is_err(), "one server a directory");
        store.journal.write_all(&[200, 0, 0, 0, 3]).expect("half a record");
        drop(store);
        let store = Store::open(&path, version).expect("opens again");
        assert_eq!((store.vote.term, store.oplog.len(), store.data.count("t.a")), (7, 2, 2));
        std::fs::remove_dir_all(&path).expect("removes");
    }
}
