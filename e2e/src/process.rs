//! The lab's background processes: started detached, found again by pid file, and found without one by looking through /proc.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::dirs::Dirs;
use crate::run;

/// How long a process may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);
/// How long the kernel may take to end a process after SIGKILL.
const KILL_DEADLINE: Duration = Duration::from_secs(20);

/// A process of the lab and how it is started.
#[derive(Clone, Debug)]
pub struct Component {
    /// Names the log and the pid file.
    pub name: String,
    /// The program and its arguments.
    pub argv: Vec<String>,
}

impl Component {
    /// A component from its name and command line.
    pub fn new(name: impl Into<String>, program: &Path, arguments: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let argv = std::iter::once(program.display().to_string()).chain(arguments.into_iter().map(Into::into)).collect();
        Self { name: name.into(), argv }
    }

    /// Starts it unless it runs with exactly this command line; a running one with another is replaced.
    pub async fn ensure(&self, dirs: &Dirs) -> Result<()> {
        if let Some(process) = Process::recorded(dirs, &self.name) {
            if process.argv() == self.argv {
                return Ok(());
            }
            process.stop().await?;
        }
        // An interrupted start may have left it running without a pid file.
        let started = match Process::all().into_iter().find(|process| process.argv() == self.argv) {
            Some(process) => process,
            None => self.start(dirs)?,
        };
        fs::write(dirs.lab.join(format!("{}.pid", self.name)), format!("{} {}", started.pid, started.since))?;
        Ok(())
    }

    fn start(&self, dirs: &Dirs) -> Result<Process> {
        let log = dirs.log(&self.name);
        fs::create_dir_all(log.parent().context("logs have a directory")?)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(log)?;
        // setsid: neither Ctrl-C nor the end of the terminal reaches it.
        let child = Command::new("setsid")
            .args(&self.argv)
            .current_dir(&dirs.lab)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        Process::find(i32::try_from(child.id())?)
            .with_context(|| format!("{} ended at once; see {}", self.name, dirs.log(&self.name).display()))
    }
}

/// A living process; its start time tells it from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    /// The process id.
    pub pid: i32,
    since: u64,
}

impl Process {
    /// The living, not yet ended process with this id.
    pub fn find(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name in parentheses may hold anything; fields count from behind it: state is the third, the start time the 22nd.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        if matches!(*fields.first()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, since: fields.get(19)?.parse().ok()? })
    }

    /// The component that the lab started under this name, if it still runs.
    pub fn recorded(dirs: &Dirs, name: &str) -> Option<Self> {
        let text = fs::read_to_string(dirs.lab.join(format!("{name}.pid"))).ok()?;
        let (pid, since) = text.split_once(' ')?;
        Self::find(pid.parse().ok()?).filter(|process| Ok(process.since) == since.parse())
    }

    /// Everything that runs now.
    pub fn all() -> Vec<Self> {
        let entries = fs::read_dir("/proc").into_iter().flatten();
        entries.filter_map(|entry| Self::find(entry.ok()?.file_name().to_str()?.parse().ok()?)).collect()
    }

    /// Processes whose control group names `id`: those of one container.
    pub fn in_cgroup(id: &str) -> Vec<Self> {
        Self::all().into_iter().filter(|process| process.read("cgroup").contains(id)).collect()
    }

    /// Processes of the lab below `dir` (the whole lab or one node): components and shims that name it in their command line, and
    /// containers, known by another mount namespace whose root lies there.
    pub fn below(dir: &Path) -> Vec<Self> {
        const PROGRAMS: [&str; 4] = ["kube-", "containerd", "ctr", "lab"];
        let inside = format!("{}/", dir.display());
        let host = fs::read_link("/proc/self/ns/mnt").ok();
        let ours = |process: &Self| {
            let argv = process.argv();
            let program = argv.first().and_then(|program| program.rsplit('/').next()).unwrap_or_default();
            let component =
                PROGRAMS.iter().any(|prefix| program.starts_with(prefix)) && argv.iter().any(|argument| argument.contains(&inside));
            component || (process.mount_namespace() != host && process.root_lies_in(&inside))
        };
        let own = std::process::id();
        Self::all().into_iter().filter(|process| process.pid.cast_unsigned() != own && ours(process)).collect()
    }

    /// Its command line.
    pub fn argv(&self) -> Vec<String> {
        self.read("cmdline").split_terminator('\0').map(Into::into).collect()
    }

    /// Runs it this program? Not if it only stands by another one.
    pub fn is(&self, program: &str) -> bool {
        let argv = self.argv();
        argv.first().is_some_and(|path| path.ends_with(program)) && argv.get(1).is_none_or(|command| command != "guard")
    }

    /// Its environment, as it was started with.
    pub fn environ(&self) -> Vec<String> {
        self.read("environ").split_terminator('\0').map(Into::into).collect()
    }

    /// Is it process 1 of its container?
    pub fn is_container_init(&self) -> bool {
        let status = self.read("status");
        let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        ids.is_some_and(|ids| ids.split_whitespace().count() > 1 && ids.split_whitespace().next_back() == Some("1"))
    }

    /// Sends a signal; a process that has ended meanwhile is no error.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if Self::find(self.pid) != Some(*self) {
            return Ok(());
        }
        let pid = Pid::from_raw(self.pid).context("process ids are positive")?;
        match kill_process(pid, signal) {
            Err(error) if error != rustix::io::Errno::SRCH => Err(error).with_context(|| format!("cannot signal process {}", self.pid)),
            _ => Ok(()),
        }
    }

    /// Ends it: asks first, then kills.
    pub async fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM)?;
        if self.wait_gone(GRACE).await.is_err() {
            self.signal(Signal::KILL)?;
            self.wait_gone(KILL_DEADLINE).await?;
        }
        Ok(())
    }

    async fn wait_gone(&self, deadline: Duration) -> Result<()> {
        run::wait(&format!("process {} to end", self.pid), deadline, async || Ok((Self::find(self.pid) != Some(*self)).then_some(()))).await
    }

    /// Only the root counts: private namespaces of the host's services see the lab's mounts too.
    fn root_lies_in(&self, dir: &str) -> bool {
        self.read("mountinfo").lines().any(|mount| mount.split(' ').nth(4) == Some("/") && mount.contains(dir))
    }

    fn mount_namespace(&self) -> Option<std::path::PathBuf> {
        fs::read_link(format!("/proc/{}/ns/mnt", self.pid)).ok()
    }

    /// A file of /proc; empty once the process has ended.
    fn read(&self, file: &str) -> String {
        let bytes = fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Kills with SIGKILL all that `list` finds, again until it finds nothing: a dying parent may have left new children.
pub async fn kill_all(what: &str, list: impl Fn() -> Vec<Process>) -> Result<()> {
    run::wait(&format!("{what} to end"), KILL_DEADLINE, async || {
        let left: BTreeSet<_> = list().into_iter().collect();
        for process in &left {
            process.signal(Signal::KILL)?;
        }
        Ok(left.is_empty().then_some(()))
    })
    .await
}
