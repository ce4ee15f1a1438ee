//! Whether the primary is lost, and how sure that is.
//!
//! *Certain*: its own sidecar, or Kubernetes, says that it cannot serve. *Silent*: nobody hears of it, which may be our own fault: then the
//! members of the ack set must have lost it too. Either way a failover needs a quorum of the set ([`quorum`]), so even a primary that
//! lives on somewhere acknowledges nothing any more (I1).

use sidecar_protocol::SILENCE_MILLIS;
use sidecar_protocol::mysql::{Data, Process};

use super::{View, acks};
use crate::mysql::observed::Seen;

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
        Seen::Answered(report) => match (&report.state.data, report.state.process) {
            (Data::Present, Process::Silent) => format!("mysqld of {name} does not answer"),
            (Data::Present, Process::Down) => return Alarm::Certain(format!("mysqld of {name} has ended")),
            (Data::Present, _) => return Alarm::None,
            _ => return Alarm::Certain(format!("the volume of {name} is empty")),
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

/// Members of the ack set that answer and can say what they hold.
pub fn voters(view: &View<'_>, primary: u32) -> Vec<u32> {
    let members = view.observed.members.keys().copied();
    members.filter(|ordinal| *ordinal != primary && acks::counts(view, *ordinal) && view.held(*ordinal).is_some()).collect()
}

/// How many members of the ack set must be asked: every acknowledged transaction is on `acks` of them, so any size − acks + 1 include one
/// that holds it (I2). `None` while commits wait for nobody.
pub fn quorum(view: &View<'_>) -> Option<usize> {
    let (size, acks) = (view.status.ack_set.len(), usize::try_from(view.status.acks).unwrap_or(usize::MAX));
    (acks > 0).then(|| (size + 1).saturating_sub(acks).max(1))
}

/// Whether enough of them answer.
pub fn has_quorum(view: &View<'_>, primary: u32) -> bool {
    quorum(view).is_some_and(|quorum| voters(view, primary).len() >= quorum)
}
