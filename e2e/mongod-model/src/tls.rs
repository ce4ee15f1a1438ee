//! Plain or TLS, one type.

use std::fs::File;
use std::io::{self, BufReader};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as Task, Poll};

use anyhow::{Context, Result};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::options::Tls;

/// A connection.
#[derive(Debug)]
pub enum Stream {
    /// TCP as it is.
    Plain(TcpStream),
    /// The socket file.
    Unix(UnixStream),
    /// Somebody came in by TLS.
    Accepted(Box<tokio_rustls::server::TlsStream<TcpStream>>),
    /// We went out by TLS.
    Opened(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// The server's side of TLS.
pub fn acceptor(tls: &Tls) -> Result<TlsAcceptor> {
    let (chain, key) = identity(tls)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
    let builder = match &tls.authorities {
        None => builder.with_no_client_auth(),
        Some(_) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(tls)?), Arc::new(default_provider()));
            let verifier = if tls.clients_show_one { verifier } else { verifier.allow_unauthenticated() };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    Ok(TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key)?)))
}

fn identity(tls: &Tls) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
    let open = || File::open(&tls.certificate).with_context(|| format!("cannot read certificate file: {}", tls.certificate.display()));
    let chain = CertificateDer::pem_reader_iter(BufReader::new(open()?)).collect::<Result<_, _>>()?;
    Ok((chain, PrivateKeyDer::from_pem_reader(BufReader::new(open()?))?))
}

fn authorities(tls: &Tls) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = &tls.authorities {
        let file = File::open(path).with_context(|| format!("cannot read certificate authority file: {}", path.display()))?;
        for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
            roots.add(certificate?)?;
        }
    }
    Ok(roots)
}

impl Stream {
    /// Goes out to another member, by TLS when this one has it.
    pub async fn to(stream: TcpStream, tls: Option<&Tls>, name: &str) -> Result<Self> {
        stream.set_nodelay(true)?;
        let Some(tls) = tls else { return Ok(Self::Plain(stream)) };
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider())).with_safe_default_protocol_versions()?;
        let builder = match &tls.authorities {
            Some(_) => builder.with_root_certificates(authorities(tls)?),
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Unchecked)),
        };
        let (chain, key) = identity(tls)?;
        let connector = TlsConnector::from(Arc::new(builder.with_client_auth_cert(chain, key)?));
        let name = ServerName::try_from(name.to_owned())?;
        Ok(Self::Opened(Box::new(connector.connect(name, stream).await?)))
    }

    /// Is the other side on this machine, as the localhost exception asks?
    pub fn is_local(&self) -> bool {
        let peer = match self {
            Self::Unix(_) => return true,
            Self::Plain(stream) => stream.peer_addr(),
            Self::Accepted(stream) => stream.get_ref().0.peer_addr(),
            Self::Opened(stream) => stream.get_ref().0.peer_addr(),
        };
        peer.is_ok_and(|address| address.ip().is_loopback())
    }
}

/// Without authorities mongod checks no certificate.
#[derive(Debug)]
struct Unchecked;

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, task: &mut Task<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Accepted(stream) => Pin::new(stream).poll_read(task, buffer),
            Self::Opened(stream) => Pin::new(stream).poll_read(task, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, task: &mut Task<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Accepted(stream) => Pin::new(stream).poll_write(task, bytes),
            Self::Opened(stream) => Pin::new(stream).poll_write(task, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(task),
            Self::Unix(stream) => Pin::new(stream).poll_flush(task),
            Self::Accepted(stream) => Pin::new(stream).poll_flush(task),
            Self::Opened(stream) => Pin::new(stream).poll_flush(task),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Accepted(stream) => Pin::new(stream).poll_shutdown(task),
            Self::Opened(stream) => Pin::new(stream).poll_shutdown(task),
        }
    }
}
