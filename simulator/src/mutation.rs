//! The list of bugs that the simulation must find: each puts one back into the real source, or into the mirror of what is not pure.

use std::path::Path;

use serde::Deserialize;

/// One bug.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mutation {
    /// What it does, in a few words.
    pub name: String,
    /// Where, from the root of the repository.
    pub file: String,
    /// The text that it replaces; it occurs once.
    pub find: String,
    /// What is there instead.
    pub replace: String,
    /// The invariant that it breaks.
    pub breaks: String,
}

impl Mutation {
    /// `source` with this bug in it.
    ///
    /// # Errors
    /// When the text does not occur exactly once.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        match source.matches(&self.find).count() {
            1 => Ok(source.replacen(&self.find, &self.replace, 1)),
            often => Err(format!("{}: the text occurs {often} times in {}: mend simulator/mutations.yaml", self.name, self.file)),
        }
    }
}

/// All of them.
///
/// # Errors
/// When the list cannot be read.
pub fn list(root: &Path) -> anyhow::Result<Vec<Mutation>> {
    Ok(serde_yaml::from_str(&std::fs::read_to_string(root.join("simulator/mutations.yaml"))?)?)
}
