//! `replSetReconfig`: how a configuration may change.

use mongodb::bson::{Bson, Document, doc};

use crate::server::{Server, Set, attempt, is_ok, quick, single, single_of, until};

/// The members of a configuration, to change them.
fn members(config: &mut Document) -> &mut Vec<Bson> {
    config.get_array_mut("members").expect("members")
}

fn member(config: &mut Document, index: usize) -> &mut Document {
    members(config)[index].as_document_mut().expect("a member")
}

/// Sends the configuration after a change, one version on.
async fn change(server: &Server, alter: impl Fn(&mut Document)) -> Result<Document, (i32, String)> {
    let mut config = server.config().await;
    let version = config.get_i32("version").expect("a version");
    config.insert("version", version + 1);
    alter(&mut config);
    attempt(&server.admin(), doc! { "replSetReconfig": config, "maxTimeMS": 50_000 }).await
}

/// The same, again when the server changed it meanwhile.
async fn settle(server: &Server, alter: impl Fn(&mut Document)) {
    for _ in 0..20 {
        match change(server, &alter).await {
            Ok(_) => return,
            Err((103 | 109, _)) => tokio::time::sleep(std::time::Duration::from_millis(200)).await,
            Err(other) => panic!("{other:?}"),
        }
    }
    panic!("the configuration never settled");
}

fn version(config: &Document) -> i32 {
    config.get_i32("version").expect("a version")
}

fn voting(server: &Server) -> i32 {
    server.raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" }).get_i32("votingMembersCount").unwrap_or(0)
}

fn add(server: &Server, id: i32, more: Document) -> impl Fn(&mut Document) {
    let mut new = doc! { "_id": id, "host": server.host() };
    new.extend(more);
    move |config| members(config).push(Bson::Document(new.clone()))
}

#[tokio::test]
async fn a_new_voter_gets_its_vote_when_it_has_data_by_a_version_of_the_servers_own() {
    let (first, second) = (single().await, Server::start(&[]));
    let before = version(&first.config().await);
    change(&first, add(&second, 1, doc! {})).await.expect("added");
    let config = first.config().await;
    assert!(!config.to_string().contains("newlyAdded"), "never shown: {config}");
    until("it votes", || voting(&first) == 2).await;
    assert_eq!(version(&first.config().await), before + 2);
    assert_eq!(second.state(), 2);
    until("it knows the version too", || second.hello().get_i32("setVersion").is_ok_and(|version| version == before + 2)).await;
}

#[tokio::test]
async fn several_new_voters_may_come_at_once() {
    let (first, second, third) = (single().await, Server::start(&[]), Server::start(&[]));
    let both = |config: &mut Document| {
        add(&second, 1, doc! {})(config);
        add(&third, 2, doc! {})(config);
    };
    change(&first, both).await.expect("added");
    until("both vote", || voting(&first) == 3).await;
}

#[tokio::test]
async fn before_5_0_new_voters_come_one_by_one() {
    let first = single_of(Server::playing("4.4.29")).await;
    if first.major().await >= 5 {
        return;
    }
    let (second, third) = (Server::playing("4.4.29"), Server::playing("4.4.29"));
    let both = |config: &mut Document| {
        add(&second, 1, doc! {})(config);
        add(&third, 2, doc! {})(config);
    };
    let (code, text) = change(&first, both).await.expect_err("two at once");
    assert_eq!((code, text.as_str()), (103, "Non force replica set reconfig can only add or remove at most 1 voting member."));
    settle(&first, add(&second, 1, doc! {})).await;
    assert_eq!(voting(&first), 2, "it votes at once");
    assert!(first.config().await.to_string().contains("slaveDelay"), "the delay's old name");
}

#[tokio::test]
async fn a_member_that_does_not_answer_may_be_added_and_never_counts() {
    let first = single().await;
    let absent = |config: &mut Document| members(config).push(doc! { "_id": 1, "host": "localhost:1" }.into());
    change(&first, absent).await.expect("one of one voters answered");
    assert_eq!(voting(&first), 1);
    assert!(first.is_writable());
    let status = first.run(doc! { "replSetGetStatus": 1 }).await;
    until("it is seen as down", || {
        first.raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" }).to_string().contains("(not reachable/healthy)")
    })
    .await;
    assert_eq!(status.get_array("members").expect("members").len(), 2);
    settle(&first, |config| members(config).truncate(1)).await;
}

