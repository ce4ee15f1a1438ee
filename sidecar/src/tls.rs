//! The API port's certificates: loaded from the mounted Secret, followed without a restart.
//!
//! A set that cannot be used never replaces one that can. Connections that stand keep the set they were made with; mysqld's own
//! reload is its room's business, told through a watch channel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use sidecar_protocol::client::tls_config;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};
use x509_parser::parse_x509_certificate;

/// How often the files are read again. The kubelet takes up to a minute to change them.
const INTERVAL: Duration = Duration::from_secs(5);

/// Why a set of certificates cannot be used. No message holds key material.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What failed.
        #[source]
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// A usable set.
#[derive(Clone, Debug)]
pub struct Set {
    /// For new connections to us.
    pub server: Arc<rustls::ServerConfig>,
    /// For new connections to other members.
    pub client: Arc<rustls::ClientConfig>,
    /// SHA-256 of the CA bundle, in hex.
    pub trust: String,
    /// When our certificate ends, in seconds since 1970.
    pub expires: i64,
    /// Of all files: tells whether something changed.
    fingerprint: String,
}

/// The text of the three files, from one and the same version of the volume.
pub(crate) struct Files {
    base: PathBuf,
    ca: Vec<u8>,
    pub(crate) certificate: Vec<u8>,
    pub(crate) key: Vec<u8>,
}

impl Files {
    pub(crate) fn read(directory: &Path) -> Result<Self, TlsError> {
        // The kubelet swaps the symlink `..data`: resolved once, the three files belong together.
        let base = fs::canonicalize(directory.join("..data")).unwrap_or_else(|_| directory.into());
        let read = |name: &str| fs::read(base.join(name)).map_err(|source| TlsError::Read { path: directory.join(name), source });
        Ok(Self { ca: read("ca.crt")?, certificate: read("tls.crt")?, key: read("tls.key")?, base: directory.into() })
    }

    fn fingerprint(&self) -> String {
        [&self.ca, &self.certificate, &self.key].map(|text| sha256(text)).concat()
    }

    fn parse(&self) -> Result<Set, TlsError> {
        let unusable =
            |name: &str, error: &dyn std::fmt::Display| TlsError::Unusable { path: self.base.join(name), reason: error.to_string() };
        let certificates = |name: &str, text: &[u8]| {
            CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>().map_err(|error| unusable(name, &error))
        };
        let mut roots = RootCertStore::empty();
        for root in certificates("ca.crt", &self.ca)? {
            roots.add(root).map_err(|error| unusable("ca.crt", &error))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let callers = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(|error| unusable("ca.crt", &error))?;
        let chain = certificates("tls.crt", &self.certificate)?;
        let leaf = chain.first().ok_or_else(|| unusable("tls.crt", &"holds no certificate"))?;
        let (_, leaf) = parse_x509_certificate(leaf).map_err(|error| unusable("tls.crt", &error))?;
        let expires = leaf.validity().not_after.timestamp();
        let key = PrivateKeyDer::from_pem_slice(&self.key).map_err(|error| unusable("tls.key", &error))?;
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unusable("tls.crt", &error))?
            .with_client_cert_verifier(callers)
            .with_single_cert(chain, key)
            .map_err(|error| unusable("tls.key", &error))?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would bring its caller in under the CA of its first handshake.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        let client = tls_config(&self.ca, &self.certificate, &self.key).map_err(|error| unusable("tls.crt", &error))?;
        Ok(Set { server: Arc::new(server), client: Arc::new(client), trust: sha256(&self.ca), expires, fingerprint: self.fingerprint() })
    }
}

/// Loads `ca.crt`, `tls.crt` and `tls.key` of `directory`.
///
/// # Errors
/// When one of them is missing or they do not fit together.
pub fn load(directory: &Path) -> Result<Set, TlsError> {
    Files::read(directory)?.parse()
}

/// Follows `directory` for ever: a new usable set goes to `sets` and counts `changes` up; what is wrong with a new unusable one goes
/// to `trouble` until it is mended, and the old set stays.
pub async fn follow(directory: PathBuf, sets: watch::Sender<Set>, changes: watch::Sender<u64>, trouble: watch::Sender<Option<String>>) {
    let mut tick = interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let new = Files::read(&directory).and_then(|files| {
            let unchanged = files.fingerprint() == sets.borrow().fingerprint;
            if unchanged { Ok(None) } else { files.parse().map(Some) }
        });
        let problem = match new {
            Ok(None) => None,
            Ok(Some(set)) => {
                info!(trust = set.trust, expires = set.expires, "new certificates");
                sets.send_replace(set);
                changes.send_modify(|count| *count += 1);
                None
            }
            Err(error) => Some(format!("new certificates cannot be used, the old ones stay: {error}")),
        };
        trouble.send_if_modified(|old| {
            let modified = *old != problem;
            if let Some(message) = problem.as_deref().filter(|_| modified) {
                warn!("{message}");
            }
            *old = problem;
            modified
        });
    }
}

/// SHA-256 in hex.
#[must_use]
pub fn sha256(text: &[u8]) -> String {
    hex(digest(&SHA256, text).as_ref())
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
