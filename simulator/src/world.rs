//! The world: members, operators, clients, the wires between them, and time. [`World::step`] lets the next thing happen.

use std::collections::BinaryHeap;
use std::rc::Rc;

use sidecar::term::Promise;
use sidecar_protocol::Order;
use sidecar_protocol::mysql::Assignment;

use crate::clients::Client;
use crate::dice::Dice;
use crate::event::{Due, Event};
use crate::faults::Faults;
use crate::history::{Histories, Set};
use crate::kube::{Api, NAME};
use crate::laws::Laws;
use crate::mysqld::{Directory, Mysqld};
use crate::network::{Network, Node};
use crate::operator::Operator;
use crate::sidecar::Sidecar;

/// Most members.
pub const MEMBERS: usize = 6;
/// Operators that there may be at once.
pub const OPERATORS: usize = 2;
/// How long a call or a packet takes, usually.
pub const LATENCY: u64 = 3;

/// The last order, as the volume keeps it.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The order.
    pub order: Rc<Order<Assignment>>,
    /// What orders of its record promise.
    pub promise: Promise,
    /// The data directory that was here then.
    pub of: Option<u32>,
}

/// What outlives a pod.
#[derive(Debug, Default)]
pub struct Volume {
    /// The data directory, when there is a complete one.
    pub directory: Option<Directory>,
    /// The sidecar's term file.
    pub term: u64,
    /// The last order accepted; ended by a higher term.
    pub kept: Option<Kept>,
    /// The data directory that is discarded at the next start of the sidecar.
    pub condemned: Option<u32>,
    /// What only this member held, kept when its data directory was discarded.
    pub archive: Option<Set>,
}

/// A pod, as Kubernetes shows it.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its UID.
    pub uid: u64,
    /// Revision that it was made of.
    pub revision: u64,
    /// The Ready condition.
    pub ready: bool,
    /// Being deleted; gone by then at the latest.
    pub deleting: Option<u64>,
    /// Its node is down: nothing of it runs, and the object stays.
    pub node_down: bool,
    /// When it was made.
    pub since: u64,
    /// mysqld has been started in it.
    pub curtain: bool,
}

/// An ordinal: its volume, its pod, and what runs in it.
#[derive(Debug, Default)]
pub struct Member {
    /// Stays.
    pub volume: Volume,
    /// The pod, if there is one.
    pub pod: Option<Pod>,
    /// The sidecar's process.
    pub sidecar: Option<Sidecar>,
    /// mysqld's process.
    pub mysqld: Option<Mysqld>,
    /// The sidecar is stopped by SIGSTOP.
    pub sidecar_frozen: bool,
    /// What waits in sockets and queues of frozen processes.
    pub inbox: Vec<Event>,
    /// How long its applier takes for a transaction.
    pub slowness: u64,
}

/// Everything.
#[derive(Debug)]
pub struct World {
    /// Milliseconds since it began.
    pub now: u64,
    /// Chance.
    pub dice: Dice,
    /// Every transaction.
    pub histories: Histories,
    /// By ordinal.
    pub members: Vec<Member>,
    /// The API server.
    pub api: Api,
    /// Operators, running or not.
    pub operators: Vec<Operator>,
    /// Applications.
    pub clients: Vec<Client>,
    /// Wires.
    pub network: Network,
    /// What must hold.
    pub laws: Laws,
    /// What goes wrong.
    pub faults: Faults,
    queue: BinaryHeap<Due>,
    turns: u64,
    ids: u64,
    /// Written only when somebody is going to read it.
    pub story: Option<Vec<String>>,
}

impl World {
    /// An empty world with a cluster to be born.
    #[must_use]
    pub fn new(seed: u64, telling: bool) -> Self {
        let mut dice = Dice::new(seed);
        let replicas = [1, 2, 2, 3, 3, 3, 3, 5][usize::try_from(dice.roll(8)).unwrap_or(0)];
        let api = Api::new(replicas, dice.chance(60));
        let mut world = Self {
            now: 0,
            members: (0..MEMBERS).map(|_| Member { slowness: 2, ..Member::default() }).collect(),
            operators: (0..OPERATORS).map(|_| Operator::new(&api)).collect(),
            clients: (0..2).map(|_| Client::default()).collect(),
            api,
            dice,
            histories: Histories::default(),
            network: Network::default(),
            laws: Laws::default(),
            faults: Faults::default(),
            queue: BinaryHeap::new(),
            turns: 0,
            ids: 0,
            story: telling.then(Vec::new),
        };
        world.tell(|| format!("a cluster of {replicas}"));
        world.after(0, Event::OperatorStart { operator: 0 });
        world.after(0, Event::Kubelet);
        for client in 0..world.clients.len() {
            world.after(500, Event::Client { client, number: 0 });
        }
        world
    }

