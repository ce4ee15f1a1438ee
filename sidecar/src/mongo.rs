//! MongoDB's room: everything that one member does to its own mongod, and, while that leads, to the set.
//!
//! mongod elects; [`sidecar_protocol::mongo::plan`] says who is a member. [`run`] is the loop of a member under an operator;
//! [`standalone::run`] gives itself the orders that follow from who else is there. Both observe ([`observe`]), choose one step at a time
//! ([`converge`], pure) and execute it. Probes, TLS to the operator, terms and discovery are the shell's.

mod conf;
pub mod converge;
pub mod dropin;
mod engine;
mod execute;
mod keys;
mod link;
mod member;
mod observe;
mod others;
pub mod pods;
mod ready;
pub mod standalone;
mod users;

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use sidecar_protocol::mongo::{Data, Problem, ProblemCode, Process, State};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

pub use engine::Mongo;
pub use link::Login;
use member::Member;

use crate::engine::Posts;
use crate::files;
use crate::report::Reporter;

/// Between two looks at options that are refused, or a volume that cannot be written: either may be mended in place.
const CONFIG_REST: Duration = Duration::from_secs(2);
/// A mongod that does not find its own name calls itself removed. So one that was in a set is not started before its name is known, but for
/// this long at most: name servers keep a "no" for half a minute.
const NAME_PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for the own name.
const NAME_REST: Duration = Duration::from_millis(200);
/// How mongod is reached: from this very machine, by the name that certificates have.
const LOCAL: &str = "localhost";

/// What a member knows about itself from the start. Paths are those of the pod; tests give their own.
#[derive(Clone, Debug)]
pub struct Config {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Ordinal of the pod.
    pub ordinal: u32,
    /// Its name and port in the set's configuration.
    pub host: String,
    /// Address of the pod; empty when it is not known.
    pub pod_ip: String,
    /// Name of the set; `None` where mongod is started by somebody else, and is asked.
    pub set: Option<String>,
    /// Port of mongod.
    pub port: u16,
    /// `None` where mongod is started by somebody else: then nothing is prepared.
    pub layout: Option<Layout>,
    /// TLS to mongod.
    pub tls: Option<Tls>,
    /// The members' key or two, as mongod takes them; read anew at each look.
    pub key_file: Option<PathBuf>,
    /// Passwords of accounts, by the names of orders.
    pub users_dir: PathBuf,
    /// The user to log in as, where there is no key.
    pub login: Option<Login>,
    /// Who is further behind is not ready; 0 for any lag.
    pub max_lag_seconds: u32,
    /// No operator: the ordinal says who initiates.
    pub standalone: bool,
    /// The set is a config server's (`configsvr`).
    pub config_server: bool,
}

/// Where the files of a prepared member are.
#[derive(Clone, Debug)]
pub struct Layout {
    /// The volume: holds `data/` and `.understudy/`.
    pub data_dir: PathBuf,
    /// Shared with the database container: `mongod.conf`, `keyfile`, `tls.pem`.
    pub run_dir: PathBuf,
    /// The user's options, YAML.
    pub options: PathBuf,
}

/// Who has to speak TLS, in the order in which members change over: each understands the one before and the one after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Whoever wants to; members among themselves do not.
    Allow,
    /// Members among themselves; others as they like.
    Prefer,
    /// Everybody.
    Require,
}

/// How to speak TLS.
#[derive(Clone, Debug)]
pub struct Tls {
    /// `ca.crt`, `tls.crt`, `tls.key`: mounted. `None` where there is no certificate of our own, and public authorities count.
    pub directory: Option<PathBuf>,
    /// Who has to speak it.
    pub mode: TlsMode,
    /// Certificates of mongod are not checked.
    pub unchecked: bool,
}

// === impl Config ===

impl Config {
    /// Whether the database container may start: what it starts with is there. The answer of the startup probe.
    #[must_use]
    pub fn curtain_is_open(&self) -> bool {
        self.layout.as_ref().is_none_or(|layout| layout.conf().is_file())
    }

    /// What is known before anything was observed: the volume, and nothing of the process.
    #[must_use]
    pub fn first_state(&self) -> State {
        let data = self.data();
        let process = if data == Data::Present { Process::Starting } else { Process::Down };
        State { data, process, ..State::default() }
    }

    /// What the volume holds. Where it is somebody else's it is not looked at.
    #[must_use]
    pub fn data(&self) -> Data {
        let Some(layout) = &self.layout else { return Data::Present };
        match fs::read_dir(layout.datadir()) {
            Ok(mut entries) => entries.next().map_or(Data::Empty, |_| Data::Present),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Data::Empty,
            // What cannot be read is not known to be empty.
            Err(_) => Data::Present,
        }
    }

