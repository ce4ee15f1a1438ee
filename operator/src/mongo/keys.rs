//! By which keys members know each other (pure): one for the life of a set, and two while one takes the place of the other.
//!
//! mongod reads its key file when it starts, takes any key that is in it, and tries the second where the first is refused. So a key is
//! replaced in two rounds of restarts: the new one is added to the old everywhere, and then the old one goes.

use super::observed::Observed;
use crate::build;

/// Key of the key file in `NAME-system`.
pub const FILE: &str = "keyfile";
/// Beside it while it holds two keys: the one that stays.
pub const NEXT: &str = "keyfile.next";
/// Length of a key: mongod takes 6 to 1024 characters of base64.
pub const LENGTH: usize = 756;
/// Ask for a new key: a value that was not there before starts one rotation.
pub const ROTATE_ANNOTATION: &str = "understudy.dev/rotate-key";
/// On `NAME-system`: the request for a rotation that was last answered.
pub const ANSWERED_ANNOTATION: &str = "understudy.dev/rotated-key";

/// What `NAME-system` holds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held<'a> {
    /// The key file.
    pub file: Option<&'a str>,
    /// The key that stays, while the file has two.
    pub next: Option<&'a str>,
    /// The request that was last answered.
    pub answered: Option<&'a str>,
}

/// What becomes of the key file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// It stays.
    Stay,
    /// The first key of a set.
    Make,
    /// A new key beside this one.
    Add {
        /// The one that goes.
        old: &'a str,
    },
    /// This key alone.
    Drop {
        /// The one that stays.
        new: &'a str,
    },
    /// It is gone, and members run by it: another one would part those who run from those who start.
    Lost,
}

/// What to do. `born`: there is a set; `everywhere`: [`all_take_both`].
#[must_use]
pub fn plan<'a>(held: &Held<'a>, born: bool, asked: Option<&str>, everywhere: bool) -> Step<'a> {
    match (held.file, held.next) {
        (None, _) if born => Step::Lost,
        (None, _) => Step::Make,
        (Some(_), Some(new)) if everywhere => Step::Drop { new },
        (Some(_), Some(_)) => Step::Stay,
        // A list is the user's own work.
        (Some(old), None) if asked.is_some() && asked != held.answered && !old.trim_start().starts_with('-') => Step::Add { old },
        (Some(_), None) => Step::Stay,
    }
}

/// Whether every member of `replicas` runs, was started with both keys, and nobody else runs.
#[must_use]
pub fn all_take_both(replicas: u32, observed: &Observed) -> bool {
    let both = |ordinal: u32| {
        let member = observed.members.get(&ordinal)?;
        let pod = member.pod.as_ref().filter(|pod| !pod.deleting && !pod.outdated)?;
        Some(pod.ready && member.report.answered()?.state.keys.len() == 2)
    };
    observed.members.values().filter(|member| member.pod.is_some()).count() == replicas as usize
        && (0..replicas).all(|ordinal| both(ordinal) == Some(true))
}

/// A key file of two keys.
#[must_use]
pub fn both(old: &str, new: &str) -> String {
    let old: String = old.split_whitespace().collect();
    format!("- \"{old}\"\n- \"{new}\"\n")
}

/// What tells a key file from another, and nothing of its keys.
#[must_use]
pub fn digest_of(file: &str) -> String {
    build::fingerprint(file, 8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_one_key_for_life_unless_it_is_asked_for_another() {
        let held = Held { file: Some("old"), ..Held::default() };
        assert_eq!(plan(&Held::default(), false, None, false), Step::Make);
        assert_eq!(plan(&held, true, None, false), Step::Stay);
        assert_eq!(plan(&held, true, Some("now"), false), Step::Add { old: "old" });
        assert_eq!(plan(&Held { answered: Some("now"), ..held }, true, Some("now"), false), Step::Stay);
        assert_eq!(plan(&Held { answered: Some("now"), ..held }, true, Some("again"), false), Step::Add { old: "old" });
        let own = Held { file: Some("- \"one\"\n- \"two\"\n"), ..Held::default() };
        assert_eq!(plan(&own, true, Some("now"), true), Step::Stay, "a user's own two keys are left alone");
    }

    #[test]
    fn the_old_key_goes_when_everybody_takes_the_new_one() {
        let held = Held { file: Some("- \"old\"\n- \"new\"\n"), next: Some("new"), answered: None };
        assert_eq!(plan(&held, true, Some("now"), false), Step::Stay);
        assert_eq!(plan(&held, true, None, true), Step::Drop { new: "new" }, "also when nobody asks any more");
    }

    #[test]
    fn a_lost_key_is_never_made_again_in_the_life_of_a_set() {
        assert_eq!(plan(&Held::default(), true, Some("now"), true), Step::Lost);
    }

    #[test]
    fn a_digest_tells_files_apart() {
        assert_ne!(digest_of(&both("old", "new")), digest_of("new"));
        assert_eq!(both("o\nld", "new"), "- \"old\"\n- \"new\"\n");
    }
}
