//! Fills an empty volume: initialises, or clones from another member.
//!
//! Everything happens in `.joining/`; `data/` appears by one rename when it is complete and on disk. So whatever dies when, the next
//! start either finds a whole data directory or starts over. The scratch directory is initialised before any order comes: the same
//! one then becomes the data directory, or is the recipient of the clone, and nobody has to wait for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Assignment, Data, PORT, Peer, ProblemCode};
use tokio::sync::watch;
use tokio::time::{Instant, interval, sleep};
use tracing::{info, warn};

use super::Config;
use super::cnf::{CLONE_USER, literal};
use super::files::{self, FileError};
use super::report::{Reporter, problem, retries};
use super::scratch::{self, Scratch, ScratchError};
use super::sql::{QUERY_DEADLINE, Sql, SqlError, number, text};

/// How often the progress of a clone is read.
const PROGRESS_PERIOD: Duration = Duration::from_millis(500);
/// A clone that copies nothing for this long is given up: longer than a donor waits for a backup lock.
const STALL: Duration = Duration::from_secs(60);
/// The clone itself has no limit: the stall has.
const CLONE_DEADLINE: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longest rest between two rounds of donors: an initialised scratch directory is dear.
const LAST_RETRY: Duration = Duration::from_secs(10);
/// `ER_RESTART_SERVER_FAILED`: the clone is complete, and mysqld wants to be restarted by somebody else.
const RESTART_IS_OURS: u16 = 3707;

/// Why a clone did not come about.
#[derive(Debug, thiserror::Error)]
enum CloneError {
    #[error("donor {0} does not answer: {1}")]
    Donor(String, SqlError),
    #[error("cloning from {0}: {1}")]
    Clone(String, SqlError),
    #[error("cloning from {0} stalled")]
    Stalled(String),
    #[error("cloning from {donor} ended as {state:?}: {message}")]
    Incomplete { donor: String, state: String, message: String },
    #[error(transparent)]
    Scratch(#[from] ScratchError),
    #[error("{0}")]
    Files(#[from] FileError),
    #[error("after the clone: {0}")]
    After(SqlError),
}

/// What an order means to an empty member.
enum Wish {
    Wait,
    Initialise,
    Clone(Vec<Peer>),
}

fn wish(order: Option<&Order<Assignment>>) -> Wish {
    match order.map(|order| &order.assignment) {
        Some(Assignment::Initialise) => Wish::Initialise,
        Some(Assignment::Replica { donors, .. }) if !donors.is_empty() => Wish::Clone(donors.clone()),
        _ => Wish::Wait,
    }
}

/// The scratch directory and, while it runs, the server on it.
struct Joiner<'a> {
    config: &'a Config,
    user: &'a str,
    local_password: &'a str,
    reporter: &'a Reporter,
    prepared: Option<PathBuf>,
    server: Option<Scratch>,
}

/// Returns when the data directory is there.
///
/// # Errors
/// The volume cannot be written at the last step.
pub async fn fill(
    config: &Config,
    user: &str,
    local_password: &str,
    orders: &mut watch::Receiver<Option<Order<Assignment>>>,
    reporter: &Reporter,
) -> Result<(), FileError> {
    let mut joiner = Joiner { config, user, local_password, reporter, prepared: None, server: None };
    let mut pauses = retries(LAST_RETRY);
    loop {
        reporter.accept(orders.borrow_and_update().as_ref());
        let Some(data) = joiner.prepared.clone() else {
            if let Err(error) = joiner.prepare(orders).await {
                warn!(%error, "the scratch directory cannot be initialised");
                let storage = matches!(error, ScratchError::File(_));
                reporter.problem(problem(if storage { ProblemCode::Storage } else { ProblemCode::InitialiseFailed }, error));
                sleep(pauses.next().unwrap_or(STALL)).await;
            }
            continue;
        };
        let wished = wish(orders.borrow().as_ref());
        match wished {
            Wish::Initialise => {
                joiner.stop().await;
                enthrone(config, &data, None).await?;
                info!("initialised");
                break;
            }
            Wish::Clone(donors) => {
                if joiner.clone_from_first(&data, &donors, orders).await {
                    break;
                }
                tokio::select! {
                    () = sleep(pauses.next().unwrap_or(STALL)) => {}
                    _ = orders.changed() => {}
                }
            }
            Wish::Wait => {
                reporter.change(|state| state.data = Data::Empty);
                pauses = retries(LAST_RETRY);
                if orders.borrow().is_some()
                    && let Err(error) = joiner.start(&data).await
                {
                    warn!(%error, "the scratch server does not start");
                    joiner.discard().await;
                    sleep(pauses.next().unwrap_or(STALL)).await;
                    continue;
                }
                if orders.changed().await.is_err() {
                    // Nobody gives orders any more: the shell is ending.
                    std::future::pending::<()>().await;
                }
            }
        }
    }
    let donor = files::cloned_from(config);
    reporter.change(|state| {
        state.data = Data::Present;
        state.cloned_from = donor;
        state.problem = None;
    });
    Ok(())
}

/// Off the one thread that also answers probes: it waits for the disk.
async fn enthrone(config: &Config, data: &Path, donor: Option<&str>) -> Result<(), FileError> {
    let (config, data, donor) = (config.clone(), data.to_owned(), donor.map(str::to_owned));
    let done = tokio::task::spawn_blocking(move || files::enthrone(&config, &data, donor.as_deref())).await;
    done.expect("it does not panic, and is not cancelled")
}

// === impl Joiner ===

impl Joiner<'_> {
    /// Initialises the scratch directory. Orders that come meanwhile are acknowledged, and acted on after.
    async fn prepare(&mut self, orders: &mut watch::Receiver<Option<Order<Assignment>>>) -> Result<(), ScratchError> {
        let initialising = scratch::initialise(self.config, self.user, self.local_password);
        tokio::pin!(initialising);
        let data = loop {
            let ordered = matches!(wish(orders.borrow_and_update().as_ref()), Wish::Initialise);
            self.reporter.change(|state| state.data = if ordered { Data::Initialising } else { Data::Empty });
            tokio::select! {
                done = &mut initialising => break done?,
                Ok(()) = orders.changed() => self.reporter.accept(orders.borrow().as_ref()),
            }
        };
        info!("the scratch directory is initialised");
        self.prepared = Some(data);
        Ok(())
    }

