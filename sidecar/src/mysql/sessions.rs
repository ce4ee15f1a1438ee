//! Who is connected to this mysqld: clients, which a member that closes sends away, and replicas, which a primary may bar.
//!
//! Bars are this server's own and leave no trace in the history (`sql_log_bin=0`): another member that becomes primary has its own.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::cnf::{CLONE_USER, LOCAL_USER, REPLICATION_PREFIX, literal, ordinal_of, replication_user};
use super::sql::{QUERY_DEADLINE, Sql, SqlError, number, text};

/// Past this a bar is tried again from the start. One who acknowledges is gone within a second.
const BAR_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at whether those who were cut off are gone.
const BAR_ROUND: Duration = Duration::from_millis(5);
/// `ER_NO_SUCH_THREAD`: it went by itself.
const NO_SUCH_THREAD: u16 = 1094;

/// Replicas by the ordinals of their accounts, at a server that they may follow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replicas {
    /// Accounts that may log in.
    pub admitted: BTreeSet<u32>,
    /// Accounts that may not.
    pub locked: BTreeSet<u32>,
    /// Those that receive the binary log now.
    pub dumping: BTreeSet<u32>,
}

// === impl Replicas ===

impl Replicas {
    /// Whether `barred`, and only they, are kept out.
    #[must_use]
    pub fn are_barred(&self, barred: &[u32]) -> bool {
        !barred.iter().any(|ordinal| self.admitted.contains(ordinal) || self.dumping.contains(ordinal))
            && self.locked.iter().all(|ordinal| barred.contains(ordinal))
    }
}

/// Asks for the replicas.
///
/// # Errors
/// mysqld does not answer.
pub async fn replicas(sql: &mut Sql) -> Result<Replicas, SqlError> {
    let question = format!(
        "SELECT User AS user, IF(account_locked='Y', 'locked', 'admitted') AS what FROM mysql.user WHERE Host='%' AND User LIKE {ours} \
         UNION ALL SELECT PROCESSLIST_USER, 'dumping' FROM performance_schema.threads \
         WHERE PROCESSLIST_COMMAND LIKE 'Binlog Dump%' AND PROCESSLIST_USER LIKE {ours}",
        ours = replication_accounts()
    );
    let mut replicas = Replicas::default();
    for row in sql.rows(&question).await? {
        let Some(ordinal) = text(&row, "user").and_then(|user| ordinal_of(&user)) else { continue };
        match text(&row, "what").as_deref() {
            Some("locked") => replicas.locked.insert(ordinal),
            Some("admitted") => replicas.admitted.insert(ordinal),
            _ => replicas.dumping.insert(ordinal),
        };
    }
    Ok(replicas)
}

/// Keeps `barred`, and only them, from following this server: locks their accounts, then cuts off what they hold open.
///
/// # Errors
/// mysqld does not answer, or they do not go.
pub async fn bar(sql: &mut Sql, barred: &[u32]) -> Result<(), SqlError> {
    let now = replicas(sql).await?;
    sql.run("SET SESSION sql_log_bin=0", QUERY_DEADLINE).await?;
    let lock = now.admitted.iter().filter(|ordinal| barred.contains(ordinal)).map(|ordinal| (ordinal, "LOCK"));
    let locks = lock.clone().next().is_some();
    let unlock = now.locked.iter().filter(|ordinal| !barred.contains(ordinal)).map(|ordinal| (ordinal, "UNLOCK"));
    for (ordinal, verb) in lock.chain(unlock) {
        let user = literal(&replication_user(*ordinal));
        sql.run(&format!("ALTER USER {user}@'%' ACCOUNT {verb}"), QUERY_DEADLINE).await?;
        info!(ordinal, verb, "replication account");
    }
    if barred.is_empty() {
        return Ok(());
    }
    let users: Vec<String> = barred.iter().map(|ordinal| literal(&replication_user(*ordinal))).collect();
    // Who is only just logging in has perhaps passed the lock already.
    let theirs = format!(
        "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE NAME='thread/sql/one_connection' \
         AND (PROCESSLIST_USER IN ({}) OR PROCESSLIST_USER IS NULL)",
        users.join(", ")
    );
    kill(sql, &theirs, &mut HashSet::new()).await?;
    let began = Instant::now();
    while replicas(sql).await?.dumping.iter().any(|ordinal| barred.contains(ordinal)) {
        if began.elapsed() > BAR_DEADLINE {
            return Err(SqlError::Deadline(BAR_DEADLINE));
        }
        sleep(BAR_ROUND).await;
    }
    if locks && several_acks(sql).await? {
        // mysqld still counts what the barred acknowledged of them, and a later acknowledgement of another member, or a lower count, would
        // end them. They may end; but nobody is told that they are done.
        let committing = format!(
            "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE {} AND PROCESSLIST_COMMAND<>'Sleep' \
             AND (PROCESSLIST_STATE LIKE 'Waiting for semi-sync ACK%' OR PROCESSLIST_STATE='waiting for handler commit')",
            clients()
        );
        let cut_off = kill(sql, &committing, &mut HashSet::new()).await?;
        info!(cut_off, "clients whose commits the barred may have acknowledged");
    }
    Ok(())
}

