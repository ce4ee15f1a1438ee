//! An application's way into a cluster: what its Secrets and its Services tell, fetched once, so that a connection needs no API server.

use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Secret, Service};
use kube::Api;
use mysql_async::{Conn, OptsBuilder, SslOpts};
use tokio::time::timeout;

use crate::lab::Lab;

/// The credentials of `NAME-app` and where to use them.
#[derive(Clone)]
pub struct Application {
    options: OptsBuilder,
    /// Address of the Service `NAME-primary`.
    pub primary: String,
}

impl Application {
    /// The application of one cluster.
    pub async fn of(lab: &Lab, namespace: &str, cluster: &str) -> Result<Self> {
        let secrets = Api::<Secret>::namespaced(lab.client().clone(), namespace);
        let (app, tls) = (secrets.get(&format!("{cluster}-app")).await?, secrets.get(&format!("{cluster}-tls")).await?);
        let tls = SslOpts::default()
            .with_root_certs(vec![value(&tls, "ca.crt")?.into_bytes().into()])
            .with_disable_built_in_roots(true)
            // Connections go to addresses; every member's certificate holds this name.
            .with_danger_tls_hostname_override(Some(format!("{cluster}-primary.{namespace}.svc")));
        let options = OptsBuilder::default()
            .user(Some(value(&app, "username")?))
            .pass(Some(value(&app, "password")?))
            .db_name(Some("shop"))
            .ssl_opts(Some(tls))
            .stmt_cache_size(0);
        let service = Api::<Service>::namespaced(lab.client().clone(), namespace).get(&format!("{cluster}-primary")).await?;
        let primary = service.spec.and_then(|spec| spec.cluster_ip).context("no cluster IP")?;
        Ok(Self { options, primary })
    }

    /// A connection to an address, over TLS; gives up after `within`.
    pub async fn connect(&self, address: &str, within: Duration) -> Result<Conn> {
        let options = self.options.clone().ip_or_hostname(address);
        timeout(within, Conn::new(options)).await.context("no connection in time")?.map_err(Into::into)
    }
}

fn value(secret: &Secret, key: &str) -> Result<String> {
    let name = secret.metadata.name.as_deref().unwrap_or_default();
    let value = secret.data.as_ref().and_then(|data| data.get(key)).with_context(|| format!("Secret {name} has no {key}"))?;
    Ok(String::from_utf8(value.0.clone())?)
}
