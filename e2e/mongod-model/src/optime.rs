//! Where a member is in the history: the term first, the timestamp within it.

use std::fmt;

use bson::{Document, Timestamp, doc};

/// An entry of the oplog by its term and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpTime {
    /// The term in which it was written; -1 before any.
    pub term: i64,
    /// Its time and number within the second.
    pub time: (u32, u32),
}

impl OpTime {
    /// Before everything: a member without data.
    pub const NULL: Self = Self { term: -1, time: (0, 0) };

    /// From `{ts, t}`; what is not there is null.
    pub fn read(document: &Document) -> Self {
        let ts = document.get_timestamp("ts").unwrap_or(Timestamp { time: 0, increment: 0 });
        Self { term: document.get_i64("t").unwrap_or(-1), time: (ts.time, ts.increment) }
    }

    /// From `{…, name: {ts, t}}`.
    pub fn field(document: &Document, name: &str) -> Self {
        document.get_document(name).map_or(Self::NULL, Self::read)
    }

    /// `{ts, t}`.
    pub fn document(self) -> Document {
        doc! { "ts": self.timestamp(), "t": self.term }
    }

    /// Its timestamp as BSON has it.
    pub fn timestamp(self) -> Timestamp {
        timestamp(self.time)
    }

    /// The second it was written in, as `optimeDate` says it.
    pub fn date(self) -> bson::DateTime {
        bson::DateTime::from_millis(i64::from(self.time.0) * 1000)
    }

    /// Nothing was written yet.
    pub fn is_null(self) -> bool {
        self == Self::NULL
    }
}

/// A BSON timestamp from its two halves.
pub fn timestamp((time, increment): (u32, u32)) -> Timestamp {
    Timestamp { time, increment }
}

impl fmt::Display for OpTime {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{{ ts: Timestamp({}, {}), t: {} }}", self.time.0, self.time.1, self.term)
    }
}
