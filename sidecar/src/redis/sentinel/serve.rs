//! The port: who is let in, for how long, and how much of it at a time. What is answered is [`commands`](super::commands)' business.
//!
//! Memory is the bound: a client costs its buffers, which are small and given back, and nothing is queued for one that does not read.

use std::future::pending;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::sockopt::{set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::accounts::Accounts;
use super::commands::{Session, World};
use super::resp::{self, ProtocolError, Value, Version};
use super::view::View;

/// Clients that have logged in, at a time. Each process of an application holds one or two connections to each Sentinel; one costs 8 kB, with
/// TLS 13.
pub const MAX_CLIENTS: usize = 1024;
/// Clients that have not, at a time; more wait in the kernel's backlog.
const MAX_STRANGERS: usize = 32;
/// From the connection to the login, the handshake included. Clients log in at once.
const LOGIN_DEADLINE: Duration = Duration::from_secs(10);
/// Who neither asks nor listens for so long has forgotten the connection.
const IDLE: Duration = Duration::from_secs(5 * 60);
/// Who takes nothing for so long, with its window full, loses its connection. It asks for the present primary when it is back.
const SLOW_READER: Duration = Duration::from_secs(5);
/// A listener that vanished without a word is known dead after the first and three times the second.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(20), 3);
/// Rest after `accept` failed: the process is out of descriptors.
const ACCEPT_REST: Duration = Duration::from_millis(200);
/// What is read at a time. Commands are shorter.
const READ: usize = 512;
/// Answers that are sent together.
const WRITE: usize = 8 * 1024;

/// What all connections share.
#[derive(Clone)]
struct Shared {
    view: watch::Receiver<Arc<View>>,
    /// The view at the last change that subscribers hear of.
    landmark: watch::Receiver<Arc<View>>,
    accounts: watch::Receiver<Arc<Accounts>>,
    clients: Arc<Semaphore>,
    connected: Arc<AtomicUsize>,
    born: Instant,
}

/// Counts a connection while it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers as a Sentinel on `listener`, until `view` ends. `tls`: every connection with the newest of these; without, all in plain text.
pub async fn serve(
    listener: TcpListener,
    mut view: watch::Receiver<Arc<View>>,
    accounts: watch::Receiver<Arc<Accounts>>,
    tls: Option<watch::Receiver<Arc<ServerConfig>>>,
) {
    let first = Arc::clone(&view.borrow_and_update());
    let (landmarks, landmark) = watch::channel(first);
    let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
    let shared = Shared {
        view: view.clone(),
        landmark,
        accounts,
        clients: Arc::new(Semaphore::new(MAX_CLIENTS)),
        connected: Arc::default(),
        born: Instant::now(),
    };
    let mut id = 0;
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &strangers) => accepted,
            changed = view.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = Arc::clone(&view.borrow_and_update());
                landmarks.send_if_modified(|before| {
                    // Nobody known is no landmark: the next primary is compared with the last one.
                    let modified = now.primary.is_some() && (before.primary.is_none() || !now.events(before).is_empty());
                    if modified {
                        *before = now;
                    }
                    modified
                });
                continue;
            }
        };
        let (tcp, stranger) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept connections");
                sleep(ACCEPT_REST).await;
                continue;
            }
        };
        id += 1;
        let client =
            Client { shared: shared.clone(), stranger: Some(stranger), slot: None, session: Session::new(id), born: Instant::now() };
        let acceptor = tls.as_ref().map(|tls| TlsAcceptor::from(Arc::clone(&tls.borrow())));
        tokio::spawn(async move {
            let ended = match acceptor {
                None => client.converse(tcp).await,
                Some(acceptor) => match timeout(LOGIN_DEADLINE, acceptor.accept(tcp)).await {
                    Ok(Ok(stream)) => client.converse(stream).await,
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err("the handshake takes too long".into()),
                },
            };
            if let Err(reason) = ended {
                debug!(client = id, reason, "a client of the Sentinel endpoint was shown out");
            }
        });
    }
}

/// The next connection, when there is room for another stranger.
async fn accept(listener: &TcpListener, strangers: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let room = Arc::clone(strangers).acquire_owned().await.map_err(io::Error::other)?;
    let (tcp, _) = listener.accept().await?;
    // One that is gone already takes no options, and is no trouble of ours: its first read says so.
    let _ = options(&tcp);
    Ok((tcp, room))
}

fn options(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let (idle, interval, count) = KEEPALIVE;
    let socket = tcp.as_fd();
    set_socket_keepalive(socket, true)?;
    set_tcp_keepidle(socket, idle)?;
    set_tcp_keepintvl(socket, interval)?;
    set_tcp_keepcnt(socket, count)?;
    Ok(())
}

