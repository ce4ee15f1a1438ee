//! The other members by their pods' labels, asked of Kubernetes' API as mongo-k8s-sidecar does, in plain HTTPS.
//!
//! The token is read at each call: the kubelet replaces it each hour. "Forbidden" and "nobody" are different answers: an error never looks
//! like an empty list.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, AUTHORIZATION, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::standalone::Found;

/// One call, connecting included.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest list that is read, in bytes: without labels it has every pod.
const MAX_LIST: usize = 32 * 1024 * 1024;

/// Where the API is and whom to ask it for.
#[derive(Clone, Debug)]
pub struct Pods {
    /// Host and port of the API.
    pub server: (String, u16),
    /// `ca.crt` and `token` of the pod's ServiceAccount.
    pub account: PathBuf,
    /// Where to look; `None` is everywhere.
    pub namespace: Option<String>,
    /// `k=v,k2=v2`, all of them; empty is every pod.
    pub labels: String,
    /// The headless Service; `None`: each pod's own (`spec.subdomain`).
    pub service: Option<String>,
    /// Domain of the cluster.
    pub domain: String,
}

/// Why it is not known which pods there are.
#[derive(Debug, thiserror::Error)]
pub enum PodsError {
    /// The ServiceAccount's files cannot be used.
    #[error("{path}: {source}; the pod needs a ServiceAccount token (automountServiceAccountToken), or discovery by DNS")]
    Account {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: io::Error,
    },
    /// The API may not be asked.
    #[error("the API forbids to list pods ({0}): grant the ServiceAccount `list` on pods, or use discovery by DNS")]
    Forbidden(StatusCode),
    /// It answers something else.
    #[error("the API answers {0}")]
    Status(StatusCode),
    /// It does not answer.
    #[error("the API does not answer: {0}")]
    Silent(String),
    /// What it answers is no list.
    #[error("the API's list cannot be read: {0}")]
    Unreadable(String),
}

#[derive(Debug, Deserialize)]
struct List {
    items: Vec<Pod>,
}

#[derive(Debug, Deserialize)]
struct Pod {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Deserialize)]
struct Metadata {
    name: String,
    namespace: String,
}

#[derive(Debug, Default, Deserialize)]
struct Spec {
    subdomain: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    phase: Option<String>,
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
}

impl Pods {
    /// The members that run, by ordinal.
    ///
    /// # Errors
    /// It is not known.
    pub async fn find(&self, port: u16) -> Result<Vec<Found>, PodsError> {
        let body =
            timeout(DEADLINE, self.list()).await.map_err(|_| PodsError::Silent(format!("nothing for {} s", DEADLINE.as_secs())))??;
        let list: List = serde_json::from_slice(&body).map_err(|error| PodsError::Unreadable(error.to_string()))?;
        Ok(self.members(&list, port))
    }

    /// Pods that have no address yet, do not run, or are of no StatefulSet are left out.
    fn members(&self, list: &List, port: u16) -> Vec<Found> {
        let member = |pod: &Pod| {
            let address = pod.status.pod_ip.as_ref().filter(|_| pod.status.phase.as_deref() == Some("Running"))?;
            let ordinal = pod.metadata.name.rsplit_once('-')?.1.parse().ok()?;
            let service = self.service.as_ref().or(pod.spec.subdomain.as_ref())?;
            let (Metadata { name, namespace }, domain) = (&pod.metadata, &self.domain);
            let alias = if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") };
            Some(Found {
                ordinal,
                host: format!("{name}.{service}.{namespace}.svc.{domain}:{port}"),
                aliases: vec![alias, format!("{name}:{port}")],
            })
        };
        let mut found: Vec<_> = list.items.iter().filter_map(member).collect();
        found.sort_by(|a, b| (a.ordinal, &a.host).cmp(&(b.ordinal, &b.host)));
        found
    }

