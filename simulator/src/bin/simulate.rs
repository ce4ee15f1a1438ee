//! Plays schedules: `simulate --seeds 100000` many; `simulate --seed N` one, and tells its story.

use std::process::ExitCode;

use clap::Parser;
use simulator::{many, run};

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
    /// Go on after a violation, and list them all.
    #[arg(long)]
    all: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A panic is told as a violation of I13.
    std::panic::set_hook(Box::new(|_| {}));
    if let Some(seed) = cli.seed {
        return tell(seed);
    }
    let total = many(cli.from, cli.seeds, cli.threads, cli.all);
    println!("{:?}", total.counts);
    for (seed, outcome) in total.broken.iter().filter(|_| cli.all) {
        if let Some(violation) = &outcome.violation {
            println!("seed {seed}: {}: {}", violation.invariant, violation.what);
        }
    }
    match total.broken.first() {
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