#[tokio::test]
async fn votes_change_one_at_a_time() {
    let set = Set::of(3).await;
    let primary = &set.servers[0];
    let mute = |config: &mut Document, index: usize| member(config, index).extend(doc! { "votes": 0, "priority": 0 });
    let (code, text) = change(primary, |config| {
        mute(config, 1);
        mute(config, 2);
    })
    .await
    .expect_err("two votes");
    assert_eq!((code, text.as_str()), (103, "Non force replica set reconfig can only add or remove at most 1 voting member."));
    let (code, _) = change(primary, |config| members(config).truncate(1)).await.expect_err("two voters");
    assert_eq!(code, 103);
    settle(primary, |config| mute(config, 2)).await;
    assert_eq!(voting(primary), 2);
    settle(primary, |config| member(config, 2).extend(doc! { "votes": 1, "priority": 1 })).await;
    assert_eq!(voting(primary), 3, "an old member has its vote at once");
}

#[tokio::test]
async fn any_number_of_members_without_a_vote_come_and_go_at_once() {
    let first = single().await;
    let others = [Server::start(&[]), Server::start(&[])];
    let mute = doc! { "votes": 0, "priority": 0 };
    let both = |config: &mut Document| (1..).zip(&others).for_each(|(id, other)| add(other, id, mute.clone())(config));
    change(&first, both).await.expect("added");
    until("they copy", || others.iter().all(|other| other.state() == 2)).await;
    settle(&first, |config| members(config).truncate(1)).await;
    until("they are out", || others.iter().all(|other| other.state() == -1)).await;
    let (code, text) = others[0].fail(doc! { "replSetGetStatus": 1 }).await;
    assert_eq!((code, text.as_str()), (93, "Our replica set config is invalid or we are not a member of it"));
    assert_eq!(others[0].hello().get_str("info").expect("an info"), "Does not have a valid replica set config");
}

#[tokio::test]
async fn what_a_change_may_not_touch() {
    let set = Set::of(2).await;
    let primary = &set.servers[0];
    let (code, text) = change(primary, |config| drop(config.insert("version", 1))).await.expect_err("an old version");
    assert!(code == 103 && text.contains("version and term must be greater than old, but {version: 1, term: "), "{code} {text}");
    let (code, text) = change(primary, |config| drop(config.insert("_id", "other"))).await.expect_err("another name");
    assert!(code == 93 && text.contains("new config set name: other, command line set name: rs0"), "{code} {text}");
    let (code, text) = change(primary, |config| drop(member(config, 1).insert("_id", 44))).await.expect_err("another number");
    assert!(code == 103 && text.contains("in the new configuration the _id field is MemberId(44)"), "{code} {text}");
    let arbiter = doc! { "arbiterOnly": true, "priority": 0 };
    let (code, text) = change(primary, |config| member(config, 1).extend(arbiter.clone())).await.expect_err("an arbiter now");
    assert!(code == 103 && text.contains("differ in the setting of the arbiterOnly field"), "{code} {text}");
    let (code, text) = change(primary, |config| drop(member(config, 0).insert("priority", 0))).await.expect_err("itself");
    assert!(code == 104 && text.contains("is not electable under the new configuration"), "{code} {text}");
    let (code, text) = change(primary, |config| drop(members(config).remove(0))).await.expect_err("itself");
    assert!(code == 74 && text.contains("maps to this node"), "{code} {text}");
    let settings = |config: &mut Document| {
        let settings = config.get_document_mut("settings").expect("settings");
        settings.insert("replicaSetId", mongodb::bson::oid::ObjectId::new());
    };
    let (code, text) = change(primary, settings).await.expect_err("another identity");
    assert!(code == 103 && text.contains("replica set ID"), "{code} {text}");
    let (code, text) = change(&set.servers[1], |_| {}).await.expect_err("a secondary");
    assert!(code == 10107 && text.contains("writable PRIMARY. Current state"), "{code} {text}");
}

