//! Who may log in: the members' own accounts, the exporter's, and those that the order names. Each account is set by one `ACL SETUSER` that says all of
//! it, so there is no moment in which a password is missing; whoever is neither ours nor ordered is deleted, and cut off with it.
//!
//! A file holds one password or two, one a line: both are good, so that clients and members change over one by one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use redis::{Pipeline, Value};
use sidecar_protocol::redis::{Assignment, EXPORTER_USER, LOCAL_USER, Part, Problem, ProblemCode, User, passwords_text, replication_user};
use tracing::info;

use super::Config;
use super::link::{Link, LinkError, command, texts};
use crate::files::{self, FileError};
use crate::tls::sha256;

/// What `ACL SETUSER` takes that is not the order's to say: passwords come from Secrets, and accounts are on.
const NO_RULES: [&str; 5] = ["nopass", "resetpass", "reset", "on", "off"];
/// Everybody's account, which is off unless it is ordered.
const DEFAULT_USER: &str = "default";
/// A file has this many passwords at most.
const MOST_PASSWORDS: usize = 2;
/// All that an exporter needs but the configuration, which would show it the members' password.
const EXPORTER_RULES: &str = "resetchannels -@all +ping +hello +info +dbsize +role +client|setname +client|list +slowlog|get +slowlog|len \
     +latency|latest +latency|histogram +memory|stats +command|count";

/// An account that must exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// What follows the name in `ACL SETUSER`. Passwords are hashes here.
    rules: Vec<String>,
}

/// How this member logs in at whom it follows.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// `masteruser`; none where nobody has to log in.
    pub user: String,
    /// `masterauth`.
    pub password: String,
}

/// All that follows from the Secrets and the order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The accounts that must exist, as they must be.
    pub accounts: Vec<Account>,
    /// Accounts that are left as they are, because their passwords cannot be read.
    kept: BTreeSet<String>,
    /// How to log in elsewhere; `None` when that cannot be read.
    pub login: Option<Login>,
    /// [`State::passwords`](sidecar_protocol::redis::State::passwords), when all of this is brought about.
    pub digest: String,
    /// What cannot be read, or not be done.
    pub trouble: Option<Problem>,
}

/// What was brought about, in this process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Each account, and the line that it made in `ACL LIST`, or why the database refused it.
    accounts: BTreeMap<String, (Account, Result<String, String>)>,
}

/// An account that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// It may log in.
    pub on: bool,
    /// The whole line.
    line: String,
}

// Printed by nobody by mistake.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({}, ***)", self.user)
    }
}

/// Ordinals that may replicate from here while `assignment` holds.
#[must_use]
pub fn admitted(assignment: &Assignment) -> BTreeSet<u32> {
    match &assignment.part {
        Part::Primary { admitted, .. } => admitted.iter().copied().collect(),
        // Who hands over follows at once, over this very account.
        Part::Replica { heir_of, .. } => heir_of.iter().copied().collect(),
        Part::Isolated => BTreeSet::new(),
    }
}

/// Ordinals whose replication accounts are on.
#[must_use]
pub fn admits(listed: &[Listed]) -> BTreeSet<u32> {
    let prefix = replication_user(0);
    let prefix = prefix.trim_end_matches('0');
    listed.iter().filter(|account| account.on).filter_map(|account| account.name.strip_prefix(prefix)?.parse().ok()).collect()
}

/// What must be there under `assignment`.
#[must_use]
pub fn wanted(config: &Config, assignment: &Assignment) -> Wanted {
    let mut wanted = Wanted::default();
    let mut files: Vec<(String, String)> = Vec::new();
    match &config.system_dir {
        None => {
            // Plain: nobody has to log in.
            wanted.login = Some(Login { user: String::new(), password: String::new() });
            wanted.push(DEFAULT_USER, &[], "nopass allkeys allchannels +@all");
        }
        Some(directory) => {
            match read(directory, "exporter", &mut files) {
                Ok(passwords) => wanted.push(EXPORTER_USER, &passwords, EXPORTER_RULES),
                Err(error) if error.is_missing() => {}
                Err(error) => {
                    wanted.kept.insert(EXPORTER_USER.into());
                    wanted.blame(ProblemCode::Credentials, error);
                }
            }
            let replication = read(directory, "replication", &mut files);
            match &replication {
                Ok(passwords) => {
                    let user = replication_user(config.ordinal);
                    wanted.login = passwords.first().map(|password| Login { user, password: password.clone() });
                    for ordinal in admitted(assignment) {
                        wanted.push(&replication_user(ordinal), passwords, "resetchannels -@all +psync +replconf +ping");
                    }
                }
                Err(error) => {
                    wanted.kept.extend(admitted(assignment).into_iter().map(replication_user));
                    wanted.blame(ProblemCode::Credentials, error);
                }
            }
        }
    }
    for user in &assignment.users {
        application(config, user, &mut wanted, &mut files);
    }
    if config.system_dir.is_some() && !assignment.users.iter().any(|user| user.name == DEFAULT_USER) {
        wanted.accounts.push(Account { name: DEFAULT_USER.into(), rules: vec!["reset".into()] });
    }
    wanted.digest = sha256(passwords_text(files.iter().map(|(name, text)| (name.as_str(), text.as_str()))).as_bytes());
    wanted
}

