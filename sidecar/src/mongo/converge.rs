//! From what is true and what is ordered to the next step: pure. One step, then look again.
//!
//! Who leads takes the set to what is desired; everybody else only stands or yields when told to. A set is initiated when [`birth`] says
//! so and never because of an error; nothing is forced but by the consent that [`plan`] checks word for word.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::Bson;
use sidecar_protocol::mongo::birth::{self, Word};
use sidecar_protocol::mongo::config::Config as SetConfig;
use sidecar_protocol::mongo::plan::{Desired, Lost, Next, Seen, plan};
use sidecar_protocol::mongo::status::MemberState;
use sidecar_protocol::mongo::{Answer, Assignment, Part, Problem, ProblemCode, Said};

use super::Config;
use super::observe::Facts;

/// Nobody leads for this long: an election has failed, or there is none. mongod's own timeout is 10 s, and heartbeats 2 s.
pub const LEADERLESS: Duration = Duration::from_secs(15);

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Begin the set; without a configuration mongod makes one of its own name.
    Initiate(Option<SetConfig<Bson>>),
    /// Make the user that we are to log in as: there is none yet.
    FirstUser,
    /// Change the set.
    Reconfig(SetConfig<Bson>),
    /// Change it without a majority.
    Force(SetConfig<Bson>),
    /// Stand for election.
    Stand,
    /// Let this one lead.
    HandOver(String),
    /// Let anybody else lead: this member goes.
    StepDown,
    /// Bring the accounts about.
    Users,
    /// Write down that a write waits for a majority unless it says otherwise. That is what mongod does anyway, but with an arbiter in the set
    /// it would change its mind, and therefore takes none in before it is told (5.0 and later, `setDefaultRWConcern`).
    SetWriteConcern,
    /// Set the feature compatibility version.
    SetFcv(String),
    /// End, to be started again by the kubelet: only then a mongod that did not find its own name looks again for sure.
    LookAnew,
}

/// What only this sidecar knows.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// By host, what the mongods of members say that are wanted and not there.
    pub answers: BTreeMap<String, Answer>,
    /// Somebody waits for this mongod to end.
    pub leaving: bool,
    /// Accounts or passwords are not what they should be.
    pub users_due: bool,
    /// For how long nobody has led.
    pub leaderless: Duration,
    /// It has not found itself for long, and its name is known now.
    pub look_anew: bool,
    /// A user to log in as is configured, and mongod has none.
    pub first_user: bool,
    /// A change of the set is still on its way to most members.
    pub changing: bool,
}

/// What follows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdict {
    /// What to do now.
    pub step: Option<Step>,
    /// What the planner says.
    pub said: Option<Said>,
    /// Whether all of the order holds.
    pub converged: bool,
    /// What is wrong.
    pub problem: Option<Problem>,
}

/// What `order` asks of a member that `facts` are true of.
#[must_use]
pub fn converge(config: &Config, facts: &Facts, order: &Assignment, own: &Own) -> Verdict {
    if own.first_user && facts.hello.writable {
        return Verdict { step: Some(Step::FirstUser), ..Verdict::waits("the first user is made") };
    }
    match &facts.answer {
        Answer::NotInSet => unborn(config, order, own),
        Answer::InSet(id) => {
            let desired = order.desired();
            if let Some(pinned) = desired.set_id.as_ref().filter(|pinned| *pinned != id) {
                let why = format!("this mongod is in set {id}, and ours is {pinned}: empty its volume, or give it back to its own set");
                return Verdict::wrong(ProblemCode::OtherSet, why);
            }
            if facts.lost { lost(config, facts, desired, own) } else { grown(config, facts, order, own) }
        }
        Answer::Unknown => Verdict::default(),
    }
}

/// Whom to ask whether they are in a set: who is wanted and not there, by a member that would take them in or begin a set beside them.
#[must_use]
pub fn inquiry(config: &Config, facts: &Facts, order: &Assignment) -> Vec<String> {
    let there = |host: &str, aliases: &[String]| {
        let known = |set: &SetConfig<Bson>| set.members.iter().any(|member| member.host == host || aliases.contains(&member.host));
        facts.config.as_ref().is_some_and(known)
    };
    let begins = facts.answer == Answer::NotInSet && matches!(order, Assignment::Initiate { .. });
    if !facts.leads() && !begins {
        return Vec::new();
    }
    let wanted = order.desired().members.iter().filter(|wanted| !config.is_me(&wanted.host) && !there(&wanted.host, &wanted.aliases));
    wanted.map(|wanted| wanted.host.clone()).collect()
}

