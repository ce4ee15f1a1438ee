use super::*;
use proptest::prelude::*;

const NOW: i64 = 1_800_000_000;
const DAY: i64 = 24 * 3600;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(NOW + seconds).unwrap()
}

fn names(cluster: &str, namespace: &str) -> Names {
    Names { cluster: cluster.into(), namespace: namespace.into() }
}

/// One pass of the operator; the second write may fail.
fn pass(held: &mut Held, names: &Names, asked: Option<&str>, trusts: &[Option<String>], now: Timestamp, both: bool) -> Plan {
    let plan = plan(held, names, asked, trusts, now);
    let (authority, members) = carry_out(held, plan, names, asked, now).unwrap();
    held.authority = Some(authority);
    if both {
        held.members = Some(members);
    }
    plan
}

fn made(names: &Names) -> Held {
    let mut held = Held::default();
    assert_eq!(pass(&mut held, names, None, &[], at(0), true), Plan { step: Step::Create, members: true, operator: true });
    held
}

fn idle(held: &Held, names: &Names, now: Timestamp) -> bool {
    plan(held, names, None, &[], now) == Plan { step: Step::Stay, members: false, operator: false }
}

#[test]
fn issued_certificates_are_valid_for_this_cluster_and_no_other() {
    let orders = names("orders", "shop");
    let held = made(&orders);
    let (authority, members) = (held.authority.clone().unwrap(), held.members.clone().unwrap());
    assert!(x509::members_valid(&members.pair, &members.bundle, &orders, at(0)));
    assert!(x509::operator_valid(authority.operator.as_ref().unwrap(), &members.bundle, at(0)));
    // A member's certificate calls other members, but the operator's serves nobody.
    assert!(x509::operator_valid(&members.pair, &members.bundle, at(0)));
    assert!(!x509::members_valid(authority.operator.as_ref().unwrap(), &members.bundle, &orders, at(0)));

    let other = made(&names("orders", "shop")).members.unwrap();
    assert!(!x509::members_valid(&members.pair, &other.bundle, &orders, at(0)), "same names, another CA");
    for stranger in [names("orders", "shop2"), names("orders2", "shop"), names("shop", "orders")] {
        assert!(!x509::members_valid(&members.pair, &members.bundle, &stranger, at(0)), "{stranger:?}");
    }
    assert!(idle(&held, &orders, at(0)));
}

#[test]
fn the_names_of_members_and_services_are_in_the_certificate() {
    use rustls::client::danger::ServerCertVerifier;
    use rustls::pki_types::pem::PemObject;
    let held = made(&names("orders", "shop")).members.unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(held.bundle.as_bytes()).unwrap()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(roots.into(), provider).build().unwrap();
    let leaf = rustls::pki_types::CertificateDer::from_pem_slice(held.pair.certificate.as_bytes()).unwrap();
    let now = rustls::pki_types::UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW.unsigned_abs()));
    let names = |host: &str| verifier.verify_server_cert(&leaf, &[], &host.to_owned().try_into().unwrap(), &[], now).is_ok();
    for host in [
        "orders-3.orders.shop.svc",
        "orders-30.orders.shop.svc.cluster.local",
        "orders-0.orders.shop",
        "orders-primary.shop.svc",
        "orders-primary",
        "orders-read.shop.svc.cluster.local",
        "orders-sentinel.shop.svc",
        "localhost",
    ] {
        assert!(names(host), "{host}");
    }
    for host in ["orders.shop.svc", "a.b.orders.shop.svc", "orders-0.orders.shop2.svc", "orders-0.orders2.shop.svc", "shop.svc"] {
        assert!(!names(host), "{host}");
    }
}

#[test]
fn leaves_are_renewed_after_two_thirds_of_their_life() {
    let orders = names("orders", "shop");
    let mut held = made(&orders);
    let old = held.clone();
    assert!(idle(&held, &orders, at(59 * DAY)));
    assert_eq!(
        pass(&mut held, &orders, None, &[Some("anything".into())], at(61 * DAY), true),
        Plan { step: Step::Stay, members: true, operator: true }
    );
    assert_eq!(held.members.as_ref().unwrap().bundle, old.members.as_ref().unwrap().bundle);
    assert_ne!(held.members, old.members);
    assert!(idle(&held, &orders, at(61 * DAY)));
}

#[test]
fn an_ageing_authority_is_replaced() {
    let orders = names("orders", "shop");
    let held = made(&orders);
    assert_eq!(plan(&held, &orders, None, &[], at(7 * 365 * DAY)).step, Step::Begin);
}

#[test]
fn a_request_is_answered_once() {
    let orders = names("orders", "shop");
    let mut held = made(&orders);
    let mut steps = Vec::new();
    for _ in 0..6 {
        let trusts = [Some(trust(&held.members.as_ref().unwrap().bundle))];
        steps.push(pass(&mut held, &orders, Some("today"), &trusts, at(0), true).step);
    }
    assert_eq!(steps, [Step::Begin, Step::Switch, Step::Finish, Step::Stay, Step::Stay, Step::Stay]);
}

#[test]
fn a_silent_member_holds_a_rotation_back() {
    let orders = names("orders", "shop");
    let mut held = made(&orders);
    pass(&mut held, &orders, Some("today"), &[], at(0), true);
    let trusts = [Some(trust(&held.members.as_ref().unwrap().bundle)), None];
    assert_eq!(plan(&held, &orders, Some("today"), &trusts, at(DAY)).step, Step::Stay);
    assert_eq!(plan(&held, &orders, Some("today"), &trusts[..1], at(DAY)).step, Step::Switch);
}

