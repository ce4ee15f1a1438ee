//! The life of a member whose data directory is there: look, report, take one step, look again.
//!
//! A step runs beside the looking, so that a member that waits for something still reports. There is one step at a time; a step that
//! keeps failing, or keeps being needed, is tried ever less often. Nothing here decides: [`super::converge`] does.

use std::collections::HashSet;
use std::future::pending;
use std::time::Duration;

use backon::ExponentialBackoff;
use sidecar_protocol::Order;
use sidecar_protocol::mysql::{Accepted, Assignment, Problem, ProblemCode, Process, Role, State};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::Config;
use super::accounts;
use super::archive;
use super::cnf::replication_user;
use super::condemned;
use super::converge::{Own, Step, condemns, converged, plan};
use super::execute::{Access, StepError};
use super::files;
use super::nudge::Nudge;
use super::observe::{Backlog, Facts, Password, Receiver, applying_since, look, tell_silence};
use super::ready::Readiness;
use super::report::{Reporter, problem, retries};
use super::sessions::{busy_seconds, replicas, send_away};
use super::sql::{QUERY_DEADLINE, Sql, SqlError};
use crate::fence::{Fence, Guard, Verdict};

/// Between two looks at a running mysqld.
const LOOK_PERIOD: Duration = Duration::from_millis(500);
/// The same while nothing happens there: most of what a sidecar costs is waking up.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// Between two tries to reach one that does not answer, and between two looks while a step runs or is waited for.
const EAGER_PERIOD: Duration = Duration::from_millis(100);
/// Between two looks after an order, and while all steps are taken and not all of them took effect: everybody waits for this member.
const WAIT_PERIOD: Duration = Duration::from_millis(20);
/// What has not taken effect in this time takes longer, and is not looked at as often.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// After an order everything is published at once for this long, positions too.
const NEWS: Duration = Duration::from_secs(1);
/// A receiver that is connected for this long has been told whether it acknowledges.
const RECEIVER_SETTLED: Duration = Duration::from_secs(1);
/// Until a source that is about to hold our history is asked again.
const NOT_YET: Duration = Duration::from_millis(50);
/// A mysqld that does not answer a look in this time is silent.
const LOOK_DEADLINE: Duration = Duration::from_secs(3);
/// An applier that gets no further for this long may wait for a client's lock.
const STUCK: Duration = Duration::from_secs(1);
/// Between two questions for long transactions.
const BUSY_PERIOD: Duration = Duration::from_secs(1);
/// Positions, lag and the age of transactions alone are published this often; anything else at once.
const POSITION_PERIOD: Duration = Duration::from_secs(1);
/// mysqld is allowed this much to come up before it is called down and a problem; crash recovery goes on all the same.
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
    guard: Guard,
    contact: watch::Receiver<Fence>,
    reporter: Reporter,
    session: Option<Session>,
    running: Option<Running>,
    /// The step taken last, to tell one that keeps being needed.
    last: Option<Step>,
    /// When the last order came.
    ordered: Option<Instant>,
    /// All that is left is to wait, for the applier or for a receiver to connect.
    waiting: bool,
    pauses: ExponentialBackoff,
    not_before: Instant,
    needed: Instant,
    step_problem: Option<Problem>,
    /// When mysqld is to read its certificates again.
    reload_due: Option<Instant>,
    reload_problem: Option<Problem>,
    /// Digest of the accounts that were brought about.
    accounts_done: Option<Vec<u8>>,
    /// mysqld has answered since this sidecar started.
    met: bool,
    answered: Instant,
    published: Instant,
}

