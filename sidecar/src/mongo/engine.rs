//! MongoDB's answers to the shell.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Context;
use sidecar_protocol::Order;
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Answer, Assignment, Data, Problem, ProblemCode, Process, State};
use tokio::sync::watch;

use super::standalone::{self, Source};
use super::{Config, run};
use crate::engine::{Engine, Gauge, Missed, Posts};

/// What the data directory of a volume is called: mongod fills it anew in place, and terms are kept beside it.
const DATA: &str = "volume";

/// MongoDB.
#[derive(Clone, Debug)]
pub struct Mongo {
    /// What the member is told.
    pub config: Config,
    /// How it finds the others on its own.
    pub source: Option<Source>,
    /// Somebody waits for mongod to end.
    leaving: watch::Sender<bool>,
}

// === impl Mongo ===

impl Mongo {
    /// A member under an operator.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, source: None, leaving: watch::Sender::new(false) }
    }

    /// A member on its own, that finds the others by `source`.
    #[must_use]
    pub fn alone(config: Config, source: Source) -> Self {
        Self { source: Some(source), ..Self::new(config) }
    }
}

impl Engine for Mongo {
    type Assignment = Assignment;
    type State = State;
    const NAME: &'static str = "mongo";

    fn member(&self) -> &str {
        &self.config.member
    }

    fn ordinal(&self) -> u32 {
        self.config.ordinal
    }

    fn volume(&self) -> &Path {
        self.config.layout.as_ref().map_or(Path::new("/"), |layout| &layout.data_dir)
    }

    fn certificates(&self) -> Option<&Path> {
        self.config.tls.as_ref()?.directory.as_deref()
    }

    fn first_state(&self) -> State {
        self.config.first_state()
    }

    async fn obey(self, posts: Posts<Self>) -> anyhow::Result<()> {
        run(self.config, posts, self.leaving).await
    }

    async fn stand_alone(self, state: watch::Sender<State>) -> anyhow::Result<()> {
        let source = self.source.context("a member on its own needs a way to find the others")?;
        let pace = source.pace;
        standalone::run(self.config, source, pace, state, self.leaving).await
    }

    fn curtain_is_open(&self) -> bool {
        self.config.curtain_is_open()
    }

    fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
        match (assignment, &state.answer) {
            (Assignment::Initiate { desired, .. }, Answer::NotInSet) if desired.set_id.is_some() => {
                Some("a set that exists is not initiated: the order names its id".into())
            }
            _ => None,
        }
    }

    fn owe(state: &mut State, order: &Order<Assignment>) {
        if !state.accepted.as_ref().is_some_and(|held| held.is(order)) {
            state.take_up(Some(order));
        }
    }

    fn data(&self) -> Option<String> {
        (self.config.data() == Data::Present).then(|| DATA.to_owned())
    }

    fn host(&self, ordinal: u32) -> String {
        // Ours, with another ordinal in the pod's name.
        let name = self.config.host.split(':').next().unwrap_or_default();
        let stem = self.config.member.rsplit_once('-').map_or("", |(stem, _)| stem);
        let domain = name.split_once('.').map_or(String::new(), |(_, domain)| format!(".{domain}"));
        format!("{stem}-{ordinal}{domain}")
    }

    fn resumable(assignment: &Assignment) -> bool {
        !matches!(assignment, Assignment::Initiate { .. })
    }

    fn acks(_: &Assignment) -> Option<u32> {
        // mongod counts acknowledgements itself, by each write's concern.
        None
    }

    fn electorate(_: &Assignment) -> Option<BTreeSet<u32>> {
        // mongod's own majority keeps its primary open.
        None
    }

    fn leave(&self) {
        self.leaving.send_if_modified(|leaving| !std::mem::replace(leaving, true));
    }

    fn missed(state: &State) -> Missed {
        let heirs = state
            .config
            .as_ref()
            .is_some_and(|set| set.members.iter().any(|member| member.priority > 0.0 && state.me.as_ref() != Some(&member.host)));
        if heirs && (state.writable || state.member == MemberState::Primary) { Missed::ByClients } else { Missed::ByNobody }
    }

    fn unready(state: &State) -> Option<String> {
        if state.ready {
            return None;
        }
        let problem = state.problem.as_ref().map(|problem| problem.message.clone());
        let said = || state.said.as_ref().map(|said| said.next.clone());
        Some(problem.or_else(said).unwrap_or_else(|| format!("process {:?}, {}", state.process, state.member)))
    }

    fn blame_credentials(state: &mut State, message: &str) {
        state.problem.get_or_insert_with(|| Problem::new(ProblemCode::Credentials, message));
    }

    fn gauges(state: &State) -> Vec<Gauge> {
        let mut gauges = vec![
            Gauge::flag("process_up", "Whether mongod answers.", state.process == Process::Running),
            Gauge::flag("ready", "Whether the readiness probe passes.", state.ready),
            Gauge::flag("data_present", "Whether there is a data directory.", state.data == Data::Present),
            Gauge::flag("problem", "Whether something is wrong that a person may have to mend.", state.problem.is_some()),
            Gauge::flag("writable", "Whether this member takes writes.", state.writable),
        ];
        let states = [
            ("primary", MemberState::Primary),
            ("secondary", MemberState::Secondary),
            ("arbiter", MemberState::Arbiter),
            ("startup2", MemberState::Startup2),
            ("recovering", MemberState::Recovering),
            ("rollback", MemberState::Rollback),
            ("removed", MemberState::Removed),
            ("unknown", MemberState::Unknown),
        ];
        gauges.extend(states.map(|(name, member)| Gauge {
            label: Some(("state", name)),
            ..Gauge::flag("member_state", "1 for what mongod does now.", state.member == member)
        }));
        if let Some(accepted) = &state.accepted {
            gauges.push(Gauge::flag("converged", "Whether all of the last order holds.", accepted.converged));
        }
        if let Some(said) = &state.said {
            gauges.push(Gauge::flag("set_settled", "Whether the set is as desired.", said.settled));
        }
        if let Some(lag) = state.lag_seconds {
            gauges.push(Gauge::new("replication_lag_seconds", "How far it is behind the primary.", f64::from(lag)));
        }
        if let Some(config) = &state.config {
            let voters = u32::try_from(config.members.iter().filter(|member| member.votes).count()).unwrap_or(u32::MAX);
            gauges.push(Gauge::new(
                "set_members",
                "Members of the set.",
                f64::from(u32::try_from(config.members.len()).unwrap_or(u32::MAX)),
            ));
            gauges.push(Gauge::new("set_voters", "Members that vote.", f64::from(voters)));
        }
        gauges
    }
}

#[cfg(test)]
mod tests {
    use super::super::conf::tests::config;
    use super::*;

    #[test]
    fn another_members_host_is_ours_with_its_ordinal() {
        assert_eq!(Mongo::new(config()).host(0), "shop-0.shop.market.svc");
    }
}
