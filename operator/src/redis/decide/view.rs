//! Questions about what was seen, asked by every room of `decide`.

use crds::redis::{AckMember, Epoch, Persistence, RedisReplicationStatus};
use jiff::Timestamp;
use sidecar_protocol::redis::{
    Accepted, Ancestor, Assignment, Data, Lineage, Part, Peer, Position, ProblemCode, Process, ReplId, Role, State, User,
};

use crate::redis::observed::{Member, Observed, Seen};
use crate::redis::validate::Desired;

/// A replica that has heard nothing of its primary for so long has lost it, in seconds: three pings.
const LINK_SECONDS: f64 = 3.0;

/// The inputs of a decision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the user wants.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was claimed.
    pub status: &'a RedisReplicationStatus,
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

    /// Its database answers.
    pub fn runs(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.process == Process::Running)
    }

    /// The order of the current term that it accepted.
    pub fn accepted(&self, ordinal: u32) -> Option<&'a Accepted> {
        self.state(ordinal)?.accepted.as_ref().filter(|accepted| accepted.term == self.status.term)
    }

    /// The order of the last record that it accepted: what it says was true after that was recorded, and an older order that is late does
    /// not change it.
    pub fn accepted_since(&self, ordinal: u32) -> Option<&'a Accepted> {
        self.accepted(ordinal).filter(|accepted| accepted.claim == self.status.claims)
    }

    /// Where it is; `None` while it does not say, and of one that holds nothing.
    pub fn position(&self, ordinal: u32) -> Option<&'a Position> {
        self.state(ordinal)?.position.as_ref()
    }

    /// It holds a data set, by its own words.
    pub fn has_data(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.data == Data::Present)
    }

    /// It holds nothing, and says so: certain, not unknown.
    pub fn is_empty(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.data == Data::Empty)
    }

    /// It reads its own files, not a copy: it was restarted, and follows nobody yet.
    pub fn loads(&self, ordinal: u32) -> bool {
        self.loading(ordinal).is_some()
    }

    /// The same, in words: in tens of percent, since each figure is a write of the status.
    pub fn loading(&self, ordinal: u32) -> Option<String> {
        match self.state(ordinal).filter(|state| state.role != Role::Replica)?.data {
            Data::Loading { percent } => Some(format!("loads its data ({}%)", percent / 10 * 10)),
            _ => None,
        }
    }

    /// It holds other data than the ones that were recorded to lead: certain, not unknown. A volume or a process that is new has others, even
    /// when there are none yet.
    pub fn lost_its_data(&self, ordinal: u32) -> bool {
        let recorded = self.status.primary_identity.as_ref();
        let mine = self.state(ordinal).and_then(|state| state.identity.as_ref());
        recorded.zip(mine).is_some_and(|(recorded, mine)| recorded != mine)
    }

    /// It accepts writes under an order of the current term.
    pub fn is_open_primary(&self, ordinal: u32) -> bool {
        let ordered = self.accepted(ordinal).is_some_and(|accepted| matches!(accepted.assignment.part, Part::Primary { .. }));
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

    /// A person consents to give up these very data of it.
    pub fn consented_discard(&self, ordinal: u32) -> Option<String> {
        let (member, identity) = self.observed.asked.reclone.as_ref()?;
        let mine = self.state(ordinal)?.identity.as_ref()?;
        (*member == self.desired.member_name(ordinal) && identity == mine).then(|| identity.clone())
    }

    /// It still hears of `source`.
    pub fn receives_from(&self, ordinal: u32, source: u32) -> bool {
        let link = self.state(ordinal).and_then(|state| state.replication.as_ref());
        link.is_some_and(|link| {
            link.source == self.desired.host(source) && link.connected && link.lag_seconds.is_none_or(|seconds| seconds < LINK_SECONDS)
        })
    }

    /// It follows `source` with a complete copy.
    pub fn follows(&self, ordinal: u32, source: u32) -> bool {
        let link =
            |state: &State| state.replication.as_ref().is_some_and(|link| link.connected && link.source == self.desired.host(source));
        self.state(ordinal).is_some_and(|state| state.role == Role::Replica && state.data == Data::Present && link(state))
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
        self.runs(ordinal)
            && self.accepted_since(ordinal).is_some_and(|accepted| accepted.converged && accepted.assignment.part == Part::Isolated)
    }

    /// Its pod is ready and is not going away.
    pub fn pod_ready(&self, ordinal: u32) -> bool {
        self.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| pod.ready && !pod.deleting)
    }

    /// It does its part: ready, and by its own words with data and no problem that keeps it from that.
    pub fn serves(&self, ordinal: u32) -> bool {
        let fit = |state: &State| state.ready && state.problem.as_ref().is_none_or(|problem| problem.code == ProblemCode::AccountRefused);
        self.pod_ready(ordinal) && self.state(ordinal).is_some_and(fit)
    }

    /// What keeps it from serving, in words.
    pub fn member_problem(&self, ordinal: u32) -> Option<String> {
        let member = self.member(ordinal)?;
        if let Some(trouble) = member.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
            return Some(format!("{}: {}", trouble.reason, trouble.message));
        }
        match self.state(ordinal) {
            Some(State { problem: Some(problem), .. }) => Some(problem.message.clone()),
            Some(State { process: Process::Down, .. }) => Some("its database is not up".to_owned()),
            Some(State { data: Data::Loading { .. }, .. }) => Some("it loads its data".to_owned()),
            Some(State { data: Data::Syncing { .. }, .. }) => Some("it takes a full copy".to_owned()),
            Some(State { data: Data::Empty, .. }) => Some("it holds nothing yet".to_owned()),
            Some(_) => None,
            None if member.pod.is_none() => Some("it has no pod".to_owned()),
            None => Some("its sidecar does not answer".to_owned()),
        }
    }

    /// As one connects to it.
    pub fn peer(&self, ordinal: u32) -> Peer {
        Peer { member: self.desired.member_name(ordinal), host: self.desired.host(ordinal) }
    }

    /// The order to be `part`.
    pub fn order(&self, part: Part) -> Assignment {
        let users = self.desired.own.users.iter().map(|user| User { name: user.name.clone(), rules: user.rules.clone() });
        Assignment { part, members: self.everybody(), users: users.collect() }
    }

    /// The recorded past of the primary.
    pub fn lineage(&self) -> Lineage {
        let ancestor = |epoch: &Epoch| Ancestor {
            replid: ReplId(epoch.replid.clone()),
            // What is not a number was not written by us: nobody is held to have more than that.
            end: epoch.end.as_ref().map(|end| end.parse().unwrap_or(0)),
        };
        Lineage(self.status.history.iter().map(ancestor).collect())
    }

    /// The member as it would be recorded now; `None` while it does not say which data it has.
    pub fn joins(&self, ordinal: u32) -> Option<AckMember> {
        let identity = self.state(ordinal)?.identity.clone()?;
        Some(AckMember { name: self.desired.member_name(ordinal), identity })
    }

    /// What a process holds is on its disk before it says that it is done.
    pub fn writes_ahead(&self) -> bool {
        self.desired.own.persistence == Persistence::AppendOnly
    }

    /// Every ordinal that is, or will be, a member.
    pub fn everybody(&self) -> Vec<u32> {
        let seen = self.observed.members.keys().copied();
        let mut all: Vec<u32> = seen.chain(0..self.desired.replicas).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// What only a person can mend: reason and message of the first member that is stuck.
    pub fn stall(&self) -> Option<(String, String)> {
        self.observed.members.iter().find_map(|(ordinal, member)| {
            let name = &member.name;
            if let Some(trouble) = member.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
                return Some((trouble.reason.clone(), format!("{name}: {}", trouble.message)));
            }
            let problem = self.state(*ordinal)?.problem.as_ref()?;
            let (reason, more) = match problem.code {
                ProblemCode::ConfigRejected => ("ConfigRejected", String::new()),
                ProblemCode::Storage => ("Storage", String::new()),
                ProblemCode::Credentials => ("Credentials", String::new()),
                ProblemCode::AccountRefused => ("AccountRefused", String::new()),
                ProblemCode::WrongEngine => ("WrongEngine", String::new()),
                ProblemCode::OtherHistory => ("OtherHistory", self.discard_words(*ordinal)),
                _ => return None,
            };
            Some((reason.to_owned(), format!("{name}: {}{more}", problem.message)))
        })
    }

    /// How a person consents to give up the data of this member.
    fn discard_words(&self, ordinal: u32) -> String {
        let Some(joins) = self.joins(ordinal) else { return String::new() };
        let (name, asked) = (&self.desired.name, crds::annotations::RECLONE);
        format!(
            "; to keep them in a file on its volume and copy the primary's: kubectl annotate --overwrite rr {name} {asked}={}@{}",
            joins.name, joins.identity
        )
    }

    /// Replicas of the StatefulSet when nothing is released: as many as there are or are wanted, and the primary among them.
    pub fn replicas_without_scaling_down(&self) -> u32 {
        let now = self.observed.stateful_set.as_ref().map_or(0, |set| set.replicas);
        let with_primary = self.primary().filter(|_| self.status.initialised).map_or(0, |primary| primary + 1);
        now.max(self.desired.replicas).max(with_primary)
    }
}

/// A lineage as it is written to status.
pub fn epochs(lineage: Lineage) -> Vec<Epoch> {
    lineage.0.into_iter().map(|Ancestor { replid, end }| Epoch { replid: replid.0, end: end.map(|end| end.to_string()) }).collect()
}
