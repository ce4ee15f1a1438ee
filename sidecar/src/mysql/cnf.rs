//! The text of my.cnf and of the SQL that mysqld runs at start: pure builders, and the quoting that keeps them whole.
//!
//! Order matters: mysqld takes the last of two equal options. So defaults come first, the user's file second, and what Understudy
//! owns last; the user's file cannot undo it.

use std::path::Path;

use sidecar_protocol::mysql::PORT;

use super::Config;

/// The account of this sidecar, over the socket only.
pub const LOCAL_USER: &str = "understudy";
/// The account that an empty member clones with.
pub const CLONE_USER: &str = "understudy_clone";
/// Every replication account starts with this.
pub const REPLICATION_PREFIX: &str = "understudy_repl_";
/// Server ids start here: those of the xtrabackup set-ups that this replaces.
const SERVER_ID_BASE: u32 = 100;
/// Heartbeats come each second; a connection that is silent for this many seconds is made anew. With a frozen source that takes as long
/// again: it lets us connect and never greets. Both must be over soon after a failover begins, since no receiver is stopped meanwhile.
pub const REPLICA_NET_TIMEOUT_SECONDS: u32 = 2;

/// The replication account of a member: one each, so that one can be cut off alone.
#[must_use]
pub fn replication_user(ordinal: u32) -> String {
    format!("{REPLICATION_PREFIX}{ordinal}")
}

/// The member that replicates by this account.
#[must_use]
pub fn ordinal_of(user: &str) -> Option<u32> {
    user.strip_prefix(REPLICATION_PREFIX)?.parse().ok()
}

