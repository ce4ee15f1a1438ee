//! What an engine is to the pipeline: its types, its facts, and one function a room.
//!
//! Everything that reads, writes, listens or waits is written once, outside of the engines ([`crate::reconcile`]); an engine only says
//! what is wanted, what is built, what is decided and how that is told. All of it is pure but [`Engine::accounts`].

use std::fmt::Debug;
use std::future::Future;

use crds::decisions::Decided;
use crds::shared::ClusterStatus;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::Resource;
use kube::core::object::HasStatus;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sidecar_protocol::{Order, Report};

use crate::build::Objects;
use crate::decision::Decision;
use crate::desired::{Desired, Invalid};
use crate::observed::Observed;
use crate::secrets::{Accounts, Secrets, SecretsError};
use crate::status::Pass;

/// An engine. Its rooms are the files of its folder.
pub trait Engine: Clone + Copy + Debug + Default + PartialEq + Eq + Send + Sync + 'static {
    /// The custom resource.
    type Kind: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + HasStatus<Status = Self::Status>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
        + Send
        + Sync
        + 'static;
    /// Its status.
    type Status: ClusterStatus + Debug + Send + Sync + 'static;
    /// What the user wants of this engine alone.
    type Own: Clone + Debug + PartialEq + Send + Sync + 'static;
    /// What a person asks beyond the spec.
    type Asked: Clone + Debug + Default + PartialEq + Send + Sync + 'static;
    /// What its sidecar reports.
    type State: Words;
    /// What its sidecar is ordered.
    type Assignment: Words;
    /// The fields of status that claim authority.
    type Authority: Clone + Debug + PartialEq + Send + Sync + 'static;

    /// Value of the label `app.kubernetes.io/name`, name of the port, label of the metrics: a cluster of another engine with the same
    /// name is another one.
    const LABEL: &'static str;
    /// Port of the database.
    const PORT: u16;

    /// `validate`: spec → Desired.
    ///
    /// # Errors
    /// The first field that cannot be meant, and what to write instead.
    fn validate(cluster: &Self::Kind) -> Result<Desired<Self>, Invalid>;
    /// Whether the cluster is to be left alone.
    fn is_suspended(cluster: &Self::Kind) -> bool;
    /// `observe`: what annotations ask.
    fn asked(cluster: &Self::Kind) -> Self::Asked;
    /// `build`: Desired → objects.
    fn build(desired: &Desired<Self>, replicas: u32, volume_size: Option<&Quantity>, sidecar_image: &str) -> Objects;
    /// `decide`: total, and without a clock of its own.
    fn decide(desired: &Desired<Self>, observed: &Observed<Self>, status: &Self::Status, now: Timestamp) -> Decision<Self>;
    /// Records authority in the status: a claim more, whatever it says.
    fn claim(authority: Self::Authority, status: &mut Self::Status);
    /// `status`: what a pass came to.
    fn status(pass: &Pass<'_, Self>, old: &Self::Status, now: Timestamp) -> Self::Status;
    /// Whether the status says that this member serves.
    fn serves(status: &Self::Status, member: &str) -> bool;
    /// What happened that a person should hear of, beyond the decision.
    fn news(observed: &Observed<Self>, old: &Self::Status) -> Vec<News>;
    /// `explain`: what is recorded of a decision.
    fn recorded(
        cluster: &Self::Kind,
        desired: &Desired<Self>,
        observed: &Observed<Self>,
        status: &Self::Status,
        decision: &Decision<Self>,
        now: Timestamp,
    ) -> Decided;
    /// `accounts`: makes sure of the passwords and keys.
    fn accounts(
        secrets: &Secrets<'_, Self>,
        observed: &Observed<Self>,
        status: &Self::Status,
    ) -> impl Future<Output = Result<Accounts, SecretsError>> + Send;

    /// `material`: whether `new` says nothing that a decision could depend on and that `old` did not.
    fn same(old: &Report<Self::State>, new: &Report<Self::State>) -> bool;
    /// How far a member's copy is, in percent, in coarse steps; `None` when there is none or its size is not known.
    fn progress(state: &Self::State) -> Option<u64>;
    /// How far a member is behind, in seconds, if it says so.
    fn lag(state: &Self::State) -> Option<f64>;
    /// Whether the member holds this order already.
    fn holds(state: &Self::State, order: &Order<Self::Assignment>) -> bool;
}

/// What goes over the wire to and from a sidecar.
pub trait Words: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static {}
impl<T: Serialize + DeserializeOwned + Clone + Debug + PartialEq + Send + Sync + 'static> Words for T {}

/// An Event of type Warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Its reason.
    pub reason: &'static str,
    /// What was being done.
    pub action: &'static str,
    /// For people.
    pub message: String,
}
