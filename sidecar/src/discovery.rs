//! Who else is there: the members that the headless Service's SRV records name. For standalone mode; an operator tells its members.
//!
//! "Nobody" and "unknown" are different answers: only a name server that says so means nobody; silence and failure are an error,
//! so that no member ever takes a DNS outage for an empty cluster.

use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts, ServerOrderingStrategy};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::time::timeout;

/// One question, its repetitions included: a name server in the cluster answers in milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// One attempt; a lost datagram is sent again after it.
const ATTEMPT: Duration = Duration::from_secs(1);

/// A member, as the Service names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Pod name, `NAME-ORDINAL`.
    pub member: String,
    /// Ordinal of the pod.
    pub ordinal: u32,
    /// Its stable DNS name, as the record gives it, without the final dot.
    pub host: String,
}

/// Why it is not known who is there.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// `/etc/resolv.conf` or the Service's name cannot be used.
    #[error("cannot look up {service}: {reason}")]
    Unusable {
        /// The Service asked for.
        service: String,
        /// What is wrong.
        reason: String,
    },
    /// The name server failed or kept silent: unknown, not nobody.
    #[error("no answer to an SRV query for {name}: {reason}")]
    Unknown {
        /// The name asked for.
        name: String,
        /// What happened instead.
        reason: String,
    },
}

/// Looks for the members of one StatefulSet behind one headless Service.
#[derive(Clone, Debug)]
pub struct Discovery {
    targets: Targets,
    names: Vec<Name>,
    /// `NAME-`, which every member's pod name starts with.
    prefix: String,
}

impl Discovery {
    /// Peers of `member` (a pod name) behind `service`, whose port is called `port`; by the pod's own `/etc/resolv.conf`.
    ///
    /// # Errors
    /// When the system's resolver configuration cannot be read or `service` is no name.
    pub fn new(service: &str, port: &str, member: &str) -> Result<Self, DiscoveryError> {
        let (config, _) = system_conf::read_system_conf()
            .map_err(|error| DiscoveryError::Unusable { service: service.into(), reason: format!("/etc/resolv.conf: {error}") })?;
        Self::with_config(service, port, member, config)
    }

    /// As [`Discovery::new`], with name servers and search domains of one's own.
    ///
    /// # Errors
    /// When `service` is no name.
    pub fn with_config(service: &str, port: &str, member: &str, config: ResolverConfig) -> Result<Self, DiscoveryError> {
        let unusable = |reason: String| DiscoveryError::Unusable { service: service.into(), reason };
        let names = names(service, port, config.search()).map_err(unusable)?;
        let stem = member.rsplit_once('-').map_or(member, |(stem, _)| stem);
        let targets = Targets::new(config).map_err(unusable)?;
        Ok(Self { targets, names, prefix: format!("{stem}-") })
    }

    /// Everybody that the Service names now, oneself included, by ordinal. Empty means that the name server knows nobody.
    ///
    /// # Errors
    /// [`DiscoveryError::Unknown`] when the name server fails or is silent.
    pub async fn peers(&self) -> Result<Vec<Peer>, DiscoveryError> {
        for name in &self.names {
            let peers = members(&self.prefix, self.targets.of(name).await?.into_iter());
            if !peers.is_empty() {
                return Ok(peers);
            }
        }
        Ok(Vec::new())
    }
}

/// Asks for the targets of SRV records.
#[derive(Clone, Debug)]
pub struct Targets(TokioResolver);

impl Targets {
    /// By the name servers of `config`.
    ///
    /// # Errors
    /// When they cannot be used, with what is wrong.
    pub fn new(config: ResolverConfig) -> Result<Self, String> {
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options();
        builder.build().map(Self).map_err(|error| error.to_string())
    }

    /// The targets behind `name`, as the records give them. Empty means that the name server knows none.
    ///
    /// # Errors
    /// [`DiscoveryError::Unknown`] when the name server fails or is silent.
    pub async fn of(&self, name: &Name) -> Result<Vec<String>, DiscoveryError> {
        let unknown = |reason: String| DiscoveryError::Unknown { name: name.to_string(), reason };
        let answer = timeout(DEADLINE, self.0.lookup(name.clone(), RecordType::SRV));
        match answer.await.map_err(|_| unknown(format!("silent for {} s", DEADLINE.as_secs())))? {
            Ok(lookup) => {
                let targets = lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::SRV(srv) => Some(srv.target.to_string()),
                    _ => None,
                });
                Ok(targets.collect())
            }
            Err(error) if said_nobody(&error) => Ok(Vec::new()),
            Err(error) => Err(unknown(error.to_string())),
        }
    }
}

/// No cache: an answer of ten seconds ago names members that are gone.
fn options() -> ResolverOpts {
    let mut options = ResolverOpts::default();
    options.timeout = ATTEMPT;
    options.attempts = 3;
    options.cache_size = 0;
    options.server_ordering_strategy = ServerOrderingStrategy::UserProvidedOrder;
    options
}

/// An authoritative "no such name" or "no such record"; everything else is no answer.
fn said_nobody(error: &NetError) -> bool {
    error.is_nx_domain() || error.is_no_records_found()
}

