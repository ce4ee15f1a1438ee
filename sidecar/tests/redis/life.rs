//! The common life: boot, lead, follow, stand still.

use sidecar_protocol::redis::{Data, Engine, Process, Role};

use crate::rig::{Rig, Server};

#[tokio::test]
async fn an_empty_member_leads_and_another_follows_it_over_tls() {
    for (server, engine) in [(Server::Redis, Engine::Redis), (Server::Valkey, Engine::Valkey)] {
        let rig = Rig::of(server);
        let mut zero = rig.member(0);
        let state = zero.until("up", |state| state.process == Process::Running).await;
        assert_eq!((state.role, &state.data, state.position, state.engine), (Role::Isolated, &Data::Empty, None, Some(engine)));
        assert!(!state.ready, "it follows nobody");
        zero.lead(&[1]);
        let state = zero.converged().await;
        assert_eq!((state.role, state.ready, &state.data, state.admits), (Role::Primary, true, &Data::Present, Some(vec![1])));
        zero.app().await.set("a", 0).await.unwrap();

        let one = rig.replica(1, &zero).await;
        assert_eq!(one.get("a").await.as_deref(), Some("x"));
        let client = zero.app().await;
        assert_eq!(client.set("b", 1).await.unwrap(), 1, "acknowledged by the replica");
        let state = one.until("ready", |state| state.ready).await;
        assert_eq!((state.role, state.replication.unwrap().connected), (Role::Replica, true));
        assert_eq!(one.app().await.set("c", 0).await.unwrap_err().code(), Some("READONLY"));
        assert_eq!(zero.until("followed", |state| !state.replicas.is_empty()).await.replicas[0].host, one.config.host);
    }
}
