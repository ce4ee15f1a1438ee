//! Kubernetes' API, as a pod with a token sees it.

use std::convert::Infallible;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sidecar::mongo::pods::{Pods, PodsError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

const LIST: &str = r#"{"kind": "PodList", "items": [{"metadata": {"name": "mongo-0", "namespace": "shop"},
    "spec": {"subdomain": "mongo"}, "status": {"phase": "Running", "podIP": "10.1.0.4"}}]}"#;

/// An API server that knows one token, and the account's files for it. What was asked for is noted.
async fn api(asked: Arc<Mutex<Vec<String>>>, token: &'static str) -> Pods {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&key).unwrap().pem();
    let account: PathBuf = std::env::temp_dir().join(format!("understudy-account-{}-{token}", std::process::id()));
    fs::create_dir_all(&account).unwrap();
    fs::write(account.join("ca.crt"), &certificate).unwrap();
    let tls = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap(),
        )
        .unwrap();
    let (acceptor, listener) = (TlsAcceptor::from(Arc::new(tls)), TcpListener::bind(("127.0.0.1", 0)).await.unwrap());
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let Ok(tls) = acceptor.accept(tcp).await else { continue };
            let service = service_fn(|request: Request<Incoming>| {
                asked.lock().unwrap().push(request.uri().to_string());
                let known = request.headers().get("authorization").is_some_and(|given| given == &format!("Bearer {token}"));
                let status = if known { StatusCode::OK } else { StatusCode::FORBIDDEN };
                let answer = Response::builder().status(status).body(Full::new(Bytes::from(LIST))).unwrap();
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new().keep_alive(false).serve_connection(TokioIo::new(tls), service).await;
        }
    });
    Pods {
        server: ("localhost".into(), port),
        account,
        namespace: Some("shop".into()),
        labels: "role=mongo".into(),
        service: None,
        domain: "cluster.local".into(),
    }
}

#[tokio::test]
async fn the_token_is_read_at_each_call_and_forbidden_is_not_nobody() {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let pods = api(Arc::clone(&asked), "second").await;
    fs::write(pods.account.join("token"), "first").unwrap();
    let error = pods.find(27017).await.unwrap_err();
    assert!(matches!(error, PodsError::Forbidden(_)), "{error}");
    fs::write(pods.account.join("token"), "second\n").unwrap();
    let found = pods.find(27017).await.unwrap();
    assert_eq!((found.len(), found[0].host.as_str()), (1, "mongo-0.mongo.shop.svc.cluster.local:27017"));
    assert_eq!(found[0].aliases, ["10.1.0.4:27017", "mongo-0:27017"]);
    assert_eq!(asked.lock().unwrap()[0], "/api/v1/namespaces/shop/pods?resourceVersion=0&labelSelector=role%3Dmongo");
    let _ = fs::remove_dir_all(&pods.account);
}

#[tokio::test]
async fn an_api_that_is_not_who_it_should_be_is_an_error() {
    let pods = api(Arc::default(), "third").await;
    fs::write(pods.account.join("token"), "third").unwrap();
    let stranger = CertificateParams::new(vec!["localhost".into()]).unwrap().self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
    fs::write(pods.account.join("ca.crt"), stranger).unwrap();
    assert!(matches!(pods.find(27017).await, Err(PodsError::Silent(_))));
    let _ = fs::remove_dir_all(&pods.account);
}
