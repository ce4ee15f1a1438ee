//! The rules of elections, pure: who gets a vote, who may stand, what a majority has.

use bson::{Document, doc};

use crate::config::Config;
use crate::optime::OpTime;

/// A candidate's request for a vote.
#[derive(Clone, Debug, PartialEq)]
pub struct Ballot {
    /// Its set.
    pub set: String,
    /// Would you? Nothing is promised.
    pub dry_run: bool,
    /// The term it asks for.
    pub term: i64,
    /// Which member it is.
    pub candidate: i64,
    /// Its configuration's version and term.
    pub config: (i64, i64),
    /// How far its data goes.
    pub last_applied: OpTime,
}

/// What a voter knows when it is asked.
#[derive(Clone, Debug)]
pub struct Voter<'a> {
    /// Its configuration.
    pub config: &'a Config,
    /// Its term.
    pub term: i64,
    /// How far its data goes.
    pub last_applied: OpTime,
    /// The last term it voted in, and for whom.
    pub last_vote: (i64, i64),
    /// An arbiter, and the healthy primary it sees whose priority is not below the candidate's.
    pub content_with: Option<&'a str>,
}

impl Voter<'_> {
    /// Why the vote is refused; `None` grants it. In mongod's order.
    pub fn refuses(&self, ballot: &Ballot) -> Option<String> {
        let (version, term) = ballot.config;
        if self.config.is_newer_than(version, term) {
            return Some(format!(
                "candidate's config with {{version: {version}, term: {term}}} is older than mine with {}",
                self.config.name()
            ));
        }
        if ballot.term < self.term {
            return Some(format!("candidate's term ({}) is lower than mine ({})", ballot.term, self.term));
        }
        if ballot.set != self.config.set {
            return Some(format!("candidate's set name ({}) differs from mine ({})", ballot.set, self.config.set));
        }
        if ballot.last_applied < self.last_applied {
            return Some(format!(
                "candidate's data is staler than mine. candidate's last applied OpTime: {}, my last applied OpTime: {}",
                ballot.last_applied, self.last_applied
            ));
        }
        if !ballot.dry_run && self.last_vote.0 >= ballot.term {
            return Some(format!("already voted for another candidate ({}) this term ({})", self.last_vote.1, self.last_vote.0));
        }
        self.content_with.map(|primary| format!("can see a healthy primary ({primary}) of equal or greater priority"))
    }
}

impl Ballot {
    /// From the command.
    pub fn read(command: &Document) -> Self {
        let number = |name: &str| command.get(name).and_then(|value| value.as_i64().or(value.as_i32().map(i64::from))).unwrap_or(-1);
        Self {
            set: command.get_str("setName").unwrap_or_default().into(),
            dry_run: command.get_bool("dryRun").unwrap_or_default(),
            term: number("term"),
            candidate: number("candidateIndex"),
            config: (number("configVersion"), number("configTerm")),
            last_applied: OpTime::field(command, "lastAppliedOpTime"),
        }
    }

    /// The command.
    pub fn command(&self) -> Document {
        doc! {
            "replSetRequestVotes": 1, "setName": &self.set, "dryRun": self.dry_run, "term": self.term, "candidateIndex": self.candidate,
            "configVersion": self.config.0, "configTerm": self.config.1, "lastAppliedOpTime": self.last_applied.document(),
        }
    }
}

/// What a member that thinks of standing for election knows about itself.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// Its configuration and place in it.
    pub config: &'a Config,
    /// Which member it is.
    pub me: usize,
    /// SECONDARY, and nothing else.
    pub secondary: bool,
    /// How far its data goes.
    pub last_applied: OpTime,
    /// Voters that answer, itself included.
    pub visible: usize,
    /// Frozen, or stepped down not long ago.
    pub resting: bool,
}

impl Standing<'_> {
    /// Why it may not stand; `None` lets it.
    pub fn unelectable(&self) -> Option<&'static str> {
        let me = self.config.members.get(self.me)?;
        if self.visible < self.config.majority() {
            return Some("I cannot see a majority");
        }
        if me.arbiter {
            return Some("member is an arbiter");
        }
        if me.priority() <= 0.0 {
            return Some("member has zero priority");
        }
        if self.resting {
            return Some("I am still waiting for stepdown period to end");
        }
        if self.last_applied.is_null() {
            return Some("node has no applied oplog entries");
        }
        (!self.secondary).then_some("member is not currently a secondary")
    }
}

