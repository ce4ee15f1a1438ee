//! One client's conversation, without its socket: what each command is answered, in the words of a real Sentinel.

use super::accounts::{Accounts, DEFAULT_USER};
use super::pubsub::{By, Subscriptions};
use super::resp::{Command, Value, Version};
use super::table::{self, COMMANDS, Spec};
use super::view::{Event, View};

mod queries;

/// Sentinel's words.
const NO_AUTH: &str = "NOAUTH Authentication required.";
const NO_AUTH_HELLO: &str = "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO AUTH <user> <pass> \
                             option can be used to authenticate the client and select the RESP protocol version at the same time";
const WRONG_PASS: &str = "WRONGPASS invalid username-password pair or user is disabled.";
const NO_PASSWORD: &str = "ERR AUTH <password> called without any password configured for the default user. Are you sure your \
                           configuration is correct?";
const BAD_NAME: &str = "ERR Client names cannot contain spaces, newlines or special characters.";

/// Of a client's command, how much is repeated in an answer.
const MAX_ECHO: usize = 128;

/// What everything is answered from.
#[derive(Clone, Copy, Debug)]
pub struct World<'a> {
    /// The cluster.
    pub view: &'a View,
    /// Who may ask.
    pub accounts: &'a Accounts,
    /// How many clients are connected now.
    pub clients: usize,
    /// For how many seconds this sidecar has answered.
    pub uptime: u64,
}

/// One client.
#[derive(Debug, Default)]
pub struct Session {
    id: u64,
    version: Version,
    name: Vec<u8>,
    user: Option<String>,
    subscriptions: Subscriptions,
    over: bool,
}

type Answer = Result<Value, String>;