/// Whether a commit waits for more than one acknowledgement, and so may have some and not all.
async fn several_acks(sql: &mut Sql) -> Result<bool, SqlError> {
    let rows = sql.rows("SELECT @@GLOBAL.rpl_semi_sync_source_wait_for_replica_count AS acks").await?;
    Ok(rows.first().and_then(|row| number(row, "acks")).is_some_and(|acks| acks > 1))
}

/// Kills the connections of clients, so that they connect again and find the new primary. Says how many there were that are not in
/// `gone`, and adds them: one that waits for an acknowledgement is cut off at once but stays in the list.
///
/// # Errors
/// mysqld does not answer.
pub async fn send_away(sql: &mut Sql, gone: &mut HashSet<u64>) -> Result<usize, SqlError> {
    kill(sql, &format!("SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE {}", clients()), gone).await
}

/// Age in whole seconds of the oldest transaction or statement of a client, when there is one of a second or more.
///
/// # Errors
/// mysqld does not answer.
pub async fn busy_seconds(sql: &mut Sql) -> Result<Option<u32>, SqlError> {
    let question = format!(
        "SELECT MAX(GREATEST(IF(PROCESSLIST_COMMAND='Sleep', 0, PROCESSLIST_TIME), \
         COALESCE(TIMESTAMPDIFF(SECOND, trx_started, NOW()), 0))) AS age FROM performance_schema.threads \
         LEFT JOIN information_schema.INNODB_TRX ON trx_mysql_thread_id=PROCESSLIST_ID WHERE {}",
        clients()
    );
    let age = sql.rows(&question).await?.first().and_then(|row| number(row, "age"));
    Ok(age.and_then(|age| u32::try_from(age).ok()).filter(|age| *age > 0))
}

async fn kill(sql: &mut Sql, question: &str, gone: &mut HashSet<u64>) -> Result<usize, SqlError> {
    let rows = sql.rows(question).await?;
    let ids: Vec<u64> = rows.iter().filter_map(|row| number(row, "id")).filter(|id| !gone.contains(id)).collect();
    for id in &ids {
        match sql.run(&format!("KILL {id}"), QUERY_DEADLINE).await {
            Err(error) if !error.is(NO_SUCH_THREAD) => return Err(error),
            _ => gone.insert(*id),
        };
    }
    Ok(ids.len())
}

/// The condition that a thread serves a client: nobody of us, of the replicas, or of mysqld itself.
fn clients() -> String {
    format!(
        "TYPE='FOREGROUND' AND PROCESSLIST_ID IS NOT NULL AND PROCESSLIST_USER IS NOT NULL \
         AND PROCESSLIST_COMMAND NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID') \
         AND PROCESSLIST_USER NOT IN ('{LOCAL_USER}', '{CLONE_USER}', 'event_scheduler', 'system user') \
         AND PROCESSLIST_USER NOT LIKE {}",
        replication_accounts()
    )
}

/// A pattern, quoted.
fn replication_accounts() -> String {
    format!("'{}%'", REPLICATION_PREFIX.replace('_', "\\_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_hold_when_the_barred_and_only_they_are_locked_and_gone() {
        let set = |ordinals: &[u32]| ordinals.iter().copied().collect();
        let replicas = |admitted: &[u32], locked: &[u32], dumping: &[u32]| Replicas {
            admitted: set(admitted),
            locked: set(locked),
            dumping: set(dumping),
        };
        assert!(replicas(&[0, 1], &[2], &[1]).are_barred(&[2]));
        assert!(replicas(&[0, 1], &[], &[1]).are_barred(&[2]), "without an account nobody gets in");
        assert!(!replicas(&[0, 1], &[2], &[1, 2]).are_barred(&[2]), "it still receives");
        assert!(!replicas(&[0, 1, 2], &[], &[]).are_barred(&[2]), "it may come back");
        assert!(!replicas(&[0], &[1, 2], &[]).are_barred(&[2]), "who is not barred is let in");
    }
}