    /// Whether `host` of a configuration is this member.
    #[must_use]
    pub fn is_me(&self, host: &str) -> bool {
        host == self.host || host.split(['.', ':']).next() == Some(&self.member)
    }
}

impl Layout {
    /// `dbPath`.
    #[must_use]
    pub fn datadir(&self) -> PathBuf {
        self.data_dir.join("data")
    }

    /// What mongod starts with.
    #[must_use]
    pub fn conf(&self) -> PathBuf {
        self.run_dir.join("mongod.conf")
    }

    /// The members' keys, as mongod insists on them: nobody else may read them.
    #[must_use]
    pub fn keyfile(&self) -> PathBuf {
        self.run_dir.join("keyfile")
    }

    /// Certificate and key in one file, as mongod and the driver want them.
    #[must_use]
    pub fn pem(&self) -> PathBuf {
        self.run_dir.join("tls.pem")
    }
}

/// Brings the member to the last order given and keeps it there. Ends when dropped.
///
/// # Errors
/// None so far: whatever fails is tried again.
pub async fn run(config: Config, posts: Posts<Mongo>, leaving: watch::Sender<bool>) -> anyhow::Result<()> {
    let Posts { orders, state, tls_changed, guard: _ } = posts;
    let reporter = Reporter::new(state);
    if let Some(layout) = &config.layout {
        prepared(&config, layout, &reporter).await;
    }
    Member::new(config, orders, tls_changed, leaving, reporter).live().await;
    Ok(())
}

/// Writes what mongod starts with; waits, however long, for what cannot be read or written.
async fn prepared(config: &Config, layout: &Layout, reporter: &Reporter<State>) {
    if config.data() == Data::Present {
        named(config).await;
    }
    loop {
        match prepare(config, layout) {
            Ok(()) => return reporter.change(|state| state.problem = None),
            Err(problem) => {
                warn!(reason = problem.message, "mongod cannot be started yet");
                reporter.change(|state| state.problem = Some(problem));
            }
        }
        sleep(CONFIG_REST).await;
    }
}

fn prepare(config: &Config, layout: &Layout) -> Result<(), Problem> {
    let storage = |error: files::FileError| Problem::new(ProblemCode::Storage, error);
    // A running mongod keeps its configuration until it is started anew; what it may read again is always current.
    secrets(config, layout)?;
    let options = match files::read(&layout.options) {
        Err(error) if error.is_missing() => String::new(),
        read => read.map_err(|error| Problem::new(ProblemCode::ConfigRejected, error))?,
    };
    let text = conf::text(config, layout, &options).map_err(|why| Problem::new(ProblemCode::ConfigRejected, why))?;
    fs::create_dir_all(layout.datadir())
        .map_err(|error| Problem::new(ProblemCode::Storage, format!("{}: {error}", layout.datadir().display())))?;
    files::write(&layout.conf(), &text).map_err(storage)
}

/// Writes keys and certificates the way that mongod reads them.
fn secrets(config: &Config, layout: &Layout) -> Result<(), Problem> {
    let unusable = |error: files::FileError| Problem::new(ProblemCode::Credentials, error);
    if let Some(path) = &config.key_file {
        let keys = keys::read(path).map_err(|why| Problem::new(ProblemCode::Credentials, why))?;
        replace(&layout.keyfile(), &keys::text(&keys))?;
    }
    if let Some(directory) = config.tls.as_ref().and_then(|tls| tls.directory.as_ref()) {
        let both = [files::read(&directory.join("tls.crt")).map_err(unusable)?, files::read(&directory.join("tls.key")).map_err(unusable)?];
        replace(&layout.pem(), &(both.join("\n") + "\n"))?;
    }
    Ok(())
}

fn replace(path: &Path, text: &str) -> Result<(), Problem> {
    if fs::read_to_string(path).is_ok_and(|there| there == text) {
        return Ok(());
    }
    files::seal(path, text).map_err(|error| Problem::new(ProblemCode::Storage, error))
}

/// Until the name server knows this member by its name, at its address.
async fn named(config: &Config) {
    let begun = Instant::now();
    while !resolves(config).await {
        if begun.elapsed() > NAME_PATIENCE {
            warn!(host = config.host, "the own name is not known yet; mongod starts all the same");
            return;
        }
        sleep(NAME_REST).await;
    }
    info!(host = config.host, "the own name is known");
}

/// Whether a mongod that looks for its own name finds it now.
async fn resolves(config: &Config) -> bool {
    match lookup_host(&config.host).await {
        Ok(mut found) => found.any(|address| config.pod_ip.is_empty() || address.ip().to_string() == config.pod_ip),
        Err(_) => false,
    }
}
