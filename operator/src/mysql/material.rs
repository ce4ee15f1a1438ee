//! Whether a report says something that a decision could depend on (pure). Positions and lags move all the time: who waits for one
//! looks again by itself.

use sidecar_protocol::Report;
use sidecar_protocol::mysql::{Data, Replication, State};

/// Progress of a clone is shown in steps of this many percent.
pub const PERCENT: u64 = 10;

/// Whether `new` says nothing that `old` did not.
pub fn same(old: &Report<State>, new: &Report<State>) -> bool {
    // Destructured whole: a new field has to be thought about.
    let Report { cluster, member, incarnation, term, orders, sidecar, trust, state } = old;
    let State {
        data,
        process,
        role,
        accepted,
        position,
        replication,
        semi_sync,
        // A switchover that waits for it looks again by itself.
        busy_seconds: _,
        fenced,
        archive,
        condemned,
        acknowledges,
        may_acknowledge,
        server_uuid,
        cloned_from,
        version,
        ready,
        problem,
    } = state;
    *cluster == new.cluster
        && *member == new.member
        && *incarnation == new.incarnation
        && *term == new.term
        && *orders == new.orders
        && *sidecar == new.sidecar
        && *trust == new.trust
        && same_data(data, &new.state.data)
        && *process == new.state.process
        && *role == new.state.role
        && *accepted == new.state.accepted
        && position.is_some() == new.state.position.is_some()
        && old.state.strays() == new.state.strays()
        && same_channel(replication.as_ref(), new.state.replication.as_ref())
        && *semi_sync == new.state.semi_sync
        && *fenced == new.state.fenced
        && *archive == new.state.archive
        && *condemned == new.state.condemned
        && *acknowledges == new.state.acknowledges
        && *may_acknowledge == new.state.may_acknowledge
        && *server_uuid == new.state.server_uuid
        && *cloned_from == new.state.cloned_from
        && *version == new.state.version
        && *ready == new.state.ready
        && *problem == new.state.problem
}

fn same_data(old: &Data, new: &Data) -> bool {
    match (old, new) {
        (Data::Cloning { donor: old, .. }, Data::Cloning { donor: new, .. }) => old == new,
        _ => old == new,
    }
}

fn same_channel(old: Option<&Replication>, new: Option<&Replication>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let Replication { source, receiving, applying, lag_seconds: _, error, tls } = old;
            *source == new.source && *receiving == new.receiving && *applying == new.applying && *error == new.error && *tls == new.tls
        }
        (old, new) => old.is_none() && new.is_none(),
    }
}

/// How far a clone is, in percent, in coarse steps; `None` when there is none or its size is not known.
pub fn progress(data: &Data) -> Option<u64> {
    match data {
        Data::Cloning { copied, total, .. } if *total > 0 => Some((copied.saturating_mul(100) / total).min(100) / PERCENT * PERCENT),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use sidecar_protocol::mysql::{Process, Role};

    use super::*;

    fn report() -> Report<State> {
        let channel =
            Replication { source: "simple-0".into(), receiving: true, applying: true, lag_seconds: Some(0.1), error: None, tls: true };
        Report {
            cluster: "uid".into(),
            member: "simple-1".into(),
            incarnation: "a".into(),
            term: 1,
            orders: 0,
            sidecar: "1".into(),
            trust: "t".into(),
            state: State {
                data: Data::Present,
                process: Process::Running,
                role: Role::Replica,
                position: Some(sidecar_protocol::mysql::Position::default()),
                replication: Some(channel),
                ready: true,
                ..State::default()
            },
        }
    }

    #[test]
    fn positions_and_lag_are_no_news_and_their_absence_is() {
        let old = report();
        let mut new = report();
        new.state.position.as_mut().unwrap().executed = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-9".parse().unwrap();
        new.state.replication.as_mut().unwrap().lag_seconds = Some(4.0);
        assert!(same(&old, &new));
        new.state.server_uuid = Some("3e11fa47-71ca-11e1-9e33-c80aa9429562".into());
        let mut more = new.clone();
        more.state.position.as_mut().unwrap().executed = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-10".parse().unwrap();
        assert!(!same(&new, &more), "a replica committed it itself");
        (new.state.role, more.state.role) = (Role::Primary, Role::Primary);
        assert!(same(&new, &more));
        new = old.clone();
        new.state.position = None;
        assert!(!same(&old, &new));
    }

    #[test]
    fn an_error_a_role_and_readiness_are_news() {
        let change: [fn(&mut Report<State>); 5] = [
            |new| new.state.replication.as_mut().unwrap().error = Some("gone".into()),
            |new| new.state.replication = None,
            |new| new.state.role = Role::Isolated,
            |new| new.state.ready = false,
            |new| new.incarnation = "b".into(),
        ];
        for change in change {
            let mut new = report();
            change(&mut new);
            assert!(!same(&report(), &new));
        }
    }

    #[test]
    fn a_clone_is_shown_in_steps() {
        let at = |copied, total| Data::Cloning { donor: "simple-0".into(), copied, total };
        assert_eq!(progress(&at(0, 0)), None);
        assert_eq!(progress(&at(19, 100)), Some(10));
        assert_eq!(progress(&at(300, 200)), Some(100));
        assert!(same_data(&at(1, 9), &at(2, 9)));
        assert!(!same_data(&at(9, 9), &Data::Present));
    }
}
