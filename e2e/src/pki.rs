//! Certificates and kubeconfigs of a cluster: one authority, one client certificate for each component.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};

/// A certificate authority and everything it signed, as files in one directory.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Opens the directory, with a new authority and service-account key when it has none.
    pub fn open(dir: &Path) -> Result<Self> {
        let pki = Self { dir: dir.to_owned() };
        std::fs::create_dir_all(dir)?;
        if !pki.cert("ca").exists() {
            let key = KeyPair::generate()?;
            let ca = ca_params()?.self_signed(&key)?;
            // The certificate comes last: its presence says that the key is there.
            write_secret(&pki.key("ca"), &key.serialize_pem())?;
            let accounts = KeyPair::generate()?;
            write_secret(&pki.key("accounts"), &accounts.serialize_pem())?;
            std::fs::write(pki.dir.join("accounts.pub"), accounts.public_key_pem())?;
            std::fs::write(pki.cert("ca"), ca.pem())?;
        }
        Ok(pki)
    }

    /// The path of a certificate.
    pub fn cert(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.crt"))
    }

    /// The path of a private key.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// The public half of the key that signs service-account tokens.
    pub fn accounts_public_key(&self) -> PathBuf {
        self.dir.join("accounts.pub")
    }

    /// Issues `name` unless it is there: `common_name` and `group` are who it speaks for, `hosts` what it serves.
    pub fn issue(&self, name: &str, common_name: &str, group: Option<&str>, hosts: &[&str]) -> Result<()> {
        if self.cert(name).exists() {
            return Ok(());
        }
        let ca_key = KeyPair::from_pem(&std::fs::read_to_string(self.key("ca"))?)?;
        let issuer = Issuer::new(ca_params()?, ca_key);
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(common_name, group);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        for host in hosts {
            params.subject_alt_names.push(match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName((*host).try_into().context("a host name is ASCII")?),
            });
        }
        let key = KeyPair::generate()?;
        write_secret(&self.key(name), &key.serialize_pem())?;
        std::fs::write(self.cert(name), params.signed_by(&key, &issuer)?.pem())?;
        Ok(())
    }

    /// Writes a kubeconfig that speaks to `server` as the holder of certificate `name`.
    pub fn kubeconfig(&self, name: &str, server: &str, file: &Path) -> Result<()> {
        let config = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": self.cert("ca")}}],
            "users": [{"name": name, "user": {"client-certificate": self.cert(name), "client-key": self.key(name)}}],
            "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": name}}],
            "current-context": "lab",
        });
        write_secret(file, &serde_yaml::to_string(&config)?)
    }
}

/// The authority's parameters are the same each time, so that its issuer can be made again from the key alone.
fn ca_params() -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.distinguished_name = subject("lab-ca", None);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn subject(common_name: &str, group: Option<&str>) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if let Some(group) = group {
        name.push(DnType::OrganizationName, group);
    }
    name.push(DnType::CommonName, common_name);
    name
}

fn write_secret(path: &Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
}
