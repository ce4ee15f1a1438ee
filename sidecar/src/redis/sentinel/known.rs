//! What a member knows of its cluster, as a Sentinel's view: from the operator's last order and its own database. Pure.
//!
//! Three answers differ, so that clients go on to a member that knows better: a primary; a primary that is silent (`s_down`); and nobody, where
//! this member knows that it has none to name: it was told to follow nobody, or is a primary that closed itself. Of members that it has no
//! link to, it knows that they exist; not known is not silent.

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

/// How the members are called.
#[derive(Clone, Debug)]
pub struct Names {
    /// The cluster, and its headless Service.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
    /// This member.
    pub ordinal: u32,
    /// By which clients ask for the primary.
    pub master_name: String,
    /// Port of the endpoint.
    pub port: u16,
}

// === impl Names ===

impl Names {
    fn member(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.cluster)
    }

    fn host(&self, ordinal: u32) -> String {
        format!("{}.{}.{}.svc", self.member(ordinal), self.cluster, self.namespace)
    }

    fn ordinal(&self, member: &str) -> Option<u32> {
        member.strip_prefix(&self.cluster)?.strip_prefix('-')?.parse().ok()
    }

    fn sentinel(&self, ordinal: u32) -> Node {
        let cluster = format!("{}/{}", self.namespace, self.cluster);
        Node { port: self.port, ..Node::sentinel(self.host(ordinal), &cluster, &self.member(ordinal), None) }
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
        let me = self.names.ordinal;
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
            sentinels: members.iter().filter(|ordinal| **ordinal != me).map(|ordinal| self.names.sentinel(*ordinal)).collect(),
            me: self.names.sentinel(me),
            epoch: order.map_or(0, |order| order.term),
            version: state.version.clone().unwrap_or_else(|| FIRST_VERSION.into()),
        }
    }

    fn database(&mut self, ordinal: u32, leader: Option<u32>, state: &State, now: Instant) -> Node {
        let me = self.names.ordinal;
        let host = self.names.host(ordinal);
        let connected = state.replication.as_ref().is_some_and(|link| link.connected);
        let mine = state.position.as_ref().map_or(0, |position| position.offset);
        // Whether it is heard, whether it is in step, and how far it is.
        let (heard, linked, offset) = match (ordinal == me, leader == Some(me), leader == Some(ordinal)) {
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
    let me = names.ordinal;
    let open = state.role == Role::Primary && !state.fenced;
    let followed = state.replication.as_ref().map(|link| link.source.as_str());
    match assignment.map(|assignment| &assignment.part) {
        // FAILOVER has changed the roles before the next order comes.
        Some(Part::Primary { yield_to: Some(heir), .. }) if state.role == Role::Replica && followed == Some(&heir.to.host) => {
            names.ordinal(&heir.to.member)
        }
        // One whose process is gone is silent; one that has not opened yet, or has closed itself, is none.
        Some(Part::Primary { .. }) => (open || (state.role == Role::Unknown && !state.fenced)).then_some(me),
        Some(Part::Replica { heir_of: Some(_), .. }) if open => Some(me),
        Some(Part::Replica { source, .. }) => names.ordinal(&source.member),
        Some(Part::Isolated) => None,
        // No order yet: what it does by itself.
        None if open => Some(me),
        None => names.ordinal(followed?.split('.').next()?),
    }
}

#[cfg(test)]
mod tests;
