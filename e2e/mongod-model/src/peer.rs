//! Talking to other members, and finding out which of them is oneself.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bson::{Document, doc};
use futures::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::Config;
use crate::failure::{Code, Failure};
use crate::node::Node;
use crate::scram::Client;
use crate::tls::Stream;
use crate::wire;

/// Until a name is resolved and a connection made.
const CONNECT: Duration = Duration::from_secs(5);
/// Until a member has said whether it is this one.
const IDENTIFY: Duration = Duration::from_secs(5);
/// The user that members are to each other.
pub const SYSTEM: &str = "__system";

/// A connection to another member, made when first needed and again after each failure.
#[derive(Debug)]
pub struct Peer {
    node: Arc<Node>,
    host: String,
    stream: Option<Stream>,
}

impl Peer {
    /// To `host:port`.
    pub fn new(node: Arc<Node>, host: &str) -> Self {
        Self { node, host: host.to_owned(), stream: None }
    }

    /// Sends an admin command; an error reply is a `Failure` with the remote's code.
    pub async fn call(&mut self, mut command: Document, limit: Duration) -> Result<Document, Failure> {
        command.insert("$db", "admin");
        let reply = match timeout(limit, self.exchange(&command)).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(failure)) => {
                self.stream = None;
                return Err(failure);
            }
            Err(_) => {
                self.stream = None;
                let text = format!("Request to {} timed out after {}ms", self.host, limit.as_millis());
                return Err(Failure::new(Code::NetworkTimeout, text));
            }
        };
        refused(&reply)?;
        Ok(reply)
    }

    async fn exchange(&mut self, command: &Document) -> Result<Document, Failure> {
        if self.stream.is_none() {
            let mut stream = connect(&self.node, &self.host).await?;
            log_in(&self.node, &mut stream).await?;
            self.stream = Some(stream);
        }
        let Some(stream) = self.stream.as_mut() else { return Err(Failure::new(Code::HostUnreachable, "no connection")) };
        wire::call(stream, self.node.number(), command).await.map_err(|error| Failure::new(Code::HostUnreachable, error.to_string()))
    }
}

/// An error reply as a failure.
fn refused(reply: &Document) -> Result<(), Failure> {
    if reply.get_f64("ok").is_ok_and(|ok| ok == 1.0) {
        return Ok(());
    }
    let code = match reply.get_i32("code").unwrap_or_default() {
        13 => Code::Unauthorized,
        18 => Code::AuthenticationFailed,
        94 => Code::NotYetInitialized,
        108 => Code::InconsistentReplicaSetNames,
        120 => Code::OplogStartMissing,
        _ => Code::CommandFailed,
    };
    Err(Failure::new(code, reply.get_str("errmsg").unwrap_or_default()))
}

async fn connect(node: &Node, host: &str) -> Result<Stream, Failure> {
    let unreachable = |text: String| Failure::new(Code::HostUnreachable, text);
    let address = match resolve(host).await.into_iter().next() {
        Some(address) => address,
        None => {
            let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
            let why = format!("Could not find address for {name}: SocketException: Host not found (authoritative)");
            return Err(unreachable(format!("Error connecting to {host} :: caused by :: {why}")));
        }
    };
    let context = format!("Error connecting to {host} ({address})");
    let stream = match timeout(CONNECT, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(unreachable("Connection refused".into()).within(&context));
        }
        Ok(Err(error)) => return Err(unreachable(error.to_string()).within(&context)),
        Err(_) => return Err(unreachable("Connection timed out".into()).within(&context)),
    };
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    Stream::to(stream, node.options.tls.as_ref().filter(|tls| tls.outgoing), name)
        .await
        .map_err(|error| unreachable(error.to_string()).within(&context))
}

/// IPv4 before IPv6, as a mongod without `--ipv6`.
async fn resolve(host: &str) -> Vec<SocketAddr> {
    let Ok(Ok(found)) = timeout(CONNECT, lookup_host(host)).await else { return Vec::new() };
    let mut addresses: Vec<SocketAddr> = found.collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses
}

/// Logs in as a member of the set, with either key.
async fn log_in(node: &Node, stream: &mut Stream) -> Result<(), Failure> {
    let mut failure = None;
    for key in &node.options.keys {
        match log_in_with(node, stream, key).await {
            Ok(()) => return Ok(()),
            Err(why) => failure = Some(why),
        }
    }
    failure.map_or(Ok(()), Err)
}

async fn log_in_with(node: &Node, stream: &mut Stream, key: &str) -> Result<(), Failure> {
    let lost = |error: anyhow::Error| Failure::new(Code::HostUnreachable, error.to_string());
    let (client, mut start) = Client::start(SYSTEM);
    start.insert("$db", "local");
    let reply = wire::call(stream, node.number(), &start).await.map_err(lost)?;
    refused(&reply)?;
    let Some(mut proof) = client.prove(&reply, |salt, rounds| node.salted(key, salt, rounds)) else {
        return Err(Failure::new(Code::AuthenticationFailed, "Authentication failed."));
    };
    proof.insert("$db", "local");
    let reply = wire::call(stream, node.number(), &proof).await.map_err(lost)?;
    refused(&reply)
}

/// Which members of a configuration are this process: by address and port, else by asking.
pub async fn find_self(node: &Arc<Node>, config: &Config) -> Vec<usize> {
    let answers = join_all(config.members.iter().map(|member| is_self(node, &member.host))).await;
    answers.into_iter().enumerate().filter_map(|(index, mine)| mine.then_some(index)).collect()
}

async fn is_self(node: &Arc<Node>, host: &str) -> bool {
    let addresses = resolve(host).await;
    if addresses.iter().any(|address| address.port() == node.options.port && is_local(address.ip())) {
        return true;
    }
    let ask = async {
        let mut stream = connect(node, host).await.ok()?;
        let reply = wire::call(&mut stream, node.number(), &doc! { "_isSelf": 1, "$db": "admin" }).await.ok()?;
        reply.get_object_id("id").ok()
    };
    timeout(IDENTIFY, ask).await.ok().flatten() == Some(node.instance)
}

/// An address of this machine is one that can be bound here.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}
