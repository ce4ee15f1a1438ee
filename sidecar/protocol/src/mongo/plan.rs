//! The next safe configuration of a replica set, or what to do instead, or why nothing (pure).
//!
//! Whoever talks to the primary asks [`plan`], does what it says, looks anew and asks again. Each configuration is one that mongod takes,
//! 4.4 and later ([`super::rules`]), with at most one change of who votes, after which most voters are well. The goal hangs on what is
//! desired alone, so there is an end.
//!
//! A member begins without a vote and gets one when it is a secondary; so a member that never comes costs nobody a majority. Votes come and
//! go in pairs where they can: an even number of voters survives no more losses than one less.

mod electorate;
mod leaderless;
mod pending;
mod set;
mod steps;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use leaderless::{Lost, Survivor};

use super::Answer;
use super::config::{Config, SetId};
use super::rules::Server;
use super::status::Status;
use set::{Change, Set};

/// A member that there shall be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Wanted {
    /// Its DNS name and port, `NAME:PORT`. Never an address: pods change theirs.
    pub host: String,
    /// By what else the configuration may know it: the address of its pod, with the port. Such a member is given its name.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// Where it runs. Votes, and with them priorities, are spread over zones.
    #[serde(default)]
    pub zone: Option<String>,
    /// Votes and holds no data.
    #[serde(default)]
    pub arbiter: bool,
    /// 0 to 1000, of a voter that holds data; 0 never leads, 1 is usual. Who does not vote has none.
    pub priority: f64,
}

/// The set that there shall be.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Desired {
    /// Its members, in the order of the ordinals. Whoever is not among them is removed.
    pub members: Vec<Wanted>,
    /// Which set it is, once that is known. Another one of the same name is never touched, nor is a second one initiated.
    #[serde(default)]
    pub set_id: Option<SetId>,
    /// What the user has put in writing.
    #[serde(default)]
    pub consent: Consent,
}

/// What is only done when the user has asked for it in writing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Consent {
    /// To arbiters by which one lost member that holds data leaves no majority that does: a primary, a secondary and an arbiter (PSA).
    #[serde(default)]
    pub thin: bool,
    /// To a forced configuration: [`Lost::consent`], word for word.
    #[serde(default)]
    pub force: Option<String>,
}

/// What is known of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The primary's view; without a primary anybody's, with what is known better put in. Who is in doubt is unknown there, and counts
    /// as missing when a majority is sought: whoever asks gives them time first.
    pub status: Status,
    /// Whether the primary's `hello` says `isWritablePrimary`: it leads a moment before it takes anything.
    pub writable: bool,
    /// The primary's release and defaults.
    pub server: Server,
    /// By [`Wanted::host`], what the mongod there says. Of those who are not here nothing is known.
    pub answers: BTreeMap<String, Answer>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Next<V> {
    /// Nothing: the set is as desired.
    Settled,
    /// Initiate the set: `replSetInitiate` on the member in it.
    Initiate {
        /// With one member.
        config: Config<V>,
        /// Why it may.
        why: String,
    },
    /// `replSetReconfig` on the primary, without `force`. Refused with 103 or 109 something came in between: look and ask again.
    Reconfig {
        /// The whole of it, of the version read plus one.
        config: Config<V>,
        /// What it changes.
        why: String,
    },
    /// The primary is to lose its place: hand over with `replSetStepUp` on `to`, which has caught up, or else `replSetStepDown`.
    HandOver {
        /// Host of who should lead.
        to: String,
        /// Why the primary cannot stay.
        why: String,
    },
    /// Nobody leads and somebody could: `replSetStepUp` on `who`, so that nobody waits for the election timeout.
    Stand {
        /// Host of who is most advanced of those who may lead.
        who: String,
        /// Why it.
        why: String,
    },
    /// Most voters are lost. Nothing is done without a consent to exactly this.
    Lost(Lost),
    /// `replSetReconfig` with `force` on `on`: the user has consented to [`Lost`] as it is now.
    Force {
        /// Host of the most advanced member.
        on: String,
        /// The reachable voters alone vote; mongod puts in a version of its own.
        config: Config<V>,
        /// What was consented to.
        why: String,
    },
    /// Nothing now.
    Wait {
        /// For what, or why not.
        why: String,
    },
}

/// The next step from `config`, as the primary showed it last, to `desired`.
#[must_use]
pub fn plan<V: Clone>(config: &Config<V>, seen: &Seen, desired: &Desired) -> Next<V> {
    let wait = |why: String| Next::Wait { why };
    if let (Some(pinned), Some(found)) = (&desired.set_id, config.set_id())
        && pinned != found
    {
        return wait(format!("this is set {found}, and ours is {pinned}: it is not touched"));
    }
    let set = Set::new(config, seen, desired);
    let Some(leader) = set.leader() else { return set.leaderless(config) };
    if !seen.writable {
        return wait(format!("{} leads and does not take writes yet", leader.host));
    }
    if let Some(why) = set.is_impossible() {
        return wait(why);
    }
    let steps = [Set::renamed, Set::without_strangers, Set::joined, Set::voting, Set::prioritised];
    if let Some(Change { members, why, .. }) = steps.into_iter().find_map(|step| step(&set)) {
        let config = Config { version: config.version.saturating_add(1), members, ..config.clone() };
        return Next::Reconfig { config, why };
    }
    if let Some((to, why)) = set.hand_over() {
        return Next::HandOver { to, why };
    }
    set.pending().map_or(Next::Settled, wait)
}

// === impl Wanted ===

impl Wanted {
    /// Whether its host is an address and no name.
    pub(super) fn is_address(&self) -> bool {
        let name = self.host.rsplit_once(':').map_or(self.host.as_str(), |(name, _)| name);
        name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok()
    }

    /// Whether a configuration that has `host` means this member.
    fn is(&self, host: &String) -> bool {
        self.host == *host || self.aliases.contains(host)
    }
}
