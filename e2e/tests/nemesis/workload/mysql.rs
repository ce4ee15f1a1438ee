//! A row a list: numbers with commas between them.

use anyhow::{Context, Result};
use e2e::Lab;
use e2e::engine::{Cluster, MySql};
use e2e::history::{Element, Key, Lists, Outcome};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

use super::{Answer, Workload};
use crate::mysql_rig as rig;

/// Refusals that MySQL makes before anything is changed: read-only by option or mode, deadlock, lock wait.
const REFUSALS: [u16; 4] = [1290, 1836, 1213, 1205];

impl Workload for MySql {
    async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Cluster<Self>> {
        let made = rig::Cluster::create(lab, namespace, replicas).await?;
        made.acks(replicas / 2).await?;
        let table = "CREATE TABLE lists (id BIGINT UNSIGNED PRIMARY KEY, elements MEDIUMTEXT NOT NULL)";
        made.writes().await?.query_drop(table).await?;
        Ok(Cluster::new(lab, namespace, &made.name))
    }

    /// Each replica counts for semi-sync.
    async fn whole(cluster: &Cluster<Self>, replicas: u32) -> Result<()> {
        let made = rig::Cluster::new(&cluster.lab, &cluster.namespace);
        made.ready(replicas).await?;
        made.acks(replicas / 2).await
    }

    async fn append(connection: &mut Conn, key: Key, element: Element) -> Answer {
        let statement = format!(
            "INSERT INTO lists (id, elements) VALUES ({key}, '{element}') ON DUPLICATE KEY UPDATE elements = CONCAT(elements, ',', VALUES(elements))"
        );
        let outcome = match connection.query_drop(statement).await {
            Ok(()) => Outcome::Ok,
            Err(Error::Server(error)) if REFUSALS.contains(&error.code) => Outcome::Fail(error.to_string()),
            Err(error) => Outcome::Unknown(error.to_string()),
        };
        // Terms are the operator's own: its status tells them.
        Answer { outcome, term: None }
    }

    async fn read(connection: &mut Conn, key: Key) -> Result<Vec<Element>> {
        let list: Option<String> = connection.query_first(format!("SELECT elements FROM lists WHERE id = {key}")).await?;
        Ok(list.as_deref().map_or_else(Vec::new, elements))
    }

    async fn contents(connection: &mut Conn) -> Result<(Lists, u64)> {
        let rows: Vec<(u64, String)> = connection.query("SELECT id, elements FROM lists").await?;
        let checksum: Option<(String, Option<u64>)> = connection.query_first("CHECKSUM TABLE lists").await?;
        let (_, checksum) = checksum.context("no checksum")?;
        Ok((rows.into_iter().map(|(id, list)| (id, elements(&list))).collect(), checksum.context("no table to sum up")?))
    }
}

fn elements(list: &str) -> Vec<Element> {
    list.split(',').map(|element| element.parse().unwrap_or(Element::MAX)).collect()
}
