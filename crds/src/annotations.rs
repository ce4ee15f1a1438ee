//! What a person asks of a cluster beyond its spec, by annotations on the custom resource.
//!
//! Each names the state that it was made for (a term, a data directory), so one that is left behind asks for nothing.

/// `MEMBER@TERM`: promote this member in this term, and lose what it does not hold.
pub const ACCEPT_LOSS: &str = "understudy.dev/accept-loss";
/// `MEMBER@TERM` or `any@TERM`: hand the primary's role over in this term.
pub const SWITCHOVER: &str = "understudy.dev/switchover";
/// `MEMBER,MEMBER`: these serve nobody and are not promoted, for as long as they are named.
pub const FENCED: &str = "understudy.dev/fenced";
/// `MEMBER@SERVER_UUID`: discard this data directory and clone it anew.
pub const RECLONE: &str = "understudy.dev/reclone";
/// All of them.
pub const ASKED: [&str; 4] = [ACCEPT_LOSS, SWITCHOVER, FENCED, RECLONE];
/// In the place of a member: whichever is best.
pub const ANY: &str = "any";
