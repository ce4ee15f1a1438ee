//! Nobody is known to lead: the best caught-up secondary stands at once when that is certain, or it is told what is lost.
//!
//! Standing is safe whatever we believe: mongod's voters decide, and a primary that lives on in the dark is deposed by the later election.
//! A majority that is lost is never replaced without a person's word to exactly this loss.

use crds::annotations;
use crds::shared::{Transition, TransitionKind};
use sidecar_protocol::mongo::plan::Lost;
use sidecar_protocol::mongo::rules::{majority, voters};
use sidecar_protocol::mongo::state::Process;
use sidecar_protocol::mongo::status::MemberState;

use super::{Authority, CHANGING, Decision, Route, SETTLING, State, View, set};
use crate::mongo::observed::Seen;
use crate::names::DATA;

/// A candidate that is not elected in this time stands again, or a better one: longer than mongod's own election timeout, in seconds.
const RETRY_SECONDS: i64 = 12;
/// A planned hand-over leaves nobody leading for a moment: it is given this long, in seconds.
const HANDING_SECONDS: i64 = 3;
/// How long the set is given to come back by itself before it is called lost, in seconds.
const PATIENCE_SECONDS: i64 = 15;

/// A set that nobody is known to lead.
pub fn decide(view: &View<'_>) -> Decision {
    if let Some(words) = view.status.consent.as_ref().filter(|words| view.observed.asked.force.as_ref() != Some(*words)) {
        let authority = Authority { term: view.status.term + 1, consent: None, ..Authority::of(view.status) };
        return Decision::claim(view, State::PrimaryUnavailable, format!("the consent is withdrawn: {words}"), authority);
    }
    if let Some(lost) = view.states().find_map(|(_, state)| state.said.as_ref()?.lost.as_ref().filter(|_| !is_led(view))) {
        return without_majority(view, lost);
    }
    let standing = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::Failover);
    let candidate =
        standing.and_then(|change| view.desired.ordinal(change.to.as_deref()?)).filter(|to| view.can_lead(*to) || view.is_elected(*to));
    if let (Some(change), Some(to)) = (standing, candidate)
        && view.seconds_since(&change.since) < RETRY_SECONDS
    {
        let name = view.desired.member_name(to);
        let mut decision = Decision::new(view, State::FailingOver, format!("{name} stands for election")).progressing(Some(CHANGING));
        decision.orders = set::orders(view, view.status.election_term.map(|term| (to, term)), None);
        return decision;
    }
    let handing = view.status.transition.as_ref().filter(|change| change.kind == TransitionKind::Switchover);
    if handing.is_some_and(|change| view.seconds_since(&change.since) < HANDING_SECONDS) && !has_ended(view) {
        let mut decision = Decision::new(view, State::SwitchingOver, "the primary hands over: nobody leads for a moment");
        decision.requeue = Some(CHANGING);
        return decision;
    }
    match (loss(view), best(view)) {
        (Some(why), Some(to)) if has_majority(view) => stand(view, to, &why),
        (why, _) => wait(view, why),
    }
}

/// Somebody hears a primary: then it is only we who do not.
fn is_led(view: &View<'_>) -> bool {
    view.states().any(|(_, state)| state.primary.is_some())
}

/// The recorded primary's process or pod is gone for certain.
fn has_ended(view: &View<'_>) -> bool {
    let member = view.primary().and_then(|primary| view.member(primary));
    member.is_none_or(|member| member.pod.is_none() || member.report.answered().is_some_and(|report| report.state.process == Process::Down))
}

/// Why the recorded primary certainly does not lead; `None` while it may.
fn loss(view: &View<'_>) -> Option<String> {
    let Some(primary) = view.primary() else { return Some("nobody leads".to_owned()) };
    let name = view.desired.member_name(primary);
    let Some(member) = view.member(primary) else { return Some(format!("{name} is no member any more")) };
    let Some(pod) = &member.pod else { return Some(format!("the pod of {name} is gone")) };
    if view.observed.route.as_ref().is_some_and(|(routed, uid)| *routed == name && *uid != pod.uid) {
        return Some(format!("the pod of {name} was replaced"));
    }
    // Whoever follows still hears it: it lives, and it is only we who do not.
    let host = view.desired.set_host(primary);
    let heard = || view.states().any(|(ordinal, state)| ordinal != primary && state.primary.as_ref() == Some(&host));
    match &member.report {
        Seen::Answered(report) => match (report.state.process, report.state.member) {
            (Process::Down, _) => Some(format!("mongod of {name} has ended")),
            (Process::Running, MemberState::Primary) => None,
            (Process::Running, does) => Some(format!("{name} does not lead any more: it is {does}")),
            (Process::Starting | Process::Silent, _) => {
                (!heard()).then(|| format!("mongod of {name} does not answer, and nobody follows it"))
            }
        },
        Seen::Silent { .. } => (!heard()).then(|| format!("{name} does not answer, and nobody follows it")),
    }
}

