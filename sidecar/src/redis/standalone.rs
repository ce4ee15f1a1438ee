//! A plain StatefulSet with no operator: ordinal 0 is the fixed primary, the others follow it.
//!
//! Orders are the same as an operator's, and so is what carries them out; only who gives them differs. An empty ordinal 0 is the one danger: the others
//! would copy its emptiness. So it leads only when the name server and every member that it names have said that nobody holds anything. Where somebody
//! does, whoever holds most leads in its place for as long as ordinal 0 copies, and hands over to it then.

use std::collections::BTreeSet;
use std::time::Duration;
use std::{fs, io};

use sidecar_protocol::Order;
use sidecar_protocol::redis::{Assignment, Data, Lineage, Part, Peer, Position, Problem, ProblemCode, Role, State, User, Yield};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::Config;
use super::past::Past;
use crate::discovery::{self, Discovery};
use crate::engine::Posts;
use crate::fence::Guard;
use crate::neighbour;
use crate::report::Reporter;

/// Between two looks at the others.
const PERIOD: Duration = Duration::from_secs(1);
/// A member that says nothing for this long is silent.
const REPORT_DEADLINE: Duration = Duration::from_secs(2);
/// The same answer of the name server, for this long, is its last word.
const SETTLED: Duration = Duration::from_secs(5);
/// How long writes wait for ordinal 0 when it takes over.
const HANDOVER_MILLIS: u64 = 5_000;
/// What an application's account may do.
const RULES: &str = "allkeys allchannels +@all";

/// Where the others are known from.
#[derive(Clone, Debug)]
pub enum By {
    /// The headless Service.
    Dns(Box<Discovery>),
    /// Somebody else.
    Told(Vec<discovery::Peer>),
}

/// Another member and what it says: nothing while it is silent.
#[derive(Clone, Debug)]
struct Other {
    ordinal: u32,
    peer: Peer,
    state: Result<Box<State>, String>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq)]
enum Choice {
    Part(Part),
    Wait(String),
}

/// What a member decides by.
struct Seen<'a> {
    ordinal: u32,
    me: &'a State,
    others: &'a [Other],
    /// The name server has given the same answer for a while, this member in it.
    settled: bool,
    /// Ordinals of all members that were ever named.
    members: &'a BTreeSet<u32>,
    /// The past of ordinal 0.
    past: &'a Lineage,
}

/// Gives this member the orders that follow from its ordinal and obeys them. Never returns but with an error that no retry mends.
///
/// # Errors
/// As [`super::run`].
pub async fn run(config: Config, by: By, state: watch::Sender<State>, leaving: watch::Receiver<u64>) -> anyhow::Result<()> {
    if config.tls_dir.is_none() {
        info!("no certificates are mounted: everybody speaks plain text");
    }
    if config.system_dir.is_none() {
        info!("no passwords are mounted: nobody has to log in");
    }
    let (given, orders) = watch::channel(None);
    // Certificates are looked at by nobody else here, and read at the start.
    let (_never, tls_changed) = watch::channel(0);
    let (reporter, seen) = (Reporter::new(state.clone()), state.subscribe());
    let posts = Posts { orders, state, tls_changed, guard: Guard::new(config.ordinal) };
    tokio::select! {
        ended = super::run(config.clone(), posts, leaving) => ended,
        () = give_orders(&config, &by, &seen, &given, &reporter) => Ok(()),
    }
}

