//! Elections: standing, voting, taking office, leaving it; and the clock that starts them.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep};

use crate::config::Member;
use crate::failure::Reply;
use crate::member::{State, View};
use crate::node::{Core, Node};
use crate::optime::OpTime;
use crate::peer::Peer;
use crate::store::Vote;
use crate::vote::{Ballot, Voter};

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(50);
/// A member this close to the newest may take over by its priority.
const TAKEOVER_LAG_SECS: u32 = 2;
/// A new primary waits this long at most to hear from each member it can reach.
const HEAR_ALL: Duration = Duration::from_secs(2);

/// Looks at the clock for ever.
pub async fn clock(node: Arc<Node>) {
    loop {
        sleep(TICK).await;
        let now = Instant::now();
        if lost_majority(&node, now) {
            node.change(|core| core.step_down("no majority heard of for an election timeout"));
            continue;
        }
        let Some(reason) = due(&node, now) else { continue };
        let why = node.change(|core| {
            let why = core.unelectable(now);
            core.takeover_at = None;
            if why.is_some() {
                core.await_election();
            }
            why
        });
        match why {
            None => drop(stand(&node, reason, false).await),
            Some(why) => tracing::debug!(why, reason, "not standing"),
        }
    }
}

/// The reason for an election that is due, if one is.
fn due(node: &Node, now: Instant) -> Option<&'static str> {
    node.read(|core| {
        if core.electing || core.state != State::Secondary {
            return None;
        }
        if core.election_at.is_some_and(|at| at <= now) {
            return Some("electionTimeout");
        }
        core.takeover_at.filter(|(at, _)| *at <= now).map(|(_, reason)| reason)
    })
}

fn lost_majority(node: &Node, now: Instant) -> bool {
    node.read(|core| {
        let Some((config, me)) = core.seat() else { return false };
        let (Some(elected), State::Primary) = (core.elected, core.state) else { return false };
        // Who was silent before the election counts from then.
        let since = |view: &View| view.alive.max(elected.at);
        let alive = |index: usize| core.views.get(index).is_some_and(|view| now < since(view) + config.election_timeout());
        config.voters().filter(|(index, _)| *index == me || alive(*index)).count() < config.majority()
    })
}

/// What follows from a heartbeat of `index`: a takeover is due or not; a newly added member is to get its vote.
pub fn welcome(node: &Arc<Node>, index: usize) {
    let now = Instant::now();
    node.change(|core| match takeover(core) {
        None => core.takeover_at = None,
        Some((wait, reason)) if core.takeover_at.is_none_or(|(_, planned)| planned != reason) => {
            core.takeover_at = Some((now + wait, reason));
        }
        Some(_) => {}
    });
    let ready = node.read(|core| {
        let ready = |view: &View| matches!(view.state, State::Secondary | State::Recovering | State::Rollback);
        let member = core.config().and_then(|config| config.members.get(index))?;
        (core.is_writable() && member.newly_added && core.views.get(index).is_some_and(ready)).then_some(member.id)
    });
    if let Some(id) = ready {
        tokio::spawn(crate::commands::reconfig::give_vote(node.clone(), id));
    }
}

/// Whether this member is to take over from the primary, and after which wait.
fn takeover(core: &Core) -> Option<(Duration, &'static str)> {
    let (config, me) = core.seat()?;
    let primary = core.primary.filter(|primary| *primary != me && core.state == State::Secondary)?;
    let (applied, theirs) = (core.applied().at, core.views.get(primary)?.heard());
    // A primary that wrote nothing in its term and copies nothing from who is ahead may never be done with catching up: the histories
    // have parted.
    if !theirs.is_null() && theirs.term < core.term && applied > theirs {
        let delay = u64::try_from(config.settings.catch_up_takeover_delay).ok()?;
        return Some((Duration::from_millis(delay), "catchupTakeover"));
    }
    // Of higher priority: those of the highest first.
    let higher = config.members.get(me)?.priority() > config.members.get(primary)?.priority();
    let newest = core.views.iter().map(View::heard).max()?;
    let close = applied >= newest || (applied.term == newest.term && applied.time.0 + TAKEOVER_LAG_SECS >= newest.time.0);
    (higher && close).then(|| (config.election_timeout() * (config.priority_rank(me) + 1), "priorityTakeover"))
}

