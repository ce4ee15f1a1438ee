//! Accounts, brought about on the primary. What is right already is left alone: nobody's sessions end and nothing is written.
//!
//! A password is checked by logging in with it before it is changed, so a sidecar that restarts changes none. mongod has one password a
//! user: whoever connects anew between the change of the Secret and the change here is refused for that moment, sessions that there are
//! go on.

use std::collections::BTreeSet;
use std::time::Duration;

use bson::{Bson, Document, doc};
use ring::digest::{Context, SHA256};
use sidecar_protocol::mongo::{Role, User};

use super::Config;
use super::LOCAL;
use super::link::{Link, LinkError, Login, QUERY_DEADLINE};
use crate::files::{self, FileError};
use crate::tls::hex;

/// `createUser` of one that is there: another sidecar was faster, or `usersInfo` was a moment old.
const ALREADY_EXISTS: i32 = 51003;

/// A password is put through thousands of rounds, and an account waits for a majority.
const WRITE_DEADLINE: Duration = Duration::from_secs(15);

/// An account with its password.
#[derive(Clone)]
pub struct Account {
    user: User,
    password: String,
}

/// Why accounts cannot be brought about.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// A password cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The name of a Secret's file is a path.
    #[error("the secret of user {0} is no plain file name")]
    Path(String),
    /// mongod refuses.
    #[error("user {user}: {source}")]
    Refused {
        /// Whose account.
        user: String,
        /// mongod's words.
        #[source]
        source: LinkError,
    },
}

/// `users` with their passwords, as they are mounted now.
///
/// # Errors
/// One cannot be read.
pub fn wanted(config: &Config, users: &[User]) -> Result<Vec<Account>, UserError> {
    users.iter().map(|user| account(config, user)).collect()
}

fn account(config: &Config, user: &User) -> Result<Account, UserError> {
    let plain = !user.secret.is_empty() && !user.secret.starts_with('.') && !user.secret.contains('/');
    if !plain {
        return Err(UserError::Path(user.name.clone()));
    }
    let password = files::read(&config.users_dir.join(&user.secret))?;
    Ok(Account { user: user.clone(), password })
}

/// Tells accounts that were brought about from others.
#[must_use]
pub fn digest_of(accounts: &[Account]) -> String {
    let mut digest = Context::new(&SHA256);
    for Account { user: User { name, database, roles, secret: _ }, password } in accounts {
        let roles: Vec<_> = roles.iter().map(|Role { role, db }| format!("{role}@{db}")).collect();
        for part in [name, database, &roles.join(","), password] {
            digest.update(&part.len().to_be_bytes());
            digest.update(part.as_bytes());
        }
    }
    hex(digest.finish().as_ref())
}

/// Brings all of them about.
///
/// # Errors
/// The first that cannot be.
pub async fn bring_about(config: &Config, link: &Link, accounts: &[Account]) -> Result<(), UserError> {
    for account in accounts {
        let refused = |source| UserError::Refused { user: account.user.name.clone(), source };
        account.bring_about(config, link).await.map_err(refused)?;
    }
    Ok(())
}

// === impl Account ===

impl Account {
    /// The user that the sidecar itself logs in as, with all rights: where members have no key.
    #[must_use]
    pub fn first(login: &Login) -> Option<Self> {
        let Login::User { name, password, source } = login else { return None };
        let roles = vec![Role { role: "root".into(), db: "admin".into() }];
        let user = User { name: name.clone(), database: source.clone(), roles, secret: String::new() };
        Some(Self { user, password: password.clone() })
    }

    /// Makes it, or finds that somebody did.
    ///
    /// # Errors
    /// mongod refuses.
    pub async fn create(&self, link: &Link) -> Result<(), LinkError> {
        let User { name, database, roles, .. } = &self.user;
        let command = doc! { "createUser": name, "pwd": &self.password, "roles": documents(roles) };
        match link.run_in(database, command, WRITE_DEADLINE).await {
            Err(error) if error.code() == Some(ALREADY_EXISTS) => Ok(()),
            created => created.map(drop),
        }
    }

    async fn bring_about(&self, config: &Config, link: &Link) -> Result<(), LinkError> {
        let User { name, database, roles, .. } = &self.user;
        let info = link.run_in(database, doc! { "usersInfo": { "user": name, "db": database } }, QUERY_DEADLINE).await?;
        let Some(there) = info.get_array("users").ok().and_then(|users| users.first()).and_then(Bson::as_document) else {
            return self.create(link).await;
        };
        let mut change = doc! { "updateUser": name };
        if granted(there) != roles.iter().cloned().collect() {
            change.insert("roles", documents(roles));
        }
        if !self.works(config).await? {
            change.insert("pwd", &self.password);
        }
        if change.len() > 1 {
            link.run_in(database, change, WRITE_DEADLINE).await?;
        }
        Ok(())
    }

    /// Whether its password is the right one already.
    async fn works(&self, config: &Config) -> Result<bool, LinkError> {
        let User { name, database, .. } = &self.user;
        let login = Login::User { name: name.clone(), password: self.password.clone(), source: database.clone() };
        match Link::open(config, &format!("{LOCAL}:{}", config.port), &login)?.enter().await {
            Ok(()) => Ok(true),
            Err(LinkError::Refused(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn documents(roles: &[Role]) -> Vec<Document> {
    roles.iter().map(|Role { role, db }| doc! { "role": role, "db": db }).collect()
}

fn granted(user: &Document) -> BTreeSet<Role> {
    let roles = user.get_array("roles").into_iter().flatten().filter_map(Bson::as_document);
    let role = |role: &Document| Some(Role { role: role.get_str("role").ok()?.into(), db: role.get_str("db").ok()?.into() });
    roles.filter_map(role).collect()
}

#[cfg(test)]
mod tests {
    use super::super::conf::tests::config;
    use super::*;

    fn user(secret: &str) -> User {
        User { name: "app".into(), database: "shop".into(), roles: vec![], secret: secret.into() }
    }

    #[test]
    fn a_secret_is_named_by_a_plain_file_name() {
        for path in ["../etc/passwd", "/etc/passwd", "a/b", "", "..data"] {
            assert!(matches!(account(&config(), &user(path)), Err(UserError::Path(_))), "{path}");
        }
        assert!(matches!(account(&config(), &user("app")), Err(UserError::File(_))));
    }

    #[test]
    fn another_password_or_role_is_another_account() {
        let account = |password: &str, roles: &[Role]| {
            digest_of(&[Account { user: User { roles: roles.to_vec(), ..user("app") }, password: password.into() }])
        };
        let read = Role { role: "read".into(), db: "shop".into() };
        assert_eq!(account("a", &[]), account("a", &[]));
        assert!(account("a", &[]) != account("b", &[]) && account("a", &[]) != account("a", &[read]));
    }
}
