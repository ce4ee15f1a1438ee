//! MongoDB's rooms, in the order of the pipeline.

pub mod accounts;
pub mod build;
pub mod config;
pub mod decide;
pub mod explain;
pub mod keys;
pub mod material;
pub mod observe;
pub mod observed;
pub mod option;
pub mod status;
pub mod validate;

use crds::decisions::Decided;
use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use sidecar_protocol::mongo::{Assignment, PORT, State};
use sidecar_protocol::{Order, Report};

use crate::engine::{Engine, News};
use crate::secrets::{Accounts, Secrets, SecretsError};
use crate::status::Pass;

/// MongoDB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mongo;

impl Engine for Mongo {
    type Kind = MongoReplicaSet;
    type Status = MongoReplicaSetStatus;
    type Own = validate::Own;
    type Asked = observed::Asked;
    type State = State;
    type Assignment = Assignment;
    type Authority = decide::Authority;

    const LABEL: &'static str = "mongodb";
    const PORT: u16 = PORT;

    fn validate(cluster: &MongoReplicaSet) -> Result<validate::Desired, validate::Invalid> {
        validate::validate(cluster)
    }

    fn is_suspended(cluster: &MongoReplicaSet) -> bool {
        cluster.spec.suspend
    }

    fn asked(cluster: &MongoReplicaSet) -> observed::Asked {
        observe::asked(cluster)
    }

    fn build(desired: &validate::Desired, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> build::Objects {
        build::build(desired, replicas, volume_size, sidecar_image)
    }

    fn decide(
        desired: &validate::Desired,
        observed: &observed::Observed,
        status: &MongoReplicaSetStatus,
        now: Timestamp,
    ) -> decide::Decision {
        decide::decide(desired, observed, status, now)
    }

    fn claim(authority: decide::Authority, status: &mut MongoReplicaSetStatus) {
        authority.write(status);
    }

    fn status(pass: &Pass<'_, Self>, old: &MongoReplicaSetStatus, now: Timestamp) -> MongoReplicaSetStatus {
        status::status(pass, old, now)
    }

    fn serves(status: &MongoReplicaSetStatus, member: &str) -> bool {
        status.members.iter().any(|row| row.name == member && row.ready)
    }

    fn news(_: &observed::Observed, _: &MongoReplicaSetStatus) -> Vec<News> {
        Vec::new()
    }

    fn recorded(
        cluster: &MongoReplicaSet,
        desired: &validate::Desired,
        observed: &observed::Observed,
        status: &MongoReplicaSetStatus,
        decision: &decide::Decision,
        now: Timestamp,
    ) -> Decided {
        explain::decided(cluster, desired, observed, status, decision, now)
    }

    async fn accounts(
        secrets: &Secrets<'_, Self>,
        observed: &observed::Observed,
        status: &MongoReplicaSetStatus,
    ) -> Result<Accounts, SecretsError> {
        accounts::ensure(secrets, observed, status).await
    }

    fn same(old: &Report<State>, new: &Report<State>) -> bool {
        material::same(old, new)
    }

    fn progress(_: &State) -> Option<u64> {
        None
    }

    fn lag(state: &State) -> Option<f64> {
        state.lag_seconds.map(f64::from)
    }

    fn holds(state: &State, order: &Order<Assignment>) -> bool {
        // That it is of a newer record is no news: an order states the end, and promises nothing.
        state.accepted.as_ref().is_some_and(|held| (held.term, &held.assignment) == (order.term, &order.assignment))
    }
}
