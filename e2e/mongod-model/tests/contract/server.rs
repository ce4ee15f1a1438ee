//! A mongod process on loopback in a directory of its own, and sets of them.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ClientOptions, Credential, ServerAddress};
use mongodb::{Client, Database};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;

use crate::raw::Raw;

/// How long a test waits for what has to come: a loaded machine is slow, a broken rule never comes.
pub const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

static DIRECTORIES: AtomicU32 = AtomicU32::new(0);
static PORTS: AtomicU32 = AtomicU32::new(0);

/// The binary under test.
fn mongod() -> String {
    std::env::var("MONGOD").unwrap_or_else(|_| env!("CARGO_BIN_EXE_mongod-model").to_owned())
}

/// A port nobody has, held for as long as the test needs it, restarts included. Below those that the kernel gives to connections; a
/// locked file keeps other runs of the suite off it.
struct Port {
    number: u16,
    _held: File,
}

impl Port {
    fn take() -> Self {
        let locks = std::env::temp_dir().join("mongod-contract-ports");
        std::fs::create_dir_all(&locks).expect("a directory");
        loop {
            let number = 20_000 + (std::process::id() * 97 + PORTS.fetch_add(1, Ordering::Relaxed)) % 12_000;
            let number = u16::try_from(number).expect("a port");
            let held = File::create(locks.join(number.to_string())).expect("a lock");
            if held.try_lock().is_ok() && TcpListener::bind(("127.0.0.1", number)).is_ok() {
                return Self { number, _held: held };
            }
        }
    }
}

/// `ok: 1`.
pub fn is_ok(reply: &Document) -> bool {
    reply.get_f64("ok").is_ok_and(|ok| ok == 1.0)
}

/// One server.
pub struct Server {
    pub port: u16,
    pub directory: PathBuf,
    arguments: Vec<String>,
    process: Option<Child>,
    frozen: bool,
    #[expect(dead_code, reason = "kept from others until the test ends")]
    held: Port,
    version: Option<String>,
}

impl Server {
    /// A server of `rs0` with these further arguments, listening.
    pub fn start(arguments: &[&str]) -> Self {
        let mut with_set = vec!["--replSet", "rs0"];
        with_set.extend(arguments);
        Self::standalone(&with_set)
    }

    /// A server of `rs0` that plays a version, where a version can be played; a real one is what it is.
    pub fn playing(version: &str) -> Self {
        Self::launch(&["--replSet", "rs0"], Some(version))
    }

    /// A server with these arguments only.
    pub fn standalone(arguments: &[&str]) -> Self {
        Self::launch(arguments, None)
    }

    fn launch(arguments: &[&str], version: Option<&str>) -> Self {
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("mongod-contract-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a data directory");
        let port = Port::take();
        let mut server = Self {
            port: port.number,
            held: port,
            directory,
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            process: None,
            frozen: false,
            version: version.map(str::to_owned),
        };
        server.restart();
        server
    }

    /// A server that does not start with these arguments: all that it says.
    pub fn refused(arguments: &[&str]) -> String {
        let (port, spare) = (Port::take(), std::env::temp_dir().join(format!("mongod-contract-refused-{}", std::process::id())));
        std::fs::create_dir_all(&spare).expect("a directory");
        let mut command = Command::new(mongod());
        command.args(["--port", &port.number.to_string()]).args(arguments);
        if !arguments.contains(&"--dbpath") {
            command.arg("--dbpath").arg(&spare);
        }
        let output = command.output().expect("started");
        assert!(!output.status.success());
        drop(std::fs::remove_dir_all(&spare));
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    }

