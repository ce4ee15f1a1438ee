//! A `RedisReplication` as an application comes in that does not ask a Sentinel.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::redis::{RedisReplication, RedisReplicationStatus};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, cmd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Engine, Glance, secret, service, value};
use crate::lab::Lab;

/// The account of its application in each test, with its password in `NAME-app`.
#[derive(Clone)]
pub struct Redis {
    password: String,
    primary: String,
    tls: Arc<ClientConfig>,
    /// Every member's certificate holds it: connections go to addresses.
    certified: ServerName<'static>,
}

impl Redis {
    /// The application's account, which a spec has to name in `users`.
    pub const USER: &'static str = "app";
    /// What it may do: everything, so that a server can be asked who it is.
    pub const RULES: &'static str = "~* &* +@all";

    /// Logs in at another port of an address too, that of the Sentinel endpoint.
    pub async fn connect_to(&self, address: &str, port: u16, within: Duration) -> Result<MultiplexedConnection> {
        timeout(within, self.open(address, port)).await.context("no connection in time")?
    }

    async fn open(&self, address: &str, port: u16) -> Result<MultiplexedConnection> {
        let stream = TcpStream::connect((address, port)).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(Arc::clone(&self.tls)).connect(self.certified.clone(), stream).await?;
        let login = RedisConnectionInfo::default().set_username(Self::USER).set_password(&self.password);
        // Who asks knows how long to wait for the answer.
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        // It ends with the last handle to the connection.
        tokio::spawn(driver);
        Ok(connection)
    }
}

impl Engine for Redis {
    type Object = RedisReplication;
    type Connection = MultiplexedConnection;
    const NAME: &'static str = "redis";
    const CONTAINER: &'static str = "redis";
    const PORT: u16 = 6379;

    fn glance(object: &RedisReplication) -> Option<Glance> {
        let status = object.status.clone()?;
        let RedisReplicationStatus { state, reason, ready, term, primary, transition, acks, ack_set, members, .. } = status;
        let set: Vec<_> = ack_set.iter().map(|member| member.name.as_str()).collect();
        let leads = primary.as_deref().unwrap_or("nobody");
        Some(Glance {
            story: format!("{state}: {reason} (term {term}, {leads}, {ready} ready, acks {acks} of {set:?})"),
            settled: state == "Healthy" && transition.is_none() && ack_set.len() + 1 == members.len(),
            term,
            primary,
            transition,
            ready: members.iter().filter(|member| member.ready).map(|member| member.name.clone()).collect(),
            members: members.into_iter().map(|member| member.name).collect(),
        })
    }

    async fn of(lab: &Lab, namespace: &str, cluster: &str) -> Result<Self> {
        let (app, tls) =
            (secret(lab, namespace, &format!("{cluster}-app")).await?, secret(lab, namespace, &format!("{cluster}-tls")).await?);
        let mut roots = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(value(&tls, "ca.crt")?.as_bytes()) {
            roots.add(root?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(Self {
            password: value(&app, Self::USER)?,
            primary: service(lab, namespace, cluster).await?,
            tls: Arc::new(config.with_root_certificates(roots).with_no_client_auth()),
            certified: ServerName::try_from(format!("{cluster}-primary.{namespace}.svc"))?,
        })
    }

    fn primary(&self) -> &str {
        &self.primary
    }

    async fn connect(&self, address: &str, within: Duration) -> Result<MultiplexedConnection> {
        self.connect_to(address, Self::PORT, within).await
    }

    /// What it announces to others: Redis knows no name of its own.
    async fn member(connection: &mut MultiplexedConnection) -> Result<String> {
        let (_, host): (String, String) = cmd("CONFIG").arg("GET").arg("replica-announce-ip").query_async(connection).await?;
        Ok(host.split('.').next().unwrap_or(&host).to_owned())
    }
}
