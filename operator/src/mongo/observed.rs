//! What was seen of a replica set: the shared values with MongoDB's words in them, and what only a replica set is asked.

use std::collections::BTreeSet;

use super::Mongo;
pub use crate::observed::{PodSeen, Seen, StatefulSetSeen, Trouble};

/// Everything seen of one set in one pass.
pub type Observed = crate::observed::Observed<Mongo>;
/// One member.
pub type Member = crate::observed::Member<Mongo>;

/// What a person asks by annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `understudy.dev/switchover: MEMBER@TERM`, or `any@TERM`: a person asks for a hand-over in this term.
    pub switchover: Option<(String, u64)>,
    /// `understudy.dev/fenced: MEMBER,…`: these never lead.
    pub fenced: BTreeSet<String>,
    /// `understudy.dev/force`: consent to a forced configuration, word for word.
    pub force: Option<String>,
    /// `understudy.dev/rotate-key`: a request for another key.
    pub key: Option<String>,
}
