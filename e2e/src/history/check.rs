//! (History, lists of each member) → anomalies (pure): I1, I4 and I5 of docs/invariants.md.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use super::{Append, Element, History, Key, Lists, Outcome, Tenure};

/// Something that an invariant forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Anomaly {
    /// I4: acknowledged, and a member does not hold it.
    Lost {
        /// What was acknowledged.
        append: Append,
        /// Who does not hold it.
        member: String,
    },
    /// I5: a member holds it twice.
    Twice {
        /// What.
        element: Element,
        /// In which list.
        key: Key,
        /// Who.
        member: String,
    },
    /// I5: refused, and a member holds it.
    Refused {
        /// What was refused.
        append: Append,
        /// Who holds it.
        member: String,
    },
    /// I5: nobody ever sent it.
    Invented {
        /// What.
        element: Element,
        /// In which list.
        key: Key,
        /// Who holds it.
        member: String,
    },
    /// I5: two members hold the list in different orders, or one holds less of it.
    Diverged {
        /// Which list.
        key: Key,
        /// Who differs from the longest list.
        member: String,
        /// Who holds the longest list.
        from: String,
        /// At which place.
        place: usize,
    },
    /// I1: a member acknowledged what was sent to it after a newer term had acknowledged.
    StaleWriter {
        /// What it acknowledged.
        append: Append,
        /// The newest of its terms that it may have done this under.
        own: Option<u64>,
        /// The newest term that had acknowledged before.
        newer: u64,
    },
    /// I1, I5: what was sent after an acknowledgement stands before what was acknowledged.
    Overtook {
        /// What stands first.
        first: Append,
        /// What stands behind it and was acknowledged before the first one was sent.
        second: Append,
    },
    /// I4: a client saw a list that is not the beginning of what became of it: what it saw is lost, or in another order.
    Unseen {
        /// Which list.
        key: Key,
        /// Who showed it.
        member: String,
        /// When.
        ended: Duration,
        /// At which place.
        place: usize,
    },
}

/// Every anomaly of the history, given what each member holds in the end. Empty means: nothing was lost, invented or reordered.
pub fn check(history: &History, members: &BTreeMap<String, Lists>) -> Vec<Anomaly> {
    let versions = versions(members);
    let appends: BTreeMap<Element, &Append> = history.appends.iter().map(|append| (append.element, append)).collect();
    let mut found = Vec::new();
    for (member, lists) in members {
        contents(member, lists, &appends, &mut found);
        order(member, lists, &versions, &mut found);
    }
    for (_, list) in versions.values() {
        real_time(list, &appends, &mut found);
    }
    reads(history, &versions, &mut found);
    found.extend(one_writer(history));
    found
}

/// The longest list of each key is its version order.
fn versions(members: &BTreeMap<String, Lists>) -> BTreeMap<Key, (&str, &[Element])> {
    let mut longest: BTreeMap<Key, (&str, &[Element])> = BTreeMap::new();
    for (member, lists) in members {
        for (key, list) in lists {
            let best = longest.entry(*key).or_insert((member, list));
            if list.len() > best.1.len() {
                *best = (member, list);
            }
        }
    }
    longest
}

fn contents(member: &str, lists: &Lists, appends: &BTreeMap<Element, &Append>, found: &mut Vec<Anomaly>) {
    let mut held = BTreeSet::new();
    for (&key, list) in lists {
        for &element in list {
            if !held.insert((key, element)) {
                found.push(Anomaly::Twice { element, key, member: member.into() });
            }
            match appends.get(&element).filter(|append| append.key == key) {
                None => found.push(Anomaly::Invented { element, key, member: member.into() }),
                Some(append) if matches!(append.outcome, Outcome::Fail(_)) => {
                    found.push(Anomaly::Refused { append: (*append).clone(), member: member.into() });
                }
                Some(_) => {}
            }
        }
    }
    let lost = appends.values().filter(|append| append.outcome == Outcome::Ok && !held.contains(&(append.key, append.element)));
    found.extend(lost.map(|append| Anomaly::Lost { append: (*append).clone(), member: member.into() }));
}

