//! GTID sets as values: parse, print, union, difference, containment; tags (MySQL 8.3+) included.
//!
//! The text is MySQL's own: `uuid:1-5:7,uuid:tag:1-3` with any white space after commas
//! (MySQL Reference Manual, "GTID Format and Storage"). Deciding who holds more of the history needs no server.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One past the highest transaction number that MySQL assigns (2^63 − 1 is the limit).
const MAX_NUMBER: u64 = i64::MAX as u64;

/// Source UUID (lower case) and tag (empty when there is none).
type Origin = (String, String);

/// A set of transactions. The empty set prints as the empty string.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GtidSet {
    /// Sorted, disjoint, non-adjacent, inclusive intervals an origin; never an empty list.
    origins: BTreeMap<Origin, Vec<(u64, u64)>>,
}

/// Text that is not a GTID set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a GTID set: {0:?}")]
pub struct NotAGtidSet(String);

/// How one history relates to another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Both hold the same transactions.
    Equal,
    /// The left holds everything of the right, and more.
    Ahead,
    /// The right holds everything of the left, and more.
    Behind,
    /// Each holds something that the other does not (I3: stop and ask).
    Diverged,
}

impl GtidSet {
    /// The set of no transaction.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it holds no transaction.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.origins.is_empty()
    }

    /// Number of transactions.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.origins.values().flatten().map(|(first, last)| last - first + 1).sum()
    }

    /// Every transaction of either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut all = self.clone();
        for (origin, intervals) in &other.origins {
            let mine = all.origins.entry(origin.clone()).or_default();
            mine.extend(intervals);
            *mine = normalised(std::mem::take(mine));
        }
        all
    }

    /// Every transaction of `self` that is not in `other`.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        for (origin, mine) in &self.origins {
            let theirs = other.origins.get(origin).map_or(&[][..], Vec::as_slice);
            let left = without(mine, theirs);
            if !left.is_empty() {
                rest.origins.insert(origin.clone(), left);
            }
        }
        rest
    }

    /// The part that was first committed by the server with this UUID.
    #[must_use]
    pub fn committed_by(&self, server_uuid: &str) -> Self {
        let server_uuid = server_uuid.to_lowercase();
        Self { origins: self.origins.iter().filter(|((uuid, _), _)| *uuid == server_uuid).map(|(o, i)| (o.clone(), i.clone())).collect() }
    }

    /// Whether every transaction of `other` is here.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.minus(self).is_empty()
    }

    /// How this history relates to `other`.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Relation {
        match (self.contains(other), other.contains(self)) {
            (true, true) => Relation::Equal,
            (true, false) => Relation::Ahead,
            (false, true) => Relation::Behind,
            (false, false) => Relation::Diverged,
        }
    }
}

