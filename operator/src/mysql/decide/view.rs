//! Questions about what was seen, asked by every room of `decide`.

use crds::mysql::{AckMember, MySQLClusterStatus};
use jiff::Timestamp;
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Accepted, Assignment, Data, Peer, ProblemCode, Process, Role, State};

use crate::mysql::observed::{Member, Observed, Seen};
use crate::mysql::validate::Desired;

/// A donor that has been silent for longer is not waited for, in seconds.
const PATIENCE_SECONDS: i64 = 20;

/// The inputs of a decision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the user wants.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was claimed.
    pub status: &'a MySQLClusterStatus,
    /// Now.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// Ordinal of the recorded primary.
    pub fn primary(&self) -> Option<u32> {
        self.status.primary.as_deref().and_then(|name| self.ordinal(name))
    }

    /// Ordinal in a pod name of this cluster.
    pub fn ordinal(&self, name: &str) -> Option<u32> {
        self.desired.ordinal(name)
    }

    /// The member with this ordinal.
    pub fn member(&self, ordinal: u32) -> Option<&'a Member> {
        self.observed.members.get(&ordinal)
    }

    /// Its own recent words. A sidecar that has not seen our term yet still tells the truth about its database.
    pub fn state(&self, ordinal: u32) -> Option<&'a State> {
        Some(&self.member(ordinal)?.report.answered()?.state)
    }

    /// The order of the current term that it accepted.
    pub fn accepted(&self, ordinal: u32) -> Option<&'a Accepted> {
        self.state(ordinal)?.accepted.as_ref().filter(|accepted| accepted.term == self.status.term)
    }

    /// It says that it holds no complete data directory: certain, not unknown.
    pub fn lost_its_data(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.data != Data::Present)
    }

    /// The order of the last record that it accepted: what it says was true after that was recorded, and an older order that is late does
    /// not change it.
    pub fn accepted_since(&self, ordinal: u32) -> Option<&'a Accepted> {
        self.accepted(ordinal).filter(|accepted| accepted.claim == self.status.claims)
    }

    /// For how many acknowledgements it waits until the next record (I4).
    pub fn promises(&self, ordinal: u32) -> Option<u32> {
        self.accepted_since(ordinal)?.assignment.acks()
    }

    /// It holds a complete data directory, by its own words.
    pub fn has_data(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.data == Data::Present)
    }

    /// Everything it holds, received or executed.
    pub fn held(&self, ordinal: u32) -> Option<GtidSet> {
        Some(self.state(ordinal)?.position.as_ref()?.held())
    }

    /// Everything it executed.
    pub fn executed(&self, ordinal: u32) -> Option<&'a GtidSet> {
        Some(&self.state(ordinal)?.position.as_ref()?.executed)
    }

    /// It accepts writes under an order of the current term.
    pub fn is_open_primary(&self, ordinal: u32) -> bool {
        let ordered = self.accepted(ordinal).is_some_and(|accepted| matches!(accepted.assignment, Assignment::Primary { .. }));
        ordered && self.state(ordinal).is_some_and(|state| state.role == Role::Primary)
    }

    /// `NAME-primary` routes to this very pod.
    pub fn is_routed(&self, ordinal: u32) -> bool {
        let pod = self.member(ordinal).and_then(|member| member.pod.as_ref());
        self.observed
            .route
            .as_ref()
            .zip(pod)
            .is_some_and(|((name, uid), pod)| *name == self.desired.member_name(ordinal) && *uid == pod.uid)
    }

    /// A person keeps it from serving.
    pub fn is_fenced(&self, ordinal: u32) -> bool {
        self.observed.asked.fenced.contains(&self.desired.member_name(ordinal))
    }

    /// Its receiver is connected to `source`.
    pub fn receives_from(&self, ordinal: u32, source: u32) -> bool {
        let channel = self.state(ordinal).and_then(|state| state.replication.as_ref());
        channel.is_some_and(|channel| channel.receiving && channel.source == self.desired.host(source))
    }

    /// What it committed itself, whenever that was.
    fn own(&self, ordinal: u32) -> Option<GtidSet> {
        self.state(ordinal)?.own()
    }

    /// What it committed itself as a replica (I6): since it joined the ack set, which is recorded and so known of a lost primary too, or
    /// at any time, when the primary says that it does not hold it.
    fn strays(&self, ordinal: u32, primary: u32) -> GtidSet {
        let Some(own) = self.own(ordinal) else { return GtidSet::default() };
        let name = self.desired.member_name(ordinal);
        let joined = self.status.ack_set.iter().find(|member| member.name == name);
        let since = joined.and_then(|member| Some(own.minus(&member.committed.as_ref()?.parse().ok()?)));
        // Held, not executed: one that has just been promoted may still apply what it received.
        let lacking = self.held(primary).map(|history| own.minus(&history));
        since.unwrap_or_default().union(&lacking.unwrap_or_default())
    }

    /// What it holds that some member committed as a replica: itself, or one that it still followed.
    fn foreign(&self, ordinal: u32, primary: u32) -> GtidSet {
        let all = self.observed.members.keys().map(|member| self.strays(*member, primary));
        let all = all.filter(|strays| !strays.is_empty()).fold(GtidSet::default(), |all, strays| all.union(&strays));
        self.held(ordinal).map_or_else(GtidSet::default, |held| all.minus(&all.minus(&held)))
    }

    /// It holds what the primary does not, and what nobody was told is done.
    pub fn is_errant(&self, ordinal: u32, primary: u32) -> bool {
        let problem = self.state(ordinal).and_then(|state| state.problem.as_ref());
        problem.is_some_and(|problem| problem.code == ProblemCode::Errant) || !self.foreign(ordinal, primary).is_empty()
    }

    /// What it holds, without what members committed as replicas.
    pub fn due(&self, ordinal: u32, primary: u32) -> Option<GtidSet> {
        Some(self.held(ordinal)?.minus(&self.foreign(ordinal, primary)))
    }

    /// It joins the ack set, as it is now; `None` while it does not say which data directory it has.
    pub fn joins(&self, ordinal: u32) -> Option<AckMember> {
        let server_uuid = self.state(ordinal)?.server_uuid.clone()?;
        let committed = self.own(ordinal).map(|own| own.to_string());
        Some(AckMember { name: self.desired.member_name(ordinal), server_uuid, committed })
    }

    /// Its sidecar answers, and says all there is to say of its data.
    pub fn speaks(&self, ordinal: u32) -> bool {
        self.lost_its_data(ordinal) || self.held(ordinal).is_some()
    }

    /// How long it has said nothing, in seconds; `None` while it answers.
    pub fn silent_seconds(&self, ordinal: u32) -> Option<i64> {
        match self.member(ordinal)?.report {
            Seen::Silent { since } => Some(self.now.as_second() - since.as_second()),
            Seen::Answered(_) => None,
        }
    }

    /// How long the cluster has not been ready by its own conditions, in seconds; 0 while it is.
    pub fn unavailable_seconds(&self) -> i64 {
        let ready = self.status.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "False");
        ready.map_or(0, |ready| self.now.as_second() - ready.last_transition_time.0.as_second())
    }

    /// It stopped receiving and accepting under an order of the last record, so its position stands still (I2).
    pub fn is_isolated(&self, ordinal: u32) -> bool {
        self.accepted_since(ordinal).is_some_and(|accepted| accepted.converged && accepted.assignment == Assignment::Isolated)
    }

    /// It follows `source` without an error.
    pub fn follows(&self, ordinal: u32, source: u32) -> bool {
        self.state(ordinal).is_some_and(|state| {
            state.role == Role::Replica
                && state.problem.is_none()
                && state.replication.as_ref().is_some_and(|channel| {
                    channel.source == self.desired.host(source) && channel.receiving && channel.applying && channel.error.is_none()
                })
        })
    }

    /// Its pod is ready and is not going away.
    pub fn pod_ready(&self, ordinal: u32) -> bool {
        self.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| pod.ready && !pod.deleting)
    }

    /// It does its part: ready, and by its own words with data and no problem.
    pub fn serves(&self, ordinal: u32) -> bool {
        self.pod_ready(ordinal) && self.state(ordinal).is_some_and(|state| state.ready && state.problem.is_none())
    }

    /// What keeps it from serving, in words.
    pub fn member_problem(&self, ordinal: u32) -> Option<String> {
        let member = self.member(ordinal)?;
        if let Some(trouble) = member.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
            return Some(format!("{}: {}", trouble.reason, trouble.message));
        }
        match self.state(ordinal) {
            Some(State { problem: Some(problem), .. }) => Some(problem.message.clone()),
            Some(State { data: Data::Cloning { donor, .. }, .. }) => Some(format!("cloning from {donor}")),
            Some(State { data: Data::Empty, .. }) => Some("its volume is empty".to_owned()),
            Some(State { data: Data::Initialising, .. }) => Some("initialising".to_owned()),
            Some(State { process: Process::Down, .. }) => Some("mysqld is not up".to_owned()),
            Some(_) => None,
            None if member.pod.is_none() => Some("it has no pod".to_owned()),
            None => Some("its sidecar does not answer".to_owned()),
        }
    }

    /// As one connects to it.
    pub fn peer(&self, ordinal: u32) -> Peer {
        Peer { member: self.desired.member_name(ordinal), host: self.desired.host(ordinal) }
    }

    /// Every ordinal that is, or will be, a member.
    pub fn everybody(&self) -> Vec<u32> {
        let seen = self.observed.members.keys().copied();
        let mut all: Vec<u32> = seen.chain(0..self.desired.replicas).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Where `ordinal` clones from: the previous ordinal, then other healthy replicas, the primary last (I10: all of them hold data).
    /// Empty while the previous ordinal is itself on its way: waiting for it spares the primary.
    pub fn donors(&self, ordinal: u32, primary: u32) -> Vec<Peer> {
        if !self.lost_its_data(ordinal) {
            return Vec::new();
        }
        // A clone under way is left alone: other donors would only begin it anew, and its member goes to the next one by itself.
        if let Some(State { data: Data::Cloning { .. }, accepted: Some(Accepted { assignment, .. }), .. }) = self.state(ordinal)
            && let Assignment::Replica { donors, .. } = assignment
            && !donors.is_empty()
        {
            return donors.clone();
        }
        // A primary that is closed until somebody is filled gives too.
        let leads = |donor: u32| donor == primary && (self.is_open_primary(donor) || self.is_isolated(donor));
        let gives = |donor: u32| donor != ordinal && (self.follows(donor, primary) || leads(donor));
        let previous = ordinal.checked_sub(1);
        // Nobody waits for another while a closed primary waits for somebody to be filled.
        let in_haste = self.is_isolated(primary);
        if !in_haste && previous.is_some_and(|previous| !gives(previous) && self.is_on_its_way(previous)) {
            return Vec::new();
        }
        let others = self.observed.members.keys().copied().filter(|donor| Some(*donor) != previous && *donor != primary);
        let last = (previous != Some(primary)).then_some(primary);
        previous.into_iter().chain(others).chain(last).filter(|donor| gives(*donor)).map(|donor| self.peer(donor)).collect()
    }

    /// It has no known trouble, and has not been silent for long.
    fn is_on_its_way(&self, ordinal: u32) -> bool {
        let Some(member) = self.member(ordinal) else { return false };
        let pod_in_order = member.pod.as_ref().is_none_or(|pod| pod.trouble.is_none() && !pod.deleting);
        pod_in_order
            && match &member.report {
                Seen::Answered(report) => report.state.problem.is_none(),
                Seen::Silent { since } => self.now.as_second() - since.as_second() < PATIENCE_SECONDS,
            }
    }

    /// What only a person can mend: reason and message of the first member that is stuck.
    pub fn stall(&self) -> Option<(String, String)> {
        self.observed.members.values().find_map(|member| {
            let name = &member.name;
            if let Some(trouble) = member.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
                return Some((trouble.reason.clone(), format!("{name}: {}", trouble.message)));
            }
            let problem = member.report.answered()?.state.problem.as_ref()?;
            let reason = match problem.code {
                ProblemCode::ConfigRejected => "ConfigRejected",
                ProblemCode::Storage => "Storage",
                ProblemCode::Credentials => "Credentials",
                _ => return None,
            };
            Some((reason.to_owned(), format!("{name}: {}", problem.message)))
        })
    }

    /// Replicas of the StatefulSet when nothing is released: as many as there are or are wanted, and the primary among them.
    pub fn replicas_without_scaling_down(&self) -> u32 {
        let now = self.observed.stateful_set.as_ref().map_or(0, |set| set.replicas);
        let with_primary = self.primary().filter(|_| self.status.initialised).map_or(0, |primary| primary + 1);
        now.max(self.desired.replicas).max(with_primary)
    }
}
