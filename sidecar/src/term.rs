//! The highest term this member has seen, kept on its volume so that no restart forgets it (I8), and with it the last order accepted.
//!
//! Only this file decides whether an order is current. What the order says, and whether it is safe, is the hub's business. Both are one
//! file, so that no crash leaves an order beside a term that it does not belong to.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sidecar_protocol::{Refusal, RefusalCode};

/// Name of the file.
const FILE: &str = "term.json";
/// Where it is written before it gets its name.
const DRAFT: &str = "term.json.new";

/// What the file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    cluster: String,
    term: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    order: Option<Kept>,
}

/// The last order accepted, as it is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kept {
    /// Its term.
    pub term: u64,
    /// What orders of its record promise.
    #[serde(default)]
    pub promise: Promise,
    /// The data directory that it was accepted with, if there was one.
    pub data: Option<String>,
    /// The assignment, in the engine's words.
    pub assignment: serde_json::Value,
}

/// What the orders of one record promise: that until the next record no write is acknowledged that fewer others hold (I4). So what the
/// operator saw in force when it recorded more is in force after that too, whatever was late on its way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promise {
    /// The record: [`claim`](sidecar_protocol::Order::claim).
    pub claim: u64,
    /// The most acknowledgements that one of its orders asked for.
    pub acks: u32,
}

impl Promise {
    /// What is promised after an order of record `claim` for `acks` acknowledgements; `last` is what was promised before it in this term.
    ///
    /// # Errors
    /// When it is of an older record, or takes back what was promised.
    pub fn after(last: Option<Self>, claim: u64, acks: Option<u32>) -> Result<Self, Refusal> {
        let last = last.unwrap_or(Self { claim, acks: 0 });
        if claim < last.claim {
            let message = format!("the order is of record {claim}, this member has seen {}", last.claim);
            return Err(Refusal { code: RefusalCode::StaleTerm, message, retry: false });
        }
        let promised = if claim == last.claim { last.acks } else { 0 };
        if let Some(acks) = acks.filter(|acks| *acks < promised) {
            let message = format!("{acks} acknowledgements instead of {promised} must be recorded first");
            return Err(Refusal { code: RefusalCode::Unsafe, message, retry: true });
        }
        Ok(Self { claim, acks: acks.unwrap_or(0).max(promised) })
    }
}

