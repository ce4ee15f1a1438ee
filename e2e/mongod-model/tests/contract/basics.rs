//! The thinnest path: connect, initiate, write; then three members.

use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;

use crate::server::{Set, run, single, until};

#[tokio::test]
async fn a_single_member_takes_majority_writes() {
    let server = single().await;
    let collection = server.client().database("test").collection::<Document>("a");
    collection.insert_one(doc! { "_id": 1, "x": 1 }).write_concern(WriteConcern::majority()).await.expect("inserted");
    assert_eq!(collection.find_one(doc! { "x": 1 }).await.expect("found"), Some(doc! { "_id": 1, "x": 1 }));
}

#[tokio::test]
async fn three_members_replicate() {
    let set = Set::of(3).await;
    let collection = set.client().database("test").collection::<Document>("a");
    for number in 0..20 {
        collection.insert_one(doc! { "_id": number }).write_concern(WriteConcern::majority()).await.expect("inserted");
    }
    assert_eq!(collection.count_documents(doc! {}).await.expect("counted"), 20);
    until("everybody has it", || set.servers.iter().all(|server| server.documents().len() == 20)).await;
    let status = run(&set.client().database("admin"), doc! { "replSetGetStatus": 1 }).await;
    assert_eq!(status.get_i32("votingMembersCount").expect("a count"), 3);
}
