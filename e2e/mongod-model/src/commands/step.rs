//! Leaving office and taking it: `replSetStepDown`, `replSetStepUp`, `replSetFreeze`; and leaving for good.

use std::sync::Arc;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use tokio::time::Instant;

use super::{truth, whole};
use crate::election;
use crate::failure::{Code, Failure, Reply};
use crate::member::State;
use crate::node::{Core, Node};
use crate::peer::Peer;
use crate::vote;

/// `replSetStepDown` without a number, and the rest that a terminating primary takes.
const PERIOD_SECS: i64 = 60;
/// How long others may catch up before a step-down fails.
const CATCH_UP_SECS: i64 = 10;
/// The successor is told within this time or elects itself later.
const HANDOFF: Duration = Duration::from_secs(2);

/// `not running with --replSet`, or no member: the first check of each of these commands.
fn membership(node: &Node) -> Result<(), Failure> {
    if node.options.set.is_none() {
        return Err(Failure::new(Code::NoReplicationEnabled, "not running with --replSet"));
    }
    node.read(|core| core.seat().map(drop).ok_or_else(|| core.not_a_member()))
}

/// `replSetStepDown`.
pub async fn down(node: &Arc<Node>, body: &Document) -> Reply {
    membership(node)?;
    let period = whole(body, "replSetStepDown").filter(|period| *period != 0).unwrap_or(PERIOD_SECS);
    let force = truth(body, "force");
    if period < 0 {
        return Err(Failure::new(Code::BadValue, "stepdown period must be a positive integer"));
    }
    let given = whole(body, "secondaryCatchUpPeriodSecs");
    if given.is_some_and(|given| given < 0) {
        return Err(Failure::new(Code::BadValue, "secondaryCatchUpPeriodSecs period must be a positive or absent"));
    }
    // Unsaid, the wait is never longer than the rest after it.
    let wait = given.unwrap_or_else(|| if force { 0 } else { CATCH_UP_SECS.min(period) });
    if period < wait {
        return Err(Failure::new(Code::BadValue, "stepdown period must be longer than secondaryCatchUpPeriodSecs"));
    }
    leave_office(node, secs(period), secs(wait), force).await?;
    Ok(Document::new())
}

fn secs(number: i64) -> Duration {
    Duration::from_secs(number.try_into().unwrap_or(0))
}

/// Blocks writes, waits until a majority and somebody electable have everything, steps down, hands over.
async fn leave_office(node: &Arc<Node>, period: Duration, wait: Duration, force: bool) -> Result<(), Failure> {
    let start = Instant::now();
    let term = node.change(|core| {
        if core.state != State::Primary {
            return Err(Failure::new(Code::NotWritablePrimary, "not primary so can't step down"));
        }
        if core.stepping_down {
            return Err(Failure::new(Code::ConfigurationInProgress, "a stepdown is already in progress"));
        }
        core.stepping_down = true;
        Ok(core.term)
    })?;
    let ready = |core: &Core| (core.term != term || core.state != State::Primary || caught_up(core)).then_some(());
    let caught = node.wait(Some(start + wait), ready).await.is_some();
    let successor = node.change(|core| {
        core.stepping_down = false;
        if core.term != term || core.state != State::Primary {
            let text = "While waiting for secondaries to catch up before stepping down, this node decided to step down for other reasons";
            return Err(Failure::new(Code::PrimarySteppedDown, text));
        }
        if !caught && !force {
            let now = DateTime::now().try_to_rfc3339_string().unwrap_or_default();
            let text = format!(
                "No electable secondaries caught up as of {now}. Please use the replSetStepDown command with the argument {{force: true}} \
                 to force node to step down."
            );
            return Err(Failure::new(Code::ExceededTimeLimit, text));
        }
        let successor = if caught { best_successor(core) } else { None };
        core.step_down("by command");
        core.resting_until = Some(start + period);
        Ok(successor)
    })?;
    node.kick();
    if let Some(host) = successor {
        let node = node.clone();
        tokio::spawn(async move {
            let asked = Peer::new(node, &host).call(doc! { "replSetStepUp": 1, "skipDryRun": true }, HANDOFF).await;
            tracing::info!(host, handed_over = asked.is_ok(), "election handoff");
        });
    }
    Ok(())
}

