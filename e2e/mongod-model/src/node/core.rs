//! What a member knows and is: the state behind the lock, and the steps from one state to the next that keep its rules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bson::oid::ObjectId;
use bson::{DateTime, Document, Timestamp, doc};
use tokio::time::Instant;

use crate::config::{Config, Member};
use crate::failure::{Code, Failure};
use crate::member::{Point, State, View};
use crate::optime::{OpTime, timestamp};
use crate::scram;
use crate::store::{Entry, Store};
use crate::vote::{self, Standing};

/// What the lock guards.
#[derive(Debug)]
pub struct Core {
    /// What a restart remembers.
    pub store: Store,
    /// This member's state.
    pub state: State,
    /// The newest term heard of.
    pub term: i64,
    /// This member's place in the configuration.
    pub me: Option<usize>,
    /// What is known of each member, in the configuration's order; one's own entry is unused.
    pub views: Vec<View>,
    /// Counts configurations installed: tasks of an older one end.
    pub generation: u64,
    /// PRIMARY and done with catching up.
    pub writable: bool,
    /// The primary, as far as known.
    pub primary: Option<usize>,
    /// What a majority has.
    pub commit: Point,
    /// What a majority had when the configuration was installed: it must have it under the new one too.
    pub floor: OpTime,
    /// The newest cluster time heard of.
    pub clock: Timestamp,
    /// `topologyVersion.counter`.
    pub topology: i64,
    /// When to stand for election.
    pub election_at: Option<Instant>,
    /// When to take over from the primary, and why.
    pub takeover_at: Option<(Instant, &'static str)>,
    /// Until when not to stand: frozen or stepped down.
    pub resting_until: Option<Instant>,
    /// An election of one's own is under way.
    pub electing: bool,
    /// A configuration is being changed.
    pub reconfiguring: bool,
    /// A step-down waits for the others: writes wait too.
    pub stepping_down: bool,
    /// Until when a terminating member answers.
    pub quiescing: Option<Instant>,
    /// When and as which term's primary it was elected.
    pub elected: Option<Elected>,
    /// `electionCandidateMetrics`.
    pub candidacy: Option<Document>,
    /// `electionParticipantMetrics`.
    pub participation: Option<Document>,
    /// Whom it copies from.
    pub source: Option<usize>,
    /// Why it copies from nobody.
    pub source_message: &'static str,
    /// When initial sync began.
    pub syncing_since: Option<Instant>,
    /// Counts rollbacks.
    pub rollbacks: i32,
}

/// An election won.
#[derive(Clone, Copy, Debug)]
pub struct Elected {
    /// When.
    pub at: Instant,
    /// The same in the oplog's time.
    pub time: Timestamp,
    /// `electionId`.
    pub id: ObjectId,
}

// === impl Core ===

impl Core {
    /// What a process knows that has read its data directory.
    pub fn new(store: Store) -> Self {
        let term = store.vote.term.max(store.last().term).max(0);
        Self {
            term,
            clock: store.last().timestamp(),
            store,
            state: State::Startup,
            me: None,
            views: Vec::new(),
            generation: 0,
            writable: false,
            primary: None,
            commit: Point::NULL,
            floor: OpTime::NULL,
            topology: 0,
            election_at: None,
            takeover_at: None,
            resting_until: None,
            electing: false,
            reconfiguring: false,
            stepping_down: false,
            quiescing: None,
            elected: None,
            candidacy: None,
            participation: None,
            source: None,
            source_message: "",
            syncing_since: None,
            rollbacks: 1,
        }
    }

    /// The configuration, when there is one.
    pub fn config(&self) -> Option<&Config> {
        self.store.config.as_ref()
    }

    /// The configuration and this member's place in it.
    pub fn seat(&self) -> Option<(&Config, usize)> {
        Some((self.config()?, self.me?))
    }

    /// Accepts writes.
    pub fn is_writable(&self) -> bool {
        self.state == State::Primary && self.writable
    }

    /// How far the data goes: nowhere until initial sync is over.
    pub fn applied(&self) -> Point {
        if !self.store.synced {
            return Point::NULL;
        }
        self.store.oplog.last().map_or(Point::NULL, |entry| Point { at: entry.at, wall: entry.wall })
    }

