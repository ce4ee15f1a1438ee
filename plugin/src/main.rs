//! `kubectl understudy`: what a person asks of a cluster, and what it answers.
//!
//! Nothing is done here: a verb reads status, Events and the record of decisions, or writes one annotation on the custom resource, guarded by
//! what it was read at, and waits for what the operator makes of it. So everything it does can be done with plain kubectl, too.
//!
//! [`access`] talks to Kubernetes; [`cluster`] is what it has found, of whichever [`engine`]; [`request`] is what may be asked (pure); each verb has its room.

mod access;
mod cli;
mod cluster;
mod engine;
mod explain;
mod fence;
mod kubectl;
mod progress;
mod promote;
mod reclone;
mod request;
mod status;
mod switchover;
mod table;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

use access::Access;
use cli::{Cli, Verb};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("kubectl understudy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<ExitCode> {
    // Somebody below may have installed one; it is this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let access = |name: String| Access::new(cli.place.clone(), name);
    match cli.verb {
        Verb::Status { name } => status::run(&access(name).await?).await?,
        Verb::Switchover { name, to, wait } => switchover::run(&access(name).await?, to.as_deref(), wait.limit()).await?,
        Verb::Promote { name, member, consented, wait } => promote::run(&access(name).await?, &member, consented, wait.limit()).await?,
        Verb::Fence { name, member } => fence::fence(&access(name).await?, &member).await?,
        Verb::Unfence { name, member, all: _ } => fence::unfence(&access(name).await?, member.as_deref()).await?,
        Verb::Reclone { name, member, wait } => reclone::run(&access(name).await?, &member, wait.limit()).await?,
        Verb::Explain { name, last } => explain::run(&access(name).await?, last).await?,
        Verb::Logs { name, member, sidecar, follow, tail } => {
            return kubectl::logs(&access(name).await?, member.as_deref(), sidecar, follow, tail).await;
        }
        Verb::Sql { name, member, primary: _, arguments } => {
            return kubectl::sql(&access(name).await?, member.as_deref(), &arguments).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}
