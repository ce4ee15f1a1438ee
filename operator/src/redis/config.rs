//! redis.conf, as the ConfigMap holds it (pure): a default that suits the pod, then the user's options.
//!
//! What Understudy owns is not here: the sidecar appends it (`sidecar/src/redis/conf.rs`), operated or standalone, after everything else,
//! so that it wins. Nothing secret is ever in this text.

use super::option::lines;
use super::validate::Desired;
use crate::quantity;

/// The text of redis.conf.
#[must_use]
pub fn redis_conf(desired: &Desired) -> String {
    let mut text = String::from("# Made by Understudy from spec.config. What it owns itself is appended in the pod.\n");
    if let Some(memory) = quantity::memory(desired.resources.as_ref()) {
        // What is left is for the buffers of clients and replicas, and for pages that a fork copies: beyond the limit everything is lost at
        // once, and a write that is refused is not.
        text.push_str(&lines("maxmemory", &(memory / 4 * 3).to_string()));
    }
    for (name, value) in &desired.config {
        text.push_str(&lines(name, value));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::option;
    use crate::redis::validate::tests::check;
    use crds::shared::OptionValue;
    use proptest::prelude::*;
    use serde_json::json;

    /// As redis-server reads its file (config.c, sds.c): lines, of which comments and empty ones are left out, then words in quotes or not.
    fn as_redis_reads(text: &str) -> Vec<Vec<String>> {
        let lines = text
            .split('\n')
            .map(|line| line.trim_matches([' ', '\t', '\r', '\n']))
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(words).collect()
    }

    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quoted, mut escaped) = (Vec::new(), None::<String>, false, false);
        for char in line.chars() {
            match (quoted, escaped, char) {
                (true, true, 'n') => (word.get_or_insert_default().push('\n'), escaped = false).1,
                (true, true, 'r') => (word.get_or_insert_default().push('\r'), escaped = false).1,
                (true, true, 'x' | 't' | 'a' | 'b') => unreachable!("another escape: {line}"),
                (true, true, other) => (word.get_or_insert_default().push(other), escaped = false).1,
                (true, false, '\\') => escaped = true,
                (true, false, '"') => quoted = false,
                (true, false, other) => word.get_or_insert_default().push(other),
                (false, _, '"') => (word.get_or_insert_default(), quoted = true).1,
                (false, _, ' ') => words.extend(word.take()),
                (false, _, other) => word.get_or_insert_default().push(other),
            }
        }
        assert!(!quoted && !escaped, "quotes in pairs: {line}");
        words.extend(word);
        words
    }

    proptest! {
        /// Whatever a user writes is refused, or is one option.
        #[test]
        fn an_option_is_read_as_written_and_as_nothing_else(
            name in "[a-z][a-z0-9-]{0,20}|\\PC{0,10}|include|[a-z]+[ \n\"][a-z]+",
            value in "\\PC*|[\\\\\"'#x0-9 a-z!]{0,40}|[a-z\n\r\0\"]{0,20}|x{3000,5000}|[a-zäß\\\\# ]{0,20}",
        ) {
            if let Ok((name, value)) = option::parse(&name, &OptionValue::Text(value)) {
                let mut wanted = check(json!({})).unwrap();
                wanted.config.insert(name.clone(), value.clone());
                let read = as_redis_reads(&redis_conf(&wanted));
                prop_assert_eq!(read.len(), 1);
                prop_assert_eq!(&read[0][0], &name);
                if !value.contains(['\\', '"', '\'']) {
                    let plain: Vec<&str> = value.split_ascii_whitespace().collect();
                    prop_assert_eq!(&read[0][1..], if plain.is_empty() { &[""][..] } else { &plain[..] });
                }
            }
        }
    }

    #[test]
    fn a_users_option_comes_after_the_default() {
        let resources = json!({"limits": {"memory": "1Gi"}});
        assert_eq!(as_redis_reads(&redis_conf(&check(json!({"resources": resources})).unwrap())), [["maxmemory", "805306368"]]);
        let both = check(json!({"resources": resources, "config": {"maxmemory": "100mb"}})).unwrap();
        assert_eq!(as_redis_reads(&redis_conf(&both)), [["maxmemory", "805306368"], ["maxmemory", "100mb"]]);
    }
}
