//! Many schedules, on several threads.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::{Counts, Outcome, run};

/// What became of many schedules.
#[derive(Debug, Default)]
pub struct Total {
    /// What happened in all of them.
    pub counts: Counts,
    /// Those that broke an invariant, by seed.
    pub broken: Vec<(u64, Outcome)>,
}

/// Plays `seeds` schedules from `from` on; the first violation ends it, unless `all` are wanted.
#[must_use]
pub fn many(from: u64, seeds: u64, threads: usize, all: bool) -> Total {
    let (next, stop, total) = (AtomicU64::new(from), AtomicBool::new(false), Mutex::new(Total::default()));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + seeds {
                        break;
                    }
                    let outcome = run(seed, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.counts.add(&outcome.counts);
                    if outcome.violation.is_some() {
                        stop.store(!all, Ordering::Relaxed);
                        total.broken.push((seed, outcome));
                    }
                }
            });
        }
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    total.broken.sort_by_key(|(seed, _)| *seed);
    total
}
