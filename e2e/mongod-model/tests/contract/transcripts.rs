//! What a real mongod 5.0.7 answered, asked again: names, order, types, codes and words have to be the same.
//!
//! The recordings are not part of the repository: `MONGOD_TRANSCRIPTS` names their directory, else it is looked for beside it.
//! Values that two runs of one mongod do not share (ids, times, optimes) are compared by type. Circumstances (who is killed when)
//! are told here, by the note of the line they come before.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::options::{AuthMechanism, Credential};
use tokio::time::Instant;

use crate::server::{Server, file, is_ok, run, until};

/// Fields whose values two runs do not share.
const VARYING: [&str; 34] = [
    "processId",
    "counter",
    "localTime",
    "connectionId",
    "ts",
    "t",
    "uptime",
    "pingMs",
    "clusterTime",
    "operationTime",
    "hash",
    "keyId",
    "replicaSetId",
    "date",
    "syncSourceHost",
    "syncSourceId",
    "infoMessage",
    "electionTime",
    "configTerm",
    "numCatchUpOps",
    "lastVoteDate",
    "lastHeartbeat",
    "lastHeartbeatRecv",
    "optimeDate",
    "optimeDurableDate",
    "lastAppliedWallTime",
    "lastDurableWallTime",
    "lastCommittedWallTime",
    "lastStableRecoveryTimestamp",
    "newTermStartDate",
    "wMajorityWriteAvailabilityDate",
    "lastElectionDate",
    "electionDate",
    "lastWriteDate",
];
/// Fields that come a moment after the answer could have been given.
const SOON: [&str; 5] = ["newTermStartDate", "wMajorityWriteAvailabilityDate", "numCatchUpOps", "majorityOpTime", "majorityWriteDate"];
/// Fields that tell how far a new member's way to its vote is. Where the recorder asked on the way, chance says what it saw.
const PASSING: [&str; 8] =
    ["hosts", "passives", "passive", "setVersion", "votingMembersCount", "writableVotingMembersCount", "configVersion", "term"];
/// How long an answer may take to become the recorded one.
const PATIENCE: Duration = Duration::from_secs(12);

fn directory() -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/facts/mongod-transcripts");
    let named = std::env::var("MONGOD_TRANSCRIPTS").map_or(beside, PathBuf::from);
    named.is_dir().then_some(named)
}

/// One recording played again.
struct Scene {
    servers: BTreeMap<u16, Server>,
    /// Recorded port to ours.
    ports: BTreeMap<u16, u16>,
    lines: Vec<Document>,
    /// Lines asked on the way: `PASSING` fields are not compared there.
    passing: &'static [usize],
    differences: Vec<String>,
}

impl Scene {
    fn open(name: &str) -> Option<Self> {
        let Some(directory) = directory() else {
            eprintln!("no transcripts here: nothing compared (MONGOD_TRANSCRIPTS names their directory)");
            return None;
        };
        let text = std::fs::read_to_string(directory.join(name)).expect("a transcript");
        // Straight into BSON: it keeps the order of fields.
        let lines = text.lines().map(|line| serde_json::from_str(line).expect("extended JSON")).collect();
        // Ports of members that never run: nobody listens there.
        let ports = (28001..28052).map(|port| (port, port - 28_000 + 1000)).collect();
        Some(Self { servers: BTreeMap::new(), ports, lines, passing: &[], differences: Vec::new() })
    }

    fn start(&mut self, port: u16, arguments: &[&str]) {
        let server = Server::standalone(arguments);
        self.ports.insert(port, server.port);
        self.servers.insert(port, server);
    }

    fn start_set(&mut self, ports: std::ops::RangeInclusive<u16>) {
        for port in ports {
            self.start(port, &["--replSet", "rs0"]);
        }
    }

    fn server(&mut self, port: u16) -> &mut Server {
        self.servers.get_mut(&port).expect("it was started")
    }

    /// The state in which one member sees another.
    fn sees(&self, port: u16, other: u16) -> i32 {
        self.shown(port, other).and_then(|member| member.get_i32("state").ok()).unwrap_or(-1)
    }

    /// What the status of one member says of another.
    fn shown(&self, port: u16, other: u16) -> Option<Document> {
        let name = self.servers[&other].host();
        let status = self.servers[&port].raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" });
        let members = status.get_array("members").cloned().unwrap_or_default();
        members.iter().filter_map(Bson::as_document).find(|member| member.get_str("name").is_ok_and(|own| own == name)).cloned()
    }

