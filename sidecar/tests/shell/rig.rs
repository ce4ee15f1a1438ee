//! A member's shell on loopback, with an engine that the test plays, and the authority that signs everybody's certificates.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use sidecar::fence::Guard;
use sidecar::hub::{Hub, Identity, Sources};
use sidecar::mysql::Mysql;
use sidecar::peers::{self, Names};
use sidecar::term::Term;
use sidecar::{health, mysql, server, tls};
use sidecar_protocol::client::{Client, ClientError, tls_config};
use sidecar_protocol::mysql::{Assignment, Data, State};
use sidecar_protocol::{MEMBER_COMMON_NAME, OPERATOR_COMMON_NAME, Order, Refusal, Report};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;

pub const UID: &str = "0b9e9e0c-7a7e-4b39-8f5e-2d1b7e5c9a11";
pub const INCARNATION: &str = "5f2c81d07be94a36";
pub const HOST: &str = "shop-0.shop.prod.svc";
/// How long who asks to be released waits at most.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A directory of its own for each caller.
pub fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("understudy-shell-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

/// A certificate and its key.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "shop");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn issue(&self, common_name: &str) -> Pair {
        let hosts: Vec<_> = (0..5).map(|ordinal| format!("shop-{ordinal}.shop.prod.svc")).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().unwrap();
        Pair { certificate: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }

    /// Mounts a Secret, or changes a mounted one, as the kubelet does: a new directory, then one swapped link.
    pub fn mount(&self, directory: &Path, member: &Pair) {
        static VERSION: AtomicU32 = AtomicU32::new(0);
        let version = format!("..version-{}", VERSION.fetch_add(1, Ordering::Relaxed));
        fs::create_dir_all(directory.join(&version)).unwrap();
        for (name, text) in [("ca.crt", &self.pem), ("tls.crt", &member.certificate), ("tls.key", &member.key)] {
            fs::write(directory.join(&version).join(name), text).unwrap();
            let _ = symlink(Path::new("..data").join(name), directory.join(name));
        }
        let former = fs::read_link(directory.join("..data"));
        symlink(version, directory.join("..data.new")).unwrap();
        fs::rename(directory.join("..data.new"), directory.join("..data")).unwrap();
        if let Ok(former) = former {
            fs::remove_dir_all(directory.join(former)).unwrap();
        }
    }

    pub fn client(&self, common_name: &str) -> Arc<rustls::ClientConfig> {
        let pair = self.issue(common_name);
        Arc::new(tls_config(self.pem.as_bytes(), pair.certificate.as_bytes(), pair.key.as_bytes()).unwrap())
    }
}

/// A running shell. The test is the engine: it sets `state` and reads `orders`.
pub struct Rig {
    pub authority: Arc<Authority>,
    pub guard: Guard,
    pub root: PathBuf,
    pub api: SocketAddr,
    pub health: SocketAddr,
    pub state: watch::Sender<State>,
    pub orders: watch::Receiver<Option<Order<Assignment>>>,
    pub tls_changed: watch::Receiver<u64>,
}

pub fn config(root: &Path) -> mysql::Config {
    config_of(root, 0)
}

fn config_of(root: &Path, ordinal: u32) -> mysql::Config {
    mysql::Config {
        member: format!("shop-{ordinal}"),
        ordinal,
        cluster: "shop".into(),
        namespace: "prod".into(),
        pod_ip: "127.0.0.1".into(),
        listen: "127.0.0.1".into(),
        data_dir: root.join("volume"),
        run_dir: root.join("run"),
        tls_dir: Some(root.join("tls")),
        system_dir: root.join("system"),
        app_dir: PathBuf::new(),
        config_file: root.join("config/my.cnf"),
        mysqld: "mysqld".into(),
        mysqlbinlog: "mysqlbinlog".into(),
        max_lag_seconds: 10,
        standalone: false,
    }
}

impl Rig {
    pub async fn start() -> Self {
        Self::start_in(scratch(), Authority::new(), false).await
    }

    /// As the sidecar starts on the volume in `root`.
    pub async fn start_in(root: PathBuf, authority: Authority, standalone: bool) -> Self {
        let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        Self::start_on(api, root, authority.into(), 0, standalone, None).await
    }

