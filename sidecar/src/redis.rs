//! Redis' and Valkey's room: everything that one member does to its own database process.
//!
//! [`run`] is the loop of a member under an operator; [`standalone::run`] gives itself the orders that follow from who else is there. Both observe
//! ([`observe`]), plan one step at a time ([`converge`], pure) and execute it. A process that starts follows nobody and takes no writes ([`conf`]), and
//! forgets where it was; what it held is written down ([`position`]). Who is primary is the operator's business.

mod accounts;
mod archive;
mod conf;
pub mod converge;
mod engine;
mod execute;
mod handover;
mod identity;
mod keeper;
mod link;
mod member;
mod news;
pub mod observe;
mod past;
pub mod position;
mod program;
mod ready;
pub mod sentinel;
pub mod standalone;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, Data, Engine, Problem, ProblemCode, Process, State};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

pub use engine::Redis;
use member::Member;
use position::Memory;

use crate::engine::Posts;
use crate::files::{self, At, FileError};
use crate::report::Reporter;
use crate::shell;

/// Between two looks at options that are refused, or a volume that cannot be written: either may be mended in place.
const CONFIG_REST: Duration = Duration::from_secs(2);
/// The certificates that the database reads.
const CERTIFICATES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// What outlives the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// Every write, in the append-only file.
    AppendOnly,
    /// What the last snapshot has.
    Snapshot,
    /// Nothing.
    None,
}

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
    /// The name that it announces to the others.
    pub host: String,
    /// `bind` of the database.
    pub listen: String,
    /// The volume: holds `data/` and `.understudy/`.
    pub data_dir: PathBuf,
    /// Shared with the database container: `redis.conf`, `server`, `redis.sock`, the certificates.
    pub run_dir: PathBuf,
    /// `ca.crt`, `tls.crt`, `tls.key`; the shell's as well.
    pub tls_dir: Option<PathBuf>,
    /// The database speaks TLS, and nothing else.
    pub tls: bool,
    /// Passwords of the members' own accounts; without them nobody has to log in.
    pub system_dir: Option<PathBuf>,
    /// Passwords of the application's accounts, a file each.
    pub users_dir: PathBuf,
    /// The user's redis.conf.
    pub config_file: PathBuf,
    /// The database's program; looked up in `PATH` unless it is given.
    pub program: Option<PathBuf>,
    /// Which engine it must be.
    pub engine: Option<Engine>,
    /// What outlives the process.
    pub persistence: Persistence,
    /// A replica that was not heard for longer is not ready; 0 for ever.
    pub max_lag_seconds: u32,
    /// No operator.
    pub standalone: bool,
    /// How it answers as a Sentinel does; not at all without.
    pub sentinel: Option<Sentinel>,
}

/// What clients that know Sentinel are told.
#[derive(Clone, Debug)]
pub struct Sentinel {
    /// The port.
    pub port: u16,
    /// By which they ask for the primary.
    pub master_name: String,
    /// They log in, as any of the application's accounts.
    pub login: bool,
}

// === impl Config ===

impl Config {
    /// The data directory of the database.
    #[must_use]
    pub fn datadir(&self) -> PathBuf {
        self.data_dir.join("data")
    }

    /// What the sidecar keeps on the volume.
    #[must_use]
    pub fn private(&self) -> PathBuf {
        self.data_dir.join(".understudy")
    }

    /// Where the database listens for us.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("redis.sock")
    }

    /// The configuration that the database container starts with.
    #[must_use]
    pub fn redis_conf(&self) -> PathBuf {
        self.run_dir.join("redis.conf")
    }

    /// Whether the database container may start: it has a program and a configuration that this one takes. The answer of the startup probe.
    #[must_use]
    pub fn curtain_is_open(&self) -> bool {
        self.redis_conf().is_file() && self.run_dir.join(crate::guard::SERVER_FILE).is_file()
    }

    /// What is known before anything was observed: the volume, and nothing of the process.
    #[must_use]
    pub fn first_state(&self) -> State {
        let present = !self.is_blank();
        State {
            data: if present { Data::Present } else { Data::Empty },
            process: if present { Process::Starting } else { Process::Down },
            identity: identity::read(&self.private()),
            persistent: self.persistence != Persistence::None,
            archive: archive::newest(self),
            ..State::default()
        }
    }

    /// Whether the data directory has nothing in it. What cannot be read is not known to be empty.
    fn is_blank(&self) -> bool {
        match fs::read_dir(self.datadir()) {
            Ok(mut entries) => entries.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        }
    }
}

/// What is on the volume, and what the database is started with.
struct Prepared {
    local_password: String,
    identity: String,
    memory: Option<Memory>,
    /// The certificates are others than those that a database which runs already has read.
    renewed: bool,
}

