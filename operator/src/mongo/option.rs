//! One option of mongod, by its path in mongod.conf (pure). Nothing that a user writes here can become another option.

use crds::mongo::OWNED_OPTIONS;
use crds::shared::OptionValue;

use crate::desired::Refused;

/// Longest path and longest value, in bytes.
const MAX_NAME: usize = 128;
const MAX_VALUE: usize = 1024;

/// Checks an option.
///
/// # Errors
/// When the name is no path, or the operator's own, or the value is not one line.
pub fn parse(name: &str, value: &OptionValue) -> Result<(String, String), Refused> {
    let word = |part: &str| {
        part.starts_with(|char: char| char.is_ascii_alphabetic()) && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if name.len() > MAX_NAME || !name.split('.').all(word) {
        return Err(refused("option names are paths as in mongod.conf, such as storage.wiredTiger.engineConfig.cacheSizeGB"));
    }
    if is_owned(name) {
        return Err(refused("this option is set by the operator (membership, identity, authentication, TLS, paths); remove it"));
    }
    let value = match value {
        OptionValue::Number(number) => number.to_string(),
        OptionValue::Text(text) => text.clone(),
    };
    if value.contains(char::is_control) || value.len() > MAX_VALUE {
        return Err(refused("a value is one short line of printable text; write each option as an entry of its own"));
    }
    Ok((name.to_owned(), value))
}

fn refused(message: &str) -> Refused {
    Refused(message.to_owned())
}

/// Whether the operator owns this option, or something above it.
fn is_owned(name: &str) -> bool {
    OWNED_OPTIONS.iter().any(|owned| name.strip_prefix(owned).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> OptionValue {
        OptionValue::Text(value.into())
    }

    #[test]
    fn names_are_paths() {
        for name in ["net.maxIncomingConnections", "operationProfiling.slowOpThresholdMs", "setParameter.ttlMonitorEnabled", "auditLog"] {
            assert_eq!(parse(name, &OptionValue::Number(1)), Ok((name.to_owned(), "1".to_owned())));
        }
        for name in ["", ".", "net.", ".net", "net..x", "a b", "a:b", "a\nb", "#a", "1a", "net.1", "ö", &"a".repeat(129)] {
            assert!(parse(name, &text("1")).is_err(), "{name:?}");
        }
    }

    #[test]
    fn owned_options_are_refused_with_all_below_them() {
        for owned in OWNED_OPTIONS {
            assert!(parse(owned, &text("1")).is_err() && parse(&format!("{owned}.x"), &text("1")).is_err(), "{owned}");
            assert!(parse(&format!("{owned}X"), &text("1")).is_ok(), "{owned}");
        }
    }

    #[test]
    fn a_value_is_one_line() {
        for value in ["1\n2", "\r", "\0", &"x".repeat(1025)] {
            assert!(parse("systemLog.verbosity", &text(value)).is_err(), "{value:?}");
        }
    }
}
