//! What is true of a running mysqld: read by short questions that wait for no lock.

use std::collections::VecDeque;
use std::time::Duration;

use mysql_async::Row;
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Position, Process, Replication, Role, SemiSync, State};
use tokio::time::Instant;

use super::sessions::Replicas;
use super::sql::{Sql, SqlError, number, text};

/// How many unapplied arrivals are remembered, to tell the age of the oldest.
const ARRIVALS: usize = 256;

/// One look at mysqld.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// `@@version`.
    pub version: String,
    /// `@@server_uuid`.
    pub server_uuid: String,
    /// `@@read_only`.
    pub read_only: bool,
    /// `@@super_read_only`, in effect.
    pub super_read_only: bool,
    /// Positions; what was received is empty without a channel.
    pub position: Position,
    /// The replication channel, if there is one.
    pub channel: Option<Channel>,
    /// Semi-sync, both sides.
    pub semi_sync: SemiSyncFacts,
    /// Who follows and who may; asked only of a member that is a primary or is to be one.
    pub replicas: Replicas,
}

/// The replication channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Channel {
    /// `Source_Host`.
    pub host: String,
    /// `Source_User`.
    pub user: String,
    /// The password it uses, to compare; never printed.
    pub password: Password,
    /// Encrypted.
    pub tls: bool,
    /// The receiver.
    pub receiver: Receiver,
    /// The applier runs.
    pub applying: bool,
    /// Number and text of the receiver's last error; 0 when there is none.
    pub receiver_error: (u64, String),
    /// The same of the applier.
    pub applier_error: (u64, String),
}

/// A password that does not print.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("***")
    }
}

/// `Replica_IO_Running`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Receiver {
    /// Stopped.
    #[default]
    Off,
    /// Trying to connect.
    Connecting,
    /// Connected.
    On,
}

/// Semi-sync, both sides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SemiSyncFacts {
    /// Commits wait for acknowledgements.
    pub source_enabled: bool,
    /// Of this many replicas.
    pub source_acks: u32,
    /// With the settings that never fall back to async.
    pub source_strict: bool,
    /// Connected semi-sync replicas.
    pub clients: u32,
    /// Sessions that wait for acknowledgements.
    pub waiting: u32,
    /// This member is set to acknowledge.
    pub replica_enabled: bool,
    /// The receiver acknowledges now.
    pub replica_active: bool,
}

/// Milliseconds that a commit waits for acknowledgements: the longest that MySQL takes, 49 days. It never falls back to async.
pub const NEVER: u64 = 4_294_967_295;

/// Variables, in one row.
const GLOBALS: &str = "SELECT @@global.version AS version, @@global.server_uuid AS server_uuid, \
    @@global.read_only AS read_only, @@global.super_read_only AS super_read_only, \
    @@global.gtid_executed AS executed, @@global.gtid_purged AS purged, \
    @@global.rpl_semi_sync_source_enabled AS source_enabled, \
    @@global.rpl_semi_sync_source_wait_for_replica_count AS source_acks, \
    @@global.rpl_semi_sync_source_timeout AS source_timeout, \
    @@global.rpl_semi_sync_source_wait_no_replica AS wait_no_replica, \
    @@global.rpl_semi_sync_replica_enabled AS replica_enabled";
/// The channel's password is not in `SHOW REPLICA STATUS`.
const PASSWORD: &str = "SELECT User_password AS password FROM mysql.slave_master_info WHERE Channel_name=''";
const CHANNEL: &str = "SHOW REPLICA STATUS";
const SEMI_SYNC: &str = "SHOW GLOBAL STATUS LIKE 'Rpl_semi_sync%'";

