//! Prometheus metrics: what the operator did is counted, what is true of clusters is read when it is scraped.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::time::Instant;

use crate::engine::Engine;
use crate::members::Members;
use crate::watches::ClusterRef;

type Labels = Vec<(&'static str, String)>;
type Values = Family<Labels, Gauge<f64, AtomicU64>>;

/// Upper bounds of the histogram, in seconds.
const BUCKETS: [f64; 9] = [0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// Everything that is counted.
#[derive(Debug, Default)]
pub struct Metrics {
    members: Mutex<Vec<Arc<dyn Lags>>>,
    clusters: Mutex<HashMap<(&'static str, ClusterRef), Cluster>>,
    reconciles: Counter,
    errors: Family<Labels, Counter>,
    seconds: Seconds,
}

#[derive(Clone, Debug)]
struct Seconds(Histogram);

impl Default for Seconds {
    fn default() -> Self {
        Self(Histogram::new(BUCKETS))
    }
}

/// What is shown of one cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its state in one word.
    pub state: String,
    /// Its term.
    pub term: u64,
    /// Members that serve.
    pub ready: usize,
    /// Members that are wanted.
    pub wanted: u32,
}

/// Members of one engine, as far as metrics are concerned.
trait Lags: std::fmt::Debug + Send + Sync {
    /// Calls `read` with each member that says how far it is behind: its labels, and the seconds.
    fn each(&self, read: &mut dyn FnMut(Labels, f64));
}

impl<E: Engine> Lags for Members<E> {
    fn each(&self, read: &mut dyn FnMut(Labels, f64)) {
        self.each_report(|name, member, report| {
            let Some(seconds) = E::lag(&report.state) else { return };
            let mut labels = labels(E::LABEL, name);
            labels.push(("pod", member.to_owned()));
            read(labels, seconds);
        });
    }
}

impl Metrics {
    /// Shows what these members say, too.
    pub fn listen_to<E: Engine>(&self, members: Arc<Members<E>>) {
        self.members.lock().unwrap_or_else(PoisonError::into_inner).push(members);
    }

    /// Measures one reconcile until it is dropped.
    pub fn measure(&self) -> impl Drop + '_ {
        Measure { metrics: self, begun: Instant::now() }
    }

    /// Counts a failure.
    pub fn failed(&self, category: &'static str) {
        self.errors.get_or_create(&vec![("category", category.to_owned())]).inc();
    }

    /// Shows `cluster` of this engine from now on.
    pub fn show(&self, engine: &'static str, name: &ClusterRef, cluster: Cluster) {
        self.clusters().insert((engine, name.clone()), cluster);
    }

    /// Shows it no more.
    pub fn forget(&self, engine: &'static str, name: &ClusterRef) {
        self.clusters().remove(&(engine, name.clone()));
    }

    fn clusters(&self) -> MutexGuard<'_, HashMap<(&'static str, ClusterRef), Cluster>> {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let (state, term, ready, wanted, lag) =
            (Values::default(), Values::default(), Values::default(), Values::default(), Values::default());
        for ((engine, name), cluster) in self.clusters().iter() {
            let Cluster { state: word, term: number, ready: serving, wanted: members } = cluster;
            let mut labels = labels(engine, name);
            term.get_or_create(&labels).set(float(*number));
            ready.get_or_create(&labels).set(float(*serving as u64));
            wanted.get_or_create(&labels).set(f64::from(*members));
            labels.push(("state", word.clone()));
            state.get_or_create(&labels).set(1.0);
        }
        for members in self.members.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            members.each(&mut |labels, seconds| {
                lag.get_or_create(&labels).set(seconds);
            });
        }
        let mut registry = Registry::with_prefix("understudy");
        registry.register("cluster_state", "State of a cluster, in its label", state);
        registry.register("cluster_term", "Term of the last claimed authority", term);
        registry.register("cluster_members_ready", "Members that serve", ready);
        registry.register("cluster_members", "Members that are wanted", wanted);
        registry.register(
            "cluster_member_lag_seconds",
            "How far a member is behind: what it received and has not applied, or what the primary has and it has not",
            lag,
        );
        registry.register("reconciles", "Reconciles", self.reconciles.clone());
        registry.register("reconcile_errors", "Reconciles that failed, by category", self.errors.clone());
        registry.register_with_unit("reconcile", "How long reconciles take", Unit::Seconds, self.seconds.0.clone());
        let mut text = String::new();
        encode(&mut text, &registry).expect("a String takes everything");
        text
    }
}

struct Measure<'a> {
    metrics: &'a Metrics,
    begun: Instant,
}

impl Drop for Measure<'_> {
    fn drop(&mut self) {
        self.metrics.reconciles.inc();
        self.metrics.seconds.0.observe(self.begun.elapsed().as_secs_f64());
    }
}

fn labels(engine: &str, name: &ClusterRef) -> Labels {
    vec![("namespace", name.namespace.clone()), ("cluster", name.name.clone()), ("engine", engine.to_owned())]
}

/// Exact up to 2^53, which no term and no count reaches.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn float(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_shown_until_it_is_forgotten() {
        let metrics = Metrics::default();
        let name = ClusterRef { namespace: "here".into(), name: "simple".into() };
        metrics.show("mysql", &name, Cluster { state: "Healthy".into(), term: 3, ready: 2, wanted: 3 });
        metrics.failed("Apply");
        drop(metrics.measure());
        let text = metrics.text();
        for line in [
            r#"understudy_cluster_state{namespace="here",cluster="simple",engine="mysql",state="Healthy"} 1.0"#,
            r#"understudy_cluster_term{namespace="here",cluster="simple",engine="mysql"} 3.0"#,
            r#"understudy_cluster_members_ready{namespace="here",cluster="simple",engine="mysql"} 2.0"#,
            r#"understudy_reconcile_errors_total{category="Apply"} 1"#,
            "understudy_reconciles_total 1",
            "understudy_reconcile_seconds_count 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        metrics.forget("mysql", &name);
        assert!(!metrics.text().contains("simple"));
    }
}
