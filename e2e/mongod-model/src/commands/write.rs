//! Writes: `insert`, `update`, `delete`, `findAndModify`, collections made and dropped.

use std::sync::Arc;

use bson::oid::ObjectId;
use bson::{Bson, Document, doc};

use super::concern::Concern;
use super::{database, truth, whole};
use crate::failure::{Code, Failure, Reply};
use crate::node::{Core, Node};
use crate::optime::OpTime;
use crate::store::data::{self, Data};
use crate::store::{query, update as modify};
use crate::text;

/// What one statement did.
#[derive(Debug, Default)]
struct Done {
    n: i32,
    modified: i32,
    upserted: Vec<Document>,
    errors: Vec<Document>,
    /// Of `findAndModify`: the document before and after.
    pair: Option<(Option<Document>, Option<Document>)>,
}

/// Waits until writes may go, then runs `work` under the lock as primary.
async fn as_primary<R>(node: &Arc<Node>, mut work: impl FnMut(&mut Core) -> Result<R, Failure>) -> Result<(R, OpTime, i64), Failure> {
    loop {
        let outcome = node.change(|core| {
            if node.options.set.is_some() && !core.is_writable() {
                return Some(Err(Failure::new(Code::NotWritablePrimary, "not primary")));
            }
            if core.stepping_down {
                return None;
            }
            Some(work(core).map(|done| (done, core.store.last(), core.term)))
        });
        match outcome {
            Some(outcome) => return outcome,
            None => drop(node.wait(None, |core| (!core.stepping_down).then_some(())).await),
        }
    }
}

/// Writes of the server's own commands.
pub async fn internal(node: &Arc<Node>, ops: Vec<Document>, concern: &Concern) -> Result<(), Failure> {
    let ((), at, term) = as_primary(node, |core| {
        write(core, ops.clone());
        Ok(())
    })
    .await?;
    match concern.wait(node, at, term, None).await {
        None => Ok(()),
        Some(error) => {
            let text = error.get_str("errmsg").unwrap_or_default();
            Err(Failure::new(Code::WriteConcernFailed, text))
        }
    }
}

fn write(core: &mut Core, ops: Vec<Document>) {
    if !ops.is_empty() {
        if core.config().is_none() {
            // A standalone server has no term; its journal is the same.
            core.store.synced = true;
            core.term = 0;
        }
        core.write(ops);
    }
}

/// The name of the collection a command is about.
fn namespace(body: &Document, command: &str) -> Result<String, Failure> {
    let collection = body.get_str(command).map_err(|_| Failure::new(Code::BadValue, "collection name has invalid type"))?;
    Ok(format!("{}.{collection}", database(body)))
}

/// Runs statements one by one, as one batch of the oplog each, and answers as mongod does.
async fn statements(
    node: &Arc<Node>,
    body: &Document,
    list: &str,
    each: impl Fn(&Data, &Document) -> Result<(Done, Vec<Document>), Document>,
) -> Result<(Done, Document), Failure> {
    if truth(body, "startTransaction") || body.contains_key("autocommit") {
        return Err(Failure::new(Code::IllegalOperation, "transactions are not part of the model"));
    }
    let concern = Concern::of(node, body)?;
    let empty = Vec::new();
    let items = body.get_array(list).unwrap_or(&empty);
    if items.is_empty() {
        let text = "Write batch sizes must be between 1 and 100000. Got 0 operations.";
        return Err(Failure::new(Code::BadValue, text));
    }
    let ordered = body.get_bool("ordered").unwrap_or(true);
    let (done, at, term) = as_primary(node, |core| {
        let mut total = Done::default();
        for (item, index) in items.iter().filter_map(Bson::as_document).zip(0..) {
            let session = session(body, index);
            if data::statement(&session).is_some_and(|statement| core.store.data.done(&statement)) {
                total.n += 1;
                continue;
            }
            match each(&core.store.data, item) {
                Ok((done, ops)) => {
                    write(core, ops.into_iter().map(|op| with(op, &session)).collect());
                    total.n += done.n;
                    total.modified += done.modified;
                    total.upserted.extend(done.upserted.into_iter().map(|upserted| with(doc! { "index": index }, &upserted)));
                    total.pair = done.pair;
                }
                Err(error) => {
                    total.errors.push(with(doc! { "index": index }, &error));
                    if ordered {
                        break;
                    }
                }
            }
        }
        Ok(total)
    })
    .await?;
    let mut reply = doc! { "n": done.n };
    if node.options.set.is_some() {
        if let Some(elected) = node.read(|core| core.elected) {
            reply.insert("electionId", elected.id);
        }
        reply.insert("opTime", at.document());
        if let Some(error) = concern.wait(node, at, term, whole(body, "maxTimeMS")).await {
            reply.insert("writeConcernError", error);
        }
    }
    if !done.errors.is_empty() {
        let late = reply.remove("writeConcernError");
        reply.insert("writeErrors", done.errors.clone());
        if let Some(late) = late {
            reply.insert("writeConcernError", late);
        }
    }
    Ok((done, reply))
}

