//! Reads: what is applied here is answered here, or what a majority has, by the read concern; others than `majority` are taken for `local`.
//! Every answer is one batch.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bson::{Bson, Document, doc};
use tokio::time::Instant;

use super::{database, truth, whole};
use crate::failure::{Code, Failure, Reply};
use crate::node::{Core, Node};
use crate::store::query;

/// Runs a reading command where reading is allowed.
pub async fn read(node: &Arc<Node>, name: &str, body: &Document) -> Reply {
    if node.options.set.is_some() && of_majority(body) {
        // Who has just started does not know yet what a majority has: mongod waits, too.
        let limit = whole(body, "maxTimeMS").and_then(|millis| u64::try_from(millis).ok()).filter(|millis| *millis > 0);
        let end = limit.map(|millis| Instant::now() + Duration::from_millis(millis));
        let known = |core: &Core| (allowed(core, body, name).is_err() || !core.commit.at.is_null()).then_some(());
        let expired = || Failure::new(Code::MaxTimeMSExpired, "operation exceeded time limit");
        node.wait(end, known).await.ok_or_else(expired)?;
    }
    node.read(|core| {
        if node.options.set.is_some() {
            allowed(core, body, name)?;
        }
        match name {
            "find" => find(core, body),
            "count" => count(core, body),
            "aggregate" => aggregate(core, body),
            "listCollections" => Ok(collections(core, body)),
            "listIndexes" => {
                Ok(cursor_of(&format!("{}.$cmd.listIndexes", database(body)), vec![doc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }]))
            }
            _ => Ok(databases(core)),
        }
    })
}

fn of_majority(body: &Document) -> bool {
    body.get_document("readConcern").and_then(|concern| concern.get_str("level")).is_ok_and(|level| level == "majority")
}

/// A primary answers always, a secondary when it was asked for.
fn allowed(core: &Core, body: &Document, name: &str) -> Result<(), Failure> {
    let local = matches!(database(body), "local");
    if core.is_writable() || local {
        return Ok(());
    }
    if !core.state.is_readable() {
        return Err(Failure::new(Code::NotPrimaryOrSecondary, "node is not in primary or recovering state"));
    }
    let mode = body.get_document("$readPreference").and_then(|preference| preference.get_str("mode")).unwrap_or("primary");
    if mode == "primary" && name != "listDatabases" {
        return Err(Failure::new(Code::NotPrimaryNoSecondaryOk, "not primary and secondaryOk=false"));
    }
    Ok(())
}

fn misspelt(text: String) -> Failure {
    Failure::new(Code::BadValue, text)
}

/// The documents of a collection: `local.oplog.rs` and `local.system.replset` are among them.
fn documents<'a>(core: &'a Core, body: &Document, name: &'a str) -> Vec<Cow<'a, Document>> {
    if name == "local.oplog.rs" {
        return core.store.oplog.iter().map(|entry| Cow::Borrowed(&entry.document)).collect();
    }
    // A standalone server is its own majority.
    if of_majority(body) && core.config().is_some() {
        return core.store.as_of(name, core.commit.at);
    }
    core.store.data.all(name).map(Cow::Borrowed).collect()
}

fn select(core: &Core, body: &Document, collection: &str, filter: &Document) -> Result<Vec<Document>, Failure> {
    let mut found = Vec::new();
    for document in documents(core, body, &format!("{}.{collection}", database(body))) {
        if query::matches(&document, filter).map_err(misspelt)? {
            found.push(document.into_owned());
        }
    }
    Ok(found)
}

fn cursor_of(name: &str, batch: Vec<Document>) -> Document {
    doc! { "cursor": { "id": 0_i64, "ns": name, "firstBatch": batch } }
}

fn part(body: &Document, name: &str) -> Document {
    body.get_document(name).cloned().unwrap_or_default()
}

fn window(body: &Document, found: Vec<Document>) -> Vec<Document> {
    let number = |name: &str| whole(body, name).map(i64::unsigned_abs).and_then(|number| usize::try_from(number).ok());
    let limit = number("limit").filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    found.into_iter().skip(number("skip").unwrap_or(0)).take(limit).collect()
}

fn find(core: &Core, body: &Document) -> Reply {
    let collection = body.get_str("find").unwrap_or_default();
    let mut found = select(core, body, collection, &part(body, "filter"))?;
    let order = part(body, "sort");
    if whole(&order, "$natural") == Some(-1) {
        found.reverse();
    } else {
        query::sort(&mut found, &order);
    }
    let fields = part(body, "projection");
    let found = window(body, found).into_iter().map(|document| project(document, &fields)).collect();
    let mut reply = cursor_of(&format!("{}.{collection}", database(body)), found);
    reorder(&mut reply);
    Ok(reply)
}

