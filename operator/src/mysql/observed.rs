//! What was seen of a MySQL cluster: the shared values with MySQL's words in them, and what only a MySQL cluster is asked.

use std::collections::BTreeSet;

use super::MySql;
pub use crate::observed::{PodSeen, Seen, StatefulSetSeen, Trouble};

/// Everything seen of one cluster in one pass.
pub type Observed = crate::observed::Observed<MySql>;
/// One member.
pub type Member = crate::observed::Member<MySql>;

/// What a person asks by annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `understudy.dev/accept-loss: MEMBER@TERM`: a person consents to promote this member in this term.
    pub consent: Option<(String, u64)>,
    /// `understudy.dev/switchover: MEMBER@TERM`, or `any@TERM`: a person asks for a hand-over in this term.
    pub switchover: Option<(String, u64)>,
    /// `understudy.dev/fenced: MEMBER,…`: these serve nobody and are not promoted.
    pub fenced: BTreeSet<String>,
    /// `understudy.dev/reclone: MEMBER@SERVER_UUID`: this data directory is to be discarded and cloned anew.
    pub reclone: Option<(String, String)>,
}
