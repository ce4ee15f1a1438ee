//! mongo-k8s-sidecar's environment, with its defaults and meaning: that image can be replaced by this program and nothing else changed.
//!
//! Three of its ways are mended, not kept. `MONGODB_DATABASE` is where users log in, and its default `local` lets nobody in: `admin` is
//! meant. Members go by name even where `KUBERNETES_MONGO_SERVICE_NAME` is not set: a pod says its own Service. `MONGO_DISCOVERY_BY_DNS`
//! (of a fork) means what it says, and asks for SRV records. Variables from the README of
//! <https://github.com/cvallance/mongo-k8s-sidecar> and its `src/lib/config.js`.

use std::path::PathBuf;
use std::time::Duration;

use sidecar_protocol::mongo::PORT;

use super::link::Login;
use super::pods::Pods;
use super::{Tls, TlsMode};

/// Where Kubernetes mounts the pod's account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// What the environment says.
#[derive(Clone, Debug)]
pub struct Environment {
    /// `POD_NAME`, or `HOSTNAME`, which is the pod's name unless it is on the host's network.
    pub member: String,
    /// `KUBERNETES_MONGO_SERVICE_NAME`.
    pub service: Option<String>,
    /// `MONGO_DISCOVERY_BY_DNS`: `None` asks the API.
    pub pods: Option<Pods>,
    /// `MONGO_SIDECAR_SLEEP_SECONDS`, 5.
    pub period: Duration,
    /// `MONGO_SIDECAR_UNHEALTHY_SECONDS`, 15.
    pub unhealthy: Duration,
    /// `MONGO_PORT`, 27017.
    pub port: u16,
    /// `CONFIG_SVR`.
    pub config_server: bool,
    /// `MONGODB_USERNAME`, `MONGODB_PASSWORD`, `MONGODB_DATABASE`.
    pub login: Option<Login>,
    /// `MONGO_SSL_ENABLED` and what belongs to it.
    pub tls: Option<Tls>,
    /// `MONGO_KEY_FILE`, of our own: with the members' key no user is needed, and members that are in no set can be asked.
    pub key_file: Option<PathBuf>,
}

/// A variable that cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} must be {expected}")]
pub struct VariableError {
    name: &'static str,
    expected: &'static str,
}

impl Environment {
    /// Reads it through `get`.
    ///
    /// # Errors
    /// A variable that cannot be used. Passwords are in no message.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, VariableError> {
        let set = |name: &str| get(name).filter(|value| !value.is_empty());
        let number = |name: &'static str, default: u64| match set(name) {
            Some(text) => text.trim().parse().map_err(|_| VariableError { name, expected: "a whole number" }),
            None => Ok(default),
        };
        let is_true = |name: &str| get(name).as_deref() == Some("true");
        let member = set("POD_NAME").or_else(|| set("HOSTNAME"));
        let member = member.ok_or(VariableError { name: "POD_NAME", expected: "the pod's name" })?;
        let service = set("KUBERNETES_MONGO_SERVICE_NAME");
        let port = number("MONGO_PORT", PORT.into())?;
        let port = u16::try_from(port).map_err(|_| VariableError { name: "MONGO_PORT", expected: "a port" })?;
        let by_dns = is_true("MONGO_DISCOVERY_BY_DNS");
        if by_dns && service.is_none() {
            return Err(VariableError { name: "KUBERNETES_MONGO_SERVICE_NAME", expected: "the headless Service, for discovery by DNS" });
        }
        let pods = if by_dns { None } else { Some(pods(set, service.clone())?) };
        let login = set("MONGODB_USERNAME").map(|name| Login::User {
            name,
            password: get("MONGODB_PASSWORD").unwrap_or_default(),
            source: set("MONGODB_DATABASE").filter(|database| database != "local").unwrap_or_else(|| "admin".into()),
        });
        // The driver checks the name together with the rest, so who needs no right name needs no right certificate.
        let unchecked = is_true("MONGO_SSL_ALLOW_INVALID_CERTIFICATES") || is_true("MONGO_SSL_ALLOW_INVALID_HOSTNAMES");
        let directory = set("MONGO_SSL_DIRECTORY").map(PathBuf::from);
        Ok(Self {
            member,
            service,
            pods,
            period: Duration::from_secs(number("MONGO_SIDECAR_SLEEP_SECONDS", 5)?.max(1)),
            unhealthy: Duration::from_secs(number("MONGO_SIDECAR_UNHEALTHY_SECONDS", 15)?),
            port,
            config_server: set("CONFIG_SVR").is_some_and(|value| ["y", "yes", "true", "1"].contains(&value.to_lowercase().as_str())),
            login,
            tls: is_true("MONGO_SSL_ENABLED").then_some(Tls { directory, mode: TlsMode::Require, unchecked }),
            key_file: set("MONGO_KEY_FILE").map(PathBuf::from),
        })
    }
}

