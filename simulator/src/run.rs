//! One schedule: a cluster is born, things go wrong for a while, then nothing does, and it must be well again by itself (I12).

use std::panic::{AssertUnwindSafe, catch_unwind};

use operator::mysql::decide::State;

use crate::history::Txn;
use crate::laws::Violation;
use crate::sidecar::ordinals;
use crate::world::{World, name, ordinal};

/// A cluster is born within this, in milliseconds.
const BIRTH: u64 = 60_000;
/// After the faults it is well again within this.
const RECOVERY: u64 = 240_000;
/// What is well stays so for this long, under writes.
const STAYS: u64 = 2500;
/// More things than this do not happen in one schedule, unless something goes round in circles.
const EVENTS: u64 = 400_000;

/// What became of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// The first broken invariant.
    pub violation: Option<Violation>,
    /// The story, if it was told.
    pub story: Vec<String>,
    /// What happened in it.
    pub counts: Counts,
}

/// What happened, to show that the schedules reach what they are for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Schedules.
    pub schedules: u64,
    /// Things that happened.
    pub events: u64,
    /// Milliseconds of virtual time.
    pub millis: u64,
    /// Commits that clients were told of.
    pub acknowledged: u64,
    /// Failovers that were recorded.
    pub failovers: u64,
    /// Planned changes of primary.
    pub switchovers: u64,
    /// Data directories cloned anew.
    pub recloned: u64,
    /// Primaries that closed themselves.
    pub fenced: u64,
    /// Volumes lost.
    pub volumes: u64,
    /// Schedules in which a person had to agree to a loss.
    pub consented: u64,
    /// Schedules that ended without any data.
    pub gone: u64,
}

impl Counts {
    /// Both.
    pub fn add(&mut self, other: &Self) {
        let Self { schedules, events, millis, acknowledged, failovers, switchovers, recloned, fenced, volumes, consented, gone } = other;
        self.schedules += schedules;
        self.events += events;
        self.millis += millis;
        self.acknowledged += acknowledged;
        self.failovers += failovers;
        self.switchovers += switchovers;
        self.recloned += recloned;
        self.fenced += fenced;
        self.volumes += volumes;
        self.consented += consented;
        self.gone += gone;
    }
}

/// Plays the schedule of `seed`.
#[must_use]
pub fn run(seed: u64, telling: bool) -> Outcome {
    let mut world = World::new(seed, telling);
    let played = catch_unwind(AssertUnwindSafe(|| {
        let mut play = Play { world: &mut world, events: 0 };
        play.all(seed);
        (play.events, play.gone())
    }));
    let (events, gone) = played.as_ref().copied().unwrap_or((0, false));
    if let Err(panic) = played {
        let message = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.broken("I13", || format!("panic: {}", message.unwrap_or_default()));
    }
    let laws = &world.laws;
    let counts = Counts {
        schedules: 1,
        events,
        millis: world.now,
        acknowledged: laws.order.len() as u64,
        failovers: laws.failovers.into(),
        switchovers: laws.switchovers.into(),
        recloned: laws.recloned.into(),
        fenced: laws.fenced.into(),
        volumes: laws.volumes_lost.into(),
        consented: laws.consented.into(),
        gone: gone.into(),
    };
    Outcome { violation: world.laws.violation.take(), story: world.story.take().unwrap_or_default(), counts }
}

struct Play<'a> {
    world: &'a mut World,
    events: u64,
}