#[test]
fn lost_secrets_come_back() {
    let orders = names("orders", "shop");
    let whole = made(&orders);
    let bundle = whole.members.as_ref().unwrap().bundle.clone();

    let mut without_tls = Held { members: None, ..whole.clone() };
    assert_eq!(pass(&mut without_tls, &orders, None, &[], at(0), true), Plan { step: Step::Stay, members: true, operator: false });
    assert_eq!(without_tls.members.as_ref().unwrap().bundle, bundle, "the same CA");

    let mut without_ca = Held { authority: None, ..whole.clone() };
    assert_eq!(
        pass(&mut without_ca, &orders, None, &[Some(trust(&bundle))], at(0), true),
        Plan { step: Step::Adopt, members: false, operator: true }
    );
    assert!(without_ca.members.as_ref().unwrap().bundle.starts_with(&bundle), "members still trust each other");
    assert_eq!(without_ca.members.as_ref().unwrap().pair, whole.members.as_ref().unwrap().pair);
    assert_eq!(plan(&without_ca, &orders, None, &[Some(trust(&bundle))], at(0)).step, Step::Stay, "until members have the new bundle");

    let mut torn = whole.clone();
    torn.authority.as_mut().unwrap().key = Some(Hidden::new("-----BEGIN nonsense"));
    assert_eq!(plan(&torn, &orders, None, &[], at(0)).step, Step::Adopt);
    let mut torn = whole;
    torn.members.as_mut().unwrap().pair.key = made(&orders).members.unwrap().pair.key;
    assert_eq!(
        plan(&torn, &orders, None, &[], at(0)),
        Plan { step: Step::Stay, members: true, operator: false },
        "a key of another certificate"
    );
}

#[test]
fn keys_are_never_shown() {
    let text = format!("{:?}", made(&names("orders", "shop")));
    assert!(text.contains("***") && !text.contains("PRIVATE KEY"));
}

#[derive(Clone, Debug)]
enum Event {
    /// A member reads the Secret as it is now.
    Read(usize),
    /// A pass in which member `Some(n)` is silent.
    Pass(Option<usize>),
    /// A pass whose second write fails.
    Torn,
    /// The user asks for a rotation.
    Ask,
    /// Somebody deletes NAME-ca.
    LoseAuthority,
    /// Time passes.
    Days(u8),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..3usize).prop_map(Event::Read),
        6 => proptest::option::weighted(0.2, 0..3usize).prop_map(Event::Pass),
        1 => Just(Event::Torn),
        1 => Just(Event::Ask),
        1 => Just(Event::LoseAuthority),
        1 => (0..40u8).prop_map(Event::Days),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the order in which members read, passes fail and Secrets vanish, members that are not asleep for
    /// weeks always trust each other, and the operator unless its Secret was lost.
    #[test]
    fn no_phase_leaves_a_member_untrusting(events in proptest::collection::vec(event(), 1..60)) {
        let orders = names("orders", "shop");
        let mut held = made(&orders);
        let mut members = vec![held.members.clone().unwrap(); 3];
        let (mut asked, mut requests, mut elapsed, mut lost) = (None::<String>, 0, 0, false);
        for event in events {
            let trusts: Vec<_> = members.iter().map(|member| Some(trust(&member.bundle))).collect();
            match event {
                Event::Read(member) => members[member] = held.members.clone().unwrap(),
                Event::Pass(silent) => {
                    let mut trusts = trusts;
                    if let Some(silent) = silent { trusts[silent] = None; }
                    let step = pass(&mut held, &orders, asked.as_deref(), &trusts, at(elapsed), true).step;
                    lost = lost && step != Step::Finish;
                }
                Event::Torn => { pass(&mut held, &orders, asked.as_deref(), &trusts, at(elapsed), false); }
                Event::Ask => { requests += 1; asked = Some(format!("request {requests}")); }
                Event::LoseAuthority => { held.authority = None; lost = true; }
                Event::Days(days) => {
                    // Members read, and the operator looks, at least as often as a certificate has slack.
                    elapsed += i64::from(days) * DAY;
                    pass(&mut held, &orders, asked.as_deref(), &trusts, at(elapsed), true);
                    members.fill(held.members.clone().unwrap());
                }
            }
            for server in &members {
                for client in &members {
                    prop_assert!(x509::members_valid(&server.pair, &client.bundle, &orders, at(elapsed)));
                    prop_assert!(x509::operator_valid(&client.pair, &server.bundle, at(elapsed)));
                }
                if let Some(authority) = held.authority.as_ref().filter(|_| !lost) {
                    prop_assert!(x509::operator_valid(authority.operator.as_ref().unwrap(), &server.bundle, at(elapsed)));
                    prop_assert!(x509::members_valid(&server.pair, &authority.bundle(), &orders, at(elapsed)));
                }
            }
        }
        // When faults stop, it settles, and everybody trusts the operator again.
        for _ in 0..8 {
            let trusts: Vec<_> = members.iter().map(|member| Some(trust(&member.bundle))).collect();
            pass(&mut held, &orders, asked.as_deref(), &trusts, at(elapsed), true);
            members.fill(held.members.clone().unwrap());
        }
        let authority = held.authority.as_ref().unwrap();
        prop_assert!(authority.next.is_none() && authority.previous.is_none());
        prop_assert!(x509::operator_valid(authority.operator.as_ref().unwrap(), &members[0].bundle, at(elapsed)));
    }
}
