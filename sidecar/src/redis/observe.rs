//! What is true of one database process, read in one exchange. Nothing in here is remembered.

use std::collections::BTreeMap;

use redis::{Pipeline, Value};
use sidecar_protocol::redis::{Ancestor, Engine, NOBODY, ReplId, Replica, Role};

use super::accounts::Listed;
use super::link::{Link, LinkError, command, text, texts};

/// What does not change while the process lives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Server {
    /// Which of the two.
    pub engine: Option<Engine>,
    /// Its version.
    pub version: String,
    /// Which process.
    pub run_id: String,
}

/// How far a `FAILOVER` is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Failover {
    /// There is none.
    #[default]
    None,
    /// Writes wait for the heir (`waiting-for-sync`).
    Waiting,
    /// The heir is told (`failover-in-progress`).
    Changing,
}

/// The link to whom it follows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// `master_host`.
    pub host: String,
    /// `master_link_status`.
    pub up: bool,
    /// `master_last_io_seconds_ago`.
    pub heard: Option<u64>,
    /// It rests before it tries to connect again, as it does for a second.
    pub rests: bool,
    /// Bytes copied, and how many there are, while it takes a full copy.
    pub syncing: Option<(u64, u64)>,
}

/// What one look shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What it does.
    pub role: Role,
    /// Whom it follows; of a replica of nobody as well.
    pub source: Option<Source>,
    /// Its history.
    pub replid: ReplId,
    /// How many bytes of it.
    pub offset: u64,
    /// The history before, if it knows one.
    pub before: Option<Ancestor>,
    /// It keeps what it writes for those who follow, so that its history has a beginning.
    pub backlog: bool,
    /// Who follows it.
    pub replicas: Vec<Replica>,
    /// How far a hand-over is.
    pub failover: Failover,
    /// How far it has read its files, in percent, while it does.
    pub loading: Option<u8>,
    /// How many keys it holds.
    pub keys: u64,
    /// Bytes of its full copy are read, and are not all on the volume yet: of an append-only file that is rewritten.
    pub rewriting: bool,
    /// Why it cannot persist, if so.
    pub unsaved: Option<&'static str>,
    /// It writes an RDB file now.
    pub saving: bool,
    /// The last one is written.
    pub saved: bool,
    /// How far it is with that, for those who wait.
    pub progress: u64,
    /// `min-replicas-to-write`, `min-replicas-max-lag`.
    pub min_replicas: (u32, u32),
    /// All accounts, unless it does not tell them.
    pub accounts: Option<Vec<Listed>>,
}

/// Asks once for what stays.
///
/// # Errors
/// It does not answer.
pub async fn server(link: &Link) -> Result<Server, LinkError> {
    let answer = link.ask(&command(["INFO", "server"])).await?;
    let info = text(&answer).unwrap_or_default();
    let fields = fields(&info);
    let get = |name: &str| fields.get(name).map(|value| (*value).to_owned());
    let valkey = get("valkey_version").filter(|_| fields.get("server_name") == Some(&"valkey"));
    let engine = Some(if valkey.is_some() { Engine::Valkey } else { Engine::Redis });
    let version = valkey.or_else(|| get("redis_version")).unwrap_or_default();
    Ok(Server { engine, version, run_id: get("run_id").unwrap_or_default() })
}

/// One look. A replica can be made to acknowledge what it holds at once, as it does by itself once a second.
///
/// # Errors
/// It does not answer.
pub async fn look(link: &Link, acknowledges: bool) -> Result<Facts, LinkError> {
    let questions: [&[&str]; 6] = [
        &["INFO", "replication"],
        &["INFO", "persistence"],
        &["INFO", "keyspace"],
        &["CONFIG", "GET", "min-replicas-*"],
        &["ACL", "LIST"],
        &["ROLE"],
    ];
    let mut pipeline = Pipeline::with_capacity(questions.len());
    if acknowledges {
        // Whoever asks: it answers its primary, and nobody else.
        pipeline.add_command(command(["REPLCONF", "GETACK", "*"]));
    }
    for question in questions {
        pipeline.add_command(command(question.iter().copied()));
    }
    let answers = link.ask_all(&pipeline, questions.len()).await?;
    let [replication, persistence, keyspace, options, accounts, role] = answers.as_slice() else {
        return Err(LinkError::Server("it answers less than it was asked".into()));
    };
    let section = |value: &Value| text(value).ok_or_else(|| LinkError::Server(format!("no INFO: {value:?}")));
    let mut facts = parse(&section(replication)?, &section(persistence)?, &section(keyspace)?);
    facts.min_replicas = min_replicas(&texts(options).unwrap_or_default());
    facts.accounts = texts(accounts).map(|lines| lines.iter().filter_map(|line| Listed::parse(line)).collect());
    if let (Value::Array(role), Some(source)) = (role, &mut facts.source) {
        source.rests = role.get(3).and_then(text).as_deref() == Some("connect");
    }
    Ok(facts)
}

