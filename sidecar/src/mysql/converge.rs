//! From what is true and what is ordered to the next step: pure. One step, then look again.
//!
//! Order within a role is the safety argument: a member that must not write is sealed before anything else, a member that may write
//! opens last, after everything that it received is applied and semi-sync is set. Asking again on a member that holds its role
//! gives nothing.

use sidecar_protocol::mysql::{Assignment, Data, Peer, State};

use super::observe::{Facts, Password, Receiver};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Let nobody write any more: commits in flight end, clients go.
    Seal,
    /// Receive nothing more.
    StopReceiver,
    /// Apply what is already received.
    StartApplier,
    /// Nothing but to wait until it is applied.
    AwaitApplied,
    /// Follow nobody any more.
    ForgetSource,
    /// Commits wait for this many replicas; 0 turns semi-sync off. Who is asked to wait does not acknowledge himself.
    SemiSync {
        /// How many.
        acks: u32,
    },
    /// Keep these members, and only them, from following.
    Bar(Vec<u32>),
    /// Let our own account write, and nobody else.
    Unseal,
    /// Create and update the accounts.
    Accounts,
    /// Let everybody write.
    Open,
    /// Follow, if that loses nothing.
    Follow(Peer),
    /// As a replica, acknowledge or do not.
    Acknowledge(bool),
    /// Archive what `source` does not hold, and mark this data directory to be discarded at the next start of the pod.
    Condemn {
        /// An open primary.
        source: Peer,
        /// `server_uuid` of this data directory.
        uuid: String,
    },
    /// Take that mark away.
    Pardon,
}

impl Step {
    /// Whether this step, once begun, may let a server that was seen with `facts` acknowledge, whatever was ordered since.
    #[must_use]
    pub fn may_acknowledge(&self, facts: &Facts) -> bool {
        match self {
            Self::Acknowledge(on) => *on,
            Self::Follow(_) => facts.semi_sync.replica_enabled,
            _ => false,
        }
    }
}

/// What the sidecar knows that mysqld does not show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The account that this member replicates with.
    pub user: String,
    /// Its password now; `None` when it cannot be read.
    pub password: Option<Password>,
    /// The accounts are not known to be as they must be.
    pub accounts_due: bool,
    /// The receiver has been connected for long enough to know whether it acknowledges.
    pub receiver_settled: bool,
    /// This data directory is marked to be discarded.
    pub condemned: bool,
    /// To be primary, and out of contact: it closes and stays closed.
    pub fenced: bool,
    /// To be primary, and in contact now.
    pub may_open: bool,
}

/// Why this member must not accept `assignment`, if so (I10): a member without data never becomes a primary. `Initialise` on a
/// member that holds data is fine; it only means [`Assignment::Isolated`] there.
#[must_use]
pub fn refuse(state: &State, assignment: &Assignment) -> Option<String> {
    match assignment {
        Assignment::Primary { .. } if state.data != Data::Present => {
            Some("this member holds no data: it can be initialised or cloned, not made primary".into())
        }
        _ => None,
    }
}

/// The next step towards `assignment`, or `None` when nothing is left to do.
#[must_use]
pub fn plan(facts: &Facts, assignment: &Assignment, own: &Own) -> Option<Step> {
    let may_write = matches!(assignment, Assignment::Primary { .. });
    if own.fenced && may_write {
        return (!facts.super_read_only).then_some(Step::Seal);
    }
    // I10: who writes here again keeps what is written. The mark goes first.
    if own.condemned && !condemns(assignment, &facts.server_uuid) && (may_write || facts.super_read_only) {
        return Some(Step::Pardon);
    }
    match assignment {
        Assignment::Replica { source, .. } if condemns(assignment, &facts.server_uuid) => condemned(facts, source, own),
        Assignment::Primary { acks, barred, .. } => primary(facts, *acks, barred, own),
        Assignment::Replica { source, acknowledges, .. } => replica(facts, source, *acknowledges, own),
        Assignment::Isolated | Assignment::Initialise => isolated(facts),
    }
}

/// Whether `assignment` orders the data directory with this `server_uuid` to be given up.
#[must_use]
pub fn condemns(assignment: &Assignment, server_uuid: &str) -> bool {
    matches!(assignment, Assignment::Replica { replace: Some(uuid), .. } if uuid == server_uuid)
}

