//! Collections, users among them, and the retryable writes already done: all that the oplog makes.

use std::collections::{BTreeMap, HashMap};

use bson::{Bson, Document, doc};

use super::Entry;

/// Where users are kept.
pub const USERS: &str = "admin.system.users";
/// Where the feature version is kept.
pub const VERSIONS: &str = "admin.system.version";
/// Where the cluster's default read and write concern is kept.
pub const SETTINGS: &str = "config.settings";

/// A statement of a session's retryable write: sent again it is not done again.
pub type Statement = (Vec<u8>, i64, i32);

/// All collections.
#[derive(Clone, Debug, Default)]
pub struct Data {
    collections: BTreeMap<String, Collection>,
    done: HashMap<Statement, Document>,
}

/// Documents in the order they came in, found by `_id`.
#[derive(Clone, Debug, Default)]
struct Collection {
    next: u64,
    documents: BTreeMap<u64, Document>,
    ids: HashMap<Vec<u8>, u64>,
}

impl Data {
    /// What this oplog makes.
    pub fn of(oplog: &[Entry]) -> Self {
        let mut data = Self::default();
        for entry in oplog {
            data.apply(&entry.document);
        }
        data
    }

    /// Applies one entry.
    pub fn apply(&mut self, op: &Document) {
        let name = op.get_str("ns").unwrap_or_default();
        let object = op.get_document("o").cloned().unwrap_or_default();
        match op.get_str("op").unwrap_or_default() {
            "i" | "u" => self.collections.entry(name.to_owned()).or_default().put(object),
            "d" => {
                if let Some(collection) = self.collections.get_mut(name) {
                    collection.remove(&object);
                }
            }
            "c" => self.command(name, &object),
            _ => {}
        }
        if let Some(statement) = statement(op) {
            self.done.insert(statement, doc! { "op": op.clone() });
        }
    }

    fn command(&mut self, name: &str, object: &Document) {
        let database = name.trim_end_matches("$cmd");
        if let Ok(collection) = object.get_str("drop") {
            self.collections.remove(&format!("{database}{collection}"));
        }
        if let Ok(collection) = object.get_str("create") {
            self.collections.entry(format!("{database}{collection}")).or_default();
        }
        if object.contains_key("dropDatabase") {
            self.collections.retain(|name, _| !name.starts_with(database));
        }
    }

    /// Was this statement done?
    pub fn done(&self, statement: &Statement) -> bool {
        self.done.contains_key(statement)
    }

    /// The documents of a collection, oldest first.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &Document> {
        self.collections.get(name).into_iter().flat_map(|collection| collection.documents.values())
    }

    /// One by its `_id`.
    pub fn get(&self, name: &str, id: &Bson) -> Option<&Document> {
        let collection = self.collections.get(name)?;
        collection.documents.get(collection.ids.get(&key(id))?)
    }

    /// How many documents there are.
    pub fn count(&self, name: &str) -> usize {
        self.collections.get(name).map_or(0, |collection| collection.documents.len())
    }

    /// `database.collection` of each collection.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.collections.keys().map(String::as_str)
    }

    /// Is there such a collection?
    pub fn has(&self, name: &str) -> bool {
        self.collections.contains_key(name)
    }
}

impl Collection {
    fn put(&mut self, document: Document) {
        let at = *self.ids.entry(id(&document)).or_insert_with(|| {
            self.next += 1;
            self.next
        });
        self.documents.insert(at, document);
    }

    fn remove(&mut self, object: &Document) {
        if let Some(at) = self.ids.remove(&id(object)) {
            self.documents.remove(&at);
        }
    }
}

/// The statement that an entry of the oplog, or a command, belongs to.
pub fn statement(op: &Document) -> Option<Statement> {
    let session = bson::serialize_to_vec(op.get_document("lsid").ok()?).ok()?;
    Some((session, op.get_i64("txnNumber").ok()?, op.get_i32("stmtId").ok()?))
}

/// What a document is found by.
pub fn id(document: &Document) -> Vec<u8> {
    key(document.get("_id").unwrap_or(&Bson::Null))
}

/// Equal `_id`s have equal keys: 1 and 1.0 are one number.
fn key(id: &Bson) -> Vec<u8> {
    match id {
        Bson::Int32(number) => format!("#{number}").into_bytes(),
        Bson::Int64(number) => format!("#{number}").into_bytes(),
        Bson::Double(number) => format!("#{number}").into_bytes(),
        other => bson::serialize_to_vec(&doc! { "": other.clone() }).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_equal_by_value_and_kept_in_order() {
        let mut data = Data::default();
        for id in [Bson::Int32(2), Bson::String("1".into()), Bson::Int64(1), Bson::Double(2.0)] {
            data.apply(&doc! { "op": "i", "ns": "t.a", "o": { "_id": id } });
        }
        let ids: Vec<String> = data.all("t.a").map(|document| document.get("_id").expect("an _id").to_string()).collect();
        assert_eq!(ids, ["2", "\"1\"", "1"]);
    }
}
