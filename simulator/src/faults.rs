//! What goes wrong, and its end. Which faults, how often and how long is chance; a schedule has its own mix.

use crate::event::Event;
use crate::mysqld::Link;
use crate::network::Node;
use crate::sidecar::ordinals;
use crate::world::{OPERATORS, World, name};

/// Volumes that may be lost in one schedule: more would only ever ask a person.
const VOLUMES: u32 = 2;

/// Within this many milliseconds an operator that reaches a member knows what somebody committed there, or the next hand-over is over.
const UNTOLD: u64 = 2000;

/// The weather.
#[derive(Debug, Default)]
pub struct Faults {
    /// Things go wrong now.
    pub raging: bool,
    /// Nothing goes wrong, and everything takes its usual time.
    pub calm: bool,
    /// The faults are over.
    pub over: bool,
    /// Milliseconds between two faults, about.
    pub pace: u64,
    /// Kinds that this schedule has.
    pub kinds: Vec<Kind>,
}

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// mysqld is killed.
    Mysqld,
    /// The sidecar is killed.
    Sidecar,
    /// A pod is deleted.
    Pod,
    /// A node goes down with everything on it, and comes back.
    Node,
    /// SIGSTOP of a pod, of mysqld alone, or of the sidecar alone.
    Freeze,
    /// The storage that several members share hangs, and their mysqlds with it; then something happens to the one that is spared.
    Storage,
    /// An operator does not reach a member.
    Deaf,
    /// Two members do not reach each other.
    Cut,
    /// A member is reached by nobody.
    Island,
    /// A volume is lost.
    Volume,
    /// Binary logs are purged.
    Purge,
    /// An operator is killed.
    Operator,
    /// A second operator runs.
    Second,
    /// An operator is stopped, and goes on later.
    FrozenOperator,
    /// An operator does not reach the API server, or gets its answers late.
    Api,
    /// An operator's clock jumps.
    Clock,
    /// The user changes the number of members.
    Scale,
    /// The user changes the template.
    Update,
    /// The user asks for a switchover.
    Switchover,
    /// An applier is slow.
    Slow,
    /// Somebody commits on a replica.
    Stray,
}

const ALL: [Kind; 21] = [
    Kind::Mysqld,
    Kind::Sidecar,
    Kind::Pod,
    Kind::Node,
    Kind::Freeze,
    Kind::Storage,
    Kind::Deaf,
    Kind::Cut,
    Kind::Island,
    Kind::Volume,
    Kind::Purge,
    Kind::Operator,
    Kind::Second,
    Kind::FrozenOperator,
    Kind::Api,
    Kind::Clock,
    Kind::Scale,
    Kind::Update,
    Kind::Switchover,
    Kind::Slow,
    Kind::Stray,
];

/// The end of a fault.
#[derive(Clone, Copy, Debug)]
pub enum Mend {
    /// Processes of a pod go on.
    Thaw(u32),
    /// The node is back.
    Node(u32),
    /// A wire is mended.
    Wire(Node, Node),
    /// All wires of a member are mended.
    Island(u32),
    /// An operator goes on.
    Operator(usize),
    /// An operator reaches the API server again.
    Api(usize),
    /// The applier is quick again.
    Slow(u32),
}

impl World {
    /// Faults begin.
    pub fn rage(&mut self) {
        // A few kinds at a time meet each other more often than all of them do.
        let kinds = ALL.into_iter().filter(|_| self.dice.chance(350)).collect::<Vec<_>>();
        self.faults.kinds = if kinds.is_empty() { ALL.to_vec() } else { kinds };
        self.faults.pace = [300, 1000, 3000][usize::try_from(self.dice.roll(3)).unwrap_or(0)];
        self.faults.raging = true;
        self.after(0, Event::Fault);
    }

