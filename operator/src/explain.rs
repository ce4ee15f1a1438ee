//! The record of decisions ([`crds::decisions`]): the newest different ones of each cluster with their inputs, refusals included, kept in a
//! ConfigMap beside it for `kubectl understudy explain`.
//!
//! It is written in the background, about once a second at most, and only when something was decided that was not decided just before:
//! an idle cluster costs nothing, and no decision waits for its record. After a restart the record goes on where it ended.
//! What a decision looks like in it is the engine's part ([`crate::engine::Engine::recorded`]).

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crds::annotations::{ASKED, counts};
use crds::decisions::{self, Decided, Input, KEY};
use crds::shared::ClusterStatus;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client, Resource};
use sidecar_protocol::Report;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::apply::{ApplyError, MANAGER, check_owner};
use crate::build::metadata;
use crate::decision::{Decision, Route, Step};
use crate::desired::Desired;
use crate::engine::Engine;
use crate::names::RECORD_LABEL;
use crate::observed::{Member, Observed, PodSeen, Seen};
use crate::pauses;
use crate::watches::ClusterRef;

/// Decisions that are kept.
const KEPT: usize = 30;
/// Kubernetes takes a mebibyte; the oldest go before this, so that a write stays cheap.
const MAX_BYTES: usize = 256 * 1024;
/// What is decided within this time is written at once: a failover takes several decisions, and is busy.
const TOGETHER: Duration = Duration::from_secs(1);
/// One read or write is given up after this.
const DEADLINE: Duration = Duration::from_secs(5);
/// A failed one is tried again after this, then ever later.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// Jitter adds up to as much again.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// The records of every cluster.
pub struct Explain {
    client: Client,
    records: Arc<Records>,
}

type Records = Mutex<HashMap<ClusterRef, Record>>;

/// One cluster's. Dropping it ends its writer.
#[derive(Default)]
struct Record {
    uid: String,
    ring: Ring,
    /// The ConfigMap was read.
    continued: bool,
    changes: u64,
    written: u64,
    writing: bool,
    writer: JoinSet<()>,
}

impl Explain {
    /// Nothing recorded yet.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, records: Arc::default() }
    }

    /// Records what was decided about `cluster`, unless it says what the last one says.
    pub fn record<E: Engine>(&self, cluster: &ClusterRef, desired: &Desired<E>, decided: Decided) {
        let mut records = lock(&self.records);
        let record = records.entry(cluster.clone()).or_default();
        if record.uid != desired.uid {
            // Another cluster of the same name.
            *record = Record { uid: desired.uid.clone(), ..Record::default() };
        }
        if !record.ring.push(decided) {
            return;
        }
        record.changes += 1;
        if !record.writing {
            record.writing = true;
            let writer = Writer {
                api: Api::namespaced(self.client.clone(), &desired.namespace),
                records: Arc::clone(&self.records),
                cluster: cluster.clone(),
                uid: desired.uid.clone(),
                owner: desired.owner(),
                map: config_map(desired),
            };
            // The last one has ended: it is replaced, so that ended ones do not gather.
            record.writer = JoinSet::new();
            record.writer.spawn(writer.run());
        }
    }

    /// The cluster is gone.
    pub fn forget(&self, cluster: &ClusterRef) {
        lock(&self.records).remove(cluster);
    }
}

/// Lives while there is something to write.
struct Writer {
    api: Api<ConfigMap>,
    records: Arc<Records>,
    cluster: ClusterRef,
    uid: String,
    owner: OwnerReference,
    /// Without its text.
    map: ConfigMap,
}

impl Writer {
    async fn run(self) {
        let mut pauses = pauses::growing(FIRST_RETRY, LAST_RETRY);
        sleep(TOGETHER).await;
        loop {
            match self.write().await {
                Ok(true) => {
                    pauses = pauses::growing(FIRST_RETRY, LAST_RETRY);
                    sleep(TOGETHER).await;
                }
                Ok(false) => return,
                Err(error) => {
                    tracing::warn!(cluster = %self.cluster, %error, "the record of decisions is not written; trying again");
                    sleep(pauses.next().unwrap_or(LAST_RETRY)).await;
                }
            }
        }
    }

    /// Writes what is not written yet; false when there is nothing, and the writer ends.
    async fn write(&self) -> Result<bool, RecordError> {
        if self.with(|record| record.continued) == Some(false) {
            let before = self.read().await?;
            self.with(|record| {
                if !record.ring.continue_from(before) {
                    record.written = record.changes;
                }
                record.continued = true;
            });
        }
        let next = self.with(|record| {
            record.writing = record.changes != record.written;
            record.writing.then(|| (record.changes, record.ring.text()))
        });
        // Gone, or nothing new.
        let Some(Some((change, text))) = next else { return Ok(false) };
        let map = ConfigMap { data: Some(BTreeMap::from([(KEY.to_owned(), text)])), ..self.map.clone() };
        let params = PatchParams::apply(MANAGER).force();
        let name = decisions::name(&self.cluster.name);
        timeout(DEADLINE, self.api.patch(&name, &params, &Patch::Apply(&map))).await.map_err(|_| RecordError::Deadline)??;
        self.with(|record| record.written = change);
        Ok(true)
    }

