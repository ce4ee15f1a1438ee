//! Keys, users, and the moment before there is one.

use mongodb::bson::{Document, doc};
use mongodb::options::{AuthMechanism, Credential};

use crate::server::{Server, attempt, fail, file, is_ok, quick, run, until};

/// A directory for keys, gone with the test.
struct Keys(std::path::PathBuf);

impl Keys {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mongod-contract-keys-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        file(&self.0, name, text)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn user(name: &str, password: &str, mechanism: AuthMechanism) -> Option<Credential> {
    let source = if name == "__system" { "local" } else { "admin" };
    let builder = Credential::builder().username(name.to_owned()).password(password.to_owned()).source(source.to_owned());
    Some(builder.mechanism(mechanism).build())
}

fn root() -> Option<Credential> {
    user("root", "pw", AuthMechanism::ScramSha256)
}

/// A primary with a key, and no user yet.
async fn guarded(key: &str) -> Server {
    let server = Server::start(&["--keyFile", key]);
    let config = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": server.host() }], "settings": quick() };
    let reply = server.raw().run(&doc! { "replSetInitiate": config, "$db": "admin" });
    assert!(is_ok(&reply), "the localhost exception: {reply}");
    until("it is primary", || server.is_writable()).await;
    server
}

async fn create_root(server: &Server) {
    server.run(doc! { "createUser": "root", "pwd": "pw", "roles": [{ "role": "root", "db": "admin" }] }).await;
}

#[tokio::test]
async fn before_the_first_user_a_local_client_may_bootstrap_and_nothing_else() {
    let keys = Keys::new("bootstrap");
    let server = guarded(&keys.file("key", "secretkey1")).await;
    server.run(doc! { "replSetGetStatus": 1 }).await;
    let (code, text) = server.fail(doc! { "replSetGetConfig": 1 }).await;
    assert!(code == 13 && text.starts_with("not authorized on admin to execute command { replSetGetConfig: 1"), "{code} {text}");
    assert_eq!(server.fail(doc! { "replSetStepDown": 60 }).await.0, 13);
    create_root(&server).await;
    let (code, text) = server.fail(doc! { "createUser": "second", "pwd": "pw", "roles": [] }).await;
    assert_eq!((code, text.as_str()), (13, "command createUser requires authentication"));
    let (code, text) = server.fail(doc! { "replSetGetStatus": 1 }).await;
    assert_eq!((code, text.as_str()), (13, "command replSetGetStatus requires authentication"));
    server.run(doc! { "ping": 1 }).await;
    assert!(server.is_writable(), "anybody may greet");
}

#[tokio::test]
async fn users_log_in_with_either_mechanism_and_not_with_a_wrong_password() {
    let keys = Keys::new("mechanisms");
    let server = guarded(&keys.file("key", "secretkey1")).await;
    create_root(&server).await;
    for mechanism in [AuthMechanism::ScramSha256, AuthMechanism::ScramSha1] {
        let admin = server.client_as(user("root", "pw", mechanism.clone())).database("admin");
        let status = run(&admin, doc! { "connectionStatus": 1 }).await;
        let users = status.get_document("authInfo").expect("an info").get_array("authenticatedUsers").expect("users").clone();
        assert_eq!(users, vec![doc! { "user": "root", "db": "admin" }.into()]);
        let wrong = server.client_as(user("root", "bad", mechanism)).database("admin").run_command(doc! { "replSetGetStatus": 1 }).await;
        assert!(wrong.expect_err("refused").to_string().contains("Authentication failed."));
    }
    let nobody = server.client_as(user("nobody", "pw", AuthMechanism::ScramSha256)).database("admin").run_command(doc! { "ping": 1 }).await;
    assert!(nobody.expect_err("refused").to_string().contains("Authentication failed."));
}

#[tokio::test]
async fn users_are_made_changed_and_dropped() {
    let keys = Keys::new("users");
    let server = guarded(&keys.file("key", "secretkey1")).await;
    create_root(&server).await;
    let admin = server.client_as(root()).database("admin");
    let (code, text) = fail(&admin, doc! { "createUser": "root", "pwd": "pw", "roles": [] }).await;
    assert_eq!((code, text.as_str()), (51003, "User \"root@admin\" already exists"));
    assert_eq!(fail(&admin, doc! { "createUser": "x", "pwd": "pw", "roles": ["nosuch"] }).await.0, 31);
    assert_eq!(fail(&admin, doc! { "updateUser": "nobody", "pwd": "x" }).await.0, 11);
    run(&admin, doc! { "createUser": "watch", "pwd": "one", "roles": ["clusterMonitor"] }).await;
    let watch = |password: &str| server.client_as(user("watch", password, AuthMechanism::ScramSha256)).database("admin");
    run(&watch("one"), doc! { "replSetGetStatus": 1 }).await;
    let (code, text) = fail(&watch("one"), doc! { "replSetStepDown": 1 }).await;
    assert!(code == 13 && text.starts_with("not authorized on admin to execute command { replSetStepDown: 1"), "{code} {text}");
    run(&admin, doc! { "updateUser": "watch", "pwd": "two" }).await;
    assert!(watch("one").run_command(doc! { "ping": 1 }).await.is_err(), "the old password is gone");
    run(&watch("two"), doc! { "replSetGetConfig": 1 }).await;
    run(&admin, doc! { "grantRolesToUser": "watch", "roles": [{ "role": "readWrite", "db": "test" }] }).await;
    let shown = run(&admin, doc! { "usersInfo": "watch" }).await;
    let users = shown.get_array("users").expect("users");
    let roles = users[0].as_document().expect("a user").get_array("roles").expect("roles").len();
    assert_eq!((users.len(), roles), (1, 2));
    assert!(!shown.to_string().contains("storedKey"), "secrets are shown on request only");
    let test = server.client_as(user("watch", "two", AuthMechanism::ScramSha256)).database("test");
    test.collection::<Document>("a").insert_one(doc! { "_id": 1 }).await.expect("readWrite");
    run(&admin, doc! { "dropUser": "watch" }).await;
    assert_eq!(fail(&admin, doc! { "dropUser": "watch" }).await.0, 11);
    assert!(watch("two").run_command(doc! { "ping": 1 }).await.is_err());
}

#[tokio::test]
async fn the_key_is_a_login_of_its_own_and_members_need_the_same() {
    let keys = Keys::new("members");
    let (key, other) = (keys.file("key", "secretkey1"), keys.file("other", "secretkey2"));
    let server = guarded(&key).await;
    create_root(&server).await;
    let system = |key: &str| server.client_as(user("__system", key, AuthMechanism::ScramSha256)).database("admin");
    let config = run(&system("secretkey1"), doc! { "replSetGetConfig": 1 }).await;
    assert!(system("secretkey2").run_command(doc! { "ping": 1 }).await.is_err());
    let (same, different) = (Server::start(&["--keyFile", &key]), Server::start(&["--keyFile", &other]));
    let mut config = config.get_document("config").expect("a config").clone();
    let version = config.get_i32("version").expect("a version");
    config.insert("version", version + 1);
    let members = config.get_array_mut("members").expect("members");
    members.push(doc! { "_id": 1, "host": same.host() }.into());
    members.push(doc! { "_id": 2, "host": different.host(), "votes": 0, "priority": 0 }.into());
    let admin = server.client_as(root()).database("admin");
    attempt(&admin, doc! { "replSetReconfig": config }).await.expect("one of one voters agrees");
    let state = |index: usize| {
        let admin = admin.clone();
        async move {
            let status = run(&admin, doc! { "replSetGetStatus": 1 }).await;
            status.get_array("members").expect("members")[index].as_document().expect("a member").get_i32("state").expect("a state")
        }
    };
    for (index, wanted) in [(1, 2), (2, 6)] {
        let end = tokio::time::Instant::now() + crate::server::PATIENCE;
        while state(index).await != wanted {
            assert!(tokio::time::Instant::now() < end, "member {index} never is {wanted}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let keys = Keys::new("open");
    let key = keys.file("key", "secretkey1");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("permissions");
    let output = Server::refused(&["--replSet", "rs0", "--keyFile", &key]);
    assert!(output.contains("are too open"), "{output}");
}

#[tokio::test]
async fn a_key_file_with_two_keys_lets_both_in() {
    let keys = Keys::new("rotation");
    let server = guarded(&keys.file("both", "- oldsecret1\n- newsecret2\n")).await;
    create_root(&server).await;
    for key in ["oldsecret1", "newsecret2"] {
        let admin = server.client_as(user("__system", key, AuthMechanism::ScramSha256)).database("admin");
        run(&admin, doc! { "replSetGetStatus": 1 }).await;
    }
}