/// Whether all of `assignment` holds: nothing is left to do, and what was done took effect.
#[must_use]
pub fn converged(facts: &Facts, assignment: &Assignment, own: &Own) -> bool {
    plan(facts, assignment, own).is_none()
        && match (assignment, &facts.channel) {
            (Assignment::Primary { .. }, _) => !facts.read_only && !own.fenced,
            (Assignment::Replica { acknowledges, .. }, Some(channel)) => {
                channel.receiver == Receiver::On && channel.applying && facts.semi_sync.replica_active == *acknowledges
            }
            (Assignment::Replica { .. }, None) => false,
            _ => true,
        }
}

fn primary(facts: &Facts, acks: u32, barred: &[u32], own: &Own) -> Option<Step> {
    if let Some(channel) = &facts.channel {
        // I3: whatever was received may have been acknowledged. It is applied before anybody writes.
        match () {
            () if channel.receiver != Receiver::Off => return Some(Step::StopReceiver),
            () if waits_to_apply(facts) => return Some(Step::SemiSync { acks: 0 }),
            () if !facts.applied() && channel.applying => return Some(Step::AwaitApplied),
            () if !facts.applied() => return Some(Step::StartApplier),
            // To forget a source takes longer than to open. Nothing more comes from it, and writers need not wait.
            () if !facts.read_only => return Some(Step::ForgetSource),
            () => {}
        }
    }
    // Nobody who leaves the ack set may be among the fewer that a commit waits for (I2). To lock an account is to write; a member that
    // is sealed does so once semi-sync holds.
    let bars_due = !facts.replicas.are_barred(barred);
    if bars_due && !facts.super_read_only {
        return Some(Step::Bar(barred.to_vec()));
    }
    let semi = &facts.semi_sync;
    let set = if acks == 0 { !semi.source_enabled } else { semi.source_enabled && semi.source_acks == acks && semi.source_strict };
    match () {
        () if !set => return Some(Step::SemiSync { acks }),
        () if semi.replica_enabled => return Some(Step::Acknowledge(false)),
        () => {}
    }
    // With acknowledgements due, an account's commit waits for replicas, and they perhaps for us: writers are not made to wait too.
    let accounts_first = acks == 0 && facts.read_only;
    match () {
        // Whether it is still to be primary is not certain now.
        () if facts.read_only && !own.may_open => None,
        () if facts.super_read_only && (bars_due || own.accounts_due && accounts_first) => Some(Step::Unseal),
        () if own.accounts_due && (accounts_first || !facts.read_only) => Some(Step::Accounts),
        () if facts.read_only || facts.super_read_only => Some(Step::Open),
        () => None,
    }
}

fn replica(facts: &Facts, source: &Peer, acknowledges: bool, own: &Own) -> Option<Step> {
    if !facts.super_read_only {
        return Some(Step::Seal);
    }
    let semi = &facts.semi_sync;
    let Some(channel) = facts.channel.as_ref().filter(|channel| channel.host == source.host && channel.user == own.user && channel.tls)
    else {
        // A receiver of another source is stopped first: what it acknowledges must not outlive the order to leave.
        let receiving = facts.channel.as_ref().is_some_and(|channel| channel.receiver != Receiver::Off);
        return Some(match () {
            () if receiving => Step::StopReceiver,
            () if semi.replica_enabled != acknowledges => Step::Acknowledge(acknowledges),
            () => Step::Follow(source.clone()),
        });
    };
    let stale = own.password.as_ref().is_some_and(|password| *password != channel.password);
    let deaf = own.receiver_settled && channel.receiver == Receiver::On && semi.replica_active != acknowledges;
    match () {
        () if semi.replica_enabled != acknowledges || deaf => Some(Step::Acknowledge(acknowledges)),
        () if stale || channel.receiver == Receiver::Off || !channel.applying => Some(Step::Follow(source.clone())),
        // Last: it takes a second, and the new primary's commits wait for this member to receive, not to apply.
        () if semi.source_enabled => Some(Step::SemiSync { acks: 0 }),
        () => None,
    }
}

