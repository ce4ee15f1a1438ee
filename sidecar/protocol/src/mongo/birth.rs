//! The first configuration of a set (pure): once in its life, and never beside another.

use std::collections::BTreeMap;

use super::Answer;
use super::config::{Config, Member};
use super::plan::{Desired, Next, Wanted};

/// Who says that a set may be initiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// The operator, which knows the life of the cluster.
    Operator,
    /// Nobody: a sidecar on its own, at this place in the StatefulSet.
    Standalone {
        /// 0 may.
        ordinal: u32,
    },
}

/// Whether the member at `host` initiates the set `name`, and with what.
///
/// `answers` has everybody that resolves, by host, the member itself among them. On its own ordinal 0 may once each has answered that it
/// is in no set; the operator's word takes the place of answers that are missing, never of one that there is a set.
#[must_use]
pub fn initiate<V>(name: &str, host: &str, desired: &Desired, answers: &BTreeMap<String, Answer>, word: Word) -> Next<V> {
    let wait = |why: String| Next::Wait { why };
    if let Some(id) = &desired.set_id {
        return wait(format!("set {id} exists already: one that lost it joins it anew, and no second one is initiated"));
    }
    if answers.get(host) != Some(&Answer::NotInSet) {
        return wait(format!("{host} has not said that it is in no set"));
    }
    if let Some((other, id)) = answers.iter().find_map(|(other, answer)| match answer {
        Answer::InSet(id) => Some((other, id)),
        Answer::NotInSet | Answer::Unknown => None,
    }) {
        return wait(format!("{other} is in set {id} already"));
    }
    let why = match word {
        Word::Operator => "the operator says so, and nobody is known to be in a set".to_owned(),
        Word::Standalone { ordinal: 0 } => match answers.iter().find(|(_, answer)| **answer == Answer::Unknown) {
            Some((silent, _)) => return wait(format!("{silent} has not said that it is in no set")),
            None => format!("each of {} that resolve has answered that it is in no set", answers.len()),
        },
        Word::Standalone { ordinal } => return wait(format!("ordinal 0 initiates, and this is {ordinal}")),
    };
    let may_lead = |wanted: &&Wanted| wanted.host == host && !wanted.arbiter && wanted.priority > 0.0 && !wanted.is_address();
    let Some(wanted) = desired.members.iter().find(may_lead) else {
        return wait(format!("{host} is not the name of one that is wanted and may lead"));
    };
    let first = Member { votes: true, priority: wanted.priority, ..Member::newcomer(0, host.to_owned()) };
    Next::Initiate {
        config: Config { name: name.to_owned(), version: 1, term: None, members: vec![first], settings: None, rest: BTreeMap::new() },
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::config::SetId;

    fn desired() -> Desired {
        let wanted = |ordinal| Wanted { host: format!("m-{ordinal}:27017"), aliases: vec![], zone: None, arbiter: false, priority: 2.0 };
        Desired { members: (0..3).map(wanted).collect(), ..Desired::default() }
    }

    fn id() -> SetId {
        SetId { hex: "6b0182669e2f03cc7d5e798b".into() }
    }

    fn asked(desired: &Desired, answers: [Answer; 3], word: Word) -> Next<serde_json::Value> {
        let answers = answers.into_iter().enumerate().map(|(ordinal, answer)| (format!("m-{ordinal}:27017"), answer)).collect();
        initiate("rs0", "m-0:27017", desired, &answers, word)
    }

    fn waits(next: Next<serde_json::Value>, why: &str) {
        assert!(matches!(&next, Next::Wait { why: because } if because.contains(why)), "{next:?}");
    }

    const NO: Answer = Answer::NotInSet;
    const FIRST: Word = Word::Standalone { ordinal: 0 };

    #[test]
    fn ordinal_0_initiates_when_everybody_says_that_it_is_in_no_set() {
        let Next::Initiate { config, .. } = asked(&desired(), [NO, NO, NO], FIRST) else { panic!("it has to") };
        let sent = serde_json::to_value(config).unwrap();
        assert_eq!(
            sent,
            serde_json::json!({"_id": "rs0", "version": 1, "members": [{"_id": 0, "host": "m-0:27017", "votes": 1, "priority": 2.0,
                "arbiterOnly": false, "hidden": false, "buildIndexes": true}]})
        );
    }

    #[test]
    fn an_error_is_no_no() {
        waits(asked(&desired(), [NO, Answer::Unknown, NO], FIRST), "m-1:27017 has not said");
        assert!(matches!(asked(&desired(), [NO, Answer::Unknown, NO], Word::Operator), Next::Initiate { .. }));
    }

    #[test]
    fn nobody_initiates_unless_it_says_itself_that_it_is_in_no_set() {
        waits(asked(&desired(), [Answer::Unknown, NO, NO], Word::Operator), "m-0:27017 has not said");
    }

    #[test]
    fn a_peer_in_a_set_forbids_a_second_one() {
        for word in [FIRST, Word::Operator] {
            waits(asked(&desired(), [NO, NO, Answer::InSet(id())], word), "m-2:27017 is in set");
        }
    }

    #[test]
    fn a_set_that_was_is_never_initiated_again() {
        let pinned = Desired { set_id: Some(id()), ..desired() };
        for word in [FIRST, Word::Operator] {
            waits(asked(&pinned, [NO, NO, NO], word), "exists already");
        }
    }

    #[test]
    fn nobody_initiates_by_its_address_or_who_may_not_lead() {
        let with = |change: fn(&mut Wanted)| {
            let mut desired = desired();
            change(&mut desired.members[0]);
            let host = desired.members[0].host.clone();
            initiate::<serde_json::Value>("rs0", &host, &desired, &BTreeMap::from([(host.clone(), NO)]), FIRST)
        };
        waits(with(|first| first.host = "10.0.0.1:27017".into()), "not the name");
        waits(with(|first| first.arbiter = true), "may lead");
        waits(with(|first| first.priority = 0.0), "may lead");
    }

    #[test]
    fn other_ordinals_do_not_initiate() {
        waits(asked(&desired(), [NO, NO, NO], Word::Standalone { ordinal: 1 }), "ordinal 0 initiates");
    }
}
