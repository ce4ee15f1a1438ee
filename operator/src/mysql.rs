//! MySQL's rooms, in the order of the pipeline.

pub mod accounts;
pub mod build;
pub mod config;
pub mod decide;
pub mod explain;
pub mod material;
pub mod observe;
pub mod observed;
pub mod option;
pub mod status;
pub mod validate;

use crds::decisions::Decided;
use crds::mysql::{MySQLCluster, MySQLClusterStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sidecar_protocol::mysql::{Assignment, PORT, State};
use sidecar_protocol::{Order, Report};

use crate::engine::{Engine, News};
use crate::secrets::{Accounts, Secrets, SecretsError};
use crate::status::Pass;

/// MySQL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MySql;

impl Engine for MySql {
    type Kind = MySQLCluster;
    type Status = MySQLClusterStatus;
    type Own = validate::Own;
    type Asked = observed::Asked;
    type State = State;
    type Assignment = Assignment;
    type Authority = decide::Authority;

    const LABEL: &'static str = "mysql";
    const PORT: u16 = PORT;

    fn validate(cluster: &MySQLCluster) -> Result<validate::Desired, validate::Invalid> {
        validate::validate(cluster)
    }

    fn is_suspended(cluster: &MySQLCluster) -> bool {
        cluster.spec.suspend
    }

    fn asked(cluster: &MySQLCluster) -> observed::Asked {
        observe::asked(cluster)
    }

    fn build(desired: &validate::Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> build::Objects {
        build::build(desired, replicas, volume_size, sidecar_image)
    }

    fn decide(desired: &validate::Desired, observed: &observed::Observed, status: &MySQLClusterStatus, now: Timestamp) -> decide::Decision {
        decide::decide(desired, observed, status, now)
    }

    fn claim(authority: decide::Authority, status: &mut MySQLClusterStatus) {
        authority.write(status);
    }

    fn status(pass: &Pass<'_, Self>, old: &MySQLClusterStatus, now: Timestamp) -> MySQLClusterStatus {
        status::status(pass, old, now)
    }

    fn serves(status: &MySQLClusterStatus, member: &str) -> bool {
        status.members.iter().any(|row| row.name == member && row.ready)
    }

    fn news(observed: &observed::Observed, old: &MySQLClusterStatus) -> Vec<News> {
        explain::news(observed, old)
    }

    fn recorded(
        cluster: &MySQLCluster,
        desired: &validate::Desired,
        observed: &observed::Observed,
        status: &MySQLClusterStatus,
        decision: &decide::Decision,
        now: Timestamp,
    ) -> Decided {
        explain::decided(cluster, desired, observed, status, decision, now)
    }

    async fn accounts(secrets: &Secrets<'_, Self>, _: &observed::Observed, _: &MySQLClusterStatus) -> Result<Accounts, SecretsError> {
        accounts::ensure(secrets).await
    }

    fn same(old: &Report<State>, new: &Report<State>) -> bool {
        material::same(old, new)
    }

    fn progress(state: &State) -> Option<u64> {
        material::progress(&state.data)
    }

    fn lag(state: &State) -> Option<f64> {
        state.replication.as_ref()?.lag_seconds
    }

    fn holds(state: &State, order: &Order<Assignment>) -> bool {
        state.accepted.as_ref().is_some_and(|held| held.serves_as(order))
    }
}
