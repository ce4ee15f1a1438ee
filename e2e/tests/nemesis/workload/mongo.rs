//! A document a list: `{_id, elements: [..]}`, appended to by `$push` and acknowledged by a majority.

use std::hash::{DefaultHasher, Hash, Hasher};

use anyhow::Result;
use bson::{Bson, Document, doc};
use e2e::Lab;
use e2e::engine::{Cluster, Mongo};
use e2e::history::{Element, Key, Lists, Outcome};
use futures::TryStreamExt;
use mongodb::Client;
use mongodb::error::{Error, ErrorKind};
use mongodb::options::ReadConcern;

use super::{Answer, Workload};
use crate::mongo_rig::Set;

/// Refusals of who does not lead, made before anything is changed: NotWritablePrimary, NotPrimaryNoSecondaryOk, NotPrimaryOrSecondary. Who is
/// interrupted (11602), steps down (189) or shuts down (91) may have done it, and the next primary may keep it.
const REFUSALS: [i32; 3] = [10107, 13435, 13436];
/// The server gives up before the client does, so that there is an answer. What timed out may still come to be.
const WTIMEOUT: i64 = 1500;

impl Workload for Mongo {
    async fn create(lab: &Lab, namespace: &str, replicas: u32) -> Result<Cluster<Self>> {
        let set = Set::create(lab, namespace, replicas).await?;
        Ok(Cluster::new(lab, namespace, &set.name))
    }

    async fn whole(cluster: &Cluster<Self>, replicas: u32) -> Result<()> {
        Set::new(&cluster.lab, &cluster.namespace).whole(replicas).await
    }

    async fn append(connection: &mut Client, key: Key, element: Element) -> Answer {
        let command = doc! {
            "update": "lists",
            "updates": [{ "q": { "_id": number(key) }, "u": { "$push": { "elements": number(element) } }, "upsert": true }],
            "writeConcern": { "w": "majority", "wtimeout": WTIMEOUT },
        };
        answer(connection.database(Self::DATABASE).run_command(command).await)
    }

    /// What a majority has: a local read may show what the next primary never had, and the checker would rightly call it lost.
    async fn read(connection: &mut Client, key: Key) -> Result<Vec<Element>> {
        let lists = connection.database(Self::DATABASE).collection::<Document>("lists");
        let found = lists.find_one(doc! { "_id": number(key) }).read_concern(ReadConcern::majority()).await?;
        Ok(found.as_ref().map_or_else(Vec::new, elements))
    }

    async fn contents(connection: &mut Client) -> Result<(Lists, u64)> {
        let lists = connection.database(Self::DATABASE).collection::<Document>("lists");
        let found: Vec<Document> = lists.find(doc! {}).sort(doc! { "_id": 1 }).await?.try_collect().await?;
        let mut checksum = DefaultHasher::new();
        for document in &found {
            bson::serialize_to_vec(document)?.hash(&mut checksum);
        }
        let list = |document: &Document| (unsigned(document.get("_id")), elements(document));
        Ok((found.iter().map(list).collect(), checksum.finish()))
    }
}

/// What is not certain is unknown. An answer names MongoDB's own term: elections are MongoDB's, and who was elected acknowledges before the
/// operator records it, so that terms of the status would accuse it wrongly.
fn answer(reply: Result<Document, Error>) -> Answer {
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            let outcome = match error.kind.as_ref() {
                ErrorKind::Command(refusal) if REFUSALS.contains(&refusal.code) => Outcome::Fail(error.to_string()),
                _ => Outcome::Unknown(error.to_string()),
            };
            return Answer { outcome, term: None };
        }
    };
    let troubled = ["writeErrors", "writeConcernError"].iter().any(|trouble| reply.contains_key(trouble));
    if troubled || !reply.get_i32("n").is_ok_and(|n| n == 1) {
        return Answer { outcome: Outcome::Unknown(reply.to_string()), term: None };
    }
    let term = reply.get_document("opTime").and_then(|place| place.get_i64("t")).ok();
    Answer { outcome: Outcome::Ok, term: term.and_then(|term| u64::try_from(term).ok()) }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).expect("attempts are counted from 0")
}

fn unsigned(value: Option<&Bson>) -> u64 {
    value.and_then(Bson::as_i64).and_then(|number| u64::try_from(number).ok()).unwrap_or(Element::MAX)
}

fn elements(document: &Document) -> Vec<Element> {
    let elements = document.get_array("elements").map(Vec::as_slice).unwrap_or_default();
    elements.iter().map(|element| unsigned(Some(element))).collect()
}

#[cfg(test)]
mod tests;
