//! What a MongoDB member is told on the command line, or by mongo-k8s-sidecar's environment.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use sidecar_protocol::mongo::PORT;
use sidecar_protocol::{API_PORT, HEALTH_PORT};

use super::ordinal;
use crate::discovery::Discovery;
use crate::mongo::dropin::Environment;
use crate::mongo::standalone::{By, Pace, Source};
use crate::mongo::{Config, Layout, Login, Tls, TlsMode};
use crate::{files, mongo, shell};

/// Port name of the Service, which SRV records are made of.
const SERVICE_PORT: &str = "mongodb";

/// Between two looks at who is there, in standalone mode.
const PERIOD: Duration = Duration::from_secs(1);

/// What a member is told; the defaults are the pod's layout.
#[derive(Args, Debug)]
pub struct Mongo {
    /// Name of the cluster, and of its set.
    #[arg(long, required_unless_present_any = ["standalone", "drop_in"])]
    cluster: Option<String>,
    /// UID of the custom resource.
    #[arg(long, required_unless_present_any = ["standalone", "drop_in"])]
    cluster_uid: Option<String>,
    /// No operator: ordinal 0 initiates the set, whoever is there is a member. Peers are found by DNS.
    #[arg(long, requires = "service", conflicts_with_all = ["cluster", "cluster_uid", "api_port", "drop_in"])]
    standalone: bool,
    /// The same, told by the environment variables of mongo-k8s-sidecar.
    #[arg(long, conflicts_with_all = ["cluster", "cluster_uid", "api_port", "service"])]
    drop_in: bool,
    /// The headless Service that names the peers, in standalone mode.
    #[arg(long, requires = "standalone")]
    service: Option<String>,
    /// A secondary that lags more is not ready; 0 for any lag.
    #[arg(long, value_name = "N", default_value_t = 30)]
    max_replica_lag_seconds: u32,
    /// On its own, who is neither found nor well for this long is removed.
    #[arg(long, value_name = "N", default_value_t = 15)]
    unhealthy_seconds: u64,
    /// The volume.
    #[arg(long, default_value = "/data/db")]
    data: PathBuf,
    /// Shared with the database container.
    #[arg(long, default_value = "/understudy/run")]
    run: PathBuf,
    /// ca.crt, tls.crt, tls.key. May be missing in standalone mode.
    #[arg(long, default_value = "/understudy/tls")]
    tls: PathBuf,
    /// `net.tls.mode` of mongod, which is given one under an operator.
    #[arg(long, value_enum, default_value_t = NetTls::RequireTls)]
    tls_mode: NetTls,
    /// The members' key, or two of them as a YAML list. May be missing in standalone mode.
    #[arg(long, default_value = "/understudy/key/keyfile")]
    key: PathBuf,
    /// Passwords of accounts.
    #[arg(long, default_value = "/understudy/users")]
    users: PathBuf,
    /// `username` and `password` of the first user, in standalone mode. May be missing.
    #[arg(long, default_value = "/understudy/login")]
    login: PathBuf,
    /// The user's options, YAML.
    #[arg(long, default_value = "/understudy/config/mongod.conf")]
    config: PathBuf,
    /// Port of mongod.
    #[arg(long, default_value_t = PORT)]
    port: u16,
    /// This member's name and port in the set's configuration; `POD.CLUSTER.NAMESPACE.svc:PORT` unless it is given.
    #[arg(long)]
    host: Option<String>,
    /// Port of the API.
    #[arg(long, default_value_t = API_PORT)]
    api_port: u16,
    /// Port of probes and metrics.
    #[arg(long, default_value_t = HEALTH_PORT)]
    health_port: u16,
    /// Pod name, `NAME-ORDINAL`.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pod_name: String,
    /// Namespace of the pod.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pod_namespace: String,
    /// Address of the pod.
    #[arg(long, env = "POD_IP", default_value = "")]
    pod_ip: String,
    /// What the pod gets to end, in seconds; a primary uses half of it to hand over.
    #[arg(long, env = "TERMINATION_GRACE_SECONDS", default_value_t = 30)]
    termination_grace_seconds: u64,
}

/// mongod's words.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum NetTls {
    #[value(name = "disabled")]
    Disabled,
    #[value(name = "allowTLS")]
    AllowTls,
    #[value(name = "preferTLS")]
    PreferTls,
    #[value(name = "requireTLS")]
    RequireTls,
}

impl NetTls {
    fn of(self, directory: PathBuf) -> Option<Tls> {
        let mode = match self {
            Self::Disabled => return None,
            Self::AllowTls => TlsMode::Allow,
            Self::PreferTls => TlsMode::Prefer,
            Self::RequireTls => TlsMode::Require,
        };
        Some(Tls { directory: Some(directory), mode, unchecked: false })
    }
}

