//! A connection to one mongod, by the official driver: who to be, what to ask, and its `hello` as it changes.
//!
//! The driver's own monitor holds an awaited `hello` open (10 s at a time), so a new primary or a crash is told at once and nothing is
//! polled. Each command has a deadline. No message of an error holds a password.

use std::time::Duration;

use bson::{Document, doc};
use mongodb::error::{Error, ErrorKind};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::{AuthMechanism, ClientOptions, Credential, ServerAddress, TlsOptions};
use mongodb::{Client, Database};
use tokio::sync::watch;
use tokio::time::timeout;

use super::keys::Key;
use super::{Config, Layout, Tls};

/// A mongod that answers does so in milliseconds.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// What only reads.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(3);
/// How long mongod holds a `hello` back when nothing changes.
const HELLO_PERIOD: Duration = Duration::from_secs(10);
/// Connections to one mongod: a look, a step and a question besides.
const MAX_CONNECTIONS: u32 = 3;
/// Members log in to each other as this user of this database, with the key for a password.
const SYSTEM: (&str, &str) = ("__system", "local");

/// Who to be. Its `Debug` shows no password.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// A member of the set.
    System(Key),
    /// A user.
    User {
        /// Its name.
        name: String,
        /// Its password.
        password: String,
        /// The database it belongs to.
        source: String,
    },
    /// Nobody: all that a mongod without authentication needs, and before the first user enough to make one from this machine.
    Nobody,
}

/// Why mongod did not do what it was asked to.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LinkError {
    /// It answered with an error.
    #[error("{message} (error {code})")]
    Command {
        /// mongod's code.
        code: i32,
        /// mongod's words.
        message: String,
    },
    /// It does not know us.
    #[error("it refuses the login: {0}")]
    Refused(String),
    /// Nobody listens: certain.
    #[error("{0}")]
    Gone(String),
    /// The connection failed.
    #[error("{0}")]
    Lost(String),
    /// It did not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// It answered what no mongod answers.
    #[error("an answer that cannot be read: {0}")]
    Malformed(String),
}

/// What `hello` says that a member lives by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// It takes writes.
    pub writable: bool,
    /// Who leads.
    pub primary: Option<String>,
    /// Its own host in the configuration.
    pub me: Option<String>,
    /// Version of the configuration.
    pub version: Option<i32>,
    /// It serves reads.
    pub secondary: bool,
}

/// What the monitor said last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sign {
    /// The last `hello`.
    pub hello: Hello,
    /// The connection broke since.
    pub gone: bool,
}

/// A connection to one mongod. It closes when dropped.
#[derive(Debug)]
pub struct Link {
    admin: Database,
    client: Client,
    signs: watch::Receiver<Sign>,
}

// === impl Link ===

impl Link {
    /// To the mongod at `host` (`NAME:PORT`), as `login`. Nothing is sent yet.
    ///
    /// # Errors
    /// The address or the certificates cannot be used.
    pub fn open(config: &Config, host: &str, login: &Login) -> Result<Self, LinkError> {
        let (sign, signs) = watch::channel(Sign::default());
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(host)?];
        options.direct_connection = Some(true);
        options.app_name = Some("understudy".into());
        options.credential = login.credential();
        options.tls = config.tls.as_ref().map(|tls| mongodb::options::Tls::Enabled(tls.options(config.layout.as_ref())));
        options.connect_timeout = Some(CONNECT_DEADLINE);
        options.server_selection_timeout = Some(CONNECT_DEADLINE);
        options.heartbeat_freq = Some(HELLO_PERIOD);
        options.max_pool_size = Some(MAX_CONNECTIONS);
        // A command that changes something is tried again only after another look.
        (options.retry_reads, options.retry_writes) = (Some(false), Some(false));
        options.sdam_event_handler = Some(EventHandler::callback(move |event| {
            let next = match event {
                SdamEvent::ServerHeartbeatSucceeded(event) => Sign { hello: Hello::read(&event.reply), gone: false },
                SdamEvent::ServerHeartbeatFailed(_) => Sign { hello: Hello::default(), gone: true },
                _ => return,
            };
            sign.send_if_modified(|last| std::mem::replace(last, next.clone()) != next);
        }));
        let client = Client::with_options(options)?;
        Ok(Self { admin: client.database("admin"), client, signs })
    }

    /// Runs a command of the database `admin`.
    ///
    /// # Errors
    /// Why it did not do it.
    pub async fn run(&self, command: Document, deadline: Duration) -> Result<Document, LinkError> {
        Self::command(&self.admin, command, deadline).await
    }

    /// Runs a command of another database.
    ///
    /// # Errors
    /// As [`Link::run`].
    pub async fn run_in(&self, database: &str, command: Document, deadline: Duration) -> Result<Document, LinkError> {
        Self::command(&self.client.database(database), command, deadline).await
    }

    async fn command(database: &Database, command: Document, deadline: Duration) -> Result<Document, LinkError> {
        timeout(deadline, database.run_command(command)).await.map_err(|_| LinkError::Deadline(deadline))?.map_err(LinkError::from)
    }

    /// What the monitor says, as it changes.
    #[must_use]
    pub fn signs(&self) -> watch::Receiver<Sign> {
        self.signs.clone()
    }

    /// Whether the login works: a command that only a login allows.
    ///
    /// # Errors
    /// Why not.
    pub async fn enter(&self) -> Result<(), LinkError> {
        self.run(doc! { "connectionStatus": 1 }, QUERY_DEADLINE).await.map(drop)
    }
}

