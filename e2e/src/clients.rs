//! Applications in other people's words: programs that find their Redis by Sentinel with go-redis, redis-py and ioredis, and append until they
//! are told to stop. Their sources are in `e2e/clients`; they are built once, into the cache.
//!
//! They run on this machine. The Sentinel answers with names that only the cluster's DNS knows, so a program sees the `resolv.conf` of a pod.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::binaries::{digest, fresh_dir, keep, lock, require_go};
use crate::dirs::Dirs;
use crate::ui::Ui;
use crate::{host, network, run};

const GO: [(&str, &str); 3] = [
    ("go.mod", include_str!("../clients/go/go.mod")),
    ("go.sum", include_str!("../clients/go/go.sum")),
    ("main.go", include_str!("../clients/go/main.go")),
];
const PYTHON: [(&str, &str); 2] =
    [("requirements.txt", include_str!("../clients/python/requirements.txt")), ("client.py", include_str!("../clients/python/client.py"))];
const NODE: [(&str, &str); 3] = [
    ("package.json", include_str!("../clients/node/package.json")),
    ("package-lock.json", include_str!("../clients/node/package-lock.json")),
    ("client.js", include_str!("../clients/node/client.js")),
];
/// `$0` takes the place of resolv.conf in a mount namespace of the program's own.
const WITH_DNS: &str = r#"mount --bind "$0" /etc/resolv.conf && exec "$@""#;
/// A statement and a search for the primary that are under way when the program is told to stop.
const LAST_WORDS: Duration = Duration::from_secs(30);
static STARTED: AtomicU32 = AtomicU32::new(0);

/// A client library.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Library {
    /// `github.com/redis/go-redis`.
    GoRedis,
    /// `redis` on PyPI.
    RedisPy,
    /// `ioredis` on npm.
    IoRedis,
}

/// A program that can be started.
#[derive(Clone, Debug)]
pub struct Program(Vec<PathBuf>);

/// What a program does, and where.
#[derive(Clone, Debug)]
pub struct Errand {
    /// `HOST:PORT` of each Sentinel.
    pub sentinels: Vec<String>,
    /// Name of the master.
    pub master: String,
    /// Account in Redis and at the Sentinel.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The CA, in PEM; without one there is no TLS.
    pub ca: Option<String>,
    /// The list to append to.
    pub key: String,
    /// Replicas that have to acknowledge each value.
    pub acks: u32,
    /// Whose pod's DNS it sees; this machine's own if none. Needs root.
    pub namespace: Option<String>,
}

/// A program at work. It dies with this.
pub struct Running {
    child: Child,
    dir: PathBuf,
}

/// What a program saw.
#[derive(Clone, Debug, Deserialize)]
pub struct Report {
    /// The library and its version.
    pub client: String,
    /// How often a value was tried; each is tried until it is acknowledged.
    pub attempts: u64,
    /// The longest time between two acknowledged values.
    pub longest_gap_ms: u64,
    /// Connections to a primary, beyond the first.
    pub reconnects: u64,
    /// What was published on `+switch-master`.
    pub switches: Vec<String>,
    /// The first few different errors, as the library says them.
    pub errors: Vec<String>,
    /// The values that were acknowledged.
    #[serde(skip)]
    pub acknowledged: BTreeSet<String>,
}

/// The program of a library, built when the cache lacks it.
pub async fn program(dirs: &Dirs, ui: &Ui, library: Library) -> Result<Program> {
    match library {
        Library::GoRedis => go(dirs, ui).await,
        Library::RedisPy => python(dirs, ui).await,
        Library::IoRedis => node(dirs, ui).await,
    }
}

async fn go(dirs: &Dirs, ui: &Ui) -> Result<Program> {
    let path = dirs.cache.join(format!("clients/go-{}", digest(GO.iter().map(|(_, text)| *text))));
    // Who builds something else holds the lock for minutes.
    if path.exists() {
        return Ok(Program(vec![path]));
    }
    let _lock = lock(dirs).await?;
    if !path.exists() {
        require_go().await?;
        let source = write("go", dirs, &GO)?;
        ui.step("build the client with go-redis", async {
            run::output(run::command("go").current_dir(&source).env("CGO_ENABLED", "0").args(["build", "-trimpath", "-o", "client", "."]))
                .await
        })
        .await?;
        keep(&source.join("client"), &path)?;
        fs::remove_dir_all(&source)?;
    }
    Ok(Program(vec![path]))
}

