//! Members on loopback addresses: the engine in this process, a real mysqld beside it, and something that plays the kubelet.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use sidecar::fence::Guard;
use sidecar::mysql::{Config, run};
use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Peer, State};
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use crate::image;

/// Nothing in these tests takes longer, unless it hangs.
const DEADLINE: Duration = Duration::from_secs(60);
/// Clusters at a time: they mostly wait, but two cores start no more mysqlds than that.
static TURN: Semaphore = Semaphore::const_new(4);
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A cluster of members that do not run yet.
pub struct Rig {
    pub dir: PathBuf,
    subnet: [u8; 2],
    _turn: SemaphorePermit<'static>,
}

/// A member: `engine` is the sidecar, `kubelet` starts mysqld when the curtain opens and whenever it ended.
pub struct Member {
    pub config: Config,
    pub orders: watch::Sender<Option<Order<Assignment>>>,
    pub state: watch::Receiver<State>,
    pub tls: watch::Sender<u64>,
    pub guard: Guard,
    pub term: u64,
    engine: Option<JoinHandle<()>>,
    kubelet: JoinHandle<()>,
    pid: Arc<AtomicU32>,
}

// === impl Rig ===

impl Rig {
    pub async fn new() -> Self {
        let turn = TURN.acquire().await.unwrap();
        let _ = tracing_subscriber::fmt().with_env_filter("sidecar=info").with_test_writer().try_init();
        let number = CLUSTERS.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("understudy-{}-{number}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let rig = Self { dir, subnet: [16 + (std::process::id() % 200) as u8, number as u8], _turn: turn };
        rig.certificates(2039);
        for (file, text) in [
            ("system/replication", "repl-'1\\"),
            ("system/clone", "clone-\"1"),
            ("app/username", "shop"),
            ("app/password", "app-1"),
            ("app/database", "shop_db"),
        ] {
            let path = rig.dir.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        rig.configure("");
        for tool in ["mysqld", "mysqlbinlog", "mysql"] {
            rig.tool(tool);
        }
        rig
    }

    /// Makes a program of the MySQL image callable.
    pub fn tool(&self, name: &str) {
        wrapper(&self.dir, name);
    }

    /// The user's my.cnf.
    pub fn configure(&self, options: &str) {
        let root = root();
        let text = format!(
            "[mysqld]\nbasedir={root}/usr\nlc_messages_dir={root}/usr/share/mysql\ncharacter_sets_dir={root}/usr/share/mysql/charsets\n\
             plugin_dir={root}/usr/lib/mysql/plugin\ninnodb_buffer_pool_size=32M\n{options}\n",
            root = root.display()
        );
        fs::write(self.dir.join("user.cnf"), text).unwrap();
    }

    pub fn address(&self, ordinal: u32) -> Ipv4Addr {
        Ipv4Addr::new(127, self.subnet[0], self.subnet[1], ordinal as u8 + 1)
    }

    pub fn peer(&self, ordinal: u32) -> Peer {
        Peer { member: format!("shop-{ordinal}"), host: self.address(ordinal).to_string() }
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
            pod_ip: self.address(ordinal).to_string(),
            listen: self.address(ordinal).to_string(),
            data_dir: home.join("volume"),
            run_dir: home.join("run"),
            tls_dir: Some(self.dir.join("tls")),
            system_dir: self.dir.join("system"),
            app_dir: self.dir.join("app"),
            config_file: self.dir.join("user.cnf"),
            mysqld: self.dir.join("mysqld"),
            mysqlbinlog: self.dir.join("mysqlbinlog"),
            max_lag_seconds: 10,
            standalone: false,
        };
        edit(&mut config);
        let (orders, _) = watch::channel(None);
        let (tls, _) = watch::channel(0);
        let (_, state) = watch::channel(config.first_state());
        let pid = Arc::new(AtomicU32::new(0));
        let kubelet = tokio::spawn(kubelet(config.clone(), pid.clone()));
        let guard = Guard::new(ordinal);
        let mut member = Member { guard, config, orders, state, tls, term: 0, engine: None, kubelet, pid };
        member.start_sidecar();
        member
    }

    /// Member 0, initialised and open.
    pub async fn primary(&self) -> Member {
        let mut member = self.member(0);
        member.order(Assignment::Initialise);
        member.until("initialised", |state| state.accepted.as_ref().is_some_and(|accepted| accepted.converged)).await;
        member.order(Assignment::Primary { acks: 0, members: vec![0, 1, 2], barred: vec![] });
        member.converged().await;
        member
    }

    /// A member that clones from `donor` and follows `source`.
    pub async fn replica(&self, ordinal: u32, donor: u32, source: u32) -> Member {
        let mut member = self.member(ordinal);
        member.follow(self, source, &[donor], false);
        member.converged().await;
        member
    }

    /// A primary, and a member that stands still and lacks five rows which are in no log of the primary any more.
    pub async fn primary_without_logs(&self) -> (Member, Member) {
        let zero = self.primary().await;
        let mut one = self.replica(1, 0, 0).await;
        one.order(Assignment::Isolated);
        one.converged().await;
        create_rows(&mut zero.app().await, 0, 5).await;
        zero.purge_logs().await;
        (zero, one)
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
        let tls = self.tls.subscribe();
        let config = self.config.clone();
        let guard = Guard::new(config.ordinal);
        (self.orders, self.state, self.guard) = (orders, state, guard.clone());
        self.engine = Some(tokio::spawn(async move {
            let ended = run(config, order, state_in, tls, guard).await;
            panic!("the engine ended: {ended:?}");
        }));
    }

    pub async fn stop_sidecar(&mut self) {
        let engine = self.engine.take().unwrap();
        engine.abort();
        assert!(engine.await.unwrap_err().is_cancelled());
    }

    /// As after the pod was deleted: mysqld and the run directory are gone, the volume is not.
    pub async fn replace_pod(&mut self) {
        self.stop_sidecar().await;
        self.stop_mysqld().await;
        fs::remove_dir_all(&self.config.run_dir).unwrap();
        fs::create_dir_all(&self.config.run_dir).unwrap();
        self.kubelet = tokio::spawn(kubelet(self.config.clone(), self.pid.clone()));
        self.start_sidecar();
    }

    /// mysqld dies and nobody starts it again.
    pub async fn stop_mysqld(&self) {
        let pid = self.pid.load(Ordering::Relaxed);
        self.kubelet.abort();
        if pid != 0 {
            signal(pid, "KILL").await;
            while Path::new(&format!("/proc/{pid}")).exists() {
                sleep(Duration::from_millis(20)).await;
            }
        }
    }

    pub fn order(&mut self, assignment: Assignment) {
        self.term += 1;
        let order = Order { cluster: "uid".into(), term: self.term, claim: 0, incarnation: "one".into(), after: 0, assignment };
        self.orders.send_replace(Some(order));
    }

    pub fn follow(&mut self, rig: &Rig, source: u32, donors: &[u32], acknowledges: bool) {
        let donors = donors.iter().map(|donor| rig.peer(*donor)).collect();
        self.order(Assignment::Replica { source: rig.peer(source), donors, acknowledges, replace: None });
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

    /// SIGKILL of mysqld; the kubelet starts it again.
    pub async fn kill_mysqld(&self) {
        self.signal_mysqld("KILL").await;
    }

    /// Another signal.
    pub async fn signal_mysqld(&self, name: &str) {
        signal(self.pid.load(Ordering::Relaxed), name).await;
    }

    /// A connection as the application.
    pub async fn app(&self) -> Conn {
        self.login("shop", "app-1").await.expect("the application gets in")
    }

    pub async fn login(&self, user: &str, password: &str) -> mysql_async::Result<Conn> {
        Conn::new(self.options(user, password)).await
    }

    /// How a client connects.
    pub fn options(&self, user: &str, password: &str) -> mysql_async::Opts {
        let tls = mysql_async::SslOpts::default()
            .with_root_certs(vec![self.config.tls_dir.clone().unwrap().join("ca.crt").into()])
            .with_disable_built_in_roots(true);
        let options = OptsBuilder::default().ip_or_hostname(&self.config.listen).user(Some(user)).pass(Some(password)).prefer_socket(false);
        options.ssl_opts(tls).into()
    }

    /// A connection as the sidecar itself.
    pub async fn local(&self) -> Conn {
        let password = fs::read_to_string(self.config.data_dir.join(".understudy/local-password")).unwrap();
        let options =
            OptsBuilder::default().socket(Some(self.config.socket().to_string_lossy())).user(Some("understudy")).pass(Some(password));
        Conn::new(options).await.expect("the sidecar's own account")
    }

    /// Purges every binary log of now. mysqld compares whole seconds.
    pub async fn purge_logs(&self) {
        self.local().await.query_drop("FLUSH BINARY LOGS").await.unwrap();
        sleep(Duration::from_millis(1100)).await;
        self.local().await.query_drop("PURGE BINARY LOGS BEFORE NOW()").await.unwrap();
    }

    /// One value as the sidecar sees it.
    pub async fn ask(&self, question: &str) -> String {
        self.local().await.query_first::<String, _>(question).await.unwrap().unwrap_or_default()
    }

    pub async fn rows(&self) -> u64 {
        self.local().await.query_first("SELECT COUNT(*) FROM shop_db.t").await.unwrap().unwrap()
    }

    pub async fn until_rows(&self, count: u64) {
        let reached = timeout(DEADLINE, async {
            while self.rows().await < count {
                sleep(Duration::from_millis(50)).await;
            }
        });
        reached.await.unwrap_or_else(|_| panic!("{} has too few rows: {:#?}", self.config.member, self.now()));
        assert_eq!(self.rows().await, count);
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

pub async fn signal(pid: u32, name: &str) {
    assert_ne!(pid, 0, "mysqld runs");
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().await.unwrap().success());
}

pub async fn create_rows(conn: &mut Conn, from: u64, count: u64) {
    conn.query_drop("CREATE TABLE IF NOT EXISTS shop_db.t (id BIGINT PRIMARY KEY)").await.unwrap();
    for id in from..from + count {
        conn.query_drop(format!("INSERT INTO shop_db.t VALUES ({id})")).await.unwrap();
    }
}

async fn kubelet(config: Config, pid: Arc<AtomicU32>) {
    loop {
        while !config.curtain_is_open() {
            sleep(Duration::from_millis(50)).await;
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(config.run_dir.join("mysqld.log")).unwrap();
        let mut child = Command::new(&config.mysqld)
            .arg(format!("--defaults-file={}", config.my_cnf().display()))
            .stderr(Stdio::from(log))
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        pid.store(child.id().unwrap(), Ordering::Relaxed);
        let _ = child.wait().await;
        pid.store(0, Ordering::Relaxed);
        sleep(Duration::from_millis(100)).await;
    }
}

/// A program of the MySQL image, callable.
fn wrapper(dir: &Path, name: &str) {
    // `mysqld` refuses to run as root unless told.
    let (program, root_too) = match name {
        "mysqld" => ("usr/sbin/mysqld".to_owned(), "if [ \"$(id -u)\" = 0 ]; then set -- \"$@\" --user=root; fi\n"),
        _ => (format!("usr/bin/{name}"), ""),
    };
    image::wrapper(dir, root(), &program, &["usr/lib/mysql/private"], root_too);
}

/// The root file system of the MySQL image.
fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| image::root("mysql-9.7", "MYSQLD_ROOT"))
}
