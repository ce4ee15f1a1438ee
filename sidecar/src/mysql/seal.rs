//! Ends writing for good: no commit that comes later is acknowledged, none that is acknowledged is lost.
//!
//! `SET GLOBAL super_read_only=ON` waits for commits in flight, and blocks new ones while it waits. A commit may wait for a semi-sync
//! acknowledgement that never comes; turning semi-sync off frees it, but would tell its client "done" for something that no
//! replica holds. So clients are cut off first: a killed connection cannot be told anything.

use std::collections::HashSet;
use std::time::Duration;

use sidecar_protocol::mysql::Assignment;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::execute::{Access, Orders, StepError};
use super::sessions::send_away;
use super::sql::{QUERY_DEADLINE, Sql, SqlError, number};

/// Statements and commits in flight get this long to end by themselves, then their clients are cut off.
const GRACE: Duration = Duration::from_millis(100);
/// Commits that still wait for acknowledgements get this long: what is let go before may be held by this member alone, and then it
/// has to be cloned anew.
const LAST_ACKNOWLEDGEMENTS: Duration = Duration::from_secs(1);
/// Past this it is tried again from the start.
const DEADLINE: Duration = Duration::from_secs(60);
/// Between two rounds of cutting off clients.
const ROUND: Duration = Duration::from_millis(10);
/// The same, while all that is left is a long rollback.
const LAST_ROUND: Duration = Duration::from_millis(100);
/// `ER_CON_COUNT_ERROR`.
const TOO_MANY_CONNECTIONS: u16 = 1040;

/// Makes mysqld read-only for everybody and sends the clients away.
///
/// # Errors
/// mysqld does not answer, commits in flight do not end, or this member is to be primary again.
pub async fn seal(access: &Access, assignment: &Assignment, orders: &Orders) -> Result<(), StepError> {
    let mut gone = HashSet::new();
    let mut killer = access.connect().await?;
    let mut sealing = match access.connect().await {
        // One place is ours when clients take all; two of them we need to take back.
        Err(error) if error.is(TOO_MANY_CONNECTIONS) => {
            send_away(&mut killer, &mut gone).await?;
            sleep(ROUND).await;
            access.connect().await?
        }
        connected => connected?,
    };
    sealing.run("SET SESSION lock_wait_timeout=3600", QUERY_DEADLINE).await?;
    let began = Instant::now();
    let id = sealing.id();
    let mut orders = orders.clone();
    let outcome = {
        let setting = sealing.run("SET GLOBAL super_read_only=ON", DEADLINE);
        let undone = orders.wait_for(|order| {
            order.as_ref().is_some_and(|order| order.assignment != *assignment && matches!(order.assignment, Assignment::Primary { .. }))
        });
        tokio::pin!(setting, undone);
        let mut released = false;
        loop {
            tokio::select! {
                done = &mut setting => break done.map_err(StepError::from),
                Ok(_) = &mut undone => break Err(StepError::Overtaken),
                () = sleep(if released { LAST_ROUND } else { ROUND }) => {}
            }
            if began.elapsed() < GRACE {
                continue;
            }
            // Who comes while `setting` waits for its lock can commit nothing. So when it waits, and then all who are there are cut off,
            // nobody is left who could be told of a commit: let go of the rest. New clients keep coming; they are not waited for.
            let blocked = !released && began.elapsed() > LAST_ACKNOWLEDGEMENTS && waits_for_a_lock(&mut killer, id).await?;
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

/// Whether the connection waits for a lock, and so keeps later ones out.
async fn waits_for_a_lock(sql: &mut Sql, id: u32) -> Result<bool, SqlError> {
    let question = format!(
        "SELECT COUNT(*) AS waits FROM performance_schema.threads WHERE PROCESSLIST_ID={id} AND PROCESSLIST_STATE LIKE 'Waiting for % lock'"
    );
    Ok(sql.rows(&question).await?.first().and_then(|row| number(row, "waits")).is_some_and(|waits| waits > 0))
}
