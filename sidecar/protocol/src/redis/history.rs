//! Histories of Redis: how much of which one a member holds, and who holds all that another one does.
//!
//! An offset counts bytes of one history, which its replication id names. A promotion begins a new history and remembers the one before, up to
//! the offset where it left it (`master_replid2`, `second_repl_offset`). So two offsets compare only within one history, and the recorded
//! [`Lineage`] of the primary says which histories are its own past, and up to where (Redis manual, "Replication ID explained").

use std::fmt;

use serde::{Deserialize, Serialize};

/// How many histories a lineage remembers.
pub const REMEMBERED: usize = 32;

/// A replication id: 40 hexadecimal digits.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReplId(pub String);

/// How much of the history a member holds, as it says itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Position {
    /// The history (`master_replid`).
    pub replid: ReplId,
    /// How many bytes of it (`master_repl_offset`; of a replica `slave_repl_offset`).
    pub offset: u64,
    /// The history that this one went on from, and how many bytes of it are part of this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Ancestor>,
    /// The process has forgotten it, as one does that loads an append-only file, and did not end in order: this is what the sidecar saw last, so
    /// it holds at least that, and perhaps a second more.
    #[serde(default)]
    pub recovered: bool,
    /// It wrote this history itself when that was seen: it may hold what nobody else does.
    #[serde(default)]
    pub led: bool,
}

/// A history, and how many bytes of it are part of another one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ancestor {
    /// The history.
    pub replid: ReplId,
    /// How many bytes of it, 0 where there is no part of it any more; `None` while it is still being written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<u64>,
}

/// The primary's own past, oldest first; the last one is the history that it writes now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lineage(pub Vec<Ancestor>);

/// What a member's position is to a primary's lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// The primary holds all of it.
    Contained,
    /// It holds more of one of the primary's histories than the primary does, or went on from one by itself.
    Ahead,
    /// It is of a history that the primary never had.
    Foreign,
}

// === impl ReplId ===

impl fmt::Display for ReplId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ReplId {
    /// The first digits, for people.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replid.short(), self.offset)?;
        if self.recovered { f.write_str(" or a little more") } else { Ok(()) }
    }
}

impl Position {
    /// Whether this member holds all that `other` does: the same history at least as far, or `other`'s is the one that this one went on from
    /// and it did not go past the fork.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        self.holds(&other.replid).is_some_and(|end| other.offset <= end)
    }

    /// Whether the two are of one history, so that one of them holds all that the other does.
    #[must_use]
    pub fn comparable(&self, other: &Self) -> bool {
        self.contains(other) || other.contains(self)
    }

    /// How many bytes of the history `replid` it holds, if it has any part in it.
    #[must_use]
    pub fn holds(&self, replid: &ReplId) -> Option<u64> {
        if *replid == self.replid {
            return Some(self.offset);
        }
        self.before.as_ref().filter(|before| before.replid == *replid)?.end
    }
}

// === impl Lineage ===

impl Lineage {
    /// What `position` is to a primary with this past.
    #[must_use]
    pub fn relation(&self, position: &Position) -> Relation {
        match self.end_of(&position.replid) {
            None if position.before.as_ref().is_some_and(|before| self.end_of(&before.replid).is_some()) => Relation::Ahead,
            None => Relation::Foreign,
            Some(None) => Relation::Contained,
            // Of a history that was given up nothing is held, however little there is of it.
            Some(Some(end)) if end > 0 && position.offset <= end => Relation::Contained,
            Some(Some(_)) => Relation::Ahead,
        }
    }

    /// Whether `held` holds all that `other` does: by itself, or since the primary had what `other` holds before it began the history of `held`.
    #[must_use]
    pub fn covers(&self, held: &Position, other: &Position) -> bool {
        let index = |replid: &ReplId| self.0.iter().rposition(|ancestor| ancestor.replid == *replid);
        let earlier = index(&held.replid).zip(index(&other.replid)).is_some_and(|(mine, theirs)| theirs < mine);
        held.contains(other) || earlier && self.relation(other) == Relation::Contained
    }

    /// How far the history `replid` is part of it: `Some(None)` while it is being written.
    #[must_use]
    pub fn end_of(&self, replid: &ReplId) -> Option<Option<u64>> {
        self.0.iter().rev().find(|ancestor| ancestor.replid == *replid).map(|ancestor| ancestor.end)
    }

    /// The history that is being written.
    #[must_use]
    pub fn current(&self) -> Option<&ReplId> {
        self.0.last().filter(|last| last.end.is_none()).map(|last| &last.replid)
    }