/// mongod's `find` puts the batch first.
fn reorder(reply: &mut Document) {
    if let Ok(cursor) = reply.get_document_mut("cursor")
        && let Some(batch) = cursor.remove("firstBatch")
    {
        cursor.insert("firstBatch", batch);
    }
}

fn project(document: Document, fields: &Document) -> Document {
    if fields.is_empty() {
        return document;
    }
    let chosen = |name: &str| fields.get(name).map(query::truth);
    let including = fields.iter().any(|(name, value)| name != "_id" && query::truth(value));
    document.into_iter().filter(|(name, _)| chosen(name).unwrap_or(!including || name == "_id")).collect()
}

fn count(core: &Core, body: &Document) -> Reply {
    let found = select(core, body, body.get_str("count").unwrap_or_default(), &part(body, "query"))?;
    Ok(doc! { "n": i32::try_from(window(body, found).len()).unwrap_or(i32::MAX) })
}

/// The stages that drivers' `count_documents` and simple reads are made of.
fn aggregate(core: &Core, body: &Document) -> Reply {
    let collection = body.get_str("aggregate").unwrap_or_default();
    let name = format!("{}.{collection}", database(body));
    let mut found: Vec<Document> = documents(core, body, &name).into_iter().map(Cow::into_owned).collect();
    for stage in body.get_array("pipeline").into_iter().flatten().filter_map(Bson::as_document) {
        for (name, argument) in stage {
            found = match (name.as_str(), argument) {
                ("$match", Bson::Document(filter)) => {
                    let keep: Result<Vec<bool>, String> = found.iter().map(|document| query::matches(document, filter)).collect();
                    let keep = keep.map_err(misspelt)?;
                    found.into_iter().zip(keep).filter_map(|(document, keep)| keep.then_some(document)).collect()
                }
                ("$sort", Bson::Document(order)) => {
                    query::sort(&mut found, order);
                    found
                }
                ("$limit" | "$skip", _) => window(&doc! { name.trim_start_matches('$'): argument.clone() }, found),
                ("$count", Bson::String(field)) if !found.is_empty() => {
                    vec![doc! { field: i32::try_from(found.len()).unwrap_or(i32::MAX) }]
                }
                ("$count", _) => Vec::new(),
                ("$group", Bson::Document(group)) => grouped(group, &found)?,
                (other, _) => return Err(misspelt(format!("Unrecognized pipeline stage name: '{other}'"))),
            };
        }
    }
    Ok(cursor_of(&format!("{}.{collection}", database(body)), found))
}

/// `{_id: <constant>, n: {$sum: <number>}}`.
fn grouped(group: &Document, found: &[Document]) -> Result<Vec<Document>, Failure> {
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let mut result = doc! { "_id": group.get("_id").cloned().unwrap_or(Bson::Null) };
    for (name, accumulator) in group.iter().filter(|(name, _)| *name != "_id") {
        let step = accumulator.as_document().and_then(|accumulator| whole(accumulator, "$sum"));
        let step = step.ok_or_else(|| misspelt(format!("unknown group operator of '{name}'")))?;
        let total = i64::try_from(found.len()).unwrap_or(i64::MAX).saturating_mul(step);
        result.insert(name, i32::try_from(total).map_or(Bson::Int64(total), Bson::Int32));
    }
    Ok(vec![result])
}

fn collections(core: &Core, body: &Document) -> Document {
    let prefix = format!("{}.", database(body));
    let named = core.store.data.names().filter_map(|name| name.strip_prefix(&prefix));
    let listed = named.map(|name| doc! { "name": name, "type": "collection", "options": {}, "info": { "readOnly": false } }).collect();
    cursor_of(&format!("{prefix}$cmd.listCollections"), listed)
}

fn databases(core: &Core) -> Document {
    let mut names: BTreeSet<&str> = core.store.data.names().filter_map(|name| name.split('.').next()).collect();
    names.insert("local");
    let listed: Vec<Document> = names.into_iter().map(|name| doc! { "name": name, "sizeOnDisk": 0_i64, "empty": false }).collect();
    doc! { "databases": listed, "totalSize": 0_i64, "totalSizeMb": 0_i64 }
}

/// Every cursor is done after its first batch.
pub fn cursor(name: &str, body: &Document) -> Reply {
    if name == "killCursors" && truth(body, "cursors") {
        let asked = body.get_array("cursors").cloned().unwrap_or_default();
        return Ok(doc! { "cursorsKilled": [], "cursorsNotFound": asked, "cursorsAlive": [], "cursorsUnknown": [] });
    }
    let id = whole(body, "getMore").unwrap_or_default();
    Err(Failure::new(Code::CursorNotFound, format!("cursor id {id} not found")))
}