    /// Everything that was broken is mended, and nothing more goes wrong.
    pub fn heal(&mut self) {
        self.tell(|| "--- the faults are over".into());
        (self.faults.raging, self.faults.over, self.faults.calm) = (false, true, true);
        self.network.heal();
        for operator in 0..OPERATORS {
            self.mend(Mend::Operator(operator));
            self.mend(Mend::Api(operator));
            self.operators[operator].clock = 0;
        }
        // One operator stays.
        if self.operators[0].running && self.operators[1].running {
            let goes = usize::try_from(self.dice.roll(2)).unwrap_or(0);
            self.end_operator(goes);
        } else if !self.operators[0].running && !self.operators[1].running {
            self.after(100, Event::OperatorStart { operator: 0 });
        }
        for member in ordinals() {
            self.mend(Mend::Node(member));
            self.mend(Mend::Thaw(member));
            self.mend(Mend::Slow(member));
        }
    }

    /// One thing goes wrong.
    pub fn fault(&mut self) {
        if !self.faults.raging {
            return;
        }
        let next = self.faults.pace;
        let next = self.dice.between(next / 4, next * 2);
        self.after(next, Event::Fault);
        let Some(kind) = self.dice.pick(&self.faults.kinds.clone()) else { return };
        let Some(member) = self.victim() else { return };
        self.strike(kind, member);
    }

    /// Mostly the primary: it is what everything turns around.
    fn victim(&mut self) -> Option<u32> {
        let pods: Vec<u32> = ordinals().filter(|member| self.member(*member).pod.is_some()).collect();
        let open = |member: &u32| self.member(*member).mysqld.as_ref().is_some_and(|mysqld| !mysqld.read_only);
        let primary = pods.iter().copied().find(open).filter(|_| self.dice.clone().chance(450));
        self.dice.roll(2);
        primary.or_else(|| self.dice.pick(&pods))
    }

    /// A fault of this kind.
    pub fn strike(&mut self, kind: Kind, member: u32) {
        if !self.faults.raging {
            return;
        }
        let usual = self.dice.pick(&[400, 2000, 4000, 8000, 16_000]).unwrap_or(2000);
        let lasts = self.dice.between(usual / 2, usual * 2);
        let others: Vec<u32> = self.others(member).filter(|other| self.member(*other).pod.is_some()).collect();
        let other = self.dice.pick(&others).unwrap_or(member);
        let operator = usize::try_from(self.dice.roll(OPERATORS as u64)).unwrap_or(0);
        match kind {
            Kind::Mysqld => {
                self.tell(|| format!("*   mysqld of {} is killed", name(member)));
                self.end_mysqld(member);
                self.restart(member, false);
            }
            Kind::Sidecar => {
                self.tell(|| format!("*   the sidecar of {} is killed", name(member)));
                self.end_sidecar(member);
                self.restart(member, true);
            }
            Kind::Pod => {
                self.tell(|| format!("*   the pod of {} is deleted", name(member)));
                self.delete_pod(member, None);
            }
            Kind::Node => self.node_down(member, lasts),
            Kind::Freeze => {
                let (sidecar, mysqld) =
                    [(true, true), (true, true), (true, false), (false, true)][usize::try_from(self.dice.roll(4)).unwrap_or(0)];
                self.freeze(member, sidecar, mysqld, lasts);
            }
            Kind::Storage => {
                others.into_iter().filter(|one| *one != other).for_each(|one| self.freeze(one, false, true, lasts));
                // Meanwhile something happens to the only one that can acknowledge.
                let (when, what) = (self.dice.between(0, lasts / 2), self.dice.pick(&[Kind::Node, Kind::Stray, Kind::Pod]));
                self.after(when, Event::Strike { kind: what.unwrap_or(Kind::Node), member: other });
            }
            Kind::Deaf => self.cut(Node::Operator(operator), Node::Member(member), lasts),
            Kind::Cut => self.cut(Node::Member(member), Node::Member(other), lasts),
            Kind::Island => {
                self.tell(|| format!("*   {} is an island for {lasts} ms", name(member)));
                self.network.isolate(Node::Member(member), true);
                self.after(lasts, Event::Mend(Mend::Island(member)));
            }
            Kind::Volume => self.lose_volume(member),
            Kind::Purge => self.purge(member),
            Kind::Stray => self.stray(member),
            Kind::Operator if self.operators[operator].running => {
                self.end_operator(operator);
                self.after(lasts, Event::OperatorStart { operator });
            }
            Kind::Second => self.operator_start(operator),
            Kind::FrozenOperator if self.operators[operator].running => {
                self.tell(|| format!("*   operator {operator} is frozen for {lasts} ms"));
                self.operators[operator].frozen = true;
                self.after(lasts, Event::Mend(Mend::Operator(operator)));
            }
            Kind::Api => self.api_trouble(operator, lasts),
            Kind::Clock => {
                let jump = i64::try_from(self.dice.between(0, 240_000)).unwrap_or(0) - 120_000;
                self.tell(|| format!("*   the clock of operator {operator} jumps to {jump} ms off"));
                self.operators[operator].clock = jump;
            }
            Kind::Scale | Kind::Update | Kind::Switchover => self.wish(kind),
            Kind::Slow => {
                self.tell(|| format!("*   the applier of {} is slow", name(member)));
                self.member_mut(member).slowness = 400;
                self.after(lasts * 2, Event::Mend(Mend::Slow(member)));
            }
            Kind::Operator | Kind::FrozenOperator => {}
        }
    }

