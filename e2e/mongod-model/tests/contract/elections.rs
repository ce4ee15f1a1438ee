//! Elections, crashes, and what becomes of writes.

use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, WriteConcern};

use crate::server::{Server, Set, attempt, is_ok, quick, until};

fn by_majority() -> WriteConcern {
    WriteConcern::majority()
}

fn by_one() -> WriteConcern {
    WriteConcern::builder().w(Acknowledgment::Nodes(1)).build()
}

fn insert(id: &str, concern: Document) -> Document {
    doc! { "insert": "a", "documents": [{ "_id": id }], "writeConcern": concern }
}

#[tokio::test]
async fn a_killed_primary_is_replaced_and_majority_writes_survive() {
    let mut set = Set::of(3).await;
    let collection = set.client().database("test").collection::<Document>("a");
    for number in 0..10 {
        collection.insert_one(doc! { "_id": number }).write_concern(by_majority()).await.expect("inserted");
    }
    set.servers[0].kill();
    let next = set.new_primary(Some(0)).await;
    assert_eq!(set.servers[next].documents().len(), 10);
    collection.insert_one(doc! { "_id": 10 }).write_concern(by_majority()).await.expect("the driver finds the new one");
    set.servers[0].restart();
    until("the old one has all", || set.servers[0].documents().len() == 11).await;
    assert_eq!(set.servers[0].state(), 2);
}

#[tokio::test]
async fn a_crashed_primary_is_replaced_at_once_by_request() {
    // Longer than any patience here: without the request nobody would be elected.
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 3_600_000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    set.servers[0].kill();
    set.servers[1].run(doc! { "replSetStepUp": 1 }).await;
    until("it is primary", || set.servers[1].is_writable()).await;
}

#[tokio::test]
async fn a_minority_elects_nobody_and_a_lonely_primary_steps_down() {
    let mut set = Set::of(3).await;
    set.servers[1].kill();
    set.servers[2].kill();
    until("the lonely primary steps down", || set.servers[0].state() == 2).await;
    let (code, text) = attempt(&set.servers[0].client().database("test"), insert("late", doc! { "w": 1 })).await.expect_err("no primary");
    assert_eq!((code, text.as_str()), (10107, "not primary"));
    assert!(!set.servers[0].hello().contains_key("primary"));
    set.servers[1].restart();
    let next = set.new_primary(None).await;
    assert!(next < 2, "two of three are a majority");
}

#[tokio::test]
async fn a_write_that_too_few_have_is_answered_with_a_write_concern_error() {
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 60_000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    set.servers[1].kill();
    set.servers[2].kill();
    let concern = doc! { "w": "majority", "wtimeout": 300 };
    let reply = set.servers[0].raw().run(&{
        let mut command = insert("alone", concern);
        command.insert("$db", "test");
        command
    });
    let error = reply.get_document("writeConcernError").expect("nobody else has it");
    assert_eq!((error.get_i32("code").expect("a code"), reply.get_i32("n").expect("written")), (64, 1));
    assert_eq!(error.get_str("errmsg").expect("a text"), "waiting for replication timed out");
    let info = error.get_document("errInfo").expect("an info");
    assert!(info.get_bool("wtimeout").expect("a flag"));
    assert_eq!(info.get_document("writeConcern").expect("a concern").get_str("provenance").expect("a word"), "clientSupplied");
}

#[tokio::test]
async fn what_only_a_lost_primary_had_is_undone_when_it_returns() {
    // It stays primary long enough to take the write.
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 4000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    let collection = |index: usize, set: &Set| set.servers[index].client().database("test").collection::<Document>("a");
    collection(0, &set).insert_one(doc! { "_id": "both" }).write_concern(by_majority()).await.expect("inserted");
    set.servers[1].kill();
    set.servers[2].kill();
    collection(0, &set).insert_one(doc! { "_id": "lost" }).write_concern(by_one()).await.expect("inserted");
    set.servers[0].kill();
    set.servers[1].restart();
    set.servers[2].restart();
    let next = set.new_primary(None).await;
    collection(next, &set).insert_one(doc! { "_id": "kept" }).write_concern(by_majority()).await.expect("inserted");
    set.servers[0].restart();
    let wanted = [doc! { "_id": "both" }, doc! { "_id": "kept" }];
    until("it has the others' history", || set.servers[0].documents() == wanted).await;
    assert_eq!(set.servers[0].state(), 2);
}

#[tokio::test]
async fn a_member_with_less_data_is_not_elected() {
    let mut set = Set::of(3).await;
    set.servers[2].kill();
    let collection = set.client().database("test").collection::<Document>("a");
    collection.insert_one(doc! { "_id": 1 }).write_concern(by_majority()).await.expect("two of three");
    set.servers[0].freeze();
    set.servers[2].restart();
    // 1 has the write and 2 has it not: 2 may copy it first, but without it nobody votes for it.
    let next = set.new_primary(Some(0)).await;
    assert_eq!(set.servers[next].documents().len(), 1);
    set.servers[0].thaw();
    until("the frozen one steps down", || set.servers[0].state() == 2).await;
    set.servers[0].kill();
}

