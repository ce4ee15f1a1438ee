//! An endpoint on loopback, of which the test is the engine's room.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::ServerConfig;
use sidecar::redis::sentinel::{Accounts, Node, View, serve};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::client::Client;

/// A directory of its own for each caller.
pub fn scratch() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let path = std::env::temp_dir().join(format!("understudy-sentinel-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    path
}

pub fn database(host: &str, port: u16) -> Node {
    Node { host: host.into(), port, run_id: "e".repeat(40), down_since: None, offset: 7, linked: true }
}

pub fn member(ordinal: u32) -> Node {
    database(&format!("shop-{ordinal}.shop.prod.svc"), 6379)
}

/// `primary` leads, the others of three follow.
pub fn view(primary: u32) -> View {
    let sentinel = |ordinal: u32| Node::sentinel(member(ordinal).host, "uid", &format!("shop-{ordinal}"), None);
    View {
        master_name: "shop".into(),
        quorum: 2,
        primary: Some(member(primary)),
        replicas: (0..3).filter(|ordinal| *ordinal != primary).map(member).collect(),
        sentinels: vec![sentinel(1), sentinel(2)],
        me: sentinel(0),
        epoch: 4,
        version: "7.0.15".into(),
    }
}

pub struct Endpoint {
    pub address: SocketAddr,
    pub view: watch::Sender<Arc<View>>,
    pub accounts: watch::Sender<Arc<Accounts>>,
    serving: JoinHandle<()>,
}

impl Endpoint {
    pub async fn start(accounts: Accounts) -> Self {
        Self::with(accounts, None).await
    }

    pub async fn with(accounts: Accounts, tls: Option<watch::Receiver<Arc<ServerConfig>>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let view = watch::Sender::new(Arc::new(view(0)));
        let accounts = watch::Sender::new(Arc::new(accounts));
        let serving = tokio::spawn(serve(listener, view.subscribe(), accounts.subscribe(), tls));
        Self { address, view, accounts, serving }
    }

    pub async fn client(&self) -> Client<TcpStream> {
        Client::connect(self.address).await
    }

    pub fn show(&self, edit: impl FnOnce(&mut View)) {
        let mut view = View::clone(&self.view.borrow());
        edit(&mut view);
        self.view.send_replace(Arc::new(view));
    }

    pub fn admit(&self, accounts: Accounts) {
        self.accounts.send_replace(Arc::new(accounts));
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub fn down(node: &mut Node) {
    node.down_since = Some(Instant::now());
}