    fn wish(&mut self, kind: Kind) {
        match kind {
            Kind::Scale => {
                let replicas = u8::try_from(self.dice.between(1, 5)).unwrap_or(3);
                self.tell(|| format!("*   the user wants {replicas} members"));
                self.api.edit(|cluster| cluster.spec.replicas = replicas);
            }
            Kind::Update => {
                self.tell(|| "*   the user changes the template".into());
                self.api.revision += 1;
                self.kubernetes_changed();
            }
            _ => {
                let to = self.dice.chance(500).then(|| u32::try_from(self.dice.roll(5)).unwrap_or(0));
                let term = self.api.read.status.term;
                self.tell(|| format!("*   the user asks for a switchover to {to:?} in term {term}"));
                self.api.annotate(|asked| asked.switchover = Some((to, term)));
            }
        }
        for operator in 0..OPERATORS {
            self.wake(operator, 10);
        }
    }

    fn node_down(&mut self, member: u32, lasts: u64) {
        self.tell(|| format!("*   the node of {} is down for {lasts} ms", name(member)));
        // Nobody hears of it: no connection is closed.
        self.network.isolate(Node::Member(member), true);
        self.end_processes(member);
        self.network.isolate(Node::Member(member), false);
        if let Some(pod) = self.member_mut(member).pod.as_mut() {
            (pod.node_down, pod.curtain) = (true, false);
        }
        self.kubernetes_changed();
        self.after(lasts, Event::Mend(Mend::Node(member)));
    }

    fn freeze(&mut self, member: u32, sidecar: bool, mysqld: bool, lasts: u64) {
        self.tell(|| format!("*   {} is frozen for {lasts} ms: sidecar {sidecar}, mysqld {mysqld}", name(member)));
        let ours = self.member_mut(member);
        ours.sidecar_frozen |= sidecar && ours.sidecar.is_some();
        if let Some(process) = &mut ours.mysqld {
            process.frozen |= mysqld;
        }
        self.after(lasts, Event::Mend(Mend::Thaw(member)));
    }

    fn cut(&mut self, one: Node, other: Node, lasts: u64) {
        self.tell(|| format!("*   {one:?} and {other:?} are cut off from each other for {lasts} ms"));
        self.network.set(one, other, true);
        self.after(lasts, Event::Mend(Mend::Wire(one, other)));
    }

    fn lose_volume(&mut self, member: u32) {
        if self.laws.volumes_lost >= VOLUMES || self.member(member).volume.directory.is_none() {
            return;
        }
        self.laws.volumes_lost += 1;
        self.tell(|| format!("*   {} loses its volume, and its pod with it", name(member)));
        self.end_processes(member);
        let ours = self.member_mut(member);
        ours.volume = crate::world::Volume::default();
        ours.pod = None;
        self.laws.obeyed[member as usize] = 0;
        self.kubernetes_changed();
    }

