//! What a statement does to a modelled mysqld: the counterpart of `sidecar::mysql::execute`, with the same checks before following.

use sidecar::mysql::converge::Step;
use sidecar_protocol::mysql::{Assignment, Peer, Problem, ProblemCode};

use crate::history::Set;
use crate::mysqld::{Directory, Link, Mysqld};
use crate::network::Node;
use crate::sidecar::{Running, ordinals};
use crate::world::{World, name, ordinal};

/// Why a step did not work; without a problem it passes by itself.
type Failure = Option<Problem>;

impl World {
    /// How long a step takes, from now on.
    pub fn duration(&mut self, member: u32, step: &Step) -> u64 {
        match step {
            Step::Seal => {
                // Commits in flight end by themselves for a moment; nobody new can commit.
                if let Some((mysqld, _)) = self.running(member) {
                    mysqld.sealing = true;
                }
                self.takes(110).min(5000)
            }
            Step::Condemn { .. } => self.takes(100).min(5000),
            Step::Follow(_) | Step::Bar(_) | Step::Accounts => self.takes(20).min(5000),
            _ => self.takes(5).min(5000),
        }
    }

    /// The step takes effect.
    ///
    /// # Errors
    /// When mysqld refuses or is gone.
    pub fn effect(&mut self, member: u32, running: &Running) -> Result<(), Failure> {
        let Running { step, term, assignment, .. } = running;
        if self.running(member).is_none() {
            return Err(None);
        }
        match step {
            Step::Seal => self.seal(member),
            Step::StopReceiver => self.hang_up(member),
            Step::StartApplier => {
                self.change(member, |mysqld, _| mysqld.applying = true);
                self.wake_applier(member);
            }
            Step::AwaitApplied => {}
            Step::ForgetSource => {
                self.hang_up(member);
                self.change(member, |mysqld, directory| {
                    mysqld.applying = false;
                    (directory.source, directory.received) = (None, Set::default());
                    directory.relay.clear();
                });
            }
            Step::SemiSync { acks } => {
                self.change(member, |mysqld, _| {
                    mysqld.source_enabled = *acks > 0;
                    if *acks > 0 {
                        (mysqld.source_acks, mysqld.replica_enabled) = (*acks, false);
                    }
                });
                self.release(member);
            }
            Step::Bar(barred) => return self.bar(member, barred),
            Step::Unseal => self.change(member, |mysqld, _| mysqld.super_read_only = false),
            Step::Open => self.open(member, *term),
            Step::Accounts => return self.accounts(member, assignment),
            Step::Follow(source) => return self.follow(member, source),
            Step::Acknowledge(on) => {
                self.change(member, |mysqld, _| mysqld.replica_enabled = *on);
                if self.running(member).is_some_and(|(mysqld, _)| mysqld.link != Link::Off) {
                    self.hang_up(member);
                    self.connect(member);
                }
            }
            Step::Condemn { source, uuid } => return self.condemn(member, source, uuid),
            Step::Pardon => self.member_mut(member).volume.condemned = None,
        }
        Ok(())
    }

    fn change(&mut self, member: u32, edit: impl FnOnce(&mut Mysqld, &mut Directory)) {
        if let Some((mysqld, directory)) = self.running(member) {
            edit(mysqld, directory);
        }
    }

    /// Clients are cut off before commits that nobody acknowledged are let go: a killed connection cannot be told anything.
    pub fn seal(&mut self, member: u32) {
        self.change(member, |mysqld, directory| {
            mysqld.sessions += 1;
            mysqld.source_enabled &= mysqld.waiting.is_empty();
            for waiting in mysqld.waiting.drain(..) {
                directory.executed.insert(waiting.txn);
            }
            (mysqld.sealing, mysqld.read_only, mysqld.super_read_only) = (false, true, true);
        });
    }

    fn open(&mut self, member: u32, term: u64) {
        let mut opened = false;
        self.change(member, |mysqld, _| {
            opened = mysqld.read_only;
            (mysqld.read_only, mysqld.super_read_only) = (false, false);
            mysqld.term = mysqld.term.max(term);
        });
        if opened {
            self.opened(member, term);
        }
    }

    fn bar(&mut self, member: u32, barred: &[u32]) -> Result<(), Failure> {
        let mask = barred.iter().fold(0, |mask, ordinal| mask | 1 << ordinal);
        let Some((mysqld, directory)) = self.running(member).filter(|(mysqld, _)| !mysqld.super_read_only) else {
            return Err(Some(problem(ProblemCode::Other, "read-only")));
        };
        let locks = directory.accounts & mask & !directory.locked != 0;
        directory.locked = directory.accounts & mask;
        if locks && mysqld.source_acks > 1 {
            // They may have some of their acknowledgements from who is barred now.
            mysqld.sessions += 1;
            mysqld.waiting.iter_mut().for_each(|waiting| waiting.client = None);
        }
        let cut: Vec<u32> = mysqld.dumps.keys().copied().filter(|ordinal| barred.contains(ordinal)).collect();
        mysqld.dumps.retain(|ordinal, _| !barred.contains(ordinal));
        for replica in cut {
            let passes = self.network.passes(Node::Member(member), Node::Member(replica));
            let follows = self.member(replica).volume.directory.as_ref().is_some_and(|directory| directory.source == Some(member));
            if let Some((mysqld, _)) = self.running(replica).filter(|_| passes && follows)
                && matches!(mysqld.link, Link::On(_))
            {
                mysqld.link = Link::Connecting;
                self.poke(replica);
            }
        }
        Ok(())
    }

