//! The small part of the data language that operators and their tests use, and its promises.

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{ReturnDocument, WriteConcern};

use crate::server::{Server, Set, is_ok, run, single, until};

#[tokio::test]
async fn documents_are_written_found_changed_and_removed() {
    let server = single().await;
    let a = server.client().database("test").collection::<Document>("a");
    a.insert_many((0..5).map(|n| doc! { "_id": n, "n": n })).await.expect("inserted");
    let updated = a.update_many(doc! { "n": { "$gte": 3 } }, doc! { "$set": { "big": true }, "$inc": { "n": 10 } }).await.expect("updated");
    assert_eq!((updated.matched_count, updated.modified_count), (2, 2));
    let upserted = a.update_one(doc! { "_id": 9 }, doc! { "$set": { "x": 1 } }).upsert(true).await.expect("upserted");
    assert_eq!(upserted.upserted_id, Some(Bson::Int32(9)));
    let replaced = a.replace_one(doc! { "_id": 0 }, doc! { "other": true }).await.expect("replaced");
    assert_eq!(replaced.modified_count, 1);
    let found = a.find_one_and_update(doc! { "_id": 1 }, doc! { "$inc": { "n": 1 } }).return_document(ReturnDocument::After).await;
    assert_eq!(found.expect("found"), Some(doc! { "_id": 1, "n": 2 }));
    assert_eq!(a.delete_many(doc! { "big": true }).await.expect("deleted").deleted_count, 2);
    assert_eq!(a.count_documents(doc! {}).await.expect("counted"), 4);
    let mut cursor = a.find(doc! {}).sort(doc! { "_id": -1 }).limit(2).await.expect("found");
    let mut ids = Vec::new();
    while cursor.advance().await.expect("read") {
        ids.push(cursor.deserialize_current().expect("a document").get_i32("_id").expect("an _id"));
    }
    assert_eq!(ids, [9, 2]);
    a.create_index(mongodb::IndexModel::builder().keys(doc! { "n": 1 }).build()).await.expect("promised");
    a.drop().await.expect("dropped");
    assert_eq!(a.count_documents(doc! {}).await.expect("counted"), 0);
}

#[tokio::test]
async fn an_id_is_taken_once() {
    let server = single().await;
    let test = server.client().database("test");
    let insert = doc! { "insert": "a", "documents": [{ "_id": 1, "x": 1 }] };
    run(&test, insert.clone()).await;
    let mut command = insert;
    command.insert("$db", "test");
    let reply = server.raw().run(&command);
    let error = reply.get_array("writeErrors").expect("an error")[0].as_document().expect("a document").clone();
    assert_eq!(error.get_i32("code").expect("a code"), 11000);
    assert_eq!(error.get_str("errmsg").expect("a text"), "E11000 duplicate key error collection: test.a index: _id_ dup key: { _id: 1 }");
    assert_eq!(reply.get_i32("n").expect("a count"), 0);
}

#[tokio::test]
async fn a_retried_write_is_done_once_also_by_the_next_primary() {
    let set = Set::of(3).await;
    let session = doc! { "id": Bson::Binary(mongodb::bson::Uuid::new().into()) };
    let command = doc! {
        "update": "a", "updates": [{ "q": { "_id": 1 }, "u": { "$inc": { "n": 1 } }, "upsert": true }],
        "lsid": session, "txnNumber": 1_i64, "writeConcern": { "w": "majority" }, "$db": "test",
    };
    for _ in 0..2 {
        let reply = set.servers[0].raw().run(&command);
        assert!(is_ok(&reply) && reply.get_i32("n").is_ok_and(|n| n == 1), "{reply}");
    }
    set.servers[0].run(doc! { "replSetStepDown": 60 }).await;
    let next = set.new_primary(Some(0)).await;
    assert!(is_ok(&set.servers[next].raw().run(&command)));
    assert_eq!(set.servers[next].documents(), [doc! { "_id": 1, "n": 1 }]);
}