/// Brings the member to the last order given and keeps it there. Ends when dropped.
///
/// # Errors
/// None so far: whatever fails is tried again.
pub async fn run(config: Config, posts: Posts<Redis>, leaving: watch::Receiver<u64>) -> anyhow::Result<()> {
    let Posts { orders, state, tls_changed, guard } = posts;
    let answering = answer(&config, orders.clone(), state.subscribe(), tls_changed.clone());
    let reporter = Reporter::new(state);
    let living = async {
        let prepared = prepared(&config, &reporter).await;
        Member::new(config.clone(), prepared, orders, tls_changed, guard, leaving, &reporter).live().await;
    };
    tokio::select! {
        () = living => Ok(()),
        ended = answering => ended,
    }
}

/// Answers as a Sentinel does, if it is to.
async fn answer(
    config: &Config,
    orders: watch::Receiver<Option<Order<Assignment>>>,
    state: watch::Receiver<State>,
    tls_changed: watch::Receiver<u64>,
) -> anyhow::Result<()> {
    let Some(Sentinel { port, master_name, login }) = config.sentinel.clone() else { return std::future::pending().await };
    let Config { member, host, tls, tls_dir, users_dir, .. } = config.clone();
    let names = sentinel::Names { member, host, master_name, port };
    let tls_dir = tls_dir.filter(|_| tls);
    let sentinel = sentinel::Config { names, tls_dir, users_dir: login.then_some(users_dir) };
    sentinel::run(sentinel, shell::listen(port).await?, orders, state, tls_changed).await;
    anyhow::bail!("the Sentinel endpoint ended")
}

/// Prepares what the database starts with; waits, however long, for what cannot be read, written or started with.
async fn prepared(config: &Config, reporter: &Reporter<State>) -> Prepared {
    loop {
        match prepare(config).await {
            Ok(prepared) => {
                reporter.change(|state| {
                    state.problem = None;
                    state.identity = Some(prepared.identity.clone());
                });
                return prepared;
            }
            Err(problem) => {
                warn!(reason = problem.message, "the database cannot be started yet");
                reporter.change(|state| state.problem = Some(problem));
            }
        }
        sleep(CONFIG_REST).await;
    }
}

async fn prepare(config: &Config) -> Result<Prepared, Problem> {
    let storage = |error: FileError| Problem::new(ProblemCode::Storage, error);
    let mut prepared = volume(config).map_err(storage)?;
    // One that has not been started yet reads them then.
    let runs = config.curtain_is_open();
    prepared.renewed = certificates(config)? && runs;
    let program = program::find(config).await?;
    let user = match files::read(&config.config_file) {
        Err(error) if error.is_missing() => String::new(),
        read => read.map_err(|error| Problem::new(ProblemCode::ConfigRejected, error))?,
    };
    match program::check(config, &program.path, &user).await {
        Ok(()) => {
            files::write(&config.redis_conf(), &conf::server(config, &user, &prepared.local_password)).map_err(storage)?;
            files::write(&config.run_dir.join(crate::guard::SERVER_FILE), &program.path.to_string_lossy()).map_err(storage)?;
        }
        // It runs with earlier ones, and goes on with them: a member is not left alone for a file's sake.
        Err(problem) if config.curtain_is_open() => {
            warn!(reason = problem.message, "the database would not start with the new options; the old ones stay");
        }
        Err(problem) => return Err(problem),
    }
    info!(engine = ?program.engine, version = program.version, "the database may start");
    Ok(prepared)
}

/// What is the sidecar's own on the volume.
fn volume(config: &Config) -> Result<Prepared, FileError> {
    let private = config.private();
    files::private_dir(&private)?;
    fs::create_dir_all(config.datadir()).at(&config.datadir())?;
    let local_password = identity::local_password(&private)?;
    let mut memory = Memory::read(&private)?;
    // An append-only file is there as soon as the database has been: somebody has emptied the directory.
    if config.persistence == Persistence::AppendOnly && config.is_blank() && memory.take().is_some() {
        warn!("the data directory is empty, and was not: these are other data");
        identity::renewed(&private)?;
        Memory::forget(&private)?;
    }
    Ok(Prepared { local_password, identity: identity::made(&private)?, memory, renewed: false })
}

/// Writes the certificates where the database reads them; says whether they are others than before.
fn certificates(config: &Config) -> Result<bool, Problem> {
    let Some(directory) = config.tls_dir.as_ref().filter(|_| config.tls) else { return Ok(false) };
    let mut changed = false;
    for name in CERTIFICATES {
        let text = files::read(&directory.join(name)).map_err(|error| Problem::new(ProblemCode::Credentials, error))? + "\n";
        changed |= replace(&config.run_dir.join(name), &text).map_err(|error| Problem::new(ProblemCode::Storage, error))?;
    }
    Ok(changed)
}

fn replace(path: &Path, text: &str) -> Result<bool, FileError> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(false);
    }
    files::write(path, text).map(|()| true)
}
