//! Members on loopback addresses: the engine in this process, a real server beside it, and something that plays the kubelet.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, RedisConnectionInfo, RedisError, Value};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sidecar::engine::Posts;
use sidecar::fence::Guard;
use sidecar::redis::{Config, Persistence, run};
use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, Lineage, PORT, Part, Peer, Position, State, User};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::process::Command;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use crate::image;

/// Nothing in these tests takes longer, unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(20);
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    Redis,
    Valkey,
}

/// A cluster of members that do not run yet.
pub struct Rig {
    pub dir: PathBuf,
    pub program: PathBuf,
    subnet: [u8; 2],
}

/// A member: `engine` is the sidecar, `kubelet` starts the server when the curtain opens and whenever it ended.
pub struct Member {
    pub config: Config,
    pub orders: watch::Sender<Option<Order<Assignment>>>,
    pub state: watch::Receiver<State>,
    pub tls: watch::Sender<u64>,
    pub guard: Guard,
    pub leaving: watch::Sender<u64>,
    pub term: u64,
    pub users: Vec<User>,
    pub engine: Option<JoinHandle<()>>,
    kubelet: JoinHandle<()>,
    pid: Arc<AtomicU32>,
}

// === impl Rig ===

impl Rig {
    /// Of Redis.
    pub fn new() -> Self {
        Self::of(Server::Redis)
    }