/// Sorts and merges overlapping and adjacent intervals.
fn normalised(mut intervals: Vec<(u64, u64)>) -> Vec<(u64, u64)> {
    intervals.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(intervals.len());
    for (first, last) in intervals {
        match merged.last_mut() {
            Some(previous) if first <= previous.1 + 1 => previous.1 = previous.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// `mine` without `theirs`; both normalised.
fn without(mine: &[(u64, u64)], theirs: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for &(first, last) in mine {
        let mut next = first;
        for &(from, to) in theirs.iter().filter(|(from, to)| *to >= first && *from <= last) {
            if from > next {
                left.push((next, from - 1));
            }
            next = next.max(to + 1);
        }
        if next <= last {
            left.push((next, last));
        }
    }
    left
}

fn is_uuid(text: &str) -> bool {
    let groups: Vec<&str> = text.split('-').collect();
    groups.len() == 5
        && groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A tag: a letter or underscore, then letters, digits and underscores, 32 characters at most.
fn is_tag(text: &str) -> bool {
    let first_is_no_digit = text.bytes().next().is_some_and(|byte| !byte.is_ascii_digit());
    first_is_no_digit && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

fn interval(text: &str) -> Option<(u64, u64)> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (first.trim().parse().ok()?, last.trim().parse().ok()?),
        None => {
            let only = text.parse().ok()?;
            (only, only)
        }
    };
    (first >= 1 && last >= first && last <= MAX_NUMBER).then_some((first, last))
}

impl FromStr for GtidSet {
    type Err = NotAGtidSet;

    fn from_str(text: &str) -> Result<Self, NotAGtidSet> {
        let refuse = || NotAGtidSet(text.chars().take(120).collect());
        let mut set = Self::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut fields = part.split(':').map(str::trim);
            let uuid = fields.next().filter(|uuid| is_uuid(uuid)).ok_or_else(refuse)?.to_ascii_lowercase();
            let mut tag = String::new();
            let mut intervals_of_origin = 0;
            for field in fields {
                if is_tag(field) {
                    tag = field.to_ascii_lowercase();
                } else {
                    let found = interval(field).ok_or_else(refuse)?;
                    set.origins.entry((uuid.clone(), tag.clone())).or_default().push(found);
                    intervals_of_origin += 1;
                }
            }
            if intervals_of_origin == 0 {
                return Err(refuse());
            }
        }
        for intervals in set.origins.values_mut() {
            *intervals = normalised(std::mem::take(intervals));
        }
        Ok(set)
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous: Option<&str> = None;
        for ((uuid, tag), intervals) in &self.origins {
            if previous != Some(uuid) {
                write!(out, "{}{uuid}", if previous.is_some() { "," } else { "" })?;
                previous = Some(uuid);
            }
            if !tag.is_empty() {
                write!(out, ":{tag}")?;
            }
            for (first, last) in intervals {
                if first == last {
                    write!(out, ":{first}")?;
                } else {
                    write!(out, ":{first}-{last}")?;
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for GtidSet {
    type Error = NotAGtidSet;

    fn try_from(text: String) -> Result<Self, NotAGtidSet> {
        text.parse()
    }
}

impl From<GtidSet> for String {
    fn from(set: GtidSet) -> Self {
        set.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const A: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const B: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.parse().expect("a GTID set")
    }

    #[test]
    fn text_of_the_manual_round_trips() {
        for text in [
            String::new(),
            format!("{A}:1-3:11:47-49"),
            format!("{A}:1-19,{B}:1-20"),
            format!("{A}:1-3:domain_1:1-4:domain_2:5"),
            format!("{A}:domain_1:1-4"),
        ] {
            assert_eq!(set(&text).to_string(), text);
        }
    }

    #[test]
    fn disorder_upper_case_and_white_space_are_normalised() {
        let text = format!("{B}:2,\n {}:5-7:1-4:3", A.to_ascii_uppercase());
        assert_eq!(set(&text).to_string(), format!("{A}:1-7,{B}:2"));
    }

    #[test]
    fn what_is_no_gtid_set_is_refused() {
        for text in
            [A.to_string(), format!("{A}:0"), format!("{A}:3-1"), "x:1".into(), format!("{A}:tag"), format!("{A}:1-9223372036854775808")]
        {
            assert!(text.parse::<GtidSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_tag_is_another_origin() {
        assert_eq!(set(&format!("{A}:1-3")).compare(&set(&format!("{A}:a:1-3"))), Relation::Diverged);
    }

    #[test]
    fn histories_compare_as_sets() {
        let (less, more) = (set(&format!("{A}:1-3")), set(&format!("{A}:1-5,{B}:1")));
        assert_eq!(more.compare(&less), Relation::Ahead);
        assert_eq!(less.compare(&more), Relation::Behind);
        assert_eq!(more.minus(&less).to_string(), format!("{A}:4-5,{B}:1"));
        assert_eq!(less.compare(&set(&format!("{B}:1"))), Relation::Diverged);
        assert_eq!(more.count(), 6);
    }

    fn numbers() -> impl Strategy<Value = BTreeSet<u64>> {
        proptest::collection::btree_set(1u64..40, 0..25)
    }

    fn of(numbers: &BTreeSet<u64>) -> GtidSet {
        let text = numbers.iter().map(|number| format!("{A}:{number}")).collect::<Vec<_>>().join(",");
        set(&text)
    }

    proptest! {
        #[test]
        fn it_agrees_with_sets_of_numbers(left in numbers(), right in numbers()) {
            prop_assert_eq!(of(&left).union(&of(&right)), of(&left.union(&right).copied().collect()));
            prop_assert_eq!(of(&left).minus(&of(&right)), of(&left.difference(&right).copied().collect()));
            prop_assert_eq!(of(&left).contains(&of(&right)), left.is_superset(&right));
            prop_assert_eq!(of(&left).count(), left.len() as u64);
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = text.parse::<GtidSet>();
        }
    }
}