/// It neither writes nor receives when what it holds is compared. It follows nobody any more.
fn condemned(facts: &Facts, source: &Peer, own: &Own) -> Option<Step> {
    if !facts.super_read_only {
        return Some(Step::Seal);
    }
    let receiving = facts.channel.as_ref().is_some_and(|channel| channel.receiver != Receiver::Off);
    match () {
        () if receiving => Some(Step::StopReceiver),
        () if !own.condemned => Some(Step::Condemn { source: source.clone(), uuid: facts.server_uuid.clone() }),
        () => None,
    }
}

fn isolated(facts: &Facts) -> Option<Step> {
    let channel = facts.channel.as_ref();
    match () {
        () if !facts.super_read_only => Some(Step::Seal),
        () if channel.is_some_and(|channel| channel.receiver != Receiver::Off) => Some(Step::StopReceiver),
        () if channel.is_some() && waits_to_apply(facts) => Some(Step::SemiSync { acks: 0 }),
        () if !facts.applied() && channel.is_some_and(|channel| !channel.applying) => Some(Step::StartApplier),
        () => None,
    }
}

/// Whether an applier would wait for acknowledgements. They go off only once the member is sealed: off, they let go of commits that
/// nobody acknowledged. A sealed member that applies nothing keeps them: to turn them off takes a second.
fn waits_to_apply(facts: &Facts) -> bool {
    facts.super_read_only && facts.semi_sync.source_enabled && !facts.applied()
}

#[cfg(test)]
mod tests {
    use super::super::observe::{Channel, SemiSyncFacts};
    use super::super::sessions::Replicas;
    use super::*;
    use proptest::collection::btree_set;
    use proptest::prelude::*;
    use sidecar_protocol::mysql::Position;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn peer(ordinal: u8) -> Peer {
        Peer { member: format!("shop-{ordinal}"), host: format!("shop-{ordinal}.shop.market.svc") }
    }

    prop_compose! {
        fn position()(executed in 1u64..4, received in 0u64..6) -> Position {
            let set = |last| if last == 0 { String::new() } else { format!("{A}:1-{last}") };
            Position { executed: set(executed).parse().unwrap(), received: set(received).parse().unwrap(), purged: Default::default() }
        }
    }

    prop_compose! {
        fn channel()(
            source in 0u8..3,
            receiver in prop_oneof![Just(Receiver::Off), Just(Receiver::Connecting), Just(Receiver::On)],
            applying: bool, tls: bool, ours: bool, fresh: bool,
        ) -> Channel {
            Channel {
                host: peer(source).host, user: if ours { "r" } else { "x" }.into(), tls, receiver, applying,
                password: Password(if fresh { "new" } else { "old" }.into()), ..Channel::default()
            }
        }
    }

    prop_compose! {
        fn facts()(
            read_only: bool, sealed: bool, position in position(), channel in proptest::option::of(channel()),
            source_enabled: bool, source_acks in 1u32..3, source_strict: bool, replica_enabled: bool, replica_active: bool,
            replicas in replicas(),
        ) -> Facts {
            Facts {
                version: "9.7.0".into(),
                server_uuid: A.into(),
                // MySQL couples the two: super_read_only=ON means read_only=ON.
                read_only: read_only || sealed,
                super_read_only: sealed,
                position, channel,
                semi_sync: SemiSyncFacts { source_enabled, source_acks, source_strict, clients: 0, waiting: 0, replica_enabled, replica_active },
                replicas,
            }
        }
    }

    prop_compose! {
        fn replicas()(accounts in btree_set(0u32..4, 0..4), locked in btree_set(0u32..4, 0..4), dumping in btree_set(0u32..4, 0..4)) -> Replicas {
            Replicas { admitted: &accounts - &locked, locked: &accounts & &locked, dumping }
        }
    }

    fn assignment() -> impl Strategy<Value = Assignment> {
        prop_oneof![
            Just(Assignment::Isolated),
            Just(Assignment::Initialise),
            (0u32..3, barred()).prop_map(|(acks, barred)| Assignment::Primary { acks, members: vec![0, 1], barred }),
            (0u8..3, any::<bool>(), prop_oneof![Just(None), Just(Some(A)), Just(Some(B))]).prop_map(|(source, acknowledges, replace)| {
                Assignment::Replica { source: peer(source), donors: vec![], acknowledges, replace: replace.map(str::to_owned) }
            }),
        ]
    }

