//! A modelled mysqld: what is on its disk, what dies with its process, and when a commit is told to its client.
//!
//! Semi-sync is AFTER_SYNC: a commit is in the binary log, visible to replicas, before it is acknowledged, and it is in `gtid_executed`
//! only after. So a crash leaves commits that nobody was told of, and crash recovery commits them.

use std::collections::{BTreeMap, VecDeque};

use crate::history::{Set, Txn};

/// A data directory: survives every crash, and is what a volume holds.
#[derive(Clone, Debug, Default)]
pub struct Directory {
    /// `@@server_uuid`.
    pub uuid: u32,
    /// The binary log, in order.
    pub log: Vec<Txn>,
    /// All of the binary log, and what was purged from it.
    pub logged: Set,
    /// `@@gtid_executed`.
    pub executed: Set,
    /// `@@gtid_purged`: what a clone brought, or what was purged since.
    pub purged: Set,
    /// The relay log, in order.
    pub relay: Vec<Txn>,
    /// `Retrieved_Gtid_Set`.
    pub received: Set,
    /// Whom the channel is set up to follow.
    pub source: Option<u32>,
    /// Ordinals whose replication accounts are locked here.
    pub locked: u32,
    /// Ordinals whose replication accounts exist here.
    pub accounts: u32,
    /// Donor of the clone that filled it.
    pub cloned_from: Option<u32>,
}

impl Directory {
    /// All that is here, known to mysqld's variables or not.
    #[must_use]
    pub fn holds(&self) -> Set {
        self.logged.union(self.received)
    }

    /// The next transaction that was received and is not applied.
    #[must_use]
    pub fn next_to_apply(&self) -> Option<Txn> {
        self.relay.iter().copied().find(|txn| !self.executed.has(*txn))
    }

    /// Writes it to the binary log.
    pub fn write(&mut self, txn: Txn) {
        self.log.push(txn);
        self.logged.insert(txn);
    }
}

/// `Replica_IO_Running`, and with which dump thread of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    /// Stopped.
    #[default]
    Off,
    /// Trying.
    Connecting,
    /// Connected to this dump thread.
    On(u64),
}

/// A dump thread.
#[derive(Clone, Copy, Debug)]
pub struct Dump {
    /// Tells one connection from the next.
    pub id: u64,
    /// The replica offered its acknowledgements when it connected.
    pub semi_sync: bool,
    /// Where it is in the binary log.
    pub next: usize,
    /// A transfer is on its way already.
    pub busy: bool,
}

/// A commit in the binary log that is not acknowledged yet.
#[derive(Clone, Copy, Debug)]
pub struct Waiting {
    /// The transaction.
    pub txn: Txn,
    /// Whose it is; nobody's when it is the sidecar's own.
    pub client: Option<Request>,
    /// Replicas that acknowledged it, by ordinal.
    pub acks: u32,
}

/// A client's request, as the server knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The client.
    pub client: usize,
    /// Its number there.
    pub number: u64,
    /// When the client asked.
    pub invoked: u64,
}

/// A running mysqld.
#[derive(Clone, Debug, Default)]
pub struct Mysqld {
    /// Tells one process from the next.
    pub run: u64,
    /// It answers.
    pub up: bool,
    /// SIGSTOP.
    pub frozen: bool,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@super_read_only`.
    pub super_read_only: bool,
    /// A seal waits for commits in flight: nobody new can commit.
    pub sealing: bool,
    /// Semi-sync, source side.
    pub source_enabled: bool,
    /// `rpl_semi_sync_source_wait_for_replica_count`.
    pub source_acks: u32,
    /// Semi-sync, replica side.
    pub replica_enabled: bool,
    /// As it was when the receiver connected.
    pub replica_active: bool,
    /// The receiver.
    pub link: Link,
    /// The source no longer has what this one needs.
    pub purged_at_source: bool,
    /// When the source was last heard.
    pub heard: u64,
    /// When the receiver connected.
    pub connected: u64,
    /// The applier runs.
    pub applying: bool,
    /// An application is on its way already.
    pub applier_busy: bool,
    /// Commits that wait, in order.
    pub waiting: VecDeque<Waiting>,
    /// Dump threads, by ordinal of the replica.
    pub dumps: BTreeMap<u32, Dump>,
    /// Client connections of an earlier number were killed.
    pub sessions: u64,
    /// Term of the order that it opened under last.
    pub term: u64,
}

impl Mysqld {
    /// As every mysqld starts: by its configuration read-only, following nobody (I7).
    #[must_use]
    pub fn start(run: u64) -> Self {
        Self { run, read_only: true, super_read_only: true, source_acks: 1, ..Self::default() }
    }

    /// It can do something now.
    #[must_use]
    pub fn answers(&self) -> bool {
        self.up && !self.frozen
    }

    /// How many replicas could acknowledge.
    #[must_use]
    pub fn clients(&self) -> u32 {
        u32::try_from(self.dumps.values().filter(|dump| dump.semi_sync).count()).unwrap_or(u32::MAX)
    }

    /// Takes from the queue what may be told to clients now.
    pub fn released(&mut self) -> Vec<Waiting> {
        let mut done = Vec::new();
        while let Some(first) = self.waiting.front() {
            if self.source_enabled && first.acks.count_ones() < self.source_acks {
                break;
            }
            done.extend(self.waiting.pop_front());
        }
        done
    }
}