#[tokio::test]
async fn histories_that_parted_become_one_again() {
    // 0 has a write of the first term that nobody has, 1 one of the second, and both return as members with something to undo.
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 3_600_000, "catchUpTakeoverDelayMillis": 1000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    let write = |set: &Set, index: usize, id: &str| {
        let mut command = insert(id, doc! { "w": 1 });
        command.insert("$db", "test");
        let reply = set.servers[index].raw().run(&command);
        assert!(is_ok(&reply) && reply.get_i32("n").is_ok_and(|n| n == 1), "{reply}");
    };
    set.servers[1].kill();
    set.servers[2].kill();
    write(&set, 0, "first");
    set.servers[0].kill();
    set.servers[1].restart();
    set.servers[2].restart();
    until("1 is elected by 2", || {
        set.servers[1].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" });
        set.servers[1].is_writable()
    })
    .await;
    set.servers[2].kill();
    write(&set, 1, "second");
    set.servers[1].kill();
    set.servers[0].restart();
    set.servers[2].restart();
    until("somebody writes", || {
        set.servers[0].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" });
        [0, 2].into_iter().any(|index| set.servers[index].is_writable()) || set.servers[0].state() == 1
    })
    .await;
    set.servers[1].restart();
    until("all have one history", || {
        let documents: Vec<_> = set.servers.iter().map(Server::documents).collect();
        set.primary().is_some() && documents.iter().all(|own| *own == documents[0])
    })
    .await;
}

#[tokio::test]
async fn the_member_with_the_highest_priority_takes_over() {
    let set = Set::with(vec![doc! {}, doc! {}, doc! { "priority": 5 }]).await;
    until("it is primary", || set.servers[2].is_writable()).await;
    set.servers[2].run(doc! { "replSetStepDown": 5 }).await;
    let next = set.new_primary(Some(2)).await;
    assert_ne!(next, 2);
    until("it is primary again", || set.servers[2].is_writable()).await;
}

#[tokio::test]
async fn an_arbiter_votes_and_holds_nothing() {
    let mut set = Set::with(vec![doc! {}, doc! {}, doc! { "arbiterOnly": true }]).await;
    let status = set.servers[0].run(doc! { "replSetGetStatus": 1 }).await;
    let count = |name: &str| status.get_i32(name).expect("a count");
    assert_eq!((count("votingMembersCount"), count("writableVotingMembersCount"), count("writeMajorityCount")), (3, 2, 2));
    set.servers[0].kill();
    assert_eq!(set.new_primary(Some(0)).await, 1, "with the arbiter's vote");
    assert!(set.servers[2].documents().is_empty());
}

#[tokio::test]
async fn votes_are_given_by_term_data_and_set() {
    let set = Set::of(3).await;
    let status = set.servers[1].run(doc! { "replSetGetStatus": 1 }).await;
    let config = set.servers[1].config().await;
    let applied = status.get_document("optimes").expect("optimes").get_document("appliedOpTime").expect("one").clone();
    let term = status.get_i64("term").expect("a term");
    let ask = |more: Document| {
        let mut command = doc! {
            "replSetRequestVotes": 1, "setName": "rs0", "dryRun": true, "term": term, "candidateIndex": 2_i64,
            "configVersion": i64::from(config.get_i32("version").expect("a version")),
            "configTerm": config.get_i64("term").expect("a term"), "lastAppliedOpTime": applied.clone(), "$db": "admin",
        };
        command.extend(more);
        let reply = set.servers[1].raw().run(&command);
        (reply.get_bool("voteGranted").unwrap_or_else(|_| panic!("{reply}")), reply.get_str("reason").unwrap_or_default().to_owned())
    };
    assert!(ask(doc! {}).0);
    for (more, why) in [
        (doc! { "configVersion": 0_i64 }, "candidate's config with {version: 0"),
        (doc! { "term": 0_i64 }, "candidate's term (0) is lower than mine"),
        (doc! { "setName": "other" }, "candidate's set name (other) differs from mine (rs0)"),
        (
            doc! { "lastAppliedOpTime": { "ts": mongodb::bson::Timestamp { time: 1, increment: 1 }, "t": 0_i64 } },
            "candidate's data is staler than mine",
        ),
    ] {
        let (granted, reason) = ask(more);
        assert!(!granted && reason.contains(why), "{reason}\nwanted {why}");
    }
    assert_eq!(set.primary(), Some(0), "dry runs disturb nobody");
}

