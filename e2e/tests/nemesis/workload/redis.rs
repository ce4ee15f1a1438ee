//! A list a list: `RPUSH`, and `WAIT 1` in the same connection. Without its answer an append is not acknowledged, only unknown.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::{Result, ensure};
use e2e::Lab;
use e2e::engine::{Cluster, Redis};
use e2e::history::{Element, Key, Lists, Outcome};
use e2e::images::REDIS;
use e2e::stage::eventually;
use redis::aio::MultiplexedConnection;
use redis::{RedisError, cmd, pipe};
use serde_json::json;

use super::{Answer, Workload};

/// Refusals that Redis makes before anything is changed: who follows, who has too few replicas, who still loads.
const REFUSALS: [&str; 3] = ["READONLY", "NOREPLICAS", "LOADING"];
/// How long a replica may take to acknowledge, in milliseconds: the server gives up before the client does.
const WAIT: u64 = 1500;
/// A read writes here, so that there is something to wait for.
const MARK: &str = "mark";
const NAME: &str = "cache";

impl Workload for Redis {
    async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Cluster<Self>> {
        let object = json!({
            "apiVersion": "understudy.dev/v1alpha1",
            "kind": "RedisReplication",
            "metadata": {"name": NAME, "namespace": namespace},
            "spec": {
                "replicas": replicas,
                "image": REDIS,
                "imagePullPolicy": "Never",
                "storage": {"size": "1Gi"},
                "users": [{"name": Self::USER, "rules": Self::RULES}],
                "pod": {"terminationGracePeriodSeconds": 20},
            },
        });
        lab.kubectl_apply(&object.to_string()).await?;
        let cluster = Cluster::new(lab, namespace, NAME);
        Self::whole(&cluster, replicas).await?;
        Ok(cluster)
    }

    /// Each replica counts for WAIT.
    async fn whole(cluster: &Cluster<Self>, replicas: u32) -> Result<()> {
        eventually(&format!("{replicas} ready members"), || async {
            let now = cluster.glance().await?;
            ensure!(now.settled && now.ready.len() == replicas as usize && now.members.len() == replicas as usize, "{}", now.story);
            Ok(())
        })
        .await
    }

    async fn append(connection: &mut MultiplexedConnection, key: Key, element: Element) -> Answer {
        // Two questions: what refuses the second one says nothing of the first.
        let outcome = match cmd("RPUSH").arg(list(key)).arg(element).query_async::<u64>(connection).await {
            Ok(_) => match cmd("WAIT").arg(1).arg(WAIT).query_async::<u64>(connection).await {
                Ok(0) => Outcome::Unknown("no replica has acknowledged it".into()),
                Ok(_) => Outcome::Ok,
                Err(error) => Outcome::Unknown(error.to_string()),
            },
            Err(error) if is_refused(&error) => Outcome::Fail(error.to_string()),
            Err(error) => Outcome::Unknown(error.to_string()),
        };
        // Terms are the operator's own: its status tells them.
        Answer { outcome, term: None }
    }

    /// A primary shows what no replica has yet, and the next one may never have: what was read counts when a write after it is acknowledged.
    async fn read(connection: &mut MultiplexedConnection, key: Key) -> Result<Vec<Element>> {
        let mut commands = pipe();
        commands.lrange(list(key), 0, -1).set(MARK, key).cmd("WAIT").arg(1).arg(WAIT);
        let (elements, _, acks): (Vec<String>, (), u64) = commands.query_async(connection).await?;
        ensure!(acks > 0, "no replica has acknowledged what was read");
        Ok(numbers(&elements))
    }

    async fn contents(connection: &mut MultiplexedConnection) -> Result<(Lists, u64)> {
        let mut keys: Vec<String> = cmd("KEYS").arg("*").query_async(connection).await?;
        keys.sort_unstable();
        let (mut lists, mut checksum) = (Lists::new(), DefaultHasher::new());
        for key in keys {
            let kind: String = cmd("TYPE").arg(&key).query_async(connection).await?;
            let stands: Vec<String> = match kind.as_str() {
                "list" => cmd("LRANGE").arg(&key).arg(0).arg(-1).query_async(connection).await?,
                _ => vec![cmd("GET").arg(&key).query_async(connection).await?],
            };
            (&key, &kind, &stands).hash(&mut checksum);
            if kind == "list" {
                lists.insert(key.strip_prefix("list:").and_then(|number| number.parse().ok()).unwrap_or(Key::MAX), numbers(&stands));
            }
        }
        Ok((lists, checksum.finish()))
    }
}

fn is_refused(error: &RedisError) -> bool {
    error.code().is_some_and(|code| REFUSALS.contains(&code))
}

fn list(key: Key) -> String {
    format!("list:{key}")
}

fn numbers(elements: &[String]) -> Vec<Element> {
    elements.iter().map(|element| element.parse().unwrap_or(Element::MAX)).collect()
}

#[cfg(test)]
mod tests;
