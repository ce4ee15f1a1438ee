//! The life of a member whose data directory is there: look, report, take one step, look again.
//!
//! A step runs beside the looking, so that a member that waits for something still reports. There is one step at a time; a step that
//! keeps failing, or keeps being needed, is tried ever less often. Nothing here decides: [`super::converge`] does.

use std::future::pending;
use std::time::Duration;

use backon::ExponentialBackoff;
use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Accepted, Assignment, Problem, ProblemCode, Role, State};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use super::Config;
use super::accounts;
use super::cnf::replication_user;
use super::converge::{Own, Step, converged, plan};
use super::execute::{Access, StepError};
use super::files;
use super::nudge::Nudge;
use super::observe::{Backlog, Facts, Password, Receiver, applying_since, look, tell_silence};
use super::ready::Readiness;
use super::report::{Reporter, problem, retries};
use super::sql::{QUERY_DEADLINE, Sql, SqlError};

/// Between two looks at a running mysqld.
const LOOK_PERIOD: Duration = Duration::from_millis(250);
/// Between two tries to reach one that does not answer, and between two looks while a step runs or is waited for.
const EAGER_PERIOD: Duration = Duration::from_millis(100);
/// Positions and lag alone are published this often; anything else at once.
const POSITION_PERIOD: Duration = Duration::from_secs(1);
/// mysqld is allowed this much to come up before it is called a problem; crash recovery goes on all the same.
const STARTUP_GRACE: Duration = Duration::from_secs(30);
/// A receiver that has not connected for this long is a problem, not a hiccup.
const CONNECT_GRACE: Duration = Duration::from_secs(5);
/// Longest rest between two tries of a step: a source that comes back is not kept waiting.
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Between two tries to make mysqld read new certificates.
const RELOAD_REST: Duration = Duration::from_secs(5);
/// A step that was not needed for this long starts again without a pause.
const FORGIVEN: Duration = Duration::from_secs(5);

/// A step at work.
struct Running {
    step: Step,
    digest: Option<Vec<u8>>,
    task: JoinHandle<Result<(), StepError>>,
}

/// One member's memory between two looks. What concerns one mysqld process is in [`Session`].
pub struct Member {
    access: Access,
    orders: watch::Receiver<Option<Order<Assignment>>>,
    tls_changed: watch::Receiver<u64>,
    reporter: Reporter,
    session: Option<Session>,
    running: Option<Running>,
    /// The step taken last, to tell one that keeps being needed.
    last: Option<Step>,
    pauses: ExponentialBackoff,
    not_before: Instant,
    needed: Instant,
    step_problem: Option<Problem>,
    /// When mysqld is to read its certificates again.
    reload_due: Option<Instant>,
    reload_problem: Option<Problem>,
    /// Digest of the accounts that were brought about.
    accounts_done: Option<Vec<u8>>,
    answered: Instant,
    published: Instant,
}

/// What is remembered of one mysqld process, from its first answer to its end.
struct Session {
    sql: Sql,
    /// Ends when mysqld does.
    watch: JoinHandle<()>,
    backlog: Backlog,
    readiness: Readiness,
    disconnected: Option<Instant>,
    nudge: Nudge,
}

/// What one look and the Secrets say.
struct Seen {
    facts: Facts,
    own: Own,
    digest: Option<Vec<u8>>,
    credentials: Option<Problem>,
    lag: Option<Duration>,
}

// === impl Member ===

impl Member {
    /// A member that has just been found to hold data.
    #[must_use]
    pub fn new(
        access: Access,
        orders: watch::Receiver<Option<Order<Assignment>>>,
        tls_changed: watch::Receiver<u64>,
        reporter: Reporter,
    ) -> Self {
        let now = Instant::now();
        Self {
            access,
            orders,
            tls_changed,
            reporter,
            session: None,
            running: None,
            last: None,
            pauses: retries(LAST_RETRY),
            not_before: now,
            needed: now,
            step_problem: None,
            reload_due: None,
            reload_problem: None,
            accounts_done: None,
            answered: now,
            published: now,
        }
    }

    /// Lives until dropped.
    pub async fn live(mut self) {
        loop {
            match self.look().await {
                Ok(seen) => {
                    self.act_on(&seen);
                    self.reload_tls().await;
                }
                Err(error) => self.silent(&error),
            }
            self.rest().await;
        }
    }

