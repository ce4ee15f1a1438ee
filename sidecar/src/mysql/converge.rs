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
    /// Commits wait for this many replicas; 0 turns semi-sync off.
    SemiSync {
        /// How many.
        acks: u32,
    },
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
    match assignment {
        Assignment::Primary { acks, .. } => primary(facts, *acks, own),
        Assignment::Replica { source, acknowledges, .. } => replica(facts, source, *acknowledges, own),
        Assignment::Isolated | Assignment::Initialise => isolated(facts),
    }
}

/// Whether all of `assignment` holds: nothing is left to do, and what was done took effect.
#[must_use]
pub fn converged(facts: &Facts, assignment: &Assignment, own: &Own) -> bool {
    plan(facts, assignment, own).is_none()
        && match (assignment, &facts.channel) {
            (Assignment::Replica { .. }, Some(channel)) => channel.receiver == Receiver::On && channel.applying,
            (Assignment::Replica { .. }, None) => false,
            _ => true,
        }
}

fn primary(facts: &Facts, acks: u32, own: &Own) -> Option<Step> {
    if let Some(channel) = &facts.channel {
        // I3: whatever was received may have been acknowledged. It is applied before anybody writes.
        return Some(match () {
            () if channel.receiver != Receiver::Off => Step::StopReceiver,
            () if facts.applied() => Step::ForgetSource,
            () if channel.applying => Step::AwaitApplied,
            () => Step::StartApplier,
        });
    }
    let semi = &facts.semi_sync;
    if semi.replica_enabled {
        return Some(Step::Acknowledge(false));
    }
    let set = if acks == 0 { !semi.source_enabled } else { semi.source_enabled && semi.source_acks == acks && semi.source_strict };
    if !set {
        return Some(Step::SemiSync { acks });
    }
    // With acknowledgements due, an account's commit waits for replicas, and they perhaps for us: writers are not made to wait too.
    let accounts_first = acks == 0 && facts.read_only;
    match () {
        () if own.accounts_due && accounts_first && facts.super_read_only => Some(Step::Unseal),
        () if own.accounts_due && (accounts_first || !facts.read_only) => Some(Step::Accounts),
        () if facts.read_only || facts.super_read_only => Some(Step::Open),
        () => None,
    }
}

fn replica(facts: &Facts, source: &Peer, acknowledges: bool, own: &Own) -> Option<Step> {
    if let Some(step) = quiet(facts) {
        return Some(step);
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
    let deaf = channel.receiver == Receiver::On && semi.replica_active != acknowledges;
    match () {
        () if semi.replica_enabled != acknowledges || deaf => Some(Step::Acknowledge(acknowledges)),
        () if stale || channel.receiver == Receiver::Off || !channel.applying => Some(Step::Follow(source.clone())),
        () => None,
    }
}

fn isolated(facts: &Facts) -> Option<Step> {
    if let Some(step) = quiet(facts) {
        return Some(step);
    }
    let channel = facts.channel.as_ref();
    match () {
        () if channel.is_some_and(|channel| channel.receiver != Receiver::Off) => Some(Step::StopReceiver),
        () if facts.semi_sync.replica_enabled => Some(Step::Acknowledge(false)),
        () if !facts.applied() && channel.is_some_and(|channel| !channel.applying) => Some(Step::StartApplier),
        () => None,
    }
}

/// What a member that must not write does first. Semi-sync goes off only when it is sealed: off, it lets go of commits that nobody
/// acknowledged.
fn quiet(facts: &Facts) -> Option<Step> {
    match () {
        () if !facts.super_read_only => Some(Step::Seal),
        () if facts.semi_sync.source_enabled => Some(Step::SemiSync { acks: 0 }),
        () => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::observe::{Channel, SemiSyncFacts};
    use super::*;
    use proptest::prelude::*;
    use sidecar_protocol::mysql::Position;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

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
        ) -> Facts {
            Facts {
                version: "9.7.0".into(),
                server_uuid: A.into(),
                // MySQL couples the two: super_read_only=ON means read_only=ON.
                read_only: read_only || sealed,
                super_read_only: sealed,
                position, channel,
                semi_sync: SemiSyncFacts { source_enabled, source_acks, source_strict, clients: 0, replica_enabled, replica_active },
            }
        }
    }

    fn assignment() -> impl Strategy<Value = Assignment> {
        prop_oneof![
            Just(Assignment::Isolated),
            Just(Assignment::Initialise),
            (0u32..3).prop_map(|acks| Assignment::Primary { acks, members: vec![0, 1], barred: vec![] }),
            (0u8..3, any::<bool>()).prop_map(|(source, acknowledges)| Assignment::Replica {
                source: peer(source),
                donors: vec![],
                acknowledges,
                replace: None
            }),
        ]
    }

    fn own() -> impl Strategy<Value = Own> {
        any::<bool>().prop_map(|accounts_due| Own { user: "r".into(), password: Some(Password("new".into())), accounts_due })
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
            Step::SemiSync { acks } => (semi.source_enabled, semi.source_acks, semi.source_strict) = (*acks > 0, *acks, true),
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
            Step::Acknowledge(on) => (semi.replica_enabled, semi.replica_active) = (*on, *on),
        }
    }

    proptest! {
        #[test]
        fn only_a_primary_ever_opens(facts in facts(), assignment in assignment(), own in own()) {
            let step = plan(&facts, &assignment, &own);
            if matches!(step, Some(Step::Open | Step::Unseal | Step::Accounts)) {
                let is_primary = matches!(assignment, Assignment::Primary { .. });
                prop_assert!(is_primary);
                prop_assert!(facts.channel.is_none(), "it still follows somebody");
            }
        }

        #[test]
        fn who_must_not_write_is_sealed_before_anything_else(facts in facts(), assignment in assignment(), own in own()) {
            if !matches!(assignment, Assignment::Primary { .. }) && !facts.super_read_only {
                prop_assert_eq!(plan(&facts, &assignment, &own), Some(Step::Seal));
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
            }
            prop_assert_eq!(plan(&facts, &assignment, &own), None);
            prop_assert!(converged(&facts, &assignment, &own));
        }

        #[test]
        fn commits_that_wait_for_acknowledgements_are_not_let_go_before_the_seal(facts in facts(), assignment in assignment(), own in own()) {
            if plan(&facts, &assignment, &own) == Some(Step::SemiSync { acks: 0 }) && !matches!(assignment, Assignment::Primary { .. }) {
                prop_assert!(facts.super_read_only);
            }
        }
    }
}
