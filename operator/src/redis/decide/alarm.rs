//! Whether the primary is lost, and how sure that is.
//!
//! *Certain*: its own sidecar, or Kubernetes, says that it cannot serve. *Silent*: nobody hears of it, which may be our own fault: then the
//! replicas must have lost it too. Either way a failover needs a quorum of the ack set ([`quorum`]), so a primary that lives on somewhere has
//! nobody left who answers its clients' `WAIT` (I1).

use sidecar_protocol::SILENCE_MILLIS;
use sidecar_protocol::redis::{Data, Process};

use super::{View, acks};
use crate::redis::observed::Seen;

/// A primary that was told to open a moment ago is given this long, in milliseconds: its replicas have not been with it yet, so they cannot
/// have lost it.
const OPENING_MILLIS: i64 = 10_000;

/// What is wrong with the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Nothing that is known.
    None,
    /// It cannot serve: why.
    Certain(String),
    /// Unknown, and the members that acknowledge have lost it too.
    Lost(String),
    /// Unknown to us alone, or not for long enough: nothing is changed.
    Unsure(String),
}

/// Looks at `primary`.
pub fn of(view: &View<'_>, primary: u32) -> Alarm {
    let name = view.desired.member_name(primary);
    let Some(member) = view.member(primary).filter(|_| !view.is_fenced(primary)) else { return Alarm::None };
    let Some(pod) = &member.pod else { return Alarm::Certain(format!("the pod of {name} is gone")) };
    if view.is_open_primary(primary) {
        return Alarm::None;
    }
    let opening = view.status.transition.as_ref().is_some_and(|change| change.promoting);
    // Who was routed to is not who has this name now. One that was chosen to lead again is routed to when it opens.
    if !opening && view.observed.route.as_ref().is_some_and(|(routed, uid)| *routed == name && *uid != pod.uid) {
        return Alarm::Certain(format!("the pod of {name} was replaced"));
    }
    let quiet = match &member.report {
        Seen::Silent { since } => {
            let silent = view.now.as_millisecond() - since.as_millisecond();
            if silent < if opening { OPENING_MILLIS } else { i64::try_from(SILENCE_MILLIS).unwrap_or(i64::MAX) } {
                return Alarm::Unsure(format!("{name} does not answer"));
            }
            format!("{name} does not answer")
        }
        Seen::Answered(_) if view.lost_its_data(primary) => return Alarm::Certain(format!("{name} has lost the data that it led with")),
        Seen::Answered(report) => match (&report.state.data, report.state.process) {
            (_, Process::Silent) => format!("the database of {name} does not answer"),
            (_, Process::Down) => return Alarm::Certain(format!("the database of {name} has ended")),
            // A process that reads its files is one that has just begun: it did not lead.
            (Data::Loading { .. }, _) => return Alarm::Certain(format!("the database of {name} was restarted")),
            _ => return Alarm::None,
        },
    };
    let voters = voters(view, primary);
    let receiving: Vec<String> =
        voters.iter().filter(|ordinal| view.receives_from(**ordinal, primary)).map(|ordinal| view.desired.member_name(*ordinal)).collect();
    if receiving.is_empty() && has_quorum(view, primary) {
        Alarm::Lost(format!("{quiet}, and its replicas have lost it too"))
    } else if receiving.is_empty() {
        Alarm::Unsure(quiet)
    } else {
        Alarm::Unsure(format!("{quiet} to the operator, and {} still receives from it: nothing is changed", receiving.join(", ")))
    }
}

/// Members of the ack set that answer with the data that they were recorded with, and can say all that they hold.
pub fn voters(view: &View<'_>, primary: u32) -> Vec<u32> {
    let members = view.observed.members.keys().copied();
    members.filter(|ordinal| *ordinal != primary && acks::counts(view, *ordinal) && is_exact(view, *ordinal)).collect()
}

/// What it says it holds is all that it holds: not one that lost its memory in a crash and knows only where it was about a second before.
pub fn is_exact(view: &View<'_>, ordinal: u32) -> bool {
    view.runs(ordinal)
        && view.state(ordinal).is_some_and(|state| match state.data {
            Data::Loading { .. } => false,
            _ => state.position.as_ref().is_none_or(|position| !position.recovered),
        })
}

/// How many members of the ack set must be asked: every acknowledged write is on `acks` of them, so any size − acks + 1 include one
/// that holds it (I2). `None` while none has to be there.
pub fn quorum(view: &View<'_>) -> Option<usize> {
    let (size, acks) = (view.status.ack_set.len(), usize::try_from(view.status.acks).unwrap_or(usize::MAX));
    (acks > 0).then(|| (size + 1).saturating_sub(acks).max(1))
}

/// Whether enough of them answer.
pub fn has_quorum(view: &View<'_>, primary: u32) -> bool {
    quorum(view).is_some_and(|quorum| voters(view, primary).len() >= quorum)
}