/// What is remembered of one mysqld process, from its first answer to its end.
struct Session {
    sql: Sql,
    /// Ends when mysqld does.
    watch: JoinHandle<()>,
    /// What it looked like last, and whether it looked the same before.
    last: Option<Facts>,
    quiet: bool,
    backlog: Backlog,
    readiness: Readiness,
    connected: Option<Instant>,
    disconnected: Option<Instant>,
    busy: Option<u32>,
    busy_asked: Option<Instant>,
    nudge: Nudge,
    /// How much it has executed while it applies what it received before it leads, since when, and who makes room for more.
    applying: Option<(u64, Instant)>,
    clearing: Option<JoinHandle<()>>,
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
        guard: Guard,
        reporter: Reporter,
    ) -> Self {
        let (now, contact) = (Instant::now(), guard.changes());
        Self {
            access,
            orders,
            tls_changed,
            guard,
            contact,
            reporter,
            session: None,
            running: None,
            last: None,
            ordered: None,
            waiting: false,
            pauses: retries(LAST_RETRY),
            not_before: now,
            needed: now,
            step_problem: None,
            reload_due: None,
            reload_problem: None,
            accounts_done: None,
            met: false,
            answered: now,
            published: now,
        }
    }

    /// Lives until dropped.
    pub async fn live(mut self) {
        loop {
            match self.looked().await {
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
        let period = match () {
            () if self.waiting && self.needed.elapsed() < IMPATIENCE || self.is_news() => WAIT_PERIOD,
            () if busy => EAGER_PERIOD,
            () if self.session.as_ref().is_some_and(|session| session.quiet) => QUIET_PERIOD,
            () => LOOK_PERIOD,
        };
        let Self { running, session, orders, tls_changed, contact, .. } = self;
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
                (self.not_before, self.ordered) = (Instant::now(), Some(Instant::now()));
                return;
            }
            Ok(()) = contact.changed() => {
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
        if let Some(session) = &mut self.session {
            // A step may have made the receiver connect anew.
            session.connected = None;
        }
        match outcome {
            Ok(()) => {
                debug!(?step, "done");
                match &step {
                    // What is wrong stays wrong until it is cloned anew.
                    Step::Condemn { .. } => self.reporter.change(|state| state.archive = archive::newest(&self.access.config)),
                    _ => self.step_problem = None,
                }
                if step == Step::Accounts {
                    self.accounts_done = digest;
                }
                // Another step may follow at once; the same one not.
                self.not_before = if self.last.as_ref() == Some(&step) { Instant::now() + pause } else { Instant::now() };
            }
            Err(error) => {
                warn!(?step, %error, "the step failed");
                self.step_problem = error.problem();
                let pause = if matches!(error, StepError::NotYet(_) | StepError::Overtaken) { NOT_YET } else { pause };
                self.not_before = Instant::now() + pause;
            }
        }
        self.last = Some(step);
    }

    /// One look, in time. A connection may end although mysqld does not, because somebody killed it: mysqld is asked again at once.
    async fn looked(&mut self) -> Result<Seen, SqlError> {
        let known = self.session.is_some();
        let look = async {
            match self.look().await {
                Err(error) if known => {
                    info!(%error, "the connection to mysqld is lost");
                    self.session = None;
                    self.look().await
                }
                looked => looked,
            }
        };
        timeout(LOOK_DEADLINE, look).await.unwrap_or(Err(SqlError::Deadline(LOOK_DEADLINE)))
    }

    async fn look(&mut self) -> Result<Seen, SqlError> {
        if self.session.is_none() {
            let mut sql = self.access.connect().await?;
            // The first time it takes longer. A promotion shall not wait for it.
            let _ = (replicas(&mut sql).await?, busy_seconds(&mut sql).await?);
            let watch = tokio::spawn(self.access.connect().await?.until_gone());
            info!("mysqld answers");
            self.session = Some(Session::new(sql, watch));
        }
        let to_be_primary = matches!(self.assignment(), Some(Assignment::Primary { .. }));
        let Some(session) = &mut self.session else { return Err(SqlError::Unclear("no session".into())) };
        let mut facts = look(&mut session.sql).await?;
        if to_be_primary || facts.semi_sync.source_enabled {
            facts.replicas = replicas(&mut session.sql).await?;
        }
        session.connected = match &facts.channel {
            Some(channel) if channel.receiver == Receiver::On => session.connected.or(Some(Instant::now())),
            _ => None,
        };
        if facts.read_only {
            session.busy = None;
        } else if session.busy_asked.is_none_or(|asked| asked.elapsed() >= BUSY_PERIOD) {
            session.busy = busy_seconds(&mut session.sql).await?;
            session.busy_asked = Some(Instant::now());
        }
        let lag = if facts.channel.is_none() {
            None
        } else if facts.applied() {
            session.backlog.age(Instant::now(), &facts.position);
            Some(Duration::ZERO)
        } else {
            let applying = applying_since(&mut session.sql).await?.unwrap_or(0.0);
            Some(session.backlog.age(Instant::now(), &facts.position).max(Duration::try_from_secs_f64(applying).unwrap_or_default()))
        };
        session.quiet = session.last.as_ref() == Some(&facts);
        session.last = Some(facts.clone());
        (self.met, self.answered) = (true, Instant::now());
        Ok(self.with_secrets(facts, lag))
    }

    /// Secrets are read at each look: they are small, and a new password is followed within a second.
    fn with_secrets(&self, facts: Facts, lag: Option<Duration>) -> Seen {
        let config = &self.access.config;
        let mut own = Own { user: replication_user(config.ordinal), ..Own::default() };
        let connected = self.session.as_ref().and_then(|session| session.connected);
        own.receiver_settled = connected.is_some_and(|since| since.elapsed() >= RECEIVER_SETTLED);
        // A mark that cannot be read is there.
        own.condemned = condemned::marked(config).map_or(true, |uuid| uuid.is_some_and(|uuid| uuid == facts.server_uuid));
        Verdict { fenced: own.fenced, may_open: own.may_open } = self.guard.verdict();
        let (mut digest, mut credentials) = (None, None);
        match files::read(&config.system_dir.join("replication")) {
            Ok(password) => own.password = Some(Password(password)),
            Err(error) => credentials = Some(problem(ProblemCode::Credentials, error)),
        }
        if let Some(Assignment::Primary { members, barred, .. }) = self.assignment().as_ref() {
            match accounts::wanted(config, members, barred) {
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
        // An order of before a restart that nobody has confirmed yet still closes.
        let closed = Assignment::Isolated;
        let assignment = order.as_ref().map(|order| &order.assignment).or(seen.own.fenced.then_some(&closed));
        let wanted = assignment.and_then(|assignment| plan(&seen.facts, assignment, &seen.own));
        if !matches!(order.as_ref().map(|order| &order.assignment), Some(Assignment::Primary { .. })) {
            // Another member may change them while we are no primary.
            self.accounts_done = None;
        }
        self.waiting = match assignment {
            Some(assignment) if wanted.is_none() => !converged(&seen.facts, assignment, &seen.own),
            _ => wanted == Some(Step::AwaitApplied),
        };
        self.publish(seen, order.as_ref());
        let now = Instant::now();
        if let Some(session) = &mut self.session {
            session.nudge.look(now, &seen.facts, &self.access);
            let executed = (wanted == Some(Step::AwaitApplied)).then(|| seen.facts.position.executed.count());
            session.make_room(now, executed, &self.access);
        }
        if seen.own.fenced && self.running.as_ref().is_some_and(|running| running.step != Step::Seal) {
            // It waits for others perhaps, and the seal waits for nobody.
            self.abandon();
        }
        match (wanted, assignment.cloned()) {
            (Some(step), Some(assignment)) => {
                if step == Step::AwaitApplied {
                    return;
                }
                self.needed = now;
                if self.running.is_none() && now >= self.not_before {
                    info!(?step, term = order.as_ref().map(|order| order.term), "next step");
                    let (access, work, orders) = (self.access.clone(), step.clone(), self.orders.clone());
                    let task = tokio::spawn(async move { access.execute(&work, &assignment, &orders).await });
                    self.running = Some(Running { step, digest: seen.digest.clone(), task });
                }
            }
            _ => {
                if !seen.own.condemned {
                    self.step_problem = None;
                }
                if now.duration_since(self.needed) > FORGIVEN {
                    self.last = None;
                    self.pauses = retries(LAST_RETRY);
                }
            }
        }
    }

    /// An order has just come: whoever gave it waits for what follows, positions too.
    fn is_news(&self) -> bool {
        self.ordered.is_some_and(|ordered| ordered.elapsed() < NEWS)
    }

    fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            self.not_before = Instant::now();
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
        let busy_seconds = session.busy;
        let unanswered = session.nudge.is_unanswered(now);
        let full = full_volume(&self.access.config);
        let problem =
            full.or_else(|| self.step_problem.clone()).or(trouble).or_else(|| self.reload_problem.clone()).or_else(|| credentials.clone());
        let lag_seconds = lag.map(|lag| (lag.as_secs_f64() * 1000.0).round() / 1000.0);
        let positions_due = self.is_news() || now.duration_since(self.published) >= POSITION_PERIOD;
        let at_work = self.running.as_ref().is_some_and(|running| running.step.may_acknowledge(facts));
        let mut published = false;
        self.reporter.change(|state| {
            let before = state.clone();
            facts.tell(lag_seconds, state);
            state.may_acknowledge |= at_work;
            if let Some(semi_sync) = &mut state.semi_sync {
                semi_sync.unanswered = unanswered;
            }
            state.busy_seconds = busy_seconds;
            state.accepted = order.map(|order| Accepted::of(order, converged(facts, &order.assignment, own)));
            state.fenced = own.fenced && facts.super_read_only;
            state.ready = ready && !own.fenced;
            state.condemned = own.condemned;
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
        let late = self.answered.elapsed() > STARTUP_GRACE;
        let ended = matches!(error, SqlError::Gone(_));
        let trouble = late
            .then(|| problem(ProblemCode::ProcessDown, format!("mysqld does not answer: {error}; see the log of the database container")));
        let trouble = full_volume(&self.access.config).or(trouble);
        let order = self.orders.borrow().clone();
        let pardoned = self.pardoned(order.as_ref());
        self.reporter.change(|state| {
            state.condemned &= !pardoned;
            let process = match state.process {
                _ if !self.met && !late => Process::Starting,
                _ if ended => Process::Down,
                // Whatever comes up in its place writes nothing until it is told to (I7).
                Process::Down => Process::Down,
                _ => Process::Silent,
            };
            tell_silence(process, state);
            state.take_up(order.as_ref());
            state.ready = false;
            state.problem = trouble;
        });
    }

    /// Whether an order took the mark away. It must not wait for mysqld: the next start may come before its answer.
    fn pardoned(&self, order: Option<&Order<Assignment>>) -> bool {
        let config = &self.access.config;
        let Some(order) = order.filter(|_| self.running.is_none()) else { return false };
        let stands = match condemned::marked(config) {
            Ok(uuid) => uuid.is_none_or(|uuid| condemns(&order.assignment, &uuid)),
            Err(_) => true,
        };
        !stands && condemned::pardon(config).inspect_err(|error| warn!(%error, "the mark cannot be removed")).is_ok()
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
        self.abandon();
    }
}

// === impl Session ===

impl Session {
    fn new(sql: Sql, watch: JoinHandle<()>) -> Self {
        let (backlog, readiness) = (Backlog::default(), Readiness::default());
        Self {
            sql,
            watch,
            last: None,
            quiet: false,
            backlog,
            readiness,
            connected: None,
            disconnected: None,
            busy: None,
            busy_asked: None,
            nudge: Nudge::default(),
            applying: None,
            clearing: None,
        }
    }
}

impl Session {
    /// A client of a replica may hold a lock that its applier waits for, as backups and `LOCK TABLES` do. Nobody waits for such clients on a
    /// member that is to lead: they connect again. `executed` counts what it has executed, while it applies before it leads.
    fn make_room(&mut self, now: Instant, executed: Option<u64>, access: &Access) {
        let before = self.applying.take();
        let Some(executed) = executed else { return };
        let (_, since) = *self.applying.insert(before.filter(|(before, _)| *before == executed).unwrap_or((executed, now)));
        let busy = self.clearing.as_ref().is_some_and(|clearing| !clearing.is_finished());
        if busy || now.duration_since(since) < STUCK {
            return;
        }
        self.applying = Some((executed, now));
        let access = access.clone();
        self.clearing = Some(tokio::spawn(async move {
            let cleared = async { send_away(&mut access.connect().await?, &mut HashSet::new()).await }.await;
            match cleared {
                Ok(clients) => info!(clients, "clients are sent away, so that what was received is applied"),
                Err(error) => warn!(%error, "clients that may hold up the applier cannot be sent away"),
            }
        }));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.watch.abort();
        if let Some(clearing) = &self.clearing {
            clearing.abort();
        }
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
        state.busy_seconds = state.busy_seconds.map(|_| 0);
        if let Some(replication) = &mut state.replication {
            replication.lag_seconds = None;
        }
        state
    };
    // The first positions of a process are news, and so are all of a member that just stopped receiving.
    let known = before.position.is_some() == after.position.is_some() && after.role != Role::Unknown;
    // What somebody commits on a replica is told at once: it bars its member from being promoted.
    known && before.strays() == after.strays() && settled(before) == settled(after)
}
