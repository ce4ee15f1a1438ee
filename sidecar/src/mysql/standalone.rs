//! A plain StatefulSet with no operator: ordinal 0 is the fixed primary, others clone and follow; nobody is promoted.
//!
//! Orders are the same as an operator's, and so is what carries them out; only who gives them differs. An empty ordinal 0 is the one
//! danger: it must not start a second history while somebody holds the first. It initialises only when the name server and every
//! member that it names have said so; silence is not a "no".

use std::collections::BTreeSet;
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::gtid::Relation;
use sidecar_protocol::mysql::{Assignment, Data, Peer, Position, ProblemCode, Process, State};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::Config;
use super::report::{Reporter, problem};
use crate::discovery::{self, Discovery};
use crate::fence::Guard;
use crate::neighbour;

/// Between two looks at the others.
const PERIOD: Duration = Duration::from_secs(1);
/// A member that says nothing for this long is silent.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// The same answer of the name server, for this long, is its last word.
const SETTLED: Duration = Duration::from_secs(5);

/// What another member says of its data.
#[derive(Clone, Debug, PartialEq)]
enum Heard {
    /// It answered that it holds nothing.
    Empty,
    /// It holds data, at this position if its mysqld answers.
    Holds(Option<Position>),
    /// It did not answer: unknown.
    Silent(String),
}

/// Another member and what it says.
#[derive(Clone, Debug)]
struct Other {
    ordinal: u32,
    peer: Peer,
    heard: Heard,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    Order(Assignment),
    Wait(String),
}

/// Gives this member the orders that follow from its ordinal and obeys them. Never returns but with an error that no retry mends.
///
/// # Errors
/// The volume or the run directory cannot be written.
pub async fn run(config: Config, discovery: Discovery, state: watch::Sender<State>) -> anyhow::Result<()> {
    let (orders, order) = watch::channel(None);
    // Certificates are mysqld's own here; nothing changes them.
    let (_never, tls_changed) = watch::channel(0);
    let (reporter, seen) = (Reporter::new(state.clone()), state.subscribe());
    tokio::select! {
        ended = super::run(config.clone(), order, state.clone(), tls_changed, Guard::new(config.ordinal)) => ended,
        () = give_orders(&config, &discovery, &seen, &orders, &reporter) => Ok(()),
    }
}

async fn give_orders(
    config: &Config,
    discovery: &Discovery,
    state: &watch::Receiver<State>,
    orders: &watch::Sender<Option<Order<Assignment>>>,
    reporter: &Reporter,
) {
    let (mut members, mut answer, mut since) = (BTreeSet::from([config.ordinal]), Vec::new(), Instant::now());
    loop {
        let choice = match discovery.peers().await {
            Err(error) => {
                since = Instant::now();
                Choice::Wait(error.to_string())
            }
            Ok(peers) => {
                if peers != answer {
                    since = Instant::now();
                }
                answer.clone_from(&peers);
                members.extend(peers.iter().map(|peer| peer.ordinal));
                let listed = peers.iter().any(|peer| peer.ordinal == config.ordinal);
                let others = futures::future::join_all(peers.into_iter().filter(|peer| peer.ordinal != config.ordinal).map(ask)).await;
                let data = state.borrow().data.clone();
                choose(config.ordinal, &data, &others, listed && since.elapsed() >= SETTLED, &members)
            }
        };
        match choice {
            Choice::Order(assignment) => {
                orders.send_if_modified(|order| {
                    let new = Some(Order {
                        cluster: config.cluster.clone(),
                        term: 1,
                        claim: 0,
                        incarnation: String::new(),
                        after: 0,
                        assignment,
                    });
                    let changed = *order != new;
                    if changed {
                        info!(order = ?new.as_ref().map(|order| &order.assignment), "this member's part");
                        *order = new;
                    }
                    changed
                });
            }
            // An order that holds stays: what is unknown now does not undo it.
            Choice::Wait(reason) if orders.borrow().is_none() => reporter.change(|state| {
                // Anything worse stays.
                if state.problem.as_ref().is_none_or(|worse| worse.code == ProblemCode::Other) {
                    state.problem = Some(problem(ProblemCode::Other, &reason));
                }
            }),
            Choice::Wait(_) => {}
        }
        sleep(PERIOD).await;
    }
}

/// What `ordinal`, holding `data`, must do. `settled`: the name server has given the same answer for a while, this member in it.
fn choose(ordinal: u32, data: &Data, others: &[Other], settled: bool, members: &BTreeSet<u32>) -> Choice {
    match (ordinal, *data == Data::Present) {
        (0, true) => Choice::Order(Assignment::Primary { acks: 0, members: members.iter().copied().collect(), barred: vec![] }),
        (0, false) => first(others, settled),
        (_, _) => {
            let Some(zero) = others.iter().find(|other| other.ordinal == 0) else {
                return Choice::Wait("the name server does not name ordinal 0 yet".into());
            };
            let mut donors: Vec<&Other> = others.iter().filter(|other| matches!(other.heard, Heard::Holds(Some(_)))).collect();
            // The previous one, then those before it down to 0, then those after.
            donors.sort_by_key(|donor| (donor.ordinal > ordinal, donor.ordinal.abs_diff(ordinal)));
            let donors = if *data == Data::Present { vec![] } else { donors.iter().map(|donor| donor.peer.clone()).collect() };
            Choice::Order(Assignment::Replica { source: zero.peer.clone(), donors, acknowledges: false, replace: None })
        }
    }
}