/// Stands for election: a dry run first, then in a new term; `true` when won.
pub async fn stand(node: &Arc<Node>, reason: &'static str, skip_dry_run: bool) -> bool {
    let started = node.change(|core| {
        let free = !core.electing && core.unelectable(Instant::now()).is_none();
        if free {
            core.electing = true;
            core.await_election();
        }
        free
    });
    if !started {
        return false;
    }
    let won = (skip_dry_run || poll(node, true).await) && run(node, reason).await;
    node.change(|core| core.electing = false);
    if won {
        // Others hear of it by heartbeat; catching up waits for their answers.
        node.kick();
        tokio::spawn(take_office(node.clone()));
    }
    won
}

async fn run(node: &Arc<Node>, reason: &'static str) -> bool {
    let term = node.change(|core| {
        core.term += 1;
        let candidate = core.me.and_then(|me| i64::try_from(me).ok()).unwrap_or(-1);
        core.store.save_vote(Vote { term: core.term, candidate });
        core.follow(None);
        core.term
    });
    let granted = poll(node, false).await;
    node.change(|core| {
        let still = granted && core.term == term && core.state == State::Secondary;
        if still {
            let needed = core.config().map_or(0, crate::config::Config::majority);
            core.win(reason, needed);
            tracing::info!(term, reason, "elected");
        }
        still
    })
}

/// Asks the other voters; `true` when a majority says yes.
async fn poll(node: &Arc<Node>, dry_run: bool) -> bool {
    let Some((ballot, hosts, needed, limit)) = node.read(|core| {
        let (config, me) = core.seat()?;
        let ballot = Ballot {
            set: config.set.clone(),
            dry_run,
            term: core.term,
            candidate: i64::try_from(me).unwrap_or(-1),
            config: (config.version, config.term),
            last_applied: core.applied().at,
        };
        let hosts: Vec<String> = config.voters().filter(|(index, _)| *index != me).map(|(_, member)| member.host.clone()).collect();
        Some((ballot, hosts, config.majority(), config.election_timeout()))
    }) else {
        return false;
    };
    let mut votes = 1;
    let mut asked: FuturesUnordered<_> = hosts.iter().map(|host| ask(node, host, &ballot, limit)).collect();
    while votes < needed {
        let Some(answer) = asked.next().await else { return false };
        let Ok(reply) = answer else { continue };
        if node.change(|core| core.see_term(reply.get_i64("term").unwrap_or(-1))) {
            return false;
        }
        if reply.get_bool("voteGranted").unwrap_or_default() {
            votes += 1;
        } else {
            tracing::info!(reason = reply.get_str("reason").unwrap_or_default(), dry_run, "a vote was refused");
        }
    }
    true
}

async fn ask(node: &Arc<Node>, host: &str, ballot: &Ballot, limit: Duration) -> Reply {
    Peer::new(node.clone(), host).call(ballot.command(), limit).await
}

