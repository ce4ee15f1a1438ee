//! What is asked about the cluster: `SENTINEL …` and `INFO`. What would change it is the operator's, and refused with what to do instead.

use super::{Answer, World, text};
use crate::redis::sentinel::pubsub::matches;
use crate::redis::sentinel::resp::Value;
use crate::redis::sentinel::serve::MAX_CLIENTS;
use crate::redis::sentinel::view::{Node, View};

const NO_MASTER: &str = "ERR No such master with that name";
const NOT_A_NUMBER: &str = "ERR value is not an integer or out of range";

const HELP: &[&str] = &[
    "SENTINEL <subcommand> [<arg> [value] [opt] ...]. Subcommands are:",
    "CKQUORUM <master-name>",
    "    Check if enough sidecars can be reached to agree on a primary.",
    "CONFIG GET <pattern>",
    "    Get how this endpoint is announced.",
    "GET-MASTER-ADDR-BY-NAME <master-name>",
    "    Return the host and port number of the primary of that name.",
    "IS-MASTER-DOWN-BY-ADDR <host> <port> <current-epoch> <runid>",
    "    Check if the primary at host:port is down from this sidecar's point of view.",
    "MASTER <master-name>",
    "    Show the state and info of the primary.",
    "MASTERS",
    "    The same, as a list of one.",
    "MYID",
    "    Return the ID of this endpoint.",
    "REPLICAS <master-name>",
    "    Show a list of replicas and their state.",
    "SENTINELS <master-name>",
    "    Show a list of the other members' sidecars and their state.",
    "HELP",
    "    Prints this help.",
    "The primary is moved by: kubectl understudy switchover <cluster>",
];

/// Why what would change something is refused.
fn refused(what: &str) -> Answer {
    Err(format!(
        "ERR SENTINEL {} is refused: this endpoint is Understudy's, whose operator looks after the cluster. To move the primary: \
         kubectl understudy switchover CLUSTER. Everything else is in the RedisReplication object",
        what.to_uppercase()
    ))
}

/// `SENTINEL sub …`.
pub fn sentinel(sub: &str, arguments: &[Vec<u8>], view: &View) -> Answer {
    let named = |answer: Answer| match arguments.first() {
        Some(name) if name == view.master_name.as_bytes() => answer,
        _ => Err(NO_MASTER.into()),
    };
    match sub {
        "get-master-addr-by-name" => {
            let primary = view.primary.as_ref().filter(|_| arguments.first().is_some_and(|name| name == view.master_name.as_bytes()));
            let address = |node: &Node| Value::Array(vec![Value::text(&node.host), Value::text(node.port.to_string())]);
            Ok(primary.map_or(Value::NullArray, address))
        }
        "master" => named(view.master().ok_or_else(|| NO_MASTER.into())),
        "masters" => Ok(Value::Array(view.master().into_iter().collect())),
        "replicas" | "slaves" => named(Ok(view.slaves())),
        "sentinels" => named(Ok(view.others())),
        "ckquorum" => named(view.quorum().map(|said| Value::Simple(said.into()))),
        "myid" => Ok(Value::text(&view.me.run_id)),
        "is-master-down-by-addr" => is_down(arguments, view),
        "config" => config(arguments, view),
        "pending-scripts" | "info-cache" => Ok(Value::Array(Vec::new())),
        "help" => Ok(Value::Array(HELP.iter().map(|line| Value::word(line)).collect())),
        "failover" | "remove" | "set" => named(refused(sub)),
        _ => refused(sub),
    }
}

/// Whether the primary at an address is silent. A vote is never given, whoever asks for one: the operator decides who leads.
fn is_down(arguments: &[Vec<u8>], view: &View) -> Answer {
    let [host, port, epoch, _] = arguments else { return Err(NOT_A_NUMBER.into()) };
    let port: i64 = text(port).parse().map_err(|_| NOT_A_NUMBER)?;
    let _: i64 = text(epoch).parse().map_err(|_| NOT_A_NUMBER)?;
    let down = view
        .primary
        .as_ref()
        .is_some_and(|primary| primary.host.as_bytes() == host && i64::from(primary.port) == port && primary.down_since.is_some());
    Ok(Value::Array(vec![Value::Integer(i64::from(down)), Value::text("*"), Value::Integer(0)]))
}

/// `SENTINEL CONFIG GET pattern`.
fn config(arguments: &[Vec<u8>], view: &View) -> Answer {
    match arguments {
        [get, pattern] if get.eq_ignore_ascii_case(b"get") => {
            let port = view.me.port.to_string();
            let settings = [
                ("resolve-hostnames", "yes"),
                ("announce-hostnames", "yes"),
                ("announce-ip", &view.me.host),
                ("announce-port", &port),
                ("sentinel-user", ""),
                ("sentinel-pass", ""),
            ];
            let settings = settings.into_iter().filter(|(name, _)| matches(&pattern.to_ascii_lowercase(), name.as_bytes()));
            Ok(Value::Map(settings.map(|(name, value)| (Value::text(name), Value::text(value))).collect()))
        }
        [set, ..] if set.eq_ignore_ascii_case(b"set") => refused("config set"),
        _ => Err("ERR Only SENTINEL CONFIG GET <option> / SET <option> <value> are supported.".into()),
    }
}

/// `INFO [section …]`.
pub fn info(sections: &[Vec<u8>], world: World<'_>) -> String {
    let World { view, accounts: _, clients, uptime } = world;
    let wanted = |name: &str| {
        sections.is_empty()
            || sections
                .iter()
                .any(|section| [name, "all", "default", "everything"].iter().any(|word| section.eq_ignore_ascii_case(word.as_bytes())))
    };
    let mut texts = Vec::new();
    if wanted("server") {
        texts.push(format!(
            "# Server\r\nredis_version:{}\r\nredis_mode:sentinel\r\nos:Linux\r\narch_bits:64\r\nmultiplexing_api:epoll\r\nprocess_id:{}\r\n\
             run_id:{}\r\ntcp_port:{}\r\nuptime_in_seconds:{uptime}\r\nuptime_in_days:{}\r\n",
            view.version,
            std::process::id(),
            view.me.run_id,
            view.me.port,
            uptime / (24 * 60 * 60)
        ));
    }
    if wanted("clients") {
        texts.push(format!("# Clients\r\nconnected_clients:{clients}\r\nmaxclients:{MAX_CLIENTS}\r\nblocked_clients:0\r\n"));
    }
    if wanted("sentinel") {
        texts.push(view.section());
    }
    texts.join("\r\n")
}
