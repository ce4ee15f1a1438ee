//! Who may not give orders to a sidecar: point 11.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use sidecar_protocol::client::{Client, ClientError, tls_config};
use sidecar_protocol::mysql::{Assignment, State};
use sidecar_protocol::{API_PORT, Order, RefusalCode, Report};

use crate::rig::Cluster;
use e2e::stage::on_stage;

async fn call(cluster: &Cluster, tls: rustls::ClientConfig, order: Option<&Order<Assignment>>) -> Result<Report<State>, ClientError> {
    let pod = cluster.pods().get("orders-0").await.map_err(|error| ClientError::Unreadable(error.to_string()))?;
    let ip = pod.status.and_then(|status| status.pod_ip).and_then(|ip| ip.parse().ok());
    let address = SocketAddr::new(ip.ok_or_else(|| ClientError::Unreadable("no address".into()))?, API_PORT);
    let name = format!("orders-0.orders.{}.svc", cluster.namespace);
    let client = Client::connect(address, &name, Arc::new(tls)).await?;
    match order {
        Some(order) => client.order(order).await,
        None => client.reports().await?.next().await?.ok_or_else(|| ClientError::Unreadable("closed".into())),
    }
}

async fn identity(cluster: &Cluster, secret: &str, certificate: &str, key: &str) -> Result<rustls::ClientConfig> {
    let ca = cluster.secret_value("orders-tls", "ca.crt").await?;
    let certificate = cluster.secret_value(secret, certificate).await?;
    let key = cluster.secret_value(secret, key).await?;
    Ok(tls_config(ca.as_bytes(), certificate.as_bytes(), key.as_bytes())?)
}

#[tokio::test]
async fn strangers_namesakes_and_old_terms_are_refused() -> Result<()> {
    on_stage("strangers", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 1).await?;
        let mut other = Cluster::new(&lab, &namespace);
        other.name = "returns".into();
        other.apply(Cluster::spec(1)).await?;
        other.ready(1).await?;

        let operator = || identity(&cluster, "orders-ca", "operator.crt", "operator.key");
        let seen = call(&cluster, operator().await?, None).await?;
        ensure!(seen.member == "orders-0" && seen.term > 0, "the operator's certificate may read: {seen:?}");
        let order = |term: u64, uid: &str| Order {
            cluster: uid.to_owned(),
            term,
            claim: 0,
            incarnation: seen.incarnation.clone(),
            after: seen.orders,
            assignment: Assignment::Isolated,
        };
        let refused = |outcome: Result<Report<State>, ClientError>| match outcome {
            Err(ClientError::Refused(refusal)) => Ok(refusal.code),
            other => Err(anyhow::anyhow!("not refused: {other:?}")),
        };

        // No certificate at all, and another cluster's.
        let mut roots = rustls::RootCertStore::empty();
        let ca = cluster.secret_value("orders-tls", "ca.crt").await?;
        for root in rustls_pemfile(&ca)? {
            roots.add(root)?;
        }
        let nobody = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut nobody = nobody;
        nobody.alpn_protocols = vec![b"h2".to_vec()];
        ensure!(
            !matches!(call(&cluster, nobody, None).await, Ok(_) | Err(ClientError::Refused(_))),
            "a client without a certificate got an answer"
        );
        let namesake = tls_config(
            ca.as_bytes(),
            cluster.secret_value("returns-ca", "operator.crt").await?.as_bytes(),
            cluster.secret_value("returns-ca", "operator.key").await?.as_bytes(),
        )?;
        ensure!(
            !matches!(call(&cluster, namesake, None).await, Ok(_) | Err(ClientError::Refused(_))),
            "another cluster's operator got an answer"
        );

        // A member may read and not order; the operator may not order in an old term, for another cluster, or for an earlier start.
        let member = identity(&cluster, "orders-tls", "tls.crt", "tls.key").await?;
        ensure!(refused(call(&cluster, member, Some(&order(seen.term, &seen.cluster))).await)? == RefusalCode::NotTheOperator);
        ensure!(refused(call(&cluster, operator().await?, Some(&order(seen.term - 1, &seen.cluster))).await)? == RefusalCode::StaleTerm);
        ensure!(refused(call(&cluster, operator().await?, Some(&order(seen.term, "another"))).await)? == RefusalCode::OtherCluster);
        let earlier = Order { incarnation: "earlier".into(), ..order(seen.term, &seen.cluster) };
        ensure!(refused(call(&cluster, operator().await?, Some(&earlier)).await)? == RefusalCode::OtherIncarnation);

        // And it still does its part.
        cluster.through("primary").await.context("the primary was disturbed")?;
        Ok(())
    })
    .await
}

fn rustls_pemfile(pem: &str) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>> {
    use rustls::pki_types::pem::PemObject;
    Ok(rustls::pki_types::CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?)
}