    /// The point from which the primary goes on: who follows it and is past this holds all that it had acknowledged there.
    #[must_use]
    pub fn fork(&self) -> u64 {
        let before = self.0.iter().rev().skip(1).find(|ancestor| ancestor.end != Some(0));
        before.and_then(|ancestor| ancestor.end).filter(|end| *end != u64::MAX).unwrap_or(0)
    }

    /// The same past, with where the primary is `now` as the point from which it goes on: one that acknowledged until now does so no more.
    #[must_use]
    pub fn forked_at(mut self, now: &Position) -> Self {
        let Some(open) = self.0.pop_if(|last| last.end.is_none()) else { return self };
        let end = (open.replid == now.replid).then_some(now.offset);
        if let Some(end) = end {
            // One such point a history.
            let _ = self.0.pop_if(|last| last.replid == open.replid);
            self.0.push(Ancestor { end: Some(end), ..open.clone() });
        }
        self.0.push(open);
        self.bounded()
    }

    /// The same past after somebody with `held` leads: what was being written ends where that member is. It has nothing of what began after
    /// the newest history that it is in, so who comes back with some of that is ahead, and keeps it apart.
    #[must_use]
    pub fn ended_at(mut self, held: &Position) -> Self {
        let newest = self.0.iter().rposition(|ancestor| held.holds(&ancestor.replid).is_some());
        for (index, ancestor) in self.0.iter_mut().enumerate() {
            match held.holds(&ancestor.replid) {
                Some(end) => ancestor.end = Some(ancestor.end.map_or(end, |known| known.min(end))),
                None if newest.is_none_or(|newest| index > newest) => ancestor.end = Some(0),
                None => {}
            }
        }
        // A history of which the new primary's own words say nothing ended before it began: nothing more is known of where.
        if self.end_of(&held.replid).is_none() {
            self.0.push(Ancestor { replid: held.replid.clone(), end: Some(held.offset) });
        }
        self.bounded()
    }

    /// The same past when the same primary says where it is. What it wrote under another name before is all its own, whatever it remembers of how much
    /// that was: it wrote it down before it answered.
    #[must_use]
    pub fn written(self, now: &Position) -> Self {
        self.goes_on(now, u64::MAX)
    }

    /// The same past when another one took over where the primary was, by its word.
    #[must_use]
    pub fn taken_over(self, now: &Position) -> Self {
        let end = self.current().and_then(|open| now.holds(open));
        self.goes_on(now, end.unwrap_or(u64::MAX))
    }

    fn goes_on(mut self, now: &Position, end: u64) -> Self {
        if self.current() == Some(&now.replid) {
            return self;
        }
        if let Some(open) = self.0.iter_mut().find(|ancestor| ancestor.end.is_none()) {
            open.end = Some(end);
        }
        self.0.push(Ancestor { replid: now.replid.clone(), end: None });
        self.bounded()
    }

