//! Whether a report says something that a decision could depend on (pure). Optimes move all the time: who compares them reads the newest
//! report anyway.

use sidecar_protocol::Report;
use sidecar_protocol::mongo::State;
use sidecar_protocol::mongo::status::{MemberState, Status};

/// Whether `new` says nothing that `old` did not.
#[must_use]
pub fn same(old: &Report<State>, new: &Report<State>) -> bool {
    // Destructured whole: a new field has to be thought about.
    let Report { cluster, member, incarnation, term, orders, sidecar, trust, state } = old;
    let State {
        data,
        process,
        accepted,
        answer,
        member: does,
        writable,
        election_term,
        optime,
        primary,
        me,
        config,
        status,
        lag_seconds,
        version,
        fcv,
        said,
        keys,
        ready,
        problem,
    } = state;
    let now = &new.state;
    *cluster == new.cluster
        && *member == new.member
        && *incarnation == new.incarnation
        && *term == new.term
        && *orders == new.orders
        && *sidecar == new.sidecar
        && *trust == new.trust
        && *data == now.data
        && *process == now.process
        && *accepted == now.accepted
        && *answer == now.answer
        && *does == now.member
        && *writable == now.writable
        && *election_term == now.election_term
        && optime.is_some() == now.optime.is_some()
        && *primary == now.primary
        && *me == now.me
        && *config == now.config
        && states(status.as_ref()) == states(now.status.as_ref())
        && lag(*lag_seconds) == lag(now.lag_seconds)
        && *version == now.version
        && *fcv == now.fcv
        && *said == now.said
        && *keys == now.keys
        && *ready == now.ready
        && *problem == now.problem
}

fn states(status: Option<&Status>) -> Option<Vec<(u8, MemberState)>> {
    status.map(|status| status.members.iter().map(|member| (member.id, member.state)).collect())
}

/// A lag in a coarse word; `None` of one that keeps up, or does not say.
#[must_use]
pub fn lag(seconds: Option<u32>) -> Option<&'static str> {
    match seconds? {
        ..10 => None,
        10..120 => Some("seconds"),
        120..7200 => Some("minutes"),
        _ => Some("hours"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sidecar_protocol::mongo::status::{MemberStatus, OpTime, Timestamp};

    fn report() -> Report<State> {
        let optime = Some(OpTime { t: 1, ts: Timestamp { t: 9, i: 1 } });
        let row = MemberStatus { id: 0, name: "stock-0:27017".into(), state: MemberState::Primary, optime };
        Report {
            cluster: "uid".into(),
            member: "stock-0".into(),
            incarnation: "a".into(),
            term: 1,
            orders: 0,
            sidecar: "1".into(),
            trust: "t".into(),
            state: State {
                optime,
                lag_seconds: Some(1),
                status: Some(Status { set: "stock".into(), term: 1, members: vec![row] }),
                ..State::default()
            },
        }
    }

    #[test]
    fn optimes_and_short_lags_are_no_news_and_states_are() {
        let (old, mut new) = (report(), report());
        let later = Some(OpTime { t: 1, ts: Timestamp { t: 10, i: 7 } });
        new.state.optime = later;
        new.state.lag_seconds = Some(9);
        new.state.status.as_mut().unwrap().members[0].optime = later;
        assert!(same(&old, &new));
        let change: [fn(&mut Report<State>); 5] = [
            |new| new.state.status.as_mut().unwrap().members[0].state = MemberState::Down,
            |new| new.state.optime = None,
            |new| new.state.lag_seconds = Some(10),
            |new| new.state.writable = true,
            |new| new.state.election_term = Some(2),
        ];
        for change in change {
            let mut new = report();
            change(&mut new);
            assert!(!same(&old, &new));
        }
    }
}
