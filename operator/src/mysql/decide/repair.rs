//! Members that cannot follow: what only they hold is archived, then they are cloned anew (I6). No human step.
//!
//! A data directory is discarded only when another member leads with a complete one (I10), the directory is named by its UUID, and its
//! member has left the ack set. The sidecar archives and marks it; then the pod is replaced, and the new one's sidecar discards it.

use sidecar_protocol::mysql::ProblemCode;

use super::{Step, View};

/// The UUID of the data directory of `ordinal` that has to be replaced, once it may be.
pub fn replace(view: &View<'_>, ordinal: u32, primary: u32) -> Option<String> {
    let uuid = view.state(ordinal)?.server_uuid.clone()?;
    let name = view.desired.member_name(ordinal);
    let recorded = view.status.ack_set.iter().any(|member| member.name == name);
    (is_due(view, ordinal, primary) && !recorded && view.is_open_primary(primary) && view.has_data(primary)).then_some(uuid)
}

/// It cannot follow, or a person asked for it.
pub fn is_due(view: &View<'_>, ordinal: u32, primary: u32) -> bool {
    if ordinal == primary || !view.has_data(ordinal) {
        return false;
    }
    let Some(state) = view.state(ordinal) else { return false };
    // Not by its own words alone: cut off from the primary, it has others.
    let purged =
        state.problem.as_ref().is_some_and(|problem| problem.code == ProblemCode::LogsPurged) || lacks_purged(view, ordinal, primary);
    let asked = view
        .observed
        .asked
        .reclone
        .as_ref()
        .is_some_and(|(member, uuid)| *member == view.desired.member_name(ordinal) && Some(uuid) == state.server_uuid.as_ref());
    // Once condemned it is not forgiven: its own words about what is wrong may have changed since.
    purged || asked || state.condemned || view.is_errant(ordinal, primary)
}

/// The primary no longer has the logs that it lacks.
fn lacks_purged(view: &View<'_>, ordinal: u32, primary: u32) -> bool {
    let purged = view.state(primary).and_then(|state| state.position.as_ref()).map(|position| &position.purged);
    let lacks = purged.zip(view.held(ordinal)).is_some_and(|(purged, held)| !held.contains(purged));
    lacks && !view.receives_from(ordinal, primary)
}

/// The pod of a condemned data directory.
pub fn replaceable(view: &View<'_>, primary: u32) -> Option<Step> {
    view.observed.members.iter().find_map(|(ordinal, member)| {
        let pod = member.pod.as_ref().filter(|pod| !pod.deleting)?;
        let condemned = view.state(*ordinal).is_some_and(|state| state.condemned);
        (condemned && replace(view, *ordinal, primary).is_some()).then(|| Step::ReplacePod {
            ordinal: *ordinal,
            uid: pod.uid.clone(),
            why: format!("{} is cloned anew: what only it held is archived on its volume", member.name),
        })
    })
}