/// Ordinal 0 with nothing on its volume.
fn first(others: &[Other], settled: bool) -> Choice {
    if let Some((other, why)) = others.iter().find_map(|other| match &other.heard {
        Heard::Silent(why) => Some((other, why)),
        _ => None,
    }) {
        return Choice::Wait(format!("{} does not say whether it holds data: {why}", other.peer.member));
    }
    let mut best: Option<(&Other, &Position)> = None;
    for other in others {
        match (&other.heard, best) {
            (Heard::Holds(None), _) => return Choice::Wait(format!("mysqld of {} does not answer, and it holds data", other.peer.member)),
            (Heard::Holds(Some(position)), None) => best = Some((other, position)),
            (Heard::Holds(Some(position)), Some((champion, most))) => match position.held().compare(&most.held()) {
                Relation::Diverged => {
                    return Choice::Wait(format!(
                        "{} and {} hold different histories; keep the volume of the one that is right, empty the other",
                        champion.peer.member, other.peer.member
                    ));
                }
                Relation::Ahead => best = Some((other, position)),
                Relation::Equal | Relation::Behind => {}
            },
            _ => {}
        }
    }
    match best {
        Some((other, position)) if !position.executed.contains(&position.received) => {
            Choice::Wait(format!("{} still applies what it received", other.peer.member))
        }
        Some((other, _)) => Choice::Order(Assignment::Replica {
            source: other.peer.clone(),
            donors: vec![other.peer.clone()],
            acknowledges: false,
            replace: None,
        }),
        None if settled => Choice::Order(Assignment::Initialise),
        None => Choice::Wait("nobody holds data; waiting until the name server's answer is settled".into()),
    }
}

async fn ask(found: discovery::Peer) -> Other {
    let heard = match timeout(REPORT_DEADLINE, neighbour::state::<State>(&found.host)).await {
        Ok(Ok(state)) => match (state.data, state.process) {
            (Data::Present, Process::Running) => Heard::Holds(state.position),
            (Data::Present, Process::Down | Process::Starting | Process::Silent) => Heard::Holds(None),
            _ => Heard::Empty,
        },
        Ok(Err(error)) => Heard::Silent(error.to_string()),
        Err(_) => Heard::Silent(format!("nothing for {} s", REPORT_DEADLINE.as_secs())),
    };
    Other { ordinal: found.ordinal, peer: Peer { member: found.member, host: found.host }, heard }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn holds(text: &str) -> Heard {
        Heard::Holds(Some(Position { executed: text.parse().unwrap(), ..Position::default() }))
    }

    fn others(heard: &[(u32, Heard)]) -> Vec<Other> {
        let peer = |ordinal: u32| Peer { member: format!("shop-{ordinal}"), host: format!("shop-{ordinal}.shop") };
        heard.iter().map(|(ordinal, heard)| Other { ordinal: *ordinal, peer: peer(*ordinal), heard: heard.clone() }).collect()
    }

    fn zero(heard: &[(u32, Heard)], settled: bool) -> Choice {
        choose(0, &Data::Empty, &others(heard), settled, &BTreeSet::from([0]))
    }

    #[test]
    fn an_empty_first_member_initialises_only_when_everybody_says_that_there_is_nothing() {
        let initialise = Choice::Order(Assignment::Initialise);
        assert_eq!(zero(&[(1, Heard::Empty), (2, Heard::Empty)], true), initialise);
        assert_eq!(zero(&[], true), initialise);
        assert_ne!(zero(&[(1, Heard::Empty)], false), initialise, "the name server may not know everybody yet");
        assert_ne!(zero(&[(1, Heard::Empty), (2, Heard::Silent("refused".into()))], true), initialise);
        assert_ne!(zero(&[(1, Heard::Empty), (2, Heard::Holds(None))], true), initialise);
    }

    #[test]
    fn an_empty_first_member_clones_from_who_holds_most() {
        let choice = zero(&[(1, holds(&format!("{A}:1-5"))), (2, holds(&format!("{A}:1-7")))], false);
        assert!(matches!(&choice, Choice::Order(Assignment::Replica { donors, .. }) if donors[0].member == "shop-2"), "{choice:?}");
    }

    #[test]
    fn histories_that_differ_are_left_to_a_person() {
        let choice = zero(&[(1, holds(&format!("{A}:1-5"))), (2, holds(&format!("{A}:1-4,{B}:1")))], true);
        assert!(matches!(&choice, Choice::Wait(reason) if reason.contains("different histories")), "{choice:?}");
    }

    #[test]
    fn donors_are_the_previous_one_then_those_before_then_those_after() {
        let all = others(&[(0, holds("")), (1, holds("")), (2, Heard::Empty), (4, holds(""))]);
        let Choice::Order(Assignment::Replica { source, donors, .. }) = choose(3, &Data::Empty, &all, true, &BTreeSet::new()) else {
            panic!("a replica")
        };
        assert_eq!(source.member, "shop-0");
        assert_eq!(donors.iter().map(|donor| donor.member.as_str()).collect::<Vec<_>>(), ["shop-1", "shop-0", "shop-4"]);
    }

    #[test]
    fn a_member_with_data_keeps_its_part() {
        let members = BTreeSet::from([0, 1]);
        assert_eq!(
            choose(0, &Data::Present, &others(&[(1, Heard::Silent(String::new()))]), false, &members),
            Choice::Order(Assignment::Primary { acks: 0, members: vec![0, 1], barred: vec![] })
        );
    }
}