    /// How far a member's data goes, this one's included.
    pub fn applied_of(&self, index: usize) -> OpTime {
        if self.me == Some(index) { self.applied().at } else { self.views.get(index).map_or(OpTime::NULL, |view| view.applied.at) }
    }

    /// Clients have to look again.
    pub fn topology_changed(&mut self) {
        self.topology += 1;
    }

    /// Changes the state.
    pub fn enter(&mut self, state: State) {
        if self.state != state {
            tracing::info!(from = self.state.name(), to = state.name(), term = self.term, "member state");
            self.state = state;
            self.topology_changed();
        }
    }

    /// Learns who is primary.
    pub fn follow(&mut self, primary: Option<usize>) {
        if self.primary != primary {
            self.primary = primary;
            self.topology_changed();
        }
    }

    /// Learns a cluster time.
    pub fn advance_clock(&mut self, time: Timestamp) {
        if (time.time, time.increment) > (self.clock.time, self.clock.increment) {
            self.clock = time;
        }
    }

    /// Learns a term; a newer one ends a primary.
    pub fn see_term(&mut self, term: i64) -> bool {
        if term <= self.term {
            return false;
        }
        self.term = term;
        if self.state == State::Primary {
            self.step_down("a newer term");
        }
        self.follow(None);
        true
    }

    /// PRIMARY no more.
    pub fn step_down(&mut self, reason: &str) {
        if self.state == State::Primary {
            tracing::info!(reason, term = self.term, "stepping down");
            self.writable = false;
            self.stepping_down = false;
            self.elected = None;
            self.candidacy = None;
            self.enter(State::Secondary);
            self.follow(None);
            self.await_election();
        }
    }

    /// A primary was heard of, or there is none yet: wait a whole timeout from now, and a little of one's own.
    pub fn await_election(&mut self) {
        let Some((config, me)) = self.seat() else {
            self.election_at = None;
            return;
        };
        // Alone there is nobody to wait for.
        let alone = config.voters().count() == 1 && config.members.get(me).is_some_and(Member::votes);
        let wait = if alone { Duration::ZERO } else { config.election_timeout() };
        self.election_at = Some(Instant::now() + wait + jitter(wait));
    }

    /// May it stand for election?
    pub fn unelectable(&self, now: Instant) -> Option<&'static str> {
        let Some((config, me)) = self.seat() else { return Some("not in the configuration") };
        let standing = Standing {
            config,
            me,
            secondary: self.state == State::Secondary,
            last_applied: self.applied().at,
            visible: config.voters().filter(|(index, _)| *index == me || self.views.get(*index).is_some_and(View::is_up)).count(),
            resting: self.resting_until.is_some_and(|until| now < until),
        };
        standing.unelectable()
    }

    /// The place of the next entry of the oplog.
    pub fn next_optime(&self, count: u32) -> OpTime {
        let last = self.store.last().time.max((self.clock.time, self.clock.increment));
        let now = seconds_now();
        let time = if now > last.0 { (now, 1 + count) } else { (last.0, last.1 + 1 + count) };
        OpTime { term: self.term, time }
    }

    /// Writes to the oplog as primary; answers the last place.
    pub fn write(&mut self, ops: Vec<Document>) -> OpTime {
        let first = self.next_optime(0);
        let entries: Vec<Entry> = ops
            .into_iter()
            .zip(0..)
            .map(|(op, offset)| Entry::new(OpTime { time: (first.time.0, first.time.1 + offset), ..first }, op))
            .collect();
        self.extend(entries);
        self.store.last()
    }

    /// Appends entries of whoever wrote them.
    pub fn extend(&mut self, entries: Vec<Entry>) {
        self.store.append(entries);
        self.advance_clock(self.store.last().timestamp());
        self.advance_commit();
    }

    /// A primary counts who has what: an entry of its own term that a majority has is committed, and all before it.
    pub fn advance_commit(&mut self) {
        if self.state != State::Primary {
            return;
        }
        let Some(config) = self.config() else { return };
        let points = config.voters().filter(|(_, member)| !member.arbiter).map(|(index, _)| self.applied_of(index)).collect();
        let reached = vote::reached_by(config.write_majority(), points);
        // Rounds down to one's own history: another member's entry that is not here is not ours to call committed.
        let own = reached.min(self.applied().at);
        if own.term == self.term && own > self.commit.at && self.store.find(own).is_some() {
            self.commit = Point { at: own, wall: self.store.wall(own) };
            self.advance_clock(own.timestamp());
        }
    }

