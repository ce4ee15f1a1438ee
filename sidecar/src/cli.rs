//! The command line: what one may ask for, and in which voice it logs. What `mysql`, `mongo` and `redis` start is in [`shell`](crate::shell).

use std::env::args_os;
use std::ffi::OsString;
use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use sidecar_protocol::{API_PORT, HEALTH_PORT};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::registry;
use tracing_subscriber::util::SubscriberInitExt;

use crate::{guard, live, mysql, shell};

mod mongod;
mod peers;
mod redis;

/// Understudy's sidecar.
#[derive(Debug, Parser)]
#[command(name = "sidecar", version)]
struct Cli {
    /// How to log.
    #[arg(long, global = true, value_enum, default_value_t = LogFormat::Text, env = "LOG_FORMAT")]
    log_format: LogFormat,
    /// What to log: a level, or `target=level` pairs.
    #[arg(long, global = true, default_value = "info", env = "LOG")]
    log: Targets,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LogFormat {
    Json,
    Text,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Copy this program to DEST, for a container that lacks it.
    Install {
        /// The file to make.
        dest: PathBuf,
    },
    /// Exit with 0 if mysqld greets on its socket, mongod answers on its port, or redis-server on its socket.
    Live {
        /// The socket of a mysqld.
        #[arg(long, default_value = "/understudy/run/mysqld.sock")]
        socket: PathBuf,
        /// The port of a mongod, instead.
        #[arg(long, conflicts_with_all = ["socket", "redis"])]
        mongod: Option<u16>,
        /// The socket of a redis-server or valkey-server, instead.
        #[arg(long, num_args = 0..=1, default_missing_value = "/understudy/run/redis.sock", conflicts_with = "socket")]
        redis: Option<PathBuf>,
    },
    /// Run the database as process 1, and end it so that no client is told what nobody else holds.
    Guard {
        /// Port of the sidecar's probes.
        #[arg(long, default_value_t = HEALTH_PORT)]
        health_port: u16,
        /// Run the redis-server or valkey-server that the sidecar has prepared in this directory, instead of a command.
        #[arg(long, value_name = "RUN")]
        redis: Option<PathBuf>,
        /// The command.
        #[arg(last = true, required_unless_present = "redis", conflicts_with = "redis")]
        command: Vec<OsString>,
    },
    /// Stand by a mysqld, under an operator or alone.
    Mysql(Box<Mysql>),
    /// Stand by a mongod, under an operator or alone.
    Mongo(Box<mongod::Mongo>),
    /// Stand by a redis-server or valkey-server, under an operator or alone.
    Redis(Box<redis::Redis>),
    /// Look who is behind a headless Service and give the list to a script: Kubernetes' peer-finder.
    Peers(peers::Peers),
}

/// What a member is told; the defaults are the pod's layout.
#[derive(Args, Debug)]
struct Mysql {
    /// Name of the cluster.
    #[arg(long, required_unless_present = "standalone")]
    cluster: Option<String>,
    /// UID of the custom resource.
    #[arg(long, required_unless_present = "standalone")]
    cluster_uid: Option<String>,
    /// No operator: ordinal 0 is the primary, the others clone and follow. Peers are found by DNS.
    #[arg(long, requires = "service", conflicts_with_all = ["cluster", "cluster_uid", "api_port"])]
    standalone: bool,
    /// The headless Service that names the peers, in standalone mode.
    #[arg(long, requires = "standalone")]
    service: Option<String>,
    /// A replica that lags more is not ready; 0 for any lag.
    #[arg(long, value_name = "N", default_value_t = 30)]
    max_replica_lag_seconds: u32,
    /// The volume.
    #[arg(long, default_value = "/var/lib/mysql")]
    data: PathBuf,
    /// Shared with the database container.
    #[arg(long, default_value = "/understudy/run")]
    run: PathBuf,
    /// ca.crt, tls.crt, tls.key. May be missing in standalone mode.
    #[arg(long, default_value = "/understudy/tls")]
    tls: PathBuf,
    /// Passwords of the internal accounts.
    #[arg(long, default_value = "/understudy/system")]
    system: PathBuf,
    /// The application's account. May be missing.
    #[arg(long, default_value = "/understudy/app")]
    app: PathBuf,
    /// The user's my.cnf.
    #[arg(long, default_value = "/understudy/config/my.cnf")]
    config: PathBuf,
    /// The database's program.
    #[arg(long, default_value = "mysqld")]
    mysqld: PathBuf,
    /// The program that makes SQL of binary logs; without it logs are archived as they are.
    #[arg(long, default_value = "mysqlbinlog")]
    mysqlbinlog: PathBuf,
    /// `bind_address` of mysqld.
    #[arg(long, default_value = "*")]
    listen: String,
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
    /// Address of the pod.
    #[arg(long, env = "POD_IP", default_value = "")]
    pod_ip: String,
    /// What the pod gets to end, in seconds; an open primary uses half of it to hand over.
    #[arg(long, env = "TERMINATION_GRACE_SECONDS", default_value_t = 30)]
    termination_grace_seconds: u64,
}

/// Runs the command line.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(peers::spelled(args_os()));
    let done = match cli.command {
        Command::Install { dest } => live::install(&dest).with_context(|| format!("installing to {}", dest.display())),
        Command::Guard { health_port, redis, command } => {
            let prepared = redis.as_ref().map_or_else(|| Ok(command), |run| guard::redis(run));
            let end = if redis.is_some() { guard::End::InOrder } else { guard::End::Killed };
            match prepared.and_then(|command| guard::run(&command, health_port, end)) {
                Ok(code) => return code,
                Err(error) => Err(anyhow::Error::from(error).context("running the database")),
            }
        }
        Command::Live { mongod: Some(port), .. } => live::knock(port).map_err(anyhow::Error::msg),
        Command::Live { redis: Some(socket), .. } => live::ping(&socket).map_err(anyhow::Error::msg),
        Command::Live { socket, .. } => live::probe(&socket).map_err(anyhow::Error::msg),
        Command::Mysql(mysql) => {
            log(cli.log_format, cli.log);
            mysql.start()
        }
        Command::Mongo(mongo) => {
            log(cli.log_format, cli.log);
            mongo.start()
        }
        Command::Redis(redis) => {
            log(cli.log_format, cli.log);
            redis.start()
        }
        Command::Peers(peers) => {
            log(cli.log_format, cli.log);
            peers.start()
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidecar: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn log(format: LogFormat, targets: Targets) {
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    registry().with(lines.with_filter(targets)).init();
}

/// The ordinal in a pod's name.
fn ordinal(pod: &str) -> anyhow::Result<u32> {
    let ordinal = pod.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
    ordinal.with_context(|| format!("POD_NAME must be NAME-ORDINAL, the name of a StatefulSet's pod; it is {pod:?}"))
}

impl Mysql {
    fn start(self) -> anyhow::Result<()> {
        let ordinal = ordinal(&self.pod_name)?;
        let cluster = self.cluster.or_else(|| self.service.clone()).context("--cluster or --service is needed")?;
        let config = mysql::Config {
            member: self.pod_name,
            ordinal,
            cluster,
            namespace: self.pod_namespace,
            pod_ip: self.pod_ip,
            listen: self.listen,
            data_dir: self.data,
            run_dir: self.run,
            tls_dir: (!self.standalone || self.tls.is_dir()).then_some(self.tls),
            system_dir: self.system,
            app_dir: self.app,
            config_file: self.config,
            mysqld: self.mysqld,
            mysqlbinlog: self.mysqlbinlog,
            max_lag_seconds: self.max_replica_lag_seconds,
            standalone: self.standalone,
        };
        let mode = match (self.cluster_uid, self.service) {
            (Some(cluster_uid), None) => shell::Mode::Operated { cluster_uid, api_port: self.api_port },
            (None, Some(service)) => shell::Mode::Standalone { name: service },
            _ => anyhow::bail!("either --cluster-uid or --standalone --service"),
        };
        shell::run(mysql::Mysql(config), mode, self.health_port, Duration::from_secs(self.termination_grace_seconds))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_operated_member_must_know_its_cluster() {
        assert!(Cli::try_parse_from(["sidecar", "mysql", "--cluster", "shop", "--pod-name", "shop-0"]).is_err());
        assert!(Cli::try_parse_from(["sidecar", "mysql", "--cluster", "shop", "--cluster-uid", "u", "--pod-name", "shop-0"]).is_ok());
    }

    #[test]
    fn a_standalone_member_must_know_its_service_and_has_no_api() {
        assert!(Cli::try_parse_from(["sidecar", "mysql", "--standalone", "--pod-name", "mysql-0"]).is_err());
        let standalone = ["sidecar", "mysql", "--standalone", "--service", "mysql", "--pod-name", "mysql-0"];
        assert!(Cli::try_parse_from(standalone).is_ok());
        assert!(Cli::try_parse_from(standalone.into_iter().chain(["--api-port", "3380"])).is_err());
    }
}
