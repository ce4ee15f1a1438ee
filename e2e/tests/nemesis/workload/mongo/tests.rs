//! The words against a mongod of their own, model or not (`MONGOD=/path`), and what each answer means.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use bson::{Document, doc};
use e2e::Engine;
use e2e::engine::Mongo;
use e2e::history::Outcome;
use mongodb::Client;
use mongodb::options::{ClientOptions, ServerAddress};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::{Answer, Workload, answer};

/// A server on this machine answers within this.
const PATIENCE: Duration = Duration::from_secs(60);

/// A member of a set that is not initiated yet.
struct Server {
    port: u16,
    directory: PathBuf,
    process: Child,
}

impl Server {
    fn start() -> Self {
        let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let directory = std::env::temp_dir().join(format!("nemesis-mongod-{}-{port}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let mut command = Command::new(mongod());
        command.args(["--replSet", "rs0", "--bind_ip", "127.0.0.1", "--port", &port.to_string(), "--dbpath"]).arg(&directory);
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        Self { port, directory, process }
    }

    fn host(&self) -> String {
        format!("localhost:{}", self.port)
    }

    fn client(&self) -> Client {
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(self.host()).unwrap()];
        options.direct_connection = Some(true);
        (options.retry_reads, options.retry_writes) = (Some(false), Some(false));
        options.server_selection_timeout = Some(PATIENCE);
        Client::with_options(options).unwrap()
    }

    async fn run(&self, command: Document) -> Document {
        self.client().database("admin").run_command(command).await.unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn mongod() -> PathBuf {
    if let Ok(path) = std::env::var("MONGOD") {
        return path.into();
    }
    // Cargo tells no package the programs of another one; they are built side by side.
    let built = std::process::Command::new(env!("CARGO")).args(["build", "--quiet", "--locked", "-p", "mongod-model"]).status().unwrap();
    assert!(built.success(), "mongod-model is built");
    std::env::current_exe().unwrap().ancestors().nth(2).unwrap().join("mongod-model")
}

#[tokio::test]
async fn appends_are_refused_then_acknowledged_in_order_and_read_back() {
    let server = Server::start();
    let mut client = server.client();
    let refused = Mongo::append(&mut client, 7, 0).await;
    assert!(matches!(refused.outcome, Outcome::Fail(_)), "{refused:?}");

    server.run(doc! { "replSetInitiate": { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }] } }).await;
    let end = Instant::now() + PATIENCE;
    while !server.run(doc! { "hello": 1 }).await.get_bool("isWritablePrimary").unwrap_or_default() {
        assert!(Instant::now() < end, "nobody leads");
        sleep(Duration::from_millis(50)).await;
    }
    let term = server.run(doc! { "replSetGetStatus": 1 }).await.get_i64("term").unwrap();
    assert!(Mongo::read(&mut client, 7).await.unwrap().is_empty());
    for element in [1, 9, 5] {
        let answer = Mongo::append(&mut client, 7, element).await;
        assert_eq!(answer, Answer { outcome: Outcome::Ok, term: u64::try_from(term).ok() });
    }
    assert_eq!(Mongo::append(&mut client, 8, 2).await.outcome, Outcome::Ok);
    assert_eq!(Mongo::read(&mut client, 7).await.unwrap(), [1, 9, 5]);
    assert_eq!(Mongo::member(&mut client).await.unwrap(), server.host());

    let (lists, before) = Mongo::contents(&mut client).await.unwrap();
    assert_eq!(lists, [(7, vec![1, 9, 5]), (8, vec![2])].into());
    assert_eq!(Mongo::contents(&mut client).await.unwrap(), (lists, before), "a checksum repeats");
    client.database(Mongo::DATABASE).collection("lists").insert_one(doc! { "_id": "stray", "elements": ["x"] }).await.unwrap();
    let (lists, after) = Mongo::contents(&mut client).await.unwrap();
    assert_ne!(before, after);
    assert_eq!(lists.get(&u64::MAX), Some(&vec![u64::MAX]), "what nobody appended is found as that");
}

#[test]
fn only_an_answer_without_trouble_is_an_acknowledgement_and_nothing_else_is_certain() {
    let good = doc! { "n": 1, "nModified": 1, "opTime": { "t": 4_i64 }, "ok": 1.0 };
    assert_eq!(answer(Ok(good.clone())), Answer { outcome: Outcome::Ok, term: Some(4) });
    let mut late = good.clone();
    late.insert("writeConcernError", doc! { "code": 64, "errmsg": "waiting for replication timed out" });
    let mut failed = good;
    failed.insert("writeErrors", vec![doc! { "index": 0, "code": 11000 }]);
    for reply in [late, failed, doc! { "n": 0, "ok": 1.0 }] {
        assert!(matches!(answer(Ok(reply.clone())), Answer { outcome: Outcome::Unknown(_), term: None }), "{reply}");
    }
    let lost = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
    assert!(matches!(answer(Err(lost.into())).outcome, Outcome::Unknown(_)));
}