fn application(config: &Config, user: &User, wanted: &mut Wanted, files: &mut Vec<(String, String)>) {
    let User { name, rules } = user;
    let named = !name.is_empty() && name.chars().all(|char| char.is_ascii_graphic() && char != '/') && !name.starts_with('.');
    if !named || name.starts_with(LOCAL_USER) {
        return wanted
            .blame(ProblemCode::AccountRefused, format!("the user {name:?} cannot have this name: choose another one in spec.users"));
    }
    if let Some(rule) = rules.split_whitespace().find(|rule| rule.starts_with(['>', '<', '#', '!']) || NO_RULES.contains(rule)) {
        let what = if rule.starts_with(['>', '<', '#', '!']) { "a password" } else { rule };
        wanted.kept.insert(name.clone());
        let why = format!("the rules of the user {name} contain {what}: passwords come from its Secret, and accounts are on; remove it");
        return wanted.blame(ProblemCode::AccountRefused, why);
    }
    match read(&config.users_dir, name, files) {
        Ok(passwords) => {
            wanted.accounts.retain(|account| account.name != *name);
            wanted.push(name, &passwords, rules);
        }
        // Who names it is known before its file is there, by a minute; that its Secret is missing, the operator says.
        Err(error) if error.is_missing() => {
            wanted.kept.insert(name.clone());
        }
        Err(error) => {
            wanted.kept.insert(name.clone());
            wanted.blame(ProblemCode::Credentials, format!("the passwords of the user {name} cannot be read: {error}"));
        }
    }
}

/// The passwords of one account, noted in `files`.
fn read(directory: &Path, name: &str, files: &mut Vec<(String, String)>) -> Result<Vec<String>, FileError> {
    let text = files::read(&directory.join(name))?;
    let passwords: Vec<String> = text.lines().filter(|line| !line.is_empty()).take(MOST_PASSWORDS).map(str::to_owned).collect();
    files.push((name.to_owned(), text));
    Ok(passwords)
}

/// Sets and deletes what is due, in one exchange.
///
/// # Errors
/// There is no answer.
pub async fn bring_about(link: &Link, wanted: &Wanted, listed: &[Listed], done: &Done) -> Result<Done, LinkError> {
    let mut pipeline = Pipeline::new();
    let strangers: Vec<&str> = wanted.strangers(listed).collect();
    if !strangers.is_empty() {
        // Cut off first: who may not follow any more acknowledges nothing more (I2).
        pipeline.add_command(command(["ACL", "DELUSER"].into_iter().chain(strangers.iter().copied())));
    }
    let due: Vec<&Account> = wanted.accounts.iter().filter(|account| !done.holds(account, listed)).collect();
    for account in &due {
        let words = ["ACL", "SETUSER", &account.name].into_iter().chain(account.rules.iter().map(String::as_str));
        pipeline.add_command(command(words));
    }
    pipeline.add_command(command(["ACL", "LIST"]));
    let count = usize::from(!strangers.is_empty()) + due.len() + 1;
    let answers = link.ask_all(&pipeline, count).await?;
    let mut answers = answers.into_iter();
    if !strangers.is_empty()
        && let Some(Err(error)) = answers.next().map(Value::extract_error)
    {
        return Err(error.into());
    }
    let answered: Vec<(&Account, Option<String>)> = due
        .into_iter()
        .zip(answers.by_ref())
        .map(|(account, answer)| (account, answer.extract_error().err().map(|error| LinkError::from(error).to_string())))
        .collect();
    let lines: Vec<Listed> =
        answers.next().and_then(|lines| texts(&lines)).unwrap_or_default().iter().filter_map(|line| Listed::parse(line)).collect();
    let mut next = Done::default();
    for account in &wanted.accounts {
        let name = &account.name;
        let made = match answered.iter().find(|(due, _)| *due == account) {
            None => done.accounts.get(name).map(|(_, made)| made.clone()),
            Some((_, Some(why))) => Some(Err(why.clone())),
            Some((_, None)) => lines.iter().find(|listed| listed.name == *name).map(|listed| Ok(listed.line.clone())),
        };
        if let Some(made) = made {
            next.accounts.insert(name.clone(), (account.clone(), made));
        }
    }
    change_passwords(link, answered.iter().filter(|(_, why)| why.is_some()).map(|(account, _)| *account), listed).await?;
    let names: Vec<&str> = answered.iter().map(|(account, _)| account.name.as_str()).collect();
    info!(set = ?names, deleted = ?strangers, "accounts brought up to date");
    Ok(next)
}