    fn purge(&mut self, member: u32) {
        let keep = usize::try_from(self.dice.roll(4)).unwrap_or(0);
        let Some((mysqld, directory)) = self.running(member) else { return };
        // A file that a dump thread reads stays.
        let read = mysqld.dumps.values().map(|dump| dump.next).min().unwrap_or(usize::MAX);
        let old = directory.log.len().saturating_sub(keep + mysqld.waiting.len()).min(read);
        for txn in directory.log.drain(..old) {
            directory.purged.insert(txn);
        }
        for dump in mysqld.dumps.values_mut() {
            dump.next = dump.next.saturating_sub(old);
        }
        self.tell(|| format!("*   {} purges {old} transactions from its binary log", name(member)));
    }

    fn stray(&mut self, member: u32) {
        // While positions are read nobody may know of it in time.
        let status = std::rc::Rc::clone(&self.api.read.status);
        let stood_still = self.laws.stood_still.clone();
        let Some((mysqld, directory)) = self.running(member) else { return };
        let stood_still = stood_still.get(&directory.uuid).is_some_and(|term| *term >= status.term);
        if mysqld.link == Link::Off || !mysqld.super_read_only || mysqld.sealing || stood_still || status.transition.is_some() {
            return;
        }
        let uuid = directory.uuid;
        let Some(txn) = self.histories.commit(uuid) else { return };
        if let Some((_, directory)) = self.running(member) {
            directory.write(txn);
            directory.executed.insert(txn);
        }
        self.laws.strays.insert(txn);
        self.laws.untold.insert(txn, self.now + UNTOLD);
        self.tell(|| format!("*   somebody commits on {}, which follows", name(member)));
    }

    fn api_trouble(&mut self, operator: usize, lasts: u64) {
        let kind = self.dice.roll(3);
        let until = self.now + lasts;
        let what = ["does not reach the API server", "reads late", "has stuck watches"][usize::try_from(kind).unwrap_or(0)];
        self.tell(|| format!("*   operator {operator} {what} for {lasts} ms"));
        let operator_ = &mut self.operators[operator];
        match kind {
            0 => operator_.cut_off = true,
            1 => operator_.reads_late = true,
            _ => operator_.watches_stuck = until,
        }
        self.after(lasts, Event::Mend(Mend::Api(operator)));
    }

    /// A fault ends.
    pub fn mend(&mut self, mend: Mend) {
        match mend {
            Mend::Thaw(member) => {
                let ours = self.member_mut(member);
                ours.sidecar_frozen = false;
                if let Some(mysqld) = &mut ours.mysqld {
                    mysqld.frozen = false;
                }
                // Sockets keep their order.
                for event in std::mem::take(&mut self.member_mut(member).inbox) {
                    self.arrive(event);
                }
            }
            Mend::Node(member) => {
                let Some(pod) = self.member_mut(member).pod.as_mut().filter(|pod| pod.node_down) else { return };
                pod.node_down = false;
                let pod = pod.uid;
                let takes = self.takes(500);
                self.after(takes, Event::SidecarStart { member, pod });
                self.connections_end(member);
                self.kubernetes_changed();
            }
            Mend::Wire(one, other) => self.network.set(one, other, false),
            Mend::Island(member) => self.network.isolate(Node::Member(member), false),
            Mend::Operator(operator) => {
                self.operators[operator].frozen = false;
                for event in std::mem::take(&mut self.operators[operator].inbox) {
                    self.arrive(event);
                }
            }
            Mend::Api(operator) => {
                let operator_ = &mut self.operators[operator];
                (operator_.cut_off, operator_.reads_late, operator_.watches_stuck) = (false, false, 0);
                self.kubernetes_changed();
                self.wake(operator, 10);
            }
            Mend::Slow(member) => self.member_mut(member).slowness = 2,
        }
    }
}
