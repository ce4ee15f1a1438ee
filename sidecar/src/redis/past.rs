//! What a member on its own has learned of ordinal 0: whose data those are, and which histories are their past. Kept on the volume, so that after a restart
//! of everybody it still knows that it may follow.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use sidecar_protocol::redis::{Lineage, Role, State};

use crate::files::{self, At, FileError};

/// Name of the file.
const FILE: &str = "primary.json";

/// What was learned.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    identity: Option<String>,
    lineage: Lineage,
}

impl Past {
    /// What is known from before, if anything can be read.
    #[must_use]
    pub fn read(directory: &Path) -> Self {
        fs::read(directory.join(FILE)).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// The histories.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// Notes what ordinal 0 says while it leads. Data that are others, and did not go on from what is known, begin a past of their own.
    ///
    /// # Errors
    /// It cannot be written down.
    pub fn learn(&mut self, directory: &Path, zero: &State) -> Result<(), FileError> {
        let Some(position) = zero.position.as_ref().filter(|_| zero.role == Role::Primary) else { return Ok(()) };
        let before = position.before.as_ref().map(|before| &before.replid);
        let goes_on = [Some(&position.replid), before].into_iter().flatten().any(|replid| self.lineage.end_of(replid).is_some());
        let same = self.identity.is_some() && self.identity == zero.identity;
        let known = if same || goes_on { self.lineage.clone() } else { Lineage(position.before.iter().cloned().collect()) };
        let next = Self { identity: zero.identity.clone(), lineage: known.written(position) };
        if next == *self {
            return Ok(());
        }
        *self = next;
        let path = directory.join(FILE);
        let text = serde_json::to_string(self).map_err(io::Error::from).at(&path)?;
        files::write(&path, &text)
    }
}

#[cfg(test)]
mod tests {
    use sidecar_protocol::redis::{Ancestor, Position, Relation, ReplId};

    use super::*;

    fn leads(identity: &str, replid: &str, before: Option<(&str, u64)>) -> State {
        let before = before.map(|(replid, end)| Ancestor { replid: ReplId(replid.into()), end: Some(end) });
        let position = Position { replid: ReplId(replid.into()), offset: 9, before, ..Position::default() };
        State { role: Role::Primary, identity: Some(identity.into()), position: Some(position), ..State::default() }
    }

    #[test]
    fn the_same_data_that_forgot_their_history_go_on_and_other_data_do_not() {
        let directory = std::env::temp_dir().join(format!("understudy-past-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut past = Past::read(&directory);
        past.learn(&directory, &leads("one", "a", None)).unwrap();
        // Its process was started anew: it knows nothing of `a` any more.
        past.learn(&directory, &leads("one", "b", Some(("boot", 0)))).unwrap();
        let at = |replid: &str| Position { replid: ReplId(replid.into()), offset: 500, ..Position::default() };
        assert_eq!(past.lineage().relation(&at("a")), Relation::Contained);
        assert_eq!(Past::read(&directory), past, "and a restart of this member forgets nothing");
        // It copied everything, and went on.
        past.learn(&directory, &leads("two", "c", Some(("b", 600)))).unwrap();
        assert_eq!(past.lineage().relation(&at("b")), Relation::Contained);
        past.learn(&directory, &leads("three", "x", None)).unwrap();
        assert_eq!(past.lineage().relation(&at("b")), Relation::Foreign);
        fs::remove_dir_all(&directory).unwrap();
    }
}
