//! Transactions as bits, and the GTID sets that the real code sees of them.

use std::collections::HashMap;

use sidecar_protocol::gtid::GtidSet;

/// A transaction, by the order in which the world's first saw it.
pub type Txn = u32;

/// Most transactions in one world.
pub const MOST: u32 = 128;

/// A set of transactions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Set(u128);

impl Set {
    /// Adds one.
    pub fn insert(&mut self, txn: Txn) {
        self.0 |= 1 << txn;
    }

    /// Whether it is in here.
    #[must_use]
    pub fn has(self, txn: Txn) -> bool {
        self.0 >> txn & 1 == 1
    }

    /// Whether all of `other` is in here.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        other.0 & !self.0 == 0
    }

    /// All of both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    #[must_use]
    pub fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Without `other`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those of which it is true.
    #[must_use]
    pub fn only(self, is: impl Fn(Txn) -> bool) -> Self {
        (0..MOST).filter(|txn| self.has(*txn) && is(*txn)).fold(Self::default(), |mut all, txn| {
            all.insert(txn);
            all
        })
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many.
    #[must_use]
    pub fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// Every transaction there is, by server and number.
#[derive(Debug, Default)]
pub struct Histories {
    origins: Vec<(u32, u64)>,
    numbers: HashMap<u32, u64>,
    known: HashMap<Set, GtidSet>,
}

impl Histories {
    /// A new transaction of the server `uuid`; `None` when the world is full.
    pub fn commit(&mut self, uuid: u32) -> Option<Txn> {
        let txn = u32::try_from(self.origins.len()).ok().filter(|txn| *txn < MOST)?;
        let number = self.numbers.entry(uuid).or_default();
        *number += 1;
        self.origins.push((uuid, *number));
        Some(txn)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.origins.len()).unwrap_or(MOST)
    }

    /// As MySQL prints them.
    pub fn gtids(&mut self, set: Set) -> GtidSet {
        if let Some(known) = self.known.get(&set) {
            return known.clone();
        }
        let mut text = String::new();
        for (txn, (uuid, number)) in (0u32..).zip(&self.origins) {
            if set.has(txn) {
                let comma = if text.is_empty() { "" } else { "," };
                text.push_str(&format!("{comma}{}:{number}", uuid_text(*uuid)));
            }
        }
        let gtids: GtidSet = text.parse().expect("written as MySQL writes it");
        self.known.insert(set, gtids.clone());
        gtids
    }
}

/// A server's uuid as MySQL prints it; what differs comes first, where it is compared first.
#[must_use]
pub fn uuid_text(uuid: u32) -> String {
    format!("{uuid:08x}-0000-0000-0000-000000000000")
}

/// The server with this uuid.
#[must_use]
pub fn of_uuid_text(text: &str) -> Option<u32> {
    u32::from_str_radix(text.split('-').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_print_as_gtids() {
        let mut histories = Histories::default();
        let mut set = Set::default();
        for uuid in [1, 1, 2, 1] {
            set.insert(histories.commit(uuid).unwrap());
        }
        assert_eq!(histories.gtids(set).to_string(), format!("{}:1-3,{}:1", uuid_text(1), uuid_text(2)));
        assert_eq!(histories.gtids(set).count(), u64::from(set.count()));
    }
}
