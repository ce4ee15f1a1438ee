//! seed → what is done to the cluster, in which order and for how long (pure). Whom it meets is known only when it is done.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::chance::Chance;

/// What can happen to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    KillPrimary,
    KillPrimaryTwice,
    KillReplica,
    KillEveryDatabase,
    KillSidecar,
    KillOperator,
    DeletePrimary,
    DeletePrimaryAtOnce,
    DeleteReplicaAtOnce,
    FreezePrimary,
    FreezeReplica,
    IsolatePrimary,
    IsolateReplica,
    Halves,
    OperatorFromPrimary,
    OperatorFromAll,
    LosePrimarysNode,
    LoseAnyNode,
    PauseApi,
    LoseVolume,
    SwitchOver,
}

/// All of them.
pub const ALL: [Fault; 21] = [
    Fault::KillPrimary,
    Fault::KillPrimaryTwice,
    Fault::KillReplica,
    Fault::KillEveryDatabase,
    Fault::KillSidecar,
    Fault::KillOperator,
    Fault::DeletePrimary,
    Fault::DeletePrimaryAtOnce,
    Fault::DeleteReplicaAtOnce,
    Fault::FreezePrimary,
    Fault::FreezeReplica,
    Fault::IsolatePrimary,
    Fault::IsolateReplica,
    Fault::Halves,
    Fault::OperatorFromPrimary,
    Fault::OperatorFromAll,
    Fault::LosePrimarysNode,
    Fault::LoseAnyNode,
    Fault::PauseApi,
    Fault::LoseVolume,
    Fault::SwitchOver,
];

/// One fault of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub fault: Fault,
    /// Chooses among those whom the fault may meet.
    pub pick: usize,
    /// How long it lasts, where it lasts.
    pub hold: Duration,
    /// How long the cluster is left alone afterwards; nothing: until it is ready.
    pub rest: Option<Duration>,
}

/// Shorter than a detection, and longer than a failover.
const HOLD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(12));
/// The next fault may come in the middle of what the last one began.
const REST: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// The faults with these names, separated by commas.
pub fn named(names: &str) -> Result<Vec<Fault>> {
    let fault = |name: &str| ALL.into_iter().find(|fault| format!("{fault:?}") == name);
    names.split(',').map(|name| fault(name).with_context(|| format!("no fault {name}; there are {ALL:?}"))).collect()
}

/// Steps without end: each of `faults` once in each round, in an order of its own.
pub fn plan(seed: u64, faults: Vec<Fault>) -> impl Iterator<Item = Step> {
    let mut chance = Chance::new(seed);
    let mut deck = Vec::new();
    std::iter::from_fn(move || {
        if deck.is_empty() {
            deck.clone_from(&faults);
            chance.shuffle(&mut deck);
        }
        let fault = deck.pop()?;
        let pick = chance.below(1 << 16);
        let hold = chance.between(HOLD.0, HOLD.1);
        let rest = (chance.below(3) > 0).then(|| chance.between(REST.0, REST.1));
        Some(Step { fault, pick, hold, rest })
    })
}

#[test]
fn a_seed_repeats_its_plan_and_a_round_leaves_no_fault_out() {
    let round = |seed| plan(seed, ALL.to_vec()).take(ALL.len()).collect::<Vec<_>>();
    assert_eq!(round(7), round(7));
    assert_ne!(round(7), round(8));
    let mut faults: Vec<_> = round(7).iter().map(|step| step.fault).collect();
    faults.sort();
    assert_eq!(faults, ALL);
    assert_eq!(named("PauseApi,Halves").unwrap(), [Fault::PauseApi, Fault::Halves]);
    assert!(plan(7, ALL.to_vec()).take(500).all(|step| step.hold >= HOLD.0 && step.hold <= HOLD.1));
}