/// Reads them, in one round trip.
///
/// # Errors
/// mysqld does not answer.
pub async fn look(sql: &mut Sql) -> Result<Facts, SqlError> {
    let [globals, mut status, password, semi_sync] = sql.answers([GLOBALS, CHANNEL, PASSWORD, SEMI_SYNC]).await?;
    let Some(globals) = globals.first() else { return Err(SqlError::Unclear("no row of variables".into())) };
    // I2: MySQL reads what was received before it reads whether the receiver runs. Only an answer to a question asked after the
    // receiver was seen stopped is final.
    if channel(&status, &password)?.is_some_and(|(channel, _)| channel.receiver == Receiver::Off) {
        status = sql.rows(CHANNEL).await?;
    }
    let (channel, received) = channel(&status, &password)?.map_or((None, GtidSet::new()), |(channel, received)| (Some(channel), received));
    let status = |name: &str| {
        semi_sync
            .iter()
            .find(|row| text(row, "Variable_name").as_deref() == Some(name))
            .and_then(|row| text(row, "Value"))
            .unwrap_or_default()
    };
    let flag = |name| number(globals, name) == Some(1);
    Ok(Facts {
        version: text(globals, "version").unwrap_or_default(),
        server_uuid: text(globals, "server_uuid").unwrap_or_default(),
        read_only: flag("read_only"),
        // While `SET GLOBAL super_read_only=ON` still waits for commits in flight, the variable says ON already, but `read_only` does not.
        super_read_only: flag("super_read_only") && flag("read_only"),
        position: Position { executed: gtids(globals, "executed")?, received, purged: gtids(globals, "purged")? },
        channel,
        semi_sync: SemiSyncFacts {
            source_enabled: flag("source_enabled"),
            source_acks: small(number(globals, "source_acks")),
            source_strict: number(globals, "source_timeout") == Some(NEVER) && flag("wait_no_replica"),
            clients: small(status("Rpl_semi_sync_source_clients").parse().ok()),
            waiting: small(status("Rpl_semi_sync_source_wait_sessions").parse().ok()),
            replica_enabled: flag("replica_enabled"),
            replica_active: status("Rpl_semi_sync_replica_status") == "ON",
        },
        replicas: Replicas::default(),
    })
}

fn small(number: Option<u64>) -> u32 {
    number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0)
}

fn gtids(row: &Row, column: &str) -> Result<GtidSet, SqlError> {
    let text = text(row, column).unwrap_or_default();
    text.parse().map_err(|error| SqlError::Unclear(format!("{column}: {error}")))
}

/// The channel and what was received through it.
fn channel(status: &[Row], password: &[Row]) -> Result<Option<(Channel, GtidSet)>, SqlError> {
    let Some(row) = status.iter().find(|row| text(row, "Channel_Name").is_none_or(|name| name.is_empty())) else { return Ok(None) };
    let get = |column| text(row, column).unwrap_or_default();
    if get("Source_Host").is_empty() {
        return Ok(None);
    }
    let channel = Channel {
        host: get("Source_Host"),
        user: get("Source_User"),
        password: Password(password.first().and_then(|row| text(row, "password")).unwrap_or_default()),
        tls: get("Source_SSL_Allowed") == "Yes",
        receiver: match get("Replica_IO_Running").as_str() {
            "Yes" => Receiver::On,
            "Connecting" => Receiver::Connecting,
            _ => Receiver::Off,
        },
        applying: get("Replica_SQL_Running") == "Yes",
        receiver_error: (number(row, "Last_IO_Errno").unwrap_or(0), get("Last_IO_Error")),
        applier_error: (number(row, "Last_SQL_Errno").unwrap_or(0), get("Last_SQL_Error")),
    };
    Ok(Some((channel, gtids(row, "Retrieved_Gtid_Set")?)))
}

/// Seconds since the oldest transaction that is being applied was committed at its source.
///
/// # Errors
/// mysqld does not answer.
pub async fn applying_since(sql: &mut Sql) -> Result<Option<f64>, SqlError> {
    let rows = sql
        .rows(
            "SELECT CAST(TIMESTAMPDIFF(MICROSECOND, MIN(since), NOW(6)) AS CHAR) AS age FROM (\
             SELECT APPLYING_TRANSACTION_IMMEDIATE_COMMIT_TIMESTAMP AS since FROM performance_schema.replication_applier_status_by_worker \
             WHERE CHANNEL_NAME='' AND APPLYING_TRANSACTION<>'' UNION ALL \
             SELECT PROCESSING_TRANSACTION_IMMEDIATE_COMMIT_TIMESTAMP FROM performance_schema.replication_applier_status_by_coordinator \
             WHERE CHANNEL_NAME='' AND PROCESSING_TRANSACTION<>'') AS busy WHERE since > 0",
        )
        .await?;
    let micros: Option<f64> = rows.first().and_then(|row| text(row, "age")).and_then(|age| age.parse().ok());
    Ok(micros.map(|micros| (micros / 1e6).max(0.0)))
}