fn with(mut document: Document, more: &Document) -> Document {
    document.extend(more.clone());
    document
}

/// The marks of a retryable write.
fn session(body: &Document, index: i32) -> Document {
    let (Ok(session), Some(number)) = (body.get_document("lsid"), whole(body, "txnNumber")) else { return Document::new() };
    let first = whole(body, "stmtId").and_then(|first| i32::try_from(first).ok()).unwrap_or(0);
    doc! { "lsid": session.clone(), "txnNumber": number, "stmtId": first + index }
}

fn error(code: Code, text: impl Into<String>) -> Document {
    doc! { "code": code as i32, "errmsg": text.into() }
}

/// A fault of the query or update language.
fn misspelt(text: String) -> Document {
    error(Code::FailedToParse, text)
}

fn duplicate(name: &str, id: &Bson) -> Document {
    doc! {
        "code": Code::DuplicateKey as i32, "keyPattern": { "_id": 1 }, "keyValue": { "_id": id.clone() },
        "errmsg": format!("E11000 duplicate key error collection: {name} index: _id_ dup key: {{ _id: {} }}", text::bson(id)),
    }
}

/// `insert`.
pub async fn insert(node: &Arc<Node>, body: &Document) -> Reply {
    let name = namespace(body, "insert")?;
    let (_, reply) = statements(node, body, "documents", |data, document| {
        let document = identified(document.clone());
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        if data.get(&name, &id).is_some() {
            return Err(duplicate(&name, &id));
        }
        Ok((Done { n: 1, ..Done::default() }, vec![doc! { "op": "i", "ns": &name, "o": document }]))
    })
    .await?;
    Ok(reply)
}

/// With an `_id`, which comes first.
fn identified(document: Document) -> Document {
    let id = document.get("_id").cloned().unwrap_or_else(|| Bson::ObjectId(ObjectId::new()));
    let mut identified = doc! { "_id": id };
    identified.extend(document.into_iter().filter(|(name, _)| name != "_id"));
    identified
}

fn matching(data: &Data, name: &str, filter: &Document) -> Result<Vec<Document>, Document> {
    let mut found = Vec::new();
    for document in data.all(name) {
        if query::matches(document, filter).map_err(misspelt)? {
            found.push(document.clone());
        }
    }
    Ok(found)
}

/// `update`.
pub async fn update(node: &Arc<Node>, body: &Document) -> Reply {
    let name = namespace(body, "update")?;
    let (done, mut reply) = statements(node, body, "updates", |data, statement| {
        let (filter, change) = (part(statement, "q"), part(statement, "u"));
        let found = matching(data, &name, &filter)?;
        change_all(data, &name, found, &filter, &change, truth(statement, "multi"), truth(statement, "upsert"))
    })
    .await?;
    if !done.upserted.is_empty() {
        reply.insert("upserted", done.upserted);
    }
    reply.insert("nModified", done.modified);
    Ok(reply)
}

fn part(statement: &Document, name: &str) -> Document {
    statement.get_document(name).cloned().unwrap_or_default()
}

fn change_all(
    data: &Data,
    name: &str,
    found: Vec<Document>,
    filter: &Document,
    change: &Document,
    multi: bool,
    upsert: bool,
) -> Result<(Done, Vec<Document>), Document> {
    let (mut done, mut ops) = (Done::default(), Vec::new());
    let limit = if multi { usize::MAX } else { 1 };
    for before in found.into_iter().take(limit) {
        let after = modify::apply(&before, change, false).map_err(misspelt)?;
        if after.get("_id") != before.get("_id") {
            return Err(error(Code::BadValue, "Performing an update on the path '_id' would modify the immutable field '_id'"));
        }
        done.n += 1;
        if after != before {
            done.modified += 1;
            let id = doc! { "_id": before.get("_id").cloned().unwrap_or(Bson::Null) };
            ops.push(doc! { "op": "u", "ns": name, "o": after.clone(), "o2": id });
        }
        done.pair = Some((Some(before), Some(after)));
    }
    if done.n == 0 && upsert {
        let given = filter.iter().filter(|(name, value)| !name.starts_with('$') && value.as_document().is_none());
        let seed: Document = given.map(|(name, value)| (name.clone(), value.clone())).collect();
        let document = identified(modify::apply(&seed, change, true).map_err(misspelt)?);
        let id = document.get("_id").cloned().unwrap_or(Bson::Null);
        if data.get(name, &id).is_some() {
            return Err(duplicate(name, &id));
        }
        done.n = 1;
        done.upserted.push(doc! { "_id": id });
        done.pair = Some((None, Some(document.clone())));
        ops.push(doc! { "op": "i", "ns": name, "o": document });
    }
    Ok((done, ops))
}

