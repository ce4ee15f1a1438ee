//! What the user writes and reads: one custom resource an engine, its admission rules, its status, the record of decisions.
//!
//! `yaml/` is generated from here (`make generate`) and CI compares it. Nothing in this package decides anything.

pub mod annotations;
pub mod conditions;
pub mod decisions;
pub mod mongo;
pub mod mysql;
pub mod redis;
pub mod shared;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use kube::CustomResourceExt;

/// API group of every kind.
pub const GROUP: &str = "understudy.dev";

/// Every custom resource definition: a new engine is one line here.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    let mut all = vec![mysql::MySQLCluster::crd(), mongo::MongoReplicaSet::crd(), redis::RedisReplication::crd()];
    for version in all.iter_mut().flat_map(|crd| &mut crd.spec.versions) {
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            known_formats(schema);
        }
    }
    all
}

/// Kubernetes knows no unsigned formats and warns of each when the definition is applied; the bounds are in the schema anyway.
fn known_formats(schema: &mut JSONSchemaProps) {
    schema.format.take_if(|format| format.starts_with("uint"));
    schema.properties.iter_mut().flat_map(|properties| properties.values_mut()).for_each(known_formats);
    if let Some(JSONSchemaPropsOrArray::Schema(item)) = &mut schema.items {
        known_formats(item);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(value)) = &mut schema.additional_properties {
        known_formats(value);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_definition_has_no_format_that_kubernetes_does_not_know() {
        for crd in super::all() {
            let text = serde_json::to_string(&crd).unwrap();
            assert!(!text.contains("\"format\":\"uint"), "{:?}", crd.metadata.name);
        }
    }
}