    /// Starts it again in its directory, and waits until it listens.
    pub fn restart(&mut self) {
        let log = File::options().create(true).append(true).open(self.directory.join("log")).expect("a log");
        let mut command = Command::new(mongod());
        command.args(["--port", &self.port.to_string(), "--bind_ip", "127.0.0.1", "--dbpath"]).arg(&self.directory);
        if !self.arguments.iter().any(|argument| argument == "--setParameter") {
            // Nobody waits for a test's server: fifteen seconds are the default.
            command.args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=100"]);
        }
        command.args(&self.arguments);
        command.envs(self.version.iter().map(|version| ("MONGOD_MODEL_VERSION", version)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log")).stderr(log);
        self.process = Some(command.spawn().expect("mongod starts"));
        let end = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.process.as_mut().and_then(|process| process.try_wait().ok().flatten());
            assert!(ended.is_none() && Instant::now() < end, "mongod did not listen: {ended:?}\n{}", self.log());
            std::thread::sleep(POLL);
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log")).unwrap_or_default()
    }

    /// `localhost:port`: its name in a configuration.
    pub fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("it runs");
        kill_process(Pid::from_child(process), signal).expect("signalled");
    }

    /// kill −9.
    pub fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.process.take().expect("it ran").wait().expect("it ended");
    }

    /// SIGTERM; answers its exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.process.take().expect("it ran").wait().expect("it ended").code()
    }

    /// SIGTERM, without waiting for the end.
    pub fn ask_to_terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// It is frozen: holds its connections and answers nothing.
    pub fn freeze(&mut self) {
        self.signal(Signal::STOP);
        self.frozen = true;
    }

    /// It goes on.
    pub fn thaw(&mut self) {
        self.signal(Signal::CONT);
        self.frozen = false;
    }

    /// A connection without a driver.
    pub fn raw(&self) -> Raw {
        Raw::connect(self.port)
    }

    /// The driver, to this server only.
    pub fn client(&self) -> Client {
        self.client_as(None)
    }

    /// The same, logged in.
    pub fn client_as(&self, credential: Option<Credential>) -> Client {
        Client::with_options(options(vec![self.port], credential, true)).expect("options")
    }

    /// The driver's `admin`.
    pub fn admin(&self) -> Database {
        self.client().database("admin")
    }

    /// A command that has to succeed.
    pub async fn run(&self, command: Document) -> Document {
        run(&self.admin(), command).await
    }

    /// A command that has to fail: code and text.
    pub async fn fail(&self, command: Document) -> (i32, String) {
        fail(&self.admin(), command).await
    }

    /// The major version it says it is.
    pub async fn major(&self) -> i32 {
        let info = self.run(doc! { "buildInfo": 1 }).await;
        info.get_array("versionArray").expect("a version")[0].as_i32().expect("a number")
    }

    /// Its state's number; -1 when it does not say.
    pub fn state(&self) -> i32 {
        let status = self.raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" });
        status.get_i32("myState").unwrap_or(-1)
    }

    /// Does it take writes?
    pub fn is_writable(&self) -> bool {
        self.hello().get_bool("isWritablePrimary").unwrap_or_default()
    }

    /// Its `hello`.
    pub fn hello(&self) -> Document {
        self.raw().run(&doc! { "hello": 1, "$db": "admin" })
    }

    /// The configuration it has.
    pub async fn config(&self) -> Document {
        self.run(doc! { "replSetGetConfig": 1 }).await.get_document("config").expect("a config").clone()
    }

    /// The documents of `test.a` that it has itself.
    pub fn documents(&self) -> Vec<Document> {
        let find = doc! { "find": "a", "$db": "test", "$readPreference": { "mode": "secondaryPreferred" } };
        let reply = self.raw().run(&find);
        let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).cloned().unwrap_or_default();
        batch.iter().filter_map(Bson::as_document).cloned().collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
        if std::thread::panicking() {
            eprintln!("==== log of {}\n{}", self.host(), self.log());
        }
        drop(std::fs::remove_dir_all(&self.directory));
    }
}

/// Options of a driver that does not wait for what is not there.
pub fn options(ports: Vec<u16>, credential: Option<Credential>, direct: bool) -> ClientOptions {
    let hosts: Vec<_> = ports.into_iter().map(|port| ServerAddress::Tcp { host: "localhost".into(), port: Some(port) }).collect();
    let mut options = ClientOptions::builder().hosts(hosts).direct_connection(direct).credential(credential).build();
    options.server_selection_timeout = Some(PATIENCE);
    if !direct {
        options.repl_set_name = Some("rs0".into());
        options.direct_connection = None;
    }
    options
}

