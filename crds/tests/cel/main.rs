//! One accepted and one refused object for each admission rule, without an API server. `e2e/tests/admission.rs` asks a real one.
#![expect(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail like tests")]

mod mongo;
mod mysql;
mod redis;

use std::fmt::Debug;

use kube::CustomResourceExt;
use kube::core::cel::{validate_cel, validate_cel_update};
use serde::Serialize;
use serde_json::Value;

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[track_caller]
fn accepted<K: CustomResourceExt + Serialize>(cluster: &K) {
    if let Err(errors) = validate_cel(cluster) {
        panic!("refused: {errors:?}");
    }
}

/// Refused, and `says` is what the user is told.
#[track_caller]
fn refused<K: CustomResourceExt + Serialize + Debug>(cluster: &K, says: &str) {
    match validate_cel(cluster) {
        Ok(()) => panic!("accepted: {cluster:?}"),
        Err(errors) => assert!(format!("{errors:?}").contains(says), "{errors:?}"),
    }
}

#[track_caller]
fn refused_change<K: CustomResourceExt + Serialize + Debug>(from: &K, to: &K, says: &str) {
    match validate_cel_update(to, from) {
        Ok(()) => panic!("accepted: {to:?}"),
        Err(errors) => assert!(format!("{errors:?}").contains(says), "{errors:?}"),
    }
}

#[track_caller]
fn accepted_change<K: CustomResourceExt + Serialize>(from: &K, to: &K) {
    if let Err(errors) = validate_cel_update(to, from) {
        panic!("refused: {errors:?}");
    }
}
