//! What a Redis or Valkey member is told on the command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use sidecar_protocol::redis::{Engine, SENTINEL_PORT};
use sidecar_protocol::{API_PORT, HEALTH_PORT};

use super::ordinal;
use crate::redis::{self, Config};
use crate::shell;

/// What a member is told; the defaults are the pod's layout.
#[derive(Args, Debug)]
pub struct Redis {
    /// Name of the cluster.
    #[arg(long, required_unless_present = "standalone")]
    cluster: Option<String>,
    /// UID of the custom resource.
    #[arg(long, required_unless_present = "standalone")]
    cluster_uid: Option<String>,
    /// No operator: ordinal 0 is the primary, the others follow it. Peers are found by DNS.
    #[arg(long, requires = "service", conflicts_with_all = ["cluster", "cluster_uid", "api_port"])]
    standalone: bool,
    /// The headless Service that names the peers, in standalone mode.
    #[arg(long, requires = "standalone")]
    service: Option<String>,
    /// What outlives the database's process.
    #[arg(long, value_enum, default_value_t = Persistence::AppendOnly)]
    persistence: Persistence,
    /// The engine that the image must have; either when it is not given.
    #[arg(long, value_enum)]
    engine: Option<Which>,
    /// A replica that has not heard of its primary for longer is not ready; 0 for ever.
    #[arg(long, value_name = "N", default_value_t = 30)]
    max_replica_lag_seconds: u32,
    /// The volume.
    #[arg(long, default_value = "/data")]
    data: PathBuf,
    /// Shared with the database container.
    #[arg(long, default_value = "/understudy/run")]
    run: PathBuf,
    /// ca.crt, tls.crt, tls.key. May be missing in standalone mode: then there is no TLS.
    #[arg(long, default_value = "/understudy/tls")]
    tls: PathBuf,
    /// The database speaks plain text, whatever certificates there are for the API.
    #[arg(long)]
    no_tls: bool,
    /// Passwords of the members' own accounts: `replication` and, if there is to be one, `exporter`. May be missing in standalone mode: then nobody has to
    /// log in.
    #[arg(long, default_value = "/understudy/system")]
    system: PathBuf,
    /// Passwords of the application's accounts, a file each.
    #[arg(long, default_value = "/understudy/users")]
    users: PathBuf,
    /// The user's redis.conf.
    #[arg(long, default_value = "/understudy/config/redis.conf")]
    config: PathBuf,
    /// The database's program; redis-server or valkey-server of `PATH` unless it is given.
    #[arg(long)]
    server: Option<PathBuf>,
    /// The name that this member announces; `POD.CLUSTER.NAMESPACE.svc` unless it is given.
    #[arg(long)]
    host: Option<String>,
    /// `bind` of the database.
    #[arg(long, default_value = "* -::*")]
    listen: String,
    /// Where clients ask for the primary as they ask a Sentinel; 0 for nowhere.
    #[arg(long, default_value_t = SENTINEL_PORT)]
    sentinel_port: u16,
    /// The name by which they ask; the cluster's unless it is given.
    #[arg(long)]
    master_name: Option<String>,
    /// They need not log in there.
    #[arg(long)]
    no_sentinel_auth: bool,
    /// Port of the API.
    #[arg(long, default_value_t = API_PORT)]
    api_port: u16,
    /// Port of probes and metrics.
    #[arg(long, default_value_t = HEALTH_PORT)]
    health_port: u16,
    /// Pod name, `NAME-ORDINAL`.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
    /// Namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pod_namespace: String,
    /// What the pod gets to end, in seconds; an open primary uses half of it to hand over.
    #[arg(long, env = "TERMINATION_GRACE_SECONDS", default_value_t = 30)]
    termination_grace_seconds: u64,
}

/// How the command line calls them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Persistence {
    AppendOnly,
    Snapshot,
    None,
}

/// How the command line calls them.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Which {
    Redis,
    Valkey,
}

impl Redis {
    /// Runs the member.
    ///
    /// # Errors
    /// What it is told cannot be used, or the shell's reason to end.
    pub fn start(self) -> anyhow::Result<()> {
        let ordinal = ordinal(&self.pod_name)?;
        let cluster = self.cluster.or_else(|| self.service.clone()).context("--cluster or --service is needed")?;
        let tls_dir = (!self.standalone || self.tls.is_dir()).then_some(self.tls);
        let host = self.host.unwrap_or_else(|| match (self.standalone, self.pod_namespace.as_str()) {
            (true, "") => format!("{}.{cluster}", self.pod_name),
            (_, namespace) => format!("{}.{cluster}.{namespace}.svc", self.pod_name),
        });
        let system_dir = (!self.standalone || self.system.is_dir()).then_some(self.system);
        let sentinel = (self.sentinel_port != 0).then(|| redis::Sentinel {
            port: self.sentinel_port,
            master_name: self.master_name.unwrap_or_else(|| cluster.clone()),
            login: system_dir.is_some() && !self.no_sentinel_auth,
        });
        let config = Config {
            member: self.pod_name,
            ordinal,
            cluster,
            namespace: self.pod_namespace,
            host,
            listen: self.listen,
            data_dir: self.data,
            run_dir: self.run,
            tls: tls_dir.is_some() && !self.no_tls,
            tls_dir,
            system_dir,
            users_dir: self.users,
            config_file: self.config,
            program: self.server,
            engine: self.engine.map(|engine| match engine {
                Which::Redis => Engine::Redis,
                Which::Valkey => Engine::Valkey,
            }),
            persistence: match self.persistence {
                Persistence::AppendOnly => redis::Persistence::AppendOnly,
                Persistence::Snapshot => redis::Persistence::Snapshot,
                Persistence::None => redis::Persistence::None,
            },
            max_lag_seconds: self.max_replica_lag_seconds,
            standalone: self.standalone,
            sentinel,
        };
        let mode = match (self.cluster_uid, self.service) {
            (Some(cluster_uid), None) => shell::Mode::Operated { cluster_uid, api_port: self.api_port },
            (None, Some(service)) => shell::Mode::Standalone { name: service },
            _ => anyhow::bail!("either --cluster-uid or --standalone --service"),
        };
        shell::run(redis::Redis::new(config), mode, self.health_port, Duration::from_secs(self.termination_grace_seconds))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    fn parses(more: &[&str]) -> bool {
        Cli::try_parse_from(["sidecar", "redis", "--pod-name", "r-0"].iter().chain(more)).is_ok()
    }

    #[test]
    fn a_member_is_under_an_operator_or_alone() {
        assert!(parses(&["--cluster", "r", "--cluster-uid", "u", "--persistence", "none", "--engine", "valkey"]));
        assert!(parses(&["--standalone", "--service", "r"]));
        assert!(!parses(&[]) && !parses(&["--standalone"]) && !parses(&["--cluster", "r"]));
        assert!(!parses(&["--cluster", "r", "--cluster-uid", "u", "--standalone", "--service", "r"]));
    }
}
