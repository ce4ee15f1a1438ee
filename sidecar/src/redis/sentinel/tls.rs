//! The certificate that clients see. None is asked of them: they log in with a password, as at the database (`tls-auth-clients no`).

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::NoServerSessionStorage;

use crate::tls::{Files, TlsError};

/// `tls.crt` and `tls.key` of `directory`, for new connections of clients. To be loaded anew when they change.
///
/// # Errors
/// When one of them is missing or they do not fit together.
pub fn load(directory: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let files = Files::read(directory)?;
    let unusable = |name: &str, error: &dyn std::fmt::Display| TlsError::Unusable { path: directory.join(name), reason: error.to_string() };
    let chain = CertificateDer::pem_slice_iter(&files.certificate).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|error| unusable("tls.crt", &error))?;
    if chain.is_empty() {
        return Err(unusable("tls.crt", &"holds no certificate"));
    }
    let key = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| unusable("tls.key", &error))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        // Redis takes 1.2 too, and so do old clients' libraries.
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| unusable("tls.crt", &error))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| unusable("tls.key", &error))?;
    // Clients come rarely and stay: nothing is kept for the next time.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