    /// A secondary hears what is committed; it knows no more than it has. By heartbeat only within one term: what it has of an
    /// older one may be its own alone, and only its source, whose history it shares, can tell.
    pub fn hear_commit(&mut self, at: OpTime, from_source: bool) {
        if !from_source && self.store.last().term != at.term {
            return;
        }
        let known = at.min(self.store.last());
        if known > self.commit.at && self.store.find(known).is_some() {
            self.commit = Point { at: known, wall: self.store.wall(known) };
        }
    }

    /// Does a majority run the configuration, and has it what was committed under the one before?
    pub fn config_is_committed(&self, with_oplog: bool) -> bool {
        let Some((config, me)) = self.seat() else { return false };
        let installed = (config.version, config.term);
        let runs = |index: usize| index == me || self.views.get(index).is_some_and(|view| view.config == installed);
        let running = config.voters().filter(|(index, _)| runs(*index)).count();
        let data = config.voters().filter(|(_, member)| !member.arbiter);
        let having = data.filter(|(index, _)| self.applied_of(*index) >= self.floor).count();
        let current = self.commit.at.term == self.term;
        running >= config.majority() && (!with_oplog || (current && having >= config.write_majority()))
    }

    /// Installs a configuration in which this member is `me`.
    pub fn install(&mut self, config: Config, me: Option<usize>) {
        tracing::info!(config = config.name(), members = config.members.len(), ?me, "configuration installed");
        let mut known: Vec<View> = std::mem::take(&mut self.views);
        let view = |host: &str| known.iter().position(|view| view.host == host);
        let order: Vec<Option<usize>> = config.members.iter().map(|member| view(&member.host)).collect();
        self.views = order
            .into_iter()
            .zip(&config.members)
            .map(|(found, member)| match found.and_then(|index| known.get_mut(index)) {
                Some(view) => std::mem::replace(view, View::new("")),
                None => View::new(&member.host),
            })
            .collect();
        let followed = self.primary_id();
        let arbiter = me.and_then(|me| config.members.get(me)).is_some_and(|member| member.arbiter);
        let electable = me.and_then(|me| config.members.get(me)).is_some_and(Member::is_electable);
        self.primary = followed.and_then(|id| config.index_of(id));
        self.floor = self.commit.at;
        self.me = me;
        self.source = None;
        self.generation += 1;
        self.store.save_config(config);
        self.topology_changed();
        if self.state == State::Primary {
            if me.is_none() || !electable {
                self.step_down("not electable in the new configuration");
            } else {
                self.follow(me);
            }
        }
        match (me, self.state) {
            (None, _) => {
                self.primary = None;
                self.enter(State::Removed);
            }
            (Some(_), _) if arbiter => self.enter(State::Arbiter),
            (Some(_), State::Startup | State::Removed | State::Arbiter) => {
                self.enter(if self.store.synced { State::Secondary } else { State::Startup2 });
            }
            _ => {}
        }
        if self.state != State::Primary {
            self.await_election();
        }
        self.advance_commit();
    }

    fn primary_id(&self) -> Option<i32> {
        Some(self.config()?.members.get(self.primary?)?.id)
    }

    /// Copying is a member of the set's business: everything else is refused with this.
    pub fn not_a_member(&self) -> Failure {
        match self.config() {
            None => Failure::new(Code::NotYetInitialized, "no replset config has been received"),
            Some(_) => Failure::new(Code::InvalidReplicaSetConfig, "Our replica set config is invalid or we are not a member of it"),
        }
    }

    /// This process was elected.
    pub fn win(&mut self, reason: &str, needed: usize) {
        let time = self.next_optime(0);
        let applied = self.applied().at;
        let me = self.me;
        let config = self.config().cloned();
        let priority = self.seat().and_then(|(config, me)| config.members.get(me)).map_or(0.0, Member::priority);
        self.candidacy = Some(doc! {
            "lastElectionReason": reason,
            "lastElectionDate": DateTime::now(),
            "electionTerm": self.term,
            "lastCommittedOpTimeAtElection": self.commit.at.document(),
            "lastSeenOpTimeAtElection": applied.document(),
            "numVotesNeeded": i32::try_from(needed).unwrap_or_default(),
            "priorityAtElection": priority,
            "electionTimeoutMillis": config.map_or(0, |config| config.settings.election_timeout),
        });
        self.elected = Some(Elected { at: Instant::now(), time: timestamp(time.time), id: election_id(self.term) });
        self.advance_clock(timestamp(time.time));
        self.writable = false;
        self.election_at = None;
        self.takeover_at = None;
        self.source = None;
        self.enter(State::Primary);
        self.follow(me);
    }
}