    fn bounded(mut self) -> Self {
        let spare = self.0.len().saturating_sub(REMEMBERED);
        self.0.drain(..spare);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(replid: &str, offset: u64) -> Position {
        Position { replid: ReplId(replid.into()), offset, ..Position::default() }
    }

    fn after(replid: &str, offset: u64, before: &str, end: u64) -> Position {
        Position { before: Some(Ancestor { replid: ReplId(before.into()), end: Some(end) }), ..at(replid, offset) }
    }

    #[test]
    fn offsets_compare_within_one_history_only() {
        assert!(at("a", 9).contains(&at("a", 9)) && at("a", 9).contains(&at("a", 8)) && !at("a", 8).contains(&at("a", 9)));
        assert!(!at("a", 900).contains(&at("b", 1)) && !at("a", 900).comparable(&at("b", 1)));
    }

    #[test]
    fn who_went_on_from_a_history_holds_it_up_to_the_fork() {
        let promoted = after("b", 120, "a", 100);
        assert!(promoted.contains(&at("a", 100)));
        assert!(!promoted.contains(&at("a", 101)), "past the fork");
        assert!(!at("a", 100).contains(&promoted));
    }

    #[test]
    fn a_lineage_tells_the_past_the_surplus_and_the_stranger_apart() {
        let lineage = Lineage::default().written(&at("a", 10)).ended_at(&at("a", 100)).written(&after("b", 100, "a", 100));
        assert_eq!(lineage.current(), Some(&ReplId("b".into())));
        assert_eq!(lineage.relation(&at("a", 100)), Relation::Contained);
        assert_eq!(lineage.relation(&at("a", 101)), Relation::Ahead);
        assert_eq!(lineage.relation(&at("b", 1_000)), Relation::Contained);
        assert_eq!(lineage.relation(&at("c", 1)), Relation::Foreign);
        assert_eq!(lineage.relation(&after("c", 120, "a", 90)), Relation::Ahead);
        assert_eq!(lineage.relation(&after("c", 120, "d", 90)), Relation::Foreign);
    }

    #[test]
    fn who_is_in_a_later_history_holds_the_primarys_past() {
        let lineage = Lineage::default().written(&at("a", 1)).taken_over(&after("b", 90, "a", 80)).taken_over(&after("c", 120, "b", 110));
        assert!(lineage.covers(&at("c", 130), &at("a", 80)) && lineage.covers(&at("b", 1), &at("a", 80)));
        assert!(!lineage.covers(&at("c", 130), &at("a", 81)), "past the fork");
        assert!(!lineage.covers(&at("a", 80), &at("c", 111)) && !lineage.covers(&at("z", 900), &at("a", 1)));
    }

    #[test]
    fn a_primary_that_says_the_same_again_changes_no_lineage() {
        let lineage = Lineage::default().written(&at("a", 10));
        assert_eq!(lineage.clone().written(&at("a", 999)), lineage);
    }

    #[test]
    fn a_primary_that_began_anew_by_itself_owns_what_it_wrote_before() {
        let lineage = Lineage::default().written(&at("a", 10)).written(&at("b", 0));
        assert_eq!(lineage.relation(&at("a", 5_000)), Relation::Contained);
    }

    #[test]
    fn the_end_of_a_history_never_moves_on() {
        let lineage = Lineage::default().written(&at("a", 1)).ended_at(&at("a", 50)).ended_at(&at("a", 70));
        assert_eq!(lineage.end_of(&ReplId("a".into())), Some(Some(50)));
    }

    #[test]
    fn what_began_after_the_new_primary_stood_still_is_no_past_of_it() {
        let failed_over = Lineage::default().written(&at("a", 1)).ended_at(&at("a", 100)).written(&after("b", 100, "a", 100));
        let lineage = failed_over.clone().ended_at(&at("a", 90)).written(&after("d", 90, "a", 90));
        assert_eq!(lineage.relation(&at("a", 90)), Relation::Contained);
        // With the history before it, without it as after a full copy, and before anything was written.
        for lost in [after("b", 500, "a", 100), at("b", 500), at("b", 0), at("a", 91)] {
            assert_eq!(lineage.relation(&lost), Relation::Ahead, "{lost}");
        }
        let led_by_another = failed_over.ended_at(&at("z", 7)).written(&after("y", 7, "z", 7));
        assert_eq!(led_by_another.relation(&at("b", 500)), Relation::Ahead);
        assert_eq!((lineage.fork(), led_by_another.fork()), (90, 7));
    }

    #[test]
    fn the_point_from_which_a_primary_goes_on_moves_within_its_history() {
        let lineage = Lineage::default().written(&at("a", 1)).ended_at(&at("a", 100)).written(&after("b", 100, "a", 100));
        assert_eq!(lineage.fork(), 100);
        let moved = lineage.forked_at(&at("b", 150)).forked_at(&at("b", 170));
        assert_eq!((moved.fork(), moved.0.len(), moved.current()), (170, 3, Some(&ReplId("b".into()))));
        assert_eq!(moved.clone().forked_at(&at("c", 900)), moved, "of another history");
        assert_eq!(moved.clone().written(&at("b", 900)), moved);
        assert_eq!(moved.relation(&at("b", 900)), Relation::Contained);
        assert_eq!(moved.ended_at(&at("b", 160)).relation(&at("b", 165)), Relation::Ahead);
    }

    #[test]
    fn a_lineage_is_bounded() {
        let many = (0..100).fold(Lineage::default(), |lineage, n| lineage.written(&at(&format!("{n}"), n)));
        assert_eq!(many.0.len(), REMEMBERED);
        assert_eq!(many.current(), Some(&ReplId("99".into())));
    }

    #[test]
    fn a_lineage_is_plain_json() {
        let lineage = Lineage::default().written(&at("a", 1)).ended_at(&at("a", 5));
        assert_eq!(serde_json::to_string(&lineage).unwrap(), r#"[{"replid":"a","end":5}]"#);
    }
}