    /// What an earlier operator recorded.
    async fn read(&self) -> Result<Vec<Decided>, RecordError> {
        let name = decisions::name(&self.cluster.name);
        let Some(map) = timeout(DEADLINE, self.api.get_opt(&name)).await.map_err(|_| RecordError::Deadline)?? else {
            return Ok(Vec::new());
        };
        check_owner::<ConfigMap>(&map.metadata, &self.owner)?;
        let text = map.data.as_ref().and_then(|data| data.get(KEY)).map_or("[]", String::as_str);
        // Of another version, or edited: it begins anew.
        Ok(serde_json::from_str(text).unwrap_or_default())
    }

    /// Calls `change` with the record, if it still is of this cluster.
    fn with<T>(&self, change: impl FnOnce(&mut Record) -> T) -> Option<T> {
        lock(&self.records).get_mut(&self.cluster).filter(|record| record.uid == self.uid).map(change)
    }
}

/// Why a record is not read or written.
#[derive(Debug, thiserror::Error)]
enum RecordError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error(transparent)]
    Owner(#[from] ApplyError),
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

fn config_map<E: Engine>(desired: &Desired<E>) -> ConfigMap {
    let mut metadata = metadata(desired, decisions::name(&desired.name));
    // The watch leaves out what has it: a record is nothing to decide upon.
    metadata.labels.get_or_insert_default().insert(RECORD_LABEL.0.to_owned(), RECORD_LABEL.1.to_owned());
    ConfigMap { metadata, ..ConfigMap::default() }
}

/// What every engine records of a decision. Orders, claim and members are in its own words.
#[must_use]
pub fn recorded<E: Engine>(
    cluster: &E::Kind,
    desired: &Desired<E>,
    observed: &Observed<E>,
    status: &E::Status,
    decision: &Decision<E>,
    now: Timestamp,
) -> Decided {
    let annotations = cluster.meta().annotations.as_ref();
    let asked = ASKED.iter().filter_map(|key| Some(((*key).to_owned(), annotations?.get(*key)?.clone())));
    let asked = asked.filter(|(key, value)| counts(key, value, status.term()));
    Decided {
        time: format!("{now:.3}"),
        term: status.term(),
        state: decision.state.as_str().to_owned(),
        reason: decision.reason.clone(),
        route: match decision.route {
            Route::Keep => format!("as it is ({})", observed.route.as_ref().map_or("nobody", |(name, _)| name)),
            Route::Nobody => "nobody".to_owned(),
            Route::To(ordinal) => desired.member_name(ordinal),
        },
        step: decision.step.as_ref().map(|step| match step {
            Step::ReplacePod { ordinal, why, .. } => format!("replace pod {}: {why}", desired.member_name(*ordinal)),
        }),
        refused: decision.refused.clone(),
        stalled: decision.stalled.as_ref().map(|(reason, message)| format!("{reason}: {message}")),
        asked: asked.collect::<BTreeMap<_, _>>(),
        ..Decided::default()
    }
}

/// What is recorded of any member, and its report, if it answers.
#[must_use]
pub fn input<E: Engine>(member: &Member<E>) -> (Input, Option<&Report<E::State>>) {
    let mut input = Input { name: member.name.clone(), pod: pod(member.pod.as_ref()), ..Input::default() };
    match &member.report {
        Seen::Silent { since } => {
            input.seen = format!("silent since {since:.3}");
            (input, None)
        }
        Seen::Answered(report) => {
            "answers".clone_into(&mut input.seen);
            input.term = Some(report.term);
            (input, Some(report))
        }
    }
}

/// A pod in a word, or in the words of Kubernetes.
fn pod(pod: Option<&PodSeen>) -> String {
    match pod {
        None => "none".to_owned(),
        Some(pod) if pod.deleting => "being deleted".to_owned(),
        Some(PodSeen { trouble: Some(trouble), .. }) => format!("{}: {}", trouble.reason, trouble.message),
        Some(pod) if pod.ready => "ready".to_owned(),
        Some(_) => "not ready".to_owned(),
    }
}

fn lock(records: &Records) -> MutexGuard<'_, HashMap<ClusterRef, Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The newest different decisions, oldest first (pure).
#[derive(Debug, Default)]
struct Ring(VecDeque<Decided>);

impl Ring {
    /// Adds a decision; false when it is the last one again.
    fn push(&mut self, decided: Decided) -> bool {
        if self.0.back().is_some_and(|last| last.same(&decided)) {
            return false;
        }
        self.0.push_back(decided);
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
        true
    }

    /// Puts what was decided before in front of what is here; false when there is nothing that `before` does not say already.
    fn continue_from(&mut self, before: Vec<Decided>) -> bool {
        let since = std::mem::replace(&mut self.0, before.into());
        let mut news = false;
        for decided in since {
            news |= self.push(decided);
        }
        news
    }

    /// JSON, a decision a line.
    fn text(&self) -> String {
        let mut lines: VecDeque<String> = VecDeque::new();
        let mut bytes = 0;
        for decided in self.0.iter().rev() {
            let line = serde_json::to_string(decided).expect("plain data");
            bytes += line.len();
            if bytes > MAX_BYTES && !lines.is_empty() {
                break;
            }
            lines.push_front(line);
        }
        format!("[\n{}\n]\n", Vec::from(lines).join(",\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(reason: &str) -> Decided {
        Decided { time: format!("2026-01-01T00:00:{:02}Z", reason.len()), reason: reason.to_owned(), ..Decided::default() }
    }

    fn reasons(ring: &Ring) -> Vec<&str> {
        ring.0.iter().map(|decided| decided.reason.as_str()).collect()
    }

    fn read(ring: &Ring) -> Vec<Decided> {
        serde_json::from_str(&ring.text()).unwrap()
    }

    #[test]
    fn the_same_decision_is_kept_once_with_its_first_inputs() {
        let mut ring = Ring::default();
        assert!(ring.push(decided("a")));
        let later = Decided { time: "later".to_owned(), members: vec![decisions::Input::default()], ..decided("a") };
        assert!(!ring.push(later), "positions move all the time");
        assert!(ring.push(decided("b")));
        assert!(ring.push(decided("a")), "it was something else in between");
        assert_eq!(reasons(&ring), ["a", "b", "a"]);
        assert!(ring.0.back().unwrap().members.is_empty());
    }

    #[test]
    fn a_refusal_is_another_decision() {
        let mut ring = Ring::default();
        ring.push(decided("a"));
        assert!(ring.push(Decided { refused: Some("it lags".to_owned()), ..decided("a") }));
        assert!(ring.push(decided("a")));
    }

    #[test]
    fn the_oldest_go_first() {
        let mut ring = Ring::default();
        for number in 0..100 {
            ring.push(decided(&number.to_string()));
        }
        assert_eq!(ring.0.len(), KEPT);
        assert_eq!((ring.0[0].reason.as_str(), ring.0[KEPT - 1].reason.as_str()), ("70", "99"));
    }

    #[test]
    fn after_a_restart_the_record_goes_on() {
        let mut first = Ring::default();
        first.push(decided("a"));
        first.push(decided("b"));
        let mut second = Ring::default();
        second.push(decided("b"));
        assert!(!second.continue_from(read(&first)), "nothing new is nothing to write");
        assert_eq!(reasons(&second), ["a", "b"]);
        let mut third = Ring::default();
        third.push(decided("b"));
        third.push(decided("c"));
        assert!(third.continue_from(read(&first)));
        assert_eq!(reasons(&third), ["a", "b", "c"]);
        let mut begun = Ring::default();
        begun.push(decided("a"));
        assert!(begun.continue_from(Vec::new()));
    }

    #[test]
    fn a_claim_made_again_after_a_conflict_is_the_same() {
        use crds::shared::{Transition, TransitionKind};
        let claim = |since: &str, to: &str| Decided {
            intent: Some(decisions::Claim {
                transition: Some(Transition {
                    kind: TransitionKind::Switchover,
                    from: None,
                    to: Some(to.to_owned()),
                    promoting: false,
                    since: since.to_owned(),
                }),
                ..decisions::Claim::default()
            }),
            ..Decided::default()
        };
        let mut ring = Ring::default();
        ring.push(claim("one", "shop-1"));
        assert!(!ring.push(claim("two", "shop-1")));
        assert!(ring.push(claim("two", "shop-2")));
    }

    #[test]
    fn the_text_stays_far_below_what_kubernetes_takes_and_holds_the_newest() {
        let mut ring = Ring::default();
        for number in 0..KEPT {
            ring.push(decided(&format!("{number}{}", "x".repeat(20 * 1024))));
        }
        let text = ring.text();
        assert!(text.len() < 2 * MAX_BYTES, "{}", text.len());
        let kept = read(&ring);
        assert!(kept.len() > 10 && kept.last().unwrap().reason.starts_with("29"));
        let mut huge = Ring::default();
        huge.push(decided(&"x".repeat(2 * MAX_BYTES)));
        assert_eq!(read(&huge).len(), 1);
    }
}
