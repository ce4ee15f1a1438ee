//! The command line: the only place where options and environment variables are read.

use std::net::SocketAddr;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs primary-replica databases on Kubernetes.
#[derive(Debug, Parser)]
#[command(version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve custom resources until told to stop.
    Run(Run),
    /// Ask a URL and say whether it answered 200.
    Check {
        /// Such as `http://understudy:8080/readyz`.
        #[arg(long)]
        url: String,
    },
}

/// Options of `operator run`.
#[derive(Clone, Debug, Args)]
pub struct Run {
    /// Namespaces to serve; all of them if absent.
    #[arg(long = "namespaces", visible_alias = "namespace", env = "UNDERSTUDY_NAMESPACES", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Image that pods take the sidecar from.
    #[arg(long, env = "UNDERSTUDY_SIDECAR_IMAGE")]
    pub sidecar_image: String,
    /// What is logged: a level, or target=level pairs separated by commas.
    #[arg(long, env = "UNDERSTUDY_LOG", default_value = "info")]
    pub log: String,
    /// How it is logged.
    #[arg(long, env = "UNDERSTUDY_LOG_FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// Where probes and metrics are served, in plain HTTP.
    #[arg(long, env = "UNDERSTUDY_HEALTH_ADDRESS", default_value = "0.0.0.0:8080")]
    pub health_address: SocketAddr,
    /// Take turns with other operators by a Lease. Needed with more than one of them; costs a write every few seconds.
    #[arg(long, env = "UNDERSTUDY_LEADER_ELECT")]
    pub leader_elect: bool,
    /// Name of the Lease.
    #[arg(long, env = "UNDERSTUDY_LEASE", default_value = "understudy")]
    pub lease: String,
    /// This pod's name: who holds the Lease, who reports events.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    pub pod_name: String,
    /// This pod's namespace: where the Lease is.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    pub pod_namespace: String,
}

/// Format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON document a line.
    Json,
}