    /// Of either.
    pub fn of(server: Server) -> Self {
        let _ = tracing_subscriber::fmt().with_env_filter("sidecar=info").with_test_writer().try_init();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("understudy-redis-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let program = program(server, &dir, "");
        let rig = Self { dir, program, subnet: [16 + (std::process::id() % 200) as u8, number as u8] };
        rig.certificates(2039);
        rig.password("system", "replication", "repl-1");
        rig.password("system", "exporter", "export-1");
        rig.password("users", "app", "app-1");
        rig.configure("");
        rig
    }

    /// A server that can write no file longer than this, as on a volume that is full.
    pub fn cramped(&self, kibibytes: u32) -> PathBuf {
        let dir = self.dir.join("cramped");
        fs::create_dir_all(&dir).unwrap();
        program(Server::Redis, &dir, &format!("trap '' XFSZ\nulimit -f {}\n", kibibytes * 2))
    }

    /// A file of a Secret.
    pub fn password(&self, kind: &str, name: &str, text: &str) {
        let path = self.dir.join(kind).join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// The user's redis.conf.
    pub fn configure(&self, options: &str) {
        fs::write(self.dir.join("user.conf"), options).unwrap();
    }

    pub fn address(&self, ordinal: u32) -> Ipv4Addr {
        Ipv4Addr::new(127, self.subnet[0], self.subnet[1], ordinal as u8 + 1)
    }

    /// A CA and a member's certificate, valid until `year`.
    pub fn certificates(&self, year: i32) {
        let dir = self.dir.join("tls");
        fs::create_dir_all(&dir).unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "shop CA");
        let ca_certificate = ca.self_signed(&ca_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut member = CertificateParams::new(vec!["localhost".into()]).unwrap();
        member.distinguished_name.push(DnType::CommonName, "understudy-member");
        member.not_after = rcgen::date_time_ymd(year, 1, 1);
        member.subject_alt_names.extend((0..5).map(|ordinal| SanType::IpAddress(self.address(ordinal).into())));
        let certificate = member.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
        fs::write(dir.join("ca.crt"), ca_certificate.pem()).unwrap();
        fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
    }

    pub fn member(&self, ordinal: u32) -> Member {
        self.member_with(ordinal, |_| ())
    }

    pub fn member_with(&self, ordinal: u32, edit: impl FnOnce(&mut Config)) -> Member {
        let home = self.dir.join(format!("m{ordinal}"));
        for part in ["volume", "run"] {
            fs::create_dir_all(home.join(part)).unwrap();
        }
        let mut config = Config {
            member: format!("shop-{ordinal}"),
            ordinal,
            cluster: "shop".into(),
            namespace: "market".into(),
            host: self.address(ordinal).to_string(),
            listen: self.address(ordinal).to_string(),
            data_dir: home.join("volume"),
            run_dir: home.join("run"),
            tls_dir: Some(self.dir.join("tls")),
            tls: true,
            system_dir: Some(self.dir.join("system")),
            users_dir: self.dir.join("users"),
            config_file: self.dir.join("user.conf"),
            program: Some(self.program.clone()),
            engine: None,
            persistence: Persistence::AppendOnly,
            max_lag_seconds: 10,
            standalone: false,
            sentinel: None,
        };
        edit(&mut config);
        let (orders, _) = watch::channel(None);
        let (tls, _) = watch::channel(0);
        let (_, state) = watch::channel(config.first_state());
        let pid = Arc::new(AtomicU32::new(0));
        let kubelet = tokio::spawn(kubelet(config.clone(), pid.clone()));
        let guard = Guard::new(ordinal);
        let users = vec![User { name: "app".into(), rules: "~* &* +@all -@dangerous +info".into() }];
        let leaving = watch::Sender::new(0);
        let mut member = Member { guard, leaving, config, orders, state, tls, term: 0, users, engine: None, kubelet, pid };
        member.start_sidecar();
        member
    }

    /// Member 0, empty and open, for the replicas `admitted`.
    pub async fn primary(&self, admitted: &[u32]) -> Member {
        let mut member = self.member(0);
        member.lead(admitted);
        member.converged().await;
        member
    }

    /// A member that follows `source`.
    pub async fn replica(&self, ordinal: u32, source: &Member) -> Member {
        let mut member = self.member(ordinal);
        member.follow(source);
        member.converged().await;
        member
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

// === impl Member ===

impl Member {
    /// Starts the sidecar; a second time with no memory of orders, as after a restart.
    pub fn start_sidecar(&mut self) {
        let (orders, order) = watch::channel(None);
        let (state_in, state) = watch::channel(self.config.first_state());
        let tls_changed = self.tls.subscribe();
        let config = self.config.clone();
        let (guard, leaving) = (Guard::new(config.ordinal), self.leaving.subscribe());
        (self.orders, self.state, self.guard) = (orders, state, guard.clone());
        self.engine = Some(tokio::spawn(async move {
            let ended = run(config, Posts { orders: order, state: state_in, tls_changed, guard }, leaving).await;
            panic!("the engine ended: {ended:?}");
        }));
    }

    pub async fn stop_sidecar(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.abort();
        assert!(engine.await.unwrap_err().is_cancelled());
    }

    /// As after the pod was deleted: the server and the run directory are gone, the volume is not.
    pub async fn replace_pod(&mut self) {
        self.stop_sidecar().await;
        self.stop_server().await;
        fs::remove_dir_all(&self.config.run_dir).unwrap();
        fs::create_dir_all(&self.config.run_dir).unwrap();
        self.kubelet = tokio::spawn(kubelet(self.config.clone(), self.pid.clone()));
        self.start_sidecar();
    }

    /// The server dies and nobody starts it again.
    pub async fn stop_server(&self) {
        let pid = self.pid.load(Ordering::Relaxed);
        self.kubelet.abort();
        if pid != 0 {
            // Its end with its kubelet may have been faster.
            let _ = Command::new("kill").args(["-KILL", &pid.to_string()]).stderr(Stdio::null()).status().await;
            while Path::new(&format!("/proc/{pid}")).exists() {
                sleep(Duration::from_millis(5)).await;
            }
        }
    }

    pub fn order(&mut self, part: Part) {
        self.term += 1;
        let assignment = Assignment { part, members: vec![0, 1, 2], users: self.users.clone() };
        let order = Order { cluster: "uid".into(), term: self.term, claim: 0, incarnation: "one".into(), after: 0, assignment };
        self.orders.send_replace(Some(order));
    }

    /// Lead, whatever the data.
    pub fn lead(&mut self, admitted: &[u32]) {
        self.order(Part::Primary { identity: None, admitted: admitted.to_vec(), min_replicas: 0, max_lag_seconds: 10, yield_to: None });
    }

    /// Follow `source`, whose past is what it says itself.
    pub fn follow(&mut self, source: &Member) {
        let lineage = source.now().position.map(|position| Lineage::default().written(&position)).unwrap_or_default();
        self.follow_with(source, lineage, None);
    }

    pub fn follow_with(&mut self, source: &Member, lineage: Lineage, discard: Option<String>) {
        self.order(Part::Replica { source: source.peer(), lineage, discard, heir_of: None, source_yields: false });
    }

    pub async fn freeze(&mut self) -> Position {
        self.order(Part::Isolated);
        self.converged().await.position.expect("it holds a history")
    }

    pub fn peer(&self) -> Peer {
        Peer { member: self.config.member.clone(), host: self.config.host.clone() }
    }

    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    pub async fn until(&self, what: &str, holds: impl Fn(&State) -> bool) -> State {
        let mut state = self.state.clone();
        match timeout(DEADLINE, state.wait_for(|state| holds(state))).await {
            Ok(seen) => seen.expect("the engine lives").clone(),
            Err(_) => panic!("{} is never {what}: {:#?}", self.config.member, self.now()),
        }
    }

    /// Until all of the last order holds.
    pub async fn converged(&self) -> State {
        let term = self.term;
        self.until("converged", |state| state.accepted.as_ref().is_some_and(|accepted| accepted.term == term && accepted.converged)).await
    }

    /// SIGKILL of the server; the kubelet starts it again.
    pub async fn kill_server(&self) {
        self.signal_server("KILL").await;
    }

    pub async fn signal_server(&self, name: &str) {
        signal(self.pid.load(Ordering::Relaxed), name).await;
    }

    pub fn server_pid(&self) -> u32 {
        self.pid.load(Ordering::Relaxed)
    }

    /// A connection as the application.
    pub async fn app(&self) -> Client {
        self.login("app", "app-1").await.expect("the application gets in")
    }

    pub async fn login(&self, user: &str, password: &str) -> Result<Client, RedisError> {
        let tcp = TcpStream::connect((self.config.host.as_str(), PORT)).await?;
        if !self.config.tls {
            return Client::over(tcp, user, password).await;
        }
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.config.tls_dir.clone().unwrap().join("ca.crt")).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from(self.config.host.clone()).unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
        Client::over(stream, user, password).await
    }

    /// A connection as the sidecar itself.
    pub async fn local(&self) -> Client {
        let password = fs::read_to_string(self.config.data_dir.join(".understudy/local-password")).unwrap();
        let stream = UnixStream::connect(self.config.run_dir.join("redis.sock")).await.unwrap();
        Client::over(stream, "understudy", &password).await.expect("the sidecar's own account")
    }

    /// Waits until a section of `INFO` holds these words.
    pub async fn says(&self, section: &str, words: &str) {
        let told = async {
            loop {
                let info = self.local().await.ask(&["INFO", section]).await.unwrap();
                if redis::from_redis_value::<String>(info).unwrap().contains(words) {
                    return;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(DEADLINE, told).await.unwrap_or_else(|_| panic!("{} never says {words:?}", self.config.member));
    }

    /// One value as the sidecar sees it.
    pub async fn get(&self, key: &str) -> Option<String> {
        let answer = self.local().await.ask(&["GET", key]).await.unwrap();
        redis::from_redis_value(answer).unwrap()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kubelet.abort();
        if let Some(engine) = &self.engine {
            engine.abort();
        }
    }
}

/// A connection.
#[derive(Clone)]
pub struct Client(MultiplexedConnection);

impl Client {
    async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, user: &str, password: &str) -> Result<Self, RedisError> {
        let login = RedisConnectionInfo::default().set_username(user).set_password(password).set_skip_set_lib_name();
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(DEADLINE));
        let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
        tokio::spawn(driver);
        Ok(Self(connection))
    }

    pub async fn ask(&self, words: &[&str]) -> Result<Value, RedisError> {
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        self.0.clone().send_packed_command(&command).await?.extract_error()
    }

    /// Sets a key until `replicas` have said that they have it.
    pub async fn set_on(&self, key: &str, replicas: u32) {
        let set = async { while self.set(key, replicas).await.unwrap_or_default() < replicas.into() {} };
        timeout(DEADLINE, set).await.unwrap_or_else(|_| panic!("{key} is never on {replicas} replicas"));
    }

    /// Sets a key and waits until `replicas` have it, for a second at most; how many have.
    pub async fn set(&self, key: &str, replicas: u32) -> Result<i64, RedisError> {
        self.ask(&["SET", key, "x"]).await?;
        if replicas == 0 {
            return Ok(0);
        }
        let held = self.ask(&["WAIT", &replicas.to_string(), "1000"]).await?;
        Ok(redis::from_redis_value(held)?)
    }
}

pub async fn signal(pid: u32, name: &str) {
    assert_ne!(pid, 0, "the server runs");
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await.unwrap().success());
}

async fn kubelet(config: Config, pid: Arc<AtomicU32>) {
    loop {
        while !config.curtain_is_open() {
            sleep(Duration::from_millis(20)).await;
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(config.run_dir.join("server.log")).unwrap();
        let program = fs::read_to_string(config.run_dir.join("server")).unwrap();
        let mut child = Command::new(program).arg(config.redis_conf()).stdout(Stdio::from(log)).kill_on_drop(true).spawn().unwrap();
        pid.store(child.id().unwrap(), Ordering::Relaxed);
        let _ = child.wait().await;
        pid.store(0, Ordering::Relaxed);
        // Long enough to be seen on a busy machine.
        sleep(Duration::from_millis(250)).await;
    }
}

/// The server of the lab's image; `first` is shell that runs before.
fn program(server: Server, dir: &Path, first: &str) -> PathBuf {
    static ROOTS: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    let (slot, name, variable, program) = match server {
        Server::Redis => (&ROOTS[0], "redis-7.0", "REDIS_ROOT", "usr/bin/redis-server"),
        Server::Valkey => (&ROOTS[1], "valkey-9", "VALKEY_ROOT", "usr/bin/valkey-server"),
    };
    let root = slot.get_or_init(|| image::root(name, variable));
    image::wrapper(dir, root, program, &[], first)
}
