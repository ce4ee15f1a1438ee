//! A plain StatefulSet with no operator: whoever is there is a member, and ordinal 0 begins the set, once.
//!
//! Orders are the same as an operator's, and so is what carries them out; only who gives them differs. Two things must not happen by
//! mistake. A second set is never begun: ordinal 0 waits until the name server's answer is settled and every member that it names has said
//! that it is in no set. Nobody is removed for a restart: who leaves the list stays until it has been unwell for a while, too; who is well
//! and on no list was put there by somebody else. Nothing is ever forced: there is nobody whose consent could be asked.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use sidecar_protocol::Order;
use sidecar_protocol::mongo::config::Config as SetConfig;
use sidecar_protocol::mongo::plan::{Consent, Desired, Wanted};
use sidecar_protocol::mongo::{Answer, Assignment, Part, Problem, ProblemCode, State};
use tokio::net::lookup_host;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::pods::Pods;
use super::{Config, Mongo};
use crate::discovery::Discovery;
use crate::engine::Posts;
use crate::fence::Guard;
use crate::report::Reporter;

/// The same answer of the name server, for this long, is its last word.
const SETTLED: Duration = Duration::from_secs(5);

/// Who knows who is there.
pub trait Find {
    /// Everybody who is there now, this member included, by ordinal; or why that is not known.
    fn find(&self, state: &State) -> impl Future<Output = Result<Vec<Found>, String>> + Send;
}

/// How the others are found, and how often.
#[derive(Clone, Debug)]
pub struct Source {
    /// By what.
    pub by: By,
    /// Port of every member.
    pub port: u16,
    /// When.
    pub pace: Pace,
}

/// When to look, and when to give somebody up.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Rest between two looks.
    pub period: Duration,
    /// Who is neither found nor well for this long is removed.
    pub unhealthy: Duration,
}

/// By what the others are found.
#[derive(Clone, Debug)]
pub enum By {
    /// SRV records of the headless Service.
    Dns(Box<Discovery>),
    /// The pods' labels, asked of Kubernetes' API.
    Pods(Pods),
}

/// A member that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Ordinal of its pod.
    pub ordinal: u32,
    /// Name and port.
    pub host: String,
    /// What else a configuration may know it by, with the port: its address, or its host's short name, as `replSetInitiate` without a
    /// configuration has it.
    pub aliases: Vec<String>,
}

/// Gives this member the orders that follow from who is there and obeys them. Never returns but with an error that no retry mends.
///
/// # Errors
/// As [`super::run`].
pub async fn run(
    config: Config,
    others: impl Find,
    pace: Pace,
    state: watch::Sender<State>,
    leaving: watch::Sender<bool>,
) -> anyhow::Result<()> {
    let (orders_in, orders) = watch::channel(None);
    // The driver reads certificates at each session; mongod's are its own here.
    let (_never, tls_changed) = watch::channel(0);
    let (reporter, seen) = (Reporter::new(state.clone()), state.subscribe());
    let posts = Posts::<Mongo> { orders, state, tls_changed, guard: Guard::new(config.ordinal) };
    tokio::select! {
        ended = super::run(config.clone(), posts, leaving) => ended,
        () = give_orders(&config, &others, pace, &seen, &orders_in, &reporter) => Ok(()),
    }
}

async fn give_orders(
    config: &Config,
    others: &impl Find,
    pace: Pace,
    state: &watch::Receiver<State>,
    orders: &watch::Sender<Option<Order<Assignment>>>,
    reporter: &Reporter<State>,
) {
    let (mut answer, mut since, mut absent) = (Vec::new(), Instant::now(), BTreeMap::new());
    loop {
        let now = Instant::now();
        let view = state.borrow().clone();
        match others.find(&view).await {
            Ok(found) => {
                let hosts: Vec<_> = found.iter().map(|found| found.host.clone()).collect();
                if hosts != answer {
                    since = now;
                }
                answer = hosts;
                let (settled, view) = (now.duration_since(since) >= SETTLED, state.borrow().clone());
                let gone = gone(&mut absent, now, pace.unhealthy, &found, &view);
                give(choose(config, &found, &gone, &view, settled), orders);
            }
            Err(why) => {
                // What is unknown now does not undo an order that holds.
                (since, absent) = (now, BTreeMap::new());
                warn!(why, "it is not known who is there");
                reporter.change(|state| {
                    if state.problem.as_ref().is_none_or(|worse| worse.code == ProblemCode::Other) {
                        state.problem = Some(Problem::new(ProblemCode::Other, &why));
                    }
                });
            }
        }
        sleep(pace.period).await;
    }
}