    fn barred() -> impl Strategy<Value = Vec<u32>> {
        btree_set(0u32..4, 0..3).prop_map(|barred| barred.into_iter().collect())
    }

    fn own() -> impl Strategy<Value = Own> {
        any::<(bool, bool, bool)>().prop_map(|(accounts_due, condemned, receiver_settled)| Own {
            receiver_settled,
            user: "r".into(),
            password: Some(Password("new".into())),
            accounts_due,
            condemned,
            fenced: false,
            may_open: true,
        })
    }

    /// A mysqld that does what it is told.
    fn obey(facts: &mut Facts, own: &mut Own, step: &Step) {
        let semi = &mut facts.semi_sync;
        match step {
            Step::Seal => (facts.read_only, facts.super_read_only) = (true, true),
            Step::StopReceiver => facts.channel.as_mut().unwrap().receiver = Receiver::Off,
            Step::StartApplier => facts.channel.as_mut().unwrap().applying = true,
            Step::AwaitApplied => facts.position.executed = facts.position.executed.union(&facts.position.received),
            Step::ForgetSource => facts.channel = None,
            Step::SemiSync { acks } => {
                (semi.source_enabled, semi.source_acks, semi.source_strict) = (*acks > 0, *acks, true);
                if *acks > 0 {
                    (semi.replica_enabled, semi.replica_active) = (false, false);
                }
            }
            Step::Bar(barred) => {
                assert!(!facts.super_read_only, "mysqld refuses");
                let all = &facts.replicas.admitted | &facts.replicas.locked;
                facts.replicas.dumping.retain(|ordinal| !barred.contains(ordinal));
                (facts.replicas.locked, facts.replicas.admitted) = all.into_iter().partition(|ordinal| barred.contains(ordinal));
            }
            Step::Unseal => facts.super_read_only = false,
            Step::Accounts => own.accounts_due = false,
            Step::Open => (facts.read_only, facts.super_read_only) = (false, false),
            Step::Follow(source) => {
                facts.channel = Some(Channel {
                    host: source.host.clone(),
                    user: own.user.clone(),
                    password: own.password.clone().unwrap(),
                    tls: true,
                    receiver: Receiver::On,
                    applying: true,
                    ..Channel::default()
                });
                semi.replica_active = semi.replica_enabled;
            }
            Step::Condemn { uuid, .. } => own.condemned = *uuid == facts.server_uuid,
            Step::Pardon => own.condemned = false,
            Step::Acknowledge(on) => (semi.replica_enabled, semi.replica_active) = (*on, *on),
        }
    }