/// A mongod that says that it is in no set.
fn unborn(config: &Config, order: &Assignment, own: &Own) -> Verdict {
    let Assignment::Initiate { set, desired } = order else {
        return Verdict::waits("this member is in no set yet: who leads takes it in");
    };
    if let Some(other) = config.set.as_ref().filter(|other| *other != set) {
        return Verdict::wrong(ProblemCode::OtherSet, format!("the set is to be called {set}, and this mongod is started for {other}"));
    }
    let Some(me) = desired.members.iter().find(|wanted| config.is_me(&wanted.host)) else {
        return Verdict::waits(&format!("{} is not among the members that are wanted", config.host));
    };
    let mut answers = own.answers.clone();
    answers.insert(me.host.clone(), Answer::NotInSet);
    let word = if config.standalone { Word::Standalone { ordinal: config.ordinal } } else { Word::Operator };
    if let (Word::Standalone { .. }, Some(silent)) = (word, desired.members.iter().find(|wanted| !answers.contains_key(&wanted.host))) {
        return Verdict::waits(&format!("{} has not been asked yet", silent.host));
    }
    match birth::initiate(set, &me.host, desired, &answers, word) {
        Next::Initiate { config: mut first, why } => {
            if config.config_server {
                first.rest.insert("configsvr".into(), Bson::Boolean(true));
            }
            Verdict { step: Some(Step::Initiate(config.set.is_some().then_some(first))), ..Verdict::waits(&why) }
        }
        Next::Wait { why } => Verdict::waits(&why),
        other => Verdict::waits(&format!("{other:?}")),
    }
}

/// A mongod that has a configuration and does not find itself there.
fn lost(config: &Config, facts: &Facts, desired: &Desired, own: &Own) -> Verdict {
    let wanted = desired.members.iter().any(|wanted| config.is_me(&wanted.host));
    let named = facts.config.as_ref().and_then(|set| set.members.iter().find(|member| config.is_me(&member.host)));
    match named {
        Some(named) => {
            let why = format!("mongod does not find its own name {}, which is in the set's configuration", named.host);
            let step = own.look_anew.then_some(Step::LookAnew);
            Verdict { step, ..Verdict::wrong(ProblemCode::NotAMember, why) }
        }
        None if wanted => Verdict::waits("the set's configuration does not have this member: who leads takes it in"),
        None => Verdict { converged: true, ..Verdict::waits("removed from the set, as desired") },
    }
}

/// A member of the set.
fn grown(config: &Config, facts: &Facts, order: &Assignment, own: &Own) -> Verdict {
    let part = order.part();
    if own.leaving {
        return leaving(config, facts);
    }
    if let Some(verdict) = part.and_then(|part| directed(config, facts, part)) {
        return verdict;
    }
    if facts.leads() {
        return leading(facts, order.desired(), part, own);
    }
    if !facts.is_led() && own.leaderless >= LEADERLESS {
        return leaderless(config, facts, order.desired(), own);
    }
    Verdict { converged: facts.member.is_well() && facts.is_led(), ..Verdict::default() }
}

/// Whoever leads and is to end lets somebody else lead, if there is anybody.
fn leaving(config: &Config, facts: &Facts) -> Verdict {
    let heirs = |set: &SetConfig<Bson>| set.members.iter().any(|member| member.priority > 0.0 && !config.is_me(&member.host));
    let step = (facts.leads() && facts.config.as_ref().is_some_and(heirs)).then_some(Step::StepDown);
    Verdict { step, converged: !facts.leads(), ..Verdict::default() }
}

