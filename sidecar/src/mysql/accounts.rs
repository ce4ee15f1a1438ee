//! The accounts of a cluster: who they are, what they may do, and the SQL that brings them about. The primary runs it, the binary log
//! carries it to the others.
//!
//! Each account carries a salted fingerprint of its password and rights as an attribute, so that any member can tell, from its own copy
//! and the Secret, whether there is anything to do: a promotion writes nothing, a rotation writes once.

use ring::digest::{SHA256, digest};
use ring::pbkdf2;
use std::num::NonZeroU32;

use super::Config;
use super::cnf::{CLONE_USER, LOCAL_USER, identifier, literal, replication_user};
use super::files::{self, At, FileError};

/// As strong as what MySQL itself keeps of a password (`caching_sha2_password_digest_rounds`).
const ROUNDS: NonZeroU32 = NonZeroU32::new(5000).expect("5000 is not zero");
/// Length of a salt.
pub const SALT_BYTES: usize = 16;
/// Key of the attribute.
const ATTRIBUTE: &str = "understudy";

/// Why the accounts cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    /// A file of a Secret.
    #[error(transparent)]
    File(#[from] FileError),
    /// The Secret names an account that is not the application's to have.
    #[error("the application's user {0:?} is reserved; choose another username")]
    Reserved(String),
}

/// One account.
#[derive(Clone, PartialEq, Eq)]
pub struct Account {
    /// User name; the host is always `%`.
    pub user: String,
    /// Password. This type has no `Debug`.
    pub password: String,
    /// `REQUIRE` clause.
    require: &'static str,
    /// Statements that come before the grants.
    before: Vec<String>,
    /// What it may do.
    grants: Vec<String>,
}

/// All accounts that must exist, with `members` of the cluster. Those of `barred` are left as they are: who is let in anew gets in last.
///
/// # Errors
/// A Secret cannot be read, or names a reserved account.
pub fn wanted(config: &Config, members: &[u32], barred: &[u32]) -> Result<Vec<Account>, AccountsError> {
    let require = if config.standalone { "SSL" } else { "X509" };
    let plain = |user: String, password: &str, grant: &str| Account {
        user,
        password: password.into(),
        require,
        before: vec![],
        grants: vec![format!("{grant} ON *.*")],
    };
    let replication = files::read(&config.system_dir.join("replication"))?;
    let mut accounts = vec![plain(CLONE_USER.into(), &files::read(&config.system_dir.join("clone"))?, "BACKUP_ADMIN")];
    let admitted = members.iter().filter(|ordinal| !barred.contains(ordinal));
    accounts.extend(admitted.map(|ordinal| plain(replication_user(*ordinal), &replication, "REPLICATION SLAVE")));
    // Without a Secret there is no account; one that was there stays.
    let dir = &config.app_dir;
    if dir.join("username").try_exists().at(dir)? {
        let (user, password, database) =
            (files::read(&dir.join("username"))?, files::read(&dir.join("password"))?, files::read(&dir.join("database"))?);
        if user.starts_with(LOCAL_USER) || user.starts_with("mysql.") || user == "root" || user.is_empty() {
            return Err(AccountsError::Reserved(user));
        }
        // In a grant, `_` and `%` of a database's name are wildcards.
        let pattern = identifier(&database.replace('\\', "\\\\").replace('_', "\\_").replace('%', "\\%"));
        accounts.push(Account {
            user,
            password,
            require: "NONE",
            before: vec![format!("CREATE DATABASE IF NOT EXISTS {}", identifier(&database))],
            grants: vec![format!("ALL ON {pattern}.*")],
        });
    }
    Ok(accounts)
}

/// Changes when anything about the accounts does: what this sidecar remembers having done.
#[must_use]
pub fn digest_of(accounts: &[Account]) -> Vec<u8> {
    let all: Vec<u8> = accounts.iter().flat_map(Account::essence).collect();
    digest(&SHA256, &all).as_ref().to_vec()
}

/// What MySQL shows of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Existing {
    /// Our attribute, if it has one.
    pub fingerprint: Option<String>,
}

