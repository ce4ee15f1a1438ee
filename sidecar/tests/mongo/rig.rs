//! Members on loopback ports: the engine in this process, a mongod beside it, and something that plays the kubelet.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command as Build, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use sidecar::engine::{Engine, Posts};
use sidecar::fence::Guard;
use sidecar::mongo::standalone::{self, Find, Found, Pace};
use sidecar::mongo::{Config, Layout, Mongo, Tls, TlsMode};
use sidecar_protocol::Order;
use sidecar_protocol::mongo::plan::{Desired, Wanted};
use sidecar_protocol::mongo::{Assignment, Part, State};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Nothing in these tests takes longer, unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const KEY: &str = "c2VjcmV0LW9mLXRoZS1zZXQ=";
/// Sets at a time: they mostly wait.
static TURN: Semaphore = Semaphore::const_new(4);
static RIGS: AtomicU32 = AtomicU32::new(0);
static PORTS: AtomicU16 = AtomicU16::new(0);

/// Who is there, as a test says.
#[derive(Clone)]
pub struct List(pub watch::Receiver<Result<Vec<Found>, String>>);

impl Find for List {
    async fn find(&self, _: &State) -> Result<Vec<Found>, String> {
        self.0.borrow().clone()
    }
}

const PACE: Pace = Pace { period: Duration::from_millis(500), unhealthy: Duration::from_secs(3) };

/// A set of members that do not run yet.
pub struct Rig {
    pub dir: PathBuf,
    pub hosts: Vec<String>,
    _turn: SemaphorePermit<'static>,
}

/// A member: `engine` is the sidecar, `kubelet` starts mongod when the curtain opens and whenever it ended.
pub struct Member {
    pub engine: Mongo,
    pub orders: watch::Sender<Option<Order<Assignment>>>,
    pub state: watch::Receiver<State>,
    pub tls: watch::Sender<u64>,
    alone: Option<List>,
    task: Option<JoinHandle<()>>,
    kubelet: JoinHandle<()>,
    held: Arc<AtomicBool>,
    pid: Arc<AtomicU32>,
}

fn mongod() -> &'static Path {
    static MONGOD: OnceLock<PathBuf> = OnceLock::new();
    MONGOD.get_or_init(|| {
        if let Ok(path) = std::env::var("MONGOD") {
            return path.into();
        }
        // Cargo tells no package the programs of another one; they are built side by side.
        let built = Build::new(env!("CARGO")).args(["build", "--quiet", "-p", "mongod-model"]).status().unwrap();
        assert!(built.success(), "mongod-model is built");
        let here = std::env::current_exe().unwrap();
        here.ancestors().nth(2).unwrap().join("mongod-model")
    })
}