/// Who is told to stand or to yield does that first.
fn directed(config: &Config, facts: &Facts, part: &Part) -> Option<Verdict> {
    let term = facts.election_term?;
    let leads = facts.member == MemberState::Primary;
    if part.stand.is_some_and(|stand| term <= stand) && facts.member == MemberState::Secondary {
        return Some(Verdict { step: Some(Step::Stand), ..Verdict::default() });
    }
    let to = part.yield_to.as_ref().filter(|to| leads && to.term == term && !config.is_me(&to.host))?;
    Some(Verdict { step: Some(Step::HandOver(to.host.clone())), ..Verdict::default() })
}

/// Who leads takes the set to what is desired. Accounts come first: applications wait for them, and nothing else does.
fn leading(facts: &Facts, desired: &Desired, part: Option<&Part>, own: &Own) -> Verdict {
    let Some((set, seen)) = seen(facts, own) else { return Verdict::default() };
    if own.changing {
        // mongod shows a change before most members have it; until then voters refuse a member that lacks it.
        return Verdict::waits("most members take over the last change of the set");
    }
    let next = plan(set, &seen, desired);
    let said = said(&next);
    if own.users_due {
        return Verdict { step: Some(Step::Users), said: Some(said), ..Verdict::default() };
    }
    if part.is_some() && desired.members.iter().any(|wanted| wanted.arbiter) && !seen.server.has_default_write_concern {
        return Verdict { step: Some(Step::SetWriteConcern), said: Some(said), ..Verdict::default() };
    }
    let settled = said.settled;
    let step = match next {
        Next::Reconfig { config, .. } => Some(Step::Reconfig(config)),
        Next::HandOver { to, .. } => Some(Step::HandOver(to)),
        // Initiate, Stand, Lost and Force are of sets that nobody leads.
        _ => None,
    };
    let fcv = part.and_then(|part| part.fcv.clone()).filter(|fcv| facts.standing.fcv.as_ref() != Some(fcv));
    let converged = settled && fcv.is_none();
    Verdict { step: step.or(fcv.map(Step::SetFcv)), said: Some(said), converged, problem: None }
}

/// Nobody leads: what is lost is told, and what is consented to is done by the one that it names.
fn leaderless(config: &Config, facts: &Facts, desired: &Desired, own: &Own) -> Verdict {
    let Some((set, seen)) = seen(facts, own) else { return Verdict::default() };
    let next = plan(set, &seen, desired);
    let said = said(&next);
    let verdict = Verdict { said: Some(said), ..Verdict::default() };
    match next {
        Next::Force { on, config: forced, .. } if config.is_me(&on) => Verdict { step: Some(Step::Force(forced)), ..verdict },
        Next::Lost(Lost { why, .. }) => Verdict { problem: Some(Problem::new(ProblemCode::MajorityLost, why)), ..verdict },
        _ => verdict,
    }
}

fn seen<'a>(facts: &'a Facts, own: &Own) -> Option<(&'a SetConfig<Bson>, Seen)> {
    let seen = Seen {
        status: facts.status.clone()?,
        writable: facts.hello.writable,
        server: facts.standing.server(),
        answers: own.answers.clone(),
    };
    Some((facts.config.as_ref()?, seen))
}

fn said(next: &Next<Bson>) -> Said {
    let words = |next: &str| Said { next: next.to_owned(), ..Said::default() };
    match next {
        Next::Settled => Said { settled: true, ..words("the set is as desired") },
        Next::Initiate { why, .. } | Next::Reconfig { why, .. } | Next::Wait { why } => words(why),
        Next::HandOver { to, why } => words(&format!("{to} takes over: {why}")),
        Next::Stand { who, why } => words(&format!("{who} should stand: {why}")),
        Next::Force { why, .. } => words(&format!("as consented to: {why}")),
        Next::Lost(lost) => Said { lost: Some(lost.clone()), ..words(&lost.why) },
    }
}

// === impl Verdict ===

impl Verdict {
    fn waits(why: &str) -> Self {
        Self { said: Some(Said { next: why.to_owned(), ..Said::default() }), ..Self::default() }
    }

    fn wrong(code: ProblemCode, why: String) -> Self {
        Self { problem: Some(Problem::new(code, &why)), ..Self::waits(&why) }
    }
}

#[cfg(test)]
mod tests;
