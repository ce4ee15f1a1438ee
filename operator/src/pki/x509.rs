//! Making certificates and judging them. ECDSA P-256 throughout: what every MySQL, OpenSSL and rustls can do.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData, SanType,
    date_time_ymd,
};
use ring::digest::{SHA256, digest};
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::{default_provider, sign::any_supported_type};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use sidecar_protocol::{MEMBER_COMMON_NAME, OPERATOR_COMMON_NAME};
use x509_parser::parse_x509_certificate;

use super::{Names, Pair};
use crate::hidden::Hidden;
use crate::names;

const DAY: u64 = 24 * 3600;
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * DAY);
const LEAF_LIFE: Duration = Duration::from_secs(90 * DAY);
/// Certificates begin in the past: nodes' clocks differ.
const SKEW: Duration = Duration::from_secs(3600);

/// Why a certificate cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The library refuses.
    #[error("certificates: {0}")]
    Make(#[from] rcgen::Error),
    /// No CA has a key.
    #[error("certificates: the CA has no key and no successor")]
    NoKey,
}

/// A new CA.
pub(super) fn authority(names: &Names, now: Timestamp) -> Result<Pair, PkiError> {
    let key = KeyPair::generate()?;
    let mut params = lasting(AUTHORITY_LIFE, now)?;
    // A subject of its own: a verifier that looks an issuer up by name must not find the predecessor.
    let id: String = digest(&SHA256, key.der_bytes()).as_ref()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name.push(DnType::CommonName, format!("understudy {} {id}", names.cluster));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(Pair { certificate: params.self_signed(&key)?.pem(), key: Hidden::new(key.serialize_pem()) })
}

/// The certificate that members share, for serving and for calling each other.
pub(super) fn members(ca: &str, ca_key: &Hidden, names: &Names, now: Timestamp) -> Result<Pair, PkiError> {
    let mut params = lasting(LEAF_LIFE, now)?;
    params.distinguished_name.push(DnType::CommonName, MEMBER_COMMON_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names =
        hosts(names).into_iter().map(|host| Ok(SanType::DnsName(host.try_into()?))).collect::<Result<_, PkiError>>()?;
    leaf(ca, ca_key, params)
}

/// The operator's certificate, for giving orders.
pub(super) fn operator(ca: &str, ca_key: &Hidden, now: Timestamp) -> Result<Pair, PkiError> {
    let mut params = lasting(LEAF_LIFE, now)?;
    params.distinguished_name.push(DnType::CommonName, OPERATOR_COMMON_NAME);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    leaf(ca, ca_key, params)
}

fn leaf(ca: &str, ca_key: &Hidden, mut params: CertificateParams) -> Result<Pair, PkiError> {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    let issuer = Issuer::from_ca_cert_pem(ca, KeyPair::from_pem(ca_key.reveal())?)?;
    let key = KeyPair::generate()?;
    Ok(Pair { certificate: params.signed_by(&key, &issuer)?.pem(), key: Hidden::new(key.serialize_pem()) })
}

fn lasting(life: Duration, now: Timestamp) -> Result<CertificateParams, PkiError> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    let now = date_time_ymd(1970, 1, 1) + Duration::from_secs(now.as_second().unsigned_abs());
    params.not_before = now - SKEW;
    params.not_after = now + life;
    Ok(params)
}

/// Every name by which a member or a Service of the cluster is reached.
fn hosts(names: &Names) -> Vec<String> {
    let Names { cluster, namespace } = names;
    let mut hosts = vec!["localhost".to_owned()];
    for host in [format!("*.{cluster}"), names::primary(cluster), names::read(cluster), names::sentinel(cluster)] {
        let within = [format!("{host}.{namespace}"), format!("{host}.{namespace}.svc"), format!("{host}.{namespace}.svc.cluster.local")];
        hosts.push(host);
        hosts.extend(within);
    }
    hosts
}

/// Whether it holds certificates and nothing else that a reader would stumble over.
pub(super) fn is_bundle(text: &str) -> bool {
    roots(text).is_some()
}

/// Whether the key is the certificate's.
pub(super) fn fits(certificate: &str, key: &Hidden) -> bool {
    let fits = || {
        let key = any_supported_type(&PrivateKeyDer::from_pem_slice(key.reveal().as_bytes()).ok()?).ok()?;
        CertifiedKey::new(vec![first(certificate)?], key).keys_match().ok()
    };
    fits().is_some()
}

/// Whether the members' certificate can be used now by who trusts `bundle`.
pub(super) fn members_valid(pair: &Pair, bundle: &str, names: &Names, now: Timestamp) -> bool {
    let valid = || {
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(bundle)?), Arc::new(default_provider())).build().ok()?;
        let host = format!("{0}-0.{0}.{1}.svc", names.cluster, names.namespace);
        verifier.verify_server_cert(&first(&pair.certificate)?, &[], &ServerName::try_from(host).ok()?, &[], unix(now)).ok()
    };
    valid().is_some() && fits(&pair.certificate, &pair.key)
}

/// Whether the operator's certificate can be used now with who trusts `bundle`.
pub(super) fn operator_valid(pair: &Pair, bundle: &str, now: Timestamp) -> bool {
    let valid = || {
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(bundle)?), Arc::new(default_provider())).build().ok()?;
        verifier.verify_client_cert(&first(&pair.certificate)?, &[], unix(now)).ok()
    };
    valid().is_some() && fits(&pair.certificate, &pair.key)
}

/// Whether two thirds of its life have passed, or it has none.
pub(super) fn is_due(certificate: &str, now: Timestamp) -> bool {
    let due = || {
        let der = first(certificate)?;
        let (_, parsed) = parse_x509_certificate(&der).ok()?;
        let (from, to) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        Some(now.as_second() >= from + (to - from) / 3 * 2)
    };
    due().unwrap_or(true)
}

fn first(text: &str) -> Option<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(text.as_bytes()).next()?.ok()
}

fn roots(text: &str) -> Option<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
        roots.add(certificate.ok()?).ok()?;
    }
    (!roots.is_empty()).then_some(roots)
}

fn unix(now: Timestamp) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now.as_second().unsigned_abs()))
}
