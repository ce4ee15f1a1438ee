//! One option of redis-server, as the user writes it and as redis.conf holds it (pure). Nothing that a user writes here can become another
//! option.
//!
//! A value is written as in redis.conf: words, in quotes where one holds a space. It is read by the very rules of redis-server
//! (`sdssplitargs`) and written anew, each word in quotes of ours.

use crds::redis::{OWNED_FAMILIES, OWNED_OPTIONS};
use crds::shared::OptionValue;

use crate::desired::Refused;

/// Longest name and longest value, in bytes: 1024 characters, as the API server counts.
const MAX_NAME: usize = 64;
const MAX_VALUE: usize = 4096;

/// Checks an option.
///
/// # Errors
/// When the name is none, or the operator's own, or the value is not one line of words.
pub fn parse(name: &str, value: &OptionValue) -> Result<(String, String), Refused> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !name.starts_with(|char: char| char.is_ascii_lowercase()) || name.len() > MAX_NAME || !name.bytes().all(plain) {
        return Err(refused("option names are lower-case letters, digits and '-', as in redis.conf"));
    }
    if is_owned(name) {
        return Err(refused("this option is set by the operator (replication, persistence, accounts, TLS, paths); remove it"));
    }
    let value = match value {
        OptionValue::Number(number) => number.to_string(),
        OptionValue::Text(text) => text.clone(),
    };
    if value.contains(char::is_control) || value.len() > MAX_VALUE {
        return Err(refused("a value is one line of printable text; write each option as an entry of its own"));
    }
    match words(&value) {
        Some(words) if words.iter().all(|word| std::str::from_utf8(word).is_ok_and(|word| !word.contains('\0'))) => {
            Ok((name.to_owned(), value))
        }
        Some(_) => Err(refused("an escape in quotes makes no text")),
        None => Err(refused("quotes are not in pairs; write the value as in redis.conf")),
    }
}

fn refused(message: &str) -> Refused {
    Refused(message.to_owned())
}

/// Whether the operator owns this option.
fn is_owned(name: &str) -> bool {
    OWNED_OPTIONS.contains(&name) || OWNED_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// The lines that set an option. Redis 6.2 takes one point of `save`, and one class of output buffer, a line; later ones take either.
#[must_use]
pub fn lines(name: &str, value: &str) -> String {
    let words = words(value).unwrap_or_default();
    let at_once = match name {
        "save" => 2,
        "client-output-buffer-limit" => 4,
        _ => usize::MAX,
    };
    if words.is_empty() {
        return format!("{name} \"\"\n");
    }
    words.chunks(at_once.min(words.len())).map(|words| line(name, words)).collect()
}

fn line(name: &str, words: &[Vec<u8>]) -> String {
    let mut line = name.to_owned();
    for word in words {
        line.push_str(" \"");
        for char in String::from_utf8_lossy(word).chars() {
            match char {
                '"' => line.push_str("\\\""),
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                other => line.push(other),
            }
        }
        line.push('"');
    }
    line.push('\n');
    line
}

/// The words of a value, as `sdssplitargs` reads them; `None` if a quote is not closed, or something follows a closing one at once.
fn words(value: &str) -> Option<Vec<Vec<u8>>> {
    let space = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let mut words = Vec::new();
    let mut rest = value.as_bytes();
    loop {
        rest = &rest[rest.iter().take_while(|byte| space(byte)).count()..];
        if rest.is_empty() {
            return Some(words);
        }
        let mut word = Vec::new();
        rest = loop {
            rest = match rest {
                [] => break rest,
                [byte, ..] if space(byte) => break rest,
                [quote @ (b'"' | b'\''), inner @ ..] => break closed(quoted(*quote, inner, &mut word)?)?,
                [byte, after @ ..] => {
                    word.push(*byte);
                    after
                }
            };
        };
        words.push(word);
    }
}

/// What follows a closing quote: a space, or nothing.
fn closed(rest: &[u8]) -> Option<&[u8]> {
    rest.first().is_none_or(u8::is_ascii_whitespace).then_some(rest)
}

/// Reads up to the closing quote into `word`; what is after it.
fn quoted<'a>(quote: u8, mut rest: &'a [u8], word: &mut Vec<u8>) -> Option<&'a [u8]> {
    let hex = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    loop {
        rest = match rest {
            [] => return None,
            [end, after @ ..] if *end == quote => return Some(after),
            [b'\\', b'\'', after @ ..] if quote == b'\'' => {
                word.push(b'\'');
                after
            }
            [b'\\', b'x', high, low, after @ ..] if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                word.push(hex(*high)? * 16 + hex(*low)?);
                after
            }
            [b'\\', escaped, after @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    plain => *plain,
                });
                after
            }
            [byte, after @ ..] => {
                word.push(*byte);
                after
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> OptionValue {
        OptionValue::Text(value.into())
    }

    #[test]
    fn names_are_those_of_redis_conf() {
        for name in ["maxmemory", "maxmemory-policy", "hz", "save", "lfu-log-factor"] {
            assert_eq!(parse(name, &OptionValue::Number(1)), Ok((name.to_owned(), "1".to_owned())));
        }
        for name in ["", "a b", "a\nb", "a#", "A", "ö", "1a", "-a", "a_b", "a.b", &"a".repeat(65)] {
            assert!(parse(name, &text("1")).is_err(), "{name:?}");
        }
    }

    #[test]
    fn owned_options_are_refused_with_their_families() {
        for name in OWNED_OPTIONS.iter().copied().chain(["tls-port", "tls-", "cluster-enabled", "sentinel", "sentinel-user"]) {
            assert!(parse(name, &text("1")).is_err(), "{name}");
        }
        for name in ["port-x", "save", "repl-backlog-size", "appendfsync", "no-appendfsync-on-rewrite"] {
            assert!(parse(name, &text("1")).is_ok(), "{name}");
        }
    }

    #[test]
    fn a_value_is_one_line_of_words() {
        for value in ["1\n2", "\r", "\0", "\"", "'", "\"a\"b", "a \"b", "\"\\xff\"", "\"\\x00\"", &"x".repeat(4097)] {
            assert!(parse("proc-title-template", &text(value)).is_err(), "{value:?}");
        }
        for value in ["", "yes", "900 1 300 10", "\"a b\" 'c'", "\"\\x41\"", "it is #1"] {
            assert!(parse("proc-title-template", &text(value)).is_ok(), "{value:?}");
        }
    }

    #[test]
    fn each_word_is_in_quotes_and_what_6_2_takes_one_at_a_time_is_a_line_each() {
        assert_eq!(lines("save", "900 1 300 10"), "save \"900\" \"1\"\nsave \"300\" \"10\"\n");
        assert_eq!(lines("save", ""), "save \"\"\n");
        assert_eq!(lines("save", "\"\""), "save \"\"\n");
        assert_eq!(
            lines("client-output-buffer-limit", "normal 0 0 0 pubsub 32mb 8mb 60"),
            "client-output-buffer-limit \"normal\" \"0\" \"0\" \"0\"\nclient-output-buffer-limit \"pubsub\" \"32mb\" \"8mb\" \"60\"\n"
        );
        assert_eq!(lines("proc-title-template", r#""a \"b\\ #" 'c'"#), "proc-title-template \"a \\\"b\\\\ #\" \"c\"\n");
    }
}
