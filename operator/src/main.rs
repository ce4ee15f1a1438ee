//! The operator's binary: reads the command line, starts the runtime, says why it ended.

use std::process::ExitCode;

use clap::Parser;
use operator::cli::{Cli, Command};
use operator::{check, run, telemetry};

// One thread: the operator waits far more than it computes, and a second thread costs memory (its own malloc arena) in every cluster.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let end = match Cli::parse().command {
        Command::Run(options) => {
            telemetry::start(&options.log, options.log_format);
            run::run(options).await.map_err(anyhow::Error::from)
        }
        Command::Check { url } => check::run(&url).await.map(|answer| println!("{answer}")).map_err(anyhow::Error::from),
    };
    match end {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}
