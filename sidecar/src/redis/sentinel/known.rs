//! What a member knows of its cluster, as a Sentinel's view: from the operator's last order and its own database. Pure.
//!
//! Three answers differ, so that clients go on to a member that knows better: a primary; a primary that is silent (`s_down`); and nobody, where
//! this member knows that it has none to name: it was told to follow nobody, its primary is handing over to a third member, or it is a primary
//! that closed itself. Of members that it has no link to, it knows that they exist; not known is not silent.

use std::collections::BTreeMap;
use std::time::Duration;

use sidecar_protocol::redis::{Assignment, PORT, Part, Role, State};
use sidecar_protocol::{Order, SILENCE_MILLIS};
use tokio::time::Instant;

use super::view::{Node, View};

/// Sentinel's `down-after-milliseconds`.
const SILENCE: Duration = Duration::from_millis(SILENCE_MILLIS);
/// What clients are told before the database has said its version: the oldest that is supported.
const FIRST_VERSION: &str = "7.0.0";

/// How this member is called, and so the others: their names differ in the ordinal.
#[derive(Clone, Debug)]
pub struct Names {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Under which the others reach it, and clients: the pod's name, and after a dot what all members' names end with.
    pub host: String,
    /// By which clients ask for the primary.
    pub master_name: String,
    /// Port of the endpoint.
    pub port: u16,
}

// === impl Names ===

impl Names {
    fn member(&self, ordinal: u32) -> String {
        let stem = self.member.rsplit_once('-').map_or(self.member.as_str(), |(stem, _)| stem);
        format!("{stem}-{ordinal}")
    }

    /// What all members' names end with.
    fn domain(&self) -> &str {
        self.host.split_once('.').map_or("", |(_, domain)| domain)
    }

    fn host(&self, ordinal: u32) -> String {
        format!("{}.{}", self.member(ordinal), self.domain()).trim_end_matches('.').to_owned()
    }

    /// The ordinal of a member of this cluster.
    fn ordinal(&self, member: &str) -> Option<u32> {
        let ordinal = member.rsplit_once('-')?.1.parse().ok()?;
        (member == self.member(ordinal)).then_some(ordinal)
    }

    fn me(&self) -> Option<u32> {
        self.ordinal(&self.member)
    }

    fn sentinel(&self, member: &str, host: String) -> Node {
        Node { port: self.port, ..Node::sentinel(host, self.domain(), member, None) }
    }
}

/// What is remembered between two looks: who has been silent, and since when.
#[derive(Clone, Debug)]
pub struct Known {
    names: Names,
    silent: BTreeMap<u32, Instant>,
}

// === impl Known ===

impl Known {
    /// Nothing was heard yet.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self { names, silent: BTreeMap::new() }
    }

    /// The view that follows from the last order and the state of the own database.
    pub fn see(&mut self, order: Option<&Order<Assignment>>, state: &State, now: Instant) -> View {
        let me = self.names.me();
        let assignment = order.map(|order| &order.assignment);
        let leader = leader(&self.names, assignment, state);
        let members = assignment.map_or(&[][..], |assignment| &assignment.members);
        let primary = leader.map(|ordinal| self.database(ordinal, leader, state, now));
        let others = members.iter().filter(|ordinal| leader != Some(**ordinal));
        let replicas = others.map(|ordinal| self.database(*ordinal, leader, state, now)).collect();
        self.silent.retain(|ordinal, _| members.contains(ordinal) || leader == Some(*ordinal));
        View {
            master_name: self.names.master_name.clone(),
            quorum: u32::try_from(members.len() / 2 + 1).unwrap_or(u32::MAX),
            primary,
            replicas,
            sentinels: members
                .iter()
                .filter(|ordinal| Some(**ordinal) != me)
                .map(|ordinal| self.names.sentinel(&self.names.member(*ordinal), self.names.host(*ordinal)))
                .collect(),
            me: self.names.sentinel(&self.names.member, self.names.host.clone()),
            epoch: order.map_or(0, |order| order.term),
            version: state.version.clone().unwrap_or_else(|| FIRST_VERSION.into()),
        }
    }

    fn database(&mut self, ordinal: u32, leader: Option<u32>, state: &State, now: Instant) -> Node {
        let me = self.names.me();
        let host = self.names.host(ordinal);
        let connected = state.replication.as_ref().is_some_and(|link| link.connected);
        let mine = state.position.as_ref().map_or(0, |position| position.offset);
        // Whether it is heard, whether it is in step, and how far it is.
        let (heard, linked, offset) = match (Some(ordinal) == me, leader.is_some() && leader == me, leader == Some(ordinal)) {
            (true, leads, _) => (state.role != Role::Unknown, leads || connected, mine),
            (false, true, _) => {
                let follower = state.replicas.iter().find(|replica| replica.host == host);
                let online = follower.is_some_and(|replica| replica.online);
                (online, online, follower.map_or(0, |replica| replica.offset))
            }
            (false, false, true) => (connected, true, mine),
            (false, false, false) => (true, true, 0),
        };
        if heard {
            self.silent.remove(&ordinal);
        }
        let since = (!heard).then(|| *self.silent.entry(ordinal).or_insert(now));
        // A link that is being made anew is not silence yet.
        let down_since = since.filter(|since| now.duration_since(*since) >= SILENCE);
        Node { host, port: PORT, run_id: String::new(), down_since, offset, linked }
    }
}

/// Who is primary, as far as this member knows.
fn leader(names: &Names, assignment: Option<&Assignment>, state: &State) -> Option<u32> {
    let me = names.me();
    let open = state.role == Role::Primary && !state.fenced;
    let followed = state.replication.as_ref().map(|link| link.source.as_str());
    match assignment.map(|assignment| &assignment.part) {
        // FAILOVER has changed the roles before the next order comes.
        Some(Part::Primary { yield_to: Some(heir), .. }) if state.role == Role::Replica && followed == Some(&heir.to.host) => {
            names.ordinal(&heir.to.member)
        }
        // One whose process is gone is silent; one that has not opened yet, or has closed itself, is none.
        Some(Part::Primary { .. }) => {
            if open || (state.role == Role::Unknown && !state.fenced) {
                me
            } else {
                None
            }
        }
        Some(Part::Replica { heir_of: Some(_), .. }) if open => me,
        Some(Part::Replica { source_yields: true, .. }) => None,
        Some(Part::Replica { source, .. }) => names.ordinal(&source.member),
        Some(Part::Isolated) => None,
        // No order yet: what it does by itself.
        None if open => me,
        None => names.ordinal(followed?.split('.').next()?),
    }
}

#[cfg(test)]
mod tests;
