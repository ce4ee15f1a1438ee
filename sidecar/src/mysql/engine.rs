//! MySQL's answers to the shell.

use std::collections::BTreeSet;
use std::path::Path;

use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Data, Problem, ProblemCode, Process, Role, State};
use tokio::sync::watch;

use super::{Config, converge};
use crate::discovery::Discovery;
use crate::engine::{Engine, Gauge, Missed, Posts, float};

/// Port name of the Service, which SRV records are made of.
const SERVICE_PORT: &str = "mysql";

/// MySQL.
#[derive(Clone, Debug)]
pub struct Mysql(pub Config);

impl Engine for Mysql {
    type Assignment = Assignment;
    type State = State;
    const NAME: &'static str = "mysql";

    fn member(&self) -> &str {
        &self.0.member
    }

    fn ordinal(&self) -> u32 {
        self.0.ordinal
    }

    fn volume(&self) -> &Path {
        &self.0.data_dir
    }

    fn certificates(&self) -> Option<&Path> {
        self.0.tls_dir.as_deref()
    }

    fn first_state(&self) -> State {
        self.0.first_state()
    }

    async fn obey(self, Posts { orders, state, tls_changed, guard }: Posts<Self>) -> anyhow::Result<()> {
        super::run(self.0, orders, state, tls_changed, guard).await
    }

    async fn stand_alone(self, state: watch::Sender<State>) -> anyhow::Result<()> {
        let discovery = Discovery::new(&self.0.cluster, SERVICE_PORT, &self.0.member)?;
        super::standalone::run(self.0, discovery, state).await
    }

    fn curtain_is_open(&self) -> bool {
        self.0.curtain_is_open()
    }

    fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
        converge::refuse(state, assignment)
    }

    fn owe(state: &mut State, order: &Order<Assignment>) {
        if !state.accepted.as_ref().is_some_and(|held| held.is(order)) {
            state.take_up(Some(order));
        }
    }

    fn data(&self) -> Option<String> {
        self.0.data_identity()
    }

    fn host(&self, ordinal: u32) -> String {
        let Config { cluster, namespace, .. } = &self.0;
        format!("{cluster}-{ordinal}.{cluster}.{namespace}.svc")
    }

    fn resumable(assignment: &Assignment) -> bool {
        !matches!(assignment, Assignment::Initialise)
    }

    fn acks(assignment: &Assignment) -> Option<u32> {
        assignment.acks()
    }

    fn electorate(assignment: &Assignment) -> Option<BTreeSet<u32>> {
        match assignment {
            Assignment::Primary { members, .. } => Some(members.iter().copied().collect()),
            _ => None,
        }
    }

    fn missed(state: &State) -> Missed {
        // What is not known to be closed may have clients whose commits wait: of a sidecar that has just begun, of a silent mysqld (I4).
        let down = state.process == Process::Down;
        let closed = down || matches!(state.role, Role::Replica | Role::Isolated);
        match state.accepted.as_ref().map(|accepted| &accepted.assignment) {
            Some(Assignment::Primary { members, .. }) if members.len() < 2 => Missed::ByNobody,
            // A closed one may be about to open.
            Some(Assignment::Primary { .. }) if !down && !state.fenced => Missed::ByClients,
            Some(Assignment::Isolated) if closed && !down => Missed::ByMembers,
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
            Gauge::flag("process_up", "Whether mysqld answers.", state.process == Process::Running),
            Gauge::flag("ready", "Whether the readiness probe passes.", state.ready),
            Gauge::flag("data_present", "Whether the data directory is complete.", state.data == Data::Present),
            Gauge::flag("problem", "Whether something is wrong that a person may have to mend.", state.problem.is_some()),
        ];
        let roles = [("primary", Role::Primary), ("replica", Role::Replica), ("isolated", Role::Isolated), ("unknown", Role::Unknown)];
        gauges.extend(roles.map(|(name, role)| Gauge {
            label: Some(("role", name)),
            ..Gauge::flag("role", "1 for the role that mysqld has now.", state.role == role)
        }));
        if let Some(accepted) = &state.accepted {
            gauges.push(Gauge::flag("converged", "Whether all of the last order holds.", accepted.converged));
        }
        if let Data::Cloning { copied, total, .. } = &state.data {
            gauges.push(Gauge::new("clone_copied_bytes", "Bytes cloned so far.", float(*copied)));
            gauges.push(Gauge::new("clone_total_bytes", "Bytes to clone, as estimated.", float(*total)));
        }
        if let Some(replication) = &state.replication {
            gauges.push(Gauge::flag("replication_receiving", "Whether the receiver is connected.", replication.receiving));
            gauges.push(Gauge::flag("replication_applying", "Whether the applier runs.", replication.applying));
            if let Some(lag) = replication.lag_seconds {
                gauges.push(Gauge::new("replication_lag_seconds", "Age of the oldest transaction received and not applied.", lag));
            }
        }
        if let Some(semi_sync) = &state.semi_sync {
            gauges.push(Gauge::new("semi_sync_acks", "Acknowledgements that a commit waits for.", f64::from(semi_sync.acks)));
            gauges.push(Gauge::new("semi_sync_clients", "Connected semi-sync replicas.", f64::from(semi_sync.clients)));
        }
        gauges
    }
}