    /// Accounts are made by a transaction, which replicas get like any other.
    fn accounts(&mut self, member: u32, assignment: &Assignment) -> Result<(), Failure> {
        let Assignment::Primary { members, .. } = assignment else { return Ok(()) };
        let mask = members.iter().fold(0, |mask, ordinal| mask | 1 << ordinal);
        let Some((mysqld, directory)) = self.running(member).filter(|(mysqld, _)| !mysqld.super_read_only) else {
            return Err(Some(problem(ProblemCode::Other, "read-only")));
        };
        let (missing, uuid, sealing) = (mask & !directory.accounts, directory.uuid, mysqld.sealing);
        if missing != 0 && !sealing {
            let Some(txn) = self.histories.commit(uuid) else { return Err(None) };
            self.laws.accounts.insert(txn, missing);
            self.change(member, |_, directory| directory.accounts |= missing);
            self.log(member, txn, None);
        }
        if let Some(sidecar) = self.member_mut(member).sidecar.as_mut() {
            sidecar.accounts_done = Some(members.clone());
        }
        Ok(())
    }

    /// Follows `source` if that loses nothing here: it must hold all that we hold, and still have all that we lack.
    fn follow(&mut self, member: u32, source: &Peer) -> Result<(), Failure> {
        let silent = || Some(problem(ProblemCode::ReplicationFailed, "the source does not answer"));
        let from = ordinal(&source.member).filter(|from| *from != member).ok_or_else(silent)?;
        if !self.network.passes(Node::Member(member), Node::Member(from)) {
            return Err(silent());
        }
        let Some((executed, held)) = self.running(member).map(|(_, ours)| (ours.executed, ours.executed.union(ours.received))) else {
            return Err(None);
        };
        let (theirs, directory) = self.running(from).ok_or_else(silent)?;
        if directory.locked >> member & 1 == 1 || directory.accounts >> member & 1 == 0 {
            return Err(Some(problem(ProblemCode::Credentials, "the source refuses our account")));
        }
        if !held.minus(directory.executed).is_empty() {
            // A source that is not primary yet may still be applying what we both received.
            return Err((!theirs.read_only).then(|| problem(ProblemCode::Errant, "this member holds what the primary does not")));
        }
        if !directory.purged.minus(executed).is_empty() {
            return Err(Some(problem(ProblemCode::LogsPurged, "the source purged what this member needs")));
        }
        self.hang_up(member);
        self.change(member, |mysqld, directory| {
            directory.source = Some(from);
            mysqld.applying = true;
        });
        self.connect(member);
        self.wake_applier(member);
        Ok(())
    }

    fn condemn(&mut self, member: u32, source: &Peer, uuid: &str) -> Result<(), Failure> {
        let from = ordinal(&source.member).ok_or(None)?;
        if !self.network.passes(Node::Member(member), Node::Member(from)) {
            return Err(None);
        }
        let Some((mysqld, theirs)) = self.running(from) else { return Err(None) };
        if mysqld.read_only {
            return Err(None);
        }
        let history = theirs.executed;
        let Some((_, ours)) = self.running(member) else { return Err(None) };
        let (only_here, id) = (ours.holds().minus(history), ours.uuid);
        if crate::history::uuid_text(id) == uuid {
            let volume = &mut self.member_mut(member).volume;
            (volume.condemned, volume.archive) = (Some(id), Some(only_here));
            self.tell(|| format!("{} is condemned", name(member)));
            self.given_up(member);
        }
        Ok(())
    }

    /// Whether its data directory is marked to be discarded.
    #[must_use]
    pub fn condemned(&self, member: u32) -> bool {
        let volume = &self.member(member).volume;
        volume.directory.as_ref().is_some_and(|directory| volume.condemned == Some(directory.uuid))
    }

    /// A pod's first sidecar discards what the last one marked, before mysqld can have started.
    pub fn discard_condemned(&mut self, member: u32) {
        if self.condemned(member) && self.member(member).pod.as_ref().is_some_and(|pod| !pod.curtain) {
            self.laws.recloned += 1;
            self.discarded(member);
            self.tell(|| format!("{} discards its data directory", name(member)));
            let volume = &mut self.member_mut(member).volume;
            (volume.directory, volume.condemned) = (None, None);
        }
    }

    /// Everybody but `member`.
    pub fn others(&self, member: u32) -> impl Iterator<Item = u32> + use<> {
        ordinals().filter(move |other| *other != member)
    }
}

fn problem(code: ProblemCode, message: &str) -> Problem {
    Problem { code, message: message.into() }
}