/// How old the oldest transaction is that was received and not applied, by our own clock: mysqld does not tell while its applier
/// rests, and clocks of two hosts differ.
#[derive(Debug, Default)]
pub struct Backlog(VecDeque<(Instant, GtidSet)>);

impl Backlog {
    /// Notes one look and says the age.
    pub fn age(&mut self, now: Instant, position: &Position) -> Duration {
        while self.0.front().is_some_and(|(_, received)| position.executed.contains(received)) {
            self.0.pop_front();
        }
        let new = self.0.back().is_none_or(|(_, received)| *received != position.received);
        if new && !position.executed.contains(&position.received) {
            if self.0.len() == ARRIVALS {
                // The oldest stays: it gives the age.
                self.0.remove(1);
            }
            self.0.push_back((now, position.received.clone()));
        }
        self.0.front().map_or(Duration::ZERO, |(since, _)| now.duration_since(*since))
    }
}

// === impl Facts ===

impl Facts {
    /// What mysqld does.
    #[must_use]
    pub fn role(&self) -> Role {
        match (&self.channel, self.read_only) {
            (_, false) => Role::Primary,
            (Some(_), true) => Role::Replica,
            (None, true) => Role::Isolated,
        }
    }

    /// Whether everything received is applied.
    #[must_use]
    pub fn applied(&self) -> bool {
        self.position.executed.contains(&self.position.received)
    }

    /// Writes what was seen into the state.
    pub fn tell(&self, lag_seconds: Option<f64>, state: &mut State) {
        state.process = Process::Running;
        state.role = self.role();
        state.version = Some(self.version.clone());
        state.server_uuid = Some(self.server_uuid.clone());
        state.position = Some(self.position.clone());
        state.replication = self.channel.as_ref().map(|channel| Replication {
            source: channel.host.clone(),
            receiving: channel.receiver == Receiver::On,
            applying: channel.applying,
            lag_seconds,
            error: [&channel.applier_error, &channel.receiver_error].into_iter().find(|error| error.0 != 0).map(|error| error.1.clone()),
            tls: channel.tls,
        });
        let semi = &self.semi_sync;
        let dumping = || self.replicas.dumping.iter().copied().collect();
        state.semi_sync =
            semi.source_enabled.then(|| SemiSync { acks: semi.source_acks, clients: semi.clients, dumping: dumping(), unanswered: false });
        let receiver = self.channel.as_ref().map_or(Receiver::Off, |channel| channel.receiver);
        state.acknowledges = semi.replica_active && receiver == Receiver::On;
        state.may_acknowledge = (semi.replica_active || semi.replica_enabled) && receiver != Receiver::Off;
    }
}

/// What is left to say when mysqld does not answer. Which data directory it is stays true.
pub fn tell_silence(process: Process, state: &mut State) {
    state.process = process;
    state.role = Role::Unknown;
    state.position = None;
    state.replication = None;
    state.semi_sync = None;
    state.busy_seconds = None;
    state.fenced = false;
    state.acknowledges = false;
    state.version = None;
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn position(executed: u64, received: u64) -> Position {
        let set = |last: u64| if last == 0 { GtidSet::new() } else { format!("{A}:1-{last}").parse().unwrap() };
        Position { executed: set(executed), received: set(received), purged: GtidSet::new() }
    }

    #[test]
    fn the_backlog_is_as_old_as_its_oldest_transaction() {
        let (mut backlog, start) = (Backlog::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(backlog.age(at(0), &position(5, 5)), Duration::ZERO);
        assert_eq!(backlog.age(at(1), &position(5, 6)), Duration::ZERO);
        assert_eq!(backlog.age(at(4), &position(5, 8)), Duration::from_secs(3));
        assert_eq!(backlog.age(at(6), &position(6, 8)), Duration::from_secs(2), "the second arrival is the oldest left");
        assert_eq!(backlog.age(at(7), &position(8, 8)), Duration::ZERO);
    }
}