#[tokio::test]
async fn a_member_may_be_renamed_under_its_number() {
    let set = Set::of(2).await;
    let renamed = format!("127.0.0.1:{}", set.servers[1].port);
    // All names change together: localhost is a name, 127.0.0.1 an address, both are this machine.
    settle(&set.servers[0], |config| drop(member(config, 1).insert("host", &renamed))).await;
    until("it follows under its new name", || set.servers[1].hello().get_str("me").is_ok_and(|me| me == renamed)).await;
}

#[tokio::test]
async fn without_a_majority_only_force_changes_and_its_version_jumps() {
    let mut set = Set::of(3).await;
    let mut config = set.servers[0].config().await;
    set.servers[1].kill();
    set.servers[2].kill();
    until("the lonely primary steps down", || set.servers[0].state() == 2).await;
    let before = version(&config);
    config.insert("version", before + 1);
    let (code, _) = set.servers[0].fail(doc! { "replSetReconfig": config.clone() }).await;
    assert_eq!(code, 10107);
    assert_eq!(set.servers[0].fail(doc! { "replSetStepUp": 1 }).await, (125, "Election failed.".into()));
    members(&mut config).truncate(1);
    set.servers[0].run(doc! { "replSetReconfig": config, "force": true }).await;
    let after = version(&set.servers[0].config().await);
    assert!((before + 10_000..=before + 110_001).contains(&after), "{before} {after}");
    until("it is primary alone", || set.servers[0].is_writable()).await;
    set.servers[1].restart();
    until("who is no longer listed is out", || set.servers[1].state() == -1).await;
}

#[tokio::test]
async fn a_new_member_copies_before_it_counts() {
    let (first, second) = (single().await, Server::start(&[]));
    change(&first, add(&second, 1, doc! {})).await.expect("added");
    let mut raw = second.raw();
    let mut seen = None;
    until("it is SECONDARY", || {
        let status = raw.run(&doc! { "replSetGetStatus": 1, "$db": "admin" });
        let state = status.get_i32("myState").unwrap_or(-1);
        if state == 5 {
            seen = Some(status);
        }
        state == 2
    })
    .await;
    let copying = seen.expect("it was STARTUP2 before");
    assert!(copying.contains_key("initialSyncStatus"), "{copying}");
    let applied = copying.get_document("optimes").expect("optimes").get_document("appliedOpTime").expect("one");
    assert_eq!(applied.get_i64("t").expect("a term"), -1, "it has nothing yet");
}

#[tokio::test]
async fn newly_added_is_the_servers_word() {
    let (first, second) = (single().await, Server::start(&[]));
    let (code, text) = change(&first, add(&second, 1, doc! { "newlyAdded": true })).await.expect_err("ours to say");
    assert!(code == 93, "{code} {text}");
}

#[tokio::test]
async fn a_primary_forced_out_of_office_steps_down() {
    let set = Set::of(2).await;
    let mut config = set.servers[0].config().await;
    member(&mut config, 0).insert("priority", 0);
    set.servers[0].run(doc! { "replSetReconfig": config, "force": true }).await;
    assert_eq!(set.new_primary(Some(0)).await, 1);
}

#[tokio::test]
async fn a_change_needs_a_majority_that_answers() {
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 30_000 };
    let mut set = Set::with_settings(vec![Document::new(); 3], settings).await;
    until("the configuration is committed", || {
        let reply = set.servers[0].raw().run(&doc! { "replSetGetConfig": 1, "commitmentStatus": true, "$db": "admin" });
        reply.get_bool("commitmentStatus").unwrap_or_default()
    })
    .await;
    set.servers[1].kill();
    set.servers[2].kill();
    let (code, text) = change(&set.servers[0], |_| {}).await.expect_err("no majority");
    assert!(code == 74 && text.contains("required 2 but only the following 1 voting nodes responded"), "{code} {text}");
}

#[tokio::test]
async fn a_change_waits_for_the_one_before() {
    let settings = doc! { "heartbeatIntervalMillis": 200, "electionTimeoutMillis": 30_000 };
    let mut set = Set::with_settings(vec![Document::new(); 2], settings).await;
    settle(&set.servers[0], |_| {}).await;
    set.servers[1].freeze();
    let mut config = set.servers[0].config().await;
    let next = version(&config) + 1;
    config.insert("version", next);
    // The frozen one holds its connections: the first change cannot be checked, and no later one is.
    let (code, text) =
        attempt(&set.servers[0].admin(), doc! { "replSetReconfig": config, "maxTimeMS": 1500 }).await.expect_err("no majority");
    assert!([50, 74, 308].contains(&code), "{code} {text}");
    set.servers[1].thaw();
    settle(&set.servers[0], |_| {}).await;
    set.servers[1].kill();
}

