//! The life of a member: look, report, take one step, look again.
//!
//! What mongod tells by itself, a new primary or its own end, is looked at when it is told. A step runs beside the looking; there is one at a
//! time, and one that keeps failing is tried ever less often. Nothing here decides: [`super::converge`] does.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use sidecar_protocol::Order;
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Accepted, Assignment, Problem, ProblemCode, Process, State};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::converge::{Own, Step, Verdict, converge, inquiry};
use super::execute::{Access, StepError};
use super::keys::{self, Key};
use super::link::{Link, LinkError, Login, QUERY_DEADLINE, Sign};
use super::observe::{self, Facts, Standing, look, tell_silence};
use super::others::{self, Asked};
use super::users::{self, Account};
use super::{Config, LOCAL, ready, secrets};
use crate::files;
use crate::report::{Reporter, retries};

/// Between two looks while nothing happens: as often as members hear of each other.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// The same while something is to be done, or waited for.
const BUSY_PERIOD: Duration = Duration::from_millis(500);
/// Between two looks while a step runs, and between two tries to reach a mongod that does not answer.
const EAGER_PERIOD: Duration = Duration::from_millis(100);
/// A look that takes longer is no answer.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// A listener on this machine answers at once.
const KNOCK_DEADLINE: Duration = Duration::from_secs(1);
/// What changes seldom is asked for this often.
const STANDING_PERIOD: Duration = Duration::from_secs(30);
/// Between two questions to the members that are not there.
const INQUIRY_PERIOD: Duration = Duration::from_secs(1);
/// mongod is allowed this much to come up before it is called down and a problem; recovery goes on all the same.
const STARTUP_GRACE: Duration = Duration::from_secs(30);
/// Optimes and lag alone are published this often; anything else at once.
const POSITION_PERIOD: Duration = Duration::from_secs(1);
/// Longest rest between two tries of a step.
const LAST_RETRY: Duration = Duration::from_secs(5);
/// Until a step that somebody else overtook is thought about again.
const NOT_YET: Duration = Duration::from_millis(100);
/// A step that was not needed for this long starts again without a pause.
const FORGIVEN: Duration = Duration::from_secs(5);
/// mongod's heartbeats look for a name that it did not find, but for those of a set of one. After this it is started anew.
const LOST_PATIENCE: Duration = Duration::from_secs(20);

/// A step at work.
struct Running {
    step: Step,
    accounts: Option<String>,
    task: JoinHandle<Result<(), StepError>>,
}

/// What is remembered of one mongod process, from its first answer to its end.
struct Session {
    link: Arc<Link>,
    signs: watch::Receiver<Sign>,
    login: Login,
    /// Digests of the mounted keys that it takes.
    taken: Vec<String>,
    standing: (Standing, Instant),
    last: Option<Facts>,
}

/// One member's memory between two looks.
pub struct Member {
    config: Arc<Config>,
    orders: watch::Receiver<Option<Order<Assignment>>>,
    tls_changed: watch::Receiver<u64>,
    /// Somebody waits for mongod to end; over when it has.
    leaving: watch::Sender<bool>,
    asked_to_leave: watch::Receiver<bool>,
    reporter: Reporter<State>,
    session: Option<Session>,
    keys: Vec<Key>,
    /// The key that mongod took last: it goes on doing so until it ends, whatever is mounted meanwhile.
    took: Option<Key>,
    running: Option<Running>,
    pauses: ExponentialBackoff,
    not_before: Instant,
    needed: Instant,
    busy: bool,
    step_problem: Option<Problem>,
    asked: Asked,
    inquiry: Option<JoinHandle<Asked>>,
    inquired: Option<Instant>,
    /// Digest of the accounts that were brought about.
    accounts_done: Option<String>,
    /// Since when nobody has led, and since when this member has not found itself.
    leaderless: Option<Instant>,
    lost: Option<Instant>,
    /// mongod refuses our login: it is not asked as often.
    refused: bool,
    first_user_done: bool,
    tls_due: bool,
    tls_problem: Option<Problem>,
    met: bool,
    answered: Instant,
    published: Instant,
}

/// What one look and the Secrets say.
struct Seen {
    facts: Facts,
    own: Own,
    accounts: Vec<Account>,
    digest: Option<String>,
    trouble: Option<Problem>,
}