#[tokio::test]
async fn a_vote_is_given_once_a_term_also_across_a_crash() {
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 3_600_000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    let config = set.servers[1].config().await;
    let ballot = |candidate: i64| {
        doc! {
            "replSetRequestVotes": 1, "setName": "rs0", "dryRun": false, "term": 50_i64, "candidateIndex": candidate,
            "configVersion": i64::from(config.get_i32("version").expect("a version")),
            "configTerm": config.get_i64("term").expect("a term"),
            "lastAppliedOpTime": { "ts": mongodb::bson::Timestamp { time: u32::MAX - 1, increment: 1 }, "t": 49_i64 }, "$db": "admin",
        }
    };
    let first = set.servers[1].raw().run(&ballot(2));
    assert!(first.get_bool("voteGranted").unwrap_or_default(), "{first}");
    set.servers[1].kill();
    set.servers[1].restart();
    until("it is back", || set.servers[1].state() == 2).await;
    let second = set.servers[1].raw().run(&ballot(0));
    assert!(!second.get_bool("voteGranted").expect("an answer"), "{second}");
    assert!(second.get_str("reason").expect("a reason").starts_with("already voted for another candidate"), "{second}");
    until("the primary of an older term steps down", || set.servers[0].state() == 2).await;
}

#[tokio::test]
async fn what_a_status_says_of_a_dead_member() {
    let mut set = Set::of(3).await;
    set.servers[2].kill();
    let dead = || -> Option<Document> {
        let status = set.servers[0].raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" });
        let member = status.get_array("members").ok()?.get(2)?.as_document()?.clone();
        member.get_f64("health").is_ok_and(|health| health == 0.0).then_some(member)
    };
    until("it is seen", || dead().is_some()).await;
    let member = dead().expect("dead");
    assert_eq!((member.get_i32("state").expect("a state"), member.get_str("stateStr").expect("a name")), (8, "(not reachable/healthy)"));
    assert!(member.get_str("lastHeartbeatMessage").expect("a message").contains("Connection refused"), "{member}");
    assert_eq!(member.get_document("optime").expect("an optime").get_i64("t").expect("a term"), -1);
    let settings = set.servers[0].config().await.get_document("settings").expect("settings").clone();
    assert_eq!(settings.get_i32("electionTimeoutMillis").ok(), quick().get_i32("electionTimeoutMillis").ok());
}

#[tokio::test]
async fn an_arbiter_keeps_the_healthy_primary_it_sees() {
    let set = Set::with(vec![doc! {}, doc! {}, doc! { "arbiterOnly": true }]).await;
    let status = set.servers[1].run(doc! { "replSetGetStatus": 1 }).await;
    let config = set.servers[1].config().await;
    let ballot = doc! {
        "replSetRequestVotes": 1, "setName": "rs0", "dryRun": true, "term": status.get_i64("term").expect("a term"), "candidateIndex": 1_i64,
        "configVersion": i64::from(config.get_i32("version").expect("a version")), "configTerm": config.get_i64("term").expect("a term"),
        "lastAppliedOpTime": status.get_document("optimes").expect("optimes").get_document("appliedOpTime").expect("one").clone(),
        "$db": "admin",
    };
    let wanted = "can see a healthy primary";
    let refuses = |reply: Document| reply.get_str("reason").is_ok_and(|reason| reason.starts_with(wanted) && reason.ends_with("priority"));
    until("the arbiter sees the primary", || refuses(set.servers[2].raw().run(&ballot))).await;
}

#[tokio::test]
async fn acknowledged_majority_writes_survive_one_kill_after_another() {
    let mut set = Set::of(3).await;
    let collection = set.client().database("test").collection::<Document>("a");
    let mut acknowledged = Vec::new();
    for round in 0..6 {
        for number in 0..10 {
            let id = round * 100 + number;
            if collection.insert_one(doc! { "_id": id }).write_concern(by_majority()).await.is_ok() {
                acknowledged.push(id);
            }
        }
        let primary = set.new_primary(None).await;
        // Every third time a secondary goes with it, and both come back.
        let with = (round % 3 == 2).then_some((primary + 1) % 3);
        set.servers[primary].kill();
        if let Some(with) = with {
            set.servers[with].kill();
            set.servers[with].restart();
        }
        set.new_primary(Some(primary)).await;
        set.servers[primary].restart();
    }
    assert!(acknowledged.len() >= 50, "most writes go through: {}", acknowledged.len());
    collection.insert_one(doc! { "_id": 1000 }).write_concern(by_majority()).await.expect("the last");
    acknowledged.push(1000);
    let has_all = |documents: Vec<Document>| {
        let ids: std::collections::BTreeSet<i32> = documents.iter().map(|document| document.get_i32("_id").expect("an _id")).collect();
        acknowledged.iter().all(|id| ids.contains(id))
    };
    until("everybody has all", || set.servers.iter().all(|server| has_all(server.documents()))).await;
}
