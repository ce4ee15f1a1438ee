//! A modelled sidecar: the loop of `sidecar::mysql::member` in virtual time. What it plans, when a member has converged, when it is
//! ready and what its state says are the real functions; only the asking of mysqld and the waiting are modelled.

use std::rc::Rc;
use std::time::Duration;

use sidecar::engine::Engine;
use sidecar::mysql::Mysql;
use sidecar::mysql::converge::{Own, Step, converged, plan};
use sidecar::mysql::observe::{Channel, Facts, Password, Receiver, SemiSyncFacts, tell_silence};
use sidecar::mysql::ready::Readiness;
use sidecar::mysql::sessions::Replicas;
use sidecar::mysql::unmet;
use sidecar_protocol::mysql::{Accepted, Archive, Assignment, Data, Position, Problem, Process, State};
use sidecar_protocol::{Order, Report};
use tokio::time::Instant;

use crate::contact::Contact;
use crate::event::Event;
use crate::filling::Filling;
use crate::history::uuid_text;
use crate::kube::UID;
use crate::mysqld::Link;
use crate::world::{MEMBERS, World, name};

/// Between two reports of a member that has nothing new to say.
const HEARTBEAT: u64 = 1000;
/// Between two looks while something is waited for.
const EAGER: u64 = 100;
/// Longest wait for the next look after something changed.
const NOTICED: u64 = 250;
/// A mysqld that did not answer for this long is silent.
const SILENT: u64 = 3000;
/// A receiver that has been connected for this long knows whether it acknowledges.
const RECEIVER_SETTLED: u64 = 1000;
/// One that never answered since the sidecar began is down after this long.
const STARTUP_GRACE: u64 = 30_000;

/// A statement on its way.
#[derive(Clone, Debug)]
pub struct Running {
    /// Tells it from others.
    pub token: u64,
    /// What it does.
    pub step: Step,
    /// Of the order that it is for.
    pub term: u64,
    /// What is ordered.
    pub assignment: Assignment,
}

/// One run of the sidecar.
#[derive(Debug)]
pub struct Sidecar {
    /// Tells it from others.
    pub incarnation: u64,
    /// The order it works on.
    pub order: Option<Rc<Order<Assignment>>>,
    /// The order of before the restart, while it waits to be confirmed.
    pub unconfirmed: Option<Rc<Order<Assignment>>>,
    /// Different orders accepted.
    pub orders: u64,
    /// What was published last.
    pub state: State,
    /// What it works on.
    pub running: Option<Running>,
    /// What fills its volume.
    pub filling: Option<Filling>,
    /// Members whose accounts it made.
    pub accounts_done: Option<Vec<u32>>,
    /// What stood in the way of the last step.
    pub problem: Option<Problem>,
    /// Whom it heard, to fence itself.
    pub contact: Contact,
    readiness: Readiness,
    /// The step taken last, and how often in a row.
    last: Option<(Step, u32)>,
    /// When a step may be taken again.
    pub not_before: u64,
    began: u64,
    /// Since when commits wait although enough replicas are connected.
    pub stuck: Option<u64>,
    answered: Option<u64>,
    published: u64,
    turn: u64,
    next_look: u64,
}

impl Sidecar {
    fn new(incarnation: u64, now: u64, data: Data, contact: Contact) -> Self {
        Self {
            incarnation,
            order: None,
            unconfirmed: None,
            orders: 0,
            state: unmet(data),
            running: None,
            filling: None,
            accounts_done: None,
            problem: None,
            contact,
            readiness: Readiness::default(),
            last: None,
            stuck: None,
            not_before: 0,
            began: now,
            answered: None,
            published: 0,
            turn: 0,
            next_look: u64::MAX,
        }
    }

    fn assignment(&self) -> Option<&Assignment> {
        self.order.as_ref().map(|order| &order.assignment)
    }
}

impl World {
    /// The sidecar's process begins.
    pub fn sidecar_start(&mut self, member: u32, pod: u64) {
        let (now, incarnation) = (self.now, self.id());
        let ours = self.member(member);
        if ours.sidecar.is_some() || ours.pod.as_ref().is_none_or(|now| now.uid != pod || now.node_down) {
            return;
        }
        self.discard_condemned(member);
        let contact = Contact::new(self.instant(), member);
        let ours = self.member_mut(member);
        let data = if ours.volume.directory.is_some() { Data::Present } else { Data::Empty };
        ours.sidecar = Some(Sidecar::new(incarnation, now, data, contact));
        self.resume(member);
        let ours = self.member(member);
        if ours.volume.directory.is_some() && ours.mysqld.is_none() {
            let takes = self.takes(200);
            self.after(takes, Event::MysqldStart { member, pod });
        }
        self.poke_now(member);
    }