// === impl Member ===

impl Member {
    /// A member whose mongod may be there already, or not yet.
    #[must_use]
    pub fn new(
        config: Config,
        orders: watch::Receiver<Option<Order<Assignment>>>,
        tls_changed: watch::Receiver<u64>,
        leaving: watch::Sender<bool>,
        reporter: Reporter<State>,
    ) -> Self {
        let now = Instant::now();
        Self {
            config: config.into(),
            orders,
            tls_changed,
            asked_to_leave: leaving.subscribe(),
            leaving,
            reporter,
            session: None,
            keys: Vec::new(),
            took: None,
            running: None,
            pauses: retries(LAST_RETRY),
            not_before: now,
            needed: now,
            busy: true,
            step_problem: None,
            asked: Asked::default(),
            inquiry: None,
            inquired: None,
            accounts_done: None,
            leaderless: None,
            lost: None,
            refused: false,
            first_user_done: false,
            tls_due: false,
            tls_problem: None,
            met: false,
            answered: now,
            published: now,
        }
    }

    /// Lives until dropped.
    pub async fn live(mut self) {
        loop {
            let trouble = self.refresh_secrets();
            match timeout(LOOK_DEADLINE, self.look()).await.unwrap_or(Err(LinkError::Deadline(LOOK_DEADLINE))) {
                Ok(facts) => {
                    let seen = self.seen(facts, trouble).await;
                    self.act_on(seen);
                    self.reload_tls().await;
                }
                Err(error) => self.silent(&error, trouble),
            }
            self.rest().await;
        }
    }

    /// Keys and certificates as they are mounted now. What cannot be read leaves what there was.
    fn refresh_secrets(&mut self) -> Option<Problem> {
        if let Some(path) = &self.config.key_file {
            match keys::read(path) {
                Ok(keys) if keys != self.keys => {
                    self.keys = keys;
                    // What mongod takes of them is found out anew.
                    self.session = None;
                }
                Ok(_) => {}
                Err(why) => return Some(Problem::new(ProblemCode::Credentials, why)),
            }
        }
        self.config.layout.as_ref().and_then(|layout| secrets(&self.config, layout).err())
    }

    async fn look(&mut self) -> Result<Facts, LinkError> {
        if self.session.is_none() {
            let session = self.meet().await?;
            if let Login::System(key) = &session.login {
                self.took = Some(key.clone());
            }
            self.session = Some(session);
        }
        let Some(session) = &mut self.session else { return Err(LinkError::Lost("no session".into())) };
        // There is no feature version before there is a set.
        let incomplete = session.standing.0.fcv.is_none() && session.last.as_ref().is_some_and(|last| last.config.is_some());
        if incomplete || session.standing.1.elapsed() >= STANDING_PERIOD {
            session.standing = (observe::standing(&session.link).await?, Instant::now());
        }
        let facts = look(&session.link, session.last.as_ref(), session.standing.0.clone()).await?;
        session.last = Some(facts.clone());
        (self.met, self.answered) = (true, Instant::now());
        Ok(facts)
    }

    /// Opens a session: knocks first, since a closed port is certain at once, then logs in as whoever mongod knows.
    async fn meet(&self) -> Result<Session, LinkError> {
        let knock = timeout(KNOCK_DEADLINE, TcpStream::connect((LOCAL, self.config.port))).await;
        knock.map_err(|_| LinkError::Deadline(KNOCK_DEADLINE))?.map_err(|error| LinkError::Gone(error.to_string()))?;
        let host = format!("{LOCAL}:{}", self.config.port);
        let (mut met, mut taken, mut refused) = (None, Vec::new(), None);
        let took = self.took.iter().filter(|took| !self.keys.contains(took));
        for login in self.keys.iter().chain(took).cloned().map(Login::System).chain(self.config.login.clone()) {
            let link = Link::open(&self.config, &host, &login)?;
            match link.enter().await {
                Ok(()) => {
                    if let Login::System(key) = &login
                        && self.keys.contains(key)
                    {
                        taken.push(key.digest());
                    }
                    met = met.or(Some((link, login)));
                }
                Err(LinkError::Refused(why)) => refused = Some(why),
                Err(error) => return Err(error),
            }
        }
        let (link, login) = match (met, refused) {
            (Some(met), _) => met,
            // With a user's name and password only there may be no user yet: then this machine may make the first one.
            (None, Some(why)) if !self.keys.is_empty() => return Err(LinkError::Refused(why)),
            (None, _) => {
                let link = Link::open(&self.config, &host, &Login::Nobody)?;
                link.enter().await?;
                (link, Login::Nobody)
            }
        };
        let standing = (observe::standing(&link).await?, Instant::now());
        info!(?login, version = standing.0.version, "mongod answers");
        let signs = link.signs();
        Ok(Session { link: link.into(), signs, login, taken, standing, last: None })
    }