#[tokio::test]
async fn what_is_pushed_stands_in_order_and_the_answer_tells_the_term_it_was_written_in() {
    let server = single().await;
    for element in 0..3_i64 {
        let command = doc! {
            "update": "a", "updates": [{ "q": { "_id": 7_i64 }, "u": { "$push": { "elements": element } }, "upsert": true }],
            "writeConcern": { "w": "majority", "wtimeout": 10_000 }, "$db": "test",
        };
        let reply = server.raw().run(&command);
        assert!(is_ok(&reply) && reply.get_i32("n").is_ok_and(|n| n == 1), "{reply}");
        assert!(!reply.contains_key("writeErrors") && !reply.contains_key("writeConcernError"), "{reply}");
        let term = server.run(doc! { "replSetGetStatus": 1 }).await.get_i64("term").expect("a term");
        assert_eq!(reply.get_document("opTime").expect("a place").get_i64("t").expect("a term"), term);
    }
    assert_eq!(server.documents(), [doc! { "_id": 7_i64, "elements": [0_i64, 1_i64, 2_i64] }]);
}

#[tokio::test]
async fn a_majority_read_shows_what_a_majority_has_and_a_local_one_shows_more() {
    let mut set = Set::of(2).await;
    let push = |element: i32, concern: Document| {
        doc! { "update": "a", "updates": [{ "q": { "_id": 1 }, "u": { "$push": { "l": element } }, "upsert": true }], "writeConcern": concern, "$db": "test" }
    };
    let find = |level: &str| {
        doc! { "find": "a", "readConcern": { "level": level }, "$db": "test", "$readPreference": { "mode": "secondaryPreferred" } }
    };
    let shown = |server: &Server, level: &str| {
        let reply = server.raw().run(&find(level));
        reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch")).cloned().expect("a batch")
    };
    let reply = set.servers[0].raw().run(&push(1, doc! { "w": "majority" }));
    assert!(is_ok(&reply) && !reply.contains_key("writeConcernError"), "{reply}");
    set.servers[1].freeze();
    assert!(is_ok(&set.servers[0].raw().run(&push(2, doc! { "w": 1 }))));
    assert!(is_ok(
        &set.servers[0].raw().run(&doc! { "insert": "a", "documents": [{ "_id": 2 }], "writeConcern": { "w": 1 }, "$db": "test" })
    ));
    let (first, all) = (Bson::from(doc! { "_id": 1, "l": [1] }), Bson::from(doc! { "_id": 1, "l": [1, 2] }));
    assert_eq!(shown(&set.servers[0], "majority"), [first]);
    assert_eq!(shown(&set.servers[0], "local"), [all.clone(), doc! { "_id": 2 }.into()]);
    set.servers[1].thaw();
    // The other one is behind: nobody elects it.
    until("a majority has the rest", || shown(&set.servers[0], "majority").len() == 2).await;
    assert_eq!(shown(&set.servers[0], "majority"), [all, doc! { "_id": 2 }.into()]);
}

#[tokio::test]
async fn a_secondary_answers_reads_only_when_asked_to_and_never_writes() {
    let set = Set::of(2).await;
    let find = doc! { "find": "a", "$db": "test" };
    let reply = set.servers[1].raw().run(&find);
    assert_eq!(
        (reply.get_i32("code").expect("refused"), reply.get_str("errmsg").expect("a text")),
        (13435, "not primary and secondaryOk=false")
    );
    let mut asked = find;
    asked.insert("$readPreference", doc! { "mode": "secondaryPreferred" });
    assert!(is_ok(&set.servers[1].raw().run(&asked)));
    let write = set.servers[1].raw().run(&doc! { "insert": "a", "documents": [{ "x": 1 }], "$db": "test" });
    assert_eq!((write.get_i32("code").expect("refused"), write.get_str("errmsg").expect("a text")), (10107, "not primary"));
    assert!(write.contains_key("topologyVersion"));
}

