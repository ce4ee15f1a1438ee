//! `make bench`: speed, memory and what a lost primary costs, each figure beside its floor from the same run, on the machine that it names.
//!
//! Nothing here passes or fails: machines are noisy, so figures are read, and compared within one run. `bench gaps idle` measures a part.

mod births;
mod copies;
mod gaps;
mod quiet;
mod redis;
mod seeker;
mod sentinels;
mod stage;
mod starts;
mod table;
mod writer;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use e2e::Lab;
use e2e::dirs::Dirs;
use e2e::ui::Ui;

/// Measures Understudy in the running lab.
#[derive(Parser)]
struct Arguments {
    /// What to measure; everything, unless named.
    what: Vec<Part>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From apply to three ready members.
    Births,
    /// Clones; memory.
    Copies,
    /// Cold start; size of the image.
    Starts,
    /// Time without an acknowledged write, by what happens to the primary.
    Gaps,
    /// The same of a MongoReplicaSet, and its sidecar's memory.
    Mongo,
    /// The same of a RedisReplication, beside real Sentinels.
    Redis,
    /// CPU without a client.
    Idle,
    /// False failovers on saturated cores: BUSY_MINUTES of them, 10 unless given.
    Busy,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let parts = if arguments.what.is_empty() { Part::value_variants() } else { &arguments.what };
    let dirs = Dirs::from_env()?;
    let ui = Ui::default();
    let lab = Lab::attach().await?;
    stage::install(&lab, &dirs).await?;
    table::head()?;
    for part in parts {
        match part {
            Part::Births => births::measure(&lab, &ui).await?,
            Part::Copies => copies::measure(&lab, &dirs, &ui).await?,
            Part::Starts => starts::measure(&lab, &dirs, &ui).await?,
            Part::Gaps => gaps::mysql(&lab, &ui).await?,
            Part::Mongo => gaps::mongo(&lab, &ui).await?,
            Part::Redis => redis::measure(&lab, &ui).await?,
            Part::Idle => quiet::idle(&lab, &ui).await?,
            Part::Busy => quiet::busy(&lab, &ui).await?,
        }
    }
    Ok(())
}
