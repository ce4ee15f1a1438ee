//! A client that asks Sentinels where the primary is, each time it has lost it, and believes what it finds only by its ROLE: as redis-py does.
//! It finds names by the lab's DNS and keeps the Sentinel that answered.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use e2e::engine::Redis;
use e2e::network::DNS;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, Value, cmd};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

pub const SENTINEL_PORT: u16 = 26379;
/// What names in the cluster end with.
const DOMAIN: &str = ".cluster.local";

#[derive(Clone)]
pub struct Seeker {
    /// Names of the Sentinels' hosts.
    sentinels: Vec<String>,
    master: String,
    /// Who logs in over TLS; where it is nobody, all is plain text.
    account: Option<Redis>,
    dns: TokioResolver,
    asked: Arc<Mutex<Asked>>,
}

/// Who answered last, and who comes next if that one does not any more.
#[derive(Default)]
struct Asked {
    open: Option<MultiplexedConnection>,
    next: usize,
}

// === impl Seeker ===

impl Seeker {
    pub fn new(sentinels: Vec<String>, master: &str, account: Option<Redis>) -> Result<Self> {
        let mut config = ResolverConfig::default();
        config.add_name_server(NameServerConfig::udp(DNS.parse()?));
        let mut dns = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        // A library asks the system, which remembers nothing.
        dns.options_mut().cache_size = 0;
        Ok(Self { sentinels, master: master.into(), account, dns: dns.build()?, asked: Arc::default() })
    }

    /// Another client of the same Sentinels, with a connection of its own.
    pub fn another(&self) -> Self {
        Self { asked: Arc::default(), ..self.clone() }
    }

    pub fn sentinels(&self) -> &[String] {
        &self.sentinels
    }

    /// A connection to whom the Sentinels call the primary, and who calls itself so.
    pub async fn primary(&self, within: Duration) -> Result<MultiplexedConnection> {
        let seek = async {
            let (host, port) = self.told().await?;
            let mut connection = self.open(&host, port).await?;
            // A replica's answer has five parts.
            let _: (String, Value, Value) = cmd("ROLE").query_async(&mut connection).await?;
            Ok(connection)
        };
        timeout(within, seek).await.context("no primary in time")?
    }

    /// Where the primary is, by the first Sentinel that knows.
    pub async fn told(&self) -> Result<(String, u16)> {
        let mut asked = self.asked.lock().await;
        for _ in 0..=self.sentinels.len() {
            // Whoever is waited for in vain is not asked next time.
            let mut sentinel = match asked.open.take() {
                Some(open) => open,
                None => {
                    let host = &self.sentinels[asked.next % self.sentinels.len()];
                    asked.next += 1;
                    let Ok(open) = self.open(host, SENTINEL_PORT).await else { continue };
                    open
                }
            };
            let question = cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(&self.master).to_owned();
            if let Ok(Some(address)) = question.query_async::<Option<(String, u16)>>(&mut sentinel).await {
                asked.open = Some(sentinel);
                return Ok(address);
            }
        }
        bail!("no Sentinel knows a primary")
    }

    /// A connection to a host by its name.
    pub async fn open(&self, host: &str, port: u16) -> Result<MultiplexedConnection> {
        let name = format!("{}{DOMAIN}.", host.trim_end_matches(DOMAIN));
        let address = self.dns.lookup_ip(name).await?.iter().next().context("no address")?;
        if let Some(account) = &self.account {
            return account.connect_to(&address.to_string(), port, crate::writer::CONNECT).await;
        }
        let stream = TcpStream::connect((address, port)).await?;
        stream.set_nodelay(true)?;
        let config = AsyncConnectionConfig::new().set_response_timeout(None);
        let (connection, driver) = MultiplexedConnection::new_with_config(&RedisConnectionInfo::default(), stream, config).await?;
        tokio::spawn(driver);
        Ok(connection)
    }
}
