use proptest::prelude::*;
use sidecar_protocol::redis::{Accepted, Replication};

use super::super::observe::Source;
use super::*;

const IDENTITY: &str = "mine";

fn peer(ordinal: u32) -> Peer {
    Peer { member: format!("shop-{ordinal}"), host: format!("shop-{ordinal}.shop.market.svc") }
}

fn replid(name: &str) -> ReplId {
    ReplId(name.into())
}

fn lineage() -> Lineage {
    let at = |name: &str, offset| Position { replid: replid(name), offset, ..Position::default() };
    Lineage::default().written(&at("old", 10)).ended_at(&at("old", 100)).written(&at("new", 100))
}

prop_compose! {
    fn position()(name in prop_oneof!["old", "new", "strange"], offset in 50u64..150, recovered: bool, led: bool) -> Position {
        Position { replid: replid(&name), offset, before: None, recovered, led }
    }
}

prop_compose! {
    fn facts()(
        role in prop_oneof![Just(Role::Primary), Just(Role::Replica), Just(Role::Isolated)],
        source in 0u32..3, up: bool, rests: bool,
        failover in prop_oneof![4 => Just(Failover::None), 1 => Just(Failover::Waiting), 1 => Just(Failover::Changing)],
        loading in prop_oneof![9 => Just(None), 1 => Just(Some(50))],
        keys in 0u64..2, min in 0u32..2, backlog: bool,
    ) -> Facts {
        let source = Source { host: peer(source).host, up, rests, ..Source::default() };
        let source = (role == Role::Replica).then_some(source);
        // Once its heir is told it calls itself a replica of that one.
        let failover = match (role, failover) {
            (Role::Primary, Failover::Waiting) | (Role::Replica, Failover::Changing) => failover,
            _ => Failover::None,
        };
        Facts { role, source, failover, loading, keys, min_replicas: (min, 10), backlog, ..Facts::default() }
    }
}

prop_compose! {
    fn own()(
        position in prop::option::of(position()), archived: bool, identity in prop_oneof![Just(IDENTITY), Just("other")],
        accounts_due: bool, login_due: bool, fenced: bool, may_open: bool, leaving: bool, eager: bool, admits in prop::collection::btree_set(0u32..3, 0..3),
    ) -> Own {
        let archive = position.clone().filter(|_| archived).map(|position| Archive { file: "f".into(), position });
        Own {
            data: if position.is_some() { Data::Present } else { Data::Empty },
            position, archive, identity: Some(identity.into()), accounts_due, login_due, fenced, may_open: may_open && !fenced, leaving, eager, admits,
            ..Own::default()
        }
    }
}

fn assignment() -> impl Strategy<Value = Assignment> {
    let primary =
        (prop::option::of(Just(IDENTITY.to_owned())), 0u32..2, any::<bool>()).prop_map(|(identity, min_replicas, yields)| Part::Primary {
            identity,
            admitted: vec![1],
            min_replicas,
            max_lag_seconds: 10,
            yield_to: yields.then(|| Yield { to: peer(1), timeout_millis: 100 }),
        });
    let replica = (0u32..3, any::<bool>(), any::<bool>()).prop_map(|(source, discard, heir)| Part::Replica {
        source: peer(source),
        lineage: lineage(),
        discard: discard.then(|| IDENTITY.to_owned()),
        heir_of: heir.then_some(source),
        source_yields: false,
    });
    let part = prop_oneof![primary, replica, Just(Part::Isolated)];
    part.prop_map(|part| Assignment { part, members: vec![0, 1, 2], users: vec![] })
}

