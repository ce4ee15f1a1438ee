//! Golden files: what is built for an object as a user writes it. `UPDATE_GOLDEN=1` rewrites them.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail like tests")]

use std::path::PathBuf;

use crds::mysql::MySQLCluster;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use operator::build::{Objects, template_size};
use operator::desired::Desired as Checked;
use operator::engine::Engine;
use operator::mongo::Mongo;
use operator::mysql::MySql;
use operator::mysql::build::build;
use operator::mysql::validate::{Desired, validate};
use operator::redis::Redis;
use serde::Serialize;

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/build").join(name)
}

fn checked<E: Engine>(name: &str) -> Checked<E> {
    let text = std::fs::read_to_string(path(&format!("{name}.yaml"))).unwrap();
    E::validate(&serde_yaml::from_str::<E::Kind>(&text).unwrap()).unwrap()
}

fn desired(name: &str) -> Desired {
    let text = std::fs::read_to_string(path(&format!("mysql/{name}.yaml"))).unwrap();
    validate(&serde_yaml::from_str::<MySQLCluster>(&text).unwrap()).unwrap()
}

fn text(objects: &Objects) -> String {
    let Objects { config_map, services, network_policy, disruption_budget, stateful_set } = objects;
    let mut all = vec![document(config_map)];
    all.extend(services.iter().map(document));
    all.push(document(network_policy));
    all.extend(disruption_budget.as_ref().map(document));
    all.push(document(stateful_set));
    all.concat()
}

fn document(object: &impl Serialize) -> String {
    format!("---\n{}", serde_yaml::to_string(object).unwrap())
}

fn golden<E: Engine>(name: &str) {
    let desired = checked::<E>(name);
    let built = text(&E::build(&desired, desired.replicas, None, "registry.example/understudy:1"));
    let file = path(&format!("{name}.golden.yaml"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, &built).unwrap();
    }
    let expected = std::fs::read_to_string(&file).unwrap();
    let differs = expected.lines().zip(built.lines()).position(|(expected, built)| expected != built);
    assert!(expected == built, "{} differs from line {:?}; UPDATE_GOLDEN=1 rewrites it", file.display(), differs.map(|line| line + 1));
}

#[test]
fn the_smallest_object_gets_every_default() {
    golden::<MySql>("mysql/smallest");
    golden::<Mongo>("mongo/smallest");
    golden::<Redis>("redis/smallest");
}

#[test]
fn every_field_arrives_where_it_belongs() {
    golden::<MySql>("mysql/everything");
    golden::<Mongo>("mongo/everything");
    golden::<Redis>("redis/everything");
}

#[test]
fn one_member_has_no_disruption_budget() {
    golden::<MySql>("mysql/single");
    golden::<Mongo>("mongo/single");
    golden::<Redis>("redis/single");
}

#[test]
fn another_my_cnf_is_another_config_map_and_another_revision() {
    let one = desired("smallest");
    let mut two = one.clone();
    two.config.insert("max_connections".into(), "7".into());
    let (one, two) = (build(&one, 3, None, "u"), build(&two, 3, None, "u"));
    assert_ne!(one.config_map.metadata.name, two.config_map.metadata.name);
    assert_ne!(one.stateful_set.spec.unwrap().template, two.stateful_set.spec.unwrap().template);
}

#[test]
fn members_and_growing_volumes_leave_the_template_alone() {
    let mut desired = desired("smallest");
    let born = build(&desired, 3, None, "u").stateful_set;
    desired.volume.size.0 = "5Gi".into();
    desired.replicas = 5;
    let grown = build(&desired, 5, template_size(&born), "u").stateful_set;
    let (born, grown) = (born.spec.unwrap(), grown.spec.unwrap());
    assert_eq!(born.volume_claim_templates, grown.volume_claim_templates, "the API server refuses any change of it");
    assert_eq!(born.template, grown.template, "scaling restarts nobody");
    assert_eq!(grown.replicas, Some(5));
}

#[test]
fn nothing_of_a_cluster_is_named_or_selected_by_another() {
    let [one, two] = ["smallest", "single"].map(|name| {
        let desired = desired(name);
        build(&desired, desired.replicas, None, "u")
    });
    let selector = |objects: &Objects| objects.stateful_set.spec.clone().unwrap().selector.match_labels.unwrap();
    let labels = |objects: &Objects| objects.stateful_set.spec.clone().unwrap().template.metadata.unwrap().labels.unwrap();
    assert!(selector(&one).iter().all(|(key, value)| labels(&one).get(key) == Some(value)));
    assert!(!selector(&one).iter().all(|(key, value)| labels(&two).get(key) == Some(value)));
}

#[test]
fn a_set_and_a_cluster_of_the_same_name_select_nothing_of_each_other() {
    let mut set = checked::<Mongo>("mongo/smallest");
    let cluster = desired("smallest");
    set.name.clone_from(&cluster.name);
    let set = Mongo::build(&set, 3, None, "u").stateful_set.spec.unwrap();
    let cluster = build(&cluster, 3, None, "u").stateful_set.spec.unwrap();
    assert_ne!(set.selector.match_labels, cluster.selector.match_labels);
}

#[test]
fn a_new_user_restarts_nobody() {
    let mut set = checked::<Mongo>("mongo/everything");
    let before = Mongo::build(&set, 3, None, "u").stateful_set;
    set.own.users.pop();
    assert_eq!(Mongo::build(&set, 3, None, "u").stateful_set, before);
    let mut cache = checked::<Redis>("redis/everything");
    let before = Redis::build(&cache, 3, None, "u").stateful_set;
    cache.own.users.clear();
    assert_eq!(Redis::build(&cache, 3, None, "u").stateful_set, before);
}

#[test]
fn a_sentinel_is_asked_of_every_member_by_a_service_and_by_the_members_own_names() {
    let desired = checked::<Redis>("redis/smallest");
    let built = Redis::build(&desired, 3, None, "u");
    let service =
        |name: &str| built.services.iter().find(|service| service.metadata.name.as_deref() == Some(name)).unwrap().spec.clone().unwrap();
    let ports = |name: &str| service(name).ports.unwrap().into_iter().map(|port| (port.name.unwrap(), port.port)).collect::<Vec<_>>();
    assert_eq!(ports("sessions-sentinel"), [("sentinel".to_owned(), 26379)]);
    assert_eq!(service("sessions-sentinel").publish_not_ready_addresses, Some(true), "it is asked when nobody is ready");
    let members = ports("sessions");
    for port in [("redis", 6379), ("sentinel", 26379)] {
        assert!(members.contains(&(port.0.to_owned(), port.1)), "an SRV record of {port:?} in {members:?}");
    }
    let rules = built.network_policy.spec.unwrap().ingress.unwrap();
    let to_all = rules.iter().filter(|rule| rule.from.is_none()).flat_map(|rule| rule.ports.iter().flatten()).map(|port| port.port.clone());
    assert!(to_all.flatten().any(|port| port == IntOrString::Int(26379)), "applications may ask");
}

#[test]
fn who_was_started_with_another_key_is_outdated_and_nobody_is_when_it_is_lost() {
    let set = checked::<Mongo>("mongo/smallest");
    let built = |digest: Option<&str>, live: Option<&StatefulSet>| {
        let mut objects = Mongo::build(&set, 3, None, "u");
        objects.started_with(digest.map(str::to_owned), live);
        objects.stateful_set
    };
    let (one, two) = (built(Some("one"), None), built(Some("two"), None));
    assert_ne!(one.spec.as_ref().unwrap().template, two.spec.as_ref().unwrap().template);
    assert_eq!(built(None, Some(&one)), one);
}
