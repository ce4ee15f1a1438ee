//! Writes what is generated from the types: `generate yaml DIRECTORY` one CRD a file, `generate reference` the Markdown of docs/reference.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Error, ErrorKind, Result};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["yaml", directory] => yaml(directory),
        ["reference", file] => std::fs::write(file, reference()),
        _ => Err(Error::new(ErrorKind::InvalidInput, "usage: generate yaml DIRECTORY | generate reference FILE")),
    }
}

fn yaml(directory: &str) -> Result<()> {
    for crd in crds::all() {
        let name = &crd.spec.names.plural;
        let text = serde_yaml::to_string(&crd).map_err(Error::other)?;
        std::fs::write(format!("{directory}/{name}.yaml"), format!("# Generated from crds/src by `make generate`; do not edit.\n{text}"))?;
    }
    Ok(())
}

fn reference() -> String {
    let mut out = String::from("# Custom resources\n\nGenerated from `crds/src` by `make generate`.\n");
    for crd in crds::all() {
        describe(&crd, &mut out);
    }
    out
}

fn describe(crd: &CustomResourceDefinition, out: &mut String) {
    let names = &crd.spec.names;
    for version in &crd.spec.versions {
        let short = names.short_names.iter().flatten().cloned().collect::<Vec<_>>().join(", ");
        let _ = writeln!(out, "\n## {}\n\n`apiVersion: {}/{}`, short name `{short}`.\n", names.kind, crd.spec.group, version.name);
        let Some(schema) = version.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) else { continue };
        for part in ["spec", "status"] {
            if let Some(part_schema) = schema.properties.as_ref().and_then(|properties| properties.get(part)) {
                let _ = writeln!(out, "### {part}\n\n| field | type | default | meaning |\n|---|---|---|---|");
                rows("", part_schema, out);
            }
        }
    }
}

/// Schemas that come from Kubernetes itself are named, not unfolded.
const KUBERNETES_OWN: &[&str] =
    &["affinity", "tolerations", "topologySpreadConstraints", "resources", "sidecarResources", "securityContext", "conditions"];

fn rows(prefix: &str, schema: &JSONSchemaProps, out: &mut String) {
    let empty = BTreeMap::new();
    for (name, field) in schema.properties.as_ref().unwrap_or(&empty) {
        let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let default = field.default.as_ref().map_or(String::new(), |value| format!("`{}`", value.0));
        let mut meaning = field.description.clone().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        if let Some(values) = &field.enum_ {
            let _ = write!(meaning, " One of {}.", values.iter().map(|value| format!("`{}`", value.0)).collect::<Vec<_>>().join(", "));
        }
        let default = if default.len() > 40 { String::new() } else { default };
        let _ = writeln!(out, "| `{path}` | {} | {default} | {meaning} |", type_of(name, field));
        if !KUBERNETES_OWN.contains(&name.as_str()) {
            match field.items.as_ref() {
                Some(JSONSchemaPropsOrArray::Schema(item)) => rows(&format!("{path}[]"), item, out),
                _ => rows(&path, field, out),
            }
        }
    }
}

fn type_of(name: &str, field: &JSONSchemaProps) -> String {
    if KUBERNETES_OWN.contains(&name) {
        return "as in Kubernetes".to_owned();
    }
    field.type_.clone().unwrap_or_else(|| "integer or string".to_owned())
}
