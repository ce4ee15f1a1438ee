use proptest::prelude::*;

use super::*;

fn taken(bytes: &[u8]) -> Result<Option<Command>, ProtocolError> {
    take(&mut BytesMut::from(bytes), false)
}

fn refused(bytes: &[u8]) -> String {
    taken(bytes).unwrap_err().to_string()
}

fn of(words: &[&str]) -> Command {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

#[test]
fn commands_in_a_row_are_taken_one_by_one_and_a_half_one_waits() {
    let mut input = BytesMut::from(&b"*1\r\n$4\r\nPING\r\n*2\r\n$4\r\nECHO\r\n$2\r\n\r\n\r\nping  a\r\n*1\r\n$4\r\nPI"[..]);
    assert_eq!(take(&mut input, false), Ok(Some(of(&["PING"]))));
    assert_eq!(take(&mut input, false), Ok(Some(of(&["ECHO", "\r\n"]))));
    assert_eq!(take(&mut input, false), Ok(Some(of(&["ping", "a"]))));
    assert_eq!(take(&mut input, false), Ok(None));
    input.extend_from_slice(b"NG\r\n");
    assert_eq!(take(&mut input, false), Ok(Some(of(&["PING"]))));
    assert!(input.is_empty());
}

#[test]
fn empty_commands_are_passed_over() {
    assert_eq!(taken(b"\r\n  \r\n*0\r\n*-1\r\nPING\r\n"), Ok(Some(of(&["PING"]))));
    assert_eq!(taken(b"\r\n"), Ok(None));
}

#[test]
fn every_beginning_of_a_command_waits_for_its_rest() {
    let whole = b"*3\r\n$8\r\nSENTINEL\r\n$6\r\nmaster\r\n$8\r\nmymaster\r\n";
    for length in 0..whole.len() {
        assert_eq!(taken(&whole[..length]), Ok(None), "{length} bytes");
    }
    assert_eq!(taken(whole), Ok(Some(of(&["SENTINEL", "master", "mymaster"]))));
}

#[test]
fn lengths_are_refused_before_anything_of_that_length_arrives() {
    assert_eq!(refused(b"*1000000000\r\n"), "Protocol error: invalid multibulk length");
    assert_eq!(refused(b"*x\r\n"), "Protocol error: invalid multibulk length");
    assert_eq!(refused(b"*99999999999999999999999999"), "Protocol error: invalid multibulk length");
    assert_eq!(refused(b"*1\n$4\nPING\n"), "Protocol error: invalid multibulk length");
    for length in ["-5", "16384", "999999999999", "9223372036854775807", "x"] {
        assert_eq!(refused(format!("*1\r\n${length}\r\n").as_bytes()), "Protocol error: invalid bulk length", "{length}");
    }
    assert_eq!(refused(b"*1\r\nPING\r\n"), "Protocol error: expected '$', got 'P'");
    assert_eq!(refused(b"*1\r\n$4\r\nPINGxx"), "Protocol error: expected CRLF after a bulk string");
    assert_eq!(refused(&[b'a'; MAX_COMMAND]), "Protocol error: too big inline request");
}

#[test]
fn many_arguments_that_are_small_each_are_bounded_together() {
    let bulk = format!("$1000\r\n{}\r\n", "x".repeat(1000));
    assert_eq!(refused(format!("*100\r\n{}", bulk.repeat(17)).as_bytes()), "Protocol error: invalid bulk length");
}

#[test]
fn a_stranger_gets_ten_arguments() {
    let take = |text: &str| take(&mut BytesMut::from(text), true);
    assert_eq!(take("*11\r\n"), broken("unauthenticated multibulk length"));
    assert_eq!(take(&format!("{}\r\n", "a ".repeat(11))), broken("too big inline request"));
    assert_eq!(take("HELLO 3 AUTH u p SETNAME n\r\n"), Ok(Some(of(&["HELLO", "3", "AUTH", "u", "p", "SETNAME", "n"]))));
}

#[test]
fn a_line_is_split_as_a_shell_would() {
    assert_eq!(taken(b"AUTH app \"a b\\\"\\n\"\n"), Ok(Some(of(&["AUTH", "app", "a b\"\n"]))));
    assert_eq!(taken(b"AUTH app 'it\\'s \\n'\r\n"), Ok(Some(of(&["AUTH", "app", "it's \\n"]))));
    assert_eq!(taken(b"AUTH ''\r\n"), Ok(Some(of(&["AUTH", ""]))));
    for unbalanced in [&b"PING \"a\r\n"[..], b"PING 'a\r\n", b"PING \"a\"b\r\n", b"PING \"a\\\r\n"] {
        assert_eq!(refused(unbalanced), "Protocol error: unbalanced quotes in request");
    }
}

#[test]
fn a_browser_is_not_answered() {
    assert_eq!(taken(b"POST / HTTP/1.1\r\n"), Err(ProtocolError::Http));
    assert_eq!(taken(b"Host: shop\r\n"), Err(ProtocolError::Http));
}

#[test]
fn answers_are_written_as_each_version_has_it() {
    let written = |value: &Value, version| {
        let mut out = Vec::new();
        value.write(version, &mut out);
        String::from_utf8(out).unwrap()
    };
    let both = |value: Value| (written(&value, Version::Two), written(&value, Version::Three));
    let same = |text: &str| (text.to_owned(), text.to_owned());
    assert_eq!(both(Value::word("OK")), same("+OK\r\n"));
    assert_eq!(both(Value::Integer(-7)), same(":-7\r\n"));
    assert_eq!(both(Value::text("a\r\n")), same("$3\r\na\r\n\r\n"));
    assert_eq!(both(Value::Error("ERR a\r\n+OK".into())), same("-ERR a  +OK\r\n"));
    assert_eq!(both(Value::Null), ("$-1\r\n".into(), "_\r\n".into()));
    assert_eq!(both(Value::NullArray), ("*-1\r\n".into(), "_\r\n".into()));
    assert_eq!(both(Value::Map(vec![(Value::text("a"), Value::Integer(1))])).0, "*2\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(both(Value::Map(vec![(Value::text("a"), Value::Integer(1))])).1, "%1\r\n$1\r\na\r\n:1\r\n");
    assert_eq!(both(Value::Set(vec![Value::Integer(1)])), ("*1\r\n:1\r\n".into(), "~1\r\n:1\r\n".into()));
    assert_eq!(both(Value::Push(vec![Value::Integer(1)])), ("*1\r\n:1\r\n".into(), ">1\r\n:1\r\n".into()));
}

proptest! {
    #[test]
    fn whatever_arrives_is_taken_refused_or_waited_for_within_the_bound(
        bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), b'0'..=b'9', any::<u8>()], 0..200),
    ) {
        let mut input = BytesMut::from(&bytes[..]);
        while let Ok(Some(command)) = take(&mut input, false) {
            prop_assert!(!command.is_empty());
        }
        prop_assert!(input.len() <= bytes.len());
    }

    #[test]
    fn what_is_sent_as_an_array_arrives_unchanged(command in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 1..10)) {
        let mut bytes = Vec::new();
        Value::Array(command.iter().map(Value::text).collect()).write(Version::Two, &mut bytes);
        prop_assert_eq!(taken(&bytes), Ok(Some(command)));
    }
}
