//! Ends writing for good: no commit that comes later is acknowledged, none that is acknowledged is lost.
//!
//! `SET GLOBAL super_read_only=ON` waits for commits in flight, and blocks new ones while it waits. A commit may wait for a semi-sync
//! acknowledgement that never comes; turning semi-sync off frees it, but would tell its client "done" for something that no
//! replica holds. So clients are cut off first: a killed connection cannot be told anything.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::info;

use super::cnf::{CLONE_USER, LOCAL_USER, REPLICATION_PREFIX};
use super::execute::Access;
use super::sql::{QUERY_DEADLINE, Sql, SqlError, number};

/// Commits in flight get this long to end by themselves.
const GRACE: Duration = Duration::from_secs(5);
/// Past this it is tried again from the start.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two rounds of cutting off clients.
const ROUND: Duration = Duration::from_millis(100);
/// `ER_NO_SUCH_THREAD`: it went by itself.
const NO_SUCH_THREAD: u16 = 1094;

/// Makes mysqld read-only for everybody and sends the clients away.
///
/// # Errors
/// mysqld does not answer, or commits in flight do not end.
pub async fn seal(access: &Access) -> Result<(), SqlError> {
    let mut sealing = access.connect().await?;
    let mut killer = access.connect().await?;
    sealing.run("SET SESSION lock_wait_timeout=3600", QUERY_DEADLINE).await?;
    let began = Instant::now();
    let id = sealing.id();
    let mut gone = HashSet::new();
    let outcome = {
        let setting = sealing.run("SET GLOBAL super_read_only=ON", DEADLINE);
        tokio::pin!(setting);
        let mut released = false;
        loop {
            tokio::select! {
                done = &mut setting => break done,
                () = sleep(ROUND) => {}
            }
            if began.elapsed() < GRACE {
                continue;
            }
            // Who comes while `setting` waits for its lock can commit nothing. So when it waits, and then all who are there are cut off,
            // nobody is left who could be told of a commit: let go of the rest. New clients keep coming; they are not waited for.
            let blocked = !released && waits_for_a_lock(&mut killer, id).await?;
            send_away(&mut killer, &mut gone).await?;
            if blocked {
                info!("commits in flight wait for acknowledgements: letting them go, their clients are gone");
                killer.run("SET GLOBAL rpl_semi_sync_source_enabled=OFF", QUERY_DEADLINE).await?;
                released = true;
            }
        }
    };
    if let Err(error) = outcome {
        let _ = killer.run(&format!("KILL {id}"), QUERY_DEADLINE).await;
        return Err(error);
    }
    send_away(&mut killer, &mut gone).await?;
    info!(milliseconds = began.elapsed().as_millis(), "sealed");
    Ok(())
}

/// Kills the connections of clients that are not in `gone`, so that they connect again and find the new primary, and adds them: one that
/// waits for an acknowledgement is cut off at once but stays in the list.
async fn send_away(sql: &mut Sql, gone: &mut HashSet<u64>) -> Result<(), SqlError> {
    let question = format!(
        "SELECT PROCESSLIST_ID AS id FROM performance_schema.threads WHERE TYPE='FOREGROUND' AND PROCESSLIST_ID IS NOT NULL \
         AND PROCESSLIST_USER IS NOT NULL AND PROCESSLIST_COMMAND NOT IN ('Daemon', 'Binlog Dump', 'Binlog Dump GTID') \
         AND PROCESSLIST_USER NOT IN ('{LOCAL_USER}', '{CLONE_USER}', 'event_scheduler', 'system user') \
         AND PROCESSLIST_USER NOT LIKE '{}%'",
        REPLICATION_PREFIX.replace('_', "\\_")
    );
    let rows = sql.rows(&question).await?;
    let clients: Vec<u64> = rows.iter().filter_map(|row| number(row, "id")).filter(|id| !gone.contains(id)).collect();
    for id in &clients {
        match sql.run(&format!("KILL {id}"), QUERY_DEADLINE).await {
            Err(error) if !error.is(NO_SUCH_THREAD) => return Err(error),
            _ => gone.insert(*id),
        };
    }
    Ok(())
}

/// Whether the connection waits for a lock, and so keeps later ones out.
async fn waits_for_a_lock(sql: &mut Sql, id: u32) -> Result<bool, SqlError> {
    let question = format!(
        "SELECT COUNT(*) AS waits FROM performance_schema.threads WHERE PROCESSLIST_ID={id} AND PROCESSLIST_STATE LIKE 'Waiting for % lock'"
    );
    Ok(sql.rows(&question).await?.first().and_then(|row| number(row, "waits")).is_some_and(|waits| waits > 0))
}
