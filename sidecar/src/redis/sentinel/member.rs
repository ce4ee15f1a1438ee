//! The endpoint of one member: follows its orders, its database, its certificate and its accounts' files, and serves what follows from them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, State, User};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{error, warn};

use super::accounts::{Accounts, hash};
use super::known::{Known, Names};
use super::{View, serve, tls};
use crate::files;

/// How often it is looked who is silent, and whether a file has changed, when nothing else happens.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks for a usable certificate at the start.
const CERTIFICATE_REST: Duration = Duration::from_secs(5);
/// A file has this many passwords at most.
const MOST_PASSWORDS: usize = 2;

/// What the endpoint is told from the start.
#[derive(Clone, Debug)]
pub struct Config {
    /// How the members are called.
    pub names: Names,
    /// `tls.crt` and `tls.key`; without them clients speak plain text, with them never.
    pub tls_dir: Option<PathBuf>,
    /// Passwords of the application's accounts, a file each; without them nobody logs in.
    pub users_dir: Option<PathBuf>,
}

/// Serves on `listener` until `state` or `orders` end. `tls_changed` counts changes of the certificates.
pub async fn run(
    config: Config,
    listener: TcpListener,
    mut orders: watch::Receiver<Option<Order<Assignment>>>,
    mut state: watch::Receiver<State>,
    mut tls_changed: watch::Receiver<u64>,
) {
    let Config { names, tls_dir, users_dir } = config;
    let certificates = match &tls_dir {
        None => None,
        Some(directory) => Some(watch::Sender::new(certificate(directory).await)),
    };
    let mut known = Known::new(names);
    let view = watch::Sender::new(Arc::new(known.see(orders.borrow().as_ref(), &state.borrow(), Instant::now())));
    let accounts = watch::Sender::new(Arc::new(Accounts::default()));
    let following = async {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            look(&mut known, &mut orders, &mut state, users_dir.as_deref(), (&accounts, &view));
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                changed = state.changed() => if changed.is_err() { return },
                Ok(()) = tls_changed.changed() => {
                    if let (Some(directory), Some(certificates)) = (&tls_dir, &certificates) {
                        match tls::load(directory) {
                            Ok(new) => drop(certificates.send_replace(new)),
                            Err(error) => warn!(%error, "the Sentinel endpoint keeps its certificate"),
                        }
                    }
                }
                _ = tick.tick() => (),
            }
        }
    };
    let serving = serve(listener, view.subscribe(), accounts.subscribe(), certificates.as_ref().map(watch::Sender::subscribe));
    tokio::select! {
        () = serving => (),
        () = following => (),
    }
}

/// Passes on what is true now. Accounts are read whenever the state changes: once it says that the database takes a new password, clients are given it.
fn look(
    known: &mut Known,
    orders: &mut watch::Receiver<Option<Order<Assignment>>>,
    state: &mut watch::Receiver<State>,
    users_dir: Option<&Path>,
    (accounts, view): (&watch::Sender<Arc<Accounts>>, &watch::Sender<Arc<View>>),
) {
    let (order, state) = (orders.borrow_and_update(), state.borrow_and_update());
    let admitted = match (users_dir, &*order) {
        (None, _) => Accounts::Open,
        // After a restart nobody is known until the first order comes.
        (Some(_), None) => Accounts::Closed,
        (Some(directory), Some(order)) => admitted(directory, &order.assignment.users, &accounts.borrow()),
    };
    replace(accounts, admitted);
    replace(view, known.see(order.as_ref(), &state, Instant::now()));
}

/// Wakes nobody for what has not changed.
fn replace<T: PartialEq>(sender: &watch::Sender<Arc<T>>, now: T) {
    sender.send_if_modified(|before| {
        let modified = **before != now;
        if modified {
            *before = Arc::new(now);
        }
        modified
    });
}

/// The first usable certificate, however long it takes.
async fn certificate(directory: &Path) -> Arc<rustls::ServerConfig> {
    loop {
        match tls::load(directory) {
            Ok(config) => return config,
            Err(error) => error!(%error, "no usable certificate for the Sentinel endpoint yet"),
        }
        sleep(CERTIFICATE_REST).await;
    }
}

/// The application's accounts. One whose file cannot be read keeps the passwords that it had.
fn admitted(directory: &Path, users: &[User], before: &Accounts) -> Accounts {
    let mut admitted = BTreeMap::new();
    for User { name, rules: _ } in users {
        // A name is a name, not a path; that it cannot be used is said to people by who makes the accounts.
        if name.contains('/') || name.starts_with('.') {
            continue;
        }
        let hashes = match files::read(&directory.join(name)) {
            Ok(text) => text.lines().filter(|line| !line.is_empty()).take(MOST_PASSWORDS).map(|line| hash(line.as_bytes())).collect(),
            Err(_) => match before {
                Accounts::Users(users) => users.get(name).cloned().unwrap_or_default(),
                _ => Vec::new(),
            },
        };
        admitted.insert(name.clone(), hashes);
    }
    Accounts::Users(admitted)
}
