//! One accepted and one refused object for each admission rule, without an API server. `e2e/tests/admission.rs` asks a real one.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

mod budget;
mod mongo;
mod mysql;
mod redis;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::LazyLock;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::core::cel::{CompiledSchema, Validator, compile_schema};
use serde::Serialize;
use serde_json::{Value, json};

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

/// The schema of each definition, and its rules, which take long to parse.
static SCHEMAS: LazyLock<BTreeMap<String, (Value, CompiledSchema)>> = LazyLock::new(|| {
    let schema = |definition: &CustomResourceDefinition| {
        let validation = definition.spec.versions[0].schema.as_ref().unwrap();
        let schema = serde_json::to_value(validation.open_api_v3_schema.as_ref().unwrap()).unwrap();
        let rules = compile_schema(&schema);
        (schema, rules)
    };
    crds::all().iter().map(|definition| (definition.spec.names.kind.clone(), schema(definition))).collect()
});

/// What the API server says of texts that do not match their `pattern`; the rules are evaluated without those.
fn mismatches(schema: &Value, value: &Value, path: &str) -> Vec<String> {
    let all = schema["allOf"].as_array().into_iter().flatten().flat_map(|part| mismatches(part, value, path));
    let here = match value {
        Value::String(_) => match &schema["pattern"] {
            Value::Null => Vec::new(),
            pattern => {
                let schema = json!({"type": "string", "x-kubernetes-validations": [{"rule": format!("self.matches({pattern})")}]});
                let matches = Validator::new().validate(&schema, value, None).is_ok();
                if matches { Vec::new() } else { vec![format!("{path} in body should match '{}'", pattern.as_str().unwrap())] }
            }
        },
        Value::Object(fields) => {
            let of = |name: &str| schema["properties"].get(name).unwrap_or(&schema["additionalProperties"]);
            fields.iter().flat_map(|(name, field)| mismatches(of(name), field, &format!("{path}.{name}"))).collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| mismatches(&schema["items"], item, path)).collect(),
        _ => Vec::new(),
    };
    all.chain(here).collect()
}

/// Everything that is said of `cluster`; nothing if it is accepted.
fn said_of<K: Serialize>(cluster: &K, old: Option<&K>) -> Vec<String> {
    let object = serde_json::to_value(cluster).unwrap();
    let (schema, rules) = &SCHEMAS[object["kind"].as_str().unwrap()];
    let old = old.map(|old| serde_json::to_value(old).unwrap());
    let mut said = mismatches(schema, &object, "");
    said.extend(Validator::new().validate_compiled(rules, &object, old.as_ref()).err().map(|errors| format!("{errors:?}")));
    said
}

#[track_caller]
fn accepted<K: Serialize>(cluster: &K) {
    let said = said_of(cluster, None);
    assert!(said.is_empty(), "refused: {said:?}");
}

/// Refused, and `says` is what the user is told.
#[track_caller]
fn refused<K: Serialize + Debug>(cluster: &K, says: &str) {
    told(cluster, None, says);
}

#[track_caller]
fn refused_change<K: Serialize + Debug>(from: &K, to: &K, says: &str) {
    told(to, Some(from), says);
}

#[track_caller]
fn told<K: Serialize + Debug>(cluster: &K, old: Option<&K>, says: &str) {
    let said = said_of(cluster, old);
    assert!(!said.is_empty(), "accepted: {cluster:?}");
    assert!(said.iter().any(|said| said.contains(says)), "{said:?}");
}

#[track_caller]
fn accepted_change<K: Serialize>(from: &K, to: &K) {
    let said = said_of(to, Some(from));
    assert!(said.is_empty(), "refused: {said:?}");
}
