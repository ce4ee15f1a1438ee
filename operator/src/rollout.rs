//! Which pods are of an older revision, for every engine's roll-out (pure). Who goes when is the engine's own question.

use crate::decision::Step;
use crate::desired::Desired;
use crate::engine::Engine;
use crate::observed::{Observed, PodSeen};

/// Pods of an older revision that the operator may replace, by ordinal.
#[must_use]
pub fn outdated<'a, E: Engine>(desired: &Desired<E>, observed: &'a Observed<E>) -> Vec<(u32, &'a PodSeen)> {
    if !desired.automatic_update || !observed.stateful_set.as_ref().is_some_and(|set| set.current) {
        return Vec::new();
    }
    let pods = observed.members.iter().filter_map(|(ordinal, member)| Some((*ordinal, member.pod.as_ref()?)));
    pods.filter(|(ordinal, pod)| *ordinal >= desired.partition && pod.outdated && !pod.deleting).collect()
}

/// The replacement of a pod, because it `why`.
#[must_use]
pub fn replace<E: Engine>(desired: &Desired<E>, ordinal: u32, pod: &PodSeen, why: &str) -> Step {
    Step::ReplacePod { ordinal, uid: pod.uid.clone(), why: format!("{} {why}", desired.member_name(ordinal)) }
}

/// A pod that cannot run in its old revision. Replacing it harms nobody, whatever else goes on: so a mistake that is taken back heals
/// at once, before the cluster's birth too.
#[must_use]
pub fn stuck<E: Engine>(desired: &Desired<E>, observed: &Observed<E>, cannot_run: impl Fn(u32, &PodSeen) -> bool) -> Option<Step> {
    let (ordinal, pod) = outdated(desired, observed).into_iter().find(|(ordinal, pod)| cannot_run(*ordinal, pod))?;
    Some(replace(desired, ordinal, pod, "cannot run in its old revision"))
}
