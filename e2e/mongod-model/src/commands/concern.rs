//! Write concerns: how many members must have a write before it is acknowledged.

use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, DateTime, Document, doc};
use tokio::time::Instant;

use super::whole;
use crate::failure::{Code, Failure, Reply};
use crate::member::State;
use crate::node::{Core, Node};
use crate::optime::OpTime;
use crate::store::data::SETTINGS;

/// `_id` of the cluster's defaults in `config.settings`.
pub const DEFAULTS: &str = "ReadWriteConcernDefaults";

/// What a write waits for.
#[derive(Clone, Debug)]
pub struct Concern {
    wanted: Wanted,
    timeout: Option<Duration>,
    shown: Document,
}

#[derive(Clone, Copy, Debug)]
enum Wanted {
    Majority,
    Members(usize),
}

impl Concern {
    /// A command's own, else the cluster's default, else the implicit one.
    pub fn of(node: &Node, body: &Document) -> Result<Self, Failure> {
        let (mut shown, provenance) = match body.get_document("writeConcern") {
            Ok(given) if !given.is_empty() => (given.clone(), "clientSupplied"),
            _ => node.read(|core| {
                let custom = core.store.data.get(SETTINGS, &Bson::String(DEFAULTS.into()));
                match custom.and_then(|custom| custom.get_document("defaultWriteConcern").ok()) {
                    Some(custom) => (custom.clone(), "customDefault"),
                    None => (implicit(node, core), "implicitDefault"),
                }
            }),
        };
        let wanted = match shown.get("w") {
            Some(Bson::String(name)) if name == "majority" => Wanted::Majority,
            Some(Bson::String(name)) => {
                let text = format!("No write concern mode named '{name}' found in replica set configuration");
                return Err(Failure::new(Code::UnsatisfiableWriteConcern, text));
            }
            _ => Wanted::Members(whole(&shown, "w").unwrap_or(1).try_into().unwrap_or(0)),
        };
        let timeout = whole(&shown, "wtimeout").and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0);
        if !shown.contains_key("wtimeout") {
            shown.insert("wtimeout", 0);
        }
        shown.insert("provenance", provenance);
        Ok(Self { wanted, timeout: timeout.map(Duration::from_millis), shown })
    }

    /// The same as of a command that says `majority`.
    pub fn majority() -> Self {
        Self { wanted: Wanted::Majority, timeout: None, shown: doc! { "w": "majority", "wtimeout": 0 } }
    }

    /// Waits; answers the `writeConcernError`, if it is one.
    pub async fn wait(&self, node: &Node, at: OpTime, term: i64, max_time: Option<i64>) -> Option<Document> {
        let start = Instant::now();
        let max_time = max_time.and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0).map(Duration::from_millis);
        let limit = self.timeout.into_iter().chain(max_time).min();
        let outcome = node.wait(limit.map(|limit| start + limit), |core| self.outcome(core, at, term)).await;
        let failure = match outcome {
            Some(Ok(())) => return None,
            Some(Err(failure)) => failure,
            None if self.timeout.is_some_and(|timeout| Some(timeout) == limit) => {
                let info = doc! { "wtimeout": true, "writeConcern": self.shown.clone() };
                let code = Code::WriteConcernFailed;
                let name = format!("{code:?}");
                return Some(doc! {
                    "code": code as i32, "codeName": name, "errmsg": "waiting for replication timed out", "errInfo": info,
                });
            }
            None => Failure::new(Code::MaxTimeMSExpired, "operation exceeded time limit"),
        };
        Some(doc! {
            "code": failure.code as i32, "codeName": format!("{:?}", failure.code), "errmsg": failure.message,
            "errInfo": { "writeConcern": self.shown.clone() },
        })
    }

    fn outcome(&self, core: &Core, at: OpTime, term: i64) -> Option<Result<(), Failure>> {
        let Some((config, _)) = core.seat() else { return Some(Ok(())) };
        // What was rolled back here is no longer anywhere, however far others are.
        let kept = core.store.find(at).is_some();
        let left = core.term != term || core.state != State::Primary;
        let reached = match self.wanted {
            Wanted::Majority => kept && core.commit.at >= at,
            Wanted::Members(wanted) => {
                let data = config.members.iter().filter(|member| !member.arbiter).count();
                if wanted > data {
                    let text = "Not enough data-bearing nodes";
                    return Some(Err(Failure::new(Code::UnsatisfiableWriteConcern, text)));
                }
                !left && (0..config.members.len()).filter(|index| core.applied_of(*index) >= at).count() >= wanted
            }
        };
        if reached {
            return Some(Ok(()));
        }
        // Nobody acknowledges what the next primary may undo.
        left.then(|| Err(Failure::new(Code::PrimarySteppedDown, "Primary stepped down while waiting for replication")))
    }
}

fn implicit(node: &Node, core: &Core) -> Document {
    let majority = node.options.version.writes_to_majority() && core.config().is_some_and(crate::config::Config::implicit_majority);
    if majority {
        doc! { "w": "majority", "wtimeout": 0 }
    } else {
        doc! { "w": 1, "wtimeout": 0 }
    }
}

/// `setDefaultRWConcern`.
pub async fn set_default(node: &Arc<Node>, body: &Document) -> Reply {
    let mut document = doc! { "_id": DEFAULTS };
    for name in ["defaultWriteConcern", "defaultReadConcern"] {
        if let Ok(given) = body.get_document(name) {
            document.insert(name, given.clone());
        }
    }
    if document.len() == 1 {
        let text = "At least one of the \"defaultWriteConcern\" or \"defaultReadConcern\" fields must be present";
        return Err(Failure::new(Code::BadValue, text));
    }
    document.insert("updateWallClockTime", DateTime::now());
    super::write::internal(node, vec![doc! { "op": "u", "ns": SETTINGS, "o": document }], &Concern::majority()).await?;
    show_default(node)
}

/// `getDefaultRWConcern`.
pub fn show_default(node: &Arc<Node>) -> Reply {
    node.read(|core| {
        let custom = core.store.data.get(SETTINGS, &Bson::String(DEFAULTS.into())).cloned();
        let mut reply = doc! { "defaultReadConcern": { "level": "local" } };
        let write = custom.as_ref().and_then(|custom| custom.get_document("defaultWriteConcern").ok());
        let source = if write.is_some() { "global" } else { "implicit" };
        reply.insert("defaultWriteConcern", write.cloned().unwrap_or_else(|| implicit(node, core)));
        reply.insert("defaultWriteConcernSource", source);
        reply.insert("defaultReadConcernSource", "implicit");
        reply.insert("localUpdateWallClockTime", DateTime::now());
        Ok(reply)
    })
}
