//! Who may log in, and how passwords change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sidecar_protocol::redis::{ProblemCode, Role, User};
use tokio::time::sleep;

use crate::rig::Rig;

#[tokio::test]
async fn exactly_the_ordered_accounts_exist_beside_our_own_and_an_exporter_reads_no_keys() {
    let rig = Rig::new();
    let mut zero = rig.primary(&[1]).await;
    zero.local().await.ask(&["ACL", "SETUSER", "stranger", "on", "nopass", "+@all", "~*"]).await.unwrap();
    let names = async || -> Vec<String> { redis::from_redis_value(zero.local().await.ask(&["ACL", "USERS"]).await.unwrap()).unwrap() };
    while names().await.contains(&"stranger".to_owned()) {
        sleep(Duration::from_millis(50)).await;
    }
    let mut all = names().await;
    all.sort();
    assert_eq!(all, ["app", "default", "understudy", "understudy-exporter", "understudy-replica-1"]);
    let exporter = zero.login("understudy-exporter", "export-1").await.unwrap();
    exporter.ask(&["INFO"]).await.unwrap();
    for refused in [&["GET", "a"][..], &["CONFIG", "GET", "masterauth"], &["KEYS", "*"]] {
        assert_eq!(exporter.ask(refused).await.unwrap_err().code(), Some("NOPERM"), "{refused:?}");
    }
    assert!(zero.login("default", "").await.is_err());

    zero.users.clear();
    zero.lead(&[1]);
    zero.converged().await;
    assert!(zero.login("app", "app-1").await.is_err(), "who is ordered no more is gone");
}

#[tokio::test]
async fn passwords_change_under_load_and_no_login_fails() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    let one = rig.replica(1, &zero).await;
    let (stop, first) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new("app-1".to_owned())));
    let (stopped, password, member) = (Arc::clone(&stop), Arc::clone(&first), Arc::new(zero));
    let zero = Arc::clone(&member);
    let logins = tokio::spawn(async move {
        let mut count = 0;
        while !stopped.load(Ordering::Relaxed) {
            let now = password.lock().unwrap().clone();
            member.login("app", &now).await.unwrap_or_else(|error| panic!("{now}: {error}"));
            count += 1;
        }
        count
    });
    let change = async |app: &str, replication: &str| {
        let before = [zero.now().passwords, one.now().passwords];
        rig.password("users", "app", app);
        rig.password("system", "replication", replication);
        for (member, before) in [&*zero, &one].into_iter().zip(before) {
            member.until("taken", |state| state.passwords.is_some() && state.passwords != before).await;
        }
    };
    change("app-1\napp-2", "repl-1\nrepl-2").await;
    *first.lock().unwrap() = "app-2".into();
    change("app-2\napp-1\n", "repl-2\nrepl-1").await;
    sleep(Duration::from_millis(100)).await;
    change("app-2", "repl-2\n").await;
    assert_eq!(zero.now().passwords, one.now().passwords);
    assert!(zero.login("app", "app-1").await.is_err());
    stop.store(true, Ordering::Relaxed);
    assert!(logins.await.unwrap() > 10);
    // The replica logs in with the new one.
    one.kill_server().await;
    one.until("down", |state| state.role == Role::Unknown).await;
    one.converged().await;
}

#[tokio::test]
async fn one_accounts_refused_rule_or_missing_password_holds_up_nobody_else() {
    let rig = Rig::new();
    let mut zero = rig.member(0);
    rig.password("users", "typo", "typo-1");
    let user = |name: &str, rules: &str| User { name: name.into(), rules: rules.into() };
    zero.users.push(user("typo", "~* +gett"));
    zero.users.push(user("missing", "~* +get"));
    zero.lead(&[]);
    let state = zero.converged().await;
    assert_eq!(state.role, Role::Primary);
    zero.app().await.set("a", 0).await.unwrap();
    let problem = state.problem.unwrap();
    assert!(problem.code == ProblemCode::AccountRefused && problem.message.contains("gett"), "{problem:?}");

    rig.password("users", "missing", "missing-1");
    zero.until("it is taken", |now| now.passwords != state.passwords).await;
    zero.login("missing", "missing-1").await.unwrap();
    zero.users[1] = user("typo", "~* +get");
    zero.lead(&[]);
    zero.until("well", |state| state.problem.is_none()).await;
    zero.login("typo", "typo-1").await.unwrap();
    // Rules that are refused later leave the old ones, and a new password is taken all the same: it is handed out.
    zero.users[1] = user("typo", "~* +gett");
    zero.lead(&[]);
    let state = zero.until("refused", |state| state.problem.is_some()).await;
    rig.password("users", "typo", "typo-2");
    zero.until("it is taken", |now| now.passwords.is_some() && now.passwords != state.passwords).await;
    assert_eq!(zero.login("typo", "typo-2").await.unwrap().ask(&["GET", "a"]).await.unwrap(), redis::Value::BulkString(b"x".into()));
    assert!(zero.login("typo", "typo-1").await.is_err());

    // Nor do rules hand out passwords.
    zero.users[1] = user("typo", "~* +get >hole");
    zero.lead(&[]);
    let says =
        |state: &sidecar_protocol::redis::State| state.problem.as_ref().is_some_and(|problem| problem.message.contains("a password"));
    let problem = zero.until("refused", says).await.problem.unwrap();
    assert!(!problem.message.contains("hole"), "{problem:?}");
    zero.login("typo", "typo-2").await.expect("an account stays as it was");
}
