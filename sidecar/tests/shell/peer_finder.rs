//! The peer-finder with a name server and with real scripts: who is handed what, and when.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::str::FromStr;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record};
use sidecar::peer_finder::{Config, run};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::rig::scratch;

const SERVICE: &str = "galera.shop.svc.cluster.local";
/// Several looks, and the scripts between.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time for at least two looks.
const LOOKS: Duration = Duration::from_millis(2500);

/// Ordinals that the Service names, or what the name server says instead.
type Listed = Result<Vec<u32>, ResponseCode>;

fn host(ordinal: u32) -> String {
    format!("galera-{ordinal}.{SERVICE}")
}

async fn name_server(listed: watch::Receiver<Listed>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
            let mut message = Message::from_vec(&buffer[..length]).unwrap().into_response();
            let asked = message.queries[0].name().clone();
            let listed = listed.borrow().clone();
            match listed {
                Ok(ordinals) if asked.to_string() == format!("{SERVICE}.") => {
                    for ordinal in ordinals {
                        let target = Name::from_str(&format!("{}.", host(ordinal))).unwrap();
                        message.add_answer(Record::from_rdata(asked.clone(), 5, RData::SRV(SRV::new(0, 25, 4567, target))));
                    }
                }
                Ok(_) => message.metadata.response_code = ResponseCode::NXDomain,
                Err(code) => message.metadata.response_code = code,
            }
            socket.send_to(&message.to_vec().unwrap(), from).await.unwrap();
        }
    });
    address
}

/// A peer-finder of `galera-1`, whose scripts write what they are handed into numbered files.
struct Finder {
    directory: PathBuf,
    listed: watch::Sender<Listed>,
    running: JoinHandle<anyhow::Result<()>>,
}

/// A script that keeps its input as the next of `DIR/NAME.0`, `DIR/NAME.1`, …
fn script(directory: &Path, name: &str) -> String {
    let base = directory.join(name);
    let base = base.display();
    format!("n=0; while [ -e {base}.$n ]; do n=$((n+1)); done; cat > {base}.draft; mv {base}.draft {base}.$n; exit 3")
}

impl Finder {
    async fn start(listed: Listed, scripts: &[&str]) -> Self {
        let directory = scratch();
        let sender = watch::Sender::new(listed);
        let address = name_server(sender.subscribe()).await;
        let mut connection = ConnectionConfig::udp();
        connection.port = address.port();
        let server = NameServerConfig::new(IpAddr::V4(Ipv4Addr::LOCALHOST), true, vec![connection]);
        let search = vec![Name::from_str("shop.svc.cluster.local.").unwrap(), Name::from_str("svc.cluster.local.").unwrap()];
        let resolver = ResolverConfig::from_parts(None, search, vec![server]);
        let of = |name: &str| if scripts.contains(&name) { script(&directory, name) } else { String::new() };
        let config = Config {
            on_start: of("start"),
            on_change: of("change"),
            service: "galera".into(),
            namespace: "shop".into(),
            domain: String::new(),
            hostname: "galera-1".into(),
        };
        let running = tokio::spawn(async move { run(&config, resolver).await });
        Self { directory, listed: sender, running }
    }

    /// What a script was handed at its `n`-th run, once it has run.
    async fn handed(&self, name: &str, n: usize) -> String {
        let path = self.directory.join(format!("{name}.{n}"));
        let there = async {
            while !path.exists() {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, there).await.unwrap_or_else(|_| panic!("{} is never made", path.display()));
        fs::read_to_string(path).unwrap()
    }

    fn list(&self, listed: Listed) {
        drop(self.listed.send_replace(listed));
    }

    fn runs(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

#[tokio::test]
async fn on_start_runs_once_when_the_own_name_is_listed_and_on_change_at_each_change_after() {
    let finder = Finder::start(Ok(vec![0]), &["start", "change"]).await;
    sleep(LOOKS).await;
    assert!(finder.runs().is_empty(), "not in the list, it waits");
    finder.list(Ok(vec![10, 1, 0]));
    assert_eq!(finder.handed("start", 0).await, [host(0), host(1), host(10)].join("\n"), "sorted as text, no line break at the end");
    sleep(LOOKS).await;
    assert_eq!(finder.runs(), ["start.0"], "no change, no run; that it failed does not matter");
    finder.list(Ok(vec![1, 2]));
    assert_eq!(finder.handed("change", 0).await, [host(1), host(2)].join("\n"));
    finder.list(Ok(vec![1]));
    assert_eq!(finder.handed("change", 1).await, host(1));
    assert!(!finder.running.is_finished());
    assert_eq!(finder.runs(), ["change.0", "change.1", "start.0"]);
}

#[tokio::test]
async fn without_on_change_it_ends_after_on_start() {
    let finder = Finder::start(Ok(vec![1]), &["start"]).await;
    assert_eq!(finder.handed("start", 0).await, host(1));
    timeout(PATIENCE, finder.running).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn without_on_start_on_change_runs_first() {
    let finder = Finder::start(Ok(vec![1]), &["change"]).await;
    assert_eq!(finder.handed("change", 0).await, host(1));
    finder.list(Ok(vec![0, 1]));
    assert_eq!(finder.handed("change", 1).await, [host(0), host(1)].join("\n"));
}

#[tokio::test]
async fn an_outage_of_the_name_server_and_a_list_without_the_own_name_change_nothing() {
    let finder = Finder::start(Ok(vec![0, 1]), &["change"]).await;
    let first = finder.handed("change", 0).await;
    for listed in [Err(ResponseCode::ServFail), Err(ResponseCode::NXDomain), Ok(vec![]), Ok(vec![0, 2])] {
        finder.list(listed);
        sleep(LOOKS).await;
    }
    finder.list(Ok(vec![0, 1]));
    sleep(LOOKS).await;
    assert_eq!(finder.runs(), ["change.0"]);
    finder.list(Ok(vec![0, 1, 2]));
    assert_eq!(finder.handed("change", 1).await, first + "\n" + &host(2));
}

fn peers(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sidecar")).arg("peers").args(arguments).env_remove("POD_NAMESPACE").output().unwrap()
}

#[test]
fn the_program_says_what_it_is_not_told_and_ends() {
    for arguments in
        [&[][..], &["-on-start=/x", "-service=galera"], &["-on-start=/x", "-ns=shop"], &["--service", "galera", "--ns", "shop"]]
    {
        let output = peers(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        for flag in ["-on-start", "-on-change", "-service", "-ns", "POD_NAMESPACE"] {
            assert!(said.contains(flag), "{said}");
        }
    }
    assert!(String::from_utf8(peers(&["-help"]).stdout).unwrap().contains("--on-change"));
}
