//! The programs with other people's client libraries against what they were written for: a real redis-sentinel, with TLS and logins. What they
//! report of it is what they report of Understudy's own endpoint elsewhere.
#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../sidecar/tests/common/image.rs"]
mod image;

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::clients::{self, Errand, Library, Report, Running};
use e2e::dirs::Dirs;
use e2e::run;
use e2e::ui::Ui;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::process::{Child, Command};

/// A Sentinel that was told to fail over is done with it, the old primary included, after some 15 s.
const PATIENCE: Duration = Duration::from_secs(60);
/// Values that say that a client goes on.
const SOME: usize = 20;

/// Two servers, of which the second follows, and a Sentinel that watches them.
struct Watched {
    dir: PathBuf,
    ports: [u16; 3],
    processes: Vec<Child>,
}

impl Watched {
    async fn start() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("understudy-clients-{}", std::process::id()));
        fs::create_dir_all(&dir)?;
        certificates(&dir)?;
        let ports = free_ports();
        let root = image::root("redis-7.0", "REDIS_ROOT");
        for program in ["redis-server", "redis-sentinel", "redis-cli"] {
            image::wrapper(&dir, &root, &format!("usr/bin/{program}"), &[], "");
        }
        let mut watched = Self { dir, ports, processes: Vec::new() };
        watched.run("redis-server", 0, "save \"\"\nrepl-diskless-sync-delay 0\n")?;
        let follow = format!("save \"\"\nrepl-diskless-sync-delay 0\nreplicaof 127.0.0.1 {}\n", ports[0]);
        watched.run("redis-server", 1, &follow)?;
        watched.until(1, &["INFO", "replication"], "master_link_status:up").await?;
        let watch = format!("sentinel monitor shop 127.0.0.1 {} 1\nsentinel failover-timeout shop 5000\n", ports[0]);
        watched.run("redis-sentinel", 2, &watch)?;
        watched.until(2, &["SENTINEL", "REPLICAS", "shop"], &ports[1].to_string()).await?;
        Ok(watched)
    }

    fn run(&mut self, program: &str, index: usize, options: &str) -> Result<()> {
        let home = self.dir.join(index.to_string());
        fs::create_dir_all(&home)?;
        let tls = format!(
            "port 0\ntls-port {}\nbind 127.0.0.1\ntls-ca-cert-file {dir}/ca.crt\ntls-cert-file {dir}/tls.crt\ntls-key-file {dir}/tls.key\n\
             tls-replication yes\ntls-auth-clients no\ndir {}\n",
            self.ports[index],
            home.display(),
            dir = self.dir.display()
        );
        let users = "user default on nopass ~* &* +@all\nuser app on >app-1 ~* &* +@all\n";
        let config = home.join("redis.conf");
        fs::write(&config, format!("{tls}{users}{options}"))?;
        let log = fs::File::create(home.join("log"))?;
        let child = Command::new(self.dir.join(program)).arg(&config).stdin(Stdio::null()).stdout(log).kill_on_drop(true).spawn()?;
        self.processes.push(child);
        Ok(())
    }

    async fn ask(&self, index: usize, question: &[&str]) -> Result<String> {
        let mut cli = run::command(self.dir.join("redis-cli"));
        cli.args(["-p", &self.ports[index].to_string(), "--tls", "--cacert"]).arg(self.dir.join("ca.crt")).args(question);
        run::output(&mut cli).await
    }

    async fn until(&self, index: usize, question: &[&str], words: &str) -> Result<()> {
        run::wait(&format!("{words:?}"), PATIENCE, async || Ok(self.ask(index, question).await?.contains(words).then_some(()))).await
    }

    fn errand(&self, key: &str) -> Result<Errand> {
        Ok(Errand {
            sentinels: vec![format!("127.0.0.1:{}", self.ports[2])],
            master: "shop".into(),
            user: "app".into(),
            password: "app-1".into(),
            ca: Some(fs::read_to_string(self.dir.join("ca.crt"))?),
            key: key.into(),
            acks: 1,
            namespace: None,
        })
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

#[tokio::test]
async fn each_library_follows_a_sentinel_and_loses_nothing_that_was_acknowledged() -> Result<()> {
    let (dirs, ui) = (Dirs::from_env()?, Ui::default());
    let watched = Watched::start().await?;
    let (mut wrong, mut running) = (Vec::new(), Vec::new());
    for (key, library, refusal) in
        [("go", Library::GoRedis, "WRONGPASS"), ("py", Library::RedisPy, "AuthenticationError"), ("node", Library::IoRedis, "WRONGPASS")]
    {
        let program = clients::program(&dirs, &ui, library).await?;
        wrong.push((refusal, program.start(&Errand { password: "wrong".into(), ..watched.errand("wrong")? })?));
        running.push((key, program.start(&watched.errand(key)?)?));
    }
    for (_, client) in &running {
        goes_on(client).await?;
    }
    watched.ask(2, &["SENTINEL", "FAILOVER", "shop"]).await?;
    // One that has never reached a primary tells why.
    for (refusal, client) in wrong {
        let report = client.finish().await?;
        ensure!(report.acknowledged.is_empty() && report.errors.iter().any(|error| error.contains(refusal)), "{report:?}");
    }
    // The old primary follows: from then on somebody acknowledges.
    watched.until(0, &["INFO", "replication"], "master_link_status:up").await?;
    for (_, client) in &running {
        goes_on(client).await?;
    }
    for (key, client) in running {
        let report = client.finish().await?;
        println!("{}: longest gap {} ms, {} attempts, {:?}", report.client, report.longest_gap_ms, report.attempts, report.errors);
        holds(&watched, key, &report).await?;
        let [old, new, _] = watched.ports;
        ensure!(report.switches == [format!("shop 127.0.0.1 {old} 127.0.0.1 {new}")], "{report:?}");
        ensure!(report.reconnects > 0 && report.longest_gap_ms > 0, "{report:?}");
    }
    Ok(())
}

async fn goes_on(client: &Running) -> Result<()> {
    let enough = client.acknowledged()?.len() + SOME;
    run::wait("values to be acknowledged", PATIENCE, async || Ok((client.acknowledged()?.len() >= enough).then_some(())))
        .await
        .with_context(|| client.log())
}

async fn holds(watched: &Watched, key: &str, report: &Report) -> Result<()> {
    let listed = watched.ask(1, &["LRANGE", key, "0", "-1"]).await?;
    let missing: Vec<_> = report.acknowledged.iter().filter(|value| !listed.lines().any(|line| line == *value)).collect();
    ensure!(missing.is_empty() && !report.acknowledged.is_empty(), "{} of {}", missing.len(), report.acknowledged.len());
    Ok(())
}

fn free_ports() -> [u16; 3] {
    // All at once, so that they differ.
    let listeners = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

fn certificates(dir: &Path) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(vec![])?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    // With one name for both, OpenSSL takes the member for the CA.
    ca.distinguished_name.push(DnType::CommonName, "CA");
    let key = KeyPair::generate()?;
    let member = CertificateParams::new(vec!["127.0.0.1".into()])?;
    fs::write(dir.join("ca.crt"), ca.self_signed(&ca_key)?.pem())?;
    fs::write(dir.join("tls.crt"), member.signed_by(&key, &Issuer::from_params(&ca, &ca_key))?.pem())?;
    fs::write(dir.join("tls.key"), key.serialize_pem())?;
    Ok(())
}