/// A string literal for SQL under an empty `sql_mode`.
#[must_use]
pub fn literal(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('\'');
    for char in text.chars() {
        match char {
            '\'' => quoted.push_str("''"),
            '\\' => quoted.push_str("\\\\"),
            '\0' => quoted.push_str("\\0"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\u{1a}' => quoted.push_str("\\Z"),
            other => quoted.push(other),
        }
    }
    quoted.push('\'');
    quoted
}

/// An identifier for SQL.
#[must_use]
pub fn identifier(text: &str) -> String {
    format!("`{}`", text.replace('`', "``"))
}

/// A value for an option file: quoted, so that spaces and `#` are plain text; a newline cannot start another option.
fn value(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for char in text.chars() {
        match char {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

fn path(path: &Path) -> String {
    value(&path.to_string_lossy())
}

/// my.cnf of the database container.
#[must_use]
pub fn server(config: &Config, user: &str) -> String {
    let mut text = owned(config, user);
    let mut set = |name: &str, value: String| text.push_str(&format!("{name}={value}\n"));
    set("datadir", path(&config.datadir()));
    set("socket", path(&config.socket()));
    set("pid_file", path(&config.run_dir.join("mysqld.pid")));
    set("bind_address", value(&config.listen));
    text
}

/// my.cnf of the scratch server that initialises or receives a clone: as [`server`] (a recipient must hold every plugin of its
/// donor), but with small buffers, no binary log and no network. It never serves anybody.
#[must_use]
pub fn scratch(config: &Config, user: &str, datadir: &Path, socket: &Path) -> String {
    let mut text = owned(config, user);
    let mut set = |name: &str, value: String| text.push_str(&format!("{name}={value}\n"));
    set("datadir", path(datadir));
    set("socket", path(socket));
    set("pid_file", path(&socket.with_extension("pid")));
    text.push_str("skip_networking=ON\nskip_log_bin\nread_only=OFF\nsuper_read_only=OFF\n");
    text.push_str("innodb_buffer_pool_size=64M\ninnodb_fast_shutdown=1\nlarge_pages=OFF\n");
    if let Some(tls) = &config.tls_dir {
        for (option, file) in [("loose_clone_ssl_ca", "ca.crt"), ("loose_clone_ssl_cert", "tls.crt"), ("loose_clone_ssl_key", "tls.key")] {
            text.push_str(&format!("{option}={}\n", path(&tls.join(file))));
        }
    }
    text
}

/// What both have in common: defaults, the user's file, what Understudy owns.
fn owned(config: &Config, user: &str) -> String {
    let mut text = String::from("# Composed by the sidecar. Edit the source, not this file.\n[mysqld]\nsecure_file_priv=NULL\n\n");
    text.push_str(user.trim_end());
    text.push_str("\n\n[mysqld]\n");
    let host = format!("{}.{}.{}.svc", config.member, config.cluster, config.namespace);
    let mut set = |name: &str, value: &str| text.push_str(&format!("{name}={value}\n"));
    set("server_id", &(SERVER_ID_BASE + config.ordinal).to_string());
    set("report_host", &value(&host));
    set("port", &PORT.to_string());
    set("mysqlx", "OFF");
    set("skip_name_resolve", "ON");
    set("performance_schema", "ON");
    // History: every member keeps all of it, row by row, durable before the client hears of it.
    set("gtid_mode", "ON");
    set("enforce_gtid_consistency", "ON");
    set("log_bin", "binlog");
    set("relay_log", "relay");
    set("log_replica_updates", "ON");
    set("loose_binlog_format", "ROW");
    set("sync_binlog", "1");
    set("innodb_flush_log_at_trx_commit", "1");
    set("replica_preserve_commit_order", "ON");
    // What was received counts for I2: it must not be thrown away at a restart.
    set("relay_log_recovery", "OFF");
    set("replica_net_timeout", &REPLICA_NET_TIMEOUT_SECONDS.to_string());
    // I7: every start is read-only, follows nobody and waits for no acknowledgement, until an order says otherwise.
    set("read_only", "ON");
    set("super_read_only", "ON");
    set("skip_replica_start", "ON");
    set("plugin_load_add", "mysql_clone.so");
    // A donor serves one clone at a time, and would keep its place for minutes for a recipient that is gone; ours begins anew.
    set("loose_clone_donor_timeout_after_network_failure", "0");
    set("plugin_load_add", "semisync_source.so");
    set("plugin_load_add", "semisync_replica.so");
    set("loose_rpl_semi_sync_source_enabled", "OFF");
    set("loose_rpl_semi_sync_replica_enabled", "OFF");
    set("loose_rpl_semi_sync_source_wait_point", "AFTER_SYNC");
    if let Some(tls) = &config.tls_dir {
        set("ssl_ca", &path(&tls.join("ca.crt")));
        set("ssl_cert", &path(&tls.join("tls.crt")));
        set("ssl_key", &path(&tls.join("tls.key")));
    }
    set("init_file", &path(&config.run_dir.join("init.sql")));
    text
}

/// What mysqld runs at each start, read-only or not and without leaving a trace in the history: our own way in, whatever happened
/// to the Secrets.
#[must_use]
pub fn init_sql(local_password: &str) -> String {
    let user = format!("{}@'localhost'", literal(LOCAL_USER));
    format!(
        "SET SESSION sql_log_bin=0, SESSION sql_mode='';\n\
         CREATE USER IF NOT EXISTS {user} IDENTIFIED WITH caching_sha2_password BY {password};\n\
         ALTER USER {user} IDENTIFIED WITH caching_sha2_password BY {password} ACCOUNT UNLOCK;\n\
         GRANT ALL ON *.* TO {user} WITH GRANT OPTION;\n",
        password = literal(local_password)
    )
}

/// What a fresh data directory runs once: nobody gets in without a password.
#[must_use]
pub fn first_sql(local_password: &str) -> String {
    let mut sql = init_sql(local_password);
    sql.push_str("ALTER USER 'root'@'localhost' ACCOUNT LOCK;\n");
    sql
}

/// The sentence in mysqld's output that says why it does not take its configuration.
#[must_use]
pub fn complaint(output: &str) -> String {
    let errors: Vec<&str> = output
        .lines()
        .filter_map(|line| line.split_once("[ERROR]").map(|(_, rest)| rest.trim()))
        .map(|rest| rest.rsplit_once("[Server] ").map_or(rest, |(_, message)| message))
        .filter(|message| *message != "Aborting")
        .collect();
    let said = if errors.is_empty() { output.lines().last().unwrap_or("it says nothing").to_owned() } else { errors.join("; ") };
    said.chars().take(500).collect()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn config() -> Config {
        Config {
            member: "shop-2".into(),
            ordinal: 2,
            cluster: "shop".into(),
            namespace: "market".into(),
            pod_ip: "10.0.0.2".into(),
            listen: "*".into(),
            data_dir: "/var/lib/mysql".into(),
            run_dir: "/understudy/run".into(),
            tls_dir: Some("/understudy/tls".into()),
            system_dir: "/understudy/system".into(),
            app_dir: "/understudy/app".into(),
            config_file: "/understudy/config/my.cnf".into(),
            mysqld: "mysqld".into(),
            mysqlbinlog: "mysqlbinlog".into(),
            max_lag_seconds: 30,
            standalone: false,
        }
    }

    fn last<'a>(text: &'a str, option: &str) -> &'a str {
        text.lines().rev().find_map(|line| line.strip_prefix(option)?.strip_prefix('=')).expect(option)
    }

    #[test]
    fn the_users_file_cannot_undo_what_understudy_owns() {
        let text = server(&config(), "[mysqld]\nsuper_read_only=OFF\nserver_id=1\nmax_connections=7\n[client]\nuser=x");
        assert_eq!(last(&text, "super_read_only"), "ON");
        assert_eq!(last(&text, "server_id"), "102");
        assert_eq!(last(&text, "max_connections"), "7");
        assert!(text.rfind("[mysqld]") > text.rfind("[client]"), "our options must not land in the user's last section");
    }

    #[test]
    fn the_scratch_server_listens_to_nobody_and_keeps_the_donors_plugins() {
        let text = scratch(&config(), "[mysqld]\nlog_bin=x", Path::new("/d"), Path::new("/s"));
        assert_eq!(last(&text, "skip_networking"), "ON");
        assert!(text.rfind("skip_log_bin") > text.rfind("log_bin=x"));
        assert!(text.contains("plugin_load_add=semisync_source.so"));
        assert_eq!(last(&text, "loose_clone_ssl_ca"), "\"/understudy/tls/ca.crt\"");
    }

    #[test]
    fn the_complaint_is_mysqlds_own_sentence() {
        let output = "2026 0 [Warning] [MY-1] [Server] w\n2026 0 [ERROR] [MY-000067] [Server] unknown variable 'foo=bar'.\n\
                      2026 0 [ERROR] [MY-010119] [Server] Aborting\n";
        assert_eq!(complaint(output), "unknown variable 'foo=bar'.");
    }

    proptest! {
        #[test]
        fn a_literal_never_ends_early(text in "\\PC*|['\\\\\n\0a]*") {
            let quoted = literal(&text);
            let inner = &quoted[1..quoted.len() - 1];
            let mut chars = inner.chars();
            while let Some(char) = chars.next() {
                match char {
                    '\\' => prop_assert!(chars.next().is_some()),
                    '\'' => prop_assert_eq!(chars.next(), Some('\'')),
                    other => prop_assert!(other != '\n' && other != '\0'),
                }
            }
        }

        #[test]
        fn a_value_stays_on_its_line(text in "\\PC*|[\n\r\"a]*") {
            prop_assert_eq!(value(&text).lines().count(), 1);
        }
    }
}
