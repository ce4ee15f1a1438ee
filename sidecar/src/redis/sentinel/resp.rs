//! RESP, Redis' protocol: commands in, as arrays of bulk strings or as lines; answers out, in version 2 or 3.
//!
//! A command has a bound before any of it is kept: how many arguments, how long each, how long all of it. What breaks the protocol is
//! answered with Redis' own words, and ends the connection.

use std::borrow::Cow;

use bytes::{Buf, BytesMut};

/// The longest command, its framing included. A subscription to everything is a tenth of it.
pub const MAX_COMMAND: usize = 16 * 1024;
/// The most arguments. The longest command that clients send here is a `HELLO` or a `SUBSCRIBE` to a dozen channels.
const MAX_ARGUMENTS: usize = 128;
/// The most arguments of who has not logged in: `HELLO 3 AUTH u p SETNAME n`. Redis' own bound.
const MAX_STRANGER_ARGUMENTS: usize = 10;
/// The longest number of a header, with its sign.
const MAX_DIGITS: usize = 20;

/// A command and its arguments; never empty.
pub type Command = Vec<Vec<u8>>;

/// What a client sent is not RESP, or too much of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Redis' words for it, for the client.
    #[error("Protocol error: {0}")]
    Broken(String),
    /// An HTTP request: a browser was talked into it. It is not answered, as Redis does not.
    #[error("an HTTP request")]
    Http,
}

fn broken<T>(what: &str) -> Result<T, ProtocolError> {
    Err(ProtocolError::Broken(what.into()))
}

/// Takes the next whole command out of `input`, or nothing as long as more must arrive. `stranger`: it has not logged in.
///
/// # Errors
/// When what arrived is no command and can become none. The connection is to be closed.
pub fn take(input: &mut BytesMut, stranger: bool) -> Result<Option<Command>, ProtocolError> {
    while let Some(first) = input.first() {
        let Some((command, length)) = (if *first == b'*' { array(input, stranger)? } else { line(input, stranger)? }) else {
            return if input.len() > MAX_COMMAND { broken("too big mbulk request") } else { Ok(None) };
        };
        input.advance(length);
        if !command.is_empty() {
            return Ok(Some(command));
        }
    }
    Ok(None)
}

/// A command as an array of bulk strings, and its length.
fn array(input: &[u8], stranger: bool) -> Result<Option<(Command, usize)>, ProtocolError> {
    let Some((count, mut at)) = number(input, 1, "invalid multibulk length")? else { return Ok(None) };
    let Ok(count) = usize::try_from(count) else { return Ok(Some((Vec::new(), at))) };
    if stranger && count > MAX_STRANGER_ARGUMENTS {
        return broken("unauthenticated multibulk length");
    }
    if count > MAX_ARGUMENTS {
        return broken("invalid multibulk length");
    }
    let mut command = Vec::new();
    for _ in 0..count {
        match input.get(at) {
            None => return Ok(None),
            Some(b'$') => (),
            Some(other) => return broken(&format!("expected '$', got '{}'", other.escape_ascii())),
        }
        let Some((length, start)) = number(input, at + 1, "invalid bulk length")? else { return Ok(None) };
        let Some(length) = usize::try_from(length).ok().filter(|length| start + length + 2 <= MAX_COMMAND) else {
            return broken("invalid bulk length");
        };
        at = start + length + 2;
        let Some(bulk) = input.get(start..at) else { return Ok(None) };
        let Some(bulk) = bulk.strip_suffix(b"\r\n") else { return broken("expected CRLF after a bulk string") };
        command.push(bulk.to_vec());
    }
    Ok(Some((command, at)))
}

/// The number from `start` to the end of its line, and where the next line begins.
fn number(input: &[u8], start: usize, what: &str) -> Result<Option<(i64, usize)>, ProtocolError> {
    let rest = input.get(start..).unwrap_or_default();
    let Some(end) = rest.iter().take(MAX_DIGITS + 2).position(|byte| *byte == b'\n') else {
        return if rest.len() > MAX_DIGITS + 1 { broken(what) } else { Ok(None) };
    };
    let digits = rest.get(..end).and_then(|line| line.strip_suffix(b"\r")).and_then(|digits| std::str::from_utf8(digits).ok());
    match digits.and_then(|digits| digits.parse().ok()) {
        Some(number) => Ok(Some((number, start + end + 1))),
        None => broken(what),
    }
}

