//! Which mongod is played: rules that differ by release ask this type and nothing else.

use std::fmt;
use std::str::FromStr;

/// A server version: `5.0.7`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    major: u8,
    minor: u8,
    patch: u8,
}

impl Version {
    /// `[5, 0, 7, 0]`, as `buildInfo` says it.
    pub fn array(self) -> [i32; 4] {
        [self.major.into(), self.minor.into(), self.patch.into(), 0]
    }

    /// `5.0`, the feature compatibility version of this binary.
    pub fn feature(self) -> String {
        format!("{}.{}", self.major, self.minor)
    }

    /// The feature version before, to which a downgrade is allowed.
    pub fn feature_before(self) -> String {
        match (self.major, self.minor) {
            (4, 4) => "4.2".into(),
            (5, _) => "4.4".into(),
            (major, _) => format!("{}.0", major.saturating_sub(1)),
        }
    }

    /// `maxWireVersion` of `hello`.
    pub fn wire(self) -> i32 {
        match self.major {
            ..=4 => 9,
            5 => 13,
            6 => 17,
            7 => 21,
            _ => 25,
        }
    }

    /// From 5.0 a new voter joins without its vote and gets it by a reconfig of the server's own.
    pub fn holds_new_votes_back(self) -> bool {
        self.major >= 5
    }

    /// From 5.0 writes without a concern wait for a majority, unless arbiters make that dangerous.
    pub fn writes_to_majority(self) -> bool {
        self.major >= 5
    }

    /// `secondaryDelaySecs` was `slaveDelay` before 5.0.
    pub fn delay_field(self) -> &'static str {
        if self.major >= 5 { "secondaryDelaySecs" } else { "slaveDelay" }
    }

    /// From 7.0 a change of the feature version asks for `confirm: true`.
    pub fn confirms_feature_version(self) -> bool {
        self.major >= 7
    }

    /// From 5.0 a terminating member answers for a while, so that drivers go elsewhere.
    pub fn quiesces(self) -> bool {
        self.major >= 5
    }
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl FromStr for Version {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text} is no version of mongod: 4.4.29, 5.0.7, 8.0.0");
        let mut parts = text.split('.').map(|part| part.parse::<u8>().map_err(|_| wrong()));
        let mut next = |required| parts.next().unwrap_or(if required { Err(wrong()) } else { Ok(0) });
        let version = Self { major: next(true)?, minor: next(true)?, patch: next(false)? };
        if version < (Self { major: 4, minor: 4, patch: 0 }) { Err(wrong()) } else { Ok(version) }
    }
}
