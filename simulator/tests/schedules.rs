//! The simulation itself: it finds nothing in the source as it is, it reaches what it is for, it can be replayed, and its list of bugs fits.

use std::path::Path;

use simulator::mutation::list;
use simulator::{many, run};

/// Schedules in the test command; `SEEDS` plays another number.
const SCHEDULES: u64 = 20_000;

#[test]
fn under_every_schedule_the_invariants_hold() {
    let seeds = std::env::var("SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(SCHEDULES);
    let total = many(0, seeds, 2, false);
    println!("{:?}", total.counts);
    if let Some((seed, _)) = total.broken.first() {
        let outcome = run(*seed, true);
        let from = outcome.story.len().saturating_sub(80);
        println!("{}", outcome.story[from..].join("\n"));
        panic!(
            "seed {seed} breaks an invariant: {:?}; all of it: cargo run -p simulator --bin simulate -- --seed {seed}",
            outcome.violation
        );
    }
    // A schedule that reaches nothing proves nothing.
    let counts = total.counts;
    let often = |what: &str, count: u64, one_in: u64| assert!(count >= seeds / one_in, "too few {what}: {count} in {seeds} schedules");
    often("acknowledged writes", counts.acknowledged, 1);
    often("failovers", counts.failovers, 3);
    often("hand-overs", counts.switchovers, 3);
    often("lost volumes", counts.volumes, 5);
    often("members cloned anew", counts.recloned, 20);
    often("primaries that closed themselves", counts.fenced, 20);
    assert!(counts.consented + counts.gone < seeds / 4, "most schedules heal without a person: {counts:?}");
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in [3, 8, 21] {
        assert_eq!(run(seed, true).story, run(seed, true).story);
    }
}

#[test]
fn every_mutation_still_has_its_place() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mutations = list(root).unwrap();
    assert!(mutations.len() >= 15);
    let page = std::fs::read_to_string(root.join("docs/simulator.md")).unwrap();
    for mutation in mutations {
        assert!(
            page.contains(&format!("| {} | {} |", mutation.name, mutation.breaks)),
            "docs/simulator.md does not list: {}",
            mutation.name
        );
        let source = std::fs::read_to_string(root.join(&mutation.file)).unwrap();
        assert_ne!(mutation.apply(&source).unwrap(), source, "{} changes nothing", mutation.name);
    }
}
