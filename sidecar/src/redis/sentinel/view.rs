//! What a Sentinel knows of its cluster, as a value; and what it tells of it: the rows of `SENTINEL master` and its like, who is reachable,
//! which changes subscribers hear of. Where it is known from is the engine's business.

use sidecar_protocol::SILENCE_MILLIS;
use sidecar_protocol::redis::SENTINEL_PORT;
use tokio::time::Instant;

use super::resp::Value;
use crate::tls::sha256;

/// `failover-timeout`, which has no meaning here: the operator moves the primary. Sentinel's own default.
const FAILOVER_TIMEOUT_MILLIS: u64 = 180_000;

/// One process, of the database or a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, as members and clients reach it.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// 40 hex digits: of a database `run_id` of `INFO`, or empty; of a sidecar [`sentinel_id`].
    pub run_id: String,
    /// Since when it has been silent. A silent one is told as `s_down`.
    pub down_since: Option<Instant>,
    /// How much of the history it holds.
    pub offset: u64,
    /// Of a replica: it is connected to the primary.
    pub linked: bool,
}

impl Node {
    /// A sidecar, by its member's name.
    #[must_use]
    pub fn sentinel(host: impl Into<String>, cluster_uid: &str, member: &str, down_since: Option<Instant>) -> Self {
        let run_id = sentinel_id(cluster_uid, member);
        Self { host: host.into(), port: SENTINEL_PORT, run_id, down_since, offset: 0, linked: true }
    }

    fn is_at(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }

    fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// What is known of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// By which clients ask for it.
    pub master_name: String,
    /// How many sidecars must agree on anything.
    pub quorum: u32,
    /// Who is primary; `None` while nobody is known to be.
    pub primary: Option<Node>,
    /// The others.
    pub replicas: Vec<Node>,
    /// The other members' sidecars, this one left out.
    pub sentinels: Vec<Node>,
    /// This sidecar.
    pub me: Node,
    /// The term, as the epoch of the configuration.
    pub epoch: u64,
    /// The database's version, as clients are told.
    pub version: String,
}

/// The identity of the sidecar of `member`, the same for ever and known to the other sidecars without asking.
#[must_use]
pub fn sentinel_id(cluster_uid: &str, member: &str) -> String {
    sha256(format!("sentinel\0{cluster_uid}\0{member}").as_bytes())[..40].to_owned()
}

/// What a subscriber is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The channel, for example `+switch-master`.
    pub channel: &'static str,
    /// The message.
    pub payload: String,
}

/// One field of a row.
fn field(name: &str, value: impl ToString) -> (Value, Value) {
    (Value::text(name), Value::text(value.to_string()))
}

impl View {
    /// The row of the primary.
    #[must_use]
    pub fn master(&self) -> Option<Value> {
        let primary = self.primary.as_ref()?;
        let mut row = row(primary, &self.master_name, "master");
        row.extend([field("info-refresh", 0), field("role-reported", "master"), field("role-reported-time", 0)]);
        row.extend([field("config-epoch", self.epoch), field("num-slaves", self.replicas.len())]);
        row.extend([field("num-other-sentinels", self.sentinels.len()), field("quorum", self.quorum)]);
        row.extend([field("failover-timeout", FAILOVER_TIMEOUT_MILLIS), field("parallel-syncs", 1)]);
        Some(Value::Map(row))
    }

    /// The rows of the replicas.
    #[must_use]
    pub fn slaves(&self) -> Value {
        let (host, port) = self.primary.as_ref().map_or(("?", 0), |primary| (primary.host.as_str(), primary.port));
        let slave = |node: &Node| {
            let linked = node.linked && self.primary.is_some();
            let mut row = row(node, &node.address(), "slave");
            row.extend([field("info-refresh", 0), field("role-reported", "slave"), field("role-reported-time", 0)]);
            // Sentinel's -1000 is "for how long is not known".
            row.push(field("master-link-down-time", if linked { 0 } else { -1000 }));
            row.push(field("master-link-status", if linked { "ok" } else { "err" }));
            row.extend([field("master-host", host), field("master-port", port), field("slave-priority", 100)]);
            row.extend([field("slave-repl-offset", node.offset), field("replica-announced", 1)]);
            Value::Map(row)
        };
        Value::Array(self.replicas.iter().map(slave).collect())
    }

    /// The rows of the other sidecars.
    #[must_use]
    pub fn others(&self) -> Value {
        let other = |node: &Node| {
            let mut row = row(node, &node.run_id, "sentinel");
            row.push(field("last-hello-message", silence(node)));
            row.extend([field("voted-leader", "?"), field("voted-leader-epoch", 0)]);
            Value::Map(row)
        };
        Value::Array(self.sentinels.iter().map(other).collect())
    }

    /// Sidecars that can be reached, this one included.
    fn usable(&self) -> usize {
        1 + self.sentinels.iter().filter(|node| node.down_since.is_none()).count()
    }

