//! Two errands of the binary that need no runtime: the exec probe of the database container, and installing itself.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// mysqld greets in milliseconds, also while it recovers or refuses connections.
const DEADLINE: Duration = Duration::from_secs(5);

/// `{hello: 1, $db: "admin"}` as OP_MSG (2013): a header of sixteen bytes, flags, one body.
const HELLO: &[u8] = b"\x34\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0\0\
    \x1f\0\0\0\x10hello\0\x01\0\0\0\x02$db\0\x06\0\0\0admin\0\0";

/// Whether something that speaks MySQL's protocol greets on `socket`; an error packet ("too many connections") is a sign of life too.
///
/// # Errors
/// What went wrong, in words for the probe's event.
pub fn probe(socket: &Path) -> Result<(), String> {
    asked(socket, greeting)
}

/// Whether a mongod on `port` of this machine answers. One that wants TLS closes the connection of who does not speak it, which is a
/// sign of life as well; one that is frozen does neither, though its kernel accepts.
///
/// # Errors
/// What went wrong, in words for the probe's event.
pub fn knock(port: u16) -> Result<(), String> {
    let failed = |error: io::Error| format!("port {port}: {error}");
    let mut tcp = TcpStream::connect_timeout(&(Ipv4Addr::LOCALHOST, port).into(), DEADLINE).map_err(failed)?;
    tcp.set_read_timeout(Some(DEADLINE)).map_err(failed)?;
    tcp.write_all(HELLO).map_err(failed)?;
    match tcp.read(&mut [0; 1]) {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            Err(format!("port {port}: no answer within {} s", DEADLINE.as_secs()))
        }
        _ => Ok(()),
    }
}

/// Whether something that speaks Redis' protocol answers on `socket`. That it wants a login, or reads its files, is a sign of life too.
///
/// # Errors
/// What went wrong, in words for the probe's event.
pub fn ping(socket: &Path) -> Result<(), String> {
    asked(socket, |path| {
        let mut stream = UnixStream::connect(path)?;
        stream.write_all(b"PING\r\n")?;
        let mut head = [0; 1];
        stream.read_exact(&mut head)?;
        match head {
            [b'+' | b'-'] => Ok(()),
            other => Err(io::Error::other(format!("not an answer of Redis: {other:?}"))),
        }
    })
}

/// What `ask` finds on `socket`, in time.
fn asked(socket: &Path, ask: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> Result<(), String> {
    let (sender, receiver) = mpsc::channel();
    let path = socket.to_owned();
    // On a thread of its own: connecting blocks without a deadline while the backlog is full. It ends with the process.
    thread::spawn(move || sender.send(ask(&path)));
    match receiver.recv_timeout(DEADLINE) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(format!("{}: {error}", socket.display())),
        Err(_) => Err(format!("{}: no answer within {} s", socket.display(), DEADLINE.as_secs())),
    }
}

fn greeting(socket: &Path) -> io::Result<()> {
    // A packet: three bytes of length, a sequence number that starts at 0, then 10 (a handshake of protocol 10) or 255 (an error).
    let mut head = [0; 5];
    UnixStream::connect(socket)?.read_exact(&mut head)?;
    match head {
        [_, _, _, 0, 10 | 255] => Ok(()),
        other => Err(io::Error::other(format!("not a MySQL greeting: {other:?}"))),
    }
}

/// Copies the running program to `destination`, executable, whole or not at all.
///
/// # Errors
/// When the copy cannot be written.
pub fn install(destination: &Path) -> io::Result<()> {
    let mut draft = destination.as_os_str().to_owned();
    draft.push(".new");
    fs::copy("/proc/self/exe", &draft)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o755))?;
    fs::rename(draft, destination)
}