/// What holds after a step that worked.
fn after(step: &Step, facts: &mut Facts, own: &mut Own, assignment: &Assignment) {
    match step {
        Step::Freeze { .. } => (facts.role, facts.source, facts.failover) = (Role::Isolated, Some(Source::default()), Failover::None),
        Step::Promote { .. } => (facts.role, facts.source, facts.backlog) = (Role::Primary, None, true),
        Step::Accounts => (own.accounts_due, own.admits) = (false, crate::redis::accounts::admitted(assignment)),
        Step::LogIn => own.login_due = false,
        Step::MinReplicas(count, lag) => facts.min_replicas = (*count, *lag),
        Step::HandOver(heir) => own.handed = Some(heir.clone()),
        Step::TakeBack => facts.failover = Failover::None,
        Step::SendAway => own.demoted = false,
        Step::Archive(position) => own.archive = Some(Archive { file: "f".into(), position: position.clone() }),
        Step::Follow { source, .. } | Step::Knock(source) => {
            facts.role = Role::Replica;
            facts.source = Some(Source { host: source.host.clone(), up: true, ..Source::default() });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn a_member_opens_only_under_an_order_for_its_data_in_contact_and_from_a_standstill(
        facts in facts(), own in own(), assignment in assignment()
    ) {
        if let Some(Step::Promote { .. }) = plan(&facts, &assignment, &own) {
            let Part::Primary { identity, yield_to, .. } = &assignment.part else { panic!("{assignment:?}") };
            prop_assert!(facts.role == Role::Isolated && facts.loading.is_none());
            prop_assert!(own.may_open && !own.fenced && yield_to.is_none());
            prop_assert!(identity.as_ref().is_none_or(|identity| own.identity.as_ref() == Some(identity)));
        }
    }

    #[test]
    fn a_member_follows_only_when_it_stands_still_and_nothing_is_lost_by_it(facts in facts(), own in own(), assignment in assignment()) {
        if let Some(Step::Follow { source, copies }) = plan(&facts, &assignment, &own) {
            let Part::Replica { source: ordered, lineage, discard, heir_of, .. } = &assignment.part else { panic!("{assignment:?}") };
            prop_assert!(&source == ordered && facts.role == Role::Isolated && (!own.leaving || heir_of.is_some()));
            prop_assert!(heir_of.is_none() || !own.fenced);
            if let Some(position) = own.position.as_ref().filter(|_| facts.keys > 0) {
                let archived = own.archive.as_ref().is_some_and(|archive| archive.position == *position);
                let contained = lineage.relation(position) == Relation::Contained && !(position.recovered && position.led);
                prop_assert!(contained || archived, "{position:?}");
                prop_assert!(lineage.relation(position) != Relation::Foreign || *discard == own.identity);
                prop_assert!(contained || copies.is_some());
            }
        }
    }

    #[test]
    fn who_must_not_write_closes_before_anything_else(facts in facts(), own in own(), assignment in assignment()) {
        let may = match &assignment.part {
            Part::Primary { .. } => !own.fenced,
            Part::Replica { heir_of, .. } => heir_of.is_some() && !own.fenced,
            Part::Isolated => false,
        };
        if facts.role == Role::Primary && !may && facts.loading.is_none() {
            let step = plan(&facts, &assignment, &own);
            let closes = matches!(step, Some(Step::Freeze { kick: true, .. } | Step::TakeBack));
            prop_assert!(closes, "{step:?}");
        }
    }

    #[test]
    fn steps_come_to_an_end_and_asking_again_gives_nothing(facts in facts(), own in own(), assignment in assignment()) {
        let (mut facts, mut own) = (facts, own);
        for _ in 0..12 {
            let Some(step) = plan(&facts, &assignment, &own) else { break };
            after(&step, &mut facts, &mut own, &assignment);
        }
        prop_assert_eq!(plan(&facts, &assignment, &own), None);
        if let Part::Isolated = assignment.part
            && facts.loading.is_none()
        {
            prop_assert_eq!(facts.role, Role::Isolated);
        }
    }
}

#[test]
fn who_was_handing_over_and_is_no_primary_leads_only_after_it_was_isolated() {
    let assignment = |yield_to| Assignment {
        part: Part::Primary { identity: None, admitted: vec![], min_replicas: 0, max_lag_seconds: 10, yield_to },
        members: vec![0, 1],
        users: vec![],
    };
    let handing = assignment(Some(Yield { to: peer(1), timeout_millis: 1 }));
    let accepted = |assignment| Some(Accepted { term: 1, claim: 0, assignment, converged: false });
    let state = State { role: Role::Isolated, accepted: accepted(handing.clone()), ..State::default() };
    assert!(refuse(&state, &assignment(None)).is_some());
    let state = State { role: Role::Primary, ..state };
    assert_eq!(refuse(&state, &assignment(None)), None, "taken back");
    let isolated = Assignment { part: Part::Isolated, ..handing };
    let state = State { role: Role::Isolated, accepted: accepted(isolated), ..state };
    assert_eq!(refuse(&state, &assignment(None)), None);
    let replication = Some(Replication { source: "shop-2".into(), connected: false, lag_seconds: None });
    let state = State { role: Role::Replica, replication, ..state };
    assert!(refuse(&state, &assignment(None)).unwrap().contains("shop-2"));
}
