//! Members as one of them sees them: states, and what the last heartbeats said.

use bson::{DateTime, Document};
use tokio::time::Instant;

use crate::optime::OpTime;

/// A member's state, by mongod's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No configuration yet, or not read yet.
    Startup = 0,
    /// Elected.
    Primary = 1,
    /// Copies and answers reads.
    Secondary = 2,
    /// Has data, is not ready.
    Recovering = 3,
    /// Copies everything.
    Startup2 = 5,
    /// Never heard of.
    Unknown = 6,
    /// Votes only.
    Arbiter = 7,
    /// Does not answer.
    Down = 8,
    /// Undoes what the others do not have.
    Rollback = 9,
    /// Not in the configuration.
    Removed = 10,
}

impl State {
    /// `stateStr`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Startup => "STARTUP",
            Self::Primary => "PRIMARY",
            Self::Secondary => "SECONDARY",
            Self::Recovering => "RECOVERING",
            Self::Startup2 => "STARTUP2",
            Self::Unknown => "UNKNOWN",
            Self::Arbiter => "ARBITER",
            Self::Down => "(not reachable/healthy)",
            Self::Rollback => "ROLLBACK",
            Self::Removed => "REMOVED",
        }
    }

    /// By its number.
    pub fn numbered(number: i32) -> Self {
        let all = [
            Self::Startup,
            Self::Primary,
            Self::Secondary,
            Self::Recovering,
            Self::Startup2,
            Self::Arbiter,
            Self::Down,
            Self::Rollback,
            Self::Removed,
        ];
        all.into_iter().find(|state| *state as i32 == number).unwrap_or(Self::Unknown)
    }

    /// Answers reads.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::Primary | Self::Secondary)
    }
}

/// An optime and the clock time it was written at.
#[derive(Clone, Copy, Debug)]
pub struct Point {
    /// Where.
    pub at: OpTime,
    /// When.
    pub wall: DateTime,
}

impl Point {
    /// No data.
    pub const NULL: Self = Self { at: OpTime::NULL, wall: DateTime::from_millis(0) };
}

/// What is known of another member.
#[derive(Clone, Debug)]
pub struct View {
    /// `host:port`: how it is found again when the configuration changes.
    pub host: String,
    /// Answers; `None` before the first answer or failure.
    pub up: Option<bool>,
    /// Since when it answers.
    pub up_since: Instant,
    /// Its state.
    pub state: State,
    /// How far its data goes, or went when it was last heard of: it has what it had. Durable is the same here.
    pub applied: Point,
    /// When it was last asked.
    pub asked: DateTime,
    /// When it last asked.
    pub asking: DateTime,
    /// When it last showed life by an answer or by copying; at first, when it was first heard of.
    pub alive: Instant,
    /// When a heartbeat was last answered.
    pub answered: Option<Instant>,
    /// Its configuration.
    pub config: (i64, i64),
    /// Why it does not answer.
    pub message: String,
    /// It refused the key.
    pub refused: bool,
    /// When it was elected.
    pub elected: Option<bson::Timestamp>,
    /// Whom it copies from.
    pub source: String,
    /// Round trip.
    pub ping_millis: i64,
}

impl View {
    /// Nothing known yet.
    pub fn new(host: &str) -> Self {
        let never = DateTime::from_millis(0);
        Self {
            host: host.to_owned(),
            up: None,
            up_since: Instant::now(),
            state: State::Startup,
            applied: Point::NULL,
            asked: never,
            asking: never,
            alive: Instant::now(),
            answered: None,
            config: (-1, -1),
            message: String::new(),
            refused: false,
            elected: None,
            source: String::new(),
            ping_millis: 0,
        }
    }

    /// Answers.
    pub fn is_up(&self) -> bool {
        self.up == Some(true)
    }

    /// How far its data goes, if it answers.
    pub fn heard(&self) -> OpTime {
        if self.is_up() { self.applied.at } else { OpTime::NULL }
    }

    /// An answer to a heartbeat.
    pub fn hear(&mut self, reply: &Document, now: Instant) {
        if !self.is_up() {
            self.up_since = now;
        }
        self.up = Some(true);
        self.refused = false;
        self.message.clear();
        self.state = State::numbered(reply.get_i32("state").unwrap_or(State::Unknown as i32));
        let applied = Point { at: OpTime::field(reply, "opTime"), wall: reply.get_datetime("wallTime").copied().unwrap_or(DateTime::MIN) };
        self.applied = applied;
        self.config = (reply.get_i64("v").unwrap_or(-1), reply.get_i64("configTerm").unwrap_or(-1));
        self.elected = reply.get_timestamp("electionTime").ok();
        self.source = reply.get_str("syncingTo").unwrap_or_default().to_owned();
        self.alive = now;
        self.answered = Some(now);
    }

    /// No answer.
    pub fn lose(&mut self, message: String, refused: bool) {
        self.up = Some(false);
        self.state = State::Down;
        self.message = message;
        self.refused = refused;
        self.elected = None;
        self.source.clear();
    }
}