    /// What the look means together with what only this sidecar knows.
    async fn seen(&mut self, facts: Facts, trouble: Option<Problem>) -> Seen {
        let now = Instant::now();
        let mut trouble = trouble;
        let order = self.orders.borrow().clone();
        self.leaderless = if facts.is_led() || facts.status.is_none() { None } else { self.leaderless.or(Some(now)) };
        self.lost = if facts.lost { self.lost.or(Some(now)) } else { None };
        self.inquire(&facts, order.as_ref()).await;
        let part = order.as_ref().and_then(|order| order.assignment.part());
        let (mut accounts, mut digest) = (Vec::new(), None);
        if facts.leads() {
            match users::wanted(&self.config, part.map_or(&[], |part| &part.users)) {
                Ok(wanted) => (digest, accounts) = (Some(users::digest_of(&wanted)), wanted),
                Err(error) => trouble = trouble.or_else(|| Some(Problem::new(ProblemCode::Credentials, error))),
            }
        } else {
            // Another member may change them while this one does not lead.
            self.accounts_done = None;
        }
        let patient = self.lost.is_some_and(|since| now.duration_since(since) > LOST_PATIENCE);
        let nobody = self.session.as_ref().is_some_and(|session| session.login == Login::Nobody);
        let look_anew = patient && super::resolves(&self.config).await;
        let own = Own {
            answers: self.asked.answers.clone(),
            leaving: *self.leaving.borrow(),
            users_due: !accounts.is_empty() && digest != self.accounts_done,
            leaderless: self.leaderless.map_or(Duration::ZERO, |since| now.duration_since(since)),
            look_anew,
            first_user: self.first_user_due(&facts, nobody),
            changing: self.running.as_ref().is_some_and(|running| matches!(running.step, Step::Reconfig(_))),
        };
        if nobody && facts.locked && facts.status.is_none() {
            let why = "mongod wants a login: it knows no user of the configured name and password, and not the key if one is mounted";
            trouble = trouble.or_else(|| Some(Problem::new(ProblemCode::Credentials, why)));
        }
        let stranger = self.session.as_ref().is_some_and(|session| matches!(session.login, Login::System(_)) && session.taken.is_empty());
        if stranger {
            let why = "mongod was started with another key than the one that is mounted now, and refuses that: give the old one back";
            trouble = trouble.or_else(|| Some(Problem::new(ProblemCode::KeyRefused, why)));
        }
        if !self.asked.refusing.is_empty() {
            let why = format!("{} refuses our login: its mongod was started with another key", self.asked.refusing.join(", "));
            trouble = trouble.or_else(|| Some(Problem::new(ProblemCode::KeyRefused, why)));
        }
        Seen { facts, own, accounts, digest, trouble }
    }

    /// On its own, whoever leads makes the user that is configured: as a member, or, where members have no key, while nobody has to log in.
    fn first_user_due(&self, facts: &Facts, nobody: bool) -> bool {
        let may = (nobody && facts.locked) || (!nobody && !self.keys.is_empty());
        self.config.standalone && self.config.login.is_some() && may && !self.first_user_done
    }

    /// Asks those who are wanted and not there, beside everything else.
    async fn inquire(&mut self, facts: &Facts, order: Option<&Order<Assignment>>) {
        if self.inquiry.as_ref().is_some_and(JoinHandle::is_finished)
            && let Some(inquiry) = self.inquiry.take()
        {
            self.asked = inquiry.await.unwrap_or_default();
        }
        let hosts = order.map_or_else(Vec::new, |order| inquiry(&self.config, facts, &order.assignment));
        if hosts.is_empty() {
            self.asked = Asked::default();
            return;
        }
        self.asked.answers.retain(|host, _| hosts.contains(host));
        self.asked.refusing.retain(|host| hosts.contains(host));
        let due = self.inquired.is_none_or(|asked| asked.elapsed() >= INQUIRY_PERIOD);
        if let Some(session) = self.session.as_ref().filter(|_| due && self.inquiry.is_none()) {
            let (config, login) = (Arc::clone(&self.config), session.login.clone());
            self.inquired = Some(Instant::now());
            self.inquiry = Some(tokio::spawn(async move { others::ask(&config, &login, hosts).await }));
        }
    }

