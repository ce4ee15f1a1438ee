//! Logging. Fields, not sentences; nothing secret is ever a field.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// kube opens a span around each reconcile that says what ours says; its own level comes first, so that `filter` may change it.
const QUIETER: &str = "kube_runtime=warn";

/// Starts logging to standard error. `filter` falls back to `info` where it cannot be read.
pub fn start(filter: &str, format: LogFormat) {
    let (filter, wrong) = match EnvFilter::try_new(format!("{QUIETER},{filter}")) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new(format!("{QUIETER},info")), Some(error)),
    };
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).init(),
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(true).with_span_list(false).init(),
    }
    if let Some(error) = wrong {
        tracing::warn!(%error, "--log cannot be read; logging at level info");
    }
}