async fn python(dirs: &Dirs, ui: &Ui) -> Result<Program> {
    host::install_python(ui).await?;
    let version = run::output(run::command(host::PYTHON).arg("--version")).await?;
    let path = dirs.cache.join(format!("clients/python-{}", digest(PYTHON.iter().map(|(_, text)| *text).chain([&*version]))));
    let program = Program(vec![path.join("venv/bin/python"), path.join("client.py")]);
    if path.exists() {
        return Ok(program);
    }
    let _lock = lock(dirs).await?;
    if !path.exists() {
        let draft = write("python", dirs, &PYTHON)?;
        ui.step("install redis-py", async {
            run::output(run::command(host::PYTHON).args(["-m", "venv"]).arg(draft.join("venv"))).await?;
            let mut pip = run::command(draft.join("venv/bin/python"));
            pip.args(["-m", "pip", "install", "--disable-pip-version-check", "--require-hashes", "--only-binary", ":all:", "-r"]);
            run::output(pip.arg(draft.join("requirements.txt"))).await
        })
        .await?;
        // Only the scripts in it know where it was made: they are not called.
        keep(&draft, &path)?;
    }
    Ok(program)
}

async fn node(dirs: &Dirs, ui: &Ui) -> Result<Program> {
    host::install_node(ui).await?;
    // No part of it is compiled: any Node runs it.
    let path = dirs.cache.join(format!("clients/node-{}", digest(NODE.iter().map(|(_, text)| *text))));
    let program = Program(vec![host::NODE.into(), path.join("client.js")]);
    if path.exists() {
        return Ok(program);
    }
    let _lock = lock(dirs).await?;
    if !path.exists() {
        let draft = write("node", dirs, &NODE)?;
        ui.step("install ioredis", async {
            run::output(run::command("npm").current_dir(&draft).args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])).await
        })
        .await?;
        keep(&draft, &path)?;
    }
    Ok(program)
}

/// A copy of the sources: the checkout may be read-only.
fn write(name: &str, dirs: &Dirs, files: &[(&str, &str)]) -> Result<PathBuf> {
    let dir = fresh_dir(dirs, &format!("work-client-{name}"))?;
    for (file, text) in files {
        fs::write(dir.join(file), text)?;
    }
    Ok(dir)
}

// === impl Program ===

impl Program {
    /// Starts it.
    pub fn start(&self, errand: &Errand) -> Result<Running> {
        let Errand { sentinels, master, user, password, ca, key, acks, namespace } = errand;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("understudy-client-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir)?;
        let file = |name: &str, text: &str| -> Result<PathBuf> {
            let path = dir.join(name);
            let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            std::io::Write::write_all(&mut file, text.as_bytes())?;
            Ok(path)
        };
        let mut command = match namespace {
            Some(namespace) => {
                let zone = "svc.cluster.local";
                let text = format!("nameserver {}\nsearch {namespace}.{zone} {zone} cluster.local\noptions ndots:5\n", network::DNS);
                let mut command = run::command("unshare");
                command.args(["--mount", "sh", "-c", WITH_DNS]).arg(file("resolv.conf", &text)?).args(&self.0);
                command
            }
            None => {
                let mut command = run::command(&self.0[0]);
                command.args(&self.0[1..]);
                command
            }
        };
        command.args(["--sentinels", &sentinels.join(","), "--master", master, "--user", user, "--key", key, "--acks", &acks.to_string()]);
        command.arg("--password-file").arg(file("password", password)?).arg("--acknowledged").arg(file("acknowledged", "")?);
        if let Some(ca) = ca {
            command.arg("--ca").arg(file("ca.crt", ca)?);
        }
        Running::start(command, dir)
    }
}

// === impl Running ===

impl Running {
    fn start(mut command: Command, dir: PathBuf) -> Result<Self> {
        let log = fs::File::create(dir.join("log"))?;
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { child, dir })
    }

    /// The values that were acknowledged until now.
    pub fn acknowledged(&self) -> Result<BTreeSet<String>> {
        let text = fs::read_to_string(self.dir.join("acknowledged"))?;
        // The last line may be half there.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(whole.lines().map(Into::into).collect())
    }

    /// Tells it to stop, and what it saw.
    pub async fn finish(mut self) -> Result<Report> {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        if let Some(pid) = pid {
            kill_process(pid, Signal::TERM)?;
        }
        let mut stdout = self.child.stdout.take().context("stdout was piped")?;
        let mut text = String::new();
        let status = timeout(LAST_WORDS, async {
            tokio::io::AsyncReadExt::read_to_string(&mut stdout, &mut text).await?;
            self.child.wait().await
        });
        let status = status.await.with_context(|| format!("the client does not end\n{}", self.log()))??;
        ensure!(status.success(), "the client: {status}\n{}", self.log());
        let mut report: Report = serde_json::from_str(&text).with_context(|| format!("{text:?} is no report\n{}", self.log()))?;
        report.acknowledged = self.acknowledged()?;
        Ok(report)
    }

    /// The end of what it wrote to stderr.
    pub fn log(&self) -> String {
        run::last_lines(&read(&self.dir.join("log")), 20)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Holds a password. The child is killed when its handle is dropped.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
