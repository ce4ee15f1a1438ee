//! What surrounds the database in every member's pod (pure): who may run, where, with which volumes, and that the sidecar is installed.

use crds::shared::PullPolicy;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, HTTPGetAction,
    Lifecycle, LifecycleHandler, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, Probe,
    ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sidecar_protocol::{API_PORT, HEALTH_PORT, probe};

use super::members_selector;
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names;

/// Where the sidecar is installed.
pub const SIDECAR: &str = "/understudy/bin/sidecar";
/// The database's user in the official images of MySQL, MongoDB, Redis and Valkey.
const USER: i64 = 999;
/// A copy or a crash recovery takes as long as it takes: a startup probe that gives up would only begin it anew. About a year.
pub const FOR_EVER: i32 = 365 * 24 * 3600;

/// The pod: `sidecar` prepares the volume and opens the curtain for `database`; `secrets` are mounted beside the common ones.
#[must_use]
pub fn spec<E: Engine>(
    desired: &Desired<E>,
    sidecar_image: &str,
    config: &str,
    sidecar: Container,
    database: Container,
    secrets: Vec<Volume>,
) -> PodSpec {
    let pod = &desired.pod;
    PodSpec {
        init_containers: Some(vec![install(desired, sidecar_image), sidecar]),
        containers: vec![database],
        volumes: Some(volumes(&desired.name, config, secrets)),
        affinity: Some(pod.affinity.clone().unwrap_or_else(|| apart(desired))),
        node_selector: Some(pod.node_selector.clone()).filter(|all| !all.is_empty()),
        tolerations: filled(&pod.tolerations),
        topology_spread_constraints: filled(&pod.topology_spread_constraints),
        priority_class_name: pod.priority_class_name.clone(),
        image_pull_secrets: filled(&desired.image_pull_secrets),
        security_context: Some(pod.security_context.clone().unwrap_or_else(unprivileged)),
        termination_grace_period_seconds: Some(pod.termination_grace_period_seconds.into()),
        automount_service_account_token: Some(false),
        // The addresses of other Services are nothing for a database's environment.
        enable_service_links: Some(false),
        ..PodSpec::default()
    }
}

fn install<E: Engine>(desired: &Desired<E>, image: &str) -> Container {
    Container {
        name: "install".to_owned(),
        image: Some(image.to_owned()),
        command: Some(["/sidecar", "install", SIDECAR].map(str::to_owned).into()),
        resources: Some(sidecar_resources(desired)),
        security_context: Some(confined()),
        volume_mounts: Some(vec![mount("bin", "/understudy/bin", false)]),
        ..Container::default()
    }
}

/// The sidecar, in the database's image, so that it works with the very binaries that will serve. `engine` is its subcommand, `mounts`
/// what it needs beside the common ones.
#[must_use]
pub fn sidecar<E: Engine>(desired: &Desired<E>, engine: &str, arguments: &[&str], mounts: Vec<VolumeMount>) -> Container {
    let command = [SIDECAR, engine, "--cluster", &desired.name, "--cluster-uid", &desired.uid];
    let own =
        [("POD_NAME", "metadata.name"), ("POD_NAMESPACE", "metadata.namespace"), ("POD_IP", "status.podIP")].map(|(name, path)| EnvVar {
            name: name.to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }),
                ..EnvVarSource::default()
            }),
        });
    let grace = EnvVar {
        name: "TERMINATION_GRACE_SECONDS".to_owned(),
        value: Some(desired.pod.termination_grace_period_seconds.to_string()),
        value_from: None,
    };
    let common = [
        mount("bin", "/understudy/bin", true),
        mount("run", "/understudy/run", false),
        mount("tmp", "/tmp", false),
        mount("tls", "/understudy/tls", true),
        mount("system", "/understudy/system", true),
        mount("app", "/understudy/app", true),
        mount("config", "/understudy/config", true),
    ];
    Container {
        name: "sidecar".to_owned(),
        image: Some(desired.image.clone()),
        image_pull_policy: pull_policy(desired),
        restart_policy: Some("Always".to_owned()),
        command: Some(command.into_iter().chain(arguments.iter().copied()).map(str::to_owned).collect()),
        env: Some(own.into_iter().chain([grace]).collect()),
        ports: Some(vec![port("api", API_PORT), port("health", HEALTH_PORT)]),
        // It opens the curtain: the database starts when its volume is ready and there is a configuration.
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(FOR_EVER), ..get(probe::STARTUP) }),
        liveness_probe: Some(Probe { period_seconds: Some(10), timeout_seconds: Some(5), failure_threshold: Some(6), ..get(probe::LIVE) }),
        resources: Some(sidecar_resources(desired)),
        security_context: Some(confined()),
        volume_mounts: Some(mounts.into_iter().chain(common).collect()),
        ..Container::default()
    }
}

