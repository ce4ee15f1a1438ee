//! The command line and `mongod.conf`: mongod's names for what the model knows.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Deserialize;

use crate::version::Version;

/// A model of mongod for tests: replica sets, users, small data. Not a database: nothing here is meant to keep data.
#[derive(Clone, Debug, Parser)]
#[command(name = "mongod-model", version)]
pub struct Options {
    /// Configuration file in mongod's YAML; flags win.
    #[arg(short = 'f', long)]
    config: Option<PathBuf>,
    /// TCP port.
    #[arg(long)]
    port: Option<u16>,
    /// Addresses to listen on, comma-separated.
    #[arg(long = "bind_ip", value_delimiter = ',')]
    bind_ip: Vec<String>,
    /// Listen on every address.
    #[arg(long = "bind_ip_all")]
    bind_ip_all: bool,
    /// Where the data directory is.
    #[arg(long)]
    dbpath: Option<PathBuf>,
    /// The set's name: without it there is no replication.
    #[arg(long = "replSet")]
    repl_set: Option<String>,
    /// Members' common secret; turns authentication on.
    #[arg(long = "keyFile")]
    key_file: Option<PathBuf>,
    /// Users must log in.
    #[arg(long)]
    auth: bool,
    /// `disabled`, `allowTLS`, `preferTLS` or `requireTLS`.
    #[arg(long = "tlsMode")]
    tls_mode: Option<String>,
    /// Certificate chain and key in one PEM file.
    #[arg(long = "tlsCertificateKeyFile")]
    tls_certificate_key_file: Option<PathBuf>,
    /// Authorities of clients and of other members.
    #[arg(long = "tlsCAFile")]
    tls_ca_file: Option<PathBuf>,
    /// Clients need no certificate.
    #[arg(long = "tlsAllowConnectionsWithoutCertificates")]
    tls_allow_connections_without_certificates: bool,
    /// Where the socket file goes; only when asked for.
    #[arg(long = "unixSocketPrefix")]
    unix_socket_prefix: Option<PathBuf>,
    /// `name=value`; `shutdownTimeoutMillisForSignaledShutdown` is known.
    #[arg(long = "setParameter")]
    set_parameter: Vec<String>,
    /// Taken, and without effect here.
    #[arg(long = "oplogSize")]
    _oplog_size: Option<u64>,
    /// Taken, and without effect here.
    #[arg(long = "wiredTigerCacheSizeGB")]
    _cache_size: Option<f64>,
    /// Taken, and without effect here.
    #[arg(long = "quiet")]
    _quiet: bool,
    /// Which mongod to play. The model's own, like nothing of the above.
    #[arg(long = "modelVersion", env = "MONGOD_MODEL_VERSION", default_value = "5.0.7")]
    model_version: Version,
}

/// The settled options.
#[derive(Clone, Debug)]
pub struct Settled {
    /// TCP port.
    pub port: u16,
    /// Addresses to listen on.
    pub bind: Vec<String>,
    /// Data directory.
    pub dbpath: PathBuf,
    /// The set's name.
    pub set: Option<String>,
    /// The keys: two while one is being rotated.
    pub keys: Vec<String>,
    /// Users must log in.
    pub auth: bool,
    /// TLS, if any.
    pub tls: Option<Tls>,
    /// The socket file.
    pub socket: Option<PathBuf>,
    /// How long a terminating member goes on answering.
    pub shutdown_millis: u64,
    /// Which mongod is played.
    pub version: Version,
    /// The command line, for `getCmdLineOpts`.
    pub argv: Vec<String>,
}

