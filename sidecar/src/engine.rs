//! The few questions that the shell asks of an engine, and MySQL's answers. The second engine adds an `impl` and nothing else here.

use std::collections::BTreeSet;
use std::fmt::Debug;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Data, Problem, ProblemCode, Process, Role, State};

use crate::mysql::{Config, converge};

/// Who would miss a database that ended now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missed {
    /// It serves, and another member could relieve it.
    ByClients,
    /// It is closed, and the others have yet to read what it holds before one of them leads.
    ByMembers,
    /// Nobody.
    ByNobody,
}

/// What the shell knows of an engine.
pub trait Engine: Clone + Debug + Send + Sync + 'static {
    /// The role to hold.
    type Assignment: DeserializeOwned + Serialize + Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What is true of the database.
    type State: Serialize + Clone + Debug + Send + Sync + 'static;
    /// For metric labels and logs.
    const NAME: &'static str;

    /// Whether the database container may start.
    fn curtain_is_open(&self) -> bool;
    /// Why the order would break an invariant on this member, if so.
    fn refuse(state: &Self::State, assignment: &Self::Assignment) -> Option<String>;
    /// Says that `order` is worked on, unless the state speaks of that very order: what was true of an earlier one proves nothing of this
    /// one, and who counts our orders would take it for that.
    fn owe(state: &mut Self::State, order: &Order<Self::Assignment>);
    /// What tells this member's data from those of an earlier or a later volume, once there are any.
    fn data(&self) -> Option<String>;
    /// The DNS name of the member `ordinal`.
    fn host(&self, ordinal: u32) -> String;
    /// Whether the order may be taken up again after a restart of the sidecar.
    fn resumable(assignment: &Self::Assignment) -> bool;
    /// How many others must hold a write before it is acknowledged; `None` where nobody may write.
    fn acks(assignment: &Self::Assignment) -> Option<u32>;
    /// Ordinals of the members whose majority keeps this one open, when it is to be the primary.
    fn electorate(assignment: &Self::Assignment) -> Option<BTreeSet<u32>>;
    /// Who would miss the database if it ended now.
    fn missed(state: &Self::State) -> Missed;
    /// Why the database may not serve, if so.
    fn unready(state: &Self::State) -> Option<String>;
    /// Adds the shell's own trouble with certificates, unless the engine has a worse one.
    fn blame_credentials(state: &mut Self::State, message: &str);
    /// Gauges of `state`.
    fn gauges(state: &Self::State) -> Vec<Gauge>;
}

/// One value of one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Gauge {
    /// Name, without the prefix.
    pub name: &'static str,
    /// What it means.
    pub help: &'static str,
    /// A label, where the metric has one.
    pub label: Option<(&'static str, &'static str)>,
    /// The value.
    pub value: f64,
}

impl Gauge {
    fn new(name: &'static str, help: &'static str, value: f64) -> Self {
        Self { name, help, label: None, value }
    }

    fn flag(name: &'static str, help: &'static str, value: bool) -> Self {
        Self::new(name, help, f64::from(u8::from(value)))
    }
}

/// A count as Prometheus wants it; exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

/// MySQL.
#[derive(Clone, Debug)]
pub struct Mysql(pub Config);

impl Engine for Mysql {
    type Assignment = Assignment;
    type State = State;
    const NAME: &'static str = "mysql";

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
