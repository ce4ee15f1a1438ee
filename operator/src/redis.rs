//! Redis' and Valkey's rooms, in the order of the pipeline.

pub mod accounts;
pub mod build;
pub mod config;
pub mod decide;
pub mod explain;
pub mod material;
pub mod observe;
pub mod observed;
pub mod option;
pub mod passwords;
pub mod status;
pub mod validate;

use crds::decisions::Decided;
use crds::redis::{RedisReplication, RedisReplicationStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sidecar_protocol::redis::{Assignment, PORT, State};
use sidecar_protocol::{Order, Report};

use crate::engine::{Engine, News};
use crate::secrets::{Accounts, Secrets, SecretsError};
use crate::status::Pass;

/// Redis or Valkey.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redis;

impl Engine for Redis {
    type Kind = RedisReplication;
    type Status = RedisReplicationStatus;
    type Own = validate::Own;
    type Asked = observed::Asked;
    type State = State;
    type Assignment = Assignment;
    type Authority = decide::Authority;

    const LABEL: &'static str = "redis";
    const PORT: u16 = PORT;

    fn validate(cluster: &RedisReplication) -> Result<validate::Desired, validate::Invalid> {
        validate::validate(cluster)
    }

    fn is_suspended(cluster: &RedisReplication) -> bool {
        cluster.spec.suspend
    }

    fn asked(cluster: &RedisReplication) -> observed::Asked {
        observe::asked(cluster)
    }

    fn build(desired: &validate::Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> build::Objects {
        build::build(desired, replicas, volume_size, sidecar_image)
    }

    fn decide(
        desired: &validate::Desired,
        observed: &observed::Observed,
        status: &RedisReplicationStatus,
        now: Timestamp,
    ) -> decide::Decision {
        decide::decide(desired, observed, status, now)
    }

    fn claim(authority: decide::Authority, status: &mut RedisReplicationStatus) {
        authority.write(status);
    }

    fn status(pass: &Pass<'_, Self>, old: &RedisReplicationStatus, now: Timestamp) -> RedisReplicationStatus {
        status::status(pass, old, now)
    }

    fn serves(status: &RedisReplicationStatus, member: &str) -> bool {
        status.members.iter().any(|row| row.name == member && row.ready)
    }

    fn news(observed: &observed::Observed, old: &RedisReplicationStatus) -> Vec<News> {
        explain::news(observed, old)
    }

    fn recorded(
        cluster: &RedisReplication,
        desired: &validate::Desired,
        observed: &observed::Observed,
        status: &RedisReplicationStatus,
        decision: &decide::Decision,
        now: Timestamp,
    ) -> Decided {
        explain::decided(cluster, desired, observed, status, decision, now)
    }

    async fn accounts(
        secrets: &Secrets<'_, Self>,
        observed: &observed::Observed,
        _: &RedisReplicationStatus,
    ) -> Result<Accounts, SecretsError> {
        accounts::ensure(secrets, observed, crate::clock::now()).await
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