/// A majority has everything, and so has a member that can be elected.
fn caught_up(core: &Core) -> bool {
    let Some((config, _)) = core.seat() else { return false };
    let last = core.applied().at;
    let points = config.voters().filter(|(_, member)| !member.arbiter).map(|(index, _)| core.applied_of(index)).collect();
    vote::reached_by(config.write_majority(), points) >= last && best_successor(core).is_some()
}

/// The electable member with everything whose priority is highest.
fn best_successor(core: &Core) -> Option<String> {
    let (config, me) = core.seat()?;
    let last = core.applied().at;
    let fit = |index: usize| core.views.get(index).is_some_and(|view| view.state == State::Secondary && view.applied.at >= last);
    let others = config.members.iter().enumerate().filter(|(index, member)| *index != me && member.is_electable() && fit(*index));
    others.max_by(|a, b| a.1.priority().total_cmp(&b.1.priority()).then(b.0.cmp(&a.0))).map(|(_, member)| member.host.clone())
}

/// `replSetStepUp`: stands for election now.
pub async fn up(node: &Arc<Node>, body: &Document) -> Reply {
    membership(node)?;
    if node.read(|core| core.state == State::Primary) {
        return Ok(Document::new());
    }
    let skip = truth(body, "skipDryRun");
    let reason = if skip { "stepUpRequestSkipDryRun" } else { "stepUpRequest" };
    // The rest after a step-down does not count against a request.
    let resting = node.change(|core| core.resting_until.take());
    let won = election::stand(node, reason, skip).await;
    if won {
        return Ok(Document::new());
    }
    node.change(|core| core.resting_until = resting);
    Err(Failure::new(Code::CommandFailed, "Election failed."))
}

/// `replSetFreeze`.
pub fn freeze(node: &Arc<Node>, body: &Document) -> Reply {
    membership(node)?;
    let seconds = whole(body, "replSetFreeze").unwrap_or(0);
    node.change(|core| {
        if core.state == State::Primary || core.electing {
            let state = if core.electing { "Candidate" } else { "Primary" };
            let text = format!("Cannot freeze node when primary or running for election, state: {state}");
            return Err(Failure::new(Code::NotSecondary, text));
        }
        if seconds == 0 {
            core.resting_until = None;
            core.await_election();
            return Ok(doc! { "info": "unfreezing" });
        }
        core.resting_until = Some(Instant::now() + secs(seconds));
        let warning = (seconds == 1).then(|| doc! { "warning": "you really want to freeze for only 1 second?" });
        Ok(warning.unwrap_or_default())
    })
}

/// `replSetAbortPrimaryCatchUp`.
pub fn abort_catch_up(node: &Arc<Node>) -> Reply {
    membership(node)?;
    node.read(|core| match core.state {
        State::Primary if !core.writable => Ok(Document::new()),
        _ => Err(Failure::new(Code::IllegalOperation, "The node is not in catch-up mode.")),
    })
}

/// A terminating member hands over, then answers for a while that it goes.
pub async fn terminate(node: &Arc<Node>) {
    let limit = Duration::from_millis(node.options.shutdown_millis);
    let end = Instant::now() + limit;
    if node.read(|core| core.state == State::Primary) {
        let left = leave_office(node, secs(PERIOD_SECS), limit.min(secs(CATCH_UP_SECS)), true).await;
        tracing::info!(stepped_down = left.is_ok(), "terminating");
    }
    let quiesces = node.change(|core| {
        let quiesces = node.options.version.quiesces() && core.state == State::Secondary;
        core.quiescing = quiesces.then_some(end);
        quiesces
    });
    if quiesces {
        tokio::time::sleep_until(end).await;
    }
}
