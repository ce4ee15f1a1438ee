//! The role that a Redis member must hold. It states the end, so sending it twice changes nothing.

use serde::{Deserialize, Serialize};

use super::history::Lineage;

/// What a member must bring about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment {
    /// The role.
    #[serde(flatten)]
    pub part: Part,
    /// Ordinals of all members: a majority of their sidecars keeps a primary open that the operator does not reach, and the Sentinel endpoint
    /// names them.
    pub members: Vec<u32>,
    /// The application's accounts: exactly these exist beside our own.
    #[serde(default)]
    pub users: Vec<User>,
}

/// The role.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Part {
    /// Accept writes (`REPLICAOF NO ONE`).
    Primary {
        /// [`State::identity`](super::State::identity) of the data that lead. Other data under this name, of an empty volume or of a process that
        /// forgot everything, never open (I10). `None` only where nobody ever led.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        identity: Option<String>,
        /// Ordinals that may replicate from this server: their accounts are on, all others' are off and what those hold open is cut off. So
        /// nobody answers a `WAIT` who is not recorded to (I2).
        admitted: Vec<u32>,
        /// `min-replicas-to-write`.
        min_replicas: u32,
        /// `min-replicas-max-lag`, in seconds.
        max_lag_seconds: u32,
        /// Hand over to this member by `FAILOVER`. Taken out again before that has begun to change roles, it is aborted.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        yield_to: Option<Yield>,
    },
    /// Take no writes and follow `source`. Refused by a member that holds what the lineage does not, unless it is archived first.
    Replica {
        /// Whom to follow.
        source: Peer,
        /// The histories that are `source`'s own past. What this member holds beyond them is archived before it follows (I6); when its history
        /// is none of them it does not follow, and says so.
        lineage: Lineage,
        /// [`State::identity`](super::State::identity) of data that are given up though they are of another history: a person's consent. Of no
        /// effect on any other data (I10).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        discard: Option<String>,
        /// The old primary's ordinal: it may make this member primary by `FAILOVER`, and follow it then. Until another order says so, a member
        /// that became primary in this way stays it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        heir_of: Option<u32>,
        /// `source` is handing over to a third member. When, this one does not see: until the next order its Sentinel endpoint names nobody, so that
        /// clients ask one of those two.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        source_yields: bool,
    },
    /// Take no writes, follow nobody, receive nothing; report the position read after that (I2).
    Isolated,
}

/// Who is to lead instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Yield {
    /// The heir.
    pub to: Peer,
    /// How long writes may wait for it, in milliseconds.
    pub timeout_millis: u64,
}

/// Another member, as one connects to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Stable DNS name, `NAME-0.NAME.NAMESPACE.svc`.
    pub host: String,
}

/// An application's account. No password is ever part of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its name, and the name of the file in the directory of mounted Secrets (`--users`) with the passwords that it may log in with: one a
    /// line, one or two.
    pub name: String,
    /// What it may do, as `ACL SETUSER` takes it, without passwords.
    pub rules: String,
}

// === impl Assignment ===

impl Assignment {
    /// How many replicas hold a write before the client hears of it: none, since a client that wants to know asks by `WAIT`. `None` where nobody may
    /// write.
    #[must_use]
    pub fn acks(&self) -> Option<u32> {
        matches!(self.part, Part::Primary { .. }).then_some(0)
    }

    /// Whom to follow.
    #[must_use]
    pub fn source(&self) -> Option<&Peer> {
        match &self.part {
            Part::Replica { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_plain_json_and_comes_back_as_it_went() {
        let peer = Peer { member: "cache-1".into(), host: "cache-1.cache.shop.svc".into() };
        let users = vec![User { name: "app".into(), rules: "~* +@all".into() }];
        let primary = Assignment {
            part: Part::Primary {
                identity: Some("b".into()),
                admitted: vec![1, 2],
                min_replicas: 1,
                max_lag_seconds: 10,
                yield_to: Some(Yield { to: peer.clone(), timeout_millis: 2_000 }),
            },
            members: vec![0, 1, 2],
            users,
        };
        let sent = serde_json::to_value(&primary).unwrap();
        assert_eq!(
            (&sent["role"], &sent["minReplicas"], &sent["yieldTo"]["to"]["member"]),
            (&"primary".into(), &1.into(), &"cache-1".into())
        );
        assert_eq!(serde_json::from_value::<Assignment>(sent).unwrap(), primary);
        let isolated: Assignment = serde_json::from_str(r#"{"role": "isolated", "members": [0]}"#).unwrap();
        assert_eq!(isolated, Assignment { part: Part::Isolated, members: vec![0], users: vec![] });
        let replica = r#"{"role": "replica", "members": [0], "source": {"member": "cache-1", "host": "h"}, "lineage": [{"replid": "a"}]}"#;
        assert_eq!(serde_json::from_str::<Assignment>(replica).unwrap().source().unwrap().member, "cache-1");
    }
}