    fn act_on(&mut self, seen: Seen) {
        let order = self.orders.borrow().clone();
        let verdict = order.as_ref().map(|order| converge(&self.config, &seen.facts, &order.assignment, &seen.own)).unwrap_or_default();
        let now = Instant::now();
        let waits = verdict.said.as_ref().is_some_and(|said| !said.settled);
        self.busy = verdict.step.is_some() || waits || !verdict.converged || self.inquiry.is_some();
        self.publish(&seen, order.as_ref(), &verdict);
        let Some(step) = verdict.step else {
            self.step_problem = None;
            if now.duration_since(self.needed) > FORGIVEN {
                self.pauses = retries(LAST_RETRY);
            }
            return;
        };
        self.needed = now;
        let Some(session) = self.session.as_ref().filter(|_| self.running.is_none() && now >= self.not_before) else { return };
        info!(step = step.words(), why = verdict.said.as_ref().map(|said| said.next.as_str()), "next step");
        debug!(?step, "in full");
        let (config, link, login) = (Arc::clone(&self.config), Arc::clone(&session.link), session.login.clone());
        let access = Access { config, link, login, accounts: seen.accounts };
        let work = step.clone();
        let task = tokio::spawn(async move { access.execute(&work).await });
        self.running = Some(Running { step, accounts: seen.digest, task });
    }

    fn publish(&mut self, seen: &Seen, order: Option<&Order<Assignment>>, verdict: &Verdict) {
        let Seen { facts, own, trouble, .. } = seen;
        let problem = self.full_volume().or_else(|| verdict.problem.clone()).or_else(|| self.step_problem.clone());
        let problem = problem.or_else(|| trouble.clone()).or_else(|| self.tls_problem.clone());
        let ready = ready::judge(facts, self.config.max_lag_seconds) && !own.leaving;
        let keys = self.session.as_ref().map_or_else(Vec::new, |session| session.taken.clone());
        let due = self.published.elapsed() >= POSITION_PERIOD;
        let data = self.config.data();
        let mut published = false;
        self.reporter.change(|state| {
            let before = state.clone();
            state.data = data;
            facts.tell(state);
            state.keys = keys;
            state.ready = ready;
            state.said.clone_from(&verdict.said);
            state.problem = problem;
            state.accepted = order.map(|order| Accepted::of(order, verdict.converged));
            if !due && only_positions_differ(&before, state) {
                *state = before;
            } else {
                published = true;
            }
        });
        if published {
            self.published = Instant::now();
        }
    }

    fn full_volume(&self) -> Option<Problem> {
        let layout = self.config.layout.as_ref()?;
        files::full_volume(&layout.data_dir).map(|message| Problem::new(ProblemCode::Storage, message))
    }

    fn silent(&mut self, error: &LinkError, trouble: Option<Problem>) {
        if self.session.take().is_some() {
            info!(%error, "mongod does not answer");
        }
        let late = self.answered.elapsed() > STARTUP_GRACE;
        let ended = matches!(error, LinkError::Gone(_));
        let why = match error {
            LinkError::Refused(why) => Some(Problem::new(ProblemCode::KeyRefused, format!("mongod refuses the mounted key: {why}"))),
            _ if late => {
                let why = format!("mongod does not answer: {error}; see the log of the database container");
                Some(Problem::new(ProblemCode::ProcessDown, why))
            }
            _ => None,
        };
        let problem = self.full_volume().or(why).or(trouble);
        let refused = matches!(error, LinkError::Refused(_));
        let order = self.orders.borrow().clone();
        let data = self.config.data();
        (self.leaderless, self.busy, self.refused) = (None, true, refused);
        if ended {
            self.leaving.send_if_modified(|leaving| std::mem::replace(leaving, false));
        }
        self.reporter.change(|state| {
            let process = match state.process {
                // It answers, though not us.
                _ if refused => Process::Running,
                _ if !self.met && !late => Process::Starting,
                _ if ended => Process::Down,
                Process::Down => Process::Down,
                _ => Process::Silent,
            };
            tell_silence(process, state);
            state.data = data;
            state.take_up(order.as_ref());
            state.problem = problem;
        });
    }

