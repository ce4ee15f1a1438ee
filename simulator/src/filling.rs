//! An empty volume is filled: by a fresh directory once in a cluster's life, else by a clone. Models `sidecar::mysql::join`.

use sidecar_protocol::mysql::{Assignment, Data};

use crate::event::Event;
use crate::mysqld::Directory;
use crate::network::Node;
use crate::sidecar::Sidecar;
use crate::world::{World, name, ordinal};

/// A copy, or a fresh directory, in the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    token: u64,
    donor: Option<u32>,
}

impl Sidecar {
    /// What its volume holds while it is filled.
    #[must_use]
    pub fn filling_data(&self) -> Data {
        match self.filling {
            None => Data::Empty,
            Some(Filling { donor: None, .. }) => Data::Initialising,
            Some(Filling { donor: Some(donor), .. }) => Data::Cloning { donor: name(donor), copied: 0, total: 0 },
        }
    }

    /// What its order means to an empty volume: the donors to try; none for a fresh directory.
    fn wish(&self) -> Option<Vec<u32>> {
        match &self.order.as_ref()?.assignment {
            Assignment::Initialise => Some(Vec::new()),
            Assignment::Replica { donors, .. } if !donors.is_empty() => {
                Some(donors.iter().filter_map(|donor| ordinal(&donor.member)).collect())
            }
            _ => None,
        }
    }
}

impl World {
    /// Begins to fill an empty volume, or calls off what is no longer ordered.
    pub fn fill(&mut self, member: u32) {
        let token = self.id();
        let Some(sidecar) = self.member(member).sidecar.as_ref() else { return };
        let (incarnation, wish, filling) = (sidecar.incarnation, sidecar.wish(), sidecar.filling);
        let still = |filling: Filling| match (&wish, filling.donor) {
            (Some(donors), Some(donor)) => donors.contains(&donor),
            (Some(donors), None) => donors.is_empty(),
            (None, _) => false,
        };
        if filling.is_some_and(still) {
            return;
        }
        let chosen = match wish {
            None => None,
            Some(donors) if donors.is_empty() => Some(Filling { token, donor: None }),
            Some(donors) => donors.into_iter().find(|donor| self.gives(*donor, member)).map(|donor| Filling { token, donor: Some(donor) }),
        };
        if let Some(sidecar) = self.member_mut(member).sidecar.as_mut() {
            sidecar.filling = chosen;
        }
        if let Some(filling) = chosen {
            let takes = self.takes(if filling.donor.is_some() { 800 } else { 400 });
            self.after(takes.min(20_000), Event::Filled { member, incarnation, token });
        }
    }

    fn gives(&mut self, donor: u32, member: u32) -> bool {
        self.network.passes(Node::Member(donor), Node::Member(member)) && donor != member && self.running(donor).is_some()
    }

    /// A directory is complete, and gets its name by one rename; or its donor was lost on the way.
    pub fn filled(&mut self, member: u32, incarnation: u64, token: u64) {
        let ours = self.member_mut(member);
        let Some(sidecar) = ours.sidecar.as_mut().filter(|sidecar| sidecar.incarnation == incarnation) else { return };
        let Some(filling) = sidecar.filling.filter(|filling| filling.token == token) else { return };
        sidecar.filling = None;
        if ours.volume.directory.is_some() {
            return;
        }
        let made = match filling.donor {
            None => {
                self.born(member);
                Some(Directory::default())
            }
            // A server with a hanging commit cannot be cloned from: its clone waits for the commit, until it is given up.
            Some(donor) if self.gives(donor, member) => {
                self.running(donor).filter(|(mysqld, _)| mysqld.waiting.is_empty()).map(|(_, theirs)| {
                    let all = theirs.executed;
                    // Accounts are copied as they are: also the lock of one.
                    let (locked, accounts) = (theirs.locked, theirs.accounts);
                    Directory {
                        logged: all,
                        executed: all,
                        purged: all,
                        locked,
                        accounts,
                        cloned_from: Some(donor),
                        ..Directory::default()
                    }
                })
            }
            Some(_) => None,
        };
        if let Some(directory) = made {
            let uuid = u32::try_from(self.id()).unwrap_or(u32::MAX);
            self.tell(|| match filling.donor {
                Some(donor) => format!("{} is cloned from {}", name(member), name(donor)),
                None => format!("{} initialises", name(member)),
            });
            let ours = self.member_mut(member);
            ours.volume.directory = Some(Directory { uuid, ..directory });
            if let Some(pod) = ours.pod.as_ref().map(|pod| pod.uid) {
                let takes = self.takes(100);
                self.after(takes, Event::MysqldStart { member, pod });
            }
        }
        self.poke_now(member);
    }
}
