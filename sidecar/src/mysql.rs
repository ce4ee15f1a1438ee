//! MySQL's room: everything that one member does to its own mysqld.
//!
//! [`run`] is the loop of a member under an operator; [`standalone::run`] gives itself the orders that follow from its ordinal.
//! Both observe ([`observe`]), plan one step at a time ([`converge`], pure) and execute it. What is in here decides nothing about
//! other members: who is primary is the operator's business. Probes, TLS to the operator, terms and discovery are the shell's.

mod accounts;
mod archive;
mod cnf;
mod condemned;
pub mod converge;
mod engine;
mod execute;
mod files;
mod join;
mod member;
mod nudge;
pub mod observe;
pub mod ready;
mod report;
mod scratch;
mod seal;
pub mod sessions;
mod sql;
pub mod standalone;

use std::path::PathBuf;
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Data, ProblemCode, Process, State};
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tracing::warn;

use condemned::Sentence;
pub use engine::Mysql;
use files::FileError;
use member::Member;
use report::{Reporter, problem};

use crate::fence::Guard;

/// Between two looks at a configuration that mysqld refused, or a volume that cannot be written: either may be mended in place.
const CONFIG_REST: Duration = Duration::from_secs(2);

/// What a member knows about itself from the start. Paths are those of the pod; tests give their own.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Ordinal of the pod.
    pub ordinal: u32,
    /// Name of the cluster (of the governing Service in standalone mode).
    pub cluster: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Address of the pod.
    pub pod_ip: String,
    /// `bind_address` of mysqld; `*` in a pod.
    pub listen: String,
    /// The volume: holds `data/`, `.joining/` and `.understudy/`.
    pub data_dir: PathBuf,
    /// Shared with the database container: `my.cnf`, `init.sql`, `mysqld.sock`.
    pub run_dir: PathBuf,
    /// `ca.crt`, `tls.crt`, `tls.key`; without it mysqld makes its own certificates and nobody verifies them.
    pub tls_dir: Option<PathBuf>,
    /// Passwords `replication` and `clone`.
    pub system_dir: PathBuf,
    /// `username`, `password` and `database` of the application's owner; empty or missing without one.
    pub app_dir: PathBuf,
    /// The user's my.cnf.
    pub config_file: PathBuf,
    /// The database's program; looked up in `PATH` when it has no slash.
    pub mysqld: PathBuf,
    /// The program that makes SQL of binary logs; may be missing.
    pub mysqlbinlog: PathBuf,
    /// A replica that lags more is not ready; 0 for any lag.
    pub max_lag_seconds: u32,
    /// No operator: accounts require TLS but no certificate.
    pub standalone: bool,
}

impl Config {
    /// The data directory of mysqld. It exists if and only if it is complete.
    #[must_use]
    pub fn datadir(&self) -> PathBuf {
        self.data_dir.join("data")
    }

    /// Where mysqld listens for us.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("mysqld.sock")
    }

    /// The configuration that the database container starts with. It exists only once mysqld has found it valid.
    #[must_use]
    pub fn my_cnf(&self) -> PathBuf {
        self.run_dir.join("my.cnf")
    }

    /// Whether the database container may start: its data directory is complete and its configuration valid.
    /// This is the answer of the startup probe.
    #[must_use]
    pub fn curtain_is_open(&self) -> bool {
        self.datadir().is_dir() && self.my_cnf().is_file()
    }

    /// What tells this data directory from one before or after it: its `server_uuid`, unless it is to be discarded.
    #[must_use]
    pub fn data_identity(&self) -> Option<String> {
        let condemned = condemned::marked(self).ok()?.is_some();
        condemned::server_uuid(&self.datadir()).filter(|_| !condemned)
    }

    /// What is known before anything was observed: the volume, and nothing of the process.
    #[must_use]
    pub fn first_state(&self) -> State {
        let sentence = condemned::sentence(self).unwrap_or(Sentence::None);
        // What is about to be discarded counts no more: nobody is to be told of it and act on it.
        let present = self.datadir().is_dir() && sentence != Sentence::Now;
        let (archive, condemned) = (archive::newest(self), sentence == Sentence::Later);
        State { archive, condemned, ..unmet(if present { Data::Present } else { Data::Empty }) }
    }
}

