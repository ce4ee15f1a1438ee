//! The one connection to the database: over the pod's own socket, as the sidecar's own account.
//!
//! All that is asked and ordered goes through it in turn, so a step and a look never see each other half done, and `CLIENT KILL` of everybody else
//! spares it. When the process ends, so does the connection, in milliseconds.

use std::io;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, Pipeline, RedisConnectionInfo, RedisError, ServerErrorKind, Value};
use sidecar_protocol::redis::LOCAL_USER;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A listener on this machine answers at once, if it lives.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// One exchange. The database answers in a millisecond; a long script of a client holds it up.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// Why there is no answer, or which.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// Nobody listens, or who did has ended.
    #[error("{0}")]
    Gone(String),
    /// It does not take our password.
    #[error("it refuses the sidecar's account: {0}")]
    Refused(String),
    /// It is there, and does not answer in time.
    #[error("no answer within {} s", .0.as_secs())]
    Deadline(Duration),
    /// It answers that it will not.
    #[error("{0}")]
    Server(String),
}

/// The connection. A copy of it is the same connection.
#[derive(Clone)]
pub struct Link(MultiplexedConnection);

impl Link {
    /// Connects and logs in. The handle ends when the connection does.
    ///
    /// # Errors
    /// Nobody listens, or not to us.
    pub async fn open(socket: &Path, password: &str) -> Result<(Self, JoinHandle<()>), LinkError> {
        let opening = async {
            let stream = UnixStream::connect(socket).await.map_err(|error| LinkError::Gone(error.to_string()))?;
            let login = RedisConnectionInfo::default().set_username(LOCAL_USER).set_password(password).set_skip_set_lib_name();
            let config = AsyncConnectionConfig::new().set_response_timeout(None);
            let (connection, driver) = MultiplexedConnection::new_with_config(&login, stream, config).await?;
            Ok((Self(connection), tokio::spawn(driver)))
        };
        timeout(CONNECT_DEADLINE, opening).await.map_err(|_| LinkError::Deadline(CONNECT_DEADLINE))?
    }

    /// The answer to one command.
    ///
    /// # Errors
    /// There is none, or it is a refusal.
    pub async fn ask(&self, command: &Cmd) -> Result<Value, LinkError> {
        let mut connection = self.0.clone();
        let answer = timeout(DEADLINE, connection.send_packed_command(command)).await.map_err(|_| LinkError::Deadline(DEADLINE))??;
        answer.extract_error().map_err(LinkError::from)
    }

    /// The answers to several commands, sent at once and carried out one after the other. A refusal takes the place of its answer.
    ///
    /// # Errors
    /// There are none.
    pub async fn ask_all(&self, commands: &Pipeline, count: usize) -> Result<Vec<Value>, LinkError> {
        let mut connection = self.0.clone();
        let answers = connection.send_packed_commands(commands, 0, count);
        Ok(timeout(DEADLINE, answers).await.map_err(|_| LinkError::Deadline(DEADLINE))??)
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let message = || match (error.code(), error.detail()) {
            (Some(code), Some(detail)) => format!("{code} {detail}"),
            _ => error.to_string(),
        };
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Refused(message()),
            ErrorKind::Server(ServerErrorKind::ResponseError) | ErrorKind::Extension => Self::Server(message()),
            ErrorKind::Server(_) => Self::Server(message()),
            _ => Self::Gone(error.to_string()),
        }
    }
}

/// Asks for a copy, as a replica does, and goes away at once. A primary that nobody ever followed begins its history only when somebody asks, under a new
/// name: asked by us, the name that it has when it opens is the one that it keeps.
///
/// # Errors
/// It does not begin.
pub async fn begin_history(socket: &Path, password: &str) -> Result<(), LinkError> {
    let begin = async {
        let mut stream = BufReader::new(UnixStream::connect(socket).await?);
        // One by one: who asks for a copy must not have another answer to come.
        for command in [&format!("AUTH {LOCAL_USER} {password}"), "REPLCONF capa eof", "PSYNC ? -1"] {
            stream.write_all(format!("{command}\r\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            if !answer.starts_with('+') {
                return Err(io::Error::other(answer.trim_end().to_owned()));
            }
        }
        Ok(())
    };
    let begun = timeout(DEADLINE, begin).await.map_err(|_| LinkError::Deadline(DEADLINE))?;
    begun.map_err(|error: io::Error| LinkError::Gone(error.to_string()))
}

/// A command of words.
#[must_use]
pub fn command<'a>(words: impl IntoIterator<Item = &'a str>) -> Cmd {
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command
}

/// An answer as text.
#[must_use]
pub fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

/// An answer of several texts.
#[must_use]
pub fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        _ => None,
    }
}