    /// Something changed that the sidecar will see at its next look.
    pub fn poke(&mut self, member: u32) {
        let within = self.dice.roll(NOTICED);
        self.look_in(member, within);
    }

    /// Something changed that the sidecar is told.
    pub fn poke_now(&mut self, member: u32) {
        self.look_in(member, 0);
    }

    fn look_in(&mut self, member: u32, millis: u64) {
        let at = self.now + millis;
        let Some(sidecar) = &mut self.member_mut(member).sidecar else { return };
        if at < sidecar.next_look {
            sidecar.turn += 1;
            sidecar.next_look = at;
            let (incarnation, turn) = (sidecar.incarnation, sidecar.turn);
            self.after(millis, Event::Look { member, incarnation, turn });
        }
    }

    /// Look, report, take one step.
    pub fn look(&mut self, member: u32, incarnation: u64, turn: u64) {
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut().filter(|sidecar| sidecar.incarnation == incarnation) else { return };
        if sidecar.turn != turn {
            return;
        }
        sidecar.next_look = u64::MAX;
        self.listen(member);
        let again = if self.member(member).volume.directory.is_none() {
            self.fill(member);
            self.publish_empty(member);
            HEARTBEAT
        } else if let Some(facts) = self.facts(member) {
            self.live(member, &facts)
        } else {
            self.silence(member);
            HEARTBEAT
        };
        self.look_in(member, again);
    }

