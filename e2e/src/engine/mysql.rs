//! A `MySQLCluster` as an application comes in.

use std::time::Duration;

use anyhow::{Context, Result};
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder, SslOpts};
use tokio::time::timeout;

use super::{Engine, Glance, secret, service, value};
use crate::lab::Lab;

/// The credentials of `NAME-app` and where to use them.
#[derive(Clone)]
pub struct MySql {
    options: OptsBuilder,
    primary: String,
}

impl Engine for MySql {
    type Object = MySQLCluster;
    type Connection = Conn;
    const NAME: &'static str = "mysql";
    const CONTAINER: &'static str = "mysql";
    const PORT: u16 = 3306;

    fn glance(object: &MySQLCluster) -> Option<Glance> {
        let status = object.status.clone()?;
        let MySQLClusterStatus { state, reason, ready, term, primary, transition, acks, ack_set, members, .. } = status;
        let set: Vec<_> = ack_set.iter().map(|member| member.name.as_str()).collect();
        let leads = primary.as_deref().unwrap_or("nobody");
        Some(Glance {
            story: format!("{state}: {reason} (term {term}, {leads}, {ready} ready, acks {acks} of {set:?})"),
            settled: state == "Healthy" && transition.is_none() && ack_set.len() + 1 == members.len(),
            term,
            primary,
            transition,
            ready: members.iter().filter(|member| member.ready).map(|member| member.name.clone()).collect(),
            members: members.into_iter().map(|member| member.name).collect(),
        })
    }

    async fn of(lab: &Lab, namespace: &str, cluster: &str) -> Result<Self> {
        let (app, tls) =
            (secret(lab, namespace, &format!("{cluster}-app")).await?, secret(lab, namespace, &format!("{cluster}-tls")).await?);
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
        Ok(Self { options, primary: service(lab, namespace, cluster).await? })
    }

    fn primary(&self) -> &str {
        &self.primary
    }

    async fn connect(&self, address: &str, within: Duration) -> Result<Conn> {
        let options = self.options.clone().ip_or_hostname(address);
        timeout(within, Conn::new(options)).await.context("no connection in time")?.map_err(Into::into)
    }

    async fn member(connection: &mut Conn) -> Result<String> {
        connection.query_first("SELECT @@hostname").await?.context("a server has a name")
    }
}