    async fn list(&self) -> Result<Bytes, PodsError> {
        let silent = |error: &dyn std::fmt::Display| PodsError::Silent(error.to_string());
        let token = self.file("token")?;
        let (host, port) = &self.server;
        let name = ServerName::try_from(host.clone()).map_err(|error| silent(&error))?;
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(|error| silent(&error))?;
        let tls = TlsConnector::from(Arc::new(self.trust()?)).connect(name, tcp).await.map_err(|error| silent(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.map_err(|error| silent(&error))?;
        let request = Request::get(self.path())
            .header(HOST, host)
            .header(ACCEPT, "application/json")
            .header(AUTHORIZATION, format!("Bearer {}", token.trim()))
            .body(Empty::<Bytes>::new())
            .map_err(|error| silent(&error))?;
        let exchange = async move {
            let response = sender.send_request(request).await.map_err(|error| silent(&error))?;
            match response.status() {
                StatusCode::OK => {}
                status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => return Err(PodsError::Forbidden(status)),
                status => return Err(PodsError::Status(status)),
            }
            let body = Limited::new(response.into_body(), MAX_LIST).collect().await;
            Ok(body.map_err(|error| PodsError::Unreadable(error.to_string()))?.to_bytes())
        };
        futures::future::join(exchange, connection).await.0
    }

    /// What to ask for; from the API server's own memory, which is cheap for it.
    fn path(&self) -> String {
        let scope = self.namespace.as_ref().map_or(String::new(), |namespace| format!("/namespaces/{}", encoded(namespace)));
        let labels = if self.labels.is_empty() { String::new() } else { format!("&labelSelector={}", encoded(&self.labels)) };
        format!("/api/v1{scope}/pods?resourceVersion=0{labels}")
    }

    fn trust(&self) -> Result<rustls::ClientConfig, PodsError> {
        let unusable = |error: &dyn std::fmt::Display| PodsError::Account {
            path: self.account.join("ca.crt"),
            source: io::Error::other(error.to_string()),
        };
        let mut roots = rustls::RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(self.file("ca.crt")?.as_bytes()) {
            roots.add(root.map_err(|error| unusable(&error))?).map_err(|error| unusable(&error))?;
        }
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(|error| unusable(&error))?;
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }

    fn file(&self, name: &str) -> Result<String, PodsError> {
        let path = self.account.join(name);
        fs::read_to_string(&path).map_err(|source| PodsError::Account { path, source })
    }
}

/// Percent-encoded, all but what no URL gives a meaning.
fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub fn pods() -> Pods {
        Pods {
            server: ("10.0.0.1".into(), 443),
            account: "/var/run/secrets/kubernetes.io/serviceaccount".into(),
            namespace: Some("shop".into()),
            labels: "role=mongo,environment=test".into(),
            service: Some("mongo".into()),
            domain: "cluster.local".into(),
        }
    }

    const LIST: &str = r#"{"items": [
        {"metadata": {"name": "mongo-10", "namespace": "shop"}, "spec": {"subdomain": "mongo"}, "status": {"phase": "Running", "podIP": "10.1.0.9"}},
        {"metadata": {"name": "mongo-2", "namespace": "shop"}, "spec": {"subdomain": "mongo"}, "status": {"phase": "Running", "podIP": "fd00::2"}},
        {"metadata": {"name": "mongo-3", "namespace": "shop"}, "spec": {}, "status": {"phase": "Running"}},
        {"metadata": {"name": "mongo-4", "namespace": "shop"}, "spec": {}, "status": {"phase": "Pending", "podIP": "10.1.0.4"}},
        {"metadata": {"name": "other", "namespace": "shop"}, "status": {"phase": "Running", "podIP": "10.1.0.5"}}]}"#;

    #[test]
    fn pods_without_an_address_are_no_members_and_nothing_breaks() {
        let list: List = serde_json::from_str(LIST).unwrap();
        let found = pods().members(&list, 27017);
        let hosts: Vec<_> = found.iter().map(|found| (found.ordinal, found.host.as_str(), found.aliases[0].as_str())).collect();
        assert_eq!(
            hosts,
            [
                (2, "mongo-2.mongo.shop.svc.cluster.local:27017", "[fd00::2]:27017"),
                (10, "mongo-10.mongo.shop.svc.cluster.local:27017", "10.1.0.9:27017")
            ]
        );
    }

    #[test]
    fn without_a_service_name_members_still_go_by_names() {
        let list: List = serde_json::from_str(LIST).unwrap();
        let found = Pods { service: None, ..pods() }.members(&list, 27017);
        assert_eq!(found[1].host, "mongo-10.mongo.shop.svc.cluster.local:27017");
    }

    #[test]
    fn labels_and_namespace_are_asked_for() {
        assert_eq!(pods().path(), "/api/v1/namespaces/shop/pods?resourceVersion=0&labelSelector=role%3Dmongo%2Cenvironment%3Dtest");
        let every = Pods { namespace: None, labels: String::new(), ..pods() };
        assert_eq!(every.path(), "/api/v1/pods?resourceVersion=0");
    }

    #[tokio::test]
    async fn a_missing_token_is_an_error_and_not_nobody() {
        let error = Pods { account: "/nowhere".into(), ..pods() }.find(27017).await.unwrap_err();
        assert!(error.to_string().contains("ServiceAccount token"), "{error}");
        assert!(PodsError::Forbidden(StatusCode::FORBIDDEN).to_string().contains("grant"));
    }
}