/// Answers a request for a vote.
pub fn answer(core: &mut Core, command: &Document) -> Reply {
    let ballot = Ballot::read(command);
    if core.seat().is_none() {
        return Err(core.not_a_member());
    }
    core.see_term(ballot.term);
    let Some((config, me)) = core.seat() else { return Err(core.not_a_member()) };
    let candidate = usize::try_from(ballot.candidate).ok();
    let priority = candidate.and_then(|index| config.members.get(index)).map_or(0.0, Member::priority);
    let healthy = core.views.iter().position(|view| view.is_up() && view.state == State::Primary);
    let content = healthy
        .filter(|_| core.state == State::Arbiter)
        .and_then(|index| config.members.get(index))
        .filter(|member| member.priority() >= priority);
    let voter = Voter {
        config,
        term: core.term,
        last_applied: core.applied().at,
        last_vote: (core.store.vote.term, core.store.vote.candidate),
        content_with: content.map(|member| member.host.as_str()),
    };
    let refused = voter.refuses(&ballot);
    let own_priority = config.members.get(me).map_or(0.0, Member::priority);
    if !ballot.dry_run {
        let newest = core.views.iter().map(View::heard).max().unwrap_or(OpTime::NULL).max(core.applied().at);
        core.participation = Some(doc! {
            "votedForCandidate": refused.is_none(),
            "electionTerm": ballot.term,
            "lastVoteDate": DateTime::now(),
            "electionCandidateMemberId": candidate.and_then(|index| config.members.get(index)).map_or(-1, |member| member.id),
            "voteReason": refused.clone().unwrap_or_default(),
            "lastAppliedOpTimeAtElection": core.applied().at.document(),
            "maxAppliedOpTimeInSet": newest.document(),
            "priorityAtElection": own_priority,
        });
        if refused.is_none() {
            core.store.save_vote(Vote { term: ballot.term, candidate: ballot.candidate });
            core.await_election();
        }
    }
    Ok(doc! { "term": core.term, "voteGranted": refused.is_none(), "reason": refused.unwrap_or_default(), "ok": 1.0 })
}

/// Between the election and the first write: copies what others have more, then writes the first entry of the term.
async fn take_office(node: Arc<Node>) {
    let Some((term, since, limit)) = node.read(|core| {
        let limit = core.config().map_or(-1, |config| config.settings.catch_up_timeout);
        Some((core.term, core.elected?.at, u64::try_from(limit).ok().map(Duration::from_millis)))
    }) else {
        return;
    };
    let left = |core: &Core| core.term != term || core.state != State::Primary;
    let heard_all = |core: &Core| {
        let waits = |view: &View| view.up != Some(false) && view.answered.is_none_or(|at| at < since);
        let others = core.views.iter().enumerate().filter(|(index, _)| core.me != Some(*index));
        (left(core) || !others.map(|(_, view)| view).any(waits)).then_some(())
    };
    node.wait(Some(since + HEAR_ALL), heard_all).await;
    let caught_up = |core: &Core| (left(core) || core.views.iter().all(|view| view.heard() <= core.applied().at)).then_some(());
    if node.wait(limit.map(|limit| since + limit), caught_up).await.is_none() {
        tracing::warn!("catching up took too long: what others have more is rolled back there");
    }
    let took = node.change(|core| {
        if left(core) {
            return false;
        }
        if let Some(mut config) = core.config().cloned() {
            config.term = term;
            let (generation, me) = (core.generation, core.me);
            core.install(config, me);
            // Same members in the same places: the heartbeats go on.
            core.generation = generation;
        }
        core.write(vec![doc! { "op": "n", "ns": "", "o": { "msg": "new primary" } }]);
        core.writable = true;
        core.topology_changed();
        let date = DateTime::now();
        if let Some(candidacy) = core.candidacy.as_mut() {
            if core.views.len() > 1 && term > 1 {
                candidacy.insert("numCatchUpOps", 0);
            }
            candidacy.insert("newTermStartDate", date);
        }
        true
    });
    if took {
        node.kick();
        let first = node.read(|core| core.store.last());
        let committed = |core: &Core| (left(core) || core.commit.at >= first).then_some(());
        node.wait(None, committed).await;
        node.change(|core| {
            if let (false, Some(candidacy)) = (left(core), core.candidacy.as_mut()) {
                candidacy.insert("wMajorityWriteAvailabilityDate", DateTime::now());
            }
        });
    }
}