fn pods(set: impl Fn(&str) -> Option<String>, service: Option<String>) -> Result<Pods, VariableError> {
    let missing = VariableError { name: "KUBERNETES_SERVICE_HOST", expected: "set, as the kubelet does (or MONGO_DISCOVERY_BY_DNS=true)" };
    let host = set("KUBERNETES_SERVICE_HOST").ok_or(missing)?;
    let port = set("KUBERNETES_SERVICE_PORT").map_or(Ok(443), |text| text.parse());
    let port = port.map_err(|_| VariableError { name: "KUBERNETES_SERVICE_PORT", expected: "a port" })?;
    let labels = set("MONGO_SIDECAR_POD_LABELS").unwrap_or_default();
    let wrong = labels.split(',').any(|label| !label.is_empty() && !label.contains('='));
    if wrong {
        return Err(VariableError { name: "MONGO_SIDECAR_POD_LABELS", expected: "like `k=v,k2=v2`" });
    }
    Ok(Pods {
        server: (host, port),
        account: ACCOUNT.into(),
        namespace: set("KUBE_NAMESPACE"),
        labels: labels.split(',').map(str::trim).filter(|label| !label.is_empty()).collect::<Vec<_>>().join(","),
        service,
        domain: set("KUBERNETES_CLUSTER_DOMAIN").unwrap_or_else(|| "cluster.local".into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const POD: [(&str, &str); 3] = [("HOSTNAME", "mongo-0"), ("KUBERNETES_SERVICE_HOST", "10.0.0.1"), ("KUBERNETES_SERVICE_PORT", "6443")];

    fn read(more: &[(&str, &str)]) -> Result<Environment, VariableError> {
        Environment::read(|name| more.iter().chain(&POD).find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn what_is_not_set_is_as_mongo_k8s_sidecar_has_it() {
        let environment = read(&[]).unwrap();
        assert_eq!((environment.port, environment.period.as_secs(), environment.unhealthy.as_secs()), (27017, 5, 15));
        assert!(environment.login.is_none() && environment.tls.is_none() && !environment.config_server);
        let pods = environment.pods.unwrap();
        assert_eq!((pods.namespace, pods.labels.as_str(), pods.domain.as_str()), (None, "", "cluster.local"));
        assert_eq!((pods.server, pods.service), (("10.0.0.1".into(), 6443), None));
    }

    #[test]
    fn every_variable_is_heard() {
        let environment = read(&[
            ("MONGO_SIDECAR_POD_LABELS", "role=mongo, environment=test"),
            ("KUBE_NAMESPACE", "shop"),
            ("MONGO_SIDECAR_SLEEP_SECONDS", "9"),
            ("MONGO_SIDECAR_UNHEALTHY_SECONDS", "60"),
            ("MONGO_PORT", "27018"),
            ("KUBERNETES_MONGO_SERVICE_NAME", "mongo"),
            ("KUBERNETES_CLUSTER_DOMAIN", "example.org"),
            ("CONFIG_SVR", "Yes"),
            ("MONGODB_USERNAME", "root"),
            ("MONGODB_PASSWORD", "pw"),
            ("MONGODB_DATABASE", "users"),
            ("MONGO_SSL_ENABLED", "true"),
            ("MONGO_SSL_ALLOW_INVALID_CERTIFICATES", "true"),
        ])
        .unwrap();
        assert_eq!((environment.port, environment.period.as_secs(), environment.unhealthy.as_secs()), (27018, 9, 60));
        assert!(environment.config_server && environment.tls.unwrap().unchecked);
        assert_eq!(environment.login, Some(Login::User { name: "root".into(), password: "pw".into(), source: "users".into() }));
        let pods = environment.pods.unwrap();
        assert_eq!((pods.namespace.as_deref(), pods.labels.as_str()), (Some("shop"), "role=mongo,environment=test"));
        assert_eq!((pods.service.as_deref(), pods.domain.as_str()), (Some("mongo"), "example.org"));
    }

    #[test]
    fn users_log_in_with_admin_unless_another_database_is_named() {
        let source = |more: &[(&str, &str)]| match read(more).unwrap().login {
            Some(Login::User { source, .. }) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source(&[("MONGODB_USERNAME", "root")]), "admin");
        assert_eq!(source(&[("MONGODB_USERNAME", "root"), ("MONGODB_DATABASE", "local")]), "admin");
    }

    #[test]
    fn discovery_by_dns_is_off_when_it_says_false_and_needs_a_service_when_it_says_true() {
        assert!(read(&[("MONGO_DISCOVERY_BY_DNS", "false")]).unwrap().pods.is_some());
        let service = ("KUBERNETES_MONGO_SERVICE_NAME", "mongo");
        assert!(read(&[("MONGO_DISCOVERY_BY_DNS", "true"), service]).unwrap().pods.is_none());
        assert!(read(&[("MONGO_DISCOVERY_BY_DNS", "true")]).unwrap_err().to_string().contains("headless Service"));
    }

    #[test]
    fn tls_is_on_only_when_it_says_true_to_the_letter() {
        assert!(read(&[("MONGO_SSL_ENABLED", "TRUE")]).unwrap().tls.is_none());
        assert!(!read(&[("MONGO_SSL_ENABLED", "true")]).unwrap().tls.unwrap().unchecked);
    }

    #[test]
    fn what_cannot_be_used_is_told_by_its_name() {
        for (name, value) in
            [("MONGO_PORT", "x"), ("MONGO_PORT", "70000"), ("MONGO_SIDECAR_SLEEP_SECONDS", "-1"), ("MONGO_SIDECAR_POD_LABELS", "role")]
        {
            assert!(read(&[(name, value)]).unwrap_err().to_string().starts_with(name));
        }
    }
}