impl Play<'_> {
    fn all(&mut self, seed: u64) {
        // Mostly a grown cluster is struck; now and then one that is being born.
        if !seed.is_multiple_of(8) {
            self.world.faults.calm = true;
            let grown = |world: &World| is_well(world) && world.laws.order.len() > 3;
            if !self.until(BIRTH, grown) {
                return self.world.broken("I12", || "a cluster without faults is not born".into());
            }
            self.world.faults.calm = false;
        }
        self.world.rage();
        let storm = self.world.dice.between(4000, 40_000);
        self.until(storm, |_| false);
        self.world.heal();
        let told = self.world.laws.order.len();
        let serves = move |world: &World| is_well(world) && (world.laws.order.len() > told + 2 || world.is_full());
        let well = self.until(RECOVERY, serves);
        if self.over() {
            return;
        }
        let well = well || self.with_consent(serves);
        if self.over() || self.gone() {
            return;
        }
        if !well {
            let (state, reason) = self.said();
            return self.world.broken("I12", || format!("{} s after the faults: {state:?}: {reason}", RECOVERY / 1000));
        }
        self.until(STAYS, |_| false);
        if !self.over() && !is_well(self.world) && !self.until(STAYS * 4, is_well) {
            let (state, reason) = self.said();
            self.world.broken("I12", || format!("it was well, and is not any more: {state:?}: {reason}"));
        }
        if !self.over() {
            self.compare();
        }
    }

    /// Lets time pass until `done`, for `millis` at most.
    fn until(&mut self, millis: u64, done: impl Fn(&World) -> bool) -> bool {
        let end = self.world.now + millis;
        let mut asked = 0;
        while self.world.now < end && !self.over() && self.world.step() {
            self.events += 1;
            if self.events > EVENTS {
                self.world.broken("I13", || "it goes round in circles".into());
            }
            if self.world.now >= asked {
                asked = self.world.now + 100;
                if done(self.world) {
                    return true;
                }
            }
        }
        false
    }

    fn over(&self) -> bool {
        self.world.laws.violation.is_some()
    }

    /// A person agrees to what the reason asks for, if volumes were lost: without that there is nothing to agree to.
    fn with_consent(&mut self, serves: impl Fn(&World) -> bool + Copy) -> bool {
        for _ in 0..3 {
            let (state, reason) = self.said();
            let asked = reason.split("accept-loss=").nth(1).and_then(|text| {
                let (member, term) = text.split_once('@')?;
                Some((ordinal(member)?, term.trim().parse().ok()?))
            });
            let Some((member, term)) = asked.filter(|_| state == Some(State::Lost) && self.world.laws.volumes_lost > 0) else {
                return false;
            };
            self.world.tell(|| format!("*   a person consents to {} in term {term}", name(member)));
            self.world.laws.consented = true;
            self.world.api.annotate(|asked| asked.consent = Some((member, term)));
            for operator in 0..self.world.operators.len() {
                self.world.wake(operator, 10);
            }
            if self.until(RECOVERY / 2, serves) {
                return true;
            }
        }
        false
    }

    /// Nobody that runs holds data any more, because volumes were lost.
    fn gone(&self) -> bool {
        let empty = |member: u32| self.world.member(member).pod.is_none() || self.world.member(member).volume.directory.is_none();
        self.world.laws.volumes_lost > 0 && ordinals().all(empty)
    }

    fn said(&self) -> (Option<State>, String) {
        let operator = self.world.operators.iter().find(|operator| operator.running);
        (operator.and_then(|operator| operator.state), self.world.api.read.status.reason.clone())
    }

    /// Everybody holds the same, in the same order, and all that was acknowledged (I4, I5, I6).
    fn compare(&mut self) {
        let replicas = self.world.api.read.desired.replicas;
        let directory = |world: &World, member: u32| world.member(member).volume.directory.clone().unwrap_or_default();
        let Some(primary) = open_primary(self.world) else { return };
        let leader = directory(self.world, primary);
        let acknowledged = self.world.laws.acknowledged;
        for member in 0..replicas {
            let ours = directory(self.world, member);
            let missing = acknowledged.minus(ours.holds());
            if !missing.is_empty() {
                let gtids = self.world.histories.gtids(missing);
                self.world.broken("I4", || format!("in the end {} lacks {gtids}", name(member)));
            }
            let extra = ours.holds().minus(leader.logged);
            if !extra.is_empty() {
                let gtids = self.world.histories.gtids(extra);
                self.world.broken("I6", || format!("in the end {} holds {gtids}, which the primary does not", name(member)));
            }
            // Who leads by a person's consent may bring what it committed as a replica: the others apply that later.
            let strays = self.world.laws.strays.union(self.world.laws.brought);
            let common =
                |log: &[Txn], other: &[Txn]| log.iter().copied().filter(|txn| other.contains(txn) && !strays.has(*txn)).collect::<Vec<_>>();
            if common(&ours.log, &leader.log) != common(&leader.log, &ours.log) {
                let (ours, theirs) = (common(&ours.log, &leader.log), common(&leader.log, &ours.log));
                self.world.broken("I5", || format!("{} applied {ours:?}, and the primary {theirs:?}", name(member)));
            }
        }
        let routed = self.world.api.route.map(|(member, _)| member);
        if routed != Some(primary) {
            self.world.broken("I9", || format!("in the end the route leads to {routed:?}, and {} is open", name(primary)));
        }
    }
}

fn open_primary(world: &World) -> Option<u32> {
    let mut open = ordinals().filter(|member| world.member(*member).mysqld.as_ref().is_some_and(|mysqld| mysqld.up && !mysqld.read_only));
    open.next().filter(|_| open.next().is_none())
}

/// Healthy by its own words, and in truth.
fn is_well(world: &World) -> bool {
    let replicas = world.api.read.desired.replicas;
    let says = world.operators.iter().any(|operator| operator.running && operator.state == Some(State::Healthy));
    let there = |member: u32| {
        let member = world.member(member);
        let pod = member.pod.as_ref().is_some_and(|pod| pod.revision == world.api.revision && pod.deleting.is_none());
        pod && member.volume.directory.is_some() && member.mysqld.as_ref().is_some_and(|mysqld| mysqld.up)
    };
    let Some(primary) = open_primary(world) else { return false };
    let follow = |member: u32| {
        let ours = world.member(member).volume.directory.as_ref();
        let leader = world.member(primary).volume.directory.as_ref();
        let strays = |set: crate::history::Set| set.both(world.laws.strays);
        ours.zip(leader)
            .is_some_and(|(ours, leader)| ours.executed.contains(leader.executed) && leader.logged.contains(strays(ours.executed)))
    };
    says && world.api.read.status.transition.as_ref().is_none_or(|change| change.kind == crds::shared::TransitionKind::TakenBack)
        && ordinals().all(|member| (member < replicas) == world.member(member).pod.is_some())
        && (0..replicas).all(|member| there(member) && follow(member))
}