    /// Notes a line of the story.
    pub fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(story) = &mut self.story {
            story.push(format!("{:>8}  {}", Seconds(self.now), line()));
        }
    }

    /// A number that was never used.
    pub fn id(&mut self) -> u64 {
        self.ids += 1;
        self.ids
    }

    /// Lets `event` happen in `millis`.
    pub fn after(&mut self, millis: u64, event: Event) {
        self.turns += 1;
        self.queue.push(Due { at: self.now + millis, turn: self.turns, event });
    }

    /// How long something takes that usually takes `usual`.
    pub fn takes(&mut self, usual: u64) -> u64 {
        if self.faults.calm { usual } else { self.dice.while_of(usual) }
    }

    /// Sends `event` from `from` to `to`: over a cut wire it is lost, or late.
    pub fn send(&mut self, from: Node, to: Node, event: Event) {
        let mut takes = self.takes(LATENCY);
        if !self.network.passes(from, to) {
            if self.dice.chance(600) {
                return;
            }
            takes += self.dice.between(200, 8000);
        }
        self.after(takes, event);
    }

    /// The next thing happens. False when nothing ever will.
    pub fn step(&mut self) -> bool {
        let Some(Due { at, event, .. }) = self.queue.pop() else { return false };
        self.now = at;
        self.arrive(event);
        true
    }

    /// Something reaches whom it is for, or waits until he is thawed.
    pub fn arrive(&mut self, event: Event) {
        if let Some(operator) = event.needs_operator().filter(|operator| self.operators[*operator].frozen) {
            self.operators[operator].inbox.push(event);
        } else if let Some(frozen) = self.frozen(&event) {
            self.member_mut(frozen).inbox.push(event);
        } else {
            self.happen(event);
        }
    }

    fn frozen(&self, event: &Event) -> Option<u32> {
        let sidecar = event.needs_sidecar().filter(|member| self.member(*member).sidecar_frozen);
        let mysqld = || event.needs_mysqld().filter(|member| self.member(*member).mysqld.as_ref().is_some_and(|mysqld| mysqld.frozen));
        sidecar.or_else(mysqld)
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Kubelet => self.kubelet(),
            Event::SidecarStart { member, pod } => self.sidecar_start(member, pod),
            Event::MysqldStart { member, pod } => self.mysqld_start(member, pod),
            Event::MysqldUp { member, run } => self.mysqld_up(member, run),
            Event::Look { member, incarnation, turn } => self.look(member, incarnation, turn),
            Event::StepDone { member, incarnation, token } => self.step_done(member, incarnation, token),
            Event::Filled { member, incarnation, token } => self.filled(member, incarnation, token),
            Event::Order { operator, run, member, pod, ticket, order } => self.order_arrives(operator, run, member, pod, ticket, &order),
            Event::Answer { operator, run, member, ticket, answer } => self.answer_arrives(operator, run, member, ticket, answer),
            Event::Report { operator, run, member, pod, report } => self.report_arrives(operator, run, member, pod, &report),
            Event::Pass { operator, run } => self.pass(operator, run),
            Event::Write { operator, run } => self.write(operator, run),
            Event::Tick { operator, run } => self.tick(operator, run),
            Event::Sync { operator, run } => self.sync(operator, run),
            Event::OperatorStart { operator } => self.operator_start(operator),
            Event::Receiver { member, run } => self.receiver(member, run),
            Event::Dump { source, run, member, dump } => self.dump(source, run, member, dump),
            Event::Receive { source, member, run, dump, txn } => self.receive(source, member, run, dump, txn),
            Event::Ack { source, run, member, dump, txn } => self.acked(source, run, member, dump, txn),
            Event::Apply { member, run } => self.apply(member, run),
            Event::Client { client, number } => self.client(client, number),
            Event::Commit { member, run, sessions, request } => self.commit(member, run, sessions, request),
            Event::Fault => self.fault(),
            Event::Strike { kind, member } => self.strike(kind, member),
            Event::Mend(mend) => self.mend(mend),
        }
    }

    /// The member with this ordinal.
    #[must_use]
    pub fn member(&self, ordinal: u32) -> &Member {
        &self.members[ordinal as usize]
    }

    /// The same, to change.
    pub fn member_mut(&mut self, ordinal: u32) -> &mut Member {
        &mut self.members[ordinal as usize]
    }

    /// Its mysqld, when it is this process.
    pub fn mysqld(&mut self, ordinal: u32, run: u64) -> Option<&mut Mysqld> {
        self.members[ordinal as usize].mysqld.as_mut().filter(|mysqld| mysqld.run == run)
    }

    /// Its mysqld and data directory, when it answers.
    pub fn running(&mut self, ordinal: u32) -> Option<(&mut Mysqld, &mut Directory)> {
        let member = &mut self.members[ordinal as usize];
        Some((member.mysqld.as_mut().filter(|mysqld| mysqld.answers())?, member.volume.directory.as_mut()?))
    }
}

/// Pod name of a member.
#[must_use]
pub fn name(ordinal: u32) -> String {
    format!("{NAME}-{ordinal}")
}

/// Ordinal in a pod name.
#[must_use]
pub fn ordinal(name: &str) -> Option<u32> {
    name.strip_prefix(NAME)?.strip_prefix('-')?.parse().ok()
}

struct Seconds(u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.pad(&format!("{}.{:03}", self.0 / 1000, self.0 % 1000))
    }
}
