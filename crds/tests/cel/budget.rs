//! That every API server since Kubernetes 1.29 can afford the rules. What one may cost is estimated there, from the bounds that the schema
//! gives, and a definition with a dearer one is refused. Nothing here estimates it anew: what was found too dear is forbidden by its form.

use serde_json::Value;

use super::SCHEMAS;

/// Each schema below `schema`, with its path.
fn walk(schema: &Value, path: &str, see: &mut impl FnMut(&str, &Value)) {
    see(path, schema);
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        walk(field, &format!("{path}.{name}"), see);
    }
    for (part, mark) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[part].is_object() {
            walk(&schema[part], &format!("{path}{mark}"), see);
        }
    }
}

fn each_schema(mut see: impl FnMut(&str, &Value)) {
    for (kind, (schema, _)) in SCHEMAS.iter() {
        walk(schema, kind, &mut see);
    }
}

fn rules(schema: &Value) -> impl Iterator<Item = &str> {
    schema["x-kubernetes-validations"].as_array().into_iter().flatten().map(|rule| rule["rule"].as_str().unwrap())
}

const LOOPS: [&str; 6] = [".all(", ".exists(", ".exists_one(", ".map(", ".filter(", ".sortBy("];

/// Before 1.34 the `maxLength` of an int-or-string is not heeded: each counts as three megabytes. One can be read, 128 cannot: what those
/// look like is for `pattern` to say.
#[test]
fn no_rule_reads_the_text_of_each_int_or_string() {
    let mut seen = 0;
    each_schema(|path, schema| {
        let within = &schema["additionalProperties"];
        assert!(rules(within).count() == 0 || within["x-kubernetes-int-or-string"] != true, "{path}");
        for rule in rules(schema) {
            assert!(!rule.replace("substring(", "").contains("string(") || !LOOPS.iter().any(|each| rule.contains(each)), "{path}: {rule}");
            assert!(!rule.contains("self[") || within["x-kubernetes-int-or-string"] != true, "{path}: {rule}");
        }
        seen += usize::from(within["x-kubernetes-int-or-string"] == true && within["pattern"].is_string());
    });
    assert_eq!(seen, 3, "`config` of each kind, with a pattern");
}

/// 1.29 does not know how long the list is that `map` or `filter` makes, and takes it for endless.
#[test]
fn no_rule_goes_on_with_a_list_that_it_made() {
    each_schema(|path, schema| {
        for rule in rules(schema) {
            assert!(!rule.contains(".map(") && !rule.contains(".filter("), "{path}: {rule}");
        }
    });
}