/// The question whose rows are [`Existing`] accounts: `user`, `fingerprint`.
pub const EXISTING: &str = "SELECT u.User AS user, a.ATTRIBUTE->>'$.understudy' AS fingerprint FROM mysql.user u \
     LEFT JOIN information_schema.USER_ATTRIBUTES a ON a.USER=u.User AND a.HOST=u.Host WHERE u.Host='%'";

// === impl Account ===

impl Account {
    fn essence(&self) -> Vec<u8> {
        let mut essence = Vec::new();
        for part in [&self.user, &self.password, self.require].into_iter().chain(self.before.iter().chain(&self.grants).map(String::as_str))
        {
            essence.extend_from_slice(&(part.len() as u64).to_le_bytes());
            essence.extend_from_slice(part.as_bytes());
        }
        essence
    }

    /// `SALT$HASH`, both in hex.
    fn fingerprint(&self, salt: &[u8]) -> String {
        let mut hash = [0; 32];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ROUNDS, salt, &self.essence(), &mut hash);
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("{}${}", hex(salt), hex(&hash))
    }

    fn has(&self, fingerprint: &str) -> bool {
        let Some((salt, _)) = fingerprint.split_once('$') else { return false };
        let salt: Option<Vec<u8>> = (0..salt.len() / 2)
            .map(|index| salt.get(2 * index..2 * index + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok()))
            .collect();
        salt.is_some_and(|salt| self.fingerprint(&salt) == fingerprint)
    }

    /// The statements that are missing, none when the account is as it must be. The old password stays valid until the next
    /// change, so that nobody who still uses it is turned away.
    #[must_use]
    pub fn statements(&self, existing: Option<&Existing>, salt: &[u8]) -> Vec<String> {
        if existing.and_then(|existing| existing.fingerprint.as_deref()).is_some_and(|fingerprint| self.has(fingerprint)) {
            return vec![];
        }
        let (user, password) = (format!("{}@'%'", literal(&self.user)), literal(&self.password));
        let attribute = literal(&format!("{{\"{ATTRIBUTE}\": \"{}\"}}", self.fingerprint(salt)));
        let mut statements = self.before.clone();
        let require = self.require;
        if existing.is_none() {
            statements.push(format!("CREATE USER IF NOT EXISTS {user} IDENTIFIED BY {password} REQUIRE {require}"));
        } else {
            statements.push(format!("ALTER USER {user} IDENTIFIED BY {password} RETAIN CURRENT PASSWORD REQUIRE {require}"));
        }
        statements.extend(self.grants.iter().map(|grant| format!("GRANT {grant} TO {user}")));
        // Last: it says that all of the above is done.
        statements.push(format!("ALTER USER {user} ATTRIBUTE {attribute}"));
        statements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(password: &str) -> Account {
        Account { user: "shop".into(), password: password.into(), require: "X509", before: vec![], grants: vec!["ALL ON `shop`.*".into()] }
    }

    fn fingerprint(statements: &[String]) -> Existing {
        let text = statements.last().unwrap();
        let start = text.find(": \"").unwrap() + 3;
        Existing { fingerprint: Some(text[start..text.rfind("\"}").unwrap()].into()) }
    }

    #[test]
    fn an_account_that_is_as_it_must_be_costs_no_write() {
        let made = account("one").statements(None, b"salt");
        assert!(made[0].starts_with("CREATE USER"));
        assert!(account("one").statements(Some(&fingerprint(&made)), b"other").is_empty());
    }

    #[test]
    fn a_changed_password_keeps_the_old_one_valid() {
        let existing = fingerprint(&account("one").statements(None, b"salt"));
        let changed = account("two").statements(Some(&existing), b"other");
        assert!(changed[0].contains("RETAIN CURRENT PASSWORD"), "{}", changed[0]);
    }

    #[test]
    fn two_accounts_of_one_password_have_different_fingerprints() {
        assert_ne!(fingerprint(&account("one").statements(None, b"salt")), fingerprint(&account("one").statements(None, b"other")));
    }

    #[test]
    fn quotes_in_a_password_stay_inside_it() {
        let made = account("a'; DROP USER x; -- \\").statements(None, b"salt");
        assert!(made[0].contains("BY 'a''; DROP USER x; -- \\\\' REQUIRE"), "{}", made[0]);
    }
}