#[tokio::test]
async fn a_write_for_more_members_than_there_are_is_refused_after_the_fact() {
    let server = single().await;
    let reply = server.raw().run(&doc! { "insert": "a", "documents": [{ "_id": 1 }], "writeConcern": { "w": 3 }, "$db": "test" });
    let error = reply.get_document("writeConcernError").expect("an error");
    assert_eq!((error.get_i32("code").expect("a code"), reply.get_i32("n").expect("a count")), (100, 1));
    assert_eq!(error.get_str("errmsg").expect("a text"), "Not enough data-bearing nodes");
}

#[tokio::test]
async fn the_oplog_tells_what_was_written_in_order() {
    let server = single().await;
    let a = server.client().database("test").collection::<Document>("a");
    for id in 0..3 {
        a.insert_one(doc! { "_id": id }).write_concern(WriteConcern::majority()).await.expect("inserted");
    }
    let oplog = server.client().database("local").collection::<Document>("oplog.rs");
    let mut cursor = oplog.find(doc! { "ns": "test.a", "op": "i" }).await.expect("found");
    let mut written = Vec::new();
    while cursor.advance().await.expect("read") {
        let entry: Document = cursor.deserialize_current().expect("an entry");
        let ts = entry.get_timestamp("ts").expect("a time");
        written.push(((ts.time, ts.increment), entry.get_document("o").expect("a document").get_i32("_id").expect("an _id")));
    }
    assert_eq!(written.iter().map(|(_, id)| *id).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(written.is_sorted());
}

#[tokio::test]
async fn kill_nine_loses_nothing_that_was_acknowledged() {
    let mut server = single().await;
    for round in 0..3 {
        let a = server.client().database("test").collection::<Document>("a");
        for number in 0..5 {
            let journalled = WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).journal(true).build();
            a.insert_one(doc! { "_id": round * 5 + number }).write_concern(journalled).await.expect("inserted");
        }
        server.kill();
        server.restart();
        until("it is primary again", || server.is_writable()).await;
        assert_eq!(server.documents().len(), usize::try_from((round + 1) * 5).expect("small"));
    }
}

#[tokio::test]
async fn a_restart_remembers_the_configuration_and_the_term() {
    let mut set = Set::of(3).await;
    let before = set.servers[0].config().await;
    for server in &mut set.servers {
        server.kill();
    }
    for server in &mut set.servers {
        server.restart();
    }
    let next = set.new_primary(None).await;
    let after = set.servers[next].config().await;
    assert_eq!(after.get_array("members").ok(), before.get_array("members").ok());
    assert_eq!(after.get_i32("version").ok(), before.get_i32("version").ok());
    assert!(after.get_i64("term").ok() > before.get_i64("term").ok(), "a new term: {after}");
}

#[tokio::test]
async fn a_member_that_does_not_find_itself_is_out_until_it_does() {
    let mut set = Set::of(3).await;
    let known = set.servers[2].port;
    set.servers[2].kill();
    // Another port is another member: as good as a name that does not resolve yet.
    let spare = Server::start(&[]);
    set.servers[2].port = spare.port;
    drop(spare);
    set.servers[2].restart();
    let (code, text) = set.servers[2].fail(doc! { "replSetGetStatus": 1 }).await;
    assert_eq!((code, text.as_str()), (93, "Our replica set config is invalid or we are not a member of it"));
    assert!(set.servers[2].hello().contains_key("isreplicaset"));
    set.servers[2].kill();
    set.servers[2].port = known;
    set.servers[2].restart();
    until("it has its place again", || set.servers[2].state() == 2).await;
}

#[tokio::test]
async fn a_member_that_lost_its_disk_copies_everything_again() {
    let mut set = Set::of(3).await;
    let a = set.client().database("test").collection::<Document>("a");
    for id in 0..20 {
        a.insert_one(doc! { "_id": id }).write_concern(WriteConcern::majority()).await.expect("inserted");
    }
    set.servers[2].kill();
    for entry in std::fs::read_dir(&set.servers[2].directory).expect("a directory").flatten() {
        if entry.file_name() != "log" {
            drop(std::fs::remove_dir_all(entry.path()).or_else(|_| std::fs::remove_file(entry.path())));
        }
    }
    set.servers[2].restart();
    until("it is back with all", || set.servers[2].state() == 2 && set.servers[2].documents().len() == 20).await;
}
