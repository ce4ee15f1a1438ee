//! Whether a report says something that a decision could depend on (pure). Offsets and lags move all the time: who waits for one looks
//! again by itself.

use sidecar_protocol::Report;
use sidecar_protocol::redis::{Ancestor, Data, Position, Replica, Replication, State};

/// Progress of a copy is shown in steps of this many percent.
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
        replicas,
        admits,
        handover,
        fenced,
        identity,
        persistent,
        archive,
        engine,
        version,
        passwords,
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
        && same_data(data, &now.data)
        && *process == now.process
        && *role == now.role
        && *accepted == now.accepted
        && history(position.as_ref()) == history(now.position.as_ref())
        && same_link(replication.as_ref(), now.replication.as_ref())
        && followers(replicas) == followers(&now.replicas)
        && *admits == now.admits
        && *handover == now.handover
        && *fenced == now.fenced
        && *identity == now.identity
        && *persistent == now.persistent
        && *archive == now.archive
        && *engine == now.engine
        && *version == now.version
        && *passwords == now.passwords
        && *ready == now.ready
        && *problem == now.problem
}

/// Which history a member is in, whatever its offset there.
fn history(position: Option<&Position>) -> Option<(&str, Option<&Ancestor>, bool, bool)> {
    position.map(|Position { replid, offset: _, before, recovered, led }| (replid.0.as_str(), before.as_ref(), *recovered, *led))
}

fn followers(replicas: &[Replica]) -> Vec<(&str, bool)> {
    replicas.iter().map(|Replica { host, offset: _, online }| (host.as_str(), *online)).collect()
}

fn same_data(old: &Data, new: &Data) -> bool {
    match (old, new) {
        (Data::Syncing { .. }, Data::Syncing { .. }) | (Data::Loading { .. }, Data::Loading { .. }) => true,
        _ => old == new,
    }
}

fn same_link(old: Option<&Replication>, new: Option<&Replication>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => {
            let Replication { source, connected, lag_seconds: _ } = old;
            *source == new.source && *connected == new.connected
        }
        (old, new) => old.is_none() && new.is_none(),
    }
}

/// How far a copy, or the reading of its own files, is, in percent, in coarse steps; `None` when there is none or its size is not known.
pub fn progress(data: &Data) -> Option<u64> {
    let percent = match data {
        Data::Syncing { copied, total } if *total > 0 => (copied.saturating_mul(100) / total).min(100),
        Data::Loading { percent } => u64::from(*percent).min(100),
        _ => return None,
    };
    Some(percent / PERCENT * PERCENT)
}

#[cfg(test)]
mod tests {
    use sidecar_protocol::redis::{Handover, Process, ReplId, Role};

    use super::*;

    fn report() -> Report<State> {
        Report {
            cluster: "uid".into(),
            member: "cache-1".into(),
            incarnation: "a".into(),
            term: 1,
            orders: 0,
            sidecar: "1".into(),
            trust: "t".into(),
            state: State {
                data: Data::Present,
                process: Process::Running,
                role: Role::Replica,
                position: Some(Position { replid: ReplId("aa".into()), offset: 7, ..Position::default() }),
                replication: Some(Replication { source: "cache-0".into(), connected: true, lag_seconds: Some(1.0) }),
                replicas: vec![Replica { host: "cache-2".into(), offset: 7, online: true }],
                ready: true,
                ..State::default()
            },
        }
    }

    #[test]
    fn offsets_and_lags_are_no_news() {
        let (old, mut new) = (report(), report());
        new.state.position.as_mut().unwrap().offset = 900;
        new.state.replication.as_mut().unwrap().lag_seconds = Some(9.0);
        new.state.replicas[0].offset = 900;
        assert!(same(&old, &new));
    }

    #[test]
    fn a_history_a_link_a_follower_and_a_hand_over_are_news() {
        let change: [fn(&mut Report<State>); 11] = [
            |new| new.state.position = None,
            |new| new.state.position.as_mut().unwrap().replid = ReplId("bb".into()),
            |new| new.state.position.as_mut().unwrap().recovered = true,
            |new| new.state.replication.as_mut().unwrap().connected = false,
            |new| new.state.replication = None,
            |new| new.state.replicas[0].online = false,
            |new| new.state.handover = Handover::Waiting,
            |new| new.state.admits = Some(vec![1]),
            |new| new.state.identity = Some("other".into()),
            |new| new.state.passwords = Some("digest".into()),
            |new| new.incarnation = "b".into(),
        ];
        for change in change {
            let mut new = report();
            change(&mut new);
            assert!(!same(&report(), &new), "{new:?}");
        }
    }

    #[test]
    fn a_copy_is_shown_in_steps() {
        let at = |copied, total| Data::Syncing { copied, total };
        assert_eq!(progress(&at(1, 0)), None);
        assert_eq!(progress(&at(19, 100)), Some(10));
        assert_eq!(progress(&at(300, 200)), Some(100));
        assert_eq!(progress(&Data::Loading { percent: 55 }), Some(50));
        assert!(same_data(&at(1, 9), &at(2, 9)) && !same_data(&at(9, 9), &Data::Present));
    }
}