/// The three sections of `INFO` as facts.
#[must_use]
pub fn parse(replication: &str, persistence: &str, keyspace: &str) -> Facts {
    let (link, disk) = (fields(replication), fields(persistence));
    let number = |name: &str| link.get(name).and_then(|value| value.parse::<u64>().ok());
    let is = |name: &str, value: &str| disk.get(name) == Some(&value);
    let source = link.get("master_host").map(|host| Source {
        host: (*host).to_owned(),
        up: link.get("master_link_status") == Some(&"up"),
        heard: number("master_last_io_seconds_ago"),
        rests: false,
        syncing: (number("master_sync_in_progress") == Some(1))
            .then(|| (number("master_sync_read_bytes").unwrap_or_default(), number("master_sync_total_bytes").unwrap_or_default())),
    });
    let nobody = source.as_ref().is_some_and(|source| source.host == NOBODY.0 && number("master_port") == Some(NOBODY.1.into()));
    let role = match link.get("role") {
        Some(&"master") => Role::Primary,
        Some(&"slave") if nobody => Role::Isolated,
        Some(&"slave") => Role::Replica,
        _ => Role::Unknown,
    };
    let before = link.get("master_replid2").filter(|replid| replid.bytes().any(|digit| digit != b'0'));
    // The first byte that is not of the history before.
    let end = number("second_repl_offset").and_then(|first| first.checked_sub(1));
    let loading = is("loading", "1").then(|| {
        let percent = disk.get("loading_loaded_perc").and_then(|percent| percent.split('.').next()).and_then(|whole| whole.parse().ok());
        percent.unwrap_or_default()
    });
    let unsaved = match () {
        () if is("aof_enabled", "1") && is("aof_last_write_status", "err") => Some("its append-only file"),
        () if is("rdb_last_bgsave_status", "err") => Some("its RDB file"),
        () if is("aof_enabled", "1") && is("aof_last_bgrewrite_status", "err") => Some("its append-only file anew"),
        () => None,
    };
    Facts {
        role,
        source,
        replid: ReplId(link.get("master_replid").map(|replid| (*replid).to_owned()).unwrap_or_default()),
        offset: number("master_repl_offset").unwrap_or_default(),
        before: before.map(|replid| Ancestor { replid: ReplId((*replid).to_owned()), end }),
        backlog: number("repl_backlog_active") == Some(1),
        replicas: (0..).map_while(|index| link.get(format!("slave{index}").as_str())).filter_map(|line| replica(line)).collect(),
        failover: match link.get("master_failover_state") {
            Some(&"waiting-for-sync") => Failover::Waiting,
            Some(&"failover-in-progress") => Failover::Changing,
            _ => Failover::None,
        },
        loading,
        keys: fields(keyspace).values().filter_map(|line| pairs(line).get("keys")?.parse::<u64>().ok()).sum(),
        rewriting: is("aof_enabled", "1")
            && (is("aof_rewrite_in_progress", "1") || is("aof_rewrite_scheduled", "1") || is("aof_last_bgrewrite_status", "err")),
        unsaved,
        saving: is("rdb_bgsave_in_progress", "1"),
        saved: is("rdb_last_bgsave_status", "ok"),
        progress: disk.get("current_save_keys_processed").and_then(|keys| keys.parse().ok()).unwrap_or_default(),
        min_replicas: (0, 0),
        accounts: None,
    }
}

fn replica(line: &str) -> Option<Replica> {
    let pairs = pairs(line);
    Some(Replica {
        host: (*pairs.get("ip")?).to_owned(),
        offset: pairs.get("offset")?.parse().ok()?,
        online: pairs.get("state") == Some(&"online"),
    })
}

fn min_replicas(options: &[String]) -> (u32, u32) {
    let get = |name: &str| {
        let at = options.iter().position(|option| option == name)?;
        options.get(at + 1)?.parse().ok()
    };
    (get("min-replicas-to-write").unwrap_or_default(), get("min-replicas-max-lag").unwrap_or_default())
}

/// `name:value` lines.
fn fields(info: &str) -> BTreeMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

/// `name=value,name=value`.
fn pairs(line: &str) -> BTreeMap<&str, &str> {
    line.split(',').filter_map(|pair| pair.split_once('=')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_with_a_replica_is_read_with_its_past() {
        let replication = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n\
             slave0:ip=shop-1.shop.market.svc,port=6379,state=online,offset=98,lag=0\r\nmaster_failover_state:waiting-for-sync\r\n\
             master_replid:aa\r\nmaster_replid2:bb\r\nmaster_repl_offset:100\r\nsecond_repl_offset:43\r\n";
        let facts = parse(replication, "loading:0\r\n", "# Keyspace\r\ndb0:keys=3,expires=0,avg_ttl=0\r\ndb1:keys=2,expires=0\r\n");
        assert_eq!((facts.role, facts.offset, facts.keys, facts.failover), (Role::Primary, 100, 5, Failover::Waiting));
        assert_eq!(facts.before, Some(Ancestor { replid: ReplId("bb".into()), end: Some(42) }));
        assert_eq!(facts.replicas, [Replica { host: "shop-1.shop.market.svc".into(), offset: 98, online: true }]);
    }

    #[test]
    fn a_replica_of_nobody_is_isolated_and_a_copy_that_runs_is_seen() {
        let zeros = "0".repeat(40);
        let isolated =
            format!("role:slave\r\nmaster_host:127.0.0.1\r\nmaster_port:1\r\nmaster_link_status:down\r\nmaster_replid2:{zeros}\r\n");
        let facts = parse(&isolated, "", "");
        assert_eq!((facts.role, facts.before, facts.loading), (Role::Isolated, None, None));
        let replica = "role:slave\r\nmaster_host:shop-0\r\nmaster_port:6379\r\nmaster_link_status:down\r\nmaster_last_io_seconds_ago:-1\r\n\
             master_sync_in_progress:1\r\nmaster_sync_total_bytes:-1\r\nmaster_sync_read_bytes:7\r\n";
        let facts = parse(replica, "loading:1\r\nloading_loaded_perc:12.34\r\n", "");
        assert_eq!((facts.role, facts.loading), (Role::Replica, Some(12)));
        let source = Source { host: "shop-0".into(), up: false, heard: None, rests: false, syncing: Some((7, 0)) };
        assert_eq!(facts.source, Some(source));
    }
}
