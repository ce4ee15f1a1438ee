//! Subscriptions of one client: to channels by name, and by pattern.

use super::resp::Value;
use super::view::Event;

/// Channels and patterns of one client. There are eight channels to hear anything on.
const MAX_SUBSCRIPTIONS: usize = 64;
/// The longest name or pattern.
const MAX_NAME: usize = 256;

/// What one client listens to, in the order in which it asked.
#[derive(Clone, Debug, Default)]
pub struct Subscriptions {
    channels: Vec<Vec<u8>>,
    patterns: Vec<Vec<u8>>,
}

/// By name, or by pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// `SUBSCRIBE`.
    Name,
    /// `PSUBSCRIBE`.
    Pattern,
}

impl Subscriptions {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.channels.is_empty() && self.patterns.is_empty()
    }

    fn count(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    fn list(&mut self, by: By) -> &mut Vec<Vec<u8>> {
        match by {
            By::Name => &mut self.channels,
            By::Pattern => &mut self.patterns,
        }
    }

    /// `SUBSCRIBE` and `PSUBSCRIBE`: an answer to each name.
    pub fn add(&mut self, by: By, names: &[Vec<u8>]) -> Vec<Value> {
        names.iter().map(|name| self.add_one(by, name)).collect()
    }

    fn add_one(&mut self, by: By, name: &[u8]) -> Value {
        let known = self.list(by).iter().any(|known| known == name);
        if !known && (self.count() >= MAX_SUBSCRIPTIONS || name.len() > MAX_NAME) {
            return Value::Error(format!(
                "ERR a client may listen to {MAX_SUBSCRIPTIONS} channels and patterns of {MAX_NAME} bytes; \
                 psubscribe to * to hear everything"
            ));
        }
        if !known {
            self.list(by).push(name.to_vec());
        }
        self.confirm(if by == By::Name { "subscribe" } else { "psubscribe" }, Value::text(name))
    }

    /// `UNSUBSCRIBE` and `PUNSUBSCRIBE`: an answer to each name; without names, all of them.
    pub fn remove(&mut self, by: By, names: &[Vec<u8>]) -> Vec<Value> {
        let verb = if by == By::Name { "unsubscribe" } else { "punsubscribe" };
        let names = if names.is_empty() { self.list(by).clone() } else { names.to_vec() };
        if names.is_empty() {
            return vec![self.confirm(verb, Value::Null)];
        }
        let mut answers = Vec::new();
        for name in names {
            self.list(by).retain(|known| *known != name);
            answers.push(self.confirm(verb, Value::Bulk(name)));
        }
        answers
    }

    fn confirm(&self, verb: &str, name: Value) -> Value {
        Value::Push(vec![Value::text(verb), name, Value::Integer(i64::try_from(self.count()).unwrap_or(i64::MAX))])
    }

    /// The messages that an event is to this client.
    #[must_use]
    pub fn messages(&self, event: &Event) -> Vec<Value> {
        let (channel, payload) = (Value::text(event.channel), Value::text(&event.payload));
        let by_name = self.channels.iter().filter(|name| *name == event.channel.as_bytes());
        let by_name = by_name.map(|_| Value::Push(vec![Value::text("message"), channel.clone(), payload.clone()]));
        let by_pattern = self
            .patterns
            .iter()
            .filter(|pattern| matches(pattern, event.channel.as_bytes()))
            .map(|pattern| Value::Push(vec![Value::text("pmessage"), Value::text(pattern), channel.clone(), payload.clone()]));
        by_name.chain(by_pattern).collect()
    }
}

/// Whether `text` fits a glob: `*`, `?`, `[a-c]`, `[^a]`, and a backslash before what is meant as it is. In time of the product of the
/// lengths, whatever the pattern is.
#[must_use]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut seen) = (0, 0);
    // Where to go on when what follows the last star does not fit: one byte more is the star's.
    let mut retry: Option<(usize, usize)> = None;
    while seen < text.len() {
        if pattern.get(at) == Some(&b'*') {
            retry = Some((at + 1, seen));
            at += 1;
        } else if let Some(length) = one(&pattern[at..], text[seen]) {
            at += length;
            seen += 1;
        } else if let Some((after_star, from)) = retry {
            retry = Some((after_star, from + 1));
            (at, seen) = (after_star, from + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

/// How much of the pattern `byte` takes, if it fits its first element.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'\\', literal, ..] => (*literal == byte).then_some(2),
        [b'[', rest @ ..] => class(rest, byte).map(|length| length + 1),
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// How long a class is, if `byte` is of it. One that does not end goes on to the pattern's end, as in Redis; a
/// dash at its end is a dash, which Redis takes for half a range.
fn class(pattern: &[u8], byte: u8) -> Option<usize> {
    let negated = pattern.first() == Some(&b'^');
    let mut at = usize::from(negated);
    let mut member = false;
    loop {
        match &pattern[at.min(pattern.len())..] {
            [] => break,
            [b']', ..] => {
                at += 1;
                break;
            }
            [b'\\', literal, ..] => {
                member |= *literal == byte;
                at += 2;
            }
            [low, b'-', high, ..] if *high != b']' => {
                member |= (low.min(high)..=low.max(high)).contains(&&byte);
                at += 3;
            }
            [literal, ..] => {
                member |= *literal == byte;
                at += 1;
            }
        }
    }
    (member != negated).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_fit_as_a_shells_do() {
        for (pattern, text) in [
            ("*", "+switch-master"),
            ("+s*", "+slave"),
            ("*master", "+switch-master"),
            ("*-*er", "+switch-master"),
            ("[+-]sdown", "-sdown"),
            ("[^-]sdown", "+sdown"),
            ("?sdown", "+sdown"),
            ("[a-z]x", "bx"),
            ("[z-a]x", "bx"),
            ("\\*", "*"),
            ("[\\]]", "]"),
            ("a[b", "ab"),
            ("**", ""),
        ] {
            assert!(matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in
            [("", "a"), ("+sdown", "-sdown"), ("?", ""), ("[^+]sdown", "+sdown"), ("\\*", "a"), ("*x", "+sdown"), ("[", "a")]
        {
            assert!(!matches(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
    }

    #[test]
    fn a_pattern_of_stars_takes_no_time() {
        assert!(!matches("*a".repeat(127).as_bytes(), "a".repeat(126).as_bytes()));
    }

    #[test]
    fn a_client_listens_to_so_much_and_no_more() {
        let mut subscriptions = Subscriptions::default();
        let names: Vec<_> = (0..=MAX_SUBSCRIPTIONS).map(|number| number.to_string().into_bytes()).collect();
        let answers = subscriptions.add(By::Name, &names);
        assert!(matches!(answers.last(), Some(Value::Error(_))));
        assert_eq!(subscriptions.count(), MAX_SUBSCRIPTIONS);
        assert!(matches!(subscriptions.add(By::Name, &names[..1])[..], [Value::Push(_)]), "what it hears already");
        assert!(matches!(Subscriptions::default().add(By::Pattern, &[vec![b'*'; MAX_NAME + 1]])[..], [Value::Error(_)]));
    }
}
