//! The life of a member: look, report, take one step, look again.
//!
//! A step runs beside the looking, so that a member that waits for something still reports. There is one step at a time; a step that keeps failing, or keeps
//! being needed, is tried ever less often. Nothing here decides: [`super::converge`] does.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use sidecar_protocol::Order;
use sidecar_protocol::redis::{Accepted, Assignment, Handover, Part, Problem, ProblemCode, Process, Replication, Role, State};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::accounts::{self, Done, Login, Wanted};
use super::converge::{Own, Step, converged, objection, plan};
use super::execute::{Access, Outcome, StepError};
use super::handover::{self, HandingOver};
use super::keeper::Keeper;
use super::link::{Link, LinkError, command};
use super::news::{is_quiet, only_positions_differ};
use super::observe::{Facts, Server, look, server};
use super::position::Known;
use super::ready::Readiness;
use super::{Config, Persistence, Prepared, archive, certificates};
use crate::fence::{Fence, Guard, Verdict};
use crate::files;
use crate::report::{Reporter, retries};

/// Between two looks while nothing happens: most of what a sidecar costs is waking up.
const QUIET_PERIOD: Duration = Duration::from_secs(1);
/// Between two tries to reach one that does not answer, and between two looks while something is due.
const EAGER_PERIOD: Duration = Duration::from_millis(100);
/// Between two looks after an order, and while what was done takes effect: everybody waits for this member.
const WAIT_PERIOD: Duration = Duration::from_millis(20);
/// The same during a hand-over: nobody writes until it is seen to be over.
const HANDOVER_PERIOD: Duration = Duration::from_millis(5);
/// What has not taken effect in this time takes longer, and is not looked at as often.
const IMPATIENCE: Duration = Duration::from_secs(3);
/// After an order everything is published at once for this long, positions too.
const NEWS: Duration = Duration::from_secs(1);
/// One that does not answer a look in this time is silent.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Positions and lag alone are published this often; anything else at once.
const POSITION_PERIOD: Duration = Duration::from_secs(1);
/// The database is allowed this much to come up before it is called down and a problem.
const STARTUP_GRACE: Duration = Duration::from_secs(30);
/// A link that has not come up for this long is a problem, not a hiccup.
const CONNECT_GRACE: Duration = Duration::from_secs(5);
/// Longest rest between two tries of a step.
const LAST_RETRY: Duration = Duration::from_secs(2);
/// Until a heir that was not there yet is tried again.
const NOT_YET: Duration = Duration::from_millis(20);
/// Between two tries to make the database read new certificates.
const RELOAD_REST: Duration = Duration::from_secs(5);
/// Who was asked to leave stands still for this long, in which its database is told to end, and ends.
const LEAVING: Duration = Duration::from_secs(10);
/// A step that was not needed for this long starts again without a pause.
const FORGIVEN: Duration = Duration::from_secs(5);

/// A step at work.
struct Running {
    step: Step,
    task: JoinHandle<Result<Outcome, StepError>>,
}

/// What is remembered of one process, from its first answer to its end.
struct Session {
    link: Link,
    /// Ends when the process does.
    gone: JoinHandle<()>,
    server: Server,
    last: Option<Facts>,
    quiet: bool,
    readiness: Readiness,
    accounts: Done,
    login: Option<Login>,
    disconnected: Option<Instant>,
}

/// One member's memory between two looks.
pub struct Member<'a> {
    config: Arc<Config>,
    local_password: String,
    keeper: Keeper,
    orders: watch::Receiver<Option<Order<Assignment>>>,
    tls_changed: watch::Receiver<u64>,
    guard: Guard,
    contact: watch::Receiver<Fence>,
    reporter: &'a Reporter<State>,
    session: Option<Session>,
    running: Option<Running>,
    last: Option<Step>,
    ordered: Option<Instant>,
    waiting: bool,
    handing_over: Option<HandingOver>,
    /// It is no primary any more, and its clients have not been sent away.
    demoted: bool,
    pauses: ExponentialBackoff,
    not_before: Instant,
    needed: Instant,
    step_problem: Option<Problem>,
    /// Somebody waits for the database to end; over when it has, or when it has not for long.
    leaving: watch::Receiver<u64>,
    leaves: Option<Instant>,
    reload_due: Option<Instant>,
    reload_problem: Option<Problem>,
    met: bool,
    answered: Instant,
    published: Instant,
}

