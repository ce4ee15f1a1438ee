//! Whether a primary that is on its own may stay open: pure but for the channel that tells of it.
//!
//! An open primary must be in contact: with the operator, whose report stream lives, or with a majority of the members, itself included,
//! none of which has seen a higher term. Without contact it closes after [`FENCE`]; it opens (again) only while contact is certain. So a
//! primary that was cut off does not go on in its own world, and one whose mysqld restarts while the operator is away comes back.
//! This is no substitute for I2: what makes a deposed primary harmless is that nobody acknowledges its commits.
//!
//! Every input carries its instant. Time that passed while this process stood still (a frozen pod) proves nothing: what was heard before
//! counts as old, and a connection that looks alive must first answer a ping.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sidecar_protocol::SILENCE_MILLIS;
use tokio::sync::watch;
use tokio::time::Instant;

/// Without contact for this long a primary closes itself.
pub const FENCE: Duration = Duration::from_secs(5);
/// How often the operator's connections are pinged, and how long they may take to answer: a dead or frozen operator is known after both,
/// one on a busy machine is not taken for dead.
pub const PING: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3));
/// A member that was heard within this is there.
const FRESH: Duration = Duration::from_millis(SILENCE_MILLIS);
/// Nobody looked at the clock for this long: this process stood still, and others may have decided without it.
const FROZEN: Duration = FRESH;
/// Who was asked to leave stays closed for this long, in which its mysqld is told to end, and ends.
const LEAVING: Duration = Duration::from_secs(10);
/// An operator that has just come has not had the time to say that this order is of the past.
const SETTLED: Duration = Duration::from_secs(1);

/// An order to be primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// Its term.
    pub term: u64,
    /// Ordinals of all members.
    pub members: BTreeSet<u32>,
}

/// What follows for a member that is ordered to be primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// It closes, and stays closed.
    pub fenced: bool,
    /// It may open now.
    pub may_open: bool,
}

impl Verdict {
    /// Of a member that needs nobody's confirmation.
    pub const FREE: Self = Self { fenced: false, may_open: true };
}

/// All that the verdict follows from.
#[derive(Debug)]
pub struct Fence {
    ordinal: u32,
    ordered: Option<Ordered>,
    /// The last instant at which contact was certain; the order's arrival until then.
    contact: Instant,
    /// Report streams of operators, and when the youngest began.
    streams: usize,
    opened: Instant,
    /// Streams that began before this have still to prove that they live.
    thawed: Option<Instant>,
    /// When each member was heard, and the term it has seen.
    heard: BTreeMap<u32, (Instant, u64)>,
    /// When any of them was heard last; the order's arrival until then.
    company: Instant,
    /// The highest term that any member has seen. Never forgotten.
    highest: u64,
    /// When somebody last looked at the clock.
    touched: Instant,
    /// Counts the times that this process stood still: connections from before are to be made anew.
    epoch: u64,
    /// It is about to end, and closes before.
    leaves: Option<Instant>,
    verdict: Verdict,
}

// === impl Fence ===

impl Fence {
    /// Of the member `ordinal`, which has no order yet.
    #[must_use]
    pub fn new(now: Instant, ordinal: u32) -> Self {
        Self {
            ordinal,
            ordered: None,
            contact: now,
            streams: 0,
            opened: now,
            thawed: None,
            heard: BTreeMap::new(),
            company: now,
            highest: 0,
            touched: now,
            epoch: 0,
            leaves: None,
            verdict: Verdict::FREE,
        }
    }

    /// An order was accepted: to be primary, or (`None`) anything else. A change of the order is no contact: it may have been stuck on its
    /// way while this process stood still.
    pub fn order(&mut self, now: Instant, ordered: Option<Ordered>) {
        self.wake(now);
        if self.ordered.is_none() {
            (self.contact, self.company) = (now, now);
        }
        let members = ordered.as_ref().map(|ordered| &ordered.members);
        self.heard.retain(|ordinal, _| members.is_some_and(|members| members.contains(ordinal)));
        self.ordered = ordered;
        self.judge(now);
    }

    /// A report stream of an operator begins or ends.
    pub fn operator(&mut self, now: Instant, begins: bool) {
        self.judge(now);
        if begins {
            (self.streams, self.opened) = (self.streams + 1, now);
        } else {
            self.streams = self.streams.saturating_sub(1);
        }
        self.judge(now);
    }