fn give(assignment: Assignment, orders: &watch::Sender<Option<Order<Assignment>>>) {
    orders.send_if_modified(|order| {
        let changed = order.as_ref().is_none_or(|order| order.assignment != assignment);
        if changed {
            let hosts: Vec<_> = assignment.desired().members.iter().map(|wanted| wanted.host.as_str()).collect();
            info!(?hosts, initiate = assignment.part().is_none(), "the set that there shall be");
            let (cluster, incarnation) = (String::new(), String::new());
            *order = Some(Order { cluster, term: 1, claim: 0, incarnation, after: 0, assignment });
        }
        changed
    });
}

/// Hosts of the configuration that are neither found nor well, and have not been for long. `absent` remembers since when.
fn gone(absent: &mut BTreeMap<String, Instant>, now: Instant, patience: Duration, found: &[Found], state: &State) -> BTreeSet<String> {
    let (Some(set), Some(status)) = (&state.config, &state.status) else {
        absent.clear();
        return BTreeSet::new();
    };
    let missing = set.members.iter().filter(|member| !status.state(member.id).is_well() && !is_found(found, &member.host));
    let missing: BTreeSet<_> = missing.map(|member| member.host.clone()).collect();
    absent.retain(|host, _| missing.contains(host));
    for host in missing {
        absent.entry(host).or_insert(now);
    }
    absent.iter().filter(|(_, since)| now.duration_since(**since) >= patience).map(|(host, _)| host.clone()).collect()
}

fn is_found(found: &[Found], host: &String) -> bool {
    found.iter().any(|found| found.host == *host || found.aliases.contains(host))
}

/// What this member must do.
fn choose(config: &Config, found: &[Found], gone: &BTreeSet<String>, state: &State, settled: bool) -> Assignment {
    let desired = desired(found, gone, state.config.as_ref());
    let listed = found.iter().any(|found| found.ordinal == config.ordinal);
    if state.answer == Answer::NotInSet && config.ordinal == 0 && settled && listed {
        return Assignment::Initiate { set: config.set.clone().unwrap_or_default(), desired };
    }
    Assignment::Member(Part { desired, ..Part::default() }.into())
}

/// Everybody who is found, and whoever the configuration has and is not gone, as it has it: what somebody set there by hand stays.
fn desired(found: &[Found], gone: &BTreeSet<String>, set: Option<&SetConfig>) -> Desired {
    let members = set.map_or(&[][..], |set| &set.members);
    let known = |host: &String, aliases: &[String]| members.iter().find(|member| member.host == *host || aliases.contains(&member.host));
    let wanted = |host: &String, aliases: &[String]| {
        let known = known(host, aliases);
        Wanted {
            host: host.clone(),
            aliases: aliases.to_vec(),
            zone: None,
            arbiter: known.is_some_and(|member| member.arbiter_only),
            priority: known.filter(|member| member.votes && !member.arbiter_only).map_or(1.0, |member| member.priority),
        }
    };
    let mut all: Vec<_> = found.iter().map(|found| wanted(&found.host, &found.aliases)).collect();
    let others = members.iter().filter(|member| !is_found(found, &member.host) && !gone.contains(&member.host));
    all.extend(others.map(|member| wanted(&member.host, &[])));
    // Whoever has arbiters in the set has consented to them.
    let consent = Consent { thin: members.iter().any(|member| member.arbiter_only), force: None };
    Desired { members: all, set_id: None, consent }
}

// === impl Source ===

impl Find for Source {
    async fn find(&self, state: &State) -> Result<Vec<Found>, String> {
        match &self.by {
            By::Pods(pods) => pods.find(self.port).await.map_err(|error| error.to_string()),
            By::Dns(discovery) => {
                let peers = discovery.peers().await.map_err(|error| error.to_string())?;
                let by_address = state.config.as_ref().is_some_and(|set| set.members.iter().any(|member| is_address(&member.host)));
                let mut found = Vec::new();
                for peer in peers {
                    let mut aliases = if by_address { addresses(&peer.host, self.port).await } else { Vec::new() };
                    aliases.push(format!("{}:{}", peer.member, self.port));
                    found.push(Found { ordinal: peer.ordinal, host: format!("{}:{}", peer.host, self.port), aliases });
                }
                Ok(found)
            }
        }
    }
}

fn is_address(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(name, _)| name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok())
}

async fn addresses(name: &str, port: u16) -> Vec<String> {
    lookup_host((name, port)).await.map_or_else(|_| Vec::new(), |found| found.map(|address| address.to_string()).collect())
}

#[cfg(test)]
mod tests;
