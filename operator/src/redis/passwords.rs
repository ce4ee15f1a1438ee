//! How passwords are replaced without a failed login (pure).
//!
//! Members mount them as files, one an account, with one password a line: they take every line, and log in to each other with the first.
//! An application's new password is added to the old one; when every member says that it takes both, the new one is handed out; the old one
//! goes after the overlap. The password that members log in to each other with takes one step more: it is used when everybody takes it.

use jiff::{SignedDuration, Timestamp};
use sidecar_protocol::redis::passwords_text;

use super::observed::Observed;
use crate::build::fingerprint;

/// File of the password that all members replicate with.
pub const REPLICATION: &str = "replication";
/// File of the exporters' password.
pub const EXPORTER: &str = "exporter";
/// Length of SHA-256.
const DIGEST: usize = 32;

/// What is known of an application's password.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// What members are to take, the newest first: one line or two.
    pub lines: Vec<String>,
    /// What applications are told.
    pub published: Option<String>,
    /// Until when the second one is still taken.
    pub until: Option<Timestamp>,
}

/// What to do about an application's password. `wanted`: the one that it is to be; `everywhere`: every member takes `held.lines`.
#[must_use]
pub fn plan(held: Held, wanted: &str, everywhere: bool, overlap: SignedDuration, now: Timestamp) -> Held {
    let Held { lines, published, until } = held;
    let is_published = |password: &str| published.as_deref() == Some(password);
    let pair = |new: &str, old: &str| vec![new.to_owned(), old.to_owned()];
    match lines.as_slice() {
        // What applications use, when the Secret that members mount is gone, is not taken from them.
        [] => match published {
            Some(known) if known != wanted => Held { lines: pair(wanted, &known), published: Some(known), until: None },
            _ => Held { lines: vec![wanted.to_owned()], published: Some(wanted.to_owned()), until: None },
        },
        [only] if only == wanted => Held { lines, published: Some(wanted.to_owned()), until: None },
        [only] => Held { lines: pair(wanted, only), published: published.or_else(|| Some(only.clone())), until: None },
        [new, old, ..] if new == wanted || (old != wanted && is_published(new)) => {
            // A third one waits until the first has had its time.
            match until {
                Some(until) if is_published(new) && until <= now => Held { lines: vec![new.clone()], published, until: None },
                Some(_) if is_published(new) => Held { lines, published, until },
                _ if is_published(new) || everywhere => {
                    let until = now.checked_add(overlap).unwrap_or(now);
                    Held { published: Some(new.clone()), until: Some(until), lines }
                }
                _ => Held { lines, published, until: None },
            }
        }
        // Handed out before, so everybody takes it still.
        [new, old, ..] if old == wanted && is_published(new) => {
            Held { lines: pair(old, new), published: Some(wanted.to_owned()), until: Some(now.checked_add(overlap).unwrap_or(now)) }
        }
        // Nobody was told the one between.
        [_, old, ..] if old == wanted => Held { lines: vec![wanted.to_owned()], published: Some(wanted.to_owned()), until: None },
        // Nobody was told the one before.
        [_, old, ..] => Held { lines: pair(wanted, old), published, until: None },
    }
}

/// How far the replacement of the password that members log in with is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// There is none.
    Settled,
    /// The new one is taken beside the old one.
    Added,
    /// The new one is used, the old one is still taken.
    Used,
}

impl Stage {
    /// Reads the mark in `NAME-system`.
    #[must_use]
    pub fn parse(mark: Option<&str>) -> Self {
        match mark.map(str::trim) {
            Some("added") => Self::Added,
            Some("used") => Self::Used,
            _ => Self::Settled,
        }
    }

    /// The mark.
    #[must_use]
    pub fn mark(self) -> Option<&'static str> {
        match self {
            Self::Settled => None,
            Self::Added => Some("added"),
            Self::Used => Some("used"),
        }
    }

    /// The next one, if it is time. `asked`: for a replacement that was not made yet.
    #[must_use]
    pub fn next(self, asked: bool, everywhere: bool) -> Option<Self> {
        match self {
            Self::Settled => asked.then_some(Self::Added),
            Self::Added => everywhere.then_some(Self::Used),
            Self::Used => everywhere.then_some(Self::Settled),
        }
    }

    /// The lines of a file in this stage, made of those in the one before. `fresh` is the new password.
    #[must_use]
    pub fn lines(self, before: &[&str], fresh: &str) -> String {
        match (self, before) {
            (Self::Added, [old, ..]) => format!("{old}\n{fresh}\n"),
            (Self::Used, [old, new, ..]) => format!("{new}\n{old}\n"),
            (_, [only, ..]) => (*only).to_owned(),
            (_, []) => fresh.to_owned(),
        }
    }
}

/// The passwords in a file, the newest first: one or two.
#[must_use]
pub fn lines(file: &str) -> Vec<&str> {
    file.lines().filter(|line| !line.is_empty()).take(2).collect()
}