fn ok() -> Answer {
    Ok(Value::word("OK"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Session {
    /// A client that has said nothing yet.
    #[must_use]
    pub fn new(id: u64) -> Self {
        Self { id, ..Self::default() }
    }

    /// Whether it has not logged in, and must.
    #[must_use]
    pub fn is_stranger(&self, accounts: &Accounts) -> bool {
        self.user.is_none() && !accounts.is_open()
    }

    /// Whether it logged in as somebody who is no user any more.
    #[must_use]
    pub fn is_banished(&self, accounts: &Accounts) -> bool {
        self.user.as_ref().is_some_and(|user| !accounts.knows(user))
    }

    /// Whether it waits for events.
    #[must_use]
    pub fn listens(&self) -> bool {
        !self.subscriptions.is_empty()
    }

    /// Whether it has taken its leave.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Appends what `events` are to this client.
    pub fn tell(&self, events: &[Event], out: &mut Vec<u8>) {
        events.iter().flat_map(|event| self.subscriptions.messages(event)).for_each(|message| message.write(self.version, out));
    }

    /// Appends the answer to `command`.
    pub fn answer(&mut self, command: &Command, world: World<'_>, out: &mut Vec<u8>) {
        let answers = match self.dispatch(command, world) {
            Ok(answers) => answers,
            Err(error) => vec![Value::Error(error)],
        };
        // After HELLO, in the version that it asked for.
        answers.iter().for_each(|answer| answer.write(self.version, out));
    }

    fn dispatch(&mut self, command: &Command, world: World<'_>) -> Result<Vec<Value>, String> {
        let (name, arguments) = command.split_first().ok_or("ERR an empty command")?;
        let spec = table::find(COMMANDS, name).ok_or_else(|| unknown(name, arguments))?;
        let (sub, full) = subcommand(spec, arguments)?;
        if !sub.unwrap_or(spec).takes(command.len()) {
            return Err(format!("ERR wrong number of arguments for '{full}' command"));
        }
        if self.is_stranger(world.accounts) && !spec.is_for_strangers() {
            return Err(NO_AUTH.into());
        }
        let for_listeners = ["ping", "quit", "reset", "subscribe", "unsubscribe", "psubscribe", "punsubscribe"];
        if self.listens() && self.version == Version::Two && !for_listeners.contains(&spec.name) {
            return Err(format!(
                "ERR Can't execute '{full}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
            ));
        }
        let one = match (spec.name, sub.map(|sub| sub.name)) {
            ("subscribe", _) => return Ok(self.subscriptions.add(By::Name, arguments)),
            ("psubscribe", _) => return Ok(self.subscriptions.add(By::Pattern, arguments)),
            ("unsubscribe", _) => return Ok(self.subscriptions.remove(By::Name, arguments)),
            ("punsubscribe", _) => return Ok(self.subscriptions.remove(By::Pattern, arguments)),
            ("ping", _) => self.ping(arguments),
            ("hello", _) => self.hello(arguments, world),
            ("auth", _) => self.auth(arguments, world.accounts),
            ("quit", _) => {
                self.over = true;
                ok()
            }
            ("reset", _) => {
                *self = Self::new(self.id);
                Ok(Value::word("RESET"))
            }
            ("role", _) => {
                let names = vec![Value::text(&world.view.master_name)];
                Ok(Value::Array(vec![Value::text("sentinel"), Value::Array(names)]))
            }
            ("info", _) => Ok(Value::text(queries::info(arguments, world))),
            ("client", Some(sub)) => self.client(sub, &arguments[1..]),
            ("acl", _) => Ok(Value::text(self.user.as_deref().unwrap_or(DEFAULT_USER))),
            ("command", Some("count")) => Ok(Value::Integer(COMMANDS.len().try_into().unwrap_or_default())),
            ("command", Some("list")) => Ok(table::list()),
            ("command", Some("docs")) => Ok(Value::Map(Vec::new())),
            ("command", Some("info")) if arguments.len() > 1 => Ok(table::info(&arguments[1..])),
            ("command", _) => Ok(table::all()),
            ("sentinel", Some(sub)) => queries::sentinel(sub, &arguments[1..], world.view),
            _ => Err(unknown(name, arguments)),
        };
        one.map(|value| vec![value])
    }

    fn ping(&self, arguments: &[Vec<u8>]) -> Answer {
        let echo = match arguments {
            [] => None,
            [word] => Some(word),
            _ => return Err("ERR wrong number of arguments for 'ping' command".into()),
        };
        Ok(match echo {
            _ if self.listens() && self.version == Version::Two => {
                Value::Array(vec![Value::text("pong"), Value::text(echo.map_or(&b""[..], |word| word))])
            }
            None => Value::word("PONG"),
            Some(word) => Value::text(word),
        })
    }

    fn hello(&mut self, arguments: &[Vec<u8>], world: World<'_>) -> Answer {
        let (version, mut options) = match arguments.split_first() {
            None => (self.version, arguments),
            Some((version, options)) => {
                let version = text(version).parse::<i64>().map_err(|_| "ERR Protocol version is not an integer or out of range")?;
                let version = match version {
                    2 => Version::Two,
                    3 => Version::Three,
                    _ => return Err("NOPROTO unsupported protocol version".into()),
                };
                (version, options)
            }
        };
        let (mut login, mut name) = (None, None);
        loop {
            options = match options {
                [] => break,
                [option, user, password, rest @ ..] if option.eq_ignore_ascii_case(b"auth") => {
                    login = Some((user, password));
                    rest
                }
                [option, value, rest @ ..] if option.eq_ignore_ascii_case(b"setname") => {
                    name = Some(value);
                    rest
                }
                [option, ..] => return Err(format!("ERR Syntax error in HELLO option '{}'", text(option))),
            };
        }
        if let Some((user, password)) = login {
            self.log_in(user, password, world.accounts)?;
        }
        if self.is_stranger(world.accounts) {
            return Err(NO_AUTH_HELLO.into());
        }
        if let Some(name) = name {
            self.rename(name)?;
        }
        self.version = version;
        let number = if version == Version::Three { 3 } else { 2 };
        Ok(Value::Map(vec![
            (Value::text("server"), Value::text("redis")),
            (Value::text("version"), Value::text(&world.view.version)),
            (Value::text("proto"), Value::Integer(number)),
            (Value::text("id"), self.number()),
            (Value::text("mode"), Value::text("sentinel")),
            (Value::text("modules"), Value::Array(Vec::new())),
        ]))
    }

    fn auth(&mut self, arguments: &[Vec<u8>], accounts: &Accounts) -> Answer {
        match arguments {
            [_] if accounts.is_open() => Err(NO_PASSWORD.into()),
            [password] => self.log_in(DEFAULT_USER.as_bytes(), password, accounts),
            [user, password] => self.log_in(user, password, accounts),
            _ => Err("ERR syntax error".into()),
        }
    }

    fn log_in(&mut self, user: &[u8], password: &[u8], accounts: &Accounts) -> Answer {
        let user = std::str::from_utf8(user).map_err(|_| WRONG_PASS)?;
        // Where nobody needs to log in there is one user, as in Redis.
        if !accounts.admit(user, password) || (accounts.is_open() && user != DEFAULT_USER) {
            return Err(WRONG_PASS.into());
        }
        self.user = (!accounts.is_open()).then(|| user.to_owned());
        ok()
    }

    fn client(&mut self, sub: &str, arguments: &[Vec<u8>]) -> Answer {
        match (sub, arguments) {
            ("id", _) => Ok(self.number()),
            ("getname", _) if self.name.is_empty() => Ok(Value::Null),
            ("getname", _) => Ok(Value::text(&self.name)),
            ("setname", [name]) => self.rename(name),
            ("setinfo", [what, _]) if what.eq_ignore_ascii_case(b"lib-name") || what.eq_ignore_ascii_case(b"lib-ver") => ok(),
            ("setinfo", [what, _]) => Err(format!("ERR Unrecognized option '{}'", text(what))),
            _ => {
                let resp = if self.version == Version::Three { 3 } else { 2 };
                let user = self.user.as_deref().unwrap_or(DEFAULT_USER);
                Ok(Value::text(format!("id={} name={} db=0 user={user} resp={resp}\n", self.id, text(&self.name))))
            }
        }
    }

    fn rename(&mut self, name: &[u8]) -> Answer {
        if name.len() > MAX_ECHO || !name.iter().all(|byte| (b'!'..=b'~').contains(byte)) {
            return Err(BAD_NAME.into());
        }
        self.name = name.to_vec();
        ok()
    }

    fn number(&self) -> Value {
        Value::Integer(self.id.try_into().unwrap_or(i64::MAX))
    }
}

/// The subcommand asked for, and how Redis calls it.
fn subcommand<'a>(spec: &'a Spec, arguments: &[Vec<u8>]) -> Result<(Option<&'a Spec>, String), String> {
    let Some(word) = arguments.first().filter(|_| !spec.subcommands.is_empty()) else { return Ok((None, spec.name.to_owned())) };
    match table::find(spec.subcommands, word) {
        Some(sub) => Ok((Some(sub), format!("{}|{}", spec.name, sub.name))),
        None => Err(format!("ERR unknown subcommand '{}'. Try {} HELP.", echo(word), spec.name.to_uppercase())),
    }
}

fn unknown(name: &[u8], arguments: &[Vec<u8>]) -> String {
    let mut begin = String::new();
    for argument in arguments {
        if begin.len() >= MAX_ECHO {
            break;
        }
        begin += &format!("'{}' ", echo(&argument[..argument.len().min(MAX_ECHO - begin.len())]));
    }
    format!("ERR unknown command '{}', with args beginning with: {begin}", echo(name))
}

fn echo(bytes: &[u8]) -> String {
    text(&bytes[..bytes.len().min(MAX_ECHO)])
}

#[cfg(test)]
mod tests;
