//! Requests to look at a cluster again that come from no watch: a member said something new, an order was answered.
//!
//! A set, not a queue: however often a cluster is named, it is looked at once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use futures::{Stream, stream};
use tokio::sync::Notify;

use crate::watches::ClusterRef;

/// Both ends of the set.
#[derive(Clone, Debug, Default)]
pub struct Wake(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    waiting: Mutex<HashSet<ClusterRef>>,
    some: Notify,
}

impl Wake {
    /// Asks for a reconcile.
    pub fn wake(&self, cluster: &ClusterRef) {
        self.waiting().insert(cluster.clone());
        self.0.some.notify_one();
    }

    /// Every cluster that was named since it was last taken; never ends. For one reader.
    pub fn stream(&self) -> impl Stream<Item = ClusterRef> + Send + 'static {
        stream::unfold(self.clone(), |wake| async move {
            loop {
                let next = wake.waiting().iter().next().cloned();
                if let Some(cluster) = next {
                    wake.waiting().remove(&cluster);
                    return Some((cluster, wake));
                }
                wake.0.some.notified().await;
            }
        })
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, HashSet<ClusterRef>> {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{FutureExt, StreamExt};

    use super::*;

    #[test]
    fn a_cluster_named_twice_is_looked_at_once_and_can_be_named_again() {
        let (wake, cluster) = (Wake::default(), ClusterRef { namespace: "here".into(), name: "simple".into() });
        let mut stream = pin!(wake.stream());
        assert!(stream.next().now_or_never().is_none());
        wake.wake(&cluster);
        wake.wake(&cluster);
        assert_eq!(stream.next().now_or_never(), Some(Some(cluster.clone())));
        assert!(stream.next().now_or_never().is_none());
        wake.wake(&cluster);
        assert_eq!(stream.next().now_or_never(), Some(Some(cluster)));
    }
}