/// What to ask, in order: the Service's named port, then the Service itself. A bare name is looked for in the first search domain only,
/// which is the pod's own namespace: asking the others (the node's included) would let an upstream failure hide a clear "nobody".
fn names(service: &str, port: &str, search: &[Name]) -> Result<Vec<Name>, String> {
    let bases: Vec<Option<&Name>> = match (service.ends_with('.'), service.contains('.')) {
        (true, _) => vec![None],
        (false, true) => search.iter().map(Some).chain([None]).collect(),
        (false, false) => vec![search.first()],
    };
    let mut names = Vec::new();
    for base in bases {
        for name in [format!("_{port}._tcp.{service}"), service.to_owned()] {
            let mut name = Name::from_str(&name).map_err(|error| error.to_string())?;
            if let Some(base) = base {
                name = name.append_domain(base).map_err(|error| error.to_string())?;
            }
            name.set_fqdn(true);
            names.push(name);
        }
    }
    Ok(names)
}

/// The records' targets as members, each once, by ordinal. Targets that are no pod of this StatefulSet are left out.
fn members(prefix: &str, targets: impl Iterator<Item = String>) -> Vec<Peer> {
    let mut peers: Vec<Peer> = targets
        .filter_map(|target| {
            let host = target.trim_end_matches('.').to_owned();
            let member = host.split('.').next()?.to_owned();
            let ordinal = member.strip_prefix(prefix)?.parse().ok()?;
            Some(Peer { member, ordinal, host })
        })
        .collect();
    peers.sort_by(|a, b| (a.ordinal, &a.host).cmp(&(b.ordinal, &b.host)));
    peers.dedup_by_key(|peer| peer.ordinal);
    peers
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use hickory_resolver::config::{ConnectionConfig, NameServerConfig};
    use hickory_resolver::proto::op::{Message, ResponseCode};
    use hickory_resolver::proto::rr::Record;
    use hickory_resolver::proto::rr::rdata::SRV;
    use tokio::net::UdpSocket;

    use super::*;

    const ZONE: &str = "shop.svc.cluster.local.";

    /// A name server that answers the one `known` name with `targets`, and everything else with `otherwise` (`None`: silence).
    async fn name_server(known: &'static str, targets: &'static [&'static str], otherwise: Option<ResponseCode>) -> SocketAddr {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut buffer = [0; 1500];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
                let asked = message.queries[0].name().clone();
                if asked.to_string() == known {
                    for target in targets {
                        let srv = SRV::new(0, 25, 3306, Name::from_str(target).unwrap());
                        message.add_answer(Record::from_rdata(asked.clone(), 5, RData::SRV(srv)));
                    }
                } else if let Some(code) = otherwise {
                    message.metadata.response_code = code;
                } else {
                    continue;
                }
                socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
            }
        });
        address
    }

    fn discovery(address: SocketAddr) -> Discovery {
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
        let search = vec![Name::from_str(ZONE).unwrap(), Name::from_str("corp.example.").unwrap()];
        Discovery::with_config("mysql", "mysql", "mysql-1", ResolverConfig::from_parts(None, search, vec![server])).unwrap()
    }

    #[tokio::test]
    async fn members_come_by_ordinal_each_once() {
        let targets = &[
            "mysql-10.mysql.shop.svc.cluster.local.",
            "mysql-2.mysql.shop.svc.cluster.local.",
            "mysql-2.mysql.shop.svc.cluster.local.",
            "10-244-0-7.mysql.shop.svc.cluster.local.",
        ];
        let server = name_server("_mysql._tcp.mysql.shop.svc.cluster.local.", targets, Some(ResponseCode::NXDomain)).await;
        let peers = discovery(server).peers().await.unwrap();
        let members: Vec<_> = peers.iter().map(|peer| (peer.ordinal, peer.host.as_str())).collect();
        assert_eq!(members, [(2, "mysql-2.mysql.shop.svc.cluster.local"), (10, "mysql-10.mysql.shop.svc.cluster.local")]);
    }

    #[tokio::test]
    async fn a_service_without_a_port_of_that_name_is_asked_plainly() {
        let targets = &["mysql-0.mysql.shop.svc.cluster.local."];
        let server = name_server("mysql.shop.svc.cluster.local.", targets, Some(ResponseCode::NXDomain)).await;
        assert_eq!(discovery(server).peers().await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_means_nobody() {
        let server = name_server("", &[], Some(ResponseCode::NXDomain)).await;
        assert_eq!(discovery(server).peers().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_name_without_records_means_nobody() {
        let server = name_server("", &[], Some(ResponseCode::NoError)).await;
        assert_eq!(discovery(server).peers().await.unwrap(), []);
    }

    #[tokio::test]
    async fn a_failing_name_server_means_unknown() {
        for code in [ResponseCode::ServFail, ResponseCode::Refused] {
            let server = name_server("", &[], Some(code)).await;
            assert!(matches!(discovery(server).peers().await, Err(DiscoveryError::Unknown { .. })), "{code}");
        }
    }

    #[tokio::test]
    async fn a_silent_name_server_means_unknown() {
        let server = name_server("", &[], None).await;
        assert!(matches!(discovery(server).peers().await, Err(DiscoveryError::Unknown { .. })));
    }

    #[test]
    fn only_the_own_namespace_is_asked_for_a_bare_name() {
        let search = [Name::from_str(ZONE).unwrap(), Name::from_str("corp.example.").unwrap()];
        let asked: Vec<_> = names("mysql", "mysql", &search).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["_mysql._tcp.mysql.shop.svc.cluster.local.", "mysql.shop.svc.cluster.local."]);
        let asked: Vec<_> = names("mysql.shop.svc.cluster.local.", "mysql", &search).unwrap().iter().map(ToString::to_string).collect();
        assert_eq!(asked, ["_mysql._tcp.mysql.shop.svc.cluster.local.", "mysql.shop.svc.cluster.local."]);
    }
}
