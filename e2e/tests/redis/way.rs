//! An application's way in: what Secrets and Services tell it, fetched once, so that a connection needs no API server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::redis::Tls;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::rig::{Cluster, USER};

pub use sidecar_protocol::redis::{PORT, SENTINEL_PORT};

/// What commands go through.
pub type Connection = MultiplexedConnection;

/// An address that nobody serves any more may never answer, and the next attempt may be led elsewhere.
const CONNECT: Duration = Duration::from_secs(1);
/// One command, a WAIT included.
pub const COMMAND: Duration = Duration::from_secs(3);

/// An account and where to use it.
#[derive(Clone)]
pub struct Way {
    /// Address of `NAME-primary`.
    pub primary: String,
    pub user: String,
    pub password: String,
    /// How long it waits for an answer.
    patience: Duration,
    tls: Option<Arc<ClientConfig>>,
    /// Every member's certificate holds it: connections go to addresses.
    certified: String,
}

impl Way {
    /// As `NAME-app` says.
    pub async fn of(cluster: &Cluster) -> Result<Self> {
        let (user, password) = (USER.to_owned(), cluster.secret_value("app", USER).await?);
        let tls = match cluster.api().get(&cluster.name).await?.spec.tls {
            Tls::Required => Some(Arc::new(trusting(&cluster.secret_value("tls", "ca.crt").await?)?)),
            Tls::Disabled => None,
        };
        let primary = cluster.service("primary").await?;
        Ok(Self {
            primary,
            user,
            password,
            patience: COMMAND,
            tls,
            certified: format!("{}-primary.{}.svc", cluster.name, cluster.namespace),
        })
    }

    /// Another account.
    pub fn with_login(&self, user: &str, password: &str) -> Self {
        Self { user: user.into(), password: password.into(), ..self.clone() }
    }

    /// In plain text, whatever the cluster wants.
    pub fn without_tls(&self) -> Self {
        Self { tls: None, ..self.clone() }
    }

    /// The same account, which waits for each answer this long.
    pub fn patient(&self, patience: Duration) -> Self {
        Self { patience, ..self.clone() }
    }

    /// A connection to a database, logged in.
    pub async fn connect(&self, address: &str) -> Result<Connection> {
        self.connect_to(address, PORT).await
    }

    /// The same to another port.
    pub async fn connect_to(&self, address: &str, port: u16) -> Result<Connection> {
        let address = SocketAddr::new(address.parse().with_context(|| format!("{address:?} is no address"))?, port);
        timeout(CONNECT, self.open(address)).await.context("no connection in time")?
    }

    async fn open(&self, address: SocketAddr) -> Result<Connection> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => self.greet(stream).await,
            Some(config) => {
                let name = ServerName::try_from(self.certified.clone())?;
                self.greet(TlsConnector::from(Arc::clone(config)).connect(name, stream).await?).await
            }
        }
    }

    async fn greet(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Connection> {
        let login = RedisConnectionInfo::default().set_username(&self.user).set_password(&self.password);
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(self.patience));
        let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        // It ends with the last handle to the connection.
        tokio::spawn(driver);
        Ok(connection)
    }
}

fn trusting(pem: &str) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(root?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
