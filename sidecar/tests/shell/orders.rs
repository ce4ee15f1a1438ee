//! I8: no lower term, no other cluster's uid, no unauthenticated caller.

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use sidecar_protocol::client::{Client, ClientError};
use sidecar_protocol::mysql::{Accepted, Assignment, Data, State};
use sidecar_protocol::{MAX_ORDER_BYTES, MEMBER_COMMON_NAME, OPERATOR_COMMON_NAME, Order, RefusalCode, Report};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::rig::{Authority, INCARNATION, Rig, UID, order, refused};

const PRIMARY: Assignment = Assignment::Primary { acks: 1, members: Vec::new(), barred: vec![] };

/// Neither an order nor a report: in TLS 1.3 the refusal may arrive with the first answer only.
async fn gets_nothing(rig: &Rig, tls: rustls::ClientConfig) {
    let tls = Arc::new(tls);
    let call = async |client: Client| -> Result<Report<State>, ClientError> { client.order(&order(UID, 99, PRIMARY)).await };
    if let Ok(client) = rig.connect(Arc::clone(&tls)).await {
        let answer = call(client).await;
        assert!(matches!(answer, Err(ClientError::Http(_))), "{answer:?}");
    }
    if let Ok(client) = rig.connect(tls).await {
        assert!(client.reports::<State>().await.is_err());
    }
    assert_eq!(*rig.orders.borrow(), None);
    assert_eq!(rig.operator().await.reports::<State>().await.unwrap().next().await.unwrap().unwrap().term, 0);
}

fn builder(version: &'static rustls::SupportedProtocolVersion) -> rustls::ConfigBuilder<rustls::ClientConfig, rustls::WantsVerifier> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    rustls::ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap()
}

fn roots(authority: &Authority) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).unwrap()).unwrap();
    roots
}

#[tokio::test]
async fn a_caller_without_a_certificate_gets_nothing() {
    let rig = Rig::start().await;
    let mut tls = builder(&rustls::version::TLS13).with_root_certificates(roots(&rig.authority)).with_no_client_auth();
    tls.alpn_protocols = vec![b"h2".to_vec()];
    gets_nothing(&rig, tls).await;
}

#[tokio::test]
async fn an_operator_of_another_authority_gets_nothing() {
    let rig = Rig::start().await;
    let foreign = Authority::new().issue(OPERATOR_COMMON_NAME);
    let tls = sidecar_protocol::client::tls_config(rig.authority.pem.as_bytes(), foreign.certificate.as_bytes(), foreign.key.as_bytes());
    gets_nothing(&rig, tls.unwrap()).await;
}

#[tokio::test]
async fn tls_older_than_1_3_is_not_spoken() {
    let rig = Rig::start().await;
    let mut tls = (*rig.authority.client(OPERATOR_COMMON_NAME)).clone();
    let resolver = Arc::clone(&tls.client_auth_cert_resolver);
    tls = builder(&rustls::version::TLS12).with_root_certificates(roots(&rig.authority)).with_client_cert_resolver(resolver);
    tls.alpn_protocols = vec![b"h2".to_vec()];
    assert!(matches!(rig.connect(Arc::new(tls)).await, Err(ClientError::Connect { .. })));
}

#[tokio::test]
async fn a_member_reads_but_gives_no_orders() {
    let rig = Rig::start().await;
    let member = rig.member().await;
    assert_eq!(member.reports::<State>().await.unwrap().next().await.unwrap().unwrap().member, "shop-0");
    let refusal = refused(member.order(&order(UID, 1, PRIMARY)).await);
    assert_eq!(refusal.code, RefusalCode::NotTheOperator);
    assert_eq!(*rig.orders.borrow(), None);
}

#[tokio::test]
async fn a_name_that_only_resembles_the_operators_gives_no_orders() {
    let rig = Rig::start().await;
    let client = rig.connect(rig.authority.client("understudy-operator.evil")).await.unwrap();
    assert_eq!(refused(client.order(&order(UID, 1, PRIMARY)).await).code, RefusalCode::NotTheOperator);
}

#[tokio::test]
async fn an_order_reaches_the_engine_after_its_term_is_on_the_disk() {
    let mut rig = Rig::start().await;
    let report: Report<State> = rig.operator().await.order(&order(UID, 7, PRIMARY)).await.unwrap();
    assert_eq!(report.term, 7);
    assert_eq!(rig.orders.borrow_and_update().clone(), Some(order(UID, 7, PRIMARY)));
    let kept = std::fs::read_to_string(rig.root.join("volume/.understudy/term.json")).unwrap();
    assert!(kept.contains("\"term\":7"), "{kept}");
}