    /// A report of another member came, over a connection made in `epoch`, from which it shows which term that member has seen. Says
    /// whether it counts: the connection is from before this process stood still otherwise, and what comes out of it is old.
    pub fn heard(&mut self, now: Instant, epoch: u64, ordinal: u32, term: u64) -> bool {
        self.wake(now);
        // That a term exists stays true, however old the news.
        self.highest = self.highest.max(term);
        let counts = epoch == self.epoch;
        if counts {
            self.heard.insert(ordinal, (now, term));
            self.company = now;
        }
        self.judge(now);
        counts
    }

    /// What follows now.
    pub fn judge(&mut self, now: Instant) -> Verdict {
        self.wake(now);
        self.verdict = self.follows(now);
        self.verdict
    }

    fn follows(&mut self, now: Instant) -> Verdict {
        if self.leaves.is_some_and(|since| now.saturating_duration_since(since) < LEAVING) {
            return Verdict { fenced: true, may_open: false };
        }
        let Some(ordered) = &self.ordered else { return Verdict::FREE };
        if ordered.members.iter().all(|member| *member == self.ordinal) {
            return Verdict::FREE;
        }
        if self.highest > ordered.term {
            return Verdict { fenced: true, may_open: false };
        }
        let majority = self.majority(now, ordered);
        // A thawed connection that lives has answered by then, or has been closed.
        let proven = self.thawed.is_none_or(|thawed| self.opened > thawed || now >= thawed + PING.0 + PING.1);
        let operator = self.streams > 0 && proven;
        self.contact = self.contact.max(majority.unwrap_or(self.contact)).max(if operator { now } else { self.contact });
        let fenced = now.duration_since(self.contact) >= FENCE;
        let confirmed = majority.is_some_and(|at| now.duration_since(at) <= FRESH);
        Verdict { fenced, may_open: !fenced && (confirmed || operator && now.duration_since(self.opened) >= SETTLED) }
    }

    /// Whether a majority of the members is there and none of all was seen to know a later term.
    #[must_use]
    pub fn confirmed(&self, now: Instant) -> bool {
        self.ordered.as_ref().is_some_and(|ordered| {
            self.highest <= ordered.term && self.majority(now, ordered).is_some_and(|at| now.duration_since(at) <= FRESH)
        })
    }

    /// Whether none of the other members is there: nobody could take over.
    #[must_use]
    pub fn deserted(&self, now: Instant) -> bool {
        self.ordered.is_some() && now.saturating_duration_since(self.company) > FRESH
    }

    /// The member is about to end, with nobody to take over: it closes, so that no client is told anything by its end (I4).
    pub fn leave(&mut self, now: Instant) {
        self.leaves = Some(now);
        self.judge(now);
    }

    /// The latest instant at which a majority of the members, this one included, was known to obey no later term. A member that has seen
    /// no term at all has lost its memory with its volume and proves nothing.
    fn majority(&self, now: Instant, ordered: &Ordered) -> Option<Instant> {
        let mut heard: Vec<Instant> = ordered
            .members
            .iter()
            .filter_map(|member| match self.heard.get(member) {
                _ if *member == self.ordinal => Some(now),
                Some((at, term)) if (1..=ordered.term).contains(term) => Some(*at),
                _ => None,
            })
            .collect();
        heard.sort_unstable_by(|one, other| other.cmp(one));
        heard.get(ordered.members.len() / 2).copied()
    }

    /// Of connections made now; see [`Fence::heard`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    fn wake(&mut self, now: Instant) {
        if now.saturating_duration_since(self.touched) >= FROZEN {
            self.heard.clear();
            self.thawed = Some(now);
            self.epoch += 1;
        }
        self.touched = self.touched.max(now);
    }

    /// Whom to listen to: the other members, while this one is ordered to be primary.
    fn peers(&self) -> BTreeSet<u32> {
        let members = self.ordered.iter().flat_map(|ordered| ordered.members.iter().copied());
        members.filter(|member| *member != self.ordinal).collect()
    }
}

/// The one fence of a process, shared by those who feed it and those who ask.
#[derive(Clone, Debug)]
pub struct Guard(watch::Sender<Fence>);

// === impl Guard ===

impl Guard {
    /// Of the member `ordinal`, which has no order yet.
    #[must_use]
    pub fn new(ordinal: u32) -> Self {
        Self(watch::Sender::new(Fence::new(Instant::now(), ordinal)))
    }

    /// See [`Fence::order`].
    pub fn order(&self, ordered: Option<Ordered>) {
        self.with(|fence, now| fence.order(now, ordered));
    }

    /// See [`Fence::heard`].
    #[must_use]
    pub fn heard(&self, epoch: u64, ordinal: u32, term: u64) -> bool {
        self.with(|fence, now| fence.heard(now, epoch, ordinal, term))
    }