/// Whether every member that has a pod says that it takes these files, which are named in the order of
/// [`passwords_text`]. One that has none reads them when it starts.
#[must_use]
pub fn taken_everywhere<'a>(observed: &Observed, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    let digest = fingerprint(&passwords_text(files), DIGEST);
    let mut members = observed.members.values().filter(|member| member.pod.is_some());
    members.all(|member| member.report.answered().is_some_and(|report| report.state.passwords.as_deref() == Some(&*digest)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: SignedDuration = SignedDuration::from_hours(1);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn held(lines: &[&str], published: Option<&str>, until: Option<i64>) -> Held {
        Held { lines: lines.iter().map(|line| (*line).to_owned()).collect(), published: published.map(str::to_owned), until: until.map(at) }
    }

    #[test]
    fn the_first_password_is_handed_out_at_once() {
        assert_eq!(plan(Held::default(), "a", false, HOUR, at(0)), held(&["a"], Some("a"), None));
    }

    #[test]
    fn a_new_password_is_handed_out_when_everybody_takes_it_and_the_old_one_goes_an_hour_later() {
        let added = plan(held(&["a"], Some("a"), None), "b", true, HOUR, at(0));
        assert_eq!(added, held(&["b", "a"], Some("a"), None));
        assert_eq!(plan(added.clone(), "b", false, HOUR, at(9)), added, "somebody does not take it yet");
        let published = plan(added, "b", true, HOUR, at(10));
        assert_eq!(published, held(&["b", "a"], Some("b"), Some(3610)));
        assert_eq!(plan(published.clone(), "b", false, HOUR, at(3609)), published);
        assert_eq!(plan(published, "b", false, HOUR, at(3610)), held(&["b"], Some("b"), None));
    }

    #[test]
    fn a_crash_between_handing_out_and_writing_down_when_gives_the_old_one_its_time() {
        assert_eq!(plan(held(&["b", "a"], Some("b"), None), "b", false, HOUR, at(0)), held(&["b", "a"], Some("b"), Some(3600)));
    }

    #[test]
    fn a_third_one_waits_for_the_overlap_unless_nobody_was_told_the_second() {
        let overlap = held(&["b", "a"], Some("b"), Some(100));
        assert_eq!(plan(overlap.clone(), "c", true, HOUR, at(99)), overlap);
        let alone = plan(overlap, "c", true, HOUR, at(100));
        assert_eq!(alone, held(&["b"], Some("b"), None));
        assert_eq!(plan(alone, "c", true, HOUR, at(100)).lines, ["c", "b"]);
        assert_eq!(plan(held(&["b", "a"], Some("a"), None), "c", true, HOUR, at(0)), held(&["c", "a"], Some("a"), None));
    }

    #[test]
    fn one_that_comes_back_while_it_is_still_taken_is_first_again() {
        let back = plan(held(&["b", "a"], Some("b"), Some(100)), "a", false, HOUR, at(0));
        assert_eq!(back, held(&["a", "b"], Some("a"), Some(3600)));
        assert_eq!(plan(held(&["b", "a"], Some("a"), None), "a", true, HOUR, at(0)), held(&["a"], Some("a"), None));
    }

    proptest! {
        /// Whatever is wanted when, and whoever is slow: what applications are told is taken by everybody, and so is what they were told before
        /// for as long as promised.
        #[test]
        fn what_applications_are_told_is_always_taken(passes in prop::collection::vec((0_u8..4, any::<bool>(), 1_i64..4000), 1..60)) {
            let (mut now, mut held) = (at(0), plan(Held::default(), "0", false, HOUR, at(0)));
            // What the slowest member takes: the lines of the last time that everybody took the file.
            let mut taken = held.lines.clone();
            let mut told: Vec<(String, Timestamp)> = Vec::new();
            for (wanted, everywhere, later) in passes {
                now = now.checked_add(SignedDuration::from_secs(later)).unwrap();
                if everywhere {
                    taken.clone_from(&held.lines);
                }
                let before = held.published.clone().unwrap();
                held = plan(held, &wanted.to_string(), everywhere, HOUR, now);
                let published = held.published.clone().unwrap();
                prop_assert!(held.lines.contains(&published) && held.lines.len() <= 2);
                prop_assert!(taken.contains(&published), "{held:?} {taken:?}");
                if published != before {
                    told.push((before, now));
                }
                for (password, when) in &told {
                    if now.duration_since(*when) < HOUR {
                        prop_assert!(held.lines.contains(password), "{password} had its time: {held:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_password_of_members_is_taken_everywhere_before_it_is_used_and_used_everywhere_before_the_old_one_goes() {
        let (mut stage, mut file) = (Stage::Settled, "a".to_owned());
        let mut step = |asked, everywhere| {
            if let Some(next) = stage.next(asked, everywhere) {
                let before: Vec<&str> = file.lines().collect();
                (stage, file) = (next, next.lines(&before, "b"));
            }
            (Stage::parse(stage.mark()), file.clone())
        };
        assert_eq!(step(false, true), (Stage::Settled, "a".into()));
        assert_eq!(step(true, false), (Stage::Added, "a\nb\n".into()));
        assert_eq!(step(true, false), (Stage::Added, "a\nb\n".into()));
        assert_eq!(step(true, true), (Stage::Used, "b\na\n".into()));
        assert_eq!(step(true, false), (Stage::Used, "b\na\n".into()));
        assert_eq!(step(false, true), (Stage::Settled, "b".into()), "also when nobody asks any more");
    }
}