#[tokio::test]
async fn what_held_under_an_earlier_order_is_not_said_of_a_new_one() {
    let rig = Rig::start().await;
    let operator = rig.operator().await;
    let _: Report<State> = operator.order(&order(UID, 7, PRIMARY)).await.unwrap();
    let held = Accepted { term: 7, claim: 0, assignment: PRIMARY, converged: true };
    rig.state.send_modify(|state| state.accepted = Some(held.clone()));
    let repeated: Report<State> = operator.order(&order(UID, 7, PRIMARY)).await.unwrap();
    assert_eq!(repeated.state.accepted, Some(held));
    // The engine has not looked at it yet: a mysqld that hangs keeps it from saying anything for seconds.
    let news: Report<State> = operator.order(&Order { after: 1, ..order(UID, 7, Assignment::Isolated) }).await.unwrap();
    let owed = Accepted { term: 7, claim: 0, assignment: Assignment::Isolated, converged: false };
    assert_eq!((news.orders, news.state.accepted), (2, Some(owed)));
}

#[tokio::test]
async fn a_repeated_order_is_accepted_and_is_no_news_to_the_engine() {
    let mut rig = Rig::start().await;
    let operator = rig.operator().await;
    let _: Report<State> = operator.order(&order(UID, 7, PRIMARY)).await.unwrap();
    rig.orders.mark_unchanged();
    let _: Report<State> = operator.order(&order(UID, 7, PRIMARY)).await.unwrap();
    assert!(!rig.orders.has_changed().unwrap());
    let _: Report<State> = operator.order(&Order { after: 1, ..order(UID, 8, PRIMARY) }).await.unwrap();
    assert!(rig.orders.has_changed().unwrap());
}

#[tokio::test]
async fn an_order_that_was_overtaken_on_its_way_is_refused() {
    let rig = Rig::start().await;
    let operator = rig.operator().await;
    let first: Report<State> = operator.order(&order(UID, 7, PRIMARY)).await.unwrap();
    assert_eq!(first.orders, 1);
    let second: Report<State> = operator.order(&Order { after: 1, ..order(UID, 7, Assignment::Isolated) }).await.unwrap();
    assert_eq!(second.orders, 2);
    // Decided before both, of the same term, and late.
    let late = refused(operator.order(&order(UID, 7, PRIMARY)).await);
    assert_eq!((late.code, late.retry), (RefusalCode::Overtaken, true));
    assert_eq!(rig.orders.borrow().as_ref().unwrap().assignment, Assignment::Isolated);
}

#[tokio::test]
async fn fewer_acknowledgements_need_a_newer_record_also_after_a_restart() {
    let primary = |acks| Assignment::Primary { acks, members: vec![0, 1, 2], barred: vec![] };
    let of = |claim, after, acks| Order { claim, after, ..order(UID, 7, primary(acks)) };
    let rig = Rig::start().await;
    let _: Report<State> = rig.operator().await.order(&of(4, 0, 2)).await.unwrap();
    let fewer = refused(rig.operator().await.order(&of(4, 1, 1)).await);
    assert_eq!((fewer.code, fewer.retry), (RefusalCode::Unsafe, true));
    assert_eq!(*rig.orders.borrow(), Some(of(4, 0, 2)));

    let restarted = Rig::start_in(rig.root, Authority::new(), false).await;
    assert_eq!(refused(restarted.operator().await.order(&of(4, 0, 1)).await).code, RefusalCode::Unsafe);
    assert_eq!(refused(restarted.operator().await.order(&of(3, 0, 2)).await).code, RefusalCode::StaleTerm);
    let report: Report<State> = restarted.operator().await.order(&of(5, 0, 1)).await.unwrap();
    assert_eq!(report.state.accepted.map(|held| (held.claim, held.assignment)), Some((5, primary(1))));
}

#[tokio::test]
async fn a_lower_term_is_refused_also_after_a_restart() {
    let rig = Rig::start().await;
    let _: Report<State> = rig.operator().await.order(&order(UID, 7, PRIMARY)).await.unwrap();
    let stale = refused(rig.operator().await.order(&order(UID, 6, Assignment::Isolated)).await);
    assert_eq!(stale.code, RefusalCode::StaleTerm);
    assert_eq!(*rig.orders.borrow(), Some(order(UID, 7, PRIMARY)));

    let restarted = Rig::start_in(rig.root, Authority::new(), false).await;
    let stale = refused(restarted.operator().await.order(&order(UID, 6, PRIMARY)).await);
    assert_eq!(stale.code, RefusalCode::StaleTerm);
    let report: Report<State> = restarted.operator().await.order(&order(UID, 7, PRIMARY)).await.unwrap();
    assert_eq!(report.term, 7);
}

