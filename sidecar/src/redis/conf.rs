//! redis.conf: the user's options, and after them what is the sidecar's to say, which wins.
//!
//! Whatever the user's part says, a process that starts follows nobody and takes no writes, and lets nobody in but the sidecar: who may do what is said
//! when its order is known.

use std::fmt::Write as _;
use std::path::Path;

use sidecar_protocol::redis::{LOCAL_USER, NOBODY, PORT};

use super::{Config, Persistence};
use crate::tls::sha256;

/// Options that would undo the sidecar's work, or that the database takes once only.
const REFUSED: [&str; 13] = [
    "appenddirname",
    "appendfilename",
    "include",
    "user",
    "aclfile",
    "requirepass",
    "replicaof",
    "slaveof",
    "masterauth",
    "masteruser",
    "rename-command",
    "cluster-enabled",
    "bind-source-addr",
];

/// The user's options, if none of them is in the way.
///
/// # Errors
/// Which one is, in words for people.
pub fn checked(user: &str) -> Result<(), String> {
    for line in user.lines().map(str::trim_start).filter(|line| !line.starts_with('#')) {
        let name = line.split_whitespace().next().unwrap_or_default().to_lowercase();
        if REFUSED.contains(&name.as_str()) {
            return Err(format!("the option {name} is the sidecar's to set: remove it"));
        }
    }
    Ok(())
}

/// What the database starts with.
#[must_use]
pub fn server(config: &Config, user: &str, local_password: &str) -> String {
    let Config { host, listen, tls, .. } = config;
    let mut text = format!("repl-backlog-size 64mb\nrepl-timeout 10\n{user}\n");
    let (port, tls_port) = if *tls { (0, PORT) } else { (PORT, 0) };
    let _ = write!(
        text,
        "\nbind {listen}\nport {port}\ntls-port {tls_port}\nunixsocket {socket}\nunixsocketperm 700\nprotected-mode no\n\
         daemonize no\nsupervised no\nlogfile \"\"\ndir {dir}\ndbfilename dump.rdb\n\
         replicaof {nobody} {nowhere}\nreplica-announce-ip {host}\nreplica-announce-port {PORT}\nreplica-read-only yes\nreplica-serve-stale-data yes\n\
         replica-priority 100\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-diskless-load disabled\nrepl-backlog-ttl 0\nrepl-ping-replica-period 1\n\
         min-replicas-to-write 0\nmin-replicas-max-lag 10\n",
        socket = word(&config.socket()),
        dir = word(&config.datadir()),
        nobody = NOBODY.0,
        nowhere = NOBODY.1,
    );
    if *tls {
        let file = |name: &str| word(&config.run_dir.join(name));
        let _ = write!(
            text,
            "tls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}\ntls-replication yes\ntls-auth-clients no\n",
            file("tls.crt"),
            file("tls.key"),
            file("ca.crt")
        );
    }
    text.push_str(match config.persistence {
        Persistence::AppendOnly => "appendonly yes\nsave \"\"\n",
        Persistence::Snapshot => "appendonly no\n",
        // What a replica loaded its copy from would be loaded again after a restart, as old as it is by then.
        Persistence::None => "appendonly no\nsave \"\"\nrdb-del-sync-files yes\n",
    });
    text.push_str(&accounts(config.system_dir.is_some(), local_password));
    text
}

/// What a scratch server checks the user's options with: it listens to nobody, and holds nothing.
#[must_use]
pub fn scratch(user: &str, directory: &Path) -> String {
    format!(
        "{user}\n\nport 0\ntls-port 0\nunixsocket {}\nunixsocketperm 700\ndaemonize no\nsupervised no\nlogfile \"\"\npidfile \"\"\ndir {}\n\
         appendonly no\nsave \"\"\n",
        word(&directory.join("scratch.sock")),
        word(directory)
    )
}

/// The accounts of the first moments.
fn accounts(closed: bool, local_password: &str) -> String {
    let others = if closed { "user default reset\n" } else { "user default reset on nopass allkeys allchannels +@all\n" };
    format!("{others}user {LOCAL_USER} reset on #{} allkeys allchannels +@all\n", sha256(local_password.as_bytes()))
}

/// A path as one word.
fn word(path: &Path) -> String {
    let mut word = String::from("\"");
    for char in path.to_string_lossy().chars() {
        if matches!(char, '"' | '\\') {
            word.push('\\');
        }
        word.push(char);
    }
    word + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_that_would_undo_our_work_are_refused_by_name() {
        assert_eq!(checked("maxmemory 1gb\n# user x\n"), Ok(()));
        for option in ["user app on nopass", "  RequirePass x", "replicaof h 1"] {
            assert!(checked(&format!("maxmemory 1gb\n{option}\n")).is_err(), "{option}");
        }
    }
}
