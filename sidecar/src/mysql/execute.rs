//! Runs one step against mysqld. What to do was decided in [`super::converge`]; here is only how.

use std::sync::Arc;
use std::time::Duration;

use ring::rand::{SecureRandom, SystemRandom};
use sidecar_protocol::Order;
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Assignment, PORT, Peer, Problem, ProblemCode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::info;

use super::accounts::{self, AccountsError, Existing};
use super::archive::ArchiveError;
use super::cnf::{REPLICA_NET_TIMEOUT_SECONDS, literal, replication_user};
use super::condemned;
use super::converge::Step;
use super::observe::{NEVER, Receiver, look};
use super::report::problem;
use super::seal::seal;
use super::sessions::bar;
use super::sql::{ACCESS_DENIED, Sql, SqlError, number, text};
use super::{Config, files};

/// A step that takes longer is given up and planned again.
const DEADLINE: Duration = Duration::from_secs(10);
/// After a failed try to connect the receiver rests for this long at least: a little less than `SOURCE_CONNECT_RETRY`.
const RESTS: Duration = Duration::from_millis(900);
/// How often to look whether it rests.
const GREETING_POLL: Duration = Duration::from_millis(50);
/// Give up connecting after this many tries: never, at one a second.
const RETRY_COUNT: u32 = u32::MAX;

/// Where the newest order can be seen.
pub type Orders = watch::Receiver<Option<Order<Assignment>>>;

/// The way to mysqld.
#[derive(Clone)]
pub struct Access {
    /// Paths and names.
    pub config: Arc<Config>,
    /// Password of our own account.
    pub local_password: Arc<str>,
}

