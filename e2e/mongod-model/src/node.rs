//! One member: its state behind one lock, and a bell that rings at each change of it.
//!
//! Commands and background tasks meet here only. `Core` changes by methods that keep its rules; who waits, waits for the bell.

mod core;

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use bson::oid::ObjectId;
use bson::{Document, doc};
use tokio::sync::watch;
use tokio::time::Instant;

pub use self::core::Core;
use crate::options::Settled;
use crate::peer::SYSTEM;
use crate::scram::{self, Credential, Mechanism};
use crate::store::Store;

/// Keys after their rounds, by key and salt.
type Salted = HashMap<(String, Vec<u8>), Vec<u8>>;

/// A running server.
#[derive(Debug)]
pub struct Node {
    /// What it was started with.
    pub options: Settled,
    /// Tells this process from every other: `_isSelf`.
    pub instance: ObjectId,
    /// The same in `topologyVersion`.
    pub process: ObjectId,
    /// When it started.
    pub started: Instant,
    core: Mutex<Core>,
    changes: watch::Sender<u64>,
    kicks: watch::Sender<u64>,
    numbers: AtomicI32,
    /// What the keys of this set look like to who logs in here, by mechanism: made once, as its rounds take a while.
    keys: [OnceLock<Vec<Credential>>; 2],
    /// The same for logins elsewhere, by key and salt.
    salted: Mutex<Salted>,
}

// === impl Node ===

impl Node {
    /// A member that has read its data directory and looked for itself in the configuration there.
    pub fn new(options: Settled, store: Store) -> Self {
        Self {
            options,
            instance: ObjectId::new(),
            process: ObjectId::new(),
            started: Instant::now(),
            core: Mutex::new(Core::new(store)),
            changes: watch::Sender::new(0),
            kicks: watch::Sender::new(0),
            numbers: AtomicI32::new(0),
            keys: Default::default(),
            salted: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks.
    pub fn read<R>(&self, look: impl FnOnce(&Core) -> R) -> R {
        look(&self.lock())
    }

    /// Changes, and rings the bell.
    pub fn change<R>(&self, change: impl FnOnce(&mut Core) -> R) -> R {
        let result = change(&mut self.lock());
        self.changes.send_modify(|count| *count += 1);
        result
    }

    /// Looks again at each change until there is an answer; `None` at the deadline.
    pub async fn wait<R>(&self, deadline: Option<Instant>, mut look: impl FnMut(&Core) -> Option<R>) -> Option<R> {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(found) = self.read(&mut look) {
                return Some(found);
            }
            // The bell outlives every waiter: it is the node's.
            match deadline {
                None => drop(changes.changed().await),
                Some(at) => drop(tokio::time::timeout_at(at, changes.changed()).await.ok()?),
            }
        }
    }

    /// Sends heartbeats at once.
    pub fn kick(&self) {
        self.kicks.send_modify(|count| *count += 1);
    }

    /// Hears of kicks.
    pub fn kicks(&self) -> watch::Receiver<u64> {
        self.kicks.subscribe()
    }

    /// A number for a message or a connection.
    pub fn number(&self) -> i32 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The keys, as credentials of `__system`.
    pub fn keys(&self, mechanism: Mechanism) -> Vec<Credential> {
        let [sha1, sha256] = &self.keys;
        let made = if mechanism == Mechanism::Sha1 { sha1 } else { sha256 };
        let make = || {
            let salt = scram::random(28);
            self.options.keys.iter().map(|key| Credential::new(mechanism, SYSTEM, key, Some(salt.clone()))).collect()
        };
        made.get_or_init(make).clone()
    }

    /// A key after the rounds that another member asks for.
    pub fn salted(&self, key: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
        let known = (key.to_owned(), salt.to_vec());
        let mut salted = self.salted.lock().unwrap_or_else(PoisonError::into_inner);
        salted.entry(known).or_insert_with(|| scram::Client::salted(SYSTEM, key, salt, rounds)).clone()
    }

    /// `topologyVersion` of a counter.
    pub fn topology_version(&self, counter: i64) -> Document {
        doc! { "processId": self.process, "counter": counter }
    }
}