#[tokio::test]
async fn another_clusters_order_is_refused_and_leaves_no_trace() {
    let rig = Rig::start().await;
    let refusal = refused(rig.operator().await.order(&order("another", 99, PRIMARY)).await);
    assert_eq!((refusal.code, refusal.retry), (RefusalCode::OtherCluster, false));
    assert_eq!(*rig.orders.borrow(), None);
    let report: Report<State> = rig.operator().await.order(&order(UID, 1, PRIMARY)).await.unwrap();
    assert_eq!(report.term, 1);
}

#[tokio::test]
async fn an_order_for_an_earlier_start_is_refused_though_its_term_is_higher() {
    let rig = Rig::start().await;
    let late = Order { incarnation: "an earlier one".into(), ..order(UID, 9, PRIMARY) };
    assert_eq!(refused(rig.operator().await.order(&late).await).code, RefusalCode::OtherIncarnation);
    assert_eq!(*rig.orders.borrow(), None);
    let report: Report<State> = rig.operator().await.order(&order(UID, 1, PRIMARY)).await.unwrap();
    assert_eq!(report.term, 1);
}

#[tokio::test]
async fn an_empty_member_is_not_made_primary() {
    let rig = Rig::start().await;
    rig.state.send_modify(|state| state.data = Data::Empty);
    let refusal = refused(rig.operator().await.order(&order(UID, 3, PRIMARY)).await);
    assert_eq!((refusal.code, refusal.retry), (RefusalCode::Unsafe, true));
    assert_eq!(*rig.orders.borrow(), None);
    // Its term was seen all the same: who gave it has deposed the one before.
    assert_eq!(refused(rig.operator().await.order(&order(UID, 2, Assignment::Isolated)).await).code, RefusalCode::StaleTerm);
}

#[tokio::test]
async fn what_is_no_order_is_malformed() {
    let rig = Rig::start().await;
    let operator = rig.operator().await;
    let nonsense = Order { cluster: UID.into(), term: 1, claim: 0, incarnation: INCARNATION.into(), after: 0, assignment: "dance" };
    assert_eq!(refused(operator.order(&nonsense).await).code, RefusalCode::Malformed);
    let endless = Order {
        cluster: "x".repeat(MAX_ORDER_BYTES + 1),
        term: 1,
        claim: 0,
        incarnation: INCARNATION.into(),
        after: 0,
        assignment: PRIMARY,
    };
    assert_eq!(refused(operator.order(&endless).await).code, RefusalCode::Malformed);
}

#[tokio::test]
async fn a_caller_who_says_nothing_is_shown_the_door() {
    let rig = Rig::start().await;
    let mut silent = TcpStream::connect(rig.api).await.unwrap();
    let start = Instant::now();
    let read = timeout(Duration::from_secs(6), silent.read(&mut [0; 1])).await.expect("closed in time");
    assert!(matches!(read, Ok(0) | Err(_)));
    assert!(start.elapsed() > Duration::from_secs(2));
}

#[tokio::test]
async fn readers_do_not_keep_the_operator_out() {
    let rig = Rig::start().await;
    let tls = rig.authority.client(MEMBER_COMMON_NAME);
    let mut readers = Vec::new();
    loop {
        let Ok(client) = rig.connect(Arc::clone(&tls)).await else { break };
        let Ok(mut reports) = client.reports::<State>().await else { break };
        if !matches!(reports.next().await, Ok(Some(_))) {
            break;
        }
        readers.push(reports);
        assert!(readers.len() < 1000, "no bound");
    }
    let _: Report<State> = rig.operator().await.order(&order(UID, 1, PRIMARY)).await.unwrap();
}

#[tokio::test]
async fn of_many_orders_at_once_the_highest_term_stays() {
    let rig = Rig::start().await;
    let operator = rig.operator().await;
    // Each order beside the one before it, the lower one asked first.
    let assignment = |acks| Assignment::Primary { acks, members: Vec::new(), barred: Vec::new() };
    let orders: Vec<_> = (1..=6).map(|term| order(UID, term.into(), assignment(term))).collect();
    let answers = orders.iter().map(|order| operator.order::<_, State>(order));
    for answer in futures::future::join_all(answers).await {
        if answer.is_err() {
            assert!(matches!(refused(answer).code, RefusalCode::StaleTerm | RefusalCode::Overtaken));
        }
    }
    let last: Report<State> = operator.order(&Order { after: 1, ..orders[5].clone() }).await.unwrap();
    assert_eq!(last.term, 6);
    assert_eq!(rig.orders.borrow().as_ref().map(|order| order.term), Some(6));
    let kept = std::fs::read_to_string(rig.root.join("volume/.understudy/term.json")).unwrap();
    assert!(kept.contains("\"term\":6"), "{kept}");
}
