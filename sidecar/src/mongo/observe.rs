//! One look at a mongod: what it says of itself and of its set. Reads only.

use std::time::Duration;

use bson::{Bson, Document, doc};
use serde_json::Value;
use sidecar_protocol::mongo::config::Config;
use sidecar_protocol::mongo::rules::Server;
use sidecar_protocol::mongo::status::{MemberState, OpTime, Status};
use sidecar_protocol::mongo::{Answer, Process, State};

use super::link::{Hello, Link, LinkError, QUERY_DEADLINE};

/// `NotYetInitialized`: it is in no set.
pub const NOT_YET_INITIALIZED: i32 = 94;
/// `InvalidReplicaSetConfig`: it has a configuration and does not find itself in it.
pub const INVALID_CONFIG: i32 = 93;
/// `Unauthorized`.
pub const UNAUTHORIZED: i32 = 13;

/// What does not change from one look to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// `buildInfo.version`.
    pub version: String,
    /// Its feature compatibility version.
    pub fcv: Option<String>,
    /// Whether the user has set a default write concern.
    pub has_default_write_concern: bool,
}

/// What one look says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Its greeting.
    pub hello: Hello,
    /// Whether it is in a set.
    pub answer: Answer,
    /// It has a configuration and does not find itself in it.
    pub lost: bool,
    /// We may not look, or may only begin a set and its first user: nobody is logged in.
    pub locked: bool,
    /// What it does.
    pub member: MemberState,
    /// Term of the last election it knows of.
    pub election_term: Option<i64>,
    /// What it has applied.
    pub optime: Option<OpTime>,
    /// Everybody's state as it sees it.
    pub status: Option<Status>,
    /// The configuration.
    pub config: Option<Config<Bson>>,
    /// What changes seldom.
    pub standing: Standing,
}

/// Looks, with what was known `before`: a configuration of the same version is not asked for again.
///
/// # Errors
/// It does not answer, or not as a mongod does.
pub async fn look(link: &Link, before: Option<&Facts>, standing: Standing) -> Result<Facts, LinkError> {
    let hello = Hello::ask(link).await?;
    let mut facts = Facts { hello, standing, ..Facts::default() };
    match link.run(doc! { "replSetGetStatus": 1 }, QUERY_DEADLINE).await {
        Ok(reply) => facts.take(&reply)?,
        Err(error) => match error.code() {
            Some(NOT_YET_INITIALIZED) => facts.answer = Answer::NotInSet,
            Some(INVALID_CONFIG) => (facts.lost, facts.member) = (true, MemberState::Removed),
            Some(UNAUTHORIZED) => facts.locked = true,
            Some(_) => {}
            None => return Err(error),
        },
    }
    if facts.status.is_none() && !facts.lost {
        return Ok(facts);
    }
    let known = before.and_then(|before| before.config.clone());
    facts.config = match known.filter(|known| facts.hello.version == Some(known.version) && known.set_id().is_some()) {
        Some(known) => Some(known),
        None => match link.run(doc! { "replSetGetConfig": 1 }, QUERY_DEADLINE).await {
            Ok(reply) => Some(read(reply.get_document("config").ok())?),
            Err(error) if error.code().is_none() => return Err(error),
            Err(error) => {
                facts.locked = error.code() == Some(UNAUTHORIZED);
                None
            }
        },
    };
    if let Some(id) = facts.config.as_ref().and_then(Config::set_id) {
        facts.answer = Answer::InSet(id.clone());
    }
    Ok(facts)
}

/// What changes seldom.
///
/// # Errors
/// It does not answer.
pub async fn standing(link: &Link) -> Result<Standing, LinkError> {
    let version = link.run(doc! { "buildInfo": 1 }, QUERY_DEADLINE).await?.get_str("version").unwrap_or_default().to_owned();
    // Neither is to be had before a login, nor the second before there is a set: then the release's own is as good as any.
    let parameter = answered(link, doc! { "getParameter": 1, "featureCompatibilityVersion": 1 }).await?;
    let fcv = parameter.and_then(|reply| Some(reply.get_document("featureCompatibilityVersion").ok()?.get_str("version").ok()?.to_owned()));
    let concern = answered(link, doc! { "getDefaultRWConcern": 1 }).await?;
    let has_default_write_concern = concern.is_some_and(|reply| match reply.get_str("defaultWriteConcernSource") {
        Ok(source) => source == "global",
        // 4.4 shows one only when it was set.
        Err(_) => reply.contains_key("defaultWriteConcern"),
    });
    Ok(Standing { version, fcv, has_default_write_concern })
}

