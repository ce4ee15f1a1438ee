//! Events a person can read, published in the background: no decision waits for them, and none fails with them.
//!
//! kube's Recorder folds events by their reason and shows the first text for ever; ours differ by text.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout};

use crate::clock::now;

/// Who reports.
const CONTROLLER: &str = "understudy.dev/operator";
/// Events that wait to be published; more are dropped, since they are no record but a courtesy.
const QUEUE: usize = 256;
/// One event is given up after this.
const DEADLINE: Duration = Duration::from_secs(5);
/// The same sentence is not said again within this time.
const QUIET: Duration = Duration::from_secs(600);
/// What Kubernetes takes of a note, in bytes.
const MAX_NOTE: usize = 1024;

/// Normal or Warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An event took place.
    Normal,
    /// Somebody may want to look.
    Warning,
}

/// The publisher's end for everybody.
#[derive(Clone, Debug)]
pub struct Events(mpsc::Sender<Said>);

#[derive(Debug)]
struct Said {
    about: ObjectReference,
    kind: Kind,
    reason: String,
    action: &'static str,
    note: String,
}

impl Events {
    /// Starts publishing in the name of this pod.
    #[must_use]
    pub fn start(client: Client, pod: String) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        tokio::spawn(publish(client, pod, receiver));
        Self(sender)
    }

    /// Says `note` about an object.
    pub fn say(&self, about: &ObjectReference, kind: Kind, reason: &str, action: &'static str, note: &str) {
        let end = (0..=note.len().min(MAX_NOTE)).rev().find(|end| note.is_char_boundary(*end)).unwrap_or(0);
        let said = Said { about: about.clone(), kind, reason: reason.to_owned(), action, note: note[..end].to_owned() };
        if self.0.try_send(said).is_err() {
            tracing::debug!(reason, note, "event dropped");
        }
    }
}

async fn publish(client: Client, pod: String, mut said: mpsc::Receiver<Said>) {
    let mut last: HashMap<(Option<String>, String), (String, Instant)> = HashMap::new();
    while let Some(Said { about, kind, reason, action, note }) = said.recv().await {
        last.retain(|_, (_, at)| at.elapsed() < QUIET);
        let key = (about.uid.clone(), reason.clone());
        if last.get(&key).is_some_and(|(old, _)| *old == note) {
            continue;
        }
        last.insert(key, (note.clone(), Instant::now()));
        let at = now();
        let namespace = about.namespace.clone().unwrap_or_else(|| "default".to_owned());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or("cluster"), at.as_nanosecond())),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(at)),
            type_: Some(format!("{kind:?}")),
            reason: Some(reason),
            action: Some(action.to_owned()),
            note: Some(note),
            regarding: Some(about),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(pod.clone()),
            ..Event::default()
        };
        let api = Api::<Event>::namespaced(client.clone(), &namespace);
        match timeout(DEADLINE, api.create(&PostParams::default(), &event)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%error, "event not published"),
            Err(_) => tracing::debug!("event not published in time"),
        }
    }
}
