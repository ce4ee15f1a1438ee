//! What was decided: plain values, made by an engine's `decide`, carried out by [`crate::act`], told by `status` and `explain`. No I/O here.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::Engine;

/// State of a cluster in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The first members come up.
    Creating,
    /// Every wanted member serves.
    Healthy,
    /// The primary serves, a replica does not.
    Degraded,
    /// Members are added or released.
    Scaling,
    /// Pods are replaced by their new revision.
    Updating,
    /// A planned change of primary.
    SwitchingOver,
    /// A change of primary because it is lost.
    FailingOver,
    /// The primary does not answer or does not accept writes yet; it stays the primary.
    PrimaryUnavailable,
    /// Nothing safe can be done without a person.
    Lost,
    /// No pods, on request.
    Hibernated,
}

impl State {
    /// The word in status, logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "Creating",
            Self::Healthy => "Healthy",
            Self::Degraded => "Degraded",
            Self::Scaling => "Scaling",
            Self::Updating => "Updating",
            Self::SwitchingOver => "SwitchingOver",
            Self::FailingOver => "FailingOver",
            Self::PrimaryUnavailable => "PrimaryUnavailable",
            Self::Lost => "Lost",
            Self::Hibernated => "Hibernated",
        }
    }
}

/// What to do, and why.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision<E: Engine> {
    /// State of the cluster.
    pub state: State,
    /// One sentence, the same in log, Event and condition.
    pub reason: String,
    /// Authority to claim first. When there is some, nothing else of this decision is acted on.
    pub intent: Option<E::Authority>,
    /// What each member must hold now, under the term of the status.
    pub orders: BTreeMap<u32, E::Assignment>,
    /// Whom `NAME-primary` routes to.
    pub route: Route,
    /// Replicas that the StatefulSet shall have now.
    pub replicas: u32,
    /// The one irreversible step of this pass.
    pub step: Option<Step>,
    /// What is being changed, if anything.
    pub progressing: Option<String>,
    /// What is missing, if anything.
    pub degraded: Option<String>,
    /// Reason and message of what only a person can mend.
    pub stalled: Option<(String, String)>,
    /// Why what a person asked for is not done.
    pub refused: Option<String>,
    /// When to look again; `None` waits for an event.
    pub requeue: Option<Duration>,
}

/// Whom `NAME-primary` routes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Whomever it routes to now.
    Keep,
    /// Nobody.
    Nobody,
    /// This ordinal.
    To(u32),
}

/// A step that cannot be taken back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Delete a pod so that the StatefulSet makes it anew.
    ReplacePod {
        /// Its ordinal.
        ordinal: u32,
        /// UID, the precondition of the delete.
        uid: String,
        /// Why.
        why: String,
    },
}

impl<E: Engine> Decision<E> {
    /// Nothing to do, in `state`, because of `reason`, with so many `replicas`.
    #[must_use]
    pub fn with(replicas: u32, state: State, reason: impl Into<String>) -> Self {
        Self {
            state,
            reason: reason.into(),
            intent: None,
            orders: BTreeMap::new(),
            route: Route::Keep,
            replicas,
            step: None,
            progressing: None,
            degraded: None,
            stalled: None,
            refused: None,
            requeue: None,
        }
    }

    /// The same, after `authority` is claimed.
    #[must_use]
    pub fn claiming(mut self, authority: E::Authority) -> Self {
        self.intent = Some(authority);
        self.progressing = Some(self.reason.clone());
        self
    }

    /// The same, while something is being changed.
    #[must_use]
    pub fn progressing(mut self, requeue: Option<Duration>) -> Self {
        self.progressing = Some(self.reason.clone());
        self.requeue = requeue;
        self
    }

    /// The same, said to be `state` because of `message`; that the primary is not available is said first.
    #[must_use]
    pub fn settling(mut self, state: State, message: String) -> Self {
        self.state = if self.state == State::PrimaryUnavailable { self.state } else { state };
        self.progressing = Some(message.clone());
        self.reason = message;
        self
    }

    /// The same, when only a person can mend it.
    #[must_use]
    pub fn stalled(mut self, reason: &str) -> Self {
        self.stalled = Some((reason.to_owned(), self.reason.clone()));
        self
    }

    /// No pods, and nobody routed to, while `running` of them are left.
    #[must_use]
    pub fn hibernate(running: usize) -> Self {
        let mut decision = match running {
            0 => Self::with(0, State::Hibernated, "hibernate is set: no pods run, every volume is kept"),
            left => Self::with(0, State::Hibernated, format!("hibernate is set: {left} pods are stopping")).progressing(None),
        };
        decision.route = Route::Nobody;
        decision
    }
}
