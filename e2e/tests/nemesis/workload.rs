//! Lists that are appended to, in the words of each database.

use std::future::Future;

use anyhow::Result;
use e2e::engine::Cluster;
use e2e::history::{Element, Key, Lists, Outcome};
use e2e::{Engine, Lab};

mod mongo;
mod mysql;
mod redis;

/// What came of an append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub outcome: Outcome,
    /// The term it was done under, where the answer tells.
    pub term: Option<u64>,
}

/// A database that the nemesis can meet.
pub trait Workload: Engine {
    /// A whole cluster with a place for lists.
    async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Cluster<Self>>;

    /// Waits until every member is ready and is counted on.
    async fn whole(cluster: &Cluster<Self>, replicas: u32) -> Result<()>;

    /// Appends, once: every element is tried by one statement.
    fn append(connection: &mut Self::Connection, key: Key, element: Element) -> impl Future<Output = Answer> + Send;

    /// A list as it is, so that nothing of it may ever be taken back. What is no number was never appended either: it becomes one that no
    /// client used.
    fn read(connection: &mut Self::Connection, key: Key) -> impl Future<Output = Result<Vec<Element>>> + Send;

    /// All lists of the member that the connection leads to, and a checksum of all that stands there.
    async fn contents(connection: &mut Self::Connection) -> Result<(Lists, u64)>;
}
