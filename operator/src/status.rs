//! What every engine's status says of a pass (pure). No clocks, lags or counters: an idle cluster writes nothing.

use crds::conditions::{DEGRADED, PROGRESSING, READY, STALLED, condition, upsert};
use crds::shared::{ClusterStatus, Head};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use crate::decision::{Decision, Route};
use crate::desired::{Desired, Invalid};
use crate::engine::Engine;
use crate::names::selector_text;
use crate::observed::Observed;

/// What a pass came to.
#[derive(Debug)]
pub struct Pass<'a, E: Engine> {
    /// What the user wants.
    pub desired: &'a Desired<E>,
    /// What was seen.
    pub observed: &'a Observed<E>,
    /// What was decided.
    pub decision: &'a Decision<E>,
    /// What stood in the way of it.
    pub obstacles: &'a [Obstacle],
    /// Generation of the spec that was decided about.
    pub generation: Option<i64>,
    /// Whether Kubernetes has taken up all of it: then the status answers this generation.
    pub settled: bool,
}

/// Something that stands in the way of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// Reason of the condition.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// It goes away by itself.
    pub passes: bool,
}

impl<E: Engine> Pass<'_, E> {
    /// What the status says first, when so many members serve.
    #[must_use]
    pub fn head(&self, old: &Head, serving: usize, now: Timestamp) -> Head {
        let Self { desired, observed, decision, obstacles, generation, settled } = self;
        let routed = match decision.route {
            Route::To(_) => true,
            Route::Keep => observed.route.is_some(),
            Route::Nobody => false,
        };
        let wanted = if desired.hibernate { 0 } else { desired.replicas };
        let ready = routed && wanted > 0 && serving == wanted as usize;
        let answered = if *settled { *generation } else { old.observed_generation };

        let passing = obstacles.iter().find(|obstacle| obstacle.passes).map(|obstacle| (obstacle.reason, obstacle.message.as_str()));
        let lasting = obstacles.iter().find(|obstacle| !obstacle.passes).map(|obstacle| (obstacle.reason, obstacle.message.as_str()));
        let state = decision.state.as_str();
        let unsettled = (!settled).then_some(("Applying", "Kubernetes has not taken up the newest spec yet"));
        let progressing = decision.progressing.as_deref().map(|message| (state, message)).or(passing).or(unsettled);
        let degraded = decision.degraded.as_deref().map(|message| (state, message));
        let stalled = decision.stalled.as_ref().map(|(reason, message)| (reason.as_str(), message.as_str())).or(lasting);

        let mut conditions = old.conditions.clone();
        let mut set = |type_: &str, holds: bool, (reason, message): (&str, &str)| {
            upsert(&mut conditions, condition(type_, holds, reason, message, answered, Time(now)));
        };
        set(READY, ready, (state, &decision.reason));
        set(PROGRESSING, progressing.is_some(), progressing.unwrap_or(("Settled", "")));
        set(DEGRADED, degraded.is_some(), degraded.unwrap_or(("Redundant", "")));
        set(STALLED, stalled.is_some(), stalled.unwrap_or(("Going", "")));

        Head {
            observed_generation: answered,
            state: state.to_owned(),
            reason: decision.reason.clone(),
            ready: format!("{serving}/{wanted}"),
            replicas: i32::try_from(observed.members.values().filter(|member| member.pod.is_some()).count()).unwrap_or(i32::MAX),
            selector: selector_text::<E>(&desired.name),
            conditions,
        }
    }
}

/// The status of a cluster that is left alone.
#[must_use]
pub fn suspended<S: ClusterStatus>(old: &S, generation: Option<i64>, now: Timestamp) -> S {
    let reason = "suspend is set: nothing is changed, repaired or decided until it is false again";
    let mut head = Head { observed_generation: generation, state: "Suspended".to_owned(), reason: reason.to_owned(), ..old.head() };
    upsert(&mut head.conditions, condition(PROGRESSING, false, "Suspended", reason, generation, Time(now)));
    old.clone().with_head(head)
}

/// The status of a cluster whose spec cannot be meant, while no older one is known: it stays as it is, and says so.
#[must_use]
pub fn invalid<S: ClusterStatus>(old: &S, invalid: &Invalid, generation: Option<i64>, now: Timestamp) -> S {
    let message = invalid.to_string();
    let mut head = Head { observed_generation: generation, reason: message.clone(), ..old.head() };
    if old.is_born() {
        // Nobody looks at its members.
        let ready = condition(READY, false, Invalid::REASON, &message, generation, Time(now));
        upsert(&mut head.conditions, Condition { status: "Unknown".to_owned(), ..ready });
    }
    upsert(&mut head.conditions, condition(STALLED, true, Invalid::REASON, &message, generation, Time(now)));
    old.clone().with_head(head)
}
