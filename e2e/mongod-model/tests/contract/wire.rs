//! The protocol below the driver: greetings, databases, streams.

use mongodb::bson::{Document, doc};

use crate::server::{Server, Set, is_ok, single, until};

const OP_REPLY: i32 = 1;
const OP_MSG: i32 = 2013;
const EXHAUST_ALLOWED: u32 = 1 << 16;

#[tokio::test]
async fn a_command_names_its_database() {
    let reply = Server::start(&[]).raw().run(&doc! { "ping": 1 });
    assert_eq!(reply.get_i32("code").expect("refused"), 40571);
    assert_eq!(reply.get_str("errmsg").expect("a text"), "OP_MSG requests require a $db argument");
}

#[tokio::test]
async fn a_driver_may_greet_in_the_old_way() {
    let answer = Server::start(&[]).raw().query(7, &doc! { "isMaster": 1, "helloOk": true });
    assert_eq!((answer.opcode, answer.response_to), (OP_REPLY, 7));
    assert!(is_ok(&answer.body) && answer.body.get_bool("helloOk").expect("it knows hello"), "{}", answer.body);
}

#[tokio::test]
async fn unknown_commands_and_foreign_databases_are_refused_by_name() {
    let server = Server::start(&[]);
    let (code, text) = server.fail(doc! { "nosuch": 1 }).await;
    assert_eq!((code, text.as_str()), (59, "no such command: 'nosuch'"));
    let reply = server.raw().run(&doc! { "replSetGetStatus": 1, "$db": "test" });
    assert_eq!(reply.get_i32("code").expect("refused"), 13);
    assert_eq!(reply.get_str("errmsg").expect("a text"), "replSetGetStatus may only be run against the admin database.");
}

#[tokio::test]
async fn an_awaited_hello_answers_when_something_changes_and_else_in_its_time() {
    let server = Server::start(&[]);
    let known = server.hello().get_document("topologyVersion").expect("a version").clone();
    let wait = doc! { "hello": 1, "topologyVersion": known.clone(), "maxAwaitTimeMS": 300, "$db": "admin" };
    let same = server.raw().run(&wait);
    assert_eq!(same.get_document("topologyVersion").expect("a version"), &known);
    let mut raw = server.raw();
    raw.message(1, 0, &doc! { "hello": 1, "topologyVersion": known.clone(), "maxAwaitTimeMS": 60_000, "$db": "admin" });
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }] };
    assert!(is_ok(&server.raw().run(&doc! { "replSetInitiate": config, "$db": "admin" })));
    let changed = raw.receive().body;
    assert_ne!(changed.get_document("topologyVersion").expect("a version"), &known);
}

#[tokio::test]
async fn an_exhausting_hello_streams() {
    let server = single().await;
    let mut raw = server.raw();
    let known = server.hello().get_document("topologyVersion").expect("a version").clone();
    let hello = doc! { "hello": 1, "topologyVersion": known, "maxAwaitTimeMS": 100, "$db": "admin" };
    raw.message(9, EXHAUST_ALLOWED, &hello);
    let mut follows = 9;
    for _ in 0..3 {
        let answer = raw.receive();
        assert_eq!((answer.opcode, answer.more_to_come, answer.response_to), (OP_MSG, true, follows));
        follows = answer.id;
    }
}

#[tokio::test]
async fn a_member_without_configuration_says_so() {
    let server = Server::start(&[]);
    let hello = server.hello();
    assert_eq!(hello.get_str("info").expect("an info"), "Does not have a valid replica set config");
    assert!(hello.get_bool("isreplicaset").expect("a flag") && !hello.get_bool("secondary").expect("a flag"));
    for name in ["replSetGetStatus", "replSetGetConfig", "replSetStepDown", "replSetFreeze", "replSetStepUp"] {
        let (code, text) = server.fail(doc! { name: 1 }).await;
        assert_eq!((code, text.as_str()), (94, "no replset config has been received"), "{name}");
    }
    let write = server.raw().run(&doc! { "insert": "a", "documents": [{ "x": 1 }], "$db": "test" });
    assert_eq!(write.get_i32("code").expect("refused"), 10107);
    assert!(write.contains_key("topologyVersion"), "a driver has to learn that its view is old: {write}");
}

#[tokio::test]
async fn a_server_without_a_set_is_always_primary() {
    let server = Server::standalone(&[]);
    assert!(server.hello().get_bool("isWritablePrimary").expect("a flag"));
    assert_eq!(server.fail(doc! { "replSetGetStatus": 1 }).await, (76, "not running with --replSet".into()));
    assert_eq!(server.fail(doc! { "replSetInitiate": {} }).await.0, 76);
    let collection = server.client().database("test").collection::<Document>("a");
    collection.insert_one(doc! { "_id": 1 }).await.expect("inserted");
    assert_eq!(collection.count_documents(doc! {}).await.expect("counted"), 1);
}

#[tokio::test]
async fn hello_lists_members_by_what_they_can_become() {
    let hidden = doc! { "priority": 0, "hidden": true };
    let set = Set::with(vec![doc! { "tags": { "zone": "a" } }, doc! { "priority": 0 }, hidden, doc! { "arbiterOnly": true }]).await;
    let of = |index: usize| set.servers[index].hello();
    let hosts = |name: &str| of(0).get_array(name).map(Vec::len).unwrap_or(0);
    assert_eq!((hosts("hosts"), hosts("passives"), hosts("arbiters")), (1, 1, 1), "hidden ones are not shown: {}", of(0));
    assert_eq!(of(0).get_document("tags").expect("tags"), &doc! { "zone": "a" });
    assert!(of(1).get_bool("passive").expect("a flag"));
    assert!(of(2).get_bool("hidden").expect("a flag"));
    until("the arbiter is one", || of(3).get_bool("arbiterOnly").unwrap_or_default()).await;
    assert!(!of(3).contains_key("lastWrite") || !of(3).get_bool("secondary").expect("a flag"));
}
