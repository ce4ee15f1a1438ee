//! What was seen of a Redis cluster: the shared values with Redis' words in them, and what only a Redis cluster is asked.

use std::collections::BTreeSet;

use super::Redis;
pub use crate::observed::{PodSeen, Seen, StatefulSetSeen, Trouble};

/// Everything seen of one cluster in one pass.
pub type Observed = crate::observed::Observed<Redis>;
/// One member.
pub type Member = crate::observed::Member<Redis>;

/// What a person asks by annotations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `understudy.dev/accept-loss: MEMBER@TERM`: a person consents to promote this member in this term.
    pub consent: Option<(String, u64)>,
    /// `understudy.dev/switchover: MEMBER@TERM`, or `any@TERM`: a person asks for a hand-over in this term.
    pub switchover: Option<(String, u64)>,
    /// `understudy.dev/fenced: MEMBER,…`: these serve nobody and are not promoted.
    pub fenced: BTreeSet<String>,
    /// `understudy.dev/reclone: MEMBER@IDENTITY`: these data are to be discarded and copied anew.
    pub reclone: Option<(String, String)>,
    /// `understudy.dev/rotate-passwords`: a request for new passwords of members and applications.
    pub passwords: Option<String>,
}