    /// A report stream of an operator begins; it ends when the answer is dropped.
    #[must_use]
    pub fn operator(&self) -> OperatorStream {
        self.with(|fence, now| fence.operator(now, true));
        OperatorStream(self.clone())
    }

    /// What follows now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.with(Fence::judge)
    }

    /// Whether a majority of the members confirms the order now, without the operator.
    #[must_use]
    pub fn confirmed(&self) -> bool {
        self.with(|fence, now| {
            fence.judge(now);
            fence.confirmed(now)
        })
    }

    /// Of connections made now; see [`Fence::heard`].
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.with(|fence, now| {
            fence.judge(now);
            fence.epoch
        })
    }

    /// See [`Fence::deserted`].
    #[must_use]
    pub fn deserted(&self) -> bool {
        self.with(|fence, now| fence.deserted(now))
    }

    /// See [`Fence::leave`].
    pub fn leave(&self) {
        self.with(|fence, now| fence.leave(now));
    }

    /// Whom to listen to now.
    #[must_use]
    pub fn peers(&self) -> BTreeSet<u32> {
        self.0.borrow().peers()
    }

    /// Tells when the verdict or the peers changed.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Fence> {
        self.0.subscribe()
    }

    fn with<T>(&self, act: impl FnOnce(&mut Fence, Instant) -> T) -> T {
        let mut answer = None;
        self.0.send_if_modified(|fence| {
            let before = (fence.verdict, fence.peers());
            answer = Some(act(fence, Instant::now()));
            (fence.verdict, fence.peers()) != before
        });
        answer.expect("the closure runs once")
    }
}

/// A report stream of an operator, while it lives.
#[derive(Debug)]
pub struct OperatorStream(Guard);

