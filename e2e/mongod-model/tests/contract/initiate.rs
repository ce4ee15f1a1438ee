//! `replSetInitiate`: what a first configuration may be.

use mongodb::bson::{Document, doc};

use crate::server::{Server, attempt, quick, until};

/// The refusal of a first configuration with these members; `{me}` in the text is the server's name.
async fn refused(server: &Server, config: Document, code: i32, text: &str) {
    let (found, message) = server.fail(doc! { "replSetInitiate": config }).await;
    let text = text.replace("{me}", &server.host());
    assert!(found == code && message.contains(&text), "{found} {message}\nwanted {code} {text}");
}

#[tokio::test]
async fn members_are_checked_one_by_one() {
    let server = Server::start(&[]);
    let member = |more: Document| {
        let mut member = doc! { "_id": 0, "host": server.host() };
        member.extend(more);
        doc! { "_id": "rs0", "members": [member] }
    };
    for (more, text) in [
        (doc! { "votes": 0 }, "priority must be 0 when non-voting (votes:0)"),
        (doc! { "votes": 2 }, "BSON field 'votes' value must be <= 1, actual value '2'"),
        (doc! { "priority": 1001 }, "BSON field 'priority' value must be <= 1000, actual value '1001'"),
        (doc! { "priority": -1 }, "BSON field 'priority' value must be >= 0, actual value '-1'"),
        (doc! { "hidden": true }, "priority must be 0 when hidden=true"),
        (doc! { "buildIndexes": false }, "priority must be 0 when buildIndexes=false"),
        (doc! { "bogus": 1 }, "BSON field 'MemberConfig.bogus' is an unknown field."),
        (doc! { "arbiterOnly": true, "priority": 2 }, "Arbiter priority must be 0"),
        (doc! { "priority": 0 }, "must contain at least one non-arbiter member with priority > 0"),
    ] {
        refused(&server, member(more), 93, text).await;
    }
    let (code, _) = server.fail(doc! { "replSetInitiate": member(doc! { "secondaryDelaySecs": 5 }) }).await;
    assert_eq!(code, 93, "a delayed member is never primary");
    let (code, _) = server.fail(doc! { "replSetInitiate": member(doc! { "tags": { "zone": 1 } }) }).await;
    assert_eq!(code, 93, "tags are texts");
}

#[tokio::test]
async fn the_whole_is_checked() {
    let server = Server::start(&[]);
    let me = server.host();
    let many =
        |count: i32| -> Vec<Document> { (0..count).map(|id| doc! { "_id": id, "host": format!("localhost:{}", 40_000 + id) }).collect() };
    let config = |members: Vec<Document>| doc! { "_id": "rs0", "members": members };
    for (config, text) in [
        (doc! { "_id": "other", "members": many(1) }, "initiate set name: other, command line set name: rs0"),
        (doc! { "_id": "rs0", "version": 2, "members": [{ "_id": 0, "host": &me }] }, "must  have version 1, but found 2"),
        (config(vec![]), "contains 0 members, but must have at least 1 and no more than  50"),
        (config(many(51)), "contains 51 members, but must have at least 1 and no more than  50"),
        (config(many(8)), "contains 8 voting members, but must be at least 1 and no more than 7"),
        (config(vec![doc! { "_id": 0, "host": &me }, doc! { "_id": 1, "host": &me }]), "members.0.host == members.1.host == {me}"),
        (config(vec![doc! { "_id": 0, "host": &me }, doc! { "_id": 0, "host": "localhost:40000" }]), "members.1._id == MemberId(0)"),
        (config(vec![doc! { "_id": 0, "host": &me }, doc! { "_id": 1, "host": "db.example:1" }]), "found 1 out of 2"),
        (config(many(1)), "No host described in new configuration with {version: 1, term: 0} for replica set rs0 maps to this node"),
    ] {
        refused(&server, config, 93, text).await;
    }
    let id = doc! { "replicaSetId": mongodb::bson::oid::ObjectId::new() };
    let with_id = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": &me }], "settings": id };
    refused(&server, with_id, 93, "replica set configuration cannot contain 'replicaSetId' field when called from replSetInitiate").await;
    assert!(server.fail(doc! { "replSetGetConfig": 1 }).await.0 == 94, "nothing was initiated");
}