    async fn start_on(
        api_port: TcpListener,
        root: PathBuf,
        authority: Arc<Authority>,
        ordinal: u32,
        standalone: bool,
        names: Option<Names>,
    ) -> Self {
        let config = config_of(&root, ordinal);
        fs::create_dir_all(&config.run_dir).unwrap();
        let directory = root.join("tls");
        authority.mount(&directory, &authority.issue(MEMBER_COMMON_NAME));
        let (state, states) = watch::channel(State { data: Data::Present, ..config.first_state() });
        let (orders_in, orders) = watch::channel(None);
        let (sets_in, sets) = watch::channel(tls::load(&directory).unwrap());
        let (changes_in, tls_changed) = watch::channel(0);
        let (trouble_in, trouble) = watch::channel(None);
        let term = Term::open(&config.data_dir.join(".understudy"), UID).unwrap();
        let identity = Identity { cluster: UID.into(), member: config.member.clone(), incarnation: INCARNATION.into() };
        let sources = Sources { state: states, certificates: Some(sets.clone()), trouble };
        let guard = Guard::new(ordinal);
        let hub = Hub::new(Mysql(config), identity, sources, Some(term), orders_in, guard.clone());
        let health_port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (api, health) = (api_port.local_addr().unwrap(), health_port.local_addr().unwrap());
        if let Some(names) = names {
            tokio::spawn(peers::listen(Arc::clone(&hub), names, sets.clone()));
        }
        tokio::spawn(server::serve(api_port, sets, Arc::clone(&hub)));
        tokio::spawn(health::serve(health_port, hub, PATIENCE, standalone));
        tokio::spawn(tls::follow(directory, sets_in, changes_in, trouble_in));
        Self { authority, guard, root, api, health, state, orders, tls_changed }
    }

    pub async fn connect(&self, tls: Arc<rustls::ClientConfig>) -> Result<Client, ClientError> {
        Client::connect(self.api, HOST, tls).await
    }

    pub async fn operator(&self) -> Client {
        self.connect(self.authority.client(OPERATOR_COMMON_NAME)).await.unwrap()
    }

    pub async fn member(&self) -> Client {
        self.connect(self.authority.client(MEMBER_COMMON_NAME)).await.unwrap()
    }
}

pub fn order(cluster: &str, term: u64, assignment: Assignment) -> Order<Assignment> {
    Order { cluster: cluster.into(), term, claim: 0, incarnation: INCARNATION.into(), after: 0, assignment }
}

pub fn refused(result: Result<Report<State>, ClientError>) -> Refusal {
    match result {
        Err(ClientError::Refused(refusal)) => refusal,
        other => panic!("not refused but {other:?}"),
    }
}

/// Members that find each other: addresses of their own, one port, and a name server.
pub struct Network {
    pub authority: Arc<Authority>,
    subnet: u8,
    port: u16,
    names: Names,
}

impl Network {
    pub async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let subnet = (std::process::id() % 16 * 16 + NEXT.fetch_add(1, Ordering::Relaxed)) as u8;
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut connection = ConnectionConfig::udp();
        connection.port = socket.local_addr().unwrap().port();
        let server = NameServerConfig::new(Ipv4Addr::LOCALHOST.into(), true, vec![connection]);
        tokio::spawn(name_server(socket, subnet));
        // The port is free on an address of our own; nobody else uses the others.
        let port = TcpListener::bind((address(subnet, 9), 0)).await.unwrap().local_addr().unwrap().port();
        // As the kubelet writes a pod's resolv.conf.
        let search = ["prod.svc.cluster.local.", "svc.cluster.local.", "cluster.local."].map(|name| name.parse().unwrap());
        let mut options = ResolverOpts::default();
        options.ndots = 5;
        let names = Names::with_config(port, ResolverConfig::from_parts(None, search.into(), vec![server]), options).unwrap();
        Self { authority: Authority::new().into(), subnet, port, names }
    }

    /// The member `ordinal`, on an empty volume.
    pub async fn member(&self, ordinal: u32) -> Rig {
        self.member_in(scratch(), ordinal).await
    }

    /// The member `ordinal` of this network, at the address where `other` expects its own.
    pub async fn instead_of(&self, other: &Self, ordinal: u32) -> Rig {
        let api = TcpListener::bind((address(other.subnet, ordinal), other.port)).await.unwrap();
        Rig::start_on(api, scratch(), Arc::clone(&self.authority), ordinal, false, None).await
    }

    pub async fn member_in(&self, root: PathBuf, ordinal: u32) -> Rig {
        let api = TcpListener::bind((address(self.subnet, ordinal), self.port)).await.unwrap();
        Rig::start_on(api, root, Arc::clone(&self.authority), ordinal, false, Some(self.names.clone())).await
    }
}

fn address(subnet: u8, ordinal: u32) -> Ipv4Addr {
    Ipv4Addr::new(127, 77, subnet, ordinal as u8 + 1)
}

/// Knows `shop-N.shop.prod.svc.cluster.local`, and nobody else.
async fn name_server(socket: UdpSocket, subnet: u8) {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
        let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
        let query = message.queries[0].clone();
        let asked = query.name().to_string();
        match asked
            .strip_prefix("shop-")
            .and_then(|rest| rest.strip_suffix(".shop.prod.svc.cluster.local."))
            .and_then(|ordinal| ordinal.parse().ok())
        {
            Some(ordinal) if query.query_type() == RecordType::A => {
                message.add_answer(Record::from_rdata(query.name().clone(), 5, RData::A(A(address(subnet, ordinal)))));
            }
            Some(_) => {}
            None => message.metadata.response_code = ResponseCode::NXDomain,
        }
        socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
    }
}
