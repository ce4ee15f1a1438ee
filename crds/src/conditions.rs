//! Condition types and reasons, each written once, and the merge that moves a timestamp only on change.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The cluster serves: a routed primary, and every wanted member ready.
pub const READY: &str = "Ready";
/// The operator is changing something: creating, scaling, updating, switching over.
pub const PROGRESSING: &str = "Progressing";
/// It serves, with less redundancy than asked for.
pub const DEGRADED: &str = "Degraded";
/// The operator cannot go on without a person; the message says what to do.
pub const STALLED: &str = "Stalled";

/// Merges `new` into `conditions`: the transition time moves only when the status changes, nothing else is touched.
pub fn upsert(conditions: &mut Vec<Condition>, new: Condition) {
    match conditions.iter_mut().find(|condition| condition.type_ == new.type_) {
        Some(old) => {
            let since = if old.status == new.status { old.last_transition_time.clone() } else { new.last_transition_time.clone() };
            *old = Condition { last_transition_time: since, ..new };
        }
        None => conditions.push(new),
    }
}

/// A condition with every field that server-side apply needs.
#[must_use]
pub fn condition(type_: &str, status: bool, reason: &str, message: &str, generation: Option<i64>, now: Time) -> Condition {
    Condition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: now,
    }
}
