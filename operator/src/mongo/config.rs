//! mongod.conf, as the ConfigMap holds it (pure): a default that suits the pod, then the user's options, as one tree.
//!
//! What Understudy owns is not here: the sidecar adds it (`sidecar/src/mongo/conf.rs`), operated or standalone. The text is JSON, which is
//! YAML with every string in quotes. Nothing secret is ever in it.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::validate::{Desired, Invalid};
use crate::quantity;

/// mongod's own rule is half of the memory beyond this; said here, since releases differ in whether they see the container's limit.
const BESIDE: u64 = 1 << 30;
/// Least cache that mongod takes: a quarter of a GiB.
const LEAST: u64 = 1 << 28;
/// Name of the option of the cache.
const CACHE: &str = "storage.wiredTiger.engineConfig.cacheSizeGB";

/// The text of mongod.conf.
#[must_use]
pub fn mongod_conf(desired: &Desired) -> String {
    let mut all = Map::new();
    if let Some(memory) = quantity::memory(desired.resources.as_ref()) {
        let cache = (memory.saturating_sub(BESIDE) / 2).max(LEAST);
        // In hundredths of a GiB, rounded down.
        insert(&mut all, CACHE, &format!("{}.{:02}", cache >> 30, ((cache % (1 << 30)) * 100) >> 30));
    }
    for (name, value) in &desired.config {
        insert(&mut all, name, value);
    }
    format!("# Made by Understudy from spec.config. What it owns itself is added in the pod.\n{:#}\n", Value::Object(all))
}

/// Puts an option into the tree. [`check`] has seen to it that nothing is in its way.
fn insert(tree: &mut Map<String, Value>, name: &str, value: &str) {
    match name.split_once('.') {
        None => {
            tree.insert(name.to_owned(), scalar(value));
        }
        Some((group, rest)) => {
            if let Value::Object(below) = tree.entry(group).or_insert_with(|| Value::Object(Map::new())) {
                insert(below, rest, value);
            }
        }
    }
}

/// A number or a yes or no as such: mongod does not take them in quotes.
fn scalar(text: &str) -> Value {
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        text => serde_json::from_str::<serde_json::Number>(text).map_or_else(|_| Value::String(text.to_owned()), Value::Number),
    }
}

/// Whether the options make a tree.
///
/// # Errors
/// An option that has a value, and others below it.
pub fn check(options: &BTreeMap<String, String>) -> Result<(), Invalid> {
    let clash = options.keys().find(|name| options.keys().any(|other| other.strip_prefix(*name).is_some_and(|rest| rest.starts_with('.'))));
    match clash {
        Some(name) => Err(Invalid::new(format!("spec.config.{name}"), "this is a group of options, and cannot have a value itself")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::validate::tests::check;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(spec: Value) -> Value {
        serde_yaml::from_str(&mongod_conf(&check(spec).unwrap())).unwrap()
    }

    #[test]
    fn options_become_a_tree_with_numbers_and_truths_as_such() {
        let config = json!({"net.maxIncomingConnections": 500, "net.compression.compressors": "zstd,snappy", "systemLog.quiet": "true",
            "storage.wiredTiger.engineConfig.cacheSizeGB": "1.5", "operationProfiling.filter": "{ op: \"query\" } # \n".trim()});
        assert_eq!(
            read(json!({"config": config})),
            json!({"net": {"maxIncomingConnections": 500, "compression": {"compressors": "zstd,snappy"}}, "systemLog": {"quiet": true},
                "storage": {"wiredTiger": {"engineConfig": {"cacheSizeGB": 1.5}}}, "operationProfiling": {"filter": "{ op: \"query\" } #"}})
        );
    }

    #[test]
    fn the_cache_fits_the_memory() {
        for (memory, gib) in [("256Mi", 0.25), ("1Gi", 0.25), ("4Gi", 1.5), ("5Gi", 2.0), ("64Gi", 31.5)] {
            let read = read(json!({"resources": {"limits": {"memory": memory}, "requests": {"memory": "1Ti"}}}));
            assert_eq!(read["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"], json!(gib), "{memory}");
        }
        assert_eq!(read(json!({})), json!({}), "mongod keeps its own rule");
    }

    proptest! {
        /// Whatever a user writes is one option with exactly that value.
        #[test]
        fn a_value_is_read_as_written_and_as_nothing_else(value in "[^\\p{C}]{0,40}|[\\\\\"'#:{}\\[\\] a-z!&*|>-]{0,40}") {
            let found = read(json!({"config": {"security.x": value}}));
            prop_assert_eq!(&found["security"]["x"], &scalar(&value));
            prop_assert_eq!(found.as_object().unwrap().len(), 1);
        }
    }
}
