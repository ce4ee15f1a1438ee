//! Whether a living object already says everything that we would write (pure).

use serde_json::{Map, Value};

use crate::quantity;

/// Lists that server-side apply merges by key: others may have entries of their own in them, and the order says nothing.
const MERGED_BY_KEY: [&str; 8] =
    ["containers", "initContainers", "volumes", "env", "ports", "volumeMounts", "imagePullSecrets", "ownerReferences"];
/// Maps of quantities, which the API server may spell differently.
const QUANTITIES: [&str; 2] = ["requests", "limits"];

/// Whether `live` holds every field of `wanted`.
pub fn contains(live: &Value, wanted: &Value) -> bool {
    holds(live, wanted, "", "")
}

fn holds(live: &Value, wanted: &Value, parent: &str, key: &str) -> bool {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => wanted.iter().all(|(name, wanted)| match live.get(name) {
            Some(live) => holds(live, wanted, key, name),
            // The API server does not store what says nothing.
            None => says_nothing(wanted),
        }),
        (Value::Array(live), Value::Array(wanted)) if MERGED_BY_KEY.contains(&key) => {
            wanted.iter().all(|wanted| live.iter().any(|live| holds(live, wanted, key, "")))
        }
        (Value::Array(live), Value::Array(wanted)) => {
            live.len() == wanted.len() && live.iter().zip(wanted).all(|(live, wanted)| holds(live, wanted, key, ""))
        }
        (Value::String(live), Value::String(wanted)) if QUANTITIES.contains(&parent) => {
            live == wanted || quantity::nano(live).is_some_and(|value| quantity::nano(wanted) == Some(value))
        }
        _ => live == wanted,
    }
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_i64() == Some(0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// `live`, cut down to the fields of `wanted`: what the API server made of what we wrote.
pub fn project(live: &Value, wanted: &Value) -> Value {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) => {
            let fields = wanted.iter().filter_map(|(name, wanted)| Some((name.clone(), project(live.get(name)?, wanted))));
            Value::Object(fields.collect::<Map<_, _>>())
        }
        (Value::Array(live), Value::Array(wanted)) if live.len() == wanted.len() => {
            live.iter().zip(wanted).map(|(live, wanted)| project(live, wanted)).collect()
        }
        _ => live.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_added_does_not_count() {
        let live = json!({"spec": {"replicas": 3, "added": 1, "containers": [{"name": "injected"}, {"name": "mysql", "image": "m", "stdin": true}]}});
        assert!(contains(&live, &json!({"spec": {"replicas": 3, "containers": [{"name": "mysql", "image": "m"}]}})));
        assert!(!contains(&live, &json!({"spec": {"replicas": 3, "containers": [{"name": "mysql", "image": "n"}]}})));
    }

    #[test]
    fn a_missing_field_counts_unless_it_says_nothing() {
        assert!(contains(&json!({}), &json!({"a": "", "b": [], "c": {}, "d": false, "e": null, "f": 0})));
        assert!(!contains(&json!({}), &json!({"a": "x"})));
        assert!(!contains(&json!({"a": 1}), &json!({"a": 0})));
    }

    #[test]
    fn the_order_and_length_of_plain_lists_count() {
        assert!(!contains(&json!({"command": ["a", "b"]}), &json!({"command": ["b", "a"]})));
        assert!(!contains(&json!({"command": ["a", "b"]}), &json!({"command": ["a"]})));
        assert!(!contains(&json!({"ingress": [{}, {}]}), &json!({"ingress": [{}]})));
    }

    #[test]
    fn a_quantity_may_be_spelled_differently_and_nothing_else_may() {
        let of = |memory: &str| json!({"resources": {"requests": {"memory": memory}}});
        assert!(contains(&of("1Gi"), &of("1024Mi")));
        assert!(!contains(&of("1Gi"), &of("1G")));
        assert!(!contains(&json!({"labels": {"version": "1.0"}}), &json!({"labels": {"version": "1"}})));
    }

    #[test]
    fn a_projection_shows_drift_in_our_fields_only() {
        let wanted = json!({"a": "1", "b": [{"c": 1}]});
        assert_eq!(project(&json!({"a": "one", "b": [{"c": 1, "d": 2}], "e": 3}), &wanted), json!({"a": "one", "b": [{"c": 1}]}));
        assert_ne!(project(&json!({"a": "two"}), &wanted), project(&json!({"a": "one"}), &wanted));
    }
}
