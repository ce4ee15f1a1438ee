//! What a member of a replica set is to bring about: the same for everybody, but for who stands and who yields.
//!
//! It states the end. Who leads is the set's own choice, and whoever leads plans the next step to the end itself ([`super::plan`]) and takes
//! it through its own mongod; so an order that is late or sent to everybody changes nothing twice.

use serde::{Deserialize, Serialize};

use super::plan::Desired;

/// What a member must bring about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Assignment {
    /// Initiate the set with this member alone, and then be [`Assignment::Member`] without users or else. Given once in a cluster's life (I10),
    /// to one member; never with [`Desired::set_id`]. On a member that is in a set it is [`Assignment::Member`] at once.
    Initiate {
        /// The set's name, which mongod was started with.
        set: String,
        /// The set that there shall be, this member in it.
        desired: Desired,
    },
    /// Take part. While this member's mongod leads and is writable, take the set to what is desired, one safe step at a time.
    Member(Box<Part>),
}

/// A member's part. Everybody gets the same, but for `stand` and `yield_to`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The set that there shall be.
    pub desired: Desired,
    /// The accounts that there shall be. One that is taken out of here stays as it is: nobody's access ends by a mistake.
    #[serde(default)]
    pub users: Vec<User>,
    /// The feature compatibility version that there shall be, like `7.0`; `None` leaves it. Raised or lowered by whoever leads, when every
    /// member's binary takes it: that is for whoever orders it to see to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fcv: Option<String>,
    /// Stand for election at once, unless this member knows of an election of a later term than this one: after a crash nobody waits
    /// for the election timeout, and a switchover is directed. mongod's own votes decide, as ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stand: Option<i64>,
    /// Hand over to somebody, if this member leads in that very term.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yield_to: Option<Yield>,
}

/// Who is to lead instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Yield {
    /// [`super::plan::Wanted::host`] of who is to lead.
    pub host: String,
    /// Term of the election that this member leads by. In any other it does nothing.
    pub term: i64,
}

/// An account. No password is ever part of an order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    /// Its name.
    pub name: String,
    /// The database that it belongs to and logs in with.
    pub database: String,
    /// What it may do.
    pub roles: Vec<Role>,
    /// Name of the file that holds its password, in the directory of mounted Secrets (`--users`). No path: a plain name.
    pub secret: String,
}

/// A role in a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Role {
    /// Like `readWrite`.
    pub role: String,
    /// The database it is for.
    pub db: String,
}

// === impl Assignment ===

impl Assignment {
    /// The set that there shall be.
    #[must_use]
    pub fn desired(&self) -> &Desired {
        match self {
            Self::Initiate { desired, .. } => desired,
            Self::Member(part) => &part.desired,
        }
    }

    /// What to do beyond membership.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        match self {
            Self::Initiate { .. } => None,
            Self::Member(part) => Some(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Wanted;
    use super::*;

    #[test]
    fn an_order_is_plain_json_and_comes_back_as_it_went() {
        let wanted = Wanted { host: "m-0.m:27017".into(), aliases: vec![], zone: Some("a".into()), arbiter: false, priority: 1.0 };
        let desired = Desired { members: vec![wanted], ..Desired::default() };
        let part = Part {
            desired: desired.clone(),
            users: vec![User {
                name: "app".into(),
                database: "shop".into(),
                roles: vec![Role { role: "readWrite".into(), db: "shop".into() }],
                secret: "app".into(),
            }],
            stand: Some(4),
            yield_to: Some(Yield { host: "m-1.m:27017".into(), term: 4 }),
            ..Part::default()
        };
        let member = Assignment::Member(Box::new(part));
        let sent = serde_json::to_value(&member).unwrap();
        assert_eq!((&sent["role"], &sent["stand"], &sent["yieldTo"]["term"]), (&"member".into(), &4.into(), &4.into()));
        assert_eq!(serde_json::from_value::<Assignment>(sent).unwrap(), member);
        let initiate = Assignment::Initiate { set: "rs0".into(), desired };
        assert_eq!(serde_json::from_value::<Assignment>(serde_json::to_value(&initiate).unwrap()).unwrap(), initiate);
    }

    #[test]
    fn an_order_of_an_older_operator_needs_only_the_desired_set() {
        let order = r#"{"role": "member", "desired": {"members": []}}"#;
        assert_eq!(serde_json::from_str::<Assignment>(order).unwrap(), Assignment::Member(Box::default()));
    }
}
