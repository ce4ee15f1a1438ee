//! A connection to a mysqld: deadlines on everything, and errors that cannot carry a secret.

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{ClientIdentity, Conn, DriverError, IoError, OptsBuilder, Row, SslOpts};
use tokio::time::timeout;

use super::Config;
use super::cnf::LOCAL_USER;

/// Connecting to a living mysqld takes milliseconds.
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// A plain question of a living mysqld is answered in milliseconds.
pub const QUERY_DEADLINE: Duration = Duration::from_secs(3);
/// `ER_PARSE_ERROR` quotes the statement, and so perhaps a password in it.
const PARSE_ERROR: u16 = 1064;
/// `ER_ACCESS_DENIED_ERROR`.
pub const ACCESS_DENIED: u16 = 1045;

/// Why mysqld did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SqlError {
    /// It says no.
    #[error("{message} (error {code})")]
    Refused {
        /// MySQL's error number.
        code: u16,
        /// MySQL's sentence.
        message: String,
    },
    /// Certain: nobody listens, or it has closed the connection.
    #[error("connection: {0}")]
    Gone(String),
    /// Neither an answer nor an end.
    #[error("{0}")]
    Unclear(String),
    /// It did not answer in time; the statement may still run.
    #[error("no answer within {} s", .0.as_secs_f32())]
    Deadline(Duration),
}

impl SqlError {
    /// Whether mysqld answered with this error number.
    #[must_use]
    pub fn is(&self, number: u16) -> bool {
        matches!(self, Self::Refused { code, .. } if *code == number)
    }

    fn without(self, secrets: &[&str]) -> Self {
        match self {
            Self::Refused { code: PARSE_ERROR, .. } => {
                Self::Refused { code: PARSE_ERROR, message: "MySQL does not read our statement".into() }
            }
            Self::Refused { code, mut message } => {
                for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
                    message = message.replace(secret, "***");
                }
                Self::Refused { code, message }
            }
            other => other,
        }
    }
}

impl From<mysql_async::Error> for SqlError {
    fn from(error: mysql_async::Error) -> Self {
        match error {
            mysql_async::Error::Server(error) => Self::Refused { code: error.code, message: error.message },
            mysql_async::Error::Driver(DriverError::ConnectionClosed) => Self::Gone(error.to_string()),
            mysql_async::Error::Io(IoError::Io(ref io)) if is_end(io.kind()) => Self::Gone(error.to_string()),
            other => Self::Unclear(other.to_string()),
        }
    }
}

/// A frozen mysqld whose queue of connections is full gives an error too (`EAGAIN`), and so do our own limits.
fn is_end(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionRefused
            | ErrorKind::NotFound
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionAborted
            | ErrorKind::BrokenPipe
            | ErrorKind::UnexpectedEof
            | ErrorKind::NotConnected
    )
}

/// One connection. Drop it after any error but [`SqlError::Refused`].
pub struct Sql(Conn);

impl Sql {
    /// Connects over the unix socket as the sidecar's own account.
    ///
    /// # Errors
    /// mysqld does not answer, or does not know us.
    pub async fn local(socket: &Path, password: &str) -> Result<Self, SqlError> {
        let options = options().socket(Some(socket.to_string_lossy())).user(Some(LOCAL_USER)).pass(Some(password));
        Self::connect(options).await
    }

    /// Connects to another member over TLS.
    ///
    /// # Errors
    /// It does not answer, its certificate or our password is wrong.
    pub async fn remote(config: &Config, host: &str, user: &str, password: &str) -> Result<Self, SqlError> {
        let tls = match &config.tls_dir {
            Some(dir) => SslOpts::default()
                .with_root_certs(vec![dir.join("ca.crt").into()])
                .with_disable_built_in_roots(true)
                .with_client_identity(Some(ClientIdentity::new(dir.join("tls.crt").into(), dir.join("tls.key").into()))),
            // No CA to verify with: encrypted all the same. Without one in the pod there is nothing better to compare with.
            None => SslOpts::default().with_danger_accept_invalid_certs(true).with_danger_skip_domain_validation(true),
        };
        let options = options()
            .ip_or_hostname(host)
            .tcp_port(sidecar_protocol::mysql::PORT)
            .user(Some(user))
            .pass(Some(password))
            .prefer_socket(false)
            .ssl_opts(tls);
        Self::connect(options).await.map_err(|error| error.without(&[password]))
    }

