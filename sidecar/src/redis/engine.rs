//! Redis' answers to the shell.

use std::collections::BTreeSet;
use std::path::Path;

use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, Data, Part, Problem, ProblemCode, Process, Role, State};
use tokio::sync::watch;

use super::standalone::By;
use super::{Config, converge, identity};
use crate::discovery::Discovery;
use crate::engine::{Engine, Gauge, Missed, Posts, float};

/// Port name of the Service, which SRV records are made of.
const SERVICE_PORT: &str = "redis";

/// Redis or Valkey.
#[derive(Clone, Debug)]
pub struct Redis {
    config: Config,
    /// Counts how often somebody waits for the database to end.
    leaving: watch::Sender<u64>,
}

impl Redis {
    /// A member that is told this.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self { config, leaving: watch::Sender::new(0) }
    }
}

impl Engine for Redis {
    type Assignment = Assignment;
    type State = State;
    const NAME: &'static str = "redis";

    fn member(&self) -> &str {
        &self.config.member
    }

    fn ordinal(&self) -> u32 {
        self.config.ordinal
    }

    fn volume(&self) -> &Path {
        &self.config.data_dir
    }

    fn certificates(&self) -> Option<&Path> {
        self.config.tls_dir.as_deref()
    }

    fn first_state(&self) -> State {
        self.config.first_state()
    }

    async fn obey(self, posts: Posts<Self>) -> anyhow::Result<()> {
        super::run(self.config, posts, self.leaving.subscribe()).await
    }

    async fn stand_alone(self, state: watch::Sender<State>) -> anyhow::Result<()> {
        let discovery = Discovery::new(&self.config.cluster, SERVICE_PORT, &self.config.member)?;
        super::standalone::run(self.config, By::Dns(discovery.into()), state, self.leaving.subscribe()).await
    }

    fn curtain_is_open(&self) -> bool {
        self.config.curtain_is_open()
    }

    fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
        converge::refuse(state, assignment)
    }

    fn owe(state: &mut State, order: &Order<Assignment>) {
        if !state.accepted.as_ref().is_some_and(|held| held.serves_as(order)) {
            state.take_up(Some(order));
        }
    }

    fn data(&self) -> Option<String> {
        identity::read(&self.config.private())
    }

    fn host(&self, ordinal: u32) -> String {
        let Config { cluster, namespace, .. } = &self.config;
        format!("{cluster}-{ordinal}.{cluster}.{namespace}.svc")
    }

    fn resumable(_: &Assignment) -> bool {
        true
    }

    fn acks(assignment: &Assignment) -> Option<u32> {
        assignment.acks()
    }

    fn electorate(assignment: &Assignment) -> Option<BTreeSet<u32>> {
        // An heir becomes primary before the next order comes.
        let leads = matches!(assignment.part, Part::Primary { .. } | Part::Replica { heir_of: Some(_), .. });
        leads.then(|| assignment.members.iter().copied().collect())
    }

    fn leave(&self) {
        self.leaving.send_modify(|count| *count += 1);
    }

    fn missed(state: &State) -> Missed {
        let down = state.process == Process::Down;
        let closed = down || matches!(state.role, Role::Replica | Role::Isolated);
        let part = state.accepted.as_ref().map(|accepted| (&accepted.assignment.part, accepted.assignment.members.len()));
        match part {
            Some((Part::Primary { .. }, members)) if members < 2 => Missed::ByNobody,
            // Who has handed over is missed by nobody, though its order still says that it leads.
            Some((Part::Primary { yield_to: Some(_), .. }, _)) if state.role == Role::Replica => Missed::ByNobody,
            // A closed one may be about to open.
            Some((Part::Primary { .. }, _)) if !down && !state.fenced => Missed::ByClients,
            Some((Part::Isolated, _)) if closed && !down => Missed::ByMembers,
            // It is about to stand still, and then it is known where it ended.
            Some((Part::Replica { heir_of: None, .. }, _)) if state.role == Role::Replica => Missed::ByMembers,
            _ if closed => Missed::ByNobody,
            _ => Missed::ByClients,
        }
    }

    fn unready(state: &State) -> Option<String> {
        if state.ready {
            return None;
        }
        let problem = state.problem.as_ref().map(|problem| problem.message.clone());
        Some(problem.unwrap_or_else(|| format!("data {:?}, process {:?}, role {:?}", state.data, state.process, state.role)))
    }

    fn blame_credentials(state: &mut State, message: &str) {
        state.problem.get_or_insert_with(|| Problem { code: ProblemCode::Credentials, message: message.into() });
    }

    fn gauges(state: &State) -> Vec<Gauge> {
        let mut gauges = vec![
            Gauge::flag("process_up", "Whether the database answers.", state.process == Process::Running),
            Gauge::flag("ready", "Whether the readiness probe passes.", state.ready),
            Gauge::flag("data_present", "Whether it holds data.", state.data == Data::Present),
            Gauge::flag("problem", "Whether something is wrong that a person may have to mend.", state.problem.is_some()),
            Gauge::flag("fenced", "Whether a primary has closed itself, out of reach of everybody.", state.fenced),
        ];
        let roles = [("primary", Role::Primary), ("replica", Role::Replica), ("isolated", Role::Isolated), ("unknown", Role::Unknown)];
        gauges.extend(roles.map(|(name, role)| Gauge {
            label: Some(("role", name)),
            ..Gauge::flag("role", "1 for the role that the database has now.", state.role == role)
        }));
        if let Some(accepted) = &state.accepted {
            gauges.push(Gauge::flag("converged", "Whether all of the last order holds.", accepted.converged));
        }
        if let Data::Syncing { copied, total } = &state.data {
            gauges.push(Gauge::new("sync_copied_bytes", "Bytes copied so far.", float(*copied)));
            gauges.push(Gauge::new("sync_total_bytes", "Bytes to copy, when known.", float(*total)));
        }
        if let Some(position) = &state.position {
            gauges.push(Gauge::new("replication_offset_bytes", "How many bytes of its history it holds.", float(position.offset)));
        }
        if let Some(replication) = &state.replication {
            gauges.push(Gauge::flag("replication_connected", "Whether it is connected to its primary.", replication.connected));
            if let Some(lag) = replication.lag_seconds {
                gauges.push(Gauge::new("replication_lag_seconds", "Since it last heard of its primary.", lag));
            }
        }
        gauges.push(Gauge::new("replicas", "Replicas that follow it.", float(state.replicas.len() as u64)));
        gauges
    }
}