    /// What `SENTINEL CKQUORUM` says.
    ///
    /// # Errors
    /// With what is missing.
    pub fn quorum(&self) -> Result<String, String> {
        let usable = self.usable();
        let quorum = usable >= usize::try_from(self.quorum).unwrap_or(usize::MAX);
        let majority = usable > self.sentinels.len().saturating_add(1) / 2;
        if quorum && majority {
            return Ok(format!("OK {usable} usable Sentinels. Quorum and failover authorization can be reached"));
        }
        let mut text = format!("NOQUORUM {usable} usable Sentinels. ");
        if !quorum {
            text += "Not enough available Sentinels to reach the specified quorum for this master";
        }
        if !majority {
            text += if quorum { "" } else { ". " };
            text += "Not enough available Sentinels to reach the majority and authorize a failover";
        }
        Err(text)
    }

    /// The section `Sentinel` of `INFO`.
    #[must_use]
    pub fn section(&self) -> String {
        let mut text = format!(
            "# Sentinel\r\nsentinel_masters:{}\r\nsentinel_tilt:0\r\nsentinel_tilt_since_seconds:-1\r\nsentinel_running_scripts:0\r\n\
             sentinel_scripts_queue_length:0\r\nsentinel_simulate_failure_flags:0\r\n",
            u8::from(self.primary.is_some())
        );
        if let Some(primary) = &self.primary {
            let status = if primary.down_since.is_some() { "sdown" } else { "ok" };
            text += &format!(
                "master0:name={},status={status},address={},slaves={},sentinels={}\r\n",
                self.master_name,
                primary.address(),
                self.replicas.len(),
                self.sentinels.len() + 1
            );
        }
        text
    }

    /// What happened between `before` and this view, for subscribers, in order.
    #[must_use]
    pub fn events(&self, before: &Self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut tell = |channel, payload| events.push(Event { channel, payload });
        let Some(primary) = &self.primary else { return events };
        let name = &self.master_name;
        let at = format!("@ {name} {} {}", primary.host, primary.port);
        let slave = |node: &Node| format!("slave {} {} {} {at}", node.address(), node.host, node.port);
        let sentinel = |node: &Node| format!("sentinel {} {} {} {at}", node.run_id, node.host, node.port);
        if self.epoch > before.epoch {
            tell("+new-epoch", self.epoch.to_string());
        }
        let moved = before.primary.as_ref().filter(|old| !old.is_at(primary));
        if let Some(old) = moved {
            tell("+switch-master", format!("{name} {} {} {} {}", old.host, old.port, primary.host, primary.port));
        }
        // After a switch a Sentinel tells all replicas anew.
        for node in &self.replicas {
            if moved.is_some() || !before.replicas.iter().any(|old| old.is_at(node)) {
                tell("+slave", slave(node));
            }
        }
        for node in &self.sentinels {
            if !before.sentinels.iter().any(|old| old.run_id == node.run_id) {
                tell("+sentinel", sentinel(node));
            }
        }
        let databases = |view: &Self| view.primary.iter().chain(&view.replicas).cloned().collect::<Vec<_>>();
        for node in databases(self) {
            let was = databases(before).iter().any(|old| old.is_at(&node) && old.down_since.is_some());
            if let Some(channel) = changed(was, &node) {
                tell(channel, if node.is_at(primary) { format!("master {name} {} {}", node.host, node.port) } else { slave(&node) });
            }
        }
        for node in &self.sentinels {
            let was = before.sentinels.iter().any(|old| old.run_id == node.run_id && old.down_since.is_some());
            if let Some(channel) = changed(was, node) {
                tell(channel, sentinel(node));
            }
        }
        events
    }
}

/// Whether a node has fallen silent, or speaks again.
fn changed(was_down: bool, node: &Node) -> Option<&'static str> {
    match (was_down, node.down_since.is_some()) {
        (false, true) => Some("+sdown"),
        (true, false) => Some("-sdown"),
        _ => None,
    }
}

/// Milliseconds since a node fell silent; 0 while it answers.
fn silence(node: &Node) -> u128 {
    node.down_since.map_or(0, |since| since.elapsed().as_millis())
}

/// The fields that all rows begin with.
fn row(node: &Node, name: &str, kind: &str) -> Vec<(Value, Value)> {
    let silent = silence(node);
    let down = node.down_since.is_some();
    let flags = if down { format!("s_down,{kind},disconnected") } else { kind.to_owned() };
    let mut row = vec![field("name", name), field("ip", &node.host), field("port", node.port), field("runid", &node.run_id)];
    row.extend([field("flags", flags), field("link-pending-commands", 0), field("link-refcount", 1)]);
    row.extend([field("last-ping-sent", silent), field("last-ok-ping-reply", silent), field("last-ping-reply", silent)]);
    if down {
        row.push(field("s-down-time", silent));
    }
    row.push(field("down-after-milliseconds", SILENCE_MILLIS));
    row
}

#[cfg(test)]
mod tests;