    /// Starts the recipient, unless it runs: whoever is told not to initialise will clone, so it is up when a donor is.
    async fn start(&mut self, data: &Path) -> Result<(), ScratchError> {
        if self.server.as_mut().is_some_and(|server| server.ended().is_some()) {
            self.server = None;
        }
        if self.server.is_none() {
            self.server = Some(Scratch::start(self.config, self.user, data, self.local_password).await?.0);
        }
        Ok(())
    }

    async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.kill().await;
        }
    }

    /// Tries the donors in order. Ends early when an order no longer names the one at work.
    async fn clone_from_first(&mut self, data: &Path, donors: &[Peer], orders: &mut watch::Receiver<Option<Order<Assignment>>>) -> bool {
        let mut failures = Vec::new();
        for donor in donors {
            let (reporter, member) = (self.reporter, donor.member.clone());
            reporter.change(|state| state.data = Data::Cloning { donor: member, copied: 0, total: 0 });
            let done = {
                let cloning = self.clone_from(data, donor);
                tokio::pin!(cloning);
                loop {
                    tokio::select! {
                        done = &mut cloning => break Some(done),
                        Ok(()) = orders.changed() => {
                            reporter.accept(orders.borrow().as_ref());
                            let still = matches!(wish(orders.borrow().as_ref()), Wish::Clone(donors) if donors.contains(donor));
                            if !still {
                                break None;
                            }
                        }
                    }
                }
            };
            match done {
                Some(Ok(())) => {
                    info!(donor = donor.member, "cloned");
                    return true;
                }
                Some(Err(error)) => {
                    warn!(donor = donor.member, %error, "clone failed");
                    failures.push(error.to_string());
                    self.recover().await;
                }
                None => {
                    info!(donor = donor.member, "clone called off by a new order");
                    self.discard().await;
                    return false;
                }
            }
            if self.prepared.is_none() {
                break;
            }
        }
        self.reporter.change(|state| {
            state.data = Data::Empty;
            state.problem = Some(problem(ProblemCode::CloneFailed, failures.join("; ")));
        });
        false
    }

    async fn clone_from(&mut self, data: &Path, donor: &Peer) -> Result<(), CloneError> {
        let member = &donor.member;
        let password = files::read(&self.config.system_dir.join("clone"))?;
        // Ask first: a donor that does not answer must not cost us the scratch directory.
        Sql::remote(self.config, &donor.host, CLONE_USER, &password).await.map_err(|error| CloneError::Donor(member.clone(), error))?;
        self.start(data).await?;
        let Some(server) = &self.server else { return Ok(()) };
        let at = |error| CloneError::Clone(member.clone(), error);
        let mut sql = server.connect(self.local_password).await.map_err(at)?;
        let mut watcher = server.connect(self.local_password).await.map_err(at)?;
        info!(donor = member, "cloning");
        let address = literal(&format!("{}:{PORT}", donor.host));
        sql.run(&format!("SET GLOBAL clone_valid_donor_list={address}"), QUERY_DEADLINE).await.map_err(at)?;
        let statement = format!(
            "CLONE INSTANCE FROM {}@{}:{PORT} IDENTIFIED BY {} REQUIRE SSL",
            literal(CLONE_USER),
            literal(&donor.host),
            literal(&password)
        );
        let secrets = [password.as_str()];
        let cloning = sql.run_secret(&statement, &secrets, CLONE_DEADLINE);
        let done = self.reporting(cloning, &mut watcher, member).await?;
        match done {
            // `Gone`: it was faster in ending than in answering. What the clone's own record says decides, below.
            Ok(()) | Err(SqlError::Gone(_)) => {}
            Err(error) if error.is(RESTART_IS_OURS) => {}
            Err(error) => return Err(CloneError::Clone(member.clone(), error)),
        }
        info!(donor = member, "everything is copied");
        drop((sql, watcher));
        self.stop().await;
        self.finish(data, member).await
    }

    /// Publishes the progress of the clone until it ends.
    async fn reporting<T>(
        &self,
        cloning: impl Future<Output = Result<T, SqlError>>,
        watcher: &mut Sql,
        member: &str,
    ) -> Result<Result<T, SqlError>, CloneError> {
        tokio::pin!(cloning);
        let mut ticks = interval(PROGRESS_PERIOD);
        let (mut last, mut moved) = (None, Instant::now());
        loop {
            tokio::select! {
                done = &mut cloning => return Ok(done),
                _ = ticks.tick() => {
                    let question = "SELECT CAST(SUM(DATA) AS UNSIGNED) AS copied, CAST(SUM(ESTIMATE) AS UNSIGNED) AS total \
                                    FROM performance_schema.clone_progress";
                    if let Some(row) = watcher.rows(question).await.unwrap_or_default().first() {
                        let seen = (number(row, "copied").unwrap_or(0), number(row, "total").unwrap_or(0));
                        if last != Some(seen) {
                            (last, moved) = (Some(seen), Instant::now());
                        }
                        let donor = member.to_owned();
                        self.reporter.change(|state| state.data = Data::Cloning { donor, copied: seen.0, total: seen.1 });
                    }
                    if moved.elapsed() > STALL {
                        return Err(CloneError::Stalled(member.into()));
                    }
                }
            }
        }
    }

    /// Starts once more where it was cloned: mysqld puts the files in place by paths that it noted, so it must do that before the
    /// rename; and its own record must say that the clone is complete.
    async fn finish(&mut self, data: &Path, donor: &str) -> Result<(), CloneError> {
        let (server, mut sql) = Scratch::start(self.config, self.user, data, self.local_password).await?;
        self.server = Some(server);
        let rows = sql.rows("SELECT STATE AS state, ERROR_MESSAGE AS message FROM performance_schema.clone_status").await;
        let rows = rows.map_err(CloneError::After)?;
        let column = |name| rows.first().and_then(|row| text(row, name)).unwrap_or_default();
        if column("state") != "Completed" {
            return Err(CloneError::Incomplete { donor: donor.into(), state: column("state"), message: column("message") });
        }
        // A donor that is a replica gives its channel away too, with relay logs that are not here.
        sql.run("RESET REPLICA ALL", QUERY_DEADLINE).await.map_err(CloneError::After)?;
        info!("the clone is complete and in place");
        drop(sql);
        self.stop().await;
        Ok(enthrone(self.config, data, Some(donor)).await?)
    }

    /// After a failed clone: the scratch server is kept when its data was not touched, else all is made anew.
    async fn recover(&mut self) {
        if let Some(server) = &mut self.server
            && server.ended().is_none()
            && let Ok(mut sql) = server.connect(self.local_password).await
        {
            let touched = "SELECT 1 FROM performance_schema.clone_progress WHERE STAGE='DROP DATA' AND STATE<>'Not Started'";
            if sql.rows(touched).await.is_ok_and(|rows| rows.is_empty()) {
                return;
            }
        } else if self.server.is_none() && self.prepared.as_ref().is_some_and(|data| data.join("#clone").symlink_metadata().is_err()) {
            return;
        }
        self.discard().await;
    }

    async fn discard(&mut self) {
        self.stop().await;
        self.prepared = None;
    }
}
