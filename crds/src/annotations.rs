//! What a person asks of a cluster beyond its spec, by annotations on the custom resource.
//!
//! Each names the state that it was made for (a term, a data directory), so one that is left behind asks for nothing.

/// `MEMBER@TERM`: promote this member in this term, and lose what it does not hold.
pub const ACCEPT_LOSS: &str = "understudy.dev/accept-loss";
/// `MEMBER@TERM` or `any@TERM`: hand the primary's role over in this term.
pub const SWITCHOVER: &str = "understudy.dev/switchover";
/// `MEMBER,MEMBER`: these serve nobody and are not promoted, for as long as they are named.
pub const FENCED: &str = "understudy.dev/fenced";
/// `MEMBER@SERVER_UUID`: discard this data directory and clone it anew.
pub const RECLONE: &str = "understudy.dev/reclone";
/// The words that the condition of a lost majority shows: force the configuration of a MongoDB replica set, in exactly this situation.
pub const FORCE: &str = "understudy.dev/force";
/// All of them.
pub const ASKED: [&str; 5] = [ACCEPT_LOSS, SWITCHOVER, FENCED, RECLONE, FORCE];
/// In the place of a member: whichever is best.
pub const ANY: &str = "any";

/// How a condition offers the words of [`FORCE`].
#[must_use]
pub fn offer(words: &str) -> String {
    format!("{FORCE}: '{words}'")
}

/// The words that a condition's message offers by [`offer`].
#[must_use]
pub fn offered(message: &str) -> Option<&str> {
    let (_, rest) = message.rsplit_once(&format!("{FORCE}: '"))?;
    rest.split_once('\'').map(|(words, _)| words)
}

/// Whether `value` of the annotation `key` asks for something in this term.
#[must_use]
pub fn counts(key: &str, value: &str, term: u64) -> bool {
    let in_term = key == ACCEPT_LOSS || key == SWITCHOVER;
    !in_term || value.trim().rsplit_once('@').is_some_and(|(_, of)| of.parse() == Ok(term))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_another_term_asks_for_nothing() {
        assert!(counts(SWITCHOVER, "shop-1@3", 3) && counts(ACCEPT_LOSS, "shop-1@3", 3));
        assert!(!counts(SWITCHOVER, "shop-1@2", 3) && !counts(SWITCHOVER, "shop-1", 3));
        assert!(counts(FENCED, "shop-1", 3) && counts(RECLONE, "shop-1@uuid", 3));
    }

    #[test]
    fn the_words_that_are_offered_are_found_again() {
        let words = "force stock-2.stock.db.svc:27017 at term 5 time 9.1 without stock-0.stock.db.svc:27017";
        assert_eq!(offered(&format!("bring them back, or annotate it with {}, which loses", offer(words))), Some(words));
        assert_eq!(offered("nobody who can be reached could lead"), None);
    }
}