async fn answered(link: &Link, command: Document) -> Result<Option<Document>, LinkError> {
    match link.run(command, QUERY_DEADLINE).await {
        Ok(reply) => Ok(Some(reply)),
        Err(error) if error.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

fn read<T: serde::de::DeserializeOwned>(document: Option<&Document>) -> Result<T, LinkError> {
    let document = document.ok_or_else(|| LinkError::Malformed("a field is missing".into()))?;
    bson::deserialize_from_document(document.clone()).map_err(|error| LinkError::Malformed(error.to_string()))
}

// === impl Standing ===

impl Standing {
    /// What of a mongod its rules hang on.
    #[must_use]
    pub fn server(&self) -> Server {
        let text = self.fcv.as_deref().unwrap_or(&self.version);
        let mut numbers = text.split('.').map(|number| number.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Server { version, has_default_write_concern: self.has_default_write_concern }
    }

    /// The binary's major version.
    #[must_use]
    pub fn major(&self) -> u16 {
        self.version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0)
    }
}

// === impl Facts ===

impl Facts {
    fn take(&mut self, reply: &Document) -> Result<(), LinkError> {
        let status: Status = read(Some(reply))?;
        self.member = MemberState::from(reply.get_i32("myState").map_or(-1, i64::from));
        self.election_term = Some(status.term);
        let applied = reply.get_document("optimes").ok().and_then(|optimes| optimes.get_document("appliedOpTime").ok());
        let whole = !matches!(self.member, MemberState::Startup2 | MemberState::Arbiter);
        self.optime = applied.and_then(|applied| read::<OpTime>(Some(applied)).ok()).filter(|optime| optime.t >= 0 && whole);
        self.status = Some(status);
        Ok(())
    }

    /// Whether this mongod leads and takes writes.
    #[must_use]
    pub fn leads(&self) -> bool {
        self.hello.writable && self.member == MemberState::Primary
    }

    /// Whether anybody leads, as far as it knows.
    #[must_use]
    pub fn is_led(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.members.iter().any(|member| member.state == MemberState::Primary))
    }

    /// How far it is behind who leads. Optimes of the others are as old as their last heartbeat.
    #[must_use]
    pub fn lag(&self) -> Option<Duration> {
        let status = self.status.as_ref()?;
        let leader = status.primary()?;
        if self.member != MemberState::Secondary {
            return None;
        }
        let ahead = status.optime(leader)?.ts.t.saturating_sub(self.optime?.ts.t);
        Some(Duration::from_secs(ahead.into()))
    }

    /// Writes what was seen into the state.
    pub fn tell(&self, state: &mut State) {
        state.process = Process::Running;
        state.answer = self.answer.clone();
        state.member = self.member;
        state.writable = self.hello.writable;
        state.election_term = self.election_term;
        state.optime = self.optime;
        state.primary.clone_from(&self.hello.primary);
        state.me.clone_from(&self.hello.me);
        state.config = self.config.as_ref().and_then(plain);
        state.status.clone_from(&self.status);
        state.lag_seconds = self.lag().and_then(|lag| u32::try_from(lag.as_secs()).ok());
        state.version = Some(self.standing.version.clone());
        state.fcv.clone_from(&self.standing.fcv);
    }
}

/// A configuration without BSON, for reports.
fn plain(config: &Config<Bson>) -> Option<Config<Value>> {
    serde_json::to_value(config).and_then(serde_json::from_value).ok()
}

/// What is known of a mongod that does not answer: nothing of what it was.
pub fn tell_silence(process: Process, state: &mut State) {
    let State { data, version, fcv, accepted, keys, .. } = std::mem::take(state);
    *state = State { data, process, version, fcv, accepted, keys, ..State::default() };
}