/// Why an order or the file is refused.
#[derive(Debug, thiserror::Error)]
pub enum TermError {
    /// The file is not what we write. Starting at 0 instead would obey operators long deposed.
    #[error(
        "{path} is damaged ({reason}). It keeps orders of deposed operators out, so it is not ignored: check the volume; then, to accept \
         any next order, delete this file and restart the pod"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Storage {
        /// The file or its directory.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// The order is another cluster's.
    #[error("the order is for cluster {theirs}, this member belongs to {ours}")]
    OtherCluster {
        /// The order's.
        theirs: String,
        /// Ours.
        ours: String,
    },
    /// The order's term is lower than the highest seen.
    #[error("the order is of term {theirs}, this member has seen {ours}")]
    Stale {
        /// The order's.
        theirs: u64,
        /// The highest seen.
        ours: u64,
    },
}

/// The highest term seen of one cluster.
#[derive(Debug)]
pub struct Term {
    directory: PathBuf,
    record: Record,
}

impl Term {
    /// Reads the term of `cluster` in `directory`, which is made when missing. The term is 0 when there is no file, and when the file is
    /// another cluster's: then a re-created cluster has adopted the volume, and its terms start anew.
    ///
    /// # Errors
    /// When the file is damaged or the directory cannot be used.
    pub fn open(directory: &Path, cluster: &str) -> Result<Self, TermError> {
        let storage = |source| TermError::Storage { path: directory.into(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(storage)?;
        let path = directory.join(FILE);
        let fresh = Record { cluster: cluster.into(), term: 0, order: None };
        let record = match fs::read(&path) {
            Ok(text) => match serde_json::from_slice::<Record>(&text) {
                Ok(record) if record.cluster == cluster => record,
                Ok(record) => {
                    tracing::info!(former = record.cluster, cluster, "the volume comes from another cluster: terms start anew");
                    fresh
                }
                Err(error) => return Err(TermError::Damaged { path, reason: error.to_string() }),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh,
            Err(source) => return Err(TermError::Storage { path, source }),
        };
        Ok(Self { directory: directory.into(), record })
    }

    /// The highest term seen.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.record.term
    }

    /// The last order accepted, if no higher term was seen since.
    #[must_use]
    pub fn order(&self) -> Option<&Kept> {
        self.record.order.as_ref().filter(|order| order.term == self.record.term)
    }

    /// Admits an order of `term` for `cluster`; `order` is there when it is accepted and new. A higher term and a new order are on the disk
    /// when this returns; it blocks for that long.
    ///
    /// # Errors
    /// When the order is stale or another cluster's, or cannot be kept: then it must not be obeyed.
    pub fn admit(&mut self, cluster: &str, term: u64, order: Option<Kept>) -> Result<(), TermError> {
        if cluster != self.record.cluster {
            return Err(TermError::OtherCluster { theirs: cluster.into(), ours: self.record.cluster.clone() });
        }
        if term < self.record.term {
            return Err(TermError::Stale { theirs: term, ours: self.record.term });
        }
        if term > self.record.term || order.is_some() {
            // A higher term without an order of its own ends the order before it: nobody resumes what was deposed.
            let record = Record { cluster: self.record.cluster.clone(), term, order };
            write(&self.directory, &record).map_err(|source| TermError::Storage { path: self.directory.join(FILE), source })?;
            self.record = record;
        }
        Ok(())
    }
}

/// After a crash anywhere in here the file is the old one or the new one, whole; after the return it is the new one.
fn write(directory: &Path, record: &Record) -> io::Result<()> {
    let draft = directory.join(DRAFT);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&serde_json::to_vec(record)?)?;
    file.sync_all()?;
    fs::rename(&draft, directory.join(FILE))?;
    // The name itself must be on the disk too, or a power cut brings the old file back.
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const UID: &str = "0b9e9e0c-7a7e-4b39-8f5e-2d1b7e5c9a11";

    /// A fresh directory; each test has its own.
    fn directory(test: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("understudy-term-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path.join(".understudy")
    }

    #[test]
    fn a_higher_term_survives_a_restart() {
        let directory = directory("survives");
        let mut term = Term::open(&directory, UID).unwrap();
        assert_eq!(term.current(), 0);
        term.admit(UID, 7, None).unwrap();
        assert_eq!(Term::open(&directory, UID).unwrap().current(), 7);
        assert_eq!(fs::metadata(&directory).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_promise_is_taken_back_by_a_newer_record_only() {
        let code = |outcome: Result<Promise, Refusal>| outcome.unwrap_err().code;
        let first = Promise::after(None, 4, Some(1)).unwrap();
        let more = Promise::after(Some(first), 4, Some(2)).unwrap();
        assert_eq!(more, Promise { claim: 4, acks: 2 });
        assert_eq!(code(Promise::after(Some(more), 4, Some(1))), RefusalCode::Unsafe);
        assert_eq!(code(Promise::after(Some(more), 3, Some(3))), RefusalCode::StaleTerm);
        let closed = Promise::after(Some(more), 4, None).unwrap();
        assert_eq!(code(Promise::after(Some(closed), 4, Some(1))), RefusalCode::Unsafe, "closed in between, it promises the same");
        assert_eq!(Promise::after(Some(closed), 5, Some(1)), Ok(Promise { claim: 5, acks: 1 }));
    }

    #[test]
    fn a_lower_term_is_refused_and_an_equal_one_admitted() {
        let mut term = Term::open(&directory("lower"), UID).unwrap();
        term.admit(UID, 7, None).unwrap();
        term.admit(UID, 7, None).unwrap();
        assert!(matches!(term.admit(UID, 6, None), Err(TermError::Stale { theirs: 6, ours: 7 })));
        assert_eq!(term.current(), 7);
    }

    #[test]
    fn another_clusters_order_is_refused_whatever_its_term() {
        let mut term = Term::open(&directory("other"), UID).unwrap();
        assert!(matches!(term.admit("another", 99, None), Err(TermError::OtherCluster { .. })));
        assert_eq!(term.current(), 0);
    }

    #[test]
    fn the_last_order_survives_a_restart_until_a_higher_term_is_seen() {
        let directory = directory("order");
        let kept = |term| Kept {
            term,
            promise: Promise { claim: 1, acks: 2 },
            data: Some("uuid".into()),
            assignment: serde_json::json!({ "role": "isolated" }),
        };
        let mut term = Term::open(&directory, UID).unwrap();
        term.admit(UID, 7, Some(kept(7))).unwrap();
        term.admit(UID, 7, None).unwrap();
        assert_eq!(Term::open(&directory, UID).unwrap().order(), Some(&kept(7)), "a repetition changes nothing");
        term.admit(UID, 8, None).unwrap();
        assert_eq!(Term::open(&directory, UID).unwrap().order(), None, "refused, but its term deposes the order before");
        assert_eq!(Term::open(&directory, "another").unwrap().order(), None);
    }

    #[test]
    fn an_adopted_volume_starts_anew() {
        let directory = directory("adopted");
        Term::open(&directory, "former").unwrap().admit("former", 40, None).unwrap();
        let mut term = Term::open(&directory, UID).unwrap();
        assert_eq!(term.current(), 0);
        term.admit(UID, 1, None).unwrap();
        assert_eq!(Term::open(&directory, UID).unwrap().current(), 1);
    }

    #[test]
    fn a_crash_before_the_rename_leaves_the_old_term() {
        let directory = directory("before");
        let draft = serde_json::to_vec(&Record { cluster: UID.into(), term: 8, order: None }).unwrap();
        for written in 0..=draft.len() {
            let _ = fs::remove_dir_all(&directory);
            Term::open(&directory, UID).unwrap().admit(UID, 7, None).unwrap();
            fs::write(directory.join(DRAFT), &draft[..written]).unwrap();
            let mut term = Term::open(&directory, UID).unwrap();
            assert_eq!(term.current(), 7, "{written} bytes written");
            term.admit(UID, 9, None).unwrap();
            assert_eq!(Term::open(&directory, UID).unwrap().current(), 9, "the left-over draft is in nobody's way");
        }
    }

    #[test]
    fn a_crash_after_the_rename_leaves_the_new_term() {
        let directory = directory("after");
        Term::open(&directory, UID).unwrap().admit(UID, 7, None).unwrap();
        fs::write(directory.join(DRAFT), serde_json::to_vec(&Record { cluster: UID.into(), term: 8, order: None }).unwrap()).unwrap();
        fs::rename(directory.join(DRAFT), directory.join(FILE)).unwrap();
        assert_eq!(Term::open(&directory, UID).unwrap().current(), 8);
    }

    #[test]
    fn a_torn_file_is_never_read_as_a_term() {
        let directory = directory("torn");
        Term::open(&directory, UID).unwrap().admit(UID, 7123, None).unwrap();
        let whole = fs::read(directory.join(FILE)).unwrap();
        for kept in 0..whole.len() {
            fs::write(directory.join(FILE), &whole[..kept]).unwrap();
            let error = Term::open(&directory, UID).unwrap_err();
            assert!(matches!(error, TermError::Damaged { .. }), "{kept} bytes kept");
            assert!(error.to_string().contains("delete this file"), "it says what to do");
        }
    }

    #[test]
    fn a_term_that_cannot_be_kept_is_not_admitted() {
        let directory = directory("unwritable");
        let mut term = Term::open(&directory, UID).unwrap();
        term.admit(UID, 7, None).unwrap();
        fs::create_dir(directory.join(DRAFT)).unwrap(); // not even root can open a directory for writing
        assert!(matches!(term.admit(UID, 8, None), Err(TermError::Storage { .. })));
        assert_eq!(term.current(), 7);
        assert_eq!(Term::open(&directory, UID).unwrap().current(), 7);
    }
}