impl Drop for OperatorStream {
    fn drop(&mut self) {
        self.0.with(|fence, now| fence.operator(now, false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TERM: u64 = 4;

    /// A primary of term 4 among `members`, which are 0 (itself) and up. Instants are seconds from its order on.
    struct Story {
        fence: Fence,
        start: Instant,
    }

    impl Story {
        fn of(members: u32) -> Self {
            let start = Instant::now();
            let mut fence = Fence::new(start, 0);
            fence.order(start, Some(Ordered { term: TERM, members: (0..members).collect() }));
            Self { fence, start }
        }

        fn at(&self, seconds: f64) -> Instant {
            self.start + Duration::from_secs_f64(seconds)
        }

        fn judge(&mut self, seconds: f64) -> (bool, bool) {
            let verdict = self.fence.judge(self.at(seconds));
            (verdict.fenced, verdict.may_open)
        }

        /// Looks at the clock until then, as the guard's ticker does; then says what follows.
        fn wait(&mut self, from: f64, to: f64) -> (bool, bool) {
            let mut now = from;
            while now < to {
                self.judge(now);
                now += 0.5;
            }
            self.judge(to)
        }

        fn hear(&mut self, seconds: f64, ordinal: u32, term: u64) -> bool {
            let (at, epoch) = (self.at(seconds), self.fence.epoch);
            self.fence.heard(at, epoch, ordinal, term)
        }

        fn operator(&mut self, seconds: f64, begins: bool) {
            let at = self.at(seconds);
            self.fence.operator(at, begins);
        }
    }

    const OPEN: (bool, bool) = (false, true);
    const WAIT: (bool, bool) = (false, false);
    const FENCED: (bool, bool) = (true, false);

    #[test]
    fn who_leaves_closes_and_may_open_again_when_it_did_not_end() {
        let mut story = Story::of(3);
        assert!(story.hear(1.0, 1, TERM));
        assert_eq!(story.judge(1.0), (false, true));
        story.fence.leave(story.at(1.0));
        assert_eq!(story.judge(2.0), (true, false));
        for second in 3..=11 {
            assert!(story.hear(f64::from(second), 1, TERM));
        }
        assert_eq!(story.judge(11.5), (false, true));
    }

    #[test]
    fn a_primary_that_hears_nobody_closes_after_five_seconds() {
        let mut story = Story::of(3);
        assert_eq!(story.wait(0.0, 4.9), WAIT);
        assert_eq!(story.judge(5.0), FENCED);
    }

    #[test]
    fn the_operator_alone_keeps_it_open() {
        let mut story = Story::of(3);
        story.operator(0.1, true);
        assert_eq!(story.judge(0.5), WAIT, "one that has just come may be about to depose it");
        assert_eq!(story.wait(0.5, 100.0), OPEN);
        story.operator(100.0, false);
        assert_eq!(story.judge(100.0), WAIT);
        assert_eq!(story.wait(100.0, 104.9), WAIT);
        assert_eq!(story.judge(105.0), FENCED);
        story.operator(106.0, true);
        assert_eq!(story.judge(106.0), WAIT, "contact, but not settled");
        assert_eq!(story.judge(107.0), OPEN);
    }

    #[test]
    fn of_two_operators_one_is_enough() {
        let mut story = Story::of(2);
        story.operator(0.0, true);
        story.operator(0.0, true);
        story.operator(1.0, false);
        assert_eq!(story.wait(1.0, 20.0), OPEN);
    }

    #[test]
    fn a_majority_of_the_members_keeps_it_open() {
        let mut story = Story::of(5);
        assert!(story.hear(0.1, 1, TERM));
        assert_eq!(story.judge(0.1), WAIT, "two of five");
        story.hear(0.2, 2, TERM - 1);
        assert_eq!(story.judge(0.2), OPEN);
        assert_eq!(story.wait(0.2, 3.1), OPEN);
        assert_eq!(story.judge(3.2), WAIT, "not heard for three seconds");
        assert_eq!(story.wait(3.2, 5.0), WAIT);
        assert_eq!(story.judge(5.2), FENCED, "five seconds after the majority was heard");
        story.hear(5.3, 1, TERM);
        story.hear(5.3, 4, TERM);
        assert_eq!(story.judge(5.3), OPEN);
    }

    #[test]
    fn both_of_two_members_are_a_majority_and_one_is_not() {
        let mut story = Story::of(2);
        assert_eq!(story.judge(0.1), WAIT);
        story.hear(0.2, 1, TERM);
        assert_eq!(story.judge(0.2), OPEN);
    }

    #[test]
    fn a_member_that_has_seen_a_higher_term_closes_it_at_once_until_an_order_of_that_term_comes() {
        let mut story = Story::of(3);
        story.operator(0.0, true);
        story.hear(1.0, 1, TERM);
        story.hear(1.0, 2, TERM + 1);
        assert_eq!(story.judge(1.0), FENCED, "whatever the operator and the others say");
        story.hear(1.5, 2, TERM);
        assert_eq!(story.wait(1.5, 9.0), FENCED, "a term is not taken back");
        let order = |term| Some(Ordered { term, members: (0..3).collect() });
        let at = story.at(9.0);
        story.fence.order(at, order(TERM));
        assert_eq!(story.judge(9.0), FENCED);
        story.fence.order(at, order(TERM + 1));
        assert_eq!(story.judge(9.0), OPEN);
    }

    #[test]
    fn a_member_that_has_forgotten_all_terms_proves_nothing() {
        let mut story = Story::of(2);
        story.hear(0.1, 1, 0);
        assert_eq!(story.judge(0.1), WAIT);
    }

    #[test]
    fn strangers_do_not_count() {
        let mut story = Story::of(2);
        story.hear(0.1, 7, TERM);
        assert_eq!(story.judge(0.1), WAIT);
    }

    #[test]
    fn who_is_alone_or_no_primary_needs_nobody() {
        let mut alone = Story::of(1);
        assert_eq!(alone.wait(0.0, 60.0), OPEN);
        let mut replica = Fence::new(Instant::now(), 0);
        let later = replica.touched + Duration::from_secs(60);
        assert_eq!(replica.judge(later), Verdict::FREE);
    }

    #[test]
    fn a_primary_is_deserted_when_it_has_heard_none_of_the_others_for_three_seconds() {
        let start = Instant::now();
        let guard = Guard::new(0);
        guard.order(Some(Ordered { term: TERM, members: [0, 1].into() }));
        assert!(!guard.deserted(), "it has just been ordered");
        guard.0.send_modify(|fence| fence.company = start - Duration::from_secs(4));
        assert!(guard.deserted());
        assert!(guard.heard(guard.epoch(), 1, TERM - 1));
        assert!(!guard.deserted());
    }

    #[test]
    fn a_thawed_primary_is_closed_before_it_believes_anything() {
        let mut story = Story::of(3);
        story.operator(0.0, true);
        story.hear(1.0, 1, TERM);
        let before = story.fence.epoch;
        assert_eq!(story.wait(1.0, 2.0), OPEN);
        // It stands still for a minute; its sockets still look alive and hold what was sent meanwhile.
        assert_eq!(story.judge(62.0), FENCED);
        let at = story.at(62.1);
        assert!(!story.fence.heard(at, before, 1, TERM), "that connection is to be made anew");
        assert_eq!(story.judge(62.1), FENCED);
        story.hear(62.2, 1, TERM);
        assert_eq!(story.judge(62.2), OPEN, "somebody was asked after the thaw");
    }

    #[test]
    fn a_thawed_operator_stream_counts_when_it_has_answered_a_ping() {
        let mut story = Story::of(3);
        story.operator(0.0, true);
        assert_eq!(story.judge(60.0), FENCED);
        assert_eq!(story.wait(60.0, 63.9), FENCED);
        assert_eq!(story.judge(64.0), OPEN);
        // A new one counts as soon as it has settled.
        let mut story = Story::of(3);
        story.operator(0.0, true);
        assert_eq!(story.judge(60.0), FENCED);
        story.operator(60.1, true);
        assert_eq!(story.judge(61.1), OPEN);
    }

    #[test]
    fn an_order_that_was_stuck_in_a_frozen_socket_is_no_contact() {
        let mut story = Story::of(3);
        story.operator(0.0, true);
        assert_eq!(story.wait(0.0, 2.0), OPEN);
        let at = story.at(62.0);
        story.fence.order(at, Some(Ordered { term: TERM, members: (0..2).collect() }));
        assert_eq!(story.judge(62.0), FENCED);
    }

    #[test]
    fn a_moment_of_a_busy_machine_is_no_thaw() {
        let mut story = Story::of(3);
        story.operator(0.0, true);
        assert_eq!(story.wait(0.0, 2.0), OPEN);
        assert_eq!(story.judge(4.9), OPEN);
    }

    #[derive(Clone, Debug)]
    enum Event {
        Wait(u32),
        Heard(u32, u64),
        Operator(bool),
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (1u32..2_500).prop_map(Event::Wait),
            1 => (2_500u32..9_000).prop_map(Event::Wait),
            5 => (1u32..5, prop_oneof![6 => Just(TERM), 1 => Just(TERM - 1), 1 => Just(0)]).prop_map(|(who, term)| Event::Heard(who, term)),
            2 => any::<bool>().prop_map(Event::Operator),
        ];
        prop::collection::vec(event, 1..60)
    }

    proptest! {
        /// Against a judge that keeps the whole story and looks back.
        #[test]
        fn it_is_closed_if_and_only_if_nobody_who_counts_was_there_for_five_seconds(events in events(), members in 2u32..6) {
            let mut story = Story::of(members);
            let (mut millis, mut streams) = (0u64, 0usize);
            let mut contact = 0u64;
            let mut heard: Vec<Option<u64>> = vec![None; 8];
            let (mut thawed, mut opened) = (None::<u64>, 0u64);
            for event in events {
                match event {
                    Event::Wait(pause) => {
                        if pause >= 3_000 {
                            heard.fill(None);
                            thawed = Some(millis + u64::from(pause));
                        } else if streams > 0 && thawed.is_none_or(|at| opened > at || millis >= at + 4_000) {
                            // It was there until now, at least.
                            contact = millis;
                        }
                        millis += u64::from(pause);
                    }
                    Event::Heard(who, term) => {
                        story.hear(millis as f64 / 1e3, who, term);
                        heard[who as usize] = (term > 0).then_some(millis);
                    }
                    Event::Operator(begins) => {
                        story.operator(millis as f64 / 1e3, begins);
                        if begins { (streams, opened) = (streams + 1, millis) } else { streams = streams.saturating_sub(1) }
                    }
                }
                if streams > 0 && thawed.is_none_or(|at| opened > at || millis >= at + 4_000) {
                    contact = millis;
                }
                let mut times: Vec<u64> = (1..members).filter_map(|who| heard[who as usize]).collect();
                times.push(millis);
                times.sort_unstable();
                let needed = members as usize / 2 + 1;
                let majority = (times.len() >= needed).then(|| times[times.len() - needed]);
                contact = contact.max(majority.unwrap_or(0));
                let (fenced, may_open) = story.judge(millis as f64 / 1e3);
                prop_assert_eq!(fenced, millis - contact >= 5_000, "at {} ms, contact at {}", millis, contact);
                prop_assert!(!may_open || millis - contact <= 3_000, "opens without contact");
            }
        }

        /// Two primaries of one cluster: the older one never holds a majority that the newer one needed.
        #[test]
        fn once_a_majority_has_seen_a_higher_term_the_old_primary_never_opens_by_its_peers(
            told in prop::collection::btree_set(1u32..5, 3), reports in prop::collection::vec((1u32..5, 1u32..900), 1..40),
        ) {
            let mut story = Story::of(5);
            let mut now = 0.0;
            for (who, pause) in reports {
                now += f64::from(pause) / 1e3;
                story.hear(now, who, if told.contains(&who) { TERM + 1 } else { TERM });
                let opens = story.judge(now).1;
                prop_assert!(!opens);
            }
        }
    }
}