async fn give_orders(
    config: &Config,
    by: &By,
    state: &watch::Receiver<State>,
    orders: &watch::Sender<Option<Order<Assignment>>>,
    reporter: &Reporter<State>,
) {
    let (mut members, mut answer, mut since) = (BTreeSet::from([config.ordinal]), Vec::new(), Instant::now());
    let mut known = Vec::new();
    let mut past = Past::read(&config.private());
    loop {
        let found = match by {
            By::Dns(discovery) => discovery.peers().await.map_err(|error| error.to_string()),
            By::Told(peers) => Ok(peers.clone()),
        };
        let choice = match found {
            Err(error) => {
                since = Instant::now();
                Choice::Wait(error)
            }
            Ok(peers) => {
                if peers != answer {
                    since = Instant::now();
                }
                answer.clone_from(&peers);
                members.extend(peers.iter().map(|peer| peer.ordinal));
                let listed = peers.iter().any(|peer| peer.ordinal == config.ordinal);
                let others = peers.into_iter().filter(|peer| peer.ordinal != config.ordinal).map(|peer| ask(config, peer));
                let others = futures::future::join_all(others).await;
                if let Some(zero) = others.iter().find(|other| other.ordinal == 0).and_then(|zero| zero.state.as_ref().ok())
                    && let Err(error) = past.learn(&config.private(), zero)
                {
                    warn!(%error, "the past of ordinal 0 cannot be written down");
                }
                let (me, settled) = (state.borrow().clone(), listed && since.elapsed() >= SETTLED);
                let (ordinal, members, past) = (config.ordinal, &members, past.lineage());
                choose(&Seen { ordinal, me: &me, others: &others, settled, members, past })
            }
        };
        match choice {
            Choice::Part(part) => {
                match users(config) {
                    Ok(users) => known = users,
                    // Who is a user stays one: an account that is not named is deleted.
                    Err(error) => {
                        let why = format!("the users cannot be read in {}: {error}", config.users_dir.display());
                        reporter.change(|state| state.problem = Some(Problem::new(ProblemCode::Credentials, why)));
                    }
                }
                let assignment = Assignment { part, members: members.iter().copied().collect(), users: known.clone() };
                orders.send_if_modified(|order| {
                    let (cluster, incarnation) = (config.cluster.clone(), String::new());
                    let new = Some(Order { cluster, term: 1, claim: 0, incarnation, after: 0, assignment });
                    let changed = *order != new;
                    if changed {
                        info!(order = ?new.as_ref().map(|order| &order.assignment.part), "this member's part");
                        *order = new;
                    }
                    changed
                });
            }
            // An order that holds stays: what is unknown now does not undo it.
            Choice::Wait(reason) if orders.borrow().is_none() => reporter.change(|state| {
                // Anything worse stays.
                if state.problem.as_ref().is_none_or(|worse| worse.code == ProblemCode::Other) {
                    state.problem = Some(Problem::new(ProblemCode::Other, &reason));
                }
            }),
            Choice::Wait(_) => {}
        }
        sleep(PERIOD).await;
    }
}

async fn ask(config: &Config, found: discovery::Peer) -> Other {
    let state = match timeout(REPORT_DEADLINE, neighbour::state::<State>(&found.host)).await {
        Ok(Ok(state)) => Ok(Box::new(state)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("nothing for {} s", REPORT_DEADLINE.as_secs())),
    };
    // Members call each other by the names that they announce.
    let host = match config.host.strip_prefix(&config.member) {
        Some(rest) => format!("{}{rest}", found.member),
        None => found.host,
    };
    Other { ordinal: found.ordinal, peer: Peer { member: found.member, host }, state }
}

/// One account for each file; none where there is no directory.
fn users(config: &Config) -> io::Result<Vec<User>> {
    let entries = match fs::read_dir(&config.users_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name().into_string().ok().filter(|name| !name.starts_with('.'));
        if let Some(name) = name
            && fs::metadata(entry.path())?.is_file()
        {
            names.insert(name);
        }
    }
    Ok(names.into_iter().map(|name| User { name, rules: RULES.into() }).collect())
}

fn choose(seen: &Seen<'_>) -> Choice {
    if seen.ordinal == 0 { first(seen) } else { other(seen) }
}

/// Ordinal 0.
fn first(seen: &Seen<'_>) -> Choice {
    let leader = seen.others.iter().find(|other| other.state.as_ref().is_ok_and(|state| state.role == Role::Primary));
    let holds = matches!(seen.me.data, Data::Present);
    match (seen.me.role, leader) {
        (Role::Primary, _) => Choice::Part(leads(seen, None)),
        (Role::Unknown, _) => Choice::Wait("the database does not answer yet".into()),
        // It leads until this member holds everything, and hands over.
        (_, Some(leader)) => follows_to_lead(leader),
        (Role::Replica, None) if holds => Choice::Wait("this member copied from a member that is silent now".into()),
        (Role::Replica | Role::Isolated, None) if holds => Choice::Part(leads(seen, None)),
        _ => {
            if let Some((silent, why)) = seen.others.iter().find_map(|other| other.state.as_ref().err().map(|why| (other, why))) {
                return Choice::Wait(format!("{} does not say whether it holds data: {why}", silent.peer.member));
            }
            match best(seen.others.iter().filter_map(|other| Some((other.ordinal, other.state.as_ref().ok()?.as_ref())))) {
                Err(why) => Choice::Wait(why),
                Ok(Some(ordinal)) => {
                    let best = seen.others.iter().find(|other| other.ordinal == ordinal);
                    best.map_or_else(|| Choice::Wait("nobody".into()), follows_to_lead)
                }
                Ok(None) if seen.settled => Choice::Part(leads(seen, None)),
                Ok(None) => Choice::Wait("nobody holds data; waiting until the name server's answer is settled".into()),
            }
        }
    }
}

