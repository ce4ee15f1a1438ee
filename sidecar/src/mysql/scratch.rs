//! A mysqld of the sidecar's own, in the scratch directory: it initialises, or receives a clone, and dies.
//!
//! It is killed, not shut down, once its work is durable: InnoDB recovers from that by design, and a shutdown waits for timers.

use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::sql::Sql;
use super::{Config, cnf, files};

/// A config check only parses.
const VALIDATE_DEADLINE: Duration = Duration::from_secs(60);
/// Initialising takes two seconds; a slow disk may take minutes.
const INITIALISE_DEADLINE: Duration = Duration::from_secs(600);
/// Putting a clone of many files in place at start may take long; a process that ends is noticed at once.
const START_DEADLINE: Duration = Duration::from_secs(3600);
/// Between two tries to connect to a starting server.
const START_POLL: Duration = Duration::from_millis(50);
/// How much of mysqld's output is kept for the message.
const KEPT_OUTPUT: usize = 16 * 1024;

/// Why the scratch server did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// The volume or the run directory.
    #[error(transparent)]
    File(#[from] files::FileError),
    /// mysqld cannot be started, or cannot be waited for.
    #[error("{program}: {source}")]
    Spawn {
        /// What we ran.
        program: String,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// mysqld ended with an error.
    #[error("mysqld says: {0}")]
    Failed(String),
    /// It took too long.
    #[error("mysqld took longer than {} s", .0.as_secs())]
    Deadline(Duration),
}

/// A running scratch server.
pub struct Scratch {
    child: Child,
    output: JoinHandle<String>,
    socket: PathBuf,
}

/// Asks mysqld whether it would take this configuration; its own words if not.
///
/// # Errors
/// It refuses, or cannot be asked.
pub async fn validate(config: &Config, my_cnf: &Path) -> Result<(), ScratchError> {
    let program = Command::new(&config.mysqld)
        .arg(format!("--defaults-file={}", my_cnf.display()))
        .arg("--validate-config")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    match timeout(VALIDATE_DEADLINE, program).await {
        Err(_) => Err(ScratchError::Deadline(VALIDATE_DEADLINE)),
        Ok(Err(source)) => Err(ScratchError::Spawn { program: config.mysqld.display().to_string(), source }),
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(ScratchError::Failed(cnf::complaint(&String::from_utf8_lossy(&output.stderr)))),
    }
}

/// Wipes the scratch directory and initialises a new data directory in it.
///
/// # Errors
/// mysqld fails, or the volume does.
pub async fn initialise(config: &Config, user: &str, local_password: &str) -> Result<PathBuf, ScratchError> {
    let joining = files::joining(config);
    files::wipe(&joining)?;
    let (data, first) = (joining.join("data"), config.run_dir.join("first.sql"));
    files::write(&first, &cnf::first_sql(local_password))?;
    let (mut child, output) = spawn(config, user, &data, &["--initialize-insecure", &format!("--init-file={}", first.display())])?;
    let ended = timeout(INITIALISE_DEADLINE, child.wait()).await;
    let status = ended.map_err(|_| ScratchError::Deadline(INITIALISE_DEADLINE))?.map_err(|source| spawning(config, source))?;
    let _ = std::fs::remove_file(&first);
    if status.success() { Ok(data) } else { Err(ScratchError::Failed(cnf::complaint(&output.await.unwrap_or_default()))) }
}

fn spawn(config: &Config, user: &str, data: &Path, arguments: &[&str]) -> Result<(Child, JoinHandle<String>), ScratchError> {
    let my_cnf = config.run_dir.join("scratch.cnf");
    files::write(&my_cnf, &cnf::scratch(config, user, data, &socket(config)))?;
    let mut child = Command::new(&config.mysqld)
        .arg(format!("--defaults-file={}", my_cnf.display()))
        .args(arguments)
        // mysqld ends with its own exit code after a clone when it believes that somebody restarts it.
        .env("MYSQLD_PARENT_PID", std::process::id().to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| spawning(config, source))?;
    let stderr = child.stderr.take();
    Ok((child, tokio::spawn(tail(stderr))))
}

fn spawning(config: &Config, source: std::io::Error) -> ScratchError {
    ScratchError::Spawn { program: config.mysqld.display().to_string(), source }
}

fn socket(config: &Config) -> PathBuf {
    config.run_dir.join("scratch.sock")
}

/// Reads mysqld's output to its end, so that it never blocks on a full pipe; keeps the last part.
async fn tail(output: Option<impl AsyncRead + Unpin>) -> String {
    let (mut kept, mut buffer) = (Vec::new(), [0; 4096]);
    let Some(mut output) = output else { return String::new() };
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        kept.extend_from_slice(&buffer[..count]);
        let excess = kept.len().saturating_sub(KEPT_OUTPUT);
        kept.drain(..excess);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

// === impl Scratch ===

impl Scratch {
    /// Starts a server on `data` and waits until it answers.
    ///
    /// # Errors
    /// It ends, or never answers.
    pub async fn start(config: &Config, user: &str, data: &Path, local_password: &str) -> Result<(Self, Sql), ScratchError> {
        let socket = socket(config);
        let (child, output) = spawn(config, user, data, &[])?;
        let mut scratch = Self { child, output, socket };
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            if let Ok(sql) = scratch.connect(local_password).await {
                return Ok((scratch, sql));
            }
            if scratch.ended().is_some() {
                return Err(ScratchError::Failed(cnf::complaint(&scratch.output.await.unwrap_or_default())));
            }
            if Instant::now() > deadline {
                return Err(ScratchError::Deadline(START_DEADLINE));
            }
            sleep(START_POLL).await;
        }
    }

    /// One more connection.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn connect(&self, local_password: &str) -> Result<Sql, super::sql::SqlError> {
        Sql::local(&self.socket, local_password).await
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills it and waits until it is gone.
    pub async fn kill(mut self) {
        // Already gone is as good.
        let _ = self.child.kill().await;
        let _ = std::fs::remove_file(&self.socket);
    }
}