/// `delete`.
pub async fn delete(node: &Arc<Node>, body: &Document) -> Reply {
    let name = namespace(body, "delete")?;
    let (_, reply) = statements(node, body, "deletes", |data, statement| {
        let mut found = matching(data, &name, &part(statement, "q"))?;
        if whole(statement, "limit") == Some(1) {
            found.truncate(1);
        }
        Ok((Done { n: i32::try_from(found.len()).unwrap_or(i32::MAX), ..Done::default() }, removals(&name, &found)))
    })
    .await?;
    Ok(reply)
}

fn removals(name: &str, found: &[Document]) -> Vec<Document> {
    let id = |document: &Document| document.get("_id").cloned().unwrap_or(Bson::Null);
    found.iter().map(|document| doc! { "op": "d", "ns": name, "o": { "_id": id(document) } }).collect()
}

/// `findAndModify`: one statement that also answers the document.
pub async fn find_and_modify(node: &Arc<Node>, body: &Document) -> Reply {
    let command = if body.contains_key("findAndModify") { "findAndModify" } else { "findandmodify" };
    let name = namespace(body, command)?;
    let mut batch = body.clone();
    batch.insert("statements", vec![Document::new()]);
    let (filter, sort, remove) = (part(body, "query"), part(body, "sort"), truth(body, "remove"));
    let (done, reply) = statements(node, &batch, "statements", |data, _| {
        let mut found = matching(data, &name, &filter)?;
        query::sort(&mut found, &sort);
        found.truncate(1);
        if remove {
            let (n, ops) = (i32::try_from(found.len()).unwrap_or_default(), removals(&name, &found));
            return Ok((Done { n, pair: Some((found.pop(), None)), ..Done::default() }, ops));
        }
        change_all(data, &name, found, &filter, &part(body, "update"), false, truth(body, "upsert"))
    })
    .await?;
    if let Some(error) = done.errors.first() {
        let code = if whole(error, "code") == Some(11_000) { Code::DuplicateKey } else { Code::FailedToParse };
        return Err(Failure::new(code, error.get_str("errmsg").unwrap_or_default()));
    }
    let (before, after) = done.pair.unwrap_or_default();
    let mut last = doc! { "n": done.n };
    if !remove {
        last.insert("updatedExisting", before.is_some());
    }
    if let Some(upserted) = done.upserted.first().and_then(|upserted| upserted.get("_id")) {
        last.insert("upserted", upserted.clone());
    }
    let value = if truth(body, "new") && !remove { after } else { before };
    let mut answer = doc! { "lastErrorObject": last, "value": value };
    answer.extend(reply.into_iter().filter(|(name, _)| name != "n"));
    Ok(answer)
}

/// Collections made and dropped; indexes are promised, not made: every query here looks at every document.
pub async fn schema(node: &Arc<Node>, command: &str, body: &Document) -> Reply {
    let concern = Concern::of(node, body)?;
    let space = format!("{}.$cmd", database(body));
    let name = namespace(body, command).unwrap_or_default();
    let collection = body.get_str(command).unwrap_or_default().to_owned();
    let (reply, at, term) = as_primary(node, |core| {
        let present = core.store.data.has(&name);
        let op = match command {
            "drop" if !present => return Err(Failure::new(Code::NamespaceNotFound, "ns not found")),
            "create" if present => return Err(Failure::new(Code::NamespaceExists, format!("Collection already exists. NS: {name}"))),
            "create" | "createIndexes" => doc! { "create": &collection },
            "drop" => doc! { "drop": &collection },
            _ => doc! { "dropDatabase": 1 },
        };
        write(core, vec![doc! { "op": "c", "ns": &space, "o": op }]);
        Ok(match command {
            "createIndexes" => doc! { "numIndexesBefore": 1, "numIndexesAfter": 1, "createdCollectionAutomatically": !present },
            "drop" => doc! { "nIndexesWas": 1, "ns": &name },
            "dropDatabase" => doc! { "dropped": database(body) },
            _ => Document::new(),
        })
    })
    .await?;
    let mut reply = reply;
    if node.options.set.is_some()
        && let Some(error) = concern.wait(node, at, term, whole(body, "maxTimeMS")).await
    {
        reply.insert("writeConcernError", error);
    }
    Ok(reply)
}
