//! Whether clients may be sent here: a primary that takes writes, a secondary that is fresh enough, an arbiter (states 1, 2 and 7).

use std::time::Duration;

use sidecar_protocol::mongo::status::MemberState;

use super::observe::Facts;

/// Whether clients may come. While nobody leads it is not known how far a secondary is behind, and it goes on serving reads.
#[must_use]
pub fn judge(facts: &Facts, max_lag_seconds: u32) -> bool {
    match facts.member {
        // One that is catching up before it takes writes serves reads.
        MemberState::Primary => facts.hello.writable || facts.hello.secondary,
        MemberState::Secondary => max_lag_seconds == 0 || facts.lag().is_none_or(|lag| lag <= Duration::from_secs(max_lag_seconds.into())),
        MemberState::Arbiter => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use sidecar_protocol::mongo::status::{MemberStatus, OpTime, Status, Timestamp};

    use super::super::link::Hello;
    use super::*;

    fn at(seconds: u32) -> Option<OpTime> {
        Some(OpTime { t: 1, ts: Timestamp { t: seconds, i: 1 } })
    }

    fn secondary(behind: u32, led: bool) -> Facts {
        let leader = if led { MemberState::Primary } else { MemberState::Down };
        let member = |id, state, optime| MemberStatus { id, name: format!("m-{id}:27017"), state, optime };
        let members = vec![member(0, leader, at(100)), member(1, MemberState::Secondary, at(100 - behind))];
        let status = Status { set: "rs0".into(), term: 1, members };
        Facts { member: MemberState::Secondary, optime: at(100 - behind), status: Some(status), ..Facts::default() }
    }

    #[test]
    fn a_secondary_that_lags_too_much_is_not_ready() {
        assert!(judge(&secondary(30, true), 30) && !judge(&secondary(31, true), 30));
        assert!(judge(&secondary(90, true), 0), "0 is any lag");
    }

    #[test]
    fn a_secondary_serves_reads_while_nobody_leads() {
        assert!(judge(&secondary(90, false), 30));
    }

    #[test]
    fn who_copies_or_is_removed_is_not_ready() {
        for member in [MemberState::Startup2, MemberState::Recovering, MemberState::Removed, MemberState::Unknown, MemberState::Rollback] {
            assert!(!judge(&Facts { member, ..Facts::default() }, 0));
        }
        assert!(judge(&Facts { member: MemberState::Arbiter, ..Facts::default() }, 30));
    }

    #[test]
    fn a_primary_is_ready_when_it_answers_clients() {
        let hello = Hello { writable: true, ..Hello::default() };
        assert!(judge(&Facts { member: MemberState::Primary, hello, ..Facts::default() }, 30));
        assert!(!judge(&Facts { member: MemberState::Primary, ..Facts::default() }, 30), "neither yet");
    }
}