/// An account whose new rules are refused goes on with the old ones, and with the new passwords: those are what people are told.
async fn change_passwords(link: &Link, refused: impl Iterator<Item = &Account>, listed: &[Listed]) -> Result<(), LinkError> {
    let mut pipeline = Pipeline::new();
    let mut count = 0;
    for account in refused.filter(|account| listed.iter().any(|listed| listed.name == account.name)) {
        let hashes = account.rules.iter().filter(|rule| rule.starts_with('#')).map(String::as_str);
        pipeline.add_command(command(["ACL", "SETUSER", &account.name, "resetpass"].into_iter().chain(hashes)));
        count += 1;
    }
    if count > 0 {
        link.ask_all(&pipeline, count).await?;
    }
    Ok(())
}

fn refusal(name: &str, why: &str) -> Problem {
    Problem::new(ProblemCode::AccountRefused, format!("the database refuses the rules of the user {name}: {why}; mend them in spec.users"))
}

// === impl Wanted ===

impl Wanted {
    fn push(&mut self, name: &str, passwords: &[String], rules: &str) {
        let hashes = passwords.iter().map(|password| format!("#{}", sha256(password.as_bytes())));
        let rules =
            ["reset".to_owned(), "on".to_owned()].into_iter().chain(hashes).chain(rules.split_whitespace().map(str::to_owned)).collect();
        self.accounts.push(Account { name: name.into(), rules });
    }

    fn blame(&mut self, code: ProblemCode, why: impl ToString) {
        self.trouble.get_or_insert_with(|| Problem::new(code, why));
    }

    /// Accounts that are there and must not be.
    fn strangers<'a>(&'a self, listed: &'a [Listed]) -> impl Iterator<Item = &'a str> {
        let known = |name: &str| {
            [LOCAL_USER, DEFAULT_USER].contains(&name)
                || self.kept.contains(name)
                || self.accounts.iter().any(|account| account.name == name)
        };
        listed.iter().map(|listed| listed.name.as_str()).filter(move |name| !known(name))
    }

    /// Whether something is to be set or deleted.
    #[must_use]
    pub fn is_due(&self, listed: &[Listed], done: &Done) -> bool {
        self.strangers(listed).next().is_some() || !self.accounts.iter().all(|account| done.holds(account, listed))
    }
}

// === impl Done ===

impl Done {
    /// Whether `account` is as it was made, or was refused as it is.
    fn holds(&self, account: &Account, listed: &[Listed]) -> bool {
        self.accounts.get(&account.name).is_some_and(|(account_made, made)| {
            account_made == account && made.as_ref().map_or(true, |line| listed.iter().any(|listed| listed.line == *line))
        })
    }

    /// The first account that the database refused, and why.
    #[must_use]
    pub fn refused(&self) -> Option<Problem> {
        self.accounts.iter().find_map(|(name, (_, made))| made.as_ref().err().map(|why| refusal(name, why)))
    }
}

// === impl Listed ===

impl Listed {
    /// A line of `ACL LIST`.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let mut words = line.strip_prefix("user ")?.split_whitespace();
        Some(Self { name: words.next()?.to_owned(), on: words.next() == Some("on"), line: line.to_owned() })
    }
}