    /// How far one member sees another.
    fn optime(&self, port: u16, other: u16) -> Option<Document> {
        self.shown(port, other)?.get_document("optime").ok().cloned()
    }

    /// The version and term of the configuration that a member has.
    fn installed(&self, port: u16) -> Option<(i32, i64)> {
        let reply = self.servers[&port].raw().run(&doc! { "replSetGetConfig": 1, "$db": "admin" });
        let config = reply.get_document("config").ok()?;
        Some((config.get_i32("version").ok()?, config.get_i64("term").ok()?))
    }

    fn voters(&self, port: u16) -> i32 {
        let status = self.servers[&port].raw().run(&doc! { "replSetGetStatus": 1, "$db": "admin" });
        status.get_i32("votingMembersCount").unwrap_or(0)
    }

    /// Waits until the configuration of a primary is committed, and is the one before `version`.
    async fn settle(&self, port: u16, version: Option<i64>) {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let reply = self.servers[&port].raw().run(&doc! { "replSetGetConfig": 1, "commitmentStatus": true, "$db": "admin" });
            let now = reply.get_document("config").ok().and_then(|config| whole(config.get("version")?));
            let before = version.is_none_or(|version| now.is_none_or(|now| now + 1 >= version));
            if !is_ok(&reply) || (reply.get_bool("commitmentStatus").unwrap_or_default() && before) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn initiate(&mut self) {
        let server = &self.servers[&28001];
        let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }] };
        let reply = server.raw().run(&doc! { "replSetInitiate": config, "$db": "admin" });
        assert!(is_ok(&reply), "{reply}");
        until("a primary", || server.is_writable()).await;
    }

    /// Texts with the recorded ports as texts with ours.
    fn ours(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(&format!(":{theirs}"), &format!(":{ours}")))
    }

    fn theirs(&self, text: &str) -> String {
        self.ports.iter().fold(text.to_owned(), |text, (theirs, ours)| text.replace(&format!(":{ours}"), &format!(":{theirs}")))
    }

    async fn command(&self, line: &Document) -> Document {
        let recorded = line.get_document("command").expect("a command").clone();
        let Bson::Document(mut command) = map(recorded.into(), &|text| self.ours(text)) else { panic!("a document stays one") };
        if let Ok(config) = command.get_document_mut("replSetReconfig")
            && let Ok(settings) = config.get_document_mut("settings")
        {
            let admin = self.servers[&28001].client_as(credential(note(line))).database("admin");
            let reply = run(&admin, doc! { "replSetGetConfig": 1 }).await;
            let known = reply.get_document("config").and_then(|config| config.get_document("settings"));
            settings.insert("replicaSetId", known.and_then(|known| known.get_object_id("replicaSetId")).expect("an identity"));
        }
        command.insert("$db", line.get_str("db").expect("a database"));
        command.insert("$readPreference", doc! { "mode": "primaryPreferred" });
        command
    }

    async fn ask(&self, line: &Document, command: &Document) -> Document {
        let node = u16::try_from(line.get_i32("node").expect("a port")).expect("a port");
        let server = self.servers.get(&node).unwrap_or_else(|| panic!("{node} runs"));
        let Some(credential) = credential(note(line)) else { return server.raw().run(command) };
        let mut command = command.clone();
        let database = command.remove("$db").and_then(|name| name.as_str().map(str::to_owned)).expect("a database");
        command.remove("$readPreference");
        let client = server.client_as(Some(credential));
        match client.database(&database).run_command(command).await {
            Ok(reply) => reply,
            Err(error) => match error.kind.as_ref() {
                mongodb::error::ErrorKind::Command(failed) => failure(failed),
                // The driver wraps the refusal of a login.
                _ if error.to_string().contains("code: 18, code_name: \"AuthenticationFailed\", message: \"Authentication failed.\"") => {
                    doc! { "errmsg": "Authentication failed.", "code": 18, "codeName": "AuthenticationFailed" }
                }
                _ => panic!("{error}"),
            },
        }
    }

    /// Asks the line's command until the answer is the recorded one; one that changes something is asked once.
    async fn compare(&mut self, index: usize) {
        let line = self.lines[index].clone();
        let mut recorded = line.get_document("reply").or(line.get_document("error")).expect("an answer").clone();
        let command = self.command(&line).await;
        let name = command.keys().next().expect("a name").clone();
        let reads = ["hello", "isMaster", "replSetGetStatus", "replSetGetConfig", "find", "ping", "getParameter"].contains(&name.as_str());
        let end = Instant::now() + PATIENCE;
        let differences = loop {
            let mut answer = self.ask(&line, &command).await;
            if credential(note(&line)).is_some() && !is_ok(&answer) {
                // The driver keeps these to itself.
                for fields in [&mut answer, &mut recorded] {
                    for name in ["$clusterTime", "operationTime", "ok"] {
                        fields.remove(name);
                    }
                }
            }
            let answer = map(answer.into(), &|text| self.theirs(text));
            let mut found = Vec::new();
            let passing: &[&str] = if self.passing.contains(&(index + 1)) { &PASSING } else { &[] };
            differ("", &without(recorded.clone().into(), passing), &without(answer, passing), &name, &mut found);
            if found.is_empty() || !reads || Instant::now() > end {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        for difference in differences {
            self.differences.push(format!("line {} {name} ({}): {difference}", index + 1, note(&line)));
        }
    }

    fn finish(self) {
        assert!(self.differences.is_empty(), "unlike the real one:\n{}", self.differences.join("\n"));
    }
}

/// Under which user the recorder asked, by the line's note.
fn credential(note: &str) -> Option<Credential> {
    let builder = Credential::builder();
    if let Some(rest) = note.strip_prefix("authenticated as ") {
        let (user, rest) = rest.split_once(" by ").expect("a user");
        let (mechanism, password) = rest.split_once(", password ").expect("a password");
        let mechanism = if mechanism == "SCRAM-SHA-1" { AuthMechanism::ScramSha1 } else { AuthMechanism::ScramSha256 };
        return Some(
            builder.username(user.to_owned()).password(password.to_owned()).source("admin".to_owned()).mechanism(mechanism).build(),
        );
    }
    match note {
        "exists already" | "new member has another key" => {
            Some(builder.username("root".to_owned()).password("pw".to_owned()).source("admin".to_owned()).build())
        }
        "as __system@local with the key" => Some(
            builder
                .username("__system".to_owned())
                .password("secretkey1".to_owned())
                .source("local".to_owned())
                .mechanism(AuthMechanism::ScramSha256)
                .build(),
        ),
        _ => None,
    }
}

fn note(line: &Document) -> &str {
    line.get_str("note").unwrap_or_default()
}

/// A value with all its texts changed.
fn map(value: Bson, change: &impl Fn(&str) -> String) -> Bson {
    match value {
        Bson::String(text) => Bson::String(change(&text)),
        Bson::Array(items) => items.into_iter().map(|item| map(item, change)).collect::<Vec<_>>().into(),
        Bson::Document(fields) => Bson::Document(fields.into_iter().map(|(name, value)| (name, map(value, change))).collect()),
        other => other,
    }
}

/// A value without fields of these names, at any depth.
fn without(value: Bson, names: &[&str]) -> Bson {
    match value {
        Bson::Array(items) => items.into_iter().map(|item| without(item, names)).collect::<Vec<_>>().into(),
        Bson::Document(fields) => {
            let kept = fields.into_iter().filter(|(name, _)| !names.contains(&name.as_str()));
            Bson::Document(kept.map(|(name, value)| (name, without(value, names))).collect())
        }
        other => other,
    }
}

fn failure(failed: &mongodb::error::CommandError) -> Document {
    doc! { "errmsg": &failed.message, "code": failed.code, "codeName": &failed.code_name }
}

/// A text without what the recorder's driver added to the command and two runs do not share.
fn plain(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(start) = text.find("lsid: {") {
        let Some(length) = text[start..].find("}, ") else { break };
        text.replace_range(start..start + length + 3, "");
    }
    // An ObjectId differs from run to run.
    while let Some(start) = text.find("ObjectId('") {
        text.replace_range(start..(start + 36).min(text.len()), "ObjectId()");
        if !text.contains("ObjectId('") {
            break;
        }
    }
    text
}

fn differ(path: &str, recorded: &Bson, answer: &Bson, command: &str, found: &mut Vec<String>) {
    let last = path.rsplit('.').next().unwrap_or_default();
    match (recorded, answer) {
        (Bson::Document(theirs), Bson::Document(ours)) => {
            let soon = |name: &&String| !SOON.contains(&name.as_str());
            let (names, own): (Vec<_>, Vec<_>) = (theirs.keys().filter(soon).collect(), ours.keys().filter(soon).collect());
            if names != own {
                found.push(format!("{path}: fields {own:?}, recorded {names:?}"));
            }
            for (name, value) in theirs {
                // What a build is made of is its own business.
                if command == "buildInfo" && name != "ok" {
                    continue;
                }
                if let Some(answer) = ours.get(name) {
                    differ(&format!("{path}.{name}"), value, answer, command, found);
                }
            }
        }
        (Bson::Array(theirs), Bson::Array(ours)) if theirs.len() == ours.len() => {
            for (index, (recorded, answer)) in theirs.iter().zip(ours).enumerate() {
                differ(&format!("{path}.{index}"), recorded, answer, command, found);
            }
        }
        _ if kind(recorded) != kind(answer) => found.push(format!("{path}: {answer:?}, recorded {recorded:?}")),
        (Bson::DateTime(_), _) | (Bson::Timestamp(_), _) | (Bson::Binary(_), _) => {}
        _ if VARYING.contains(&last) => {}
        // A forced version is a random number.
        (Bson::Int32(theirs), Bson::Int32(ours)) if last.to_lowercase().ends_with("version") && *theirs > 10_000 && *ours > 10_000 => {}
        (Bson::String(theirs), Bson::String(ours)) if plain(theirs) == plain(ours) => {}
        (Bson::Int32(_) | Bson::Int64(_), _) if whole(recorded) == whole(answer) => {}
        _ if recorded == answer => {}
        _ => found.push(format!("{path}: {answer:?}, recorded {recorded:?}")),
    }
}

fn whole(value: &Bson) -> Option<i64> {
    value.as_i64().or(value.as_i32().map(i64::from))
}

/// JSON has one whole number where BSON has two.
fn kind(value: &Bson) -> u8 {
    match value {
        Bson::Int64(_) => Bson::Int32(0).element_type() as u8,
        other => other.element_type() as u8,
    }
}

/// Plays all lines; before each with a note, `circumstance` does what happened then.
async fn play(mut scene: Scene, mut circumstance: impl AsyncFnMut(&mut Scene, &str, usize)) {
    for index in 0..scene.lines.len() {
        let note = note(&scene.lines[index]).to_owned();
        circumstance(&mut scene, &note, index).await;
        if let Ok(command) = scene.lines[index].get_document("command").cloned() {
            if let Ok(config) = command.get_document("replSetReconfig") {
                let port = u16::try_from(scene.lines[index].get_i32("node").expect("a port")).expect("a port");
                scene.settle(port, config.get("version").and_then(whole)).await;
            }
            scene.compare(index).await;
        }
    }
    scene.finish();
}

#[tokio::test]
async fn an_uninitialised_member_answers_as_the_real_one() {
    let Some(mut scene) = Scene::open("01-uninitialised.jsonl") else { return };
    scene.start_set(28001..=28001);
    play(scene, async |scene: &mut Scene, note: &str, _| {
        if note == "started without --replSet" && scene.servers[&28001].hello().contains_key("isreplicaset") {
            scene.start(28001, &[]);
        }
    })
    .await;
}

#[tokio::test]
async fn a_growing_set_answers_as_the_real_one() {
    let Some(mut scene) = Scene::open("02-grow.jsonl") else { return };
    scene.start_set(28001..=28009);
    play(scene, async |_: &mut Scene, _: &str, _| {}).await;
}

#[tokio::test]
async fn changing_roles_answer_as_the_real_ones() {
    let Some(mut scene) = Scene::open("03-roles.jsonl") else { return };
    scene.passing = &[4, 5, 6, 7, 8, 9, 21, 37];
    scene.start_set(28001..=28003);
    scene.initiate().await;
    play(scene, async |scene: &mut Scene, note: &str, _| match note {
        "seconds from stepdown to a new primary" => until("28002 is primary", || scene.servers[&28002].is_writable()).await,
        // Whom a primary hands over to is who has everything: chance, unless both have.
        "stepdown with caught-up secondaries" => {
            until("28001 sees that 28002 has everything", || scene.optime(28001, 28001) == scene.optime(28001, 28002)).await;
        }
        note if note.starts_with("directed switchover") => {
            until("28003 has its vote and the new primary's configuration", || {
                scene.voters(28002) == 3 && scene.installed(28003) == scene.installed(28002)
            })
            .await;
        }
        "seconds to primary" => until("28003 is primary", || scene.servers[&28003].is_writable()).await,
        "seconds from kill -9 of the primary to a new one, defaults" => {
            scene.settle(28003, None).await;
            // Chance chose 28002.
            scene.servers[&28001].raw().run(&doc! { "replSetFreeze": 60, "$db": "admin" });
            scene.server(28003).kill();
            until("28002 is primary", || scene.servers[&28002].is_writable()).await;
            scene.servers[&28001].raw().run(&doc! { "replSetFreeze": 0, "$db": "admin" });
        }
        "at once after kill -9 of the primary" => {
            scene.server(28003).restart();
            until("28003 is back", || scene.servers[&28003].state() == 2 && scene.sees(28001, 28003) == 2).await;
            scene.server(28002).kill();
        }
        "seconds from kill -9 plus stepUp to a new primary" => until("28001 is primary", || scene.servers[&28001].is_writable()).await,
        "majority write with both secondaries dead" => {
            scene.settle(28001, None).await;
            scene.server(28003).kill();
        }
        "seconds until the lonely primary steps down" => until("28001 steps down", || scene.servers[&28001].state() == 2).await,
        "a member that the forced config no longer lists" => scene.server(28002).restart(),
        _ => {}
    })
    .await;
}

#[tokio::test]
async fn a_write_that_only_a_lost_primary_had_is_undone_as_in_the_real_one() {
    let Some(mut scene) = Scene::open("05-rollback.jsonl") else { return };
    scene.start_set(28001..=28003);
    scene.initiate().await;
    play(scene, async |scene: &mut Scene, note: &str, index| match (note, index) {
        ("secondaries dead, w:1", _) => {
            until("28003 has its vote", || scene.sees(28001, 28003) == 2 && scene.voters(28001) == 3).await;
            scene.settle(28001, None).await;
            scene.server(28002).kill();
            scene.server(28003).kill();
        }
        (_, 4) => {
            scene.server(28001).kill();
            scene.server(28002).restart();
            scene.server(28003).restart();
            until("28002 sees 28003", || scene.sees(28002, 28003) == 2).await;
            scene.servers[&28002].raw().run(&doc! { "replSetStepUp": 1, "$db": "admin" });
            until("28002 is primary", || scene.servers[&28002].is_writable()).await;
        }
        ("states of the returning primary (seconds, state)", _) => scene.server(28001).restart(),
        ("does it still hold the write", _) => {
            until("28001 has the other history", || scene.servers[&28001].documents() == [doc! { "_id": "kept", "x": 1 }]).await;
        }
        _ => {}
    })
    .await;
}

#[tokio::test]
async fn logins_are_answered_as_by_the_real_one() {
    let Some(mut scene) = Scene::open("04-auth.jsonl") else { return };
    let directory = std::env::temp_dir().join(format!("mongod-transcripts-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a directory");
    let (key, other) = (file(&directory, "key", "secretkey1"), file(&directory, "other", "secretkey2"));
    scene.start(28001, &["--replSet", "rs0", "--keyFile", &key]);
    scene.start(28002, &["--replSet", "rs0", "--keyFile", &other]);
    play(scene, async |scene: &mut Scene, _: &str, index| {
        if index > 0 && scene.lines[index - 1].get_document("command").is_ok_and(|command| command.contains_key("replSetInitiate")) {
            until("a primary", || scene.servers[&28001].is_writable()).await;
        }
    })
    .await;
    std::fs::remove_dir_all(&directory).expect("removed");
}

#[tokio::test]
async fn awaited_greetings_answer_as_the_real_ones() {
    let Some(mut scene) = Scene::open("06-hello-stream.jsonl") else { return };
    scene.start_set(28001..=28001);
    scene.initiate().await;
    play(scene, async |_: &mut Scene, _: &str, _| {}).await;
}