    /// Until there is a reason to look again.
    async fn rest(&mut self) {
        let period = match &self.session {
            Some(_) if self.running.is_some() => EAGER_PERIOD,
            Some(_) if self.busy => BUSY_PERIOD,
            Some(_) => LOOK_PERIOD,
            None if self.refused => LOOK_PERIOD,
            None => EAGER_PERIOD,
        };
        let Self { running, session, orders, tls_changed, asked_to_leave, .. } = self;
        let step = async {
            match running {
                Some(running) => (&mut running.task).await,
                None => pending().await,
            }
        };
        let sign = async {
            match session {
                Some(session) => drop(session.signs.changed().await),
                None => pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = step => outcome,
            () = sign => return self.heard(),
            Ok(()) = orders.changed() => {
                self.pauses = retries(LAST_RETRY);
                self.not_before = Instant::now();
                return;
            }
            Ok(()) = asked_to_leave.changed() => {
                self.not_before = Instant::now();
                return;
            }
            Ok(()) = tls_changed.changed() => {
                self.tls_due = true;
                return;
            }
            () = sleep(period) => return,
        };
        self.step_ended(outcome.unwrap_or_else(|error| Err(LinkError::Lost(error.to_string()).into())));
    }

    /// mongod said something by itself, or its connection broke.
    fn heard(&mut self) {
        let gone = self.session.as_mut().is_some_and(|session| session.signs.borrow_and_update().gone);
        if gone {
            info!("the connection to mongod broke");
            self.session = None;
        }
    }

    fn step_ended(&mut self, outcome: Result<(), StepError>) {
        let Some(Running { step, accounts, .. }) = self.running.take() else { return };
        let pause = match outcome {
            Ok(()) => {
                debug!(step = step.words(), "done");
                self.step_problem = None;
                if step == Step::Users {
                    self.accounts_done = accounts;
                }
                if step == Step::FirstUser {
                    self.first_user_done = true;
                }
                if matches!(step, Step::FirstUser | Step::SetWriteConcern | Step::SetFcv(_)) {
                    // Logged in anew, and looked at anew.
                    self.session = None;
                }
                self.pauses.next().filter(|_| matches!(step, Step::LookAnew | Step::Stand)).unwrap_or_default()
            }
            Err(error) => {
                warn!(step = step.words(), %error, "the step failed");
                self.step_problem = error.problem(&step);
                if error.is_overtaken() { NOT_YET } else { self.pauses.next().unwrap_or(LAST_RETRY) }
            }
        };
        if step == Step::LookAnew {
            self.lost = None;
        }
        self.not_before = Instant::now() + pause;
    }

    /// Members and clients that connect from now on see the new certificate; connections that there are go on.
    async fn reload_tls(&mut self) {
        let Some(session) = self.session.as_ref().filter(|_| self.tls_due) else { return };
        self.tls_due = false;
        let reloaded = session.link.run(bson::doc! { "rotateCertificates": 1 }, QUERY_DEADLINE).await;
        self.tls_problem = match reloaded {
            Ok(_) => {
                info!("mongod reads the new certificates");
                // Our own connections are made with them, too.
                self.session = None;
                None
            }
            Err(error) => Some(Problem::new(
                ProblemCode::Credentials,
                format!("mongod does not take the new certificates before it is started anew: {error}"),
            )),
        };
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.task.abort();
        }
        if let Some(inquiry) = &self.inquiry {
            inquiry.abort();
        }
    }
}

/// Whether the second state says nothing new but how far things are.
fn only_positions_differ(before: &State, after: &State) -> bool {
    let settled = |state: &State| {
        let mut state = State { optime: None, lag_seconds: None, ..state.clone() };
        for member in state.status.iter_mut().flat_map(|status| &mut status.members) {
            member.optime = None;
        }
        state
    };
    let known = before.optime.is_some() == after.optime.is_some() && after.member != MemberState::Unknown;
    known && settled(before) == settled(after)
}
