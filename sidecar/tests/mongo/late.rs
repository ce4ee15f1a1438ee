//! A member whose own name is not known when its mongod starts. A port that nobody listens on yet stands for the name.

use sidecar::mongo::{Config, Mongo};
use sidecar_protocol::mongo::plan::{Desired, Wanted};
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Assignment, Part, ProblemCode};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::rig::{Member, Rig};

/// Makes mongod at `port` known by the port `name`, until it is aborted.
async fn known(name: u16, port: u16) -> JoinHandle<()> {
    let listener = TcpListener::bind(("127.0.0.1", name)).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                let _ = copy_bidirectional(&mut from, &mut to).await;
            });
        }
    })
}

#[tokio::test]
async fn a_set_of_one_whose_name_was_late_heals() {
    let rig = Rig::of(2).await;
    let name: u16 = rig.hosts[1].rsplit_once(':').unwrap().1.parse().unwrap();
    let config = Config { host: rig.hosts[1].clone(), ..rig.config(0) };
    let port = config.port;
    let forward = known(name, port).await;
    let member = Member::start(Mongo::new(config), &rig.dir);
    let wanted = Wanted { host: rig.hosts[1].clone(), aliases: vec![], zone: None, arbiter: false, priority: 1.0 };
    let desired = Desired { members: vec![wanted], ..Desired::default() };
    member.order(Assignment::Initiate { set: "shop".into(), desired: desired.clone() });
    member.until("it leads", |state| state.writable).await;
    member.part(Part { desired, ..Part::default() });
    forward.abort();
    let _ = forward.await;
    member.kill();
    let state = member.until("it does not find itself", |state| state.member == MemberState::Removed).await;
    assert_eq!(state.problem.unwrap().code, ProblemCode::NotAMember);
    assert!(!state.ready);
    let _forward = known(name, port).await;
    member.until("it is started anew, finds itself and leads", |state| state.writable && state.ready).await;
}
