//! Listening, and one task for each connection: read a command, check that it may be run, run it, answer.

use std::sync::Arc;

use anyhow::{Context, Result};
use bson::{Bson, Document, Timestamp, doc};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

use crate::commands;
use crate::failure::{Code, Failure};
use crate::node::Node;
use crate::optime::OpTime;
use crate::roles::{Need, Role};
use crate::scram::Exchange;
use crate::store::data::USERS;
use crate::text;
use crate::tls::{Stream, acceptor};
use crate::wire::{self, Request};

/// One client.
#[derive(Debug)]
pub struct Connection {
    /// `connectionId`.
    pub id: i32,
    /// From this machine.
    pub local: bool,
    /// Who has logged in: user, database, roles.
    pub users: Vec<(String, String, Vec<Role>)>,
    /// A login under way, and whose.
    pub login: Option<(Exchange, String, String)>,
}

/// Listens where the options say.
pub async fn listen(node: &Arc<Node>) -> Result<()> {
    let tls = node.options.tls.as_ref().map(acceptor).transpose()?;
    for address in &node.options.bind {
        let listener = TcpListener::bind((address.as_str(), node.options.port));
        let listener = listener.await.with_context(|| format!("Failed to set up listener on {address}:{}", node.options.port))?;
        tokio::spawn(accept(node.clone(), listener, tls.clone()));
    }
    if let Some(path) = &node.options.socket {
        // A socket file left by a killed process is nobody's.
        drop(std::fs::remove_file(path));
        let listener = UnixListener::bind(path).with_context(|| format!("Failed to set up listener on {}", path.display()))?;
        let node = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(node.clone(), Stream::Unix(stream)));
            }
        });
    }
    Ok(())
}

async fn accept(node: Arc<Node>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                continue;
            }
        };
        let (node, tls) = (node.clone(), tls.clone());
        tokio::spawn(async move {
            drop(stream.set_nodelay(true));
            let required = node.options.tls.as_ref().is_some_and(|tls| tls.required);
            let stream = match tls {
                Some(acceptor) if required || begins_tls(&stream).await => match acceptor.accept(stream).await {
                    Ok(stream) => Stream::Accepted(Box::new(stream)),
                    Err(error) => return tracing::debug!(%error, "no TLS"),
                },
                _ => Stream::Plain(stream),
            };
            serve(node, stream).await;
        });
    }
}

/// Whether the first byte is that of a TLS handshake.
async fn begins_tls(stream: &TcpStream) -> bool {
    let mut first = [0];
    stream.peek(&mut first).await.is_ok_and(|read| read == 1) && first == [0x16]
}

async fn serve(node: Arc<Node>, mut stream: Stream) {
    let mut connection = Connection { id: node.number(), local: stream.is_local(), users: Vec::new(), login: None };
    loop {
        let ended = match wire::read(&mut stream).await {
            Ok(Some(request)) => respond(&node, &mut connection, &mut stream, request).await,
            Ok(None) => return,
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            return tracing::debug!(%error, connection = connection.id, "connection ended");
        }
    }
}

/// Answers once, or for as long as an exhausting `hello` wants.
async fn respond(node: &Arc<Node>, connection: &mut Connection, stream: &mut Stream, mut request: Request) -> Result<()> {
    let mut previous = None;
    loop {
        let reply = run(node, connection, &request).await;
        let goes_on = request.exhaust && request.body.contains_key("topologyVersion") && reply.get_f64("ok").is_ok_and(|ok| ok == 1.0);
        if request.silent {
            return Ok(());
        }
        let id = node.number();
        wire::reply(stream, id, &request, previous, &reply, goes_on).await?;
        if !goes_on {
            return Ok(());
        }
        previous = Some(id);
        if let Ok(version) = reply.get_document("topologyVersion") {
            request.body.insert("topologyVersion", version.clone());
        }
    }
}

/// Runs one command and completes its reply.
async fn run(node: &Arc<Node>, connection: &mut Connection, request: &Request) -> Document {
    let body = &request.body;
    let name = body.keys().next().map(String::as_str).unwrap_or_default();
    if request.legacy && !matches!(name, "hello" | "isMaster" | "ismaster") {
        return wire::unsupported(name);
    }
    if let Ok(time) = body.get_document("$clusterTime").map(|time| time.get_timestamp("clusterTime").unwrap_or(ZERO)) {
        node.change(|core| core.advance_clock(time));
    }
    // The command that makes a member of it is not answered as one yet.
    let member = node.read(|core| core.me.is_some());
    let outcome = match check(node, connection, name, body) {
        Ok(()) => commands::run(node, connection, name, body).await,
        Err(failure) => Err(failure),
    };
    let mut reply = match outcome {
        Ok(mut reply) => {
            if !reply.contains_key("ok") {
                reply.insert("ok", 1.0);
            }
            reply
        }
        Err(failure) if failure.code.is_about_topology() && node.options.set.is_some() => {
            let mut reply = doc! { "topologyVersion": node.topology_version(node.read(|core| core.topology)) };
            reply.extend(failure.reply());
            reply
        }
        Err(failure) => failure.reply(),
    };
    if member {
        append_times(node, connection, &mut reply);
    }
    reply
}

const ZERO: Timestamp = Timestamp { time: 0, increment: 0 };

/// Everything before a command is run, in mongod's order: its database, its name, where it may run, who may run it.
fn check(node: &Node, connection: &Connection, name: &str, body: &Document) -> Result<(), Failure> {
    let Ok(database) = body.get_str("$db") else {
        return Err(Failure::new(Code::Location40571, "OP_MSG requests require a $db argument"));
    };
    let Some(spec) = commands::spec(name) else {
        return Err(Failure::new(Code::CommandNotFound, format!("no such command: '{name}'")));
    };
    if spec.admin_only && database != "admin" {
        let text = format!("{name} may only be run against the admin database.");
        return Err(Failure::new(Code::Unauthorized, text));
    }
    if !node.options.auth || spec.need == Need::Nothing {
        return Ok(());
    }
    let unauthorized = |text: String| Err(Failure::new(Code::Unauthorized, text));
    if connection.users.is_empty() {
        if !(connection.local && node.read(|core| core.store.data.count(USERS)) == 0) {
            return unauthorized(format!("command {name} requires authentication"));
        }
        if spec.before_users {
            return Ok(());
        }
    } else if connection.users.iter().flat_map(|(_, _, roles)| roles).any(|role| role.grants(spec.need, database))
        || spec.need == Need::Login
    {
        return Ok(());
    }
    unauthorized(format!("not authorized on {database} to execute command {}", text::document(body)))
}

/// `$clusterTime` and `operationTime`, which drivers gossip.
fn append_times(node: &Node, connection: &Connection, reply: &mut Document) {
    let Some((clock, last)) = node.read(|core| {
        let last = core.applied().at;
        // Signing keys come after the first user here; before, nothing can be signed for a stranger.
        let signed = !node.options.auth || !connection.users.is_empty() || core.store.data.count(USERS) > 0;
        (core.me.is_some() && signed && last != OpTime::NULL).then_some((core.clock, last))
    }) else {
        return;
    };
    let hash = crate::scram::payload(vec![0; 20]);
    reply.insert("$clusterTime", doc! { "clusterTime": clock, "signature": { "hash": hash, "keyId": Bson::Int64(0) } });
    reply.insert("operationTime", last.timestamp());
}
