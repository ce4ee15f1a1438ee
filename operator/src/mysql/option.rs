//! One option of mysqld, as the user writes it and as my.cnf holds it (pure). Nothing that a user writes here can become another
//! option, a section or an include.

use crds::mysql::{OWNED_FAMILIES, OWNED_OPTIONS};
use crds::shared::OptionValue;

use crate::desired::Refused;

/// Longest line, in bytes: MySQL reads option files through a buffer of 4096 and takes what is beyond for a line of its own.
pub const MAX_LINE: usize = 4000;

/// Checks an option.
///
/// # Errors
/// When the name is none, or the operator's own, or the value could be taken for more than a value.
pub fn parse(name: &str, value: &OptionValue) -> Result<(String, String), Refused> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'_' | b'-' | b'.');
    if !name.starts_with(|char: char| char.is_ascii_lowercase()) || name.len() > 64 || !name.bytes().all(plain) {
        return Err(refused("option names are lower-case letters, digits, '_', '-' and '.', as in my.cnf, without leading dashes"));
    }
    if is_owned(name) {
        return Err(refused("this option is set by the operator (replication, durability, identity, TLS, paths); remove it"));
    }
    let value = match value {
        OptionValue::Number(number) => number.to_string(),
        OptionValue::Text(text) => text.clone(),
    };
    if value.contains(char::is_control) {
        return Err(refused("a value is one line of printable text; write each option as an entry of its own"));
    }
    if line(name, &value).len() > MAX_LINE {
        return Err(refused(format!("too long: MySQL reads at most {MAX_LINE} bytes of a line")));
    }
    Ok((name.to_owned(), value))
}

fn refused(message: impl Into<String>) -> Refused {
    Refused(message.into())
}

/// Whether the operator owns this option, under any of the spellings that mysqld takes.
fn is_owned(name: &str) -> bool {
    let name = name.replace('-', "_");
    let mut bare = name.as_str();
    while let Some(rest) = ["loose_", "enable_", "disable_", "skip_", "maximum_"].iter().find_map(|prefix| bare.strip_prefix(prefix)) {
        bare = rest;
    }
    let same = |owned: &str| owned == bare || owned.strip_prefix("skip_") == Some(bare);
    OWNED_OPTIONS.iter().any(|owned| same(owned)) || OWNED_FAMILIES.iter().any(|family| bare.starts_with(family))
}

/// One line: the value in quotes, so that spaces, `#`, `;` and brackets are plain text.
#[must_use]
pub fn line(name: &str, value: &str) -> String {
    let mut line = format!("{name}=\"");
    for char in value.chars() {
        match char {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            other => line.push(other),
        }
    }
    line.push('"');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> OptionValue {
        OptionValue::Text(value.into())
    }

    #[test]
    fn names_are_those_of_my_cnf() {
        for name in ["max_connections", "innodb-buffer-pool-size", "validate_password.length", "loose_x"] {
            assert_eq!(parse(name, &OptionValue::Number(1)), Ok((name.to_owned(), "1".to_owned())));
        }
        for name in ["", "--x", "[mysqld]", "!include", "!includedir", "a b", "a=b", "a\nb", "a#", "A", "ö", "1a", &"a".repeat(65)] {
            assert!(parse(name, &text("1")).is_err(), "{name:?}");
        }
    }

    #[test]
    fn owned_options_are_refused_under_every_spelling() {
        for owned in OWNED_OPTIONS {
            for name in [
                owned.to_string(),
                owned.replace('_', "-"),
                format!("loose_{owned}"),
                format!("skip-{owned}"),
                format!("loose-enable_{owned}"),
            ] {
                assert!(parse(&name, &text("1")).is_err(), "{name}");
            }
        }
        for name in ["rpl_semi_sync_source_timeout", "loose-rpl-semi-sync-replica-enabled", "admin_port", "networking"] {
            assert!(parse(name, &text("1")).is_err(), "{name}");
        }
        for name in ["sync_binlog_x", "users", "require_secure_transport", "skip_external_locking"] {
            assert!(parse(name, &text("1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_value_is_one_line_that_mysql_reads_whole() {
        for value in ["1\nserver_id=2", "\r", "\0", "\u{1b}[m", &"ö".repeat(2000), &"\"".repeat(2000)] {
            assert!(parse("init_connect", &text(value)).is_err(), "{value:?}");
        }
        assert!(parse("init_connect", &text(&"x".repeat(1024))).is_ok());
    }
}