/// Where the certificates are.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Of every client.
    pub required: bool,
    /// Used towards other members.
    pub outgoing: bool,
    /// Chain and key.
    pub certificate: PathBuf,
    /// Authorities; without them certificates are not checked.
    pub authorities: Option<PathBuf>,
    /// A client must show one.
    pub clients_show_one: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    net: Net,
    storage: Storage,
    replication: Replication,
    security: Security,
    set_parameter: std::collections::BTreeMap<String, serde_yaml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Net {
    port: Option<u16>,
    bind_ip: Option<String>,
    bind_ip_all: bool,
    tls: TlsFile,
    unix_domain_socket: Socket,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TlsFile {
    mode: Option<String>,
    certificate_key_file: Option<PathBuf>,
    #[serde(rename = "CAFile")]
    ca_file: Option<PathBuf>,
    allow_connections_without_certificates: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Socket {
    enabled: bool,
    path_prefix: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Storage {
    db_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Replication {
    repl_set_name: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Security {
    key_file: Option<PathBuf>,
    authorization: Option<String>,
}

impl Options {
    /// Flags over file over defaults.
    pub fn settle(self) -> Result<Settled> {
        let file = match &self.config {
            None => File::default(),
            Some(path) => {
                let text = fs::read_to_string(path).with_context(|| format!("Error reading config file {}", path.display()))?;
                serde_yaml::from_str(&text).with_context(|| format!("Error parsing YAML config file {}", path.display()))?
            }
        };
        let port = self.port.or(file.net.port).unwrap_or(27017);
        let tls = &file.net.tls;
        let tls = match self.tls_mode.as_deref().or(tls.mode.as_deref()).unwrap_or("disabled") {
            "disabled" => None,
            mode @ ("allowTLS" | "preferTLS" | "requireTLS") => Some(Tls {
                required: mode == "requireTLS",
                outgoing: mode != "allowTLS",
                certificate: self
                    .tls_certificate_key_file
                    .or(tls.certificate_key_file.clone())
                    .context("need tlsCertificateKeyFile when TLS is enabled")?,
                authorities: self.tls_ca_file.or(tls.ca_file.clone()),
                clients_show_one: !(self.tls_allow_connections_without_certificates || tls.allow_connections_without_certificates),
            }),
            other => bail!("Unsupported value for tlsMode {other}"),
        };
        let prefix = self.unix_socket_prefix.or(file.net.unix_domain_socket.path_prefix.clone());
        let prefix = prefix.or(file.net.unix_domain_socket.enabled.then(|| PathBuf::from("/tmp")));
        let keys = match self.key_file.or(file.security.key_file) {
            None => Vec::new(),
            Some(path) if is_open_to_others(&path) => bail!("permissions on {} are too open", path.display()),
            Some(path) => keys(&fs::read_to_string(&path).with_context(|| format!("error opening file: {}", path.display()))?)?,
        };
        let parameter = |name: &str| {
            let flag = self.set_parameter.iter().find_map(|given| given.strip_prefix(name)?.strip_prefix('=').map(str::to_owned));
            flag.or_else(|| file.set_parameter.get(name).and_then(|value| value.as_u64().map(|number| number.to_string())))
        };
        let shutdown = parameter("shutdownTimeoutMillisForSignaledShutdown").map(|text| text.parse()).transpose()?;
        Ok(Settled {
            port,
            bind: match self.bind_ip.as_slice() {
                _ if self.bind_ip_all || file.net.bind_ip_all => vec!["0.0.0.0".into()],
                [] => file.net.bind_ip.map_or_else(|| vec!["127.0.0.1".into()], |list| list.split(',').map(str::to_owned).collect()),
                given => given.to_vec(),
            },
            dbpath: self.dbpath.or(file.storage.db_path).unwrap_or_else(|| "/data/db".into()),
            set: self.repl_set.or(file.replication.repl_set_name),
            auth: self.auth || !keys.is_empty() || file.security.authorization.as_deref() == Some("enabled"),
            keys,
            tls,
            socket: prefix.map(|prefix| prefix.join(format!("mongodb-{port}.sock"))),
            shutdown_millis: shutdown.unwrap_or(15_000),
            version: self.model_version,
            argv: std::env::args().collect(),
        })
    }
}

/// mongod reads no secret that its group or everybody can read too.
fn is_open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0)
}

/// A key file: one key, or a YAML list of up to two. White space within a key does not count.
fn keys(text: &str) -> Result<Vec<String>> {
    let listed: Vec<String> = if text.trim_start().starts_with('-') { serde_yaml::from_str(text)? } else { vec![text.into()] };
    let keys: Vec<String> = listed.iter().map(|key| key.split_whitespace().collect()).collect();
    if keys.iter().any(|key| !(6..=1024).contains(&key.len())) {
        bail!("security key in key file has length outside of 6 to 1024");
    }
    if keys.is_empty() || keys.len() > 2 {
        bail!("a key file has one key or two, this one {}", keys.len());
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_files_have_one_key_or_two() {
        assert_eq!(keys("abc def\nghi\n").expect("one"), ["abcdefghi"]);
        assert_eq!(keys("- oldkey1\n- newkey2\n").expect("two"), ["oldkey1", "newkey2"]);
        assert!(keys("short").is_err());
    }
}
