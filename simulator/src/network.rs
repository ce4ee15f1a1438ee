//! Who reaches whom. Members and operators are nodes; a cut is between two of them, both ways.

use crate::world::{MEMBERS, OPERATORS};

const NODES: usize = MEMBERS + OPERATORS;

/// Somebody with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Node {
    /// The pod of this ordinal.
    Member(u32),
    /// This operator.
    Operator(usize),
}

impl Node {
    fn index(self) -> usize {
        match self {
            Self::Member(ordinal) => ordinal as usize,
            Self::Operator(number) => MEMBERS + number,
        }
    }
}

/// Cuts in force.
#[derive(Debug, Default)]
pub struct Network {
    cut: [[bool; NODES]; NODES],
}

impl Network {
    /// Whether packets pass between the two.
    #[must_use]
    pub fn passes(&self, one: Node, other: Node) -> bool {
        one == other || !self.cut[one.index()][other.index()]
    }

    /// Cuts or mends the wire between two.
    pub fn set(&mut self, one: Node, other: Node, cut: bool) {
        let (one, other) = (one.index(), other.index());
        self.cut[one][other] = cut;
        self.cut[other][one] = cut;
    }

    /// Cuts or mends all wires of one node.
    pub fn isolate(&mut self, one: Node, cut: bool) {
        for other in 0..NODES {
            if other != one.index() {
                self.cut[one.index()][other] = cut;
                self.cut[other][one.index()] = cut;
            }
        }
    }

    /// Mends every wire.
    pub fn heal(&mut self) {
        *self = Self::default();
    }
}