#[tokio::test]
async fn names_for_other_networks_are_the_same_everywhere_and_unique() {
    let server = Server::start(&[]);
    let config = |first: Document, second: Document| {
        let mut members = vec![doc! { "_id": 0, "host": server.host() }, doc! { "_id": 1, "host": "localhost:40000" }];
        members[0].insert("horizons", first);
        if !second.is_empty() {
            members[1].insert("horizons", second);
        }
        doc! { "_id": "rs0", "members": members }
    };
    for (first, second) in [
        (doc! { "out": "a.example:1" }, doc! {}),
        (doc! { "out": "a.example:1" }, doc! { "out": "a.example:1" }),
        (doc! { "out": "10.0.0.1:1" }, doc! { "out": "10.0.0.2:1" }),
    ] {
        assert_eq!(server.fail(doc! { "replSetInitiate": config(first.clone(), second) }).await.0, 93, "{first}");
    }
}

#[tokio::test]
async fn numbers_have_their_bounds() {
    let server = Server::start(&[]);
    for more in [doc! { "protocolVersion": 0 }, doc! { "version": 0 }, doc! { "version": 3_000_000_000_i64 }, doc! { "bogus": 1 }] {
        let mut config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }] };
        config.extend(more.clone());
        assert_eq!(server.fail(doc! { "replSetInitiate": config }).await.0, 93, "{more}");
    }
}

#[tokio::test]
async fn without_a_configuration_the_hosts_own_name_is_taken() {
    // By its own name a host is reached at any of its addresses.
    let server = Server::start(&["--bind_ip_all"]);
    match attempt(&server.admin(), doc! { "replSetInitiate": {} }).await {
        Ok(reply) => {
            assert_eq!(reply.get_str("info2").expect("an info"), "no configuration specified. Using a default configuration for the set");
            let me = reply.get_str("me").expect("a name");
            assert!(me.ends_with(&format!(":{}", server.port)), "{me}");
            until("it is primary", || server.is_writable()).await;
        }
        // A machine that cannot resolve its own name.
        Err((code, text)) => assert!([74, 93].contains(&code), "{code} {text}"),
    }
}

#[tokio::test]
async fn a_process_knows_itself() {
    let (one, two) = (Server::start(&[]), Server::start(&[]));
    let id = |server: &Server| server.raw().run(&doc! { "_isSelf": 1, "$db": "admin" }).get_object_id("id").expect("an id");
    assert_eq!(id(&one), id(&one));
    assert_ne!(id(&one), id(&two));
}

#[tokio::test]
async fn every_member_has_to_answer() {
    let server = Server::start(&[]);
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }, { "_id": 1, "host": "localhost:1" }] };
    refused(
        &server,
        config,
        74,
        "not all proposed set members responded affirmatively: localhost:1 failed with Error connecting to localhost:1",
    )
    .await;
}

#[tokio::test]
async fn two_names_of_one_member_are_seen() {
    let server = Server::start(&[]);
    let other = format!("127.0.0.1:{}", server.port);
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }, { "_id": 1, "host": &other }] };
    refused(&server, config, 93, &format!("The hosts {{me}} and {other} all map to this node")).await;
}

#[tokio::test]
async fn a_second_initiation_is_refused_and_a_members_of_another_set_too() {
    let first = Server::start(&[]);
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": first.host() }], "settings": quick() };
    first.run(doc! { "replSetInitiate": config }).await;
    assert_eq!(first.fail(doc! { "replSetInitiate": {} }).await, (23, "already initialized".into()));
    let second = Server::start(&[]);
    let both = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": second.host() }, { "_id": 1, "host": first.host() }] };
    let (code, text) = second.fail(doc! { "replSetInitiate": both }).await;
    assert!([74, 103].contains(&code), "{code} {text}");
    let stranger = Server::standalone(&["--replSet", "other"]);
    let both = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": second.host() }, { "_id": 1, "host": stranger.host() }] };
    let (code, text) = second.fail(doc! { "replSetInitiate": both }).await;
    assert!([74, 103].contains(&code), "{code} {text}");
}

#[tokio::test]
async fn a_single_member_is_primary_of_the_first_term_and_its_configuration_is_complete() {
    let server = Server::start(&[]);
    server.run(doc! { "replSetInitiate": { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }] } }).await;
    until("it elects itself", || server.is_writable()).await;
    let config = server.config().await;
    let names: Vec<&str> = config.keys().map(String::as_str).collect();
    assert_eq!(names, ["_id", "version", "term", "members", "protocolVersion", "writeConcernMajorityJournalDefault", "settings"]);
    assert_eq!(config.get_i64("term").expect("a term"), 1);
    assert!(config.get_document("settings").expect("settings").get_object_id("replicaSetId").is_ok());
    assert_eq!(server.hello().get_object_id("electionId").expect("an id").to_hex(), "7fffffff0000000000000001");
}