/// The most advanced of those who could lead, by MongoDB's own order of positions; then the lowest ordinal.
fn best(view: &View<'_>) -> Option<u32> {
    let fit = view.states().filter(|(ordinal, _)| view.can_lead(*ordinal));
    fit.max_by_key(|(ordinal, state)| (state.optime, std::cmp::Reverse(*ordinal))).map(|(ordinal, _)| ordinal)
}

/// Enough of those who vote can be talked to: without them an election is only noise.
fn has_majority(view: &View<'_>) -> bool {
    let Some(config) = view.config() else { return false };
    let there = voters(&config.members).filter(|seat| {
        let ordinal = view.desired.of_set_host(&seat.host);
        ordinal.and_then(|ordinal| view.state(ordinal)).is_some_and(|state| state.member.is_reachable())
    });
    there.count() >= majority(voters(&config.members).count())
}

/// Claims a term, and with it the election after which the candidate is to stand: an order that is late asks for nothing any more.
fn stand(view: &View<'_>, to: u32, why: &str) -> Decision {
    let name = view.desired.member_name(to);
    let known = view.states().filter_map(|(_, state)| state.election_term).max();
    let change = Transition {
        kind: TransitionKind::Failover,
        from: view.status.primary.clone(),
        to: Some(name.clone()),
        promoting: false,
        since: view.now.to_string(),
    };
    let authority = Authority {
        term: view.status.term + 1,
        election_term: known.max(view.status.election_term),
        transition: Some(change),
        ..Authority::of(view.status)
    };
    Decision::claim(view, State::FailingOver, format!("{why}: {name} is most advanced and stands for election"), authority)
}

fn wait(view: &View<'_>, why: Option<String>) -> Decision {
    let who = view.status.primary.clone().unwrap_or_else(|| "nobody".to_owned());
    let reason = match why {
        Some(why) => format!("{why}, and no member that answers can be elected yet"),
        None => format!("{who} is not known to take writes: {}", view.primary().and_then(|o| view.member_problem(o)).unwrap_or_default()),
    };
    let mut decision = Decision::new(view, State::PrimaryUnavailable, reason).progressing(Some(SETTLING));
    decision.degraded = Some(decision.reason.clone());
    decision.orders = set::orders(view, None, None);
    decision
}

/// Most voters are lost. Nothing is forced but by the very words that describe it.
fn without_majority(view: &View<'_>, lost: &Lost) -> Decision {
    let described = |words: &&String| {
        view.states().any(|(_, state)| state.said.as_ref().and_then(|said| said.lost.as_ref()?.consent.as_ref()) == Some(*words))
    };
    let consented = view.observed.asked.force.as_ref().filter(described);
    if let Some(words) = consented.filter(|words| view.status.consent.as_ref() != Some(words)) {
        let authority = Authority { term: view.status.term + 1, consent: Some(words.clone()), ..Authority::of(view.status) };
        return Decision::claim(view, State::FailingOver, format!("a person consents: {words}"), authority);
    }
    // What was consented to is not what is so any more: then it is not ordered either.
    let mut decision = match consented {
        Some(words) => Decision::new(view, State::FailingOver, format!("by a person's consent: {words}")).progressing(Some(SETTLING)),
        None if view.unavailable_seconds() < PATIENCE_SECONDS => {
            let reason = format!("most voters do not answer; waiting for them to come back: {}", lost.why);
            Decision::new(view, State::PrimaryUnavailable, reason).progressing(Some(SETTLING))
        }
        None => Decision::new(view, State::Lost, told(view, lost)).stalled("MajorityLost"),
    };
    decision.degraded = Some(decision.reason.clone());
    decision.orders = set::orders(view, None, None);
    if decision.state == State::Lost {
        decision.route = Route::Nobody;
    }
    decision
}

/// Every position, who is missing and on which volume, and the words of consent.
fn told(view: &View<'_>, lost: &Lost) -> String {
    let missing = lost.missing.iter().map(|host| match view.desired.of_set_host(host) {
        Some(ordinal) => {
            let name = view.desired.member_name(ordinal);
            let why = view.member_problem(ordinal).unwrap_or_else(|| "it is not heard of".to_owned());
            format!("{name} (volume {DATA}-{name}; {why})")
        }
        None => host.clone(),
    });
    let missing = missing.collect::<Vec<_>>().join(", ");
    let consent = match &lost.consent {
        Some(words) => format!("or annotate it with {}, which loses what only they hold", annotations::offer(words)),
        None => "nobody who can be reached could lead".to_owned(),
    };
    format!("{}; bring back {missing}, {consent}", lost.why)
}