    /// Until there is a reason to look again.
    async fn rest(&mut self) {
        let busy = self.session.is_none() || self.running.is_some() || self.last.is_some();
        let period = if busy { EAGER_PERIOD } else { LOOK_PERIOD };
        let Self { running, session, orders, tls_changed, .. } = self;
        let step = async {
            match running {
                Some(running) => (&mut running.task).await,
                None => pending().await,
            }
        };
        let gone = async {
            match session {
                Some(session) => (&mut session.watch).await,
                None => pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = step => outcome,
            _ = gone => {
                info!("mysqld is gone");
                self.session = None;
                return;
            }
            Ok(()) = orders.changed() => {
                self.pauses = retries(LAST_RETRY);
                self.not_before = Instant::now();
                return;
            }
            Ok(()) = tls_changed.changed() => {
                self.reload_due = Some(Instant::now());
                return;
            }
            () = sleep(period) => return,
        };
        self.step_ended(outcome.unwrap_or_else(|error| Err(SqlError::Gone(error.to_string()).into())));
    }

    fn step_ended(&mut self, outcome: Result<(), StepError>) {
        let Some(Running { step, digest, .. }) = self.running.take() else { return };
        let pause = self.pauses.next().unwrap_or(FORGIVEN);
        match outcome {
            Ok(()) => {
                debug!(?step, "done");
                self.step_problem = None;
                if step == Step::Accounts {
                    self.accounts_done = digest;
                }
                // Another step may follow at once; the same one not.
                self.not_before = if self.last.as_ref() == Some(&step) { Instant::now() + pause } else { Instant::now() };
            }
            Err(error) => {
                warn!(?step, %error, "the step failed");
                self.step_problem = error.problem();
                self.not_before = Instant::now() + pause;
            }
        }
        self.last = Some(step);
    }

    async fn look(&mut self) -> Result<Seen, SqlError> {
        if self.session.is_none() {
            let sql = self.access.connect().await?;
            let watch = tokio::spawn(self.access.connect().await?.until_gone());
            info!("mysqld answers");
            self.session = Some(Session {
                sql,
                watch,
                backlog: Backlog::default(),
                readiness: Readiness::default(),
                disconnected: None,
                nudge: Nudge::default(),
            });
        }
        let Some(session) = &mut self.session else { return Err(SqlError::Gone("no session".into())) };
        let facts = look(&mut session.sql).await?;
        let lag = if facts.channel.is_none() {
            None
        } else if facts.applied() {
            session.backlog.age(Instant::now(), &facts.position);
            Some(Duration::ZERO)
        } else {
            let applying = applying_since(&mut session.sql).await?.unwrap_or(0.0);
            Some(session.backlog.age(Instant::now(), &facts.position).max(Duration::try_from_secs_f64(applying).unwrap_or_default()))
        };
        self.answered = Instant::now();
        Ok(self.with_secrets(facts, lag))
    }

    /// Secrets are read at each look: they are small, and a new password is followed within a second.
    fn with_secrets(&self, facts: Facts, lag: Option<Duration>) -> Seen {
        let config = &self.access.config;
        let mut own = Own { user: replication_user(config.ordinal), password: None, accounts_due: false };
        let (mut digest, mut credentials) = (None, None);
        match files::read(&config.system_dir.join("replication")) {
            Ok(password) => own.password = Some(Password(password)),
            Err(error) => credentials = Some(problem(ProblemCode::Credentials, error)),
        }
        if let Some(Assignment::Primary { members, .. }) = self.assignment().as_ref() {
            match accounts::wanted(config, members) {
                Ok(wanted) => digest = Some(accounts::digest_of(&wanted)),
                Err(error) => credentials = Some(problem(ProblemCode::Credentials, error)),
            }
            own.accounts_due = digest.is_some() && digest != self.accounts_done;
        }
        Seen { facts, own, digest, credentials, lag }
    }

    fn assignment(&self) -> Option<Assignment> {
        self.orders.borrow().as_ref().map(|order| order.assignment.clone())
    }

    fn act_on(&mut self, seen: &Seen) {
        let order = self.orders.borrow().clone();
        let wanted = order.as_ref().and_then(|order| plan(&seen.facts, &order.assignment, &seen.own));
        if !matches!(order.as_ref().map(|order| &order.assignment), Some(Assignment::Primary { .. })) {
            // Another member may change them while we are no primary.
            self.accounts_done = None;
        }
        self.publish(seen, order.as_ref());
        let now = Instant::now();
        if let Some(session) = &mut self.session {
            session.nudge.look(now, &seen.facts, &self.access);
        }
        match (wanted, order) {
            (Some(step), Some(order)) => {
                self.needed = now;
                if self.running.is_none() && now >= self.not_before && step != Step::AwaitApplied {
                    info!(?step, term = order.term, "next step");
                    let (access, work) = (self.access.clone(), step.clone());
                    let task = tokio::spawn(async move { access.execute(&work, &order.assignment).await });
                    self.running = Some(Running { step, digest: seen.digest.clone(), task });
                }
            }
            _ => {
                self.step_problem = None;
                if now.duration_since(self.needed) > FORGIVEN {
                    self.last = None;
                    self.pauses = retries(LAST_RETRY);
                }
            }
        }
    }

    fn publish(&mut self, seen: &Seen, order: Option<&Order<Assignment>>) {
        let Seen { facts, own, credentials, lag, .. } = seen;
        let now = Instant::now();
        let assignment = order.map(|order| &order.assignment);
        let max_lag = self.access.config.max_lag_seconds;
        let trouble = self.channel_problem(now, facts);
        let Some(session) = &mut self.session else { return };
        let ready = session.readiness.judge(now, facts, assignment, *lag, max_lag);
        let full = full_volume(&self.access.config);
        let problem =
            full.or_else(|| self.step_problem.clone()).or(trouble).or_else(|| self.reload_problem.clone()).or_else(|| credentials.clone());
        let lag_seconds = lag.map(|lag| (lag.as_secs_f64() * 1000.0).round() / 1000.0);
        let positions_due = now.duration_since(self.published) >= POSITION_PERIOD;
        let mut published = false;
        self.reporter.change(|state| {
            let before = state.clone();
            facts.tell(lag_seconds, state);
            state.accepted = order.map(|order| Accepted {
                term: order.term,
                assignment: order.assignment.clone(),
                converged: converged(facts, &order.assignment, own),
            });
            state.ready = ready;
            state.problem = problem;
            if !positions_due && only_positions_differ(&before, state) {
                *state = before;
            } else {
                published = true;
            }
        });
        if published {
            self.published = now;
        }
    }

    fn channel_problem(&mut self, now: Instant, facts: &Facts) -> Option<Problem> {
        let session = self.session.as_mut()?;
        let channel = facts.channel.as_ref()?;
        if channel.receiver == Receiver::Connecting {
            session.disconnected.get_or_insert(now);
        } else {
            session.disconnected = None;
        }
        if channel.applier_error.0 != 0 {
            return Some(problem(ProblemCode::ReplicationFailed, &channel.applier_error.1));
        }
        let long = session.disconnected.is_some_and(|since| now.duration_since(since) > CONNECT_GRACE);
        (channel.receiver_error.0 != 0 && (long || channel.receiver == Receiver::Off))
            .then(|| problem(ProblemCode::ReplicationFailed, &channel.receiver_error.1))
    }

    fn silent(&mut self, error: &SqlError) {
        if self.session.take().is_some() {
            info!(%error, "mysqld does not answer");
        }
        let trouble = (self.answered.elapsed() > STARTUP_GRACE)
            .then(|| problem(ProblemCode::ProcessDown, format!("mysqld does not answer: {error}; see the log of the database container")));
        let trouble = full_volume(&self.access.config).or(trouble);
        let order = self.orders.borrow().clone();
        self.reporter.change(|state| {
            tell_silence(state);
            state.accepted = order.map(|order| Accepted { term: order.term, assignment: order.assignment, converged: false });
            state.ready = false;
            state.problem = trouble;
        });
    }

    /// New connections use the new certificates; those that there are go on. Waits for a mysqld that answers: one that starts may
    /// have read the old ones just before.
    async fn reload_tls(&mut self) {
        let due = self.reload_due.is_some_and(|due| due <= Instant::now());
        let Some(session) = self.session.as_mut().filter(|_| due) else { return };
        match session.sql.run("ALTER INSTANCE RELOAD TLS", QUERY_DEADLINE).await {
            Ok(()) => {
                info!("mysqld reads the new certificates");
                (self.reload_due, self.reload_problem) = (None, None);
            }
            Err(error) => {
                warn!(%error, "mysqld does not take the new certificates");
                self.reload_due = Some(Instant::now() + RELOAD_REST);
                self.reload_problem = Some(problem(ProblemCode::Credentials, error));
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

fn full_volume(config: &Config) -> Option<Problem> {
    files::full_volume(config).map(|message| problem(ProblemCode::Storage, message))
}

/// Whether the second state says nothing new but how far things are.
fn only_positions_differ(before: &State, after: &State) -> bool {
    let settled = |state: &State| {
        let mut state = state.clone();
        state.position = None;
        if let Some(replication) = &mut state.replication {
            replication.lag_seconds = None;
        }
        state
    };
    // The first positions of a process are news, and so are all of a member that just stopped receiving.
    before.position.is_some() == after.position.is_some() && after.role != Role::Unknown && settled(before) == settled(after)
}
