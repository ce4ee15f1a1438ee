//! Redis' and Valkey's part: histories and positions as values, the role a member must hold, and what is true of it.
//!
//! [`history`] is the maths by which it is decided who may follow whom and who may lead; [`order`] is what a member must hold, [`state`] what is
//! true of it. Policy (who, when) stays in the operator.

pub mod history;
pub mod order;
pub mod state;

pub use history::{Ancestor, Lineage, Position, Relation, ReplId};
pub use order::{Assignment, Part, Peer, User, Yield};
pub use state::{Accepted, Archive, Data, Engine, Handover, Problem, ProblemCode, Process, Replica, Replication, Role, State};

/// Port of the database.
pub const PORT: u16 = 6379;
/// Port on which each sidecar answers as a Sentinel does.
pub const SENTINEL_PORT: u16 = 26379;
/// Where a member replicates from that is to follow nobody: nothing listens there. It keeps its history and its offset, and takes no writes.
pub const NOBODY: (&str, u16) = ("127.0.0.1", 1);
/// The account of the sidecar.
pub const LOCAL_USER: &str = "understudy";
/// The account of metrics exporters: it reads no keys.
pub const EXPORTER_USER: &str = "understudy-exporter";

/// The account that the member `ordinal` replicates with. One a member, so that the primary can shut out one of them.
#[must_use]
pub fn replication_user(ordinal: u32) -> String {
    format!("understudy-replica-{ordinal}")
}

/// The text whose SHA-256, in hex, is [`State::passwords`]: the files `exporter` and `replication` of the system's Secret, where there are such, then
/// those of the order's users, in its order. Newlines at the end of a file do not count.
#[must_use]
pub fn passwords_text<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let files = files.into_iter().map(|(name, content)| (name, content.trim_end_matches(['\n', '\r'])));
    files.map(|(name, content)| format!("{name} {}\n{content}\n", content.len())).collect()
}