    proptest! {
        #[test]
        fn only_a_primary_ever_opens(facts in facts(), assignment in assignment(), own in own()) {
            let step = plan(&facts, &assignment, &own);
            if matches!(step, Some(Step::Open | Step::Unseal | Step::Accounts | Step::Bar(_))) {
                let is_primary = matches!(assignment, Assignment::Primary { .. });
                prop_assert!(is_primary);
                let following = facts.channel.as_ref().is_some_and(|channel| channel.receiver != Receiver::Off || !facts.applied());
                prop_assert!(!following, "it still follows somebody");
            }
        }

        #[test]
        fn who_must_not_write_is_sealed_before_anything_else(facts in facts(), assignment in assignment(), own in own()) {
            if !matches!(assignment, Assignment::Primary { .. }) && !facts.super_read_only {
                prop_assert_eq!(plan(&facts, &assignment, &own), Some(Step::Seal));
            }
        }

        #[test]
        fn a_fenced_primary_closes_and_does_nothing_else(facts in facts(), acks in 0u32..3, barred in barred(), own in own()) {
            let (order, own) = (Assignment::Primary { acks, members: vec![0, 1], barred }, Own { fenced: true, may_open: false, ..own });
            prop_assert_eq!(plan(&facts, &order, &own), (!facts.super_read_only).then_some(Step::Seal));
            prop_assert!(!converged(&facts, &order, &own));
        }

        #[test]
        fn out_of_contact_nobody_opens_and_who_is_open_stays_so(mut facts in facts(), acks in 0u32..3, barred in barred(), own in own()) {
            let (order, mut own) = (Assignment::Primary { acks, members: vec![0, 1], barred }, Own { may_open: false, ..own });
            let (closed, sealed) = (facts.read_only, facts.super_read_only);
            for _ in 0..12 {
                if let Some(step) = plan(&facts, &order, &own) {
                    obey(&mut facts, &mut own, &step);
                }
            }
            prop_assert_eq!((facts.read_only, facts.super_read_only), (closed, sealed));
            prop_assert!(!closed || !converged(&facts, &order, &own));
        }

        #[test]
        fn nobody_barred_follows_a_member_that_opens(facts in facts(), acks in 0u32..3, barred in barred(), own in own()) {
            let order = Assignment::Primary { acks, members: vec![], barred: barred.clone() };
            let due = !facts.replicas.are_barred(&barred);
            match plan(&facts, &order, &own) {
                Some(Step::Open) => prop_assert!(!due),
                // The one who leaves could be the one who acknowledges.
                Some(Step::SemiSync { .. }) if !facts.super_read_only => prop_assert!(!due),
                _ => {}
            }
            prop_assert!(!(due && converged(&facts, &order, &own)));
        }

        #[test]
        fn a_sealed_member_waits_for_acknowledgements_before_anybody_writes(facts in facts(), acks in 1u32..3, barred in barred(), own in own()) {
            if facts.super_read_only
                && matches!(plan(&facts, &Assignment::Primary { acks, members: vec![], barred }, &own), Some(Step::Open | Step::Unseal))
            {
                prop_assert!(facts.semi_sync.source_enabled && facts.semi_sync.source_strict && facts.semi_sync.source_acks == acks);
            }
        }

        #[test]
        fn nothing_received_is_forgotten_by_a_new_primary(facts in facts(), acks in 0u32..3, own in own()) {
            if plan(&facts, &Assignment::Primary { acks, members: vec![], barred: vec![] }, &own) == Some(Step::ForgetSource) {
                prop_assert!(facts.applied());
            }
        }

        #[test]
        fn every_order_is_reached_in_a_few_steps_and_then_nothing_is_left(mut facts in facts(), assignment in assignment(), mut own in own()) {
            for _ in 0..12 {
                if let Some(step) = plan(&facts, &assignment, &own) {
                    obey(&mut facts, &mut own, &step);
                }
                // A receiver that tries to connect does, in the end.
                if let Some(channel) = facts.channel.as_mut().filter(|channel| channel.receiver == Receiver::Connecting) {
                    channel.receiver = Receiver::On;
                }
                own.receiver_settled = true;
            }
            prop_assert_eq!(plan(&facts, &assignment, &own), None);
            let given_up = condemns(&assignment, A);
            prop_assert_eq!(own.condemned, given_up);
            prop_assert_eq!(converged(&facts, &assignment, &own), !given_up, "who is given up follows nobody");
        }

        #[test]
        fn commits_that_wait_for_acknowledgements_are_not_let_go_before_the_seal(facts in facts(), assignment in assignment(), own in own()) {
            if plan(&facts, &assignment, &own) == Some(Step::SemiSync { acks: 0 }) && !matches!(assignment, Assignment::Primary { .. }) {
                prop_assert!(facts.super_read_only);
            }
        }

        #[test]
        fn only_an_order_that_names_this_data_directory_condemns_it_and_only_when_nothing_changes_it_any_more(
            facts in facts(), assignment in assignment(), own in own()
        ) {
            if let Some(Step::Condemn { uuid, .. }) = plan(&facts, &assignment, &own) {
                prop_assert_eq!(&uuid, A);
                prop_assert!(condemns(&assignment, A) && facts.super_read_only);
                prop_assert!(facts.channel.is_none_or(|channel| channel.receiver == Receiver::Off));
            }
        }

        #[test]
        fn nobody_writes_or_follows_on_a_data_directory_that_is_to_be_discarded(facts in facts(), assignment in assignment(), own in own()) {
            let step = plan(&facts, &assignment, &Own { condemned: true, ..own });
            let opens = matches!(step, Some(Step::Unseal | Step::Accounts | Step::Open | Step::Follow(_)));
            prop_assert!(!opens, "{:?}", step);
        }
    }
}