/// Any other one.
fn other(seen: &Seen<'_>) -> Choice {
    let Some(zero) = seen.others.iter().find(|other| other.ordinal == 0) else {
        return Choice::Wait("the name server does not name ordinal 0 yet".into());
    };
    let Ok(state) = &zero.state else {
        let known = seen.past.current().is_some();
        return if known && seen.me.role != Role::Primary { follows(seen, zero) } else { Choice::Wait("ordinal 0 does not answer".into()) };
    };
    let empty = match state.data {
        Data::Empty => state.role == Role::Isolated || state.role == Role::Replica,
        Data::Syncing { .. } => true,
        Data::Present | Data::Loading { .. } => false,
    };
    let copies = state.replication.as_ref().is_some_and(|link| link.connected) && state.role == Role::Replica;
    match seen.me.role {
        // In its place for as long as it copies.
        Role::Primary if state.role == Role::Primary => follows(seen, zero),
        Role::Primary if copies && !empty => {
            Choice::Part(leads(seen, Some(Yield { to: zero.peer.clone(), timeout_millis: HANDOVER_MILLIS })))
        }
        Role::Primary => Choice::Part(leads(seen, None)),
        _ if !empty => follows(seen, zero),
        _ => {
            let mine = std::iter::once((seen.ordinal, seen.me));
            let theirs = seen.others.iter().filter_map(|other| Some((other.ordinal, other.state.as_ref().ok()?.as_ref())));
            let mut all: Vec<_> = mine.chain(theirs).filter(|(ordinal, _)| *ordinal != 0).collect();
            // Of those that hold the same everybody means the same one.
            all.sort_by_key(|(ordinal, _)| *ordinal);
            let silent = seen.others.iter().any(|other| other.state.is_err());
            match best(all.into_iter()) {
                Ok(Some(ordinal)) if ordinal == seen.ordinal && !silent => match seen.me.role {
                    // What it holds is known once it stands still.
                    Role::Replica => Choice::Part(Part::Isolated),
                    _ => Choice::Part(leads(seen, None)),
                },
                Ok(_) => follows(seen, zero),
                Err(why) => Choice::Wait(why),
            }
        }
    }
}

fn leads(seen: &Seen<'_>, yield_to: Option<Yield>) -> Part {
    let admitted = seen.members.iter().copied().filter(|ordinal| *ordinal != seen.ordinal).collect();
    // A process that forgot everything is other data (I10): it does not open before it was asked whether anybody holds more.
    Part::Primary { identity: seen.me.identity.clone(), admitted, min_replicas: 0, max_lag_seconds: 10, yield_to }
}

fn follows(seen: &Seen<'_>, zero: &Other) -> Choice {
    if seen.past.current().is_none() {
        return Choice::Wait("ordinal 0 does not lead yet".into());
    }
    Choice::Part(Part::Replica {
        source: zero.peer.clone(),
        lineage: seen.past.clone(),
        discard: None,
        heir_of: None,
        source_yields: false,
    })
}

/// Of ordinal 0, which holds nothing that anybody would miss.
fn follows_to_lead(leader: &Other) -> Choice {
    let position = leader.state.as_ref().ok().and_then(|state| state.position.as_ref());
    let Some(position) = position else { return Choice::Wait(format!("{} does not say where it is", leader.peer.member)) };
    let mut lineage = Lineage(position.before.iter().cloned().collect());
    lineage = lineage.written(position);
    Choice::Part(Part::Replica { source: leader.peer.clone(), lineage, discard: None, heir_of: Some(leader.ordinal), source_yields: false })
}

/// Who holds most, if anybody holds anything.
fn best<'a>(all: impl Iterator<Item = (u32, &'a State)>) -> Result<Option<u32>, String> {
    let mut best: Option<(u32, &Position)> = None;
    for (ordinal, state) in all {
        let position = match (&state.data, &state.position) {
            (Data::Empty, _) => continue,
            (_, Some(position)) => position,
            (_, None) => return Err(format!("member {ordinal} holds data, and its database does not say where it is yet")),
        };
        best = match best {
            Some((champion, most)) if !most.comparable(position) => {
                return Err(format!(
                    "members {champion} and {ordinal} hold different histories; keep the volume of the one that is right, empty the other"
                ));
            }
            Some(before @ (_, most)) if most.contains(position) => Some(before),
            _ => Some((ordinal, position)),
        };
    }
    Ok(best.map(|(ordinal, _)| ordinal))
}

#[cfg(test)]
mod tests;
