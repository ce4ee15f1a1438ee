//! What runs in a member's pod: the sidecar is installed, prepares the volume, and opens the curtain for mysqld.

use crds::mysql::PullPolicy;
use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource, ExecAction,
    HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PodAffinityTerm, PodAntiAffinity, PodSecurityContext,
    PodSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource, SecurityContext, Volume, VolumeMount,
    WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use sidecar_protocol::mysql::PORT;
use sidecar_protocol::{API_PORT, HEALTH_PORT, probe};

use super::members_selector;
use crate::mysql::names::{self, DATA};
use crate::mysql::validate::Desired;

/// Where the sidecar is installed.
const SIDECAR: &str = "/understudy/bin/sidecar";
/// The `mysql` user of the official image.
const MYSQL_USER: i64 = 999;
/// A clone or a crash recovery takes as long as it takes: a startup probe that gives up would only begin it anew. About a year.
const FOR_EVER: i32 = 365 * 24 * 3600;

/// The pod of a member whose my.cnf is in the ConfigMap `config`.
pub(super) fn spec(desired: &Desired, sidecar_image: &str, config: &str) -> PodSpec {
    let pod = &desired.pod;
    PodSpec {
        init_containers: Some(vec![install(desired, sidecar_image), sidecar(desired)]),
        containers: vec![mysql(desired)],
        volumes: Some(volumes(&desired.name, config)),
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

fn filled<T: Clone>(list: &[T]) -> Option<Vec<T>> {
    (!list.is_empty()).then(|| list.to_vec())
}

fn install(desired: &Desired, image: &str) -> Container {
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

/// Runs in the database's image, so that it initialises and clones with the very mysqld that will serve.
fn sidecar(desired: &Desired) -> Container {
    let lag = desired.max_replica_lag_seconds.to_string();
    let command =
        [SIDECAR, "mysql", "--cluster", &desired.name, "--cluster-uid", &desired.uid, "--max-replica-lag-seconds", &lag].map(str::to_owned);
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
    Container {
        name: "sidecar".to_owned(),
        image: Some(desired.image.clone()),
        image_pull_policy: pull_policy(desired),
        restart_policy: Some("Always".to_owned()),
        command: Some(command.into()),
        env: Some(own.into_iter().chain([grace]).collect()),
        ports: Some(vec![port("api", API_PORT), port("health", HEALTH_PORT)]),
        // It opens the curtain: mysqld starts when there is a complete data directory and a configuration.
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(FOR_EVER), ..get(probe::STARTUP) }),
        liveness_probe: Some(Probe { period_seconds: Some(10), timeout_seconds: Some(5), failure_threshold: Some(6), ..get(probe::LIVE) }),
        resources: Some(sidecar_resources(desired)),
        security_context: Some(confined()),
        volume_mounts: Some(vec![
            mount(DATA, "/var/lib/mysql", false),
            mount("bin", "/understudy/bin", true),
            mount("run", "/understudy/run", false),
            mount("tmp", "/tmp", false),
            mount("tls", "/understudy/tls", true),
            mount("system", "/understudy/system", true),
            mount("app", "/understudy/app", true),
            mount("config", "/understudy/config", true),
        ]),
        ..Container::default()
    }
}

fn mysql(desired: &Desired) -> Container {
    Container {
        name: "mysql".to_owned(),
        image: Some(desired.image.clone()),
        image_pull_policy: pull_policy(desired),
        command: Some([SIDECAR, "guard", "--", "mysqld", "--defaults-file=/understudy/run/my.cnf"].map(str::to_owned).into()),
        ports: Some(vec![port("mysql", PORT)]),
        startup_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(FOR_EVER), ..greets() }),
        readiness_probe: Some(Probe { period_seconds: Some(1), timeout_seconds: Some(2), failure_threshold: Some(2), ..get(probe::READY) }),
        // A minute without a greeting: it hangs, it is not merely busy.
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..greets() }),
        // A primary that is evicted stays until another one has taken over.
        lifecycle: Some(Lifecycle {
            pre_stop: Some(LifecycleHandler { http_get: Some(health(probe::RELEASE)), ..LifecycleHandler::default() }),
            ..Lifecycle::default()
        }),
        resources: desired.resources.clone(),
        security_context: Some(confined()),
        volume_mounts: Some(vec![
            mount(DATA, "/var/lib/mysql", false),
            mount("bin", "/understudy/bin", true),
            mount("run", "/understudy/run", false),
            mount("tmp", "/tmp", false),
            mount("tls", "/understudy/tls", true),
        ]),
        ..Container::default()
    }
}

fn volumes(cluster: &str, config: &str) -> Vec<Volume> {
    let empty = |name: &str| Volume { name: name.to_owned(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() };
    let secret = |name: &str, secret: String| Volume {
        name: name.to_owned(),
        secret: Some(SecretVolumeSource { secret_name: Some(secret), default_mode: Some(0o440), ..SecretVolumeSource::default() }),
        ..Volume::default()
    };
    let mut app = secret("app", names::app(cluster));
    if let Some(source) = &mut app.secret {
        // Absent until a database is asked for, and until its password exists; the sidecar makes the account when it comes.
        source.optional = Some(true);
        let item = |key: &str| KeyToPath { key: key.to_owned(), path: key.to_owned(), mode: None };
        source.items = Some(["username", "password", "database"].map(item).into());
    }
    let config = Volume {
        name: "config".to_owned(),
        config_map: Some(ConfigMapVolumeSource { name: config.to_owned(), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    };
    vec![
        empty("bin"),
        empty("run"),
        empty("tmp"),
        secret("tls", names::tls(cluster)),
        secret("system", names::system(cluster)),
        app,
        config,
    ]
}

/// Small, and without a limit: a clone's receiving mysqld runs in the sidecar's container.
fn sidecar_resources(desired: &Desired) -> ResourceRequirements {
    desired.pod.sidecar_resources.clone().unwrap_or_else(|| ResourceRequirements {
        requests: Some([("cpu", "10m"), ("memory", "32Mi")].map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into()),
        ..ResourceRequirements::default()
    })
}

/// Members prefer different nodes, and still start on a cluster of one.
fn apart(desired: &Desired) -> Affinity {
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
        run_as_user: Some(MYSQL_USER),
        run_as_group: Some(MYSQL_USER),
        fs_group: Some(MYSQL_USER),
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

fn pull_policy(desired: &Desired) -> Option<String> {
    desired.image_pull_policy.map(|policy| {
        match policy {
            PullPolicy::Always => "Always",
            PullPolicy::IfNotPresent => "IfNotPresent",
            PullPolicy::Never => "Never",
        }
        .to_owned()
    })
}

fn mount(name: &str, path: &str, read_only: bool) -> VolumeMount {
    VolumeMount { name: name.to_owned(), mount_path: path.to_owned(), read_only: read_only.then_some(true), ..VolumeMount::default() }
}

fn port(name: &str, number: u16) -> ContainerPort {
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

/// mysqld greets on its socket, whatever its role and its users' passwords.
fn greets() -> Probe {
    Probe {
        exec: Some(ExecAction { command: Some([SIDECAR, "live"].map(str::to_owned).into()) }),
        timeout_seconds: Some(5),
        ..Probe::default()
    }
}