/// A command that has to succeed.
pub async fn run(database: &Database, command: Document) -> Document {
    let text = command.to_string();
    database.run_command(command).await.unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A command that may do either: its reply, or code and text.
pub async fn attempt(database: &Database, command: Document) -> Result<Document, (i32, String)> {
    let text = command.to_string();
    database.run_command(command).await.map_err(|error| match error.kind.as_ref() {
        mongodb::error::ErrorKind::Command(command) => (command.code, command.message.clone()),
        other => panic!("{text}: {other}"),
    })
}

/// A command that has to fail: code and text.
pub async fn fail(database: &Database, command: Document) -> (i32, String) {
    let text = command.to_string();
    match attempt(database, command).await {
        Ok(reply) => panic!("{text} succeeded: {reply}"),
        Err(why) => why,
    }
}

/// Waits until `holds`.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(POLL).await;
    }
}

/// The settings of tests: elections in about a second. `electionTimeoutMillis` still is longer than any pause of a loaded machine.
pub fn quick() -> Document {
    doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 2000 }
}

/// One member that is primary.
pub async fn single() -> Server {
    single_of(Server::start(&[])).await
}

/// This one, initiated alone.
pub async fn single_of(server: Server) -> Server {
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }], "settings": quick() };
    let reply = server.raw().run(&doc! { "replSetInitiate": config, "$db": "admin" });
    assert!(is_ok(&reply), "{reply}");
    until("a single member elects itself", || server.is_writable()).await;
    server
}

/// Members `0..`, initiated together with quick settings, the first of them elected.
pub struct Set {
    pub servers: Vec<Server>,
}

impl Set {
    /// As many members as all-default ones.
    pub async fn of(size: usize) -> Self {
        Self::with(vec![Document::new(); size]).await
    }

    /// Members with these fields besides `_id` and `host`.
    pub async fn with(members: Vec<Document>) -> Self {
        Self::with_settings(members, quick()).await
    }

    /// And with these settings.
    pub async fn with_settings(members: Vec<Document>, settings: Document) -> Self {
        Self::start(members, settings, &[]).await
    }

    /// And with these arguments.
    pub async fn start(members: Vec<Document>, settings: Document, arguments: &[&str]) -> Self {
        let servers: Vec<Server> = members.iter().map(|_| Server::start(arguments)).collect();
        let listed: Vec<Document> = (0..)
            .zip(&servers)
            .zip(members)
            .map(|((id, server), more)| {
                let mut member = doc! { "_id": id, "host": server.host() };
                member.extend(more);
                member
            })
            .collect();
        let config = doc! { "_id": "rs0", "members": listed, "settings": settings };
        let reply = servers[0].raw().run(&doc! { "replSetInitiate": config, "$db": "admin" });
        assert!(is_ok(&reply), "{reply}");
        let set = Self { servers };
        // Asked rather than waited for: whose timer is first is chance.
        until("a first election", || {
            set.servers[0].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" });
            set.servers[0].is_writable()
        })
        .await;
        until("all members have data", || set.servers.iter().all(|server| [1, 2, 7].contains(&server.state()))).await;
        set
    }

    /// The one that takes writes, when there is one.
    pub fn primary(&self) -> Option<usize> {
        self.servers.iter().position(|server| server.process.is_some() && !server.frozen && server.is_writable())
    }

    /// Waits for one, other than `not`.
    pub async fn new_primary(&self, not: Option<usize>) -> usize {
        let mut found = None;
        until("a primary", || {
            found = self.primary().filter(|primary| Some(*primary) != not);
            found.is_some()
        })
        .await;
        found.expect("found")
    }

    /// The driver, to the whole set.
    pub fn client(&self) -> Client {
        let ports = self.servers.iter().map(|server| server.port).collect();
        Client::with_options(options(ports, None, false)).expect("options")
    }
}

/// A file in a server's reach.
pub fn file(directory: &Path, name: &str, text: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    // mongod refuses a key that others can read.
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).expect("permissions");
    path.display().to_string()
}