/// A command as a person types it, and its length.
fn line(input: &[u8], stranger: bool) -> Result<Option<(Command, usize)>, ProtocolError> {
    let Some(end) = input.iter().take(MAX_COMMAND).position(|byte| *byte == b'\n') else {
        return if input.len() >= MAX_COMMAND { broken("too big inline request") } else { Ok(None) };
    };
    let command = words(&input[..end])?;
    if command.first().is_some_and(|first| first.eq_ignore_ascii_case(b"post") || first.eq_ignore_ascii_case(b"host:")) {
        return Err(ProtocolError::Http);
    }
    if command.len() > if stranger { MAX_STRANGER_ARGUMENTS } else { MAX_ARGUMENTS } {
        return broken("too big inline request");
    }
    Ok(Some((command, end + 1)))
}

/// The words of a line: quotes keep blanks, a backslash inside double quotes keeps the next character.
fn words(line: &[u8]) -> Result<Command, ProtocolError> {
    let mut words = Vec::new();
    let mut bytes = line.iter().copied().peekable();
    loop {
        while bytes.next_if(u8::is_ascii_whitespace).is_some() {}
        let Some(first) = bytes.peek().copied() else { return Ok(words) };
        let mut word = Vec::new();
        if matches!(first, b'"' | b'\'') {
            bytes.next();
            loop {
                match bytes.next() {
                    None => return broken("unbalanced quotes in request"),
                    Some(byte) if byte == first => break,
                    Some(b'\\') => match bytes.next() {
                        Some(b'n') if first == b'"' => word.push(b'\n'),
                        Some(b'r') if first == b'"' => word.push(b'\r'),
                        Some(b't') if first == b'"' => word.push(b'\t'),
                        Some(byte) if first == b'"' || byte == b'\'' => word.push(byte),
                        Some(byte) => word.extend([b'\\', byte]),
                        None => return broken("unbalanced quotes in request"),
                    },
                    Some(byte) => word.push(byte),
                }
            }
            if bytes.peek().is_some_and(|byte| !byte.is_ascii_whitespace()) {
                return broken("unbalanced quotes in request");
            }
        } else {
            while let Some(byte) = bytes.next_if(|byte| !byte.is_ascii_whitespace()) {
                word.push(byte);
            }
        }
        words.push(word);
    }
}

/// Which version of the protocol a client has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// What everybody speaks.
    #[default]
    Two,
    /// With maps, sets and pushes.
    Three,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A line.
    Simple(Cow<'static, str>),
    /// An error, which begins with its code.
    Error(String),
    /// A number.
    Integer(i64),
    /// Any text.
    Bulk(Vec<u8>),
    /// No text.
    Null,
    /// No list.
    NullArray,
    /// A list.
    Array(Vec<Self>),
    /// A list in which order does not count.
    Set(Vec<Self>),
    /// Names and values; in version 2 a list of both.
    Map(Vec<(Self, Self)>),
    /// A message that answers nothing; in version 2 a list.
    Push(Vec<Self>),
}

impl Value {
    /// A word of ours.
    #[must_use]
    pub const fn word(word: &'static str) -> Self {
        Self::Simple(Cow::Borrowed(word))
    }

    /// A text.
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Bulk(text.as_ref().to_vec())
    }

    /// Appends it to `out`, as `version` writes it.
    pub fn write(&self, version: Version, out: &mut Vec<u8>) {
        let three = version == Version::Three;
        let mut header = |kind: char, count: &dyn std::fmt::Display| out.extend(format!("{kind}{count}\r\n").as_bytes());
        match self {
            Self::Simple(text) => header('+', text),
            // A line break would begin another answer.
            Self::Error(text) => header('-', &text.replace(['\r', '\n'], " ")),
            Self::Integer(number) => header(':', number),
            Self::Bulk(bytes) => {
                header('$', &bytes.len());
                out.extend(bytes);
                out.extend(b"\r\n");
            }
            Self::Null | Self::NullArray if three => out.extend(b"_\r\n"),
            Self::Null => out.extend(b"$-1\r\n"),
            Self::NullArray => out.extend(b"*-1\r\n"),
            Self::Array(values) | Self::Set(values) | Self::Push(values) => {
                let kind = match self {
                    Self::Set(_) if three => '~',
                    Self::Push(_) if three => '>',
                    _ => '*',
                };
                header(kind, &values.len());
                values.iter().for_each(|value| value.write(version, out));
            }
            Self::Map(pairs) => {
                if three {
                    header('%', &pairs.len())
                } else {
                    header('*', &(2 * pairs.len()))
                };
                pairs.iter().flat_map(|(name, value)| [name, value]).for_each(|value| value.write(version, out));
            }
        }
    }
}

#[cfg(test)]
mod tests;