fn free_port() -> u16 {
    loop {
        let port = 32_000 - (std::process::id() as u16 % 97) * 100 - PORTS.fetch_add(1, Ordering::Relaxed) % 100;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

// === impl Rig ===

impl Rig {
    pub async fn of(size: usize) -> Self {
        let turn = TURN.acquire().await.unwrap();
        let filter = std::env::var("SIDECAR_LOG").unwrap_or_else(|_| "sidecar=info".into());
        let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
        let dir = std::env::temp_dir().join(format!("understudy-mongo-{}-{}", std::process::id(), RIGS.fetch_add(1, Ordering::Relaxed)));
        for part in ["users", "key"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        let rig = Self { dir, hosts: (0..size).map(|_| format!("localhost:{}", free_port())).collect(), _turn: turn };
        rig.key(KEY);
        rig
    }

    /// Mounts another key file.
    pub fn key(&self, text: &str) {
        fs::write(self.dir.join("key/keyfile"), text).unwrap();
    }

    pub fn secret(&self, name: &str, password: &str) {
        fs::write(self.dir.join("users").join(name), password).unwrap();
    }

    pub fn desired(&self, ordinals: impl IntoIterator<Item = usize>) -> Desired {
        let wanted = |at: usize| Wanted { host: self.hosts[at].clone(), aliases: vec![], zone: None, arbiter: false, priority: 1.0 };
        Desired { members: ordinals.into_iter().map(wanted).collect(), ..Desired::default() }
    }

    pub fn config(&self, at: usize) -> Config {
        let home = self.dir.join(format!("m{at}"));
        for part in ["volume", "run"] {
            fs::create_dir_all(home.join(part)).unwrap();
        }
        Config {
            member: format!("shop-{at}"),
            ordinal: at as u32,
            host: self.hosts[at].clone(),
            pod_ip: String::new(),
            set: Some("shop".into()),
            port: self.hosts[at].rsplit_once(':').unwrap().1.parse().unwrap(),
            layout: Some(Layout { data_dir: home.join("volume"), run_dir: home.join("run"), options: self.dir.join("mongod.conf") }),
            tls: None,
            key_file: Some(self.dir.join("key/keyfile")),
            users_dir: self.dir.join("users"),
            login: None,
            max_lag_seconds: 30,
            standalone: false,
            config_server: false,
        }
    }

    /// A CA and a certificate for everybody; the options of TLS.
    pub fn tls(&self) -> Tls {
        let dir = self.dir.join("tls");
        fs::create_dir_all(&dir).unwrap();
        let ca_key = KeyPair::generate().unwrap();
        let mut ca = CertificateParams::new(vec![]).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "shop CA");
        fs::write(dir.join("ca.crt"), ca.self_signed(&ca_key).unwrap().pem()).unwrap();
        let key = KeyPair::generate().unwrap();
        let member = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let certificate = member.signed_by(&key, &Issuer::from_params(&ca, &ca_key)).unwrap();
        fs::write(dir.join("tls.crt"), certificate.pem()).unwrap();
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        Tls { directory: Some(dir), mode: TlsMode::Require, unchecked: false }
    }

    pub fn member(&self, at: usize) -> Member {
        Member::start(Mongo::new(self.config(at)), &self.dir)
    }

    /// Everybody, the first one having initiated the set and all of them voting.
    pub async fn set(&self) -> Vec<Member> {
        let members: Vec<_> = (0..self.hosts.len()).map(|at| self.member(at)).collect();
        let desired = self.desired(0..self.hosts.len());
        self.grow(&members, desired).await;
        members
    }

    pub async fn grow(&self, members: &[Member], desired: Desired) {
        members[0].order(Assignment::Initiate { set: "shop".into(), desired: desired.clone() });
        members[0].until("it leads", |state| state.writable).await;
        for member in members {
            member.part(Part { desired: desired.clone(), ..Part::default() });
        }
        for member in members {
            member.until("all of them vote", |state| votes(state) == members.len()).await;
            member.done("and that is all").await;
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn votes(state: &State) -> usize {
    state.config.as_ref().map_or(0, |set| set.members.iter().filter(|member| member.votes).count())
}

pub fn converged(state: &State) -> bool {
    state.accepted.as_ref().is_some_and(|accepted| accepted.converged)
}

// === impl Member ===

impl Member {
    pub fn start(engine: Mongo, dir: &Path) -> Self {
        Self::launch(engine, dir, None)
    }

    /// A member with no operator.
    pub fn alone(config: Config, dir: &Path, others: List) -> Self {
        Self::launch(Mongo::new(config), dir, Some(others))
    }

    fn launch(engine: Mongo, dir: &Path, alone: Option<List>) -> Self {
        let (orders, _) = watch::channel(None);
        let (_, state) = watch::channel(engine.first_state());
        let (tls, _) = watch::channel(0);
        let (pid, held) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicBool::new(false)));
        let kubelet = tokio::spawn(kubelet(engine.config.clone(), dir.to_owned(), Arc::clone(&pid), Arc::clone(&held)));
        let mut member = Self { engine, orders, state, tls, alone, task: None, kubelet, held, pid };
        member.restart_sidecar();
        member
    }

    /// Ends the sidecar and starts another one, which knows nothing but its order.
    pub fn restart_sidecar(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let (state_in, state) = watch::channel(self.engine.first_state());
        self.state = state;
        let (engine, alone) = (self.engine.clone(), self.alone.clone());
        let posts = Posts {
            orders: self.orders.subscribe(),
            state: state_in.clone(),
            tls_changed: self.tls.subscribe(),
            guard: Guard::new(engine.ordinal()),
        };
        self.task = Some(tokio::spawn(async move {
            let ended = match alone {
                Some(others) => standalone::run(engine.config, others, PACE, state_in, watch::Sender::new(false)).await,
                None => engine.obey(posts).await,
            };
            panic!("the engine ended: {ended:?}");
        }));
    }

    pub fn order(&self, assignment: Assignment) {
        let (cluster, incarnation) = (String::new(), String::new());
        self.orders.send_replace(Some(Order { cluster, term: 1, claim: 0, incarnation, after: 0, assignment }));
    }

    pub fn part(&self, part: Part) {
        self.order(Assignment::Member(part.into()));
    }

    pub fn now(&self) -> State {
        self.state.borrow().clone()
    }

    pub async fn until(&self, what: &str, holds: impl FnMut(&State) -> bool) -> State {
        let mut state = self.state.clone();
        match timeout(DEADLINE, state.wait_for(holds)).await {
            Ok(state) => state.unwrap().clone(),
            Err(_) => panic!("{}: {what} did not come true: {:#?}", self.engine.config.member, self.now()),
        }
    }

    /// Until all of its own order holds.
    pub async fn done(&self, what: &str) -> State {
        let order = self.orders.borrow().clone().unwrap();
        self.until(what, |state| state.accepted.as_ref().is_some_and(|accepted| accepted.converged && accepted.is(&order))).await
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.load(Ordering::SeqCst) as i32).expect("mongod runs");
        let _ = kill_process(pid, signal);
    }

    /// kill -9; the kubelet starts it again unless it is held.
    pub fn kill(&self) {
        self.signal(Signal::KILL);
    }

    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::SeqCst);
    }

    pub fn host(&self) -> &str {
        &self.engine.config.host
    }

    /// The driver, logged in.
    pub fn client(&self, login: Option<(&str, &str, &str)>) -> Client {
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(self.host()).unwrap()];
        options.direct_connection = Some(true);
        options.server_selection_timeout = Some(Duration::from_secs(5));
        options.credential = login.map(|(name, password, source)| {
            let mechanism = AuthMechanism::ScramSha256;
            Credential::builder()
                .username(name.to_owned())
                .password(password.to_owned())
                .source(source.to_owned())
                .mechanism(mechanism)
                .build()
        });
        Client::with_options(options).unwrap()
    }

    /// A command as a member of the set.
    pub async fn run(&self, command: Document) -> Result<Document, mongodb::error::Error> {
        self.client(Some(("__system", KEY, "local"))).database("admin").run_command(command).await
    }

    /// Whether a user may log in.
    pub async fn knows(&self, login: (&str, &str, &str)) -> bool {
        self.client(Some(login)).database("admin").run_command(doc! { "connectionStatus": 1 }).await.is_ok()
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        self.kubelet.abort();
        if let Some(pid) = Pid::from_raw(self.pid.load(Ordering::SeqCst) as i32) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// A mongod that starts when the curtain opens, for a sidecar that runs elsewhere. Ends when dropped.
pub fn mongod_beside(config: &Config, dir: &Path) -> impl Drop {
    struct Beside(JoinHandle<()>);
    impl Drop for Beside {
        fn drop(&mut self) {
            self.0.abort();
        }
    }
    Beside(tokio::spawn(kubelet(config.clone(), dir.to_owned(), Arc::default(), Arc::default())))
}

async fn kubelet(config: Config, dir: PathBuf, pid: Arc<AtomicU32>, held: Arc<AtomicBool>) {
    let log = dir.join(format!("{}.log", config.member));
    loop {
        while !config.curtain_is_open() || held.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(20)).await;
        }
        let log = File::options().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(mongod());
        match &config.layout {
            Some(layout) => drop(command.arg("--config").arg(layout.conf())),
            None => {
                let volume = dir.join(format!("m{}/volume", config.ordinal));
                command.args(["--replSet", "rs0", "--port", &config.port.to_string(), "--bind_ip", "127.0.0.1", "--dbpath"]).arg(volume);
                if let Some(key) = &config.key_file {
                    command.arg("--keyFile").arg(key);
                } else if config.login.is_some() {
                    command.arg("--auth");
                }
            }
        }
        command.args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        pid.store(child.id().unwrap(), Ordering::SeqCst);
        let _ = child.wait().await;
        pid.store(0, Ordering::SeqCst);
    }
}