#[tokio::test]
async fn a_member_of_another_set_is_refused() {
    let (first, foreign) = (single().await, single().await);
    let (code, text) = change(&first, add(&foreign, 1, doc! {})).await.expect_err("another identity");
    assert!(code == 103, "{code} {text}");
    let stranger = Server::standalone(&["--replSet", "other"]);
    let (code, text) = change(&first, add(&stranger, 1, doc! {})).await.expect_err("another name");
    assert!(code == 103 && text.contains("set name"), "{code} {text}");
}

#[tokio::test]
async fn an_eighth_voter_is_accepted_and_never_votes() {
    let servers: Vec<Server> = (0..8).map(|_| Server::start(&[])).collect();
    let listed: Vec<Document> = (0..).zip(&servers).take(7).map(|(id, server)| doc! { "_id": id, "host": server.host() }).collect();
    servers[0].run(doc! { "replSetInitiate": { "_id": "rs0", "members": listed, "settings": quick() } }).await;
    until("a primary", || {
        servers[0].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" });
        servers[0].is_writable()
    })
    .await;
    settle(&servers[0], add(&servers[7], 7, doc! {})).await;
    until("it has data", || servers[7].state() == 2).await;
    let config = servers[0].config().await;
    let votes = config.get_array("members").expect("members")[7].as_document().expect("a member").get_i32("votes");
    assert_eq!((votes.expect("votes"), voting(&servers[0])), (1, 7));
    assert!(servers[7].hello().get_bool("passive").expect("it cannot be elected"));
}

#[tokio::test]
async fn a_primary_with_an_arbiter_gets_its_secondary_in_two_steps() {
    let set = Set::with(vec![doc! {}, doc! { "arbiterOnly": true }]).await;
    let (primary, third) = (&set.servers[0], Server::start(&[]));
    let (code, text) = change(primary, add(&third, 2, doc! {})).await.expect_err("electable at once");
    assert!(code == 103 && text.starts_with("Rejecting reconfig where the new config has a PSA topology"), "{code} {text}");
    settle(primary, add(&third, 2, doc! { "priority": 0 })).await;
    until("it votes", || voting(primary) == 3).await;
    settle(primary, |config| drop(member(config, 2).insert("priority", 1))).await;
}

#[tokio::test]
async fn an_arbiter_that_would_weaken_writes_waits_for_a_word_about_writes() {
    let (set, arbiter) = (Set::of(2).await, Server::start(&[]));
    let add_arbiter = add(&arbiter, 2, doc! { "arbiterOnly": true });
    let (code, text) = change(&set.servers[0], &add_arbiter).await.expect_err("writes would be acknowledged by one");
    assert!(code == 103 && text.contains("implicit default write concern"), "{code} {text}");
    set.servers[0].run(doc! { "setDefaultRWConcern": 1, "defaultWriteConcern": { "w": "majority" } }).await;
    settle(&set.servers[0], &add_arbiter).await;
    until("it is one", || arbiter.state() == 7).await;
}

#[tokio::test]
async fn two_changes_of_one_version_have_one_winner() {
    let set = Set::of(3).await;
    settle(&set.servers[0], |_| {}).await;
    let mut config = set.servers[0].config().await;
    let next = version(&config) + 1;
    config.insert("version", next);
    let ask = || set.servers[0].client();
    let (one, two) = (ask(), ask());
    let send = |client: mongodb::Client| {
        let config = config.clone();
        async move { attempt(&client.database("admin"), doc! { "replSetReconfig": config }).await }
    };
    let answers = tokio::join!(send(one), send(two));
    let won = [&answers.0, &answers.1].into_iter().filter(|answer| answer.as_ref().is_ok_and(is_ok)).count();
    assert_eq!(won, 1, "{answers:?}");
    let lost = answers.0.err().or(answers.1.err()).expect("one lost");
    assert!([103, 109].contains(&lost.0), "{lost:?}");
}