/// The newest point that `needed` of these members have; null when fewer do.
pub fn reached_by(needed: usize, mut points: Vec<OpTime>) -> OpTime {
    points.sort_unstable_by(|a, b| b.cmp(a));
    needed.checked_sub(1).and_then(|index| points.get(index)).copied().unwrap_or(OpTime::NULL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;

    fn config() -> Config {
        let document = doc! { "_id": "rs0", "version": 3, "term": 2_i64, "members": [
            { "_id": 0, "host": "a:1" }, { "_id": 1, "host": "b:1", "priority": 0 }, { "_id": 2, "host": "c:1", "arbiterOnly": true },
        ]};
        parse::config(&document, "5.0.7".parse().expect("a version")).expect("parses")
    }

    fn at(term: i64, second: u32) -> OpTime {
        OpTime { term, time: (second, 1) }
    }

    fn ballot() -> Ballot {
        Ballot { set: "rs0".into(), dry_run: false, term: 3, candidate: 0, config: (3, 2), last_applied: at(2, 100) }
    }

    fn voter(config: &Config) -> Voter<'_> {
        Voter { config, term: 2, last_applied: at(2, 100), last_vote: (2, 1), content_with: None }
    }

    fn refused(voter: &Voter<'_>, ballot: &Ballot) -> String {
        voter.refuses(ballot).expect("refused")
    }

    #[test]
    fn votes_are_refused_in_order() {
        let config = config();
        let good = voter(&config);
        assert_eq!(good.refuses(&ballot()), None);
        assert!(refused(&good, &Ballot { config: (2, 2), term: 1, ..ballot() }).starts_with("candidate's config"));
        assert!(refused(&good, &Ballot { term: 1, set: "other".into(), ..ballot() }).starts_with("candidate's term"));
        assert!(refused(&good, &Ballot { set: "other".into(), last_applied: at(1, 1), ..ballot() }).starts_with("candidate's set name"));
        assert!(refused(&good, &Ballot { last_applied: at(1, 900), ..ballot() }).starts_with("candidate's data is staler"), "terms first");
    }

    #[test]
    fn one_real_vote_a_term_and_any_number_of_dry_ones() {
        let config = config();
        let spent = Voter { last_vote: (3, 1), ..voter(&config) };
        assert_eq!(refused(&spent, &ballot()), "already voted for another candidate (1) this term (3)");
        assert_eq!(spent.refuses(&Ballot { dry_run: true, ..ballot() }), None);
    }

    #[test]
    fn an_arbiter_keeps_the_primary_it_sees() {
        let config = config();
        let arbiter = Voter { content_with: Some("b:1"), ..voter(&config) };
        assert_eq!(refused(&arbiter, &ballot()), "can see a healthy primary (b:1) of equal or greater priority");
    }

    #[test]
    fn who_may_not_stand() {
        let config = config();
        let good = Standing { config: &config, me: 0, secondary: true, last_applied: at(1, 1), visible: 2, resting: false };
        assert_eq!(good.unelectable(), None);
        assert_eq!(Standing { visible: 1, ..good.clone() }.unelectable(), Some("I cannot see a majority"));
        assert_eq!(Standing { me: 1, ..good.clone() }.unelectable(), Some("member has zero priority"));
        assert_eq!(Standing { me: 2, ..good.clone() }.unelectable(), Some("member is an arbiter"));
        assert!(Standing { resting: true, ..good.clone() }.unelectable().is_some());
        assert!(Standing { secondary: false, ..good.clone() }.unelectable().is_some());
        assert!(Standing { last_applied: OpTime::NULL, ..good }.unelectable().is_some());
    }

    #[test]
    fn a_point_is_common_when_enough_members_have_it() {
        assert_eq!(reached_by(2, vec![at(1, 9), at(1, 5), at(1, 7)]), at(1, 7));
        assert_eq!(reached_by(2, vec![at(1, 9)]), OpTime::NULL);
    }
}
