//! The user's options, the image, certificates.

use sidecar_protocol::redis::{Engine, ProblemCode, Process};

use crate::rig::{Rig, Server};

#[tokio::test]
async fn a_bad_option_is_refused_in_the_servers_words_before_it_starts_and_a_mended_one_is_picked_up() {
    for server in [Server::Redis, Server::Valkey] {
        let rig = Rig::of(server);
        rig.configure("maxmemory 64mb\nmaxmemory-polizy allkeys-lru\n");
        let zero = rig.member(0);
        let problem = zero.until("refused", |state| state.problem.is_some()).await.problem.unwrap();
        assert_eq!(problem.code, ProblemCode::ConfigRejected);
        assert!(problem.message.contains("maxmemory-polizy"), "{}", problem.message);
        assert!(!zero.config.curtain_is_open());
        rig.configure("maxmemory 64mb\nmaxmemory-policy allkeys-lru\nreplicaof 10.0.0.1 6379\n");
        let own = zero.until("refused", |state| state.problem.as_ref().is_some_and(|it| it.message.contains("replicaof"))).await;
        assert_eq!(own.process, Process::Down);
        rig.configure("maxmemory 64mb\nmaxmemory-policy allkeys-lru\nport 1234\nappendonly no\n");
        zero.until("up", |state| state.process == Process::Running && state.problem.is_none()).await;
        for (option, value) in [("maxmemory", "67108864"), ("port", "0"), ("tls-port", "6379"), ("appendonly", "yes")] {
            let answer = zero.local().await.ask(&["CONFIG", "GET", option]).await.unwrap();
            assert_eq!(redis::from_redis_value::<Vec<String>>(answer).unwrap()[1], value, "{option}");
        }
    }
}

#[tokio::test]
async fn an_image_of_the_other_engine_is_not_started() {
    let rig = Rig::new();
    let zero = rig.member_with(0, |config| config.engine = Some(Engine::Valkey));
    let problem = zero.until("refused", |state| state.problem.is_some()).await.problem.unwrap();
    assert_eq!(problem.code, ProblemCode::WrongEngine);
    assert!(problem.message.contains("Redis 7.0"), "{}", problem.message);
    assert!(!zero.config.curtain_is_open());
}

#[tokio::test]
async fn new_certificates_are_read_without_a_restart_and_clients_stay() {
    let rig = Rig::new();
    let zero = rig.primary(&[1]).await;
    let one = rig.replica(1, &zero).await;
    let client = zero.app().await;
    let pid = zero.server_pid();
    rig.certificates(2040);
    assert!(zero.login("app", "app-1").await.is_err(), "the new CA does not know the old certificate");
    for member in [&zero, &one] {
        member.tls.send_modify(|count| *count += 1);
    }
    while zero.login("app", "app-1").await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!((client.set("a", 1).await.unwrap(), zero.server_pid()), (1, pid));
}

#[tokio::test]
async fn a_server_that_cannot_write_says_so_and_what_to_do() {
    let rig = Rig::new();
    let mut zero = rig.member_with(0, |config| config.program = Some(rig.cramped(256)));
    zero.lead(&[]);
    zero.converged().await;
    let client = zero.app().await;
    let value = "x".repeat(64 * 1024);
    let refused = async {
        loop {
            if let Err(error) = client.ask(&["SET", "a", &value]).await {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(crate::rig::DEADLINE, refused).await.unwrap();
    assert_eq!(refused.code(), Some("MISCONF"));
    let problem = zero.until("full", |state| state.problem.is_some()).await.problem.unwrap();
    assert_eq!(problem.code, ProblemCode::Storage);
    assert!(problem.message.contains("append-only file") && problem.message.contains("full"), "{}", problem.message);
}