/// `7fffffff` and the term: later primaries have larger ones.
fn election_id(term: i64) -> ObjectId {
    let mut bytes = [0; 12];
    let (head, tail) = bytes.split_at_mut(4);
    head.copy_from_slice(&[0x7f, 0xff, 0xff, 0xff]);
    tail.copy_from_slice(&term.to_be_bytes());
    ObjectId::from_bytes(bytes)
}

/// Up to 15 % more, so that not all stand at once.
fn jitter(wait: Duration) -> Duration {
    let byte = scram::random(1).first().copied().unwrap_or_default();
    wait * u32::from(byte) * 15 / 25_600
}

/// Seconds since the epoch, as the oplog counts.
#[allow(clippy::disallowed_methods, reason = "the rim: an oplog entry has the time of its writing")]
fn seconds_now() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    since.try_into().unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn at(term: i64, second: u32) -> OpTime {
        OpTime { term, time: (second, 1) }
    }

    /// Member 0 of three, with entries at these places.
    fn member(name: &str, entries: &[OpTime]) -> Core {
        let path = std::env::temp_dir().join(format!("mongod-model-core-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("a directory");
        let version = "5.0.7".parse().expect("a version");
        let mut core = Core::new(Store::open(&path, version).expect("opens"));
        // The journal is open: its directory may go.
        std::fs::remove_dir_all(&path).expect("removes");
        core.store.save_synced();
        core.store.append(entries.iter().map(|place| Entry::new(*place, doc! { "op": "n", "ns": "", "o": {} })).collect());
        let members: Vec<Document> = (0..3).map(|id| doc! { "_id": id, "host": format!("m-{id}:1") }).collect();
        let config = parse::config(&doc! { "_id": "rs0", "version": 1, "term": 1_i64, "members": members }, version).expect("parses");
        core.install(config, Some(0));
        core
    }

    fn tell(core: &mut Core, index: usize, applied: OpTime) {
        if let Some(view) = core.views.get_mut(index) {
            view.up = Some(true);
            view.applied.at = applied;
        }
    }

    #[test]
    fn a_primary_commits_only_with_an_entry_of_its_own_term() {
        let mut core = member("term", &[at(1, 1), at(1, 2)]);
        core.term = 2;
        core.win("stepUpRequest", 2);
        tell(&mut core, 1, at(1, 2));
        core.advance_commit();
        assert!(core.commit.at.is_null(), "a majority has it, and yet a later primary could undo it");
        let own = core.write(vec![doc! { "op": "n", "ns": "", "o": {} }]);
        tell(&mut core, 1, own);
        core.advance_commit();
        assert_eq!(core.commit.at, own);
    }

    #[test]
    fn a_heartbeat_commits_nothing_that_may_be_this_members_alone() {
        let mut core = member("heartbeat", &[at(1, 1), at(1, 9)]);
        core.hear_commit(at(2, 5), false);
        assert!(core.commit.at.is_null());
        core.hear_commit(at(1, 1), true);
        assert_eq!(core.commit.at, at(1, 1));
    }

    #[test]
    fn what_a_member_had_when_it_died_still_counts() {
        let mut core = member("died", &[at(1, 1)]);
        tell(&mut core, 1, at(1, 1));
        if let Some(view) = core.views.get_mut(1) {
            view.lose("Connection refused".into(), false);
            assert!(view.heard().is_null(), "a status shows nothing of it");
        }
        assert_eq!(core.applied_of(1), at(1, 1));
    }

    #[test]
    fn a_newer_term_ends_a_primary() {
        let mut core = member("newer", &[at(1, 1)]);
        core.term = 1;
        core.win("electionTimeout", 2);
        assert!(!core.see_term(1));
        assert_eq!(core.state, State::Primary);
        assert!(core.see_term(2));
        assert_eq!((core.state, core.primary), (State::Secondary, None));
    }
}
