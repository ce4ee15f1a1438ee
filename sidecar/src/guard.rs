//! Process 1 of the database container: runs the server, and decides how it ends.
//!
//! A mysqld that is told to shut down lets go of commits that wait for acknowledgements, and tells their clients that they are done
//! ("SEMISYNC: Forced shutdown"). Whoever is promoted then may hold none of them. So a primary that nobody relieved is never shut down:
//! it is killed, as a crash would do, and recovers when it starts. Anybody else ends in order (I4). A mongod acknowledges nothing falsely
//! when it ends, and has no need of this; who leads and was not relieved is killed all the same, which loses nothing. A redis-server loses by it what it has not saved, and always ends in order.

use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use sidecar_protocol::probe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Where the sidecar of a Redis member writes which program its image has.
pub const SERVER_FILE: &str = "server";

/// Kubernetes gives two seconds to a pod that is deleted by force.
const PATIENCE: Duration = Duration::from_secs(1);

/// How a server ends that somebody would miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// As in a crash: told to end, it would tell its clients what is not so.
    Killed,
    /// In order all the same: it tells nobody anything, and saves what it holds.
    InOrder,
}

/// Runs `command` to its end. Asked to end, it asks the sidecar at `port` whether anybody would miss it.
///
/// # Errors
/// It cannot be started.
pub fn run(command: &[OsString], port: u16, end: End) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(stand_by(command, port, end)).map(code)
}

/// The command of a Redis or Valkey member, which the sidecar has prepared in `run`.
///
/// # Errors
/// It has not.
pub fn redis(run: &Path) -> io::Result<Vec<OsString>> {
    let program = std::fs::read_to_string(run.join(SERVER_FILE))?;
    Ok(vec![program.trim_end().into(), run.join("redis.conf").into()])
}

async fn stand_by(command: &[OsString], port: u16, end: End) -> io::Result<ExitStatus> {
    let (program, arguments) = command.split_first().ok_or_else(|| io::Error::other("no command"))?;
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut child = Command::new(program).args(arguments).kill_on_drop(true).spawn()?;
    loop {
        tokio::select! {
            ended = child.wait() => return ended,
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let Some(pid) = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) else { continue };
        if is_released(port).await || end == End::InOrder {
            kill_process(pid, Signal::TERM)?;
        } else {
            eprintln!(
                "sidecar: nobody relieved this server of its clients: it is killed, as a crash would do, and recovers when it starts"
            );
            child.start_kill()?;
        }
    }
}

/// Whether the sidecar says that nobody would miss it; one that does not answer does not.
async fn is_released(port: u16) -> bool {
    let ask = async {
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        tcp.write_all(format!("GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", probe::RELEASE).as_bytes()).await?;
        let mut answer = String::new();
        tcp.read_to_string(&mut answer).await?;
        io::Result::Ok(answer.starts_with("HTTP/1.1 200 ") && answer.trim_end().ends_with(probe::RELEASED))
    };
    matches!(timeout(PATIENCE, ask).await, Ok(Ok(true)))
}

/// As a shell would exit.
fn code(ended: ExitStatus) -> ExitCode {
    let code = ended.code().or_else(|| ended.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(1))
}