/// What one look and the Secrets say.
struct Seen {
    facts: Facts,
    known: Known,
    own: Own,
    wanted: Wanted,
}

// === impl Member ===

impl<'a> Member<'a> {
    /// A member whose database may be there already, or not yet.
    #[must_use]
    pub(super) fn new(
        config: Config,
        prepared: Prepared,
        orders: watch::Receiver<Option<Order<Assignment>>>,
        tls_changed: watch::Receiver<u64>,
        guard: Guard,
        leaving: watch::Receiver<u64>,
        reporter: &'a Reporter<State>,
    ) -> Self {
        let (now, contact) = (Instant::now(), guard.changes());
        let Prepared { local_password, identity, memory, renewed } = prepared;
        let keeper = Keeper::new(config.private(), config.persistence, identity, memory);
        Self {
            config: config.into(),
            local_password,
            keeper,
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
            handing_over: None,
            demoted: false,
            pauses: retries(LAST_RETRY),
            not_before: now,
            needed: now,
            step_problem: None,
            leaving,
            leaves: None,
            reload_due: renewed.then_some(now),
            reload_problem: None,
            met: false,
            answered: now,
            published: now,
        }
    }

    /// Lives until dropped.
    pub async fn live(mut self) {
        loop {
            match self.looked().await {
                Ok(facts) => {
                    let seen = self.seen(facts);
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
        let busy = self.session.is_none() || self.running.is_some() || self.last.is_some() || self.keeper.is_busy();
        let impatient = self.needed.elapsed() < IMPATIENCE;
        let period = match () {
            () if self.changes_hands() && self.ordered.is_some_and(|ordered| ordered.elapsed() < IMPATIENCE) => HANDOVER_PERIOD,
            () if self.waiting && impatient || self.is_news() => WAIT_PERIOD,
            () if busy || self.waiting => EAGER_PERIOD,
            () if self.session.as_ref().is_some_and(|session| session.quiet) => QUIET_PERIOD,
            () => EAGER_PERIOD,
        };
        let Self { running, session, orders, tls_changed, contact, keeper, leaving, .. } = self;
        let step = async {
            match running {
                Some(running) => (&mut running.task).await,
                None => pending().await,
            }
        };
        let gone = async {
            match session {
                Some(session) => drop((&mut session.gone).await),
                None => pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = step => outcome,
            () = gone => {
                info!("the database is gone");
                (self.session, self.leaves) = (None, None);
                return;
            }
            () = keeper.written() => return,
            Ok(()) = orders.changed() => {
                self.pauses = retries(LAST_RETRY);
                (self.not_before, self.needed, self.ordered) = (Instant::now(), Instant::now(), Some(Instant::now()));
                return;
            }
            Ok(()) = contact.changed() => {
                self.not_before = Instant::now();
                return;
            }
            Ok(()) = leaving.changed() => {
                (self.leaves, self.not_before) = (Some(Instant::now()), Instant::now());
                return;
            }
            Ok(()) = tls_changed.changed() => {
                self.reload_due = Some(Instant::now());
                return;
            }
            () = sleep(period) => return,
        };
        self.step_ended(outcome.unwrap_or_else(|error| Err(LinkError::Gone(error.to_string()).into())));
    }

    fn step_ended(&mut self, outcome: Result<Outcome, StepError>) {
        let Some(Running { step, .. }) = self.running.take() else { return };
        let pause = self.pauses.next().unwrap_or(FORGIVEN);
        match outcome {
            Ok(outcome) => {
                debug!(?step, "done");
                self.step_problem = None;
                self.remember(outcome);
                // Another step may follow at once; the same one not.
                self.not_before = if self.last.as_ref() == Some(&step) { Instant::now() + pause } else { Instant::now() };
            }
            Err(error) => {
                self.step_problem = error.problem(&step);
                let pause = match (&step, &mut self.handing_over) {
                    (Step::HandOver(_), Some(handing)) => {
                        handing.refused(&error.to_string());
                        NOT_YET
                    }
                    _ => {
                        warn!(?step, %error, "the step failed");
                        pause
                    }
                };
                self.not_before = Instant::now() + pause;
            }
        }
        self.last = Some(step);
    }

    fn remember(&mut self, outcome: Outcome) {
        match (outcome, &mut self.session) {
            (Outcome::Accounts(done), Some(session)) => session.accounts = done,
            (Outcome::LoggedIn(login), Some(session)) => session.login = Some(login),
            (Outcome::SentAway, _) => self.demoted = false,
            (Outcome::Following(memory), _) => self.keeper.wrote(memory),
            (Outcome::Begun, _) => {
                if let Some(handing) = &mut self.handing_over {
                    handing.begin();
                }
            }
            (Outcome::Accounts(_) | Outcome::LoggedIn(_) | Outcome::Done, _) => {}
        }
    }

    /// One look, in time. A connection may end although the process does not, because somebody killed it: it is asked again at once.
    async fn looked(&mut self) -> Result<Facts, LinkError> {
        let known = self.session.is_some();
        let look = async {
            match self.look().await {
                Err(LinkError::Gone(error)) if known => {
                    info!(error, "the connection to the database is lost");
                    self.session = None;
                    self.look().await
                }
                looked => looked,
            }
        };
        timeout(LOOK_DEADLINE, look).await.unwrap_or(Err(LinkError::Deadline(LOOK_DEADLINE)))
    }

    async fn look(&mut self) -> Result<Facts, LinkError> {
        if self.session.is_none() {
            let (link, gone) = Link::open(&self.config.socket(), &self.local_password).await?;
            let server = server(&link).await?;
            info!(engine = ?server.engine, version = server.version, run_id = server.run_id, "the database answers");
            self.session = Some(Session {
                link,
                gone,
                server,
                last: None,
                quiet: false,
                readiness: Readiness::default(),
                accounts: Done::default(),
                login: None,
                disconnected: None,
            });
        }
        // The old primary hands over once it hears that its heir holds everything, and nobody writes until then.
        let inherits = matches!(self.part(), Some(Part::Replica { heir_of: Some(_), .. }));
        let Some(session) = &mut self.session else { return Err(LinkError::Gone("no session".into())) };
        let following = session.last.as_ref().is_some_and(|last| last.role == Role::Replica);
        let facts = look(&session.link, inherits && following).await?;
        // Frozen, it has sent them away itself.
        let led = session.last.as_ref().is_some_and(|last| last.role == Role::Primary);
        self.demoted = facts.role == Role::Replica && (self.demoted || led);
        session.quiet = session.last.as_ref().is_some_and(|last| is_quiet(last, &facts));
        session.last = Some(facts.clone());
        (self.met, self.answered) = (true, Instant::now());
        Ok(facts)
    }

    /// What the look means together with what only this sidecar knows. Secrets are read at each look: they are small, and a new password is
    /// followed within a second.
    fn seen(&mut self, facts: Facts) -> Seen {
        let known = self.known(&facts);
        let order = self.orders.borrow().clone();
        let yield_to = order.as_ref().and_then(|order| match &order.assignment.part {
            Part::Primary { yield_to, .. } => yield_to.clone(),
            _ => None,
        });
        self.handing_over = HandingOver::go_on(self.handing_over.take(), yield_to, &facts);
        let wanted = order.as_ref().map(|order| accounts::wanted(&self.config, &order.assignment)).unwrap_or_default();
        let listed = facts.accounts.as_deref().unwrap_or_default();
        let due = order.is_some() && facts.accounts.is_some();
        let Verdict { fenced, may_open } = self.guard.verdict();
        let session = self.session.as_ref();
        let own = Own {
            position: known.position.clone(),
            data: known.data.clone(),
            identity: self.keeper.identity().map(str::to_owned),
            archive: archive::newest(&self.config),
            accounts_due: due && session.is_some_and(|session| wanted.is_due(listed, &session.accounts)),
            open: self.config.system_dir.is_none(),
            admits: accounts::admits(listed),
            login_due: due && wanted.login.is_some() && session.is_some_and(|session| session.login != wanted.login),
            demoted: self.demoted,
            handed: self.handing_over.as_ref().and_then(HandingOver::tried).cloned(),
            fenced,
            may_open,
            leaving: self.leaves.is_some_and(|since| since.elapsed() < LEAVING),
            eager: self.ordered.is_some_and(|ordered| ordered.elapsed() < IMPATIENCE),
        };
        Seen { facts, known, own, wanted }
    }

    /// Where it is; written down as soon as that may be needed.
    fn known(&mut self, facts: &Facts) -> Known {
        let run_id = self.session.as_ref().map(|session| session.server.run_id.clone()).unwrap_or_default();
        // Who begins to follow writes down whose copy takes the place of what there is.
        let others = self.running.as_ref().is_some_and(|running| matches!(running.step, Step::Follow { .. }));
        self.keeper.look(facts, &run_id, others)
    }

    fn act_on(&mut self, seen: &Seen) {
        let order = self.orders.borrow().clone();
        // An order of before a restart that nobody has confirmed yet still closes.
        let closed = Assignment { part: Part::Isolated, members: vec![], users: vec![] };
        let closing = seen.own.fenced && order.is_none();
        let assignment = order.as_ref().map(|order| &order.assignment).or(closing.then_some(&closed));
        let own = if closing { &Own { accounts_due: false, login_due: false, ..seen.own.clone() } } else { &seen.own };
        let wanted = assignment.and_then(|assignment| plan(&seen.facts, assignment, own));
        self.waiting = wanted.is_none() && assignment.is_some_and(|assignment| !converged(&seen.facts, assignment, own));
        self.publish(seen, order.as_ref());
        let now = Instant::now();
        let closes = matches!(wanted, Some(Step::Freeze { .. } | Step::TakeBack));
        if own.fenced && closes && self.running.as_ref().is_some_and(|running| !matches!(running.step, Step::Freeze { .. })) {
            // It waits for something perhaps, and closing waits for nothing.
            self.abandon();
        }
        let Some(step) = wanted else {
            self.step_problem = None;
            if now.duration_since(self.needed) > FORGIVEN {
                self.last = None;
                self.pauses = retries(LAST_RETRY);
            }
            return;
        };
        if self.running.as_ref().is_some_and(|running| running.step != step && matches!(running.step, Step::Archive(_))) {
            // Another order came: it is not to be waited for.
            self.abandon();
        }
        // Two writers of one file would take turns.
        let writes = matches!(step, Step::Follow { .. }) && self.keeper.is_busy();
        let Some(session) = self.session.as_ref().filter(|_| self.running.is_none() && now >= self.not_before && !writes) else { return };
        self.needed = now;
        if !matches!(step, Step::HandOver(_)) || self.last.as_ref() != Some(&step) {
            info!(?step, term = order.as_ref().map(|order| order.term), "next step");
        }
        let access = Access {
            config: Arc::clone(&self.config),
            link: session.link.clone(),
            local_password: self.local_password.clone(),
            memory: self.keeper.memory().cloned(),
            run_id: session.server.run_id.clone(),
            wanted: seen.wanted.clone(),
            listed: seen.facts.accounts.clone().unwrap_or_default(),
            done: session.accounts.clone(),
        };
        let work = step.clone();
        let task = tokio::spawn(async move { access.execute(&work).await });
        self.running = Some(Running { step, task });
    }

    /// An order has just come: whoever gave it waits for what follows, positions too.
    fn is_news(&self) -> bool {
        self.ordered.is_some_and(|ordered| ordered.elapsed() < NEWS)
    }

    fn part(&self) -> Option<Part> {
        self.orders.borrow().as_ref().map(|order| order.assignment.part.clone())
    }

    /// It hands over, or is about to be handed over to.
    fn changes_hands(&self) -> bool {
        let role = self.session.as_ref().and_then(|session| session.last.as_ref()).map(|facts| facts.role);
        self.orders.borrow().as_ref().is_some_and(|order| match &order.assignment.part {
            Part::Primary { yield_to, .. } => yield_to.is_some() && role == Some(Role::Primary),
            Part::Replica { heir_of, .. } => heir_of.is_some() && role == Some(Role::Replica),
            Part::Isolated => false,
        })
    }

    fn abandon(&mut self) {
        if let Some(running) = self.running.take() {
            running.task.abort();
            self.not_before = Instant::now();
        }
    }

    fn publish(&mut self, seen: &Seen, order: Option<&Order<Assignment>>) {
        let Seen { facts, known, own, wanted } = seen;
        let now = Instant::now();
        let problem = self.problem(now, seen, order.map(|order| &order.assignment));
        let positions_due = self.is_news() || now.duration_since(self.published) >= POSITION_PERIOD;
        let handover = handover::tell(self.handing_over.as_ref(), facts);
        // What is on its way changes where this member is: until it is there, no look at it is the last word.
        let moves = |step: &Step| matches!(step, Step::Follow { .. } | Step::Knock(_) | Step::Promote { .. });
        let settled = !self.running.as_ref().is_some_and(|running| moves(&running.step));
        let Some(session) = &mut self.session else { return };
        let max_lag = self.config.max_lag_seconds;
        let ready = session.readiness.judge(now, facts, order.map(|order| &order.assignment), own.fenced, max_lag);
        let server = session.server.clone();
        let taken = order.is_some() && !own.accounts_due && !own.login_due && wanted.login.is_some();
        let persistent = self.config.persistence != Persistence::None;
        let mut published = false;
        self.reporter.change(|state| {
            let before = state.clone();
            *state = State {
                data: known.data.clone(),
                process: Process::Running,
                role: facts.role,
                accepted: order.map(|order| Accepted::of(order, settled && converged(facts, &order.assignment, own))),
                position: known.position.clone(),
                replication: facts.source.as_ref().filter(|_| facts.role == Role::Replica).map(|source| Replication {
                    source: source.host.clone(),
                    connected: source.up,
                    lag_seconds: source.heard.map(|seconds| Duration::from_secs(seconds).as_secs_f64()),
                }),
                replicas: facts.replicas.clone(),
                admits: facts.accounts.as_ref().filter(|_| !own.open).map(|_| own.admits.iter().copied().collect()),
                handover,
                fenced: own.fenced && facts.role != Role::Primary,
                identity: own.identity.clone(),
                persistent,
                archive: own.archive.clone(),
                engine: server.engine,
                version: Some(server.version),
                passwords: if taken { Some(wanted.digest.clone()) } else { before.passwords.clone().filter(|_| order.is_some()) },
                ready,
                problem,
            };
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

    fn problem(&mut self, now: Instant, seen: &Seen, assignment: Option<&Assignment>) -> Option<Problem> {
        let Seen { facts, own, wanted, .. } = seen;
        let storage = |message: String| Problem::new(ProblemCode::Storage, message);
        let unsaved = facts.unsaved.map(|what| {
            storage(format!("the database cannot write {what}: see whether the volume is full, and the log of the database container"))
        });
        let full = files::full_volume(&self.config.data_dir).map(storage);
        let session = self.session.as_mut();
        let refused = session.as_ref().and_then(|session| session.accounts.refused());
        let link = session.and_then(|session| session.link_problem(now, facts));
        full.or_else(|| self.keeper.problem().cloned())
            .or_else(|| self.step_problem.clone())
            .or_else(|| objection(facts, assignment?, own))
            .or(unsaved)
            .or_else(|| wanted.trouble.clone())
            .or(refused)
            .or(link)
            .or_else(|| self.reload_problem.clone())
    }

    fn silent(&mut self, error: &LinkError) {
        if self.session.take().is_some() {
            info!(%error, "the database does not answer");
        }
        let late = self.answered.elapsed() > STARTUP_GRACE;
        let ended = matches!(error, LinkError::Gone(_));
        let refused = matches!(error, LinkError::Refused(_));
        let trouble = (late || refused).then(|| {
            Problem::new(ProblemCode::ProcessDown, format!("the database does not answer: {error}; see the log of the database container"))
        });
        let problem = files::full_volume(&self.config.data_dir).map(|message| Problem::new(ProblemCode::Storage, message)).or(trouble);
        let order = self.orders.borrow().clone();
        let identity = self.keeper.identity().map(str::to_owned);
        self.waiting = true;
        self.reporter.change(|state| {
            state.process = match state.process {
                _ if !self.met && !late => Process::Starting,
                _ if ended => Process::Down,
                // Whatever comes up in its place writes nothing until it is told to (I7).
                Process::Down => Process::Down,
                _ => Process::Silent,
            };
            state.role = Role::Unknown;
            (state.position, state.replication, state.admits, state.passwords) = (None, None, None, None);
            state.replicas.clear();
            state.handover = Handover::None;
            state.identity = identity;
            state.fenced = false;
            state.ready = false;
            state.take_up(order.as_ref());
            state.problem = problem;
        });
    }

    /// New connections use the new certificates; those that there are go on.
    async fn reload_tls(&mut self) {
        let due = self.reload_due.is_some_and(|due| due <= Instant::now());
        let Some(session) = self.session.as_ref().filter(|_| due && self.config.tls) else { return };
        let reloaded = match certificates(&self.config) {
            Err(problem) => Err(problem),
            Ok(_) => {
                let file = self.config.run_dir.join("tls.crt");
                // Set to what it is, it is read again, and the key and the CA with it.
                let answer = session.link.ask(&command(["CONFIG", "SET", "tls-cert-file", &file.to_string_lossy()])).await;
                answer
                    .map(drop)
                    .map_err(|error| Problem::new(ProblemCode::Credentials, format!("the new certificates are refused: {error}")))
            }
        };
        match reloaded {
            Ok(()) => {
                info!("the database reads the new certificates");
                (self.reload_due, self.reload_problem) = (None, None);
            }
            Err(problem) => {
                warn!(reason = problem.message, "the database does not take the new certificates");
                self.reload_due = Some(Instant::now() + RELOAD_REST);
                self.reload_problem = Some(problem);
            }
        }
    }
}

impl Drop for Member<'_> {
    fn drop(&mut self) {
        self.abandon();
    }
}

// === impl Session ===

impl Session {
    fn link_problem(&mut self, now: Instant, facts: &Facts) -> Option<Problem> {
        let source = facts.source.as_ref().filter(|source| facts.role == Role::Replica && !source.up && source.syncing.is_none());
        let Some(source) = source else {
            self.disconnected = None;
            return None;
        };
        let since = *self.disconnected.get_or_insert(now);
        (now.duration_since(since) > CONNECT_GRACE).then(|| {
            let why = format!("the link to {} does not come up; see the log of the database container", source.host);
            Problem::new(ProblemCode::ReplicationFailed, why)
        })
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.gone.abort();
    }
}