    /// One look at a mysqld that answers.
    fn live(&mut self, member: u32, facts: &Facts) -> u64 {
        let now = self.now;
        self.nudge(member, facts);
        let verdict = self.verdict(member);
        let condemned = self.condemned(member);
        let receiver_settled = self.running(member).is_some_and(|(mysqld, _)| now - mysqld.connected >= RECEIVER_SETTLED);
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return HEARTBEAT };
        sidecar.answered = Some(now);
        if !matches!(sidecar.assignment(), Some(Assignment::Primary { .. })) {
            sidecar.accounts_done = None;
        }
        let own = Own { condemned, receiver_settled, fenced: verdict.fenced, may_open: verdict.may_open, ..own(member, sidecar) };
        let order = sidecar.order.clone();
        // An order of before a restart that nobody has confirmed yet still closes.
        let assignment = order.as_ref().map(|order| order.assignment.clone()).or(verdict.fenced.then_some(Assignment::Isolated));
        let wanted = assignment.as_ref().and_then(|assignment| plan(facts, assignment, &own));
        let holds = order.as_ref().is_some_and(|order| converged(facts, &order.assignment, &own));
        if verdict.fenced && sidecar.running.as_ref().is_some_and(|running| running.step != Step::Seal) {
            // It waits for others perhaps, and the seal waits for nobody.
            (sidecar.running, sidecar.not_before) = (None, 0);
        }
        self.remember(member, facts, order.as_deref(), holds);
        self.publish(member, facts, order.as_deref(), holds, verdict.fenced);
        let Some(step) = wanted else {
            if let Some(sidecar) = self.member_mut(member).sidecar.as_mut() {
                (sidecar.problem, sidecar.last) = (None, None);
            }
            return HEARTBEAT;
        };
        self.begin(member, step, order.as_ref().map_or(0, |order| order.term), assignment)
    }

    /// Starts a step, unless one runs or it is too early to try again. Says when to look again.
    fn begin(&mut self, member: u32, step: Step, term: u64, assignment: Option<Assignment>) -> u64 {
        let (now, token) = (self.now, self.id());
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return HEARTBEAT };
        if step == Step::AwaitApplied || sidecar.running.is_some() {
            return EAGER;
        }
        if now < sidecar.not_before {
            return (sidecar.not_before - now).min(HEARTBEAT);
        }
        let incarnation = sidecar.incarnation;
        sidecar.running = Some(Running { token, step: step.clone(), term, assignment: assignment.unwrap_or(Assignment::Isolated) });
        self.tell(|| format!("  {} takes the step {step:?}", name(member)));
        let takes = self.duration(member, &step);
        self.after(takes, Event::StepDone { member, incarnation, token });
        HEARTBEAT
    }

    /// A statement has taken effect.
    pub fn step_done(&mut self, member: u32, incarnation: u64, token: u64) {
        let now = self.now;
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut().filter(|sidecar| sidecar.incarnation == incarnation) else { return };
        let Some(running) = sidecar.running.take_if(|running| running.token == token) else { return };
        let outcome = self.effect(member, &running);
        if let Some(sidecar) = self.member_mut(member).sidecar.as_mut() {
            let often = sidecar.last.as_ref().filter(|(last, _)| *last == running.step).map_or(0, |(_, often)| often + 1);
            let failed = outcome.is_err();
            sidecar.problem = outcome.err().flatten();
            let pause = if failed || often > 0 { (200 << often.min(3)).min(2000) } else { 0 };
            sidecar.not_before = now + pause;
            sidecar.last = Some((running.step, often));
        }
        self.poke_now(member);
    }

    /// What mysqld says now; `None` when it does not answer.
    fn facts(&mut self, member: u32) -> Option<Facts> {
        let histories = &mut self.histories;
        let ours = &self.members[member as usize];
        let (mysqld, directory) = (ours.mysqld.as_ref().filter(|mysqld| mysqld.answers())?, ours.volume.directory.as_ref()?);
        let channel = directory.source.map(|source| Channel {
            host: host(source),
            user: user(member),
            password: Password("p".into()),
            tls: true,
            receiver: match mysqld.link {
                Link::Off => Receiver::Off,
                Link::Connecting => Receiver::Connecting,
                Link::On(_) => Receiver::On,
            },
            applying: mysqld.applying,
            ..Channel::default()
        });
        Some(Facts {
            version: "9.7.0".into(),
            server_uuid: uuid_text(directory.uuid),
            read_only: mysqld.read_only,
            super_read_only: mysqld.super_read_only,
            position: Position {
                executed: histories.gtids(directory.executed),
                received: if channel.is_some() { histories.gtids(directory.received) } else { Default::default() },
                purged: histories.gtids(directory.purged),
            },
            channel,
            semi_sync: SemiSyncFacts {
                source_enabled: mysqld.source_enabled,
                source_acks: mysqld.source_acks,
                source_strict: true,
                clients: mysqld.clients(),
                replica_enabled: mysqld.replica_enabled,
                replica_active: mysqld.replica_active && matches!(mysqld.link, Link::On(_)),
                waiting: u32::try_from(mysqld.waiting.len()).unwrap_or(u32::MAX),
            },
            replicas: Replicas {
                admitted: ordinals().filter(|other| (directory.accounts & !directory.locked) >> other & 1 == 1).collect(),
                locked: ordinals().filter(|other| (directory.accounts & directory.locked) >> other & 1 == 1).collect(),
                dumping: mysqld.dumps.keys().copied().collect(),
            },
        })
    }

    /// What the laws need to know of this look: who stood still in which term, and under which term an open primary is.
    fn remember(&mut self, member: u32, facts: &Facts, order: Option<&Order<Assignment>>, holds: bool) {
        let Some(order) = order else { return };
        let ours = self.member_mut(member);
        let Some(uuid) = ours.volume.directory.as_ref().map(|directory| directory.uuid) else { return };
        if let Some(mysqld) = ours.mysqld.as_mut().filter(|_| !facts.read_only && matches!(order.assignment, Assignment::Primary { .. })) {
            mysqld.term = mysqld.term.max(order.term);
        }
        let still = ours.mysqld.as_ref().is_some_and(|mysqld| mysqld.link == Link::Off && mysqld.super_read_only);
        if still && holds && order.assignment == Assignment::Isolated {
            let known = self.laws.stood_still.entry(uuid).or_default();
            *known = (*known).max(order.term);
        }
    }

    fn publish(&mut self, member: u32, facts: &Facts, order: Option<&Order<Assignment>>, holds: bool, fenced: bool) {
        let instant = self.instant();
        let condemned = self.condemned(member);
        let archived = self.member(member).volume.archive;
        let archive = archived.map(|gtids| Archive { file: "errant".into(), gtids: self.histories.gtids(gtids) });
        let cloned_from = self.member(member).volume.directory.as_ref().and_then(|directory| directory.cloned_from).map(name);
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return };
        let mut state = sidecar.state.clone();
        let lag = facts.channel.as_ref().map(|_| Duration::ZERO);
        facts.tell(lag.map(|lag| lag.as_secs_f64()), &mut state);
        state.may_acknowledge |= sidecar.running.as_ref().is_some_and(|running| running.step.may_acknowledge(facts));
        state.data = Data::Present;
        state.accepted = order.map(|order| Accepted::of(order, holds));
        state.ready = sidecar.readiness.judge(instant, facts, order.map(|order| &order.assignment), lag, 30) && !fenced;
        state.problem = sidecar.problem.clone();
        (state.fenced, state.condemned, state.archive, state.cloned_from) =
            (fenced && facts.super_read_only, condemned, archive, cloned_from);
        self.tell_operators(member, state);
    }

    fn publish_empty(&mut self, member: u32) {
        let Some(sidecar) = self.member_mut(member).sidecar.as_ref() else { return };
        let mut state = State { data: sidecar.filling_data(), ..State::default() };
        state.archive = sidecar.state.archive.clone();
        state.take_up(sidecar.order.as_deref());
        self.tell_operators(member, state);
    }

    /// mysqld does not answer.
    fn silence(&mut self, member: u32) {
        let now = self.now;
        let ours = self.member_mut(member);
        let frozen = ours.mysqld.as_ref().is_some_and(|mysqld| mysqld.up && mysqld.frozen);
        let Some(sidecar) = ours.sidecar.as_mut() else { return };
        let process = match sidecar.answered {
            Some(last) if frozen && now - last < SILENT => return,
            _ if frozen => Process::Silent,
            Some(_) => Process::Down,
            None if now - sidecar.began < STARTUP_GRACE => Process::Starting,
            None => Process::Down,
        };
        let mut state = sidecar.state.clone();
        tell_silence(process, &mut state);
        (state.ready, state.data) = (false, Data::Present);
        state.take_up(sidecar.order.as_deref());
        sidecar.readiness = Readiness::default();
        self.tell_operators(member, state);
    }

    /// Publishes a state: at once when it is news, else with the next heartbeat.
    fn tell_operators(&mut self, member: u32, mut state: State) {
        let now = self.now;
        let Some(sidecar) = self.member_mut(member).sidecar.as_mut() else { return };
        let strays = state.strays() != sidecar.state.strays();
        let positions = (state.position.take(), sidecar.state.position.take());
        let news = strays || state != sidecar.state || positions.0.is_some() != positions.1.is_some();
        state.position = positions.0;
        if !news && now - sidecar.published < HEARTBEAT {
            sidecar.state.position = positions.1;
            return;
        }
        sidecar.published = now;
        let ready = state.ready;
        sidecar.state = state;
        self.kubelet_probe(member, ready);
        self.report_to_operators(member);
    }

    /// What this member says of itself now.
    #[must_use]
    pub fn report(&self, member: u32) -> Option<Report<State>> {
        let ours = self.member(member);
        let sidecar = ours.sidecar.as_ref()?;
        let mut state = sidecar.state.clone();
        if let Some(order) = &sidecar.order {
            Mysql::owe(&mut state, order);
        }
        Some(Report {
            cluster: UID.into(),
            member: name(member),
            incarnation: sidecar.incarnation.to_string(),
            term: ours.volume.term,
            orders: sidecar.orders,
            sidecar: String::new(),
            trust: String::new(),
            state,
        })
    }

    /// The virtual moment, for code that measures with the real clock.
    pub fn instant(&self) -> Instant {
        thread_local!(static BEGAN: Instant = Instant::now());
        BEGAN.with(|began| *began) + Duration::from_millis(self.now)
    }
}

fn own(member: u32, sidecar: &Sidecar) -> Own {
    let due = match sidecar.assignment() {
        Some(Assignment::Primary { members, .. }) => sidecar.accounts_done.as_ref() != Some(members),
        _ => false,
    };
    Own { user: user(member), password: Some(Password("p".into())), accounts_due: due, ..Own::default() }
}

/// The account that a member replicates with.
fn user(member: u32) -> String {
    format!("understudy_replication_{member}")
}

/// Host name of a member, as `Desired` makes it.
#[must_use]
pub fn host(member: u32) -> String {
    format!("{}.{}.shop.svc", name(member), crate::kube::NAME)
}

/// Every ordinal there may be.
pub fn ordinals() -> std::ops::Range<u32> {
    0..u32::try_from(MEMBERS).unwrap_or(u32::MAX)
}