    async fn connect(options: OptsBuilder) -> Result<Self, SqlError> {
        match timeout(CONNECT_DEADLINE, Conn::new(options)).await {
            Ok(connected) => Ok(Self(connected?)),
            Err(_) => Err(SqlError::Deadline(CONNECT_DEADLINE)),
        }
    }

    /// The id that `KILL` takes.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    /// Runs statements that return no rows, separated by nothing: one each.
    ///
    /// # Errors
    /// mysqld refuses, hangs or is gone.
    pub async fn run(&mut self, statement: &str, deadline: Duration) -> Result<(), SqlError> {
        match timeout(deadline, self.0.query_drop(statement)).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(SqlError::Deadline(deadline)),
        }
    }

    /// As [`Sql::run`], for a statement that holds secrets: its error does not.
    ///
    /// # Errors
    /// As [`Sql::run`].
    pub async fn run_secret(&mut self, statement: &str, secrets: &[&str], deadline: Duration) -> Result<(), SqlError> {
        self.run(statement, deadline).await.map_err(|error| error.without(secrets))
    }

    /// The rows of a question.
    ///
    /// # Errors
    /// As [`Sql::run`].
    pub async fn rows(&mut self, question: &str) -> Result<Vec<Row>, SqlError> {
        match timeout(QUERY_DEADLINE, self.0.query(question)).await {
            Ok(rows) => Ok(rows?),
            Err(_) => Err(SqlError::Deadline(QUERY_DEADLINE)),
        }
    }

    /// The rows of several questions, asked in one round trip and answered in this order.
    ///
    /// # Errors
    /// As [`Sql::run`], by the first that fails.
    pub async fn answers<const N: usize>(&mut self, questions: [&str; N]) -> Result<[Vec<Row>; N], SqlError> {
        let ask = async {
            let mut results = self.0.query_iter(questions.join(";")).await?;
            let mut answers = [const { Vec::new() }; N];
            for answer in &mut answers {
                *answer = results.collect().await?;
            }
            results.drop_result().await?;
            mysql_async::Result::Ok(answers)
        };
        match timeout(QUERY_DEADLINE, ask).await {
            Ok(answers) => Ok(answers?),
            Err(_) => Err(SqlError::Deadline(QUERY_DEADLINE)),
        }
    }

    /// Ends when the connection does: mysqld holds the answer back for as long as it lives.
    pub async fn until_gone(mut self) {
        while self.0.query_drop("DO SLEEP(86400)").await.is_ok() {}
    }
}

fn options() -> OptsBuilder {
    // Limits given here save a round trip at each connect. Our statements are written for an empty sql_mode; none waits long for a lock.
    OptsBuilder::default()
        .max_allowed_packet(Some(16 * 1024 * 1024))
        .wait_timeout(Some(28_800))
        .stmt_cache_size(0)
        .setup(vec!["SET SESSION sql_mode='', SESSION wait_timeout=86400, SESSION lock_wait_timeout=10"])
}

/// A column as text; `NULL`, absent or unreadable is `None`.
#[must_use]
pub fn text(row: &Row, column: &str) -> Option<String> {
    row.get_opt::<Option<String>, _>(column)?.ok()?
}

/// A column as a number.
#[must_use]
pub fn number(row: &Row, column: &str) -> Option<u64> {
    row.get_opt::<Option<u64>, _>(column)?.ok()?
}