impl Mongo {
    /// Runs the member.
    ///
    /// # Errors
    /// What it is told cannot be used, or the shell's reason to end.
    pub fn start(self) -> anyhow::Result<()> {
        let grace = Duration::from_secs(self.termination_grace_seconds);
        let health_port = self.health_port;
        let (engine, mode) = match self {
            Self { drop_in: true, .. } => self.drop_in()?,
            Self { service: Some(_), .. } => self.alone()?,
            _ => self.operated()?,
        };
        shell::run(engine, mode, health_port, grace)
    }

    fn operated(self) -> anyhow::Result<(mongo::Mongo, shell::Mode)> {
        let cluster = self.cluster.context("--cluster is needed")?;
        let cluster_uid = self.cluster_uid.context("--cluster-uid is needed")?;
        let host = self.host.unwrap_or_else(|| format!("{}.{cluster}.{}.svc:{}", self.pod_name, self.pod_namespace, self.port));
        let config = Config {
            ordinal: ordinal(&self.pod_name)?,
            member: self.pod_name,
            host,
            pod_ip: self.pod_ip,
            set: Some(cluster),
            port: self.port,
            layout: Some(Layout { data_dir: self.data, run_dir: self.run, options: self.config }),
            tls: self.tls_mode.of(self.tls),
            key_file: Some(self.key),
            users_dir: self.users,
            login: None,
            max_lag_seconds: self.max_replica_lag_seconds,
            standalone: false,
            config_server: false,
        };
        Ok((mongo::Mongo::new(config), shell::Mode::Operated { cluster_uid, api_port: self.api_port }))
    }

    fn alone(self) -> anyhow::Result<(mongo::Mongo, shell::Mode)> {
        let service = self.service.context("--service is needed")?;
        let read = |name: &str| files::read(&self.login.join(name));
        let login = match self.login.is_dir() {
            true => Some(Login::User { name: read("username")?, password: read("password")?, source: "admin".into() }),
            false => None,
        };
        let tls = if self.tls.is_dir() { self.tls_mode.of(self.tls) } else { None };
        let config = Config {
            ordinal: ordinal(&self.pod_name)?,
            host: self.host.unwrap_or_else(|| format!("{}.{service}:{}", self.pod_name, self.port)),
            member: self.pod_name,
            pod_ip: self.pod_ip,
            set: None,
            port: self.port,
            layout: None,
            tls,
            key_file: self.key.is_file().then_some(self.key),
            users_dir: self.users,
            login,
            max_lag_seconds: self.max_replica_lag_seconds,
            standalone: true,
            config_server: false,
        };
        let discovery = Discovery::new(&service, SERVICE_PORT, &config.member)?;
        let unhealthy = Duration::from_secs(self.unhealthy_seconds);
        let source = Source { by: By::Dns(discovery.into()), port: self.port, pace: Pace { period: PERIOD, unhealthy } };
        Ok((mongo::Mongo::alone(config, source), shell::Mode::Standalone { name: service }))
    }

    fn drop_in(self) -> anyhow::Result<(mongo::Mongo, shell::Mode)> {
        let Environment { member, service, pods, period, unhealthy, port, config_server, login, tls, key_file } =
            Environment::read(|name| env::var(name).ok())?;
        let name = service.clone().unwrap_or_else(|| member.clone());
        let by = match (pods, &service) {
            (Some(pods), _) => By::Pods(pods),
            (None, Some(service)) => By::Dns(Discovery::new(service, SERVICE_PORT, &member)?.into()),
            (None, None) => anyhow::bail!("KUBERNETES_MONGO_SERVICE_NAME is needed"),
        };
        let config = Config {
            ordinal: ordinal(&member)?,
            host: service.map_or_else(|| format!("{member}:{port}"), |service| format!("{member}.{service}:{port}")),
            member,
            pod_ip: self.pod_ip,
            set: None,
            port,
            layout: None,
            tls,
            key_file: key_file.or_else(|| self.key.is_file().then_some(self.key)),
            users_dir: self.users,
            login,
            max_lag_seconds: self.max_replica_lag_seconds,
            standalone: true,
            config_server,
        };
        Ok((mongo::Mongo::alone(config, Source { by, port, pace: Pace { period, unhealthy } }), shell::Mode::Standalone { name }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::Cli;

    fn parses(more: &[&str]) -> bool {
        Cli::try_parse_from(["sidecar", "mongo", "--pod-name", "m-0"].iter().chain(more)).is_ok()
    }

    #[test]
    fn a_member_is_under_an_operator_or_alone_or_a_drop_in() {
        assert!(parses(&["--cluster", "m", "--cluster-uid", "u"]));
        assert!(parses(&["--standalone", "--service", "m"]));
        assert!(parses(&["--drop-in"]));
        assert!(!parses(&[]) && !parses(&["--standalone"]) && !parses(&["--cluster", "m"]));
        assert!(!parses(&["--drop-in", "--standalone", "--service", "m"]) && !parses(&["--drop-in", "--cluster", "m"]));
    }
}
