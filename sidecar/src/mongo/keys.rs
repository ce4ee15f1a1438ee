//! The members' keys: one, or two while one takes the place of the other.
//!
//! mongod (4.2 and later) reads one key or a YAML list of up to two, logs in to others with the first and takes either. White space within a
//! key does not count. So a key is replaced in three steps, each of them everywhere before the next: old, new; new, old; new.

use std::fs;
use std::path::Path;

use ring::digest::{SHA256, digest};

use crate::tls::hex;

/// Shortest and longest key that mongod takes.
const LENGTH: std::ops::RangeInclusive<usize> = 6..=1024;

/// A key. Its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(String);

/// The keys in a file, as mongod would read it.
///
/// # Errors
/// Why mongod would not take it; nothing of a key is in it.
pub fn read(path: &Path) -> Result<Vec<Key>, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    parse(&text).map_err(|why| format!("{}: {why}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Key>, String> {
    let listed: Vec<String> = match text.trim_start().starts_with('-') {
        // The parser's words may quote a key.
        true => serde_yaml::from_str(text).map_err(|_| "a list that is no YAML".to_owned())?,
        false => vec![text.to_owned()],
    };
    let keys: Vec<Key> = listed.iter().map(|key| Key(key.split_whitespace().collect())).collect();
    if keys.is_empty() || keys.len() > 2 {
        return Err(format!("a key file has one key or two, and this one {}", keys.len()));
    }
    let base64 = |key: &Key| key.0.chars().all(|char| char.is_ascii_alphanumeric() || "+/=".contains(char));
    match keys.iter().find(|key| !LENGTH.contains(&key.0.len()) || !base64(key)) {
        Some(_) => Err("a key has 6 to 1024 characters of base64".into()),
        None => Ok(keys),
    }
}

/// A file that mongod takes.
#[must_use]
pub fn text(keys: &[Key]) -> String {
    match keys {
        [one] => format!("{}\n", one.0),
        several => several.iter().map(|key| format!("- \"{}\"\n", key.0)).collect(),
    }
}

// === impl Key ===

impl Key {
    /// The key itself: the password of `__system`.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What tells it from others.
    #[must_use]
    pub fn digest(&self) -> String {
        hex(digest(&SHA256, self.0.as_bytes()).as_ref())
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_one_key_or_two_and_goes_back_as_mongod_reads_it() {
        let one = parse("abc def\nghi+/=\n").unwrap();
        assert_eq!((one.len(), one[0].reveal()), (1, "abcdefghi+/="));
        let two = parse("- oldkey1\n- \"newkey2\"\n").unwrap();
        assert_eq!(parse(&text(&two)).unwrap(), two);
        assert_eq!(parse(&text(&one)).unwrap(), one);
    }

    #[test]
    fn what_mongod_would_refuse_is_refused_and_not_shown() {
        for text in ["short", "", "- a-secret-that\n- is: [bad", "- onekey1\n- twokey2\n- threekey3\n", "with-a-dash"] {
            let why = parse(text).unwrap_err();
            assert!(!why.contains("secret") && !why.contains("dash"), "{why}");
        }
        assert_eq!(format!("{:?}", parse("abcdef").unwrap()), "[***]");
    }
}
