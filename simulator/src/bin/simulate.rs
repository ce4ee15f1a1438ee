//! Plays schedules: `simulate --seeds 100000` many, on two threads; `simulate --seed N` one, and tells its story.

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use clap::Parser;
use simulator::{Counts, Outcome, run};

/// Plays seeded schedules of faults against the real decisions.
#[derive(Parser)]
struct Cli {
    /// Play this one and tell its story.
    #[arg(long)]
    seed: Option<u64>,
    /// Play this many.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
    /// Begin with this one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
    /// Go on after a violation, and count them by invariant.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = cli.seed {
        return tell(seed);
    }
    let (next, stop) = (AtomicU64::new(cli.from), AtomicBool::new(false));
    let total = Mutex::new((Counts::default(), Vec::<(u64, Outcome)>::new()));
    thread::scope(|scope| {
        for _ in 0..cli.threads {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= cli.from + cli.seeds {
                        break;
                    }
                    let outcome = run(seed, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.0.add(&outcome.counts);
                    if outcome.violation.is_some() {
                        stop.store(!cli.all, Ordering::Relaxed);
                        total.1.push((seed, outcome));
                    }
                }
            });
        }
    });
    let (counts, mut broken) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    broken.sort_by_key(|(seed, _)| *seed);
    println!("{counts:?}");
    for (seed, outcome) in &broken {
        if let Some(violation) = &outcome.violation {
            println!("seed {seed}: {}: {}", violation.invariant, violation.what);
        }
    }
    match broken.first() {
        None => ExitCode::SUCCESS,
        Some((seed, _)) if !cli.all => tell(*seed),
        Some(_) => ExitCode::FAILURE,
    }
}

fn tell(seed: u64) -> ExitCode {
    let outcome = run(seed, true);
    for line in &outcome.story {
        println!("{line}");
    }
    println!("{:?}", outcome.counts);
    match outcome.violation {
        None => ExitCode::SUCCESS,
        Some(violation) => {
            println!("seed {seed} breaks {}: {}", violation.invariant, violation.what);
            ExitCode::FAILURE
        }
    }
}