/// What is true of a member with this data before anybody looked at its mysqld, which may run, or not yet (I4).
#[must_use]
pub fn unmet(data: Data) -> State {
    let present = data == Data::Present;
    let process = if present { Process::Starting } else { Process::Down };
    State { may_acknowledge: present, process, data, ..State::default() }
}

/// Brings the member to the last order given and keeps it there, reporting through `state`. Returns only with an error that no
/// retry mends; ends when dropped.
///
/// # Errors
/// The volume or the run directory cannot be written.
pub async fn run(
    config: Config,
    orders: watch::Receiver<Option<Order<Assignment>>>,
    state: watch::Sender<State>,
    tls_changed: watch::Receiver<u64>,
    guard: Guard,
) -> anyhow::Result<()> {
    let reporter = Reporter::new(state);
    discarded(&config, &reporter).await;
    let local_password = prepared(&config, &reporter).await;
    let user = composed(&config, &reporter).await?;
    let mut orders = orders;
    if !config.datadir().is_dir() {
        join::fill(&config, &user, &local_password, &mut orders, &reporter).await?;
    }
    let access = execute::Access { config: config.into(), local_password: local_password.into() };
    Member::new(access, orders, tls_changed, guard, reporter).live().await;
    Ok(())
}

/// Discards a condemned data directory, however long the volume refuses.
async fn discarded(config: &Config, reporter: &Reporter) {
    loop {
        let blocking = config.clone();
        let due = spawn_blocking(move || if condemned::bury(&blocking)? { condemned::clear(&blocking) } else { Ok(()) });
        let Err(error) = due.await.expect("it does not panic, and is not cancelled") else { return };
        warn!(%error, "the condemned data directory cannot be discarded");
        reporter.problem(problem(ProblemCode::Storage, error));
        sleep(CONFIG_REST).await;
    }
}

/// Makes the files that are the sidecar's own, however long the volume refuses. Returns the local password.
async fn prepared(config: &Config, reporter: &Reporter) -> String {
    loop {
        let password = files::local_password(config).and_then(|password| {
            files::write(&config.run_dir.join("init.sql"), &cnf::init_sql(&password))?;
            Ok(password)
        });
        match password {
            Ok(password) => return password,
            Err(error) => {
                warn!(%error, "the volume cannot be used");
                reporter.problem(problem(ProblemCode::Storage, error));
            }
        }
        sleep(CONFIG_REST).await;
    }
}

/// Writes my.cnf once mysqld finds it valid; until then the curtain stays closed. Returns the user's part.
async fn composed(config: &Config, reporter: &Reporter) -> Result<String, FileError> {
    let draft = config.run_dir.join("my.cnf.draft");
    loop {
        let wrong = match files::read(&config.config_file) {
            Err(error) => problem(ProblemCode::ConfigRejected, error),
            Ok(user) => {
                let text = cnf::server(config, &user);
                files::write(&draft, &text)?;
                match scratch::validate(config, &draft).await {
                    Ok(()) => {
                        files::write(&config.my_cnf(), &text)?;
                        reporter.problem(None);
                        return Ok(user);
                    }
                    // mysqld runs with an earlier one, and goes on with it: a member is not left alone for a file's sake.
                    Err(error) if config.curtain_is_open() => {
                        warn!(%error, "mysqld would not start with the new configuration; the old one stays");
                        return Ok(user);
                    }
                    Err(error) => problem(ProblemCode::ConfigRejected, error),
                }
            }
        };
        warn!(reason = wrong.message, "mysqld would not start with this configuration");
        reporter.problem(wrong);
        sleep(CONFIG_REST).await;
    }
}
