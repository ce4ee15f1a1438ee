//! Who may ask: users by SHA-256 of their passwords, two of each user while a password rotates. No password is kept.

use std::collections::BTreeMap;

use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};

/// The user of an `AUTH` with a password alone.
pub const DEFAULT_USER: &str = "default";

/// Of a password. Redis' own `#HASH` of `ACL SETUSER` is the same digest.
pub type Hash = [u8; SHA256_OUTPUT_LEN];

/// Who may ask.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Accounts {
    /// Everybody.
    Open,
    /// Nobody yet: the accounts are not known. Every login fails.
    #[default]
    Closed,
    /// Who knows one of a user's passwords: the present one, and during a rotation the one before or after it.
    Users(BTreeMap<String, Vec<Hash>>),
}

// The hash of a weak password gives it away.
impl std::fmt::Debug for Accounts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open => f.write_str("Open"),
            Self::Closed => f.write_str("Closed"),
            Self::Users(users) => f.debug_tuple("Users").field(&users.keys().collect::<Vec<_>>()).finish(),
        }
    }
}

/// SHA-256 of a password.
#[must_use]
pub fn hash(password: &[u8]) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(digest(&SHA256, password).as_ref());
    hash
}

impl Accounts {
    /// Users with their passwords in clear, of which only the hashes are kept.
    pub fn of<'a>(users: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut accounts: BTreeMap<String, Vec<Hash>> = BTreeMap::new();
        for (user, password) in users {
            accounts.entry(user.to_owned()).or_default().push(hash(password));
        }
        Self::Users(accounts)
    }

    /// Whether nobody needs to log in.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open)
    }

    /// Whether `user` may still be in who has logged in before. A removed password ends no connection, as in Redis; a removed user does.
    #[must_use]
    pub fn knows(&self, user: &str) -> bool {
        match self {
            // Not known is not removed.
            Self::Open | Self::Closed => true,
            Self::Users(users) => users.contains_key(user),
        }
    }

    /// Whether `password` is one of `user`'s.
    #[must_use]
    pub fn admit(&self, user: &str, password: &[u8]) -> bool {
        let given = hash(password);
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Users(users) => {
                // All are compared, whichever fits.
                users.get(user).into_iter().flatten().fold(false, |admitted, hash| admitted | equal(hash, &given))
            }
        }
    }
}

/// In a time that does not tell where they differ.
fn equal(one: &Hash, other: &Hash) -> bool {
    std::hint::black_box(one.iter().zip(other).fold(0, |difference, (a, b)| difference | (a ^ b))) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_passwords_of_a_rotation_are_good_and_nothing_else_is() {
        let accounts = Accounts::of([("app", &b"new"[..]), ("app", b"old"), ("other", b"third")]);
        assert!(accounts.admit("app", b"new") && accounts.admit("app", b"old"));
        for (user, password) in [("app", &b"third"[..]), ("app", b""), ("nobody", b"new"), ("", b""), (DEFAULT_USER, b"new")] {
            assert!(!accounts.admit(user, password), "{user}");
        }
    }

    #[test]
    fn accounts_that_are_not_known_admit_nobody_and_end_nobody() {
        assert!(!Accounts::default().admit("app", b"") && Accounts::default().knows("app"));
        assert!(Accounts::Open.admit(DEFAULT_USER, b"whatever"));
        assert!(!Accounts::of([("app", &b"p"[..])]).knows("other"));
    }

    #[test]
    fn nothing_of_a_password_is_printed() {
        assert_eq!(format!("{:?}", Accounts::of([("app", &b"secret"[..])])), "Users([\"app\"])");
    }
}