/// The database: `command` under the guard of the sidecar, with `greets` as the proof that it lives.
#[must_use]
pub fn database<E: Engine>(desired: &Desired<E>, command: &[&str], greets: &Probe, mounts: Vec<VolumeMount>) -> Container {
    let common = [
        mount("bin", "/understudy/bin", true),
        mount("run", "/understudy/run", false),
        mount("tmp", "/tmp", false),
        mount("tls", "/understudy/tls", true),
    ];
    Container {
        name: E::LABEL.to_owned(),
        image: Some(desired.image.clone()),
        image_pull_policy: pull_policy(desired),
        command: Some([SIDECAR, "guard", "--"].into_iter().chain(command.iter().copied()).map(str::to_owned).collect()),
        ports: Some(vec![port(E::LABEL, E::PORT)]),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(FOR_EVER), ..greets.clone() }),
        readiness_probe: Some(Probe { period_seconds: Some(1), timeout_seconds: Some(2), failure_threshold: Some(2), ..get(probe::READY) }),
        // A minute without a greeting: it hangs, it is not merely busy.
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..greets.clone() }),
        // A primary that is evicted stays until another one has taken over.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { http_get: Some(health(probe::RELEASE)), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        resources: desired.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(mounts.into_iter().chain(common).collect()),
        ..Container::default()
    }
}

fn volumes(cluster: &str, config: &str, secrets: Vec<Volume>) -> Vec<Volume> {
    let empty = |name: &str| Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: config.to_owned(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    let common = [empty("bin"), empty("run"), empty("tmp"), secret("tls", names::tls(cluster)), secret("system", names::system(cluster))];
    common.into_iter().chain(secrets).chain([config]).collect()
}

/// A volume from a Secret.
#[must_use]
pub fn secret(name: &str, secret: String) -> Volume {
    Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(secret), default_mode: Some(0o440), ..SecretVolumeSource::default() }),
        ..Volume::default()
    }
}

fn filled<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

/// Small, and without a limit: MySQL's receiving mysqld of a clone runs in the sidecar's container.
fn sidecar_resources<E: Engine>(desired: &Desired<E>) -> ResourceRequirements {
    desired.pod.sidecar_resources.clone().unwrap_or_else(|| ResourceRequirements {
        requests: Some([("cpu", "10m"), ("memory", "32Mi")].map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into()),
        ..ResourceRequirements::default()
    })
}

/// Members prefer different nodes, and still start on a cluster of one.
fn apart<E: Engine>(desired: &Desired<E>) -> Affinity {
    let term = PodAffinityTerm {
        label_selector: Some(members_selector(desired)),
        topology_key: "kubernetes.io/hostname".to_owned(),
        ..PodAffinityTerm::default()
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: term,
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn unprivileged() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(USER),
        run_as_group: Some(USER),
        fs_group: Some(USER),
        // A large volume is not walked at each start.
        fs_group_change_policy: Some("OnRootMismatch".to_owned()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn confined() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
        ..SecurityContext::default()
    }
}

fn pull_policy<E: Engine>(desired: &Desired<E>) -> Option<String> {
    desired.image_pull_policy.map(|policy| {
        match policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
        .to_owned()
    })
}

/// Where a volume is mounted.
#[must_use]
pub fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only: read_only.then_some(true), ..VolumeMount::default() }
}

/// A port of a container.
#[must_use]
pub fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn get(path: &str) -> Probe {
    Probe { http_get: Some(health(path)), ..Probe::default() }
}

fn health(path: &str) -> HTTPGetAction {
    HTTPGetAction { path: Some(path.to_owned()), port: IntOrString::Int(HEALTH_PORT.into()), ..HTTPGetAction::default() }
}
