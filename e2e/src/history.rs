//! What clients saw while faults ran: appends to lists, reads of lists, and who held which term. [`check`] finds what may not be.
//!
//! The list-append workload of Elle (Kingsbury and Alvaro, VLDB 2020): every element is written once and names its attempt, so the longest
//! list of a key is its version order, and each other reading must be a prefix of it. That makes order comparable between members
//! and the check linear in the history. Lists are short, because each append rewrites its list: keys are left after [`LENGTH`] attempts.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

mod check;

pub use check::{Anomaly, check};

/// A list.
pub type Key = u64;
/// One attempt to append; never tried twice.
pub type Element = u64;
/// The lists of one member.
pub type Lists = BTreeMap<Key, Vec<Element>>;

/// Lists that are written at a time: few, so that appends meet.
pub const LIVE_KEYS: u64 = 4;
/// Attempts on one list.
pub const LENGTH: u64 = 128;

/// The list that the `attempt`-th append of all clients goes to.
pub fn key(attempt: u64) -> Key {
    attempt / (LIVE_KEYS * LENGTH) * LIVE_KEYS + attempt % LIVE_KEYS
}

/// What a client knows of its append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: it is there for ever.
    Ok,
    /// Refused before it did anything: it may never appear.
    Fail(String),
    /// No answer: either is right.
    Unknown(String),
}

/// One append. Times count from the begin of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// Which client.
    pub client: usize,
    /// To which list.
    pub key: Key,
    /// What.
    pub element: Element,
    /// The member that the connection led to, by its own word.
    pub member: String,
    /// The term it was done under, where the answer tells.
    pub term: Option<u64>,
    /// When the statement was sent.
    pub invoked: Duration,
    /// When the answer came, or the client gave up.
    pub ended: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// A list as the primary showed it to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Which client.
    pub client: usize,
    /// Of which list.
    pub key: Key,
    /// What it held.
    pub elements: Vec<Element>,
    /// The member that answered.
    pub member: String,
    /// When the answer came.
    pub ended: Duration,
}

/// A member that may have acknowledged writes under a term, from this moment on at the earliest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    /// The term.
    pub term: u64,
    /// Its primary.
    pub member: String,
    /// When the claim was made.
    pub since: Duration,
}

/// Everything that was seen.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Every append that was sent.
    pub appends: Vec<Append>,
    /// Every read that was answered.
    pub reads: Vec<Read>,
    /// Every primary of every term.
    pub tenures: Vec<Tenure>,
}

impl History {
    /// Begin and end of the longest time without an acknowledgement.
    pub fn longest_gap(&self) -> (Duration, Duration) {
        let mut ended: Vec<_> = self.appends.iter().filter(|append| append.outcome == Outcome::Ok).map(|append| append.ended).collect();
        ended.sort();
        ended.windows(2).map(|pair| (pair[0], pair[1])).max_by_key(|(from, to)| *to - *from).unwrap_or_default()
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |wanted: fn(&Outcome) -> bool| self.appends.iter().filter(|append| wanted(&append.outcome)).count();
        let (from, to) = self.longest_gap();
        write!(
            f,
            "{} appends: {} acknowledged, {} refused, {} unknown; {} reads; {} tenures; longest time without an acknowledgement {:.2} s, from {:.2} s",
            self.appends.len(),
            count(|outcome| *outcome == Outcome::Ok),
            count(|outcome| matches!(outcome, Outcome::Fail(_))),
            count(|outcome| matches!(outcome, Outcome::Unknown(_))),
            self.reads.len(),
            self.tenures.len(),
            (to - from).as_secs_f64(),
            from.as_secs_f64(),
        )
    }
}

impl fmt::Display for Append {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, key, element, member, term, invoked, ended, outcome } = self;
        let (invoked, ended) = (invoked.as_secs_f64(), ended.as_secs_f64());
        write!(f, "client {client} appended {element} to list {key} at {member}, {invoked:.3}–{ended:.3} s: {outcome:?}")?;
        term.map_or(Ok(()), |term| write!(f, " in term {term}"))
    }
}
