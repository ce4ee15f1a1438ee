//! Applications: they connect where the route leads, write, wait a while for the answer, and use a connection for as long as it lasts.

use crate::event::Event;
use crate::mysqld::{Request, Waiting};
use crate::world::{LATENCY, World};

/// Transactions that clients make while things go wrong; some are left for afterwards.
const WHILE_FAULTS: u32 = 84;
/// Transactions that clients make at all; the sidecars' own come on top.
const AT_ALL: u32 = 104;

/// One application.
#[derive(Debug, Default)]
pub struct Client {
    /// Member, process and sessions of its connection.
    connection: Option<(u32, u64, u64)>,
    /// Its next request.
    number: u64,
    /// The request that it waits for.
    outstanding: Option<Request>,
    /// Where it was led last: a proxy that is behind leads there again.
    led: Option<(u32, u64)>,
}

impl World {
    /// Clients have written all that they may.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.histories.count() >= AT_ALL
    }

    /// A client comes back to its work: to write, or because it waited for too long.
    pub fn client(&mut self, client: usize, number: u64) {
        let now = self.now;
        let full = self.is_full() || !self.faults.over && self.histories.count() >= WHILE_FAULTS;
        let me = &mut self.clients[client];
        if me.number != number {
            return;
        }
        me.number += 1;
        let number = me.number;
        if me.outstanding.take().is_some() {
            // Nobody knows what became of it. It asks on another connection.
            me.connection = None;
        }
        if me.connection.is_none() {
            self.open_connection(client);
        }
        let Some((member, run, sessions)) = self.clients[client].connection.filter(|_| !full) else {
            return self.after(150, Event::Client { client, number });
        };
        let request = Request { client, number, invoked: now };
        self.clients[client].outstanding = Some(request);
        let takes = self.takes(LATENCY);
        self.after(takes, Event::Commit { member, run, sessions, request });
        let patience = self.dice.between(800, 4000);
        self.after(patience, Event::Client { client, number });
    }

    fn open_connection(&mut self, client: usize) {
        let stale = self.dice.chance(50);
        let me = &mut self.clients[client];
        let route = me.led.filter(|_| stale).or(self.api.route);
        me.led = self.api.route;
        let Some((member, pod)) = route else { return };
        if self.member(member).pod.as_ref().is_none_or(|now| now.uid != pod) {
            return;
        }
        if let Some((mysqld, _)) = self.running(member) {
            let connection = (member, mysqld.run, mysqld.sessions);
            self.clients[client].connection = Some(connection);
        }
    }

    /// A commit reaches its server.
    pub fn commit(&mut self, member: u32, run: u64, sessions: u64, request: Request) {
        let refused = match self.running(member) {
            Some((mysqld, _)) => mysqld.run != run || mysqld.sessions != sessions || mysqld.read_only || mysqld.sealing,
            None => true,
        };
        if refused {
            return self.refused(request);
        }
        let Some(uuid) = self.running(member).map(|(_, directory)| directory.uuid) else { return };
        let Some(txn) = self.histories.commit(uuid) else { return self.refused(request) };
        self.log(member, txn, Some(request));
    }

    /// Writes a commit to the binary log; it is done when enough replicas acknowledged it.
    pub fn log(&mut self, member: u32, txn: crate::history::Txn, client: Option<Request>) {
        let Some((mysqld, directory)) = self.running(member) else { return };
        directory.write(txn);
        mysqld.waiting.push_back(Waiting { txn, client, acks: 0 });
        self.wake_dumps(member);
        self.release(member);
    }

    fn refused(&mut self, request: Request) {
        let me = &mut self.clients[request.client];
        if me.outstanding == Some(request) {
            me.outstanding = None;
            me.connection = None;
            let number = me.number;
            let takes = self.takes(30);
            self.after(takes, Event::Client { client: request.client, number });
        }
    }

    /// The server told the client that its commit is done.
    pub fn answered(&mut self, request: Request) {
        let me = &mut self.clients[request.client];
        if me.outstanding == Some(request) {
            me.outstanding = None;
            let number = me.number;
            let rest = self.dice.between(20, 500);
            self.after(rest, Event::Client { client: request.client, number });
        }
    }
}