/// Why a step did not work.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// Our mysqld.
    #[error("{0}")]
    Sql(#[from] SqlError),
    /// The source does not let us in.
    #[error("{member} refuses {user}: {source}")]
    Denied {
        /// The source.
        member: String,
        /// Our account there.
        user: String,
        /// Its answer.
        #[source]
        source: SqlError,
    },
    /// The source does not answer: unknown, not empty.
    #[error("the source {0} does not answer: {1}")]
    SourceSilent(String, SqlError),
    /// This member holds what its source, a primary, does not (I6).
    #[error("this member holds {extra}, which the primary {source_member} does not; it must be cloned again")]
    Errant {
        /// The primary.
        source_member: String,
        /// The difference.
        extra: GtidSet,
    },
    /// The source holds less than we do, but is no primary yet.
    #[error("{0} does not hold our history yet")]
    NotYet(String),
    /// The source no longer has the logs that we need.
    #[error("{source_member} has purged {missing}, which this member needs; it must be cloned again")]
    Purged {
        /// The source.
        source_member: String,
        /// The difference.
        missing: GtidSet,
    },
    /// What only this member holds is not archived.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Secrets.
    #[error(transparent)]
    Accounts(#[from] AccountsError),
    /// Another order came: it is not to be waited for.
    #[error("another order came")]
    Overtaken,
    /// The kernel gives no random numbers.
    #[error("the kernel gives no random numbers")]
    NoRandomness,
    /// A password.
    #[error(transparent)]
    File(#[from] files::FileError),
}

/// What a source says of itself.
pub(super) struct Theirs {
    /// `gtid_executed`.
    pub executed: GtidSet,
    /// `gtid_purged`.
    pub purged: GtidSet,
    /// It is no open primary.
    pub read_only: bool,
    /// Which server it is.
    pub server_uuid: String,
}

// === impl StepError ===

impl StepError {
    /// What to tell people; `None` for what passes by itself.
    #[must_use]
    pub fn problem(&self) -> Option<Problem> {
        let code = match self {
            Self::NotYet(_) | Self::Overtaken => return None,
            Self::Sql(SqlError::Gone(_) | SqlError::Unclear(_)) => return None,
            Self::Sql(_) | Self::NoRandomness => ProblemCode::Other,
            Self::SourceSilent(..) => ProblemCode::ReplicationFailed,
            Self::Archive(ArchiveError::NotYet(_)) => return None,
            Self::Archive(ArchiveError::File(_)) => ProblemCode::Storage,
            Self::Errant { .. } | Self::Archive(_) => ProblemCode::Errant,
            Self::Purged { .. } => ProblemCode::LogsPurged,
            Self::Denied { .. } | Self::Accounts(_) | Self::File(_) => ProblemCode::Credentials,
        };
        Some(problem(code, self))
    }
}

// === impl Access ===

impl Access {
    /// A connection as ourselves.
    ///
    /// # Errors
    /// mysqld does not answer.
    pub async fn connect(&self) -> Result<Sql, SqlError> {
        Sql::local(&self.config.socket(), &self.local_password).await
    }

    /// Runs `step` towards `assignment`. What waits for others is given up when `orders` name another one.
    ///
    /// # Errors
    /// What did not work. Nothing is half done in a way that planning again would not mend.
    pub async fn execute(&self, step: &Step, assignment: &Assignment, orders: &Orders) -> Result<(), StepError> {
        if *step == Step::Seal {
            return seal(self, assignment, orders).await;
        }
        let mut sql = self.connect().await?;
        let done = self.with(&mut sql, step, assignment, orders).await;
        if let Err(StepError::Sql(SqlError::Deadline(_)) | StepError::Overtaken) = &done
            && let Ok(mut killer) = self.connect().await
        {
            // The statement must not take effect at some later time, when another order holds.
            let _ = killer.run(&format!("KILL {}", sql.id()), DEADLINE).await;
        }
        done
    }

    async fn with(&self, sql: &mut Sql, step: &Step, assignment: &Assignment, orders: &Orders) -> Result<(), StepError> {
        let statements: Vec<String> = match step {
            Step::Seal | Step::AwaitApplied => vec![],
            Step::StopReceiver => return Ok(stop_receiver(sql).await?),
            Step::StartApplier => vec!["START REPLICA SQL_THREAD".into()],
            Step::ForgetSource => vec!["STOP REPLICA".into(), "RESET REPLICA ALL".into()],
            Step::SemiSync { acks: 0 } => vec!["SET GLOBAL rpl_semi_sync_source_enabled=OFF".into()],
            Step::SemiSync { acks } => vec![format!(
                "SET GLOBAL rpl_semi_sync_source_timeout={NEVER}, GLOBAL rpl_semi_sync_source_wait_no_replica=ON, \
                 GLOBAL rpl_semi_sync_source_wait_for_replica_count={acks}, GLOBAL rpl_semi_sync_source_enabled=ON, \
                 GLOBAL rpl_semi_sync_replica_enabled=OFF"
            )],
            Step::Unseal => vec!["SET GLOBAL super_read_only=OFF".into()],
            Step::Open => vec!["SET GLOBAL super_read_only=OFF, GLOBAL read_only=OFF".into()],
            Step::Acknowledge(on) => return self.acknowledge(sql, *on).await,
            Step::Bar(barred) => return Ok(bar(sql, barred).await?),
            // Its commits may wait for acknowledgements that never come.
            Step::Accounts => return unless_overtaken(self.accounts(sql, assignment), assignment, orders).await,
            Step::Condemn { source, uuid } => return unless_overtaken(self.condemn(sql, source, uuid), assignment, orders).await,
            Step::Pardon => return Ok(condemned::pardon(&self.config).map_err(ArchiveError::File)?),
            Step::Follow(source) => return self.follow(sql, source, assignment, orders).await,
        };
        for statement in statements {
            sql.run(&statement, DEADLINE).await?;
        }
        Ok(())
    }

    async fn acknowledge(&self, sql: &mut Sql, on: bool) -> Result<(), StepError> {
        sql.run(&format!("SET GLOBAL rpl_semi_sync_replica_enabled={}", u8::from(on)), DEADLINE).await?;
        let receiving = look(sql).await?.channel.is_some_and(|channel| channel.receiver != Receiver::Off);
        if receiving {
            // A receiver offers its acknowledgements only when it connects.
            stop_receiver(sql).await?;
            sql.run("START REPLICA IO_THREAD", DEADLINE).await?;
        }
        Ok(())
    }

    async fn accounts(&self, sql: &mut Sql, assignment: &Assignment) -> Result<(), StepError> {
        let Assignment::Primary { members, barred, .. } = assignment else { return Ok(()) };
        let wanted = accounts::wanted(&self.config, members, barred)?;
        let existing: Vec<(String, Existing)> = sql
            .rows(accounts::EXISTING)
            .await?
            .iter()
            .filter_map(|row| Some((text(row, "user")?, Existing { fingerprint: text(row, "fingerprint") })))
            .collect();
        for account in wanted {
            let found = existing.iter().find(|(user, _)| *user == account.user).map(|(_, existing)| existing);
            let mut salt = [0; accounts::SALT_BYTES];
            SystemRandom::new().fill(&mut salt).map_err(|_| StepError::NoRandomness)?;
            let statements = account.statements(found, &salt);
            for statement in &statements {
                sql.run_secret(statement, &[&account.password, &literal(&account.password)], DEADLINE).await?;
            }
            if !statements.is_empty() {
                info!(user = account.user, "account brought up to date");
            }
        }
        Ok(())
    }

    /// Follows `source` if that loses nothing here: it must hold all that we hold, and still have all that we lack. A source that
    /// does not answer is unknown; the channel could not connect to it either, so nothing is lost by waiting.
    async fn follow(&self, sql: &mut Sql, source: &Peer, assignment: &Assignment, orders: &Orders) -> Result<(), StepError> {
        let (user, password) = (replication_user(self.config.ordinal), files::read(&self.config.system_dir.join("replication"))?);
        let ours = look(sql).await?;
        let held = ours.position.held();
        let check = self.check(source, &held, &ours.position.executed);
        unless_overtaken(check, assignment, orders).await?;
        let mut options = vec![
            format!("SOURCE_HOST={}", literal(&source.host)),
            format!("SOURCE_PORT={PORT}"),
            format!("SOURCE_USER={}", literal(&user)),
            format!("SOURCE_PASSWORD={}", literal(&password)),
            format!("SOURCE_CONNECT_RETRY=1, SOURCE_RETRY_COUNT={RETRY_COUNT}, SOURCE_HEARTBEAT_PERIOD=1, SOURCE_SSL=1"),
        ];
        match &self.config.tls_dir {
            Some(tls) => {
                let file = |name: &str| literal(&tls.join(name).to_string_lossy());
                options.push(format!(
                    "SOURCE_SSL_CA={}, SOURCE_SSL_CERT={}, SOURCE_SSL_KEY={}, SOURCE_SSL_VERIFY_SERVER_CERT=1",
                    file("ca.crt"),
                    file("tls.crt"),
                    file("tls.key")
                ));
            }
            None => options.push("SOURCE_SSL_VERIFY_SERVER_CERT=0".into()),
        }
        if ours.channel.is_some() {
            // With its applier running a channel keeps its relay logs, and refuses to be told again how it finds its place.
            stop_receiver(sql).await?;
            sql.run("START REPLICA SQL_THREAD", DEADLINE).await?;
        } else {
            options.push("SOURCE_AUTO_POSITION=1".into());
        }
        let statement = format!("CHANGE REPLICATION SOURCE TO {}", options.join(", "));
        sql.run_secret(&statement, &[&password, &literal(&password)], DEADLINE).await?;
        sql.run("START REPLICA", DEADLINE).await?;
        info!(source = source.member, "following");
        Ok(())
    }

    async fn check(&self, source: &Peer, held: &GtidSet, executed: &GtidSet) -> Result<(), StepError> {
        let theirs = self.ask(source).await?;
        let extra = held.minus(&theirs.executed);
        if !extra.is_empty() {
            // A source that is not primary yet may still be applying what we both received.
            let source_member = source.member.clone();
            return Err(if theirs.read_only { StepError::NotYet(source_member) } else { StepError::Errant { source_member, extra } });
        }
        let missing = theirs.purged.minus(executed);
        if missing.is_empty() { Ok(()) } else { Err(StepError::Purged { source_member: source.member.clone(), missing }) }
    }

    /// Asks `source` what it holds.
    ///
    /// # Errors
    /// It does not answer, or not us.
    pub(super) async fn ask(&self, source: &Peer) -> Result<Theirs, StepError> {
        let (user, password) = (replication_user(self.config.ordinal), files::read(&self.config.system_dir.join("replication"))?);
        let member = || source.member.clone();
        let silent = |error| StepError::SourceSilent(member(), error);
        let mut theirs = match Sql::remote(&self.config, &source.host, &user, &password).await {
            Err(error) if error.is(ACCESS_DENIED) => return Err(StepError::Denied { member: member(), user, source: error }),
            connected => connected.map_err(silent)?,
        };
        let question = "SELECT @@global.gtid_executed AS executed, @@global.gtid_purged AS purged, @@global.read_only AS read_only, \
                        @@global.server_uuid AS server_uuid";
        let rows = theirs.rows(question).await.map_err(silent)?;
        let column = |name| rows.first().and_then(|row| text(row, name));
        let gtids = |name| column(name).and_then(|text| text.parse::<GtidSet>().ok());
        let (Some(executed), Some(purged), Some(server_uuid)) = (gtids("executed"), gtids("purged"), column("server_uuid")) else {
            return Err(silent(SqlError::Unclear("it does not say what it holds".into())));
        };
        let read_only = rows.first().and_then(|row| number(row, "read_only")) != Some(0);
        Ok(Theirs { executed, purged, read_only, server_uuid })
    }
}

/// Stops the receiver, once it does not wait for a greeting: that wait ends after `replica_net_timeout`, which begins anew when it is
/// interrupted. A source that is frozen lets us connect and never greets; between two tries the receiver stops at once.
async fn stop_receiver(sql: &mut Sql) -> Result<(), SqlError> {
    let greeted_by = Instant::now() + Duration::from_secs(REPLICA_NET_TIMEOUT_SECONDS.into());
    let question = format!(
        "SELECT 1 AS waits FROM performance_schema.replication_connection_status WHERE CHANNEL_NAME='' AND SERVICE_STATE='CONNECTING' \
         AND COALESCE(TIMESTAMPDIFF(MICROSECOND, LAST_ERROR_TIMESTAMP, NOW(6)), -1) NOT BETWEEN 0 AND {}",
        RESTS.as_micros()
    );
    while Instant::now() < greeted_by && !sql.rows(&question).await?.is_empty() {
        sleep(GREETING_POLL).await;
    }
    sql.run("STOP REPLICA IO_THREAD", DEADLINE).await
}

/// Waits for `work` no longer than `assignment` is the order.
async fn unless_overtaken(
    work: impl Future<Output = Result<(), StepError>>,
    assignment: &Assignment,
    orders: &Orders,
) -> Result<(), StepError> {
    let mut orders = orders.clone();
    tokio::select! {
        done = work => done,
        Ok(_) = orders.wait_for(|order| order.as_ref().is_none_or(|order| order.assignment != *assignment)) => Err(StepError::Overtaken),
    }
}
