//! Questions about what was seen, asked by every room of `decide`.

use crds::mongo::MongoReplicaSetStatus;
use jiff::Timestamp;
use sidecar_protocol::mongo::config::{Config, Member as Seat};
use sidecar_protocol::mongo::state::Process;
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Answer, ProblemCode, State};

use crate::mongo::observed::{Member, Observed};
use crate::mongo::validate::Desired;

/// The inputs of a decision.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// What the user wants.
    pub desired: &'a Desired,
    /// What was seen.
    pub observed: &'a Observed,
    /// What was claimed.
    pub status: &'a MongoReplicaSetStatus,
    /// Now.
    pub now: Timestamp,
}

impl<'a> View<'a> {
    /// The member with this ordinal.
    pub fn member(&self, ordinal: u32) -> Option<&'a Member> {
        self.observed.members.get(&ordinal)
    }

    /// Its own recent words.
    pub fn state(&self, ordinal: u32) -> Option<&'a State> {
        Some(&self.member(ordinal)?.report.answered()?.state)
    }

    /// Everybody who answers.
    pub fn states(&self) -> impl Iterator<Item = (u32, &'a State)> + use<'a> {
        self.observed.members.iter().filter_map(|(ordinal, member)| Some((*ordinal, &member.report.answered()?.state)))
    }

    /// Ordinal of the recorded primary.
    pub fn primary(&self) -> Option<u32> {
        self.status.primary.as_deref().and_then(|name| self.desired.ordinal(name))
    }

    /// Who takes writes, by its own word and by the latest election. One of an election before the recorded one does not know yet that it
    /// is over.
    pub fn leader(&self) -> Option<u32> {
        let leads =
            |state: &State| state.member == MemberState::Primary && state.writable && state.election_term >= self.status.election_term;
        let leading = self.states().filter(|(_, state)| leads(state) && self.is_ours(state));
        leading.max_by_key(|(_, state)| state.election_term).map(|(ordinal, _)| ordinal)
    }

    /// It is in our set, as far as that is known.
    fn is_ours(&self, state: &State) -> bool {
        match (&state.answer, &self.status.replica_set_id) {
            (Answer::InSet(id), Some(pinned)) => id.hex == *pinned,
            _ => true,
        }
    }

    /// The configuration of the set that is known to be the latest.
    pub fn config(&self) -> Option<&'a Config> {
        let known = self.states().filter(|(_, state)| self.is_ours(state)).filter_map(|(_, state)| state.config.as_ref());
        known.max_by_key(|config| (config.term, config.version))
    }

    /// Its seat in that configuration.
    pub fn seat(&self, ordinal: u32) -> Option<&'a Seat> {
        let host = self.desired.set_host(ordinal);
        self.config()?.members.iter().find(|seat| seat.host == host)
    }

    /// A person keeps it from leading.
    pub fn is_fenced(&self, ordinal: u32) -> bool {
        self.observed.asked.fenced.contains(&self.desired.member_name(ordinal))
    }

    /// Where it runs, or ran last: a pod that is away for a moment must not move votes.
    pub fn zone(&self, ordinal: u32) -> Option<String> {
        let pod = self.member(ordinal).and_then(|member| member.pod.as_ref());
        let found = pod.and_then(|pod| pod.labels.get(&self.desired.own.zones.label).cloned());
        let name = self.desired.member_name(ordinal);
        found.or_else(|| self.status.members.iter().find(|row| row.name == name)?.zone.clone())
    }

    /// Its pod is ready and is not going away.
    fn pod_ready(&self, ordinal: u32) -> bool {
        self.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| pod.ready && !pod.deleting)
    }

    /// It does its part: ready, and in good health by its own words and by those of who leads.
    pub fn serves(&self, ordinal: u32) -> bool {
        let well = |state: &State| state.ready && state.problem.is_none() && state.member.is_well();
        self.pod_ready(ordinal) && self.state(ordinal).is_some_and(well) && !self.is_parted(ordinal)
    }

    /// Somebody leads, and the two know nothing of each other. A member that was started with another key, or is cut off from the others, is
    /// a secondary by its own words.
    pub fn is_parted(&self, ordinal: u32) -> bool {
        let Some(leader) = self.leader().filter(|leader| *leader != ordinal) else { return false };
        let hears = self.state(ordinal).is_some_and(|state| state.primary.is_some());
        !hears || self.is_heard(leader, ordinal) == Some(false)
    }

    /// Whether `leader` hears of a member, by its own words.
    pub fn is_heard(&self, leader: u32, ordinal: u32) -> Option<bool> {
        let status = self.state(leader)?.status.as_ref()?;
        Some(status.state(self.seat(ordinal)?.id).is_reachable())
    }

    /// It could lead at once: it follows, votes, may lead, and nobody wants it away.
    pub fn can_lead(&self, ordinal: u32) -> bool {
        let stays = self.member(ordinal).and_then(|member| member.pod.as_ref()).is_some_and(|pod| !pod.deleting);
        stays
            && !self.is_fenced(ordinal)
            && ordinal < self.desired.replicas
            && self.seat(ordinal).is_some_and(|seat| seat.votes && seat.priority > 0.0)
            && self.state(ordinal).is_some_and(|state| state.member == MemberState::Secondary && self.is_ours(state))
    }

    /// It has won its election, and takes writes in a moment: whoever stood now would depose it.
    pub fn is_elected(&self, ordinal: u32) -> bool {
        self.state(ordinal).is_some_and(|state| state.member == MemberState::Primary && self.is_ours(state))
    }

    /// How long the set has not been ready by its own conditions, in seconds; 0 while it is.
    pub fn unavailable_seconds(&self) -> i64 {
        let ready = self.status.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "False");
        ready.map_or(0, |ready| self.now.as_second() - ready.last_transition_time.0.as_second())
    }

    /// How long ago a recorded moment was, in seconds; for ever when it cannot be read.
    pub fn seconds_since(&self, moment: &str) -> i64 {
        moment.parse::<Timestamp>().map_or(i64::MAX, |since| self.now.as_second() - since.as_second())
    }

    /// What keeps it from serving, in words.
    pub fn member_problem(&self, ordinal: u32) -> Option<String> {
        let Some(member) = self.member(ordinal) else { return Some("it has no pod yet".to_owned()) };
        if let Some(trouble) = member.pod.as_ref().and_then(|pod| pod.trouble.as_ref()) {
            return Some(format!("{}: {}", trouble.reason, trouble.message));
        }
        match self.state(ordinal) {
            Some(State { problem: Some(problem), .. }) => Some(problem.message.clone()),
            Some(State { process: Process::Down, .. }) => Some("mongod is not up".to_owned()),
            Some(State { process: Process::Starting, .. }) => Some("mongod starts".to_owned()),
            Some(State { process: Process::Silent, .. }) => Some("mongod does not answer".to_owned()),
            Some(State { answer: Answer::NotInSet, .. }) => Some("it is not in the set yet".to_owned()),
            Some(State { member: MemberState::Startup2, .. }) => Some("it copies the data".to_owned()),
            Some(State { member, .. }) if !member.is_well() => Some(format!("it is {member}")),
            Some(_) if self.is_parted(ordinal) => Some("it and who leads do not hear of each other".to_owned()),
            Some(_) => None,
            None if member.pod.is_none() => Some("it has no pod".to_owned()),
            None => Some("its sidecar does not answer".to_owned()),
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
                ProblemCode::KeyRefused => "KeyRefused",
                ProblemCode::OtherSet => "OtherSet",
                _ => return None,
            };
            Some((reason.to_owned(), format!("{name}: {}", problem.message)))
        })
    }
}