fn order(member: &str, lists: &Lists, versions: &BTreeMap<Key, (&str, &[Element])>, found: &mut Vec<Anomaly>) {
    for (key, (from, longest)) in versions {
        let list = lists.get(key).map_or(&[][..], Vec::as_slice);
        if list != *longest {
            let place = differs_at(list, longest).unwrap_or(list.len());
            found.push(Anomaly::Diverged { key: *key, member: member.into(), from: (*from).into(), place });
        }
    }
}

/// From the end to the begin, with the earliest acknowledgement of all that stands behind.
fn real_time(list: &[Element], appends: &BTreeMap<Element, &Append>, found: &mut Vec<Anomaly>) {
    let mut earliest: Option<&Append> = None;
    for append in list.iter().rev().filter_map(|element| appends.get(element)) {
        if let Some(second) = earliest.filter(|second| second.ended < append.invoked) {
            found.push(Anomaly::Overtook { first: (*append).clone(), second: second.clone() });
        }
        if append.outcome == Outcome::Ok && earliest.is_none_or(|before| append.ended < before.ended) {
            earliest = Some(append);
        }
    }
}

fn reads(history: &History, versions: &BTreeMap<Key, (&str, &[Element])>, found: &mut Vec<Anomaly>) {
    for read in &history.reads {
        let version = versions.get(&read.key).map_or(&[][..], |(_, list)| list);
        if let Some(place) = differs_at(&read.elements, version) {
            found.push(Anomaly::Unseen { key: read.key, member: read.member.clone(), ended: read.ended, place });
        }
    }
}

/// The first place where `list` is not the beginning of `longer`.
fn differs_at(list: &[Element], longer: &[Element]) -> Option<usize> {
    list.iter().enumerate().find(|(place, element)| longer.get(*place) != Some(*element)).map(|(place, _)| place)
}

/// In the order of acknowledgements, each must fit to a term of its member that is not older than the newest term that had certainly
/// acknowledged when it was sent. Where several terms fit, the oldest counts as certain: nothing right is ever accused.
fn one_writer(history: &History) -> Vec<Anomaly> {
    let mut acknowledged: Vec<_> = history.appends.iter().filter(|append| append.outcome == Outcome::Ok).collect();
    acknowledged.sort_by_key(|append| append.ended);
    // (when it was acknowledged, the newest term up to then)
    let mut certain: Vec<(Duration, u64)> = Vec::new();
    let mut found = Vec::new();
    for append in acknowledged {
        let before = certain.partition_point(|(ended, _)| *ended < append.invoked);
        let newest = before.checked_sub(1).map_or(0, |last| certain[last].1);
        let own = || terms(&history.tenures, append);
        match own().filter(|term| *term >= newest).min() {
            Some(term) => certain.push((append.ended, certain.last().map_or(term, |(_, last)| term.max(*last)))),
            None => found.push(Anomaly::StaleWriter { append: append.clone(), own: own().max(), newer: newest }),
        }
    }
    found
}

/// The term that the answer named, or else those that the member had claimed when the append was acknowledged.
fn terms<'a>(tenures: &'a [Tenure], append: &'a Append) -> impl Iterator<Item = u64> + 'a {
    let claimed = tenures.iter().filter(|tenure| tenure.member == append.member && tenure.since <= append.ended).map(|tenure| tenure.term);
    append.term.into_iter().chain(claimed.filter(|_| append.term.is_none()))
}

impl fmt::Display for Anomaly {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost { append, member } => write!(f, "I4: lost at {member}: {append}"),
            Self::Twice { element, key, member } => write!(f, "I5: {member} holds {element} twice in list {key}"),
            Self::Refused { append, member } => write!(f, "I5: refused, but there at {member}: {append}"),
            Self::Invented { element, key, member } => write!(f, "I5: {member} holds {element} in list {key}, which nobody appended"),
            Self::Diverged { key, member, from, place } => {
                write!(f, "I5: list {key} of {member} differs from that of {from} at place {place}")
            }
            Self::StaleWriter { append, own, newer } => {
                write!(f, "I1: acknowledged under term {own:?} at most, although term {newer} had acknowledged before: {append}")
            }
            Self::Overtook { first, second } => write!(f, "I1: stands before what was acknowledged before it was sent: {first}; {second}"),
            Self::Unseen { key, member, ended, place } => {
                let at = ended.as_secs_f64();
                write!(f, "I4: {member} showed list {key} at {at:.3} s with something at place {place} that is not there in the end")
            }
        }
    }
}

#[cfg(test)]
mod tests;