// === impl Login ===

impl Login {
    fn credential(&self) -> Option<Credential> {
        let (name, password, source) = match self {
            Self::System(key) => (SYSTEM.0, key.reveal(), SYSTEM.1),
            Self::User { name, password, source } => (name.as_str(), password.as_str(), source.as_str()),
            Self::Nobody => return None,
        };
        // Named, since the driver would ask what mechanisms there are for a user, and `__system` is none.
        let mechanism = matches!(self, Self::System(_)).then_some(AuthMechanism::ScramSha256);
        let mut credential = Credential::default();
        (credential.username, credential.password) = (Some(name.into()), Some(password.into()));
        (credential.source, credential.mechanism) = (Some(source.into()), mechanism);
        Some(credential)
    }
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System(_) => f.write_str("System(***)"),
            Self::User { name, source, .. } => write!(f, "User({name}@{source}, ***)"),
            Self::Nobody => f.write_str("Nobody"),
        }
    }
}

// === impl Tls ===

impl Tls {
    fn options(&self, layout: Option<&Layout>) -> TlsOptions {
        let mut options = TlsOptions::default();
        options.allow_invalid_certificates = self.unchecked.then_some(true);
        options.ca_file_path = self.directory.as_ref().map(|directory| directory.join("ca.crt"));
        options.cert_key_file_path = layout.map(Layout::pem);
        options
    }
}

// === impl Hello ===

impl Hello {
    fn read(reply: &Document) -> Self {
        let text = |name: &str| reply.get_str(name).ok().map(str::to_owned);
        Self {
            // The driver's first greeting is the legacy one.
            writable: reply.get_bool("isWritablePrimary").or_else(|_| reply.get_bool("ismaster")).unwrap_or_default(),
            primary: text("primary"),
            me: text("me"),
            version: reply.get_i32("setVersion").ok(),
            secondary: reply.get_bool("secondary").unwrap_or_default(),
        }
    }

    /// What it says now.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn ask(link: &Link) -> Result<Self, LinkError> {
        Ok(Self::read(&link.run(doc! { "hello": 1 }, QUERY_DEADLINE).await?))
    }
}

// === impl LinkError ===

impl LinkError {
    /// mongod's code, when it answered.
    #[must_use]
    pub fn code(&self) -> Option<i32> {
        match self {
            Self::Command { code, .. } => Some(*code),
            _ => None,
        }
    }
}

impl From<Error> for LinkError {
    fn from(error: Error) -> Self {
        match *error.kind {
            ErrorKind::Command(error) => Self::Command { code: error.code, message: error.message },
            ErrorKind::Authentication { message, .. } => Self::Refused(message),
            ref other => Self::Lost(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_shows_no_password() {
        let login = Login::User { name: "root".into(), password: "hunter2".into(), source: "admin".into() };
        assert_eq!(format!("{login:?}"), "User(root@admin, ***)");
    }

    #[test]
    fn both_greetings_say_who_is_writable() {
        assert!(Hello::read(&doc! { "ismaster": true }).writable && Hello::read(&doc! { "isWritablePrimary": true }).writable);
        assert!(!Hello::read(&doc! { "isWritablePrimary": false, "secondary": true }).writable);
    }
}