struct Client {
    shared: Shared,
    /// Held until it has logged in.
    stranger: Option<OwnedSemaphorePermit>,
    /// Held from then on.
    slot: Option<OwnedSemaphorePermit>,
    session: Session,
    born: Instant,
}

impl Client {
    /// The whole conversation. An error says why it was ended from here.
    async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut self, mut stream: S) -> Result<(), String> {
        let _counted = Counted::new(&self.shared.connected);
        let mut input = BytesMut::new();
        let mut output = Vec::new();
        let mut heard = self.born;
        let mut landmark = Arc::clone(&self.shared.landmark.borrow_and_update());
        loop {
            let ended = loop {
                if !self.come_in() {
                    Value::Error("ERR max number of clients reached".into()).write(Version::Two, &mut output);
                    break Some("too many clients".to_owned());
                }
                match self.answer_next(&mut input, &mut output) {
                    Ok(false) => break None,
                    Ok(true) => heard = Instant::now(),
                    Err(error) => {
                        if let ProtocolError::Broken(_) = error {
                            Value::Error(format!("ERR {error}")).write(Version::Two, &mut output);
                        }
                        break Some(error.to_string());
                    }
                }
                if self.session.is_over() {
                    break None;
                }
                if output.len() >= WRITE {
                    send(&mut stream, &mut output).await?;
                }
            };
            send(&mut stream, &mut output).await?;
            if ended.is_some() || self.session.is_over() {
                let _ = timeout(SLOW_READER, stream.shutdown()).await;
                return ended.map_or(Ok(()), Err);
            }
            give_back(&mut input);
            input.reserve(READ);
            let listens = self.session.listens();
            if !listens {
                // When it begins to listen it hears of what changed since its last question, which it cannot know.
                landmark = Arc::clone(&self.shared.landmark.borrow_and_update());
            }
            let deadline = match self.stranger {
                Some(_) => Some(self.born + LOGIN_DEADLINE),
                None => (!listens).then_some(heard + IDLE),
            };
            tokio::select! {
                read = stream.read_buf(&mut input) => match read {
                    Ok(0) | Err(_) => return Ok(()),
                    Ok(_) => (),
                },
                changed = self.shared.landmark.changed(), if listens => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    let now = Arc::clone(&self.shared.landmark.borrow_and_update());
                    self.session.tell(&now.events(&landmark), &mut output);
                    landmark = now;
                }
                changed = self.shared.accounts.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    if self.session.is_banished(&self.shared.accounts.borrow_and_update()) {
                        return Err("its user was removed".into());
                    }
                }
                () = until(deadline) => return Err("it was silent for too long".into()),
            }
        }
    }

    /// Gives its place at the door to the next one, once it has logged in; `false`: there is no room inside.
    fn come_in(&mut self) -> bool {
        if self.stranger.is_none() || self.session.is_stranger(&self.shared.accounts.borrow()) {
            return true;
        }
        self.slot = Arc::clone(&self.shared.clients).try_acquire_owned().ok();
        self.stranger = None;
        self.slot.is_some()
    }

    /// Answers the next command, if a whole one is there.
    fn answer_next(&mut self, input: &mut BytesMut, output: &mut Vec<u8>) -> Result<bool, ProtocolError> {
        let accounts = Arc::clone(&self.shared.accounts.borrow());
        let Some(command) = resp::take(input, self.session.is_stranger(&accounts))? else { return Ok(false) };
        let view = Arc::clone(&self.shared.view.borrow());
        let clients = self.shared.connected.load(Ordering::Relaxed);
        let uptime = self.shared.born.elapsed().as_secs();
        self.session.answer(&command, World { view: &view, accounts: &accounts, clients, uptime }, output);
        Ok(true)
    }
}

/// Sends all of `output` and gives its memory back.
async fn send<S: AsyncWrite + Unpin>(stream: &mut S, output: &mut Vec<u8>) -> Result<(), String> {
    if output.is_empty() {
        return Ok(());
    }
    let sending = async {
        stream.write_all(output).await?;
        stream.flush().await
    };
    let sent = timeout(SLOW_READER, sending).await.map_err(|_| "it does not read its answers".to_owned())?;
    sent.map_err(|error| error.to_string())?;
    *output = Vec::new();
    Ok(())
}

/// A buffer that a long command has made large is made small again.
fn give_back(input: &mut BytesMut) {
    if input.is_empty() && input.capacity() > READ {
        *input = BytesMut::new();
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
