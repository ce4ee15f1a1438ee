//! `mongod-model`: a replica-set member that answers as mongod does, for tests where MongoDB's server cannot be.
//!
//! What it is held to is the contract suite in `tests/contract`, which runs unchanged against a real mongod (`MONGOD=/path`), and
//! what a real 5.0.7 answered. What it is not: a database. No indexes, transactions, change streams, cursors with a second batch,
//! read concerns but `local` and `majority`, compression, horizons by SNI, sharding; the oplog is never cut and is held in memory.
//!
//! The rooms: `wire` and `tls` (bytes), `server` (connections), `commands` (one file a family), `node` (the state behind one lock),
//! `heartbeat`, `election`, `replication` (the tasks that make a set), `store` (what a restart remembers); and the pure rules in
//! `config`, `vote`, `roles`, `store::query`.

mod commands;
mod config;
mod election;
mod failure;
mod heartbeat;
mod member;
mod node;
mod optime;
mod options;
mod peer;
mod replication;
mod roles;
mod scram;
mod server;
mod store;
mod text;
mod tls;
mod version;
mod vote;
mod wire;

use std::sync::Arc;

use anyhow::Result;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::node::Node;
use crate::options::{Options, Settled};
use crate::peer::find_self;
use crate::store::Store;

#[tokio::main]
async fn main() -> Result<()> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    let options = Options::parse().settle()?;
    tracing::info!(version = %options.version, port = options.port, set = options.set, "this is a model of mongod, not a database");
    run(options).await
}

async fn run(options: Settled) -> Result<()> {
    let store = Store::open(&options.dbpath, options.version)?;
    let node = Arc::new(Node::new(options, store));
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    server::listen(&node).await?;
    if node.options.set.is_some() {
        rejoin(&node).await;
        tokio::spawn(election::clock(node.clone()));
        tokio::spawn(replication::copy(node.clone()));
    }
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    commands::step::terminate(&node).await;
    Ok(())
}

/// Takes one's place in the configuration of the last run, if this process is still in it.
async fn rejoin(node: &Arc<Node>) {
    let Some(config) = node.read(|core| core.config().cloned()) else { return };
    let mine = find_self(node, &config).await;
    let me = if let [me] = mine.as_slice() { Some(*me) } else { None };
    node.change(|core| {
        // A heartbeat may have brought a newer one meanwhile.
        if core.generation == 0 {
            core.install(config, me);
        }
    });
    heartbeat::start(node);
}
