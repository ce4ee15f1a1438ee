//! Who of those that are wanted is to vote (pure): an odd number of at most seven, spread over the zones.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::Wanted;
use crate::mongo::MAX_VOTERS;
use crate::mongo::rules::is_thin;

/// One seat or none for each of `wanted`.
///
/// Those who hold data come first, the n-th of each zone before the n+1-th of any, then by ordinal; but the first of all is one that
/// may lead, since a set without it has no primary. Arbiters fill up to an odd number, always fewer than those who hold data; and those
/// that would make data scarce ([`is_thin`]) only with `consent`, or when they are `there` already; with it nobody asks.
pub(super) fn seats(wanted: &[Wanted], may_lead: &[bool], there: &[bool], consent: bool) -> Vec<bool> {
    let all: Vec<usize> = places(wanted, |member| member.arbiter).collect();
    let data = by_zone(wanted, may_lead);
    let mut elected = elect(&data, &all);
    let writers = elected.iter().filter(|place| !wanted[**place].arbiter).count();
    if is_thin(elected.len(), writers) && !consent {
        elected = elect(&data, &all.into_iter().filter(|place| there[*place]).collect::<Vec<_>>());
    }
    (0..wanted.len()).map(|place| elected.contains(&place)).collect()
}

fn places(wanted: &[Wanted], which: impl Fn(&Wanted) -> bool) -> impl Iterator<Item = usize> {
    wanted.iter().enumerate().filter(move |(_, member)| which(member)).map(|(place, _)| place)
}

fn by_zone(wanted: &[Wanted], may_lead: &[bool]) -> Vec<usize> {
    let mut rounds: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let mut data: Vec<(usize, usize)> = places(wanted, |member| !member.arbiter)
        .map(|place| {
            let round = rounds.entry(wanted[place].zone.as_deref()).or_default();
            *round += 1;
            (*round, place)
        })
        .collect();
    data.sort_unstable();
    let head = data.iter().map(|(_, place)| *place).find(|place| may_lead[*place]);
    data.sort_by_key(|(_, place)| Reverse(Some(*place) == head));
    data.into_iter().map(|(_, place)| place).collect()
}

fn elect(data: &[usize], arbiters: &[usize]) -> Vec<usize> {
    let most = MAX_VOTERS.min(data.len() + arbiters.len().min(data.len().saturating_sub(1)));
    let seats = if most.is_multiple_of(2) { most.saturating_sub(1) } else { most };
    data.iter().chain(arbiters).copied().take(seats).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `d` holds data, `0` does and never leads, `a` is an arbiter; zones by letter.
    fn elected(kinds: &str, zones: &str, consent: bool) -> String {
        let zones = zones.chars().map(|zone| Some(zone.to_string())).chain(std::iter::repeat(None));
        let wanted: Vec<_> = kinds
            .chars()
            .zip(zones)
            .enumerate()
            .map(|(ordinal, (kind, zone))| Wanted {
                host: format!("m-{ordinal}:27017"),
                aliases: vec![],
                zone,
                arbiter: kind == 'a',
                priority: if kind == 'd' { 1.0 } else { 0.0 },
            })
            .collect();
        let may_lead: Vec<_> = kinds.chars().map(|kind| kind == 'd').collect();
        let seats = seats(&wanted, &may_lead, &vec![false; wanted.len()], consent);
        kinds.chars().zip(seats).map(|(kind, seat)| if seat { kind } else { '-' }).collect()
    }

    #[test]
    fn an_odd_number_votes_and_never_more_than_seven() {
        assert_eq!(elected("dd", "", false), "d-");
        assert_eq!(elected("dddd", "", false), "ddd-");
        assert_eq!(elected("dddddddddd", "", false), "ddddddd---");
    }

    #[test]
    fn votes_are_spread_over_zones() {
        assert_eq!(elected("ddddddddd", "aaaaabbcc", false), "ddd--dddd");
        assert_eq!(elected("dddd", "aaab", false), "dd-d");
    }

    #[test]
    fn an_arbiter_makes_an_even_number_odd() {
        assert_eq!(elected("dddda", "", false), "dddda");
        assert_eq!(elected("ddda", "", true), "ddd-");
        assert_eq!(elected("aadd", "", true), "a-dd");
    }

    #[test]
    fn an_arbiter_beside_two_needs_a_consent() {
        assert_eq!(elected("dda", "", false), "d--");
        assert_eq!(elected("dda", "", true), "dda");
    }

    #[test]
    fn arbiters_are_fewer_than_those_who_hold_data() {
        assert_eq!(elected("da", "", true), "d-");
        assert_eq!(elected("a", "", true), "-");
    }

    #[test]
    fn one_that_may_lead_always_votes() {
        assert_eq!(elected("0000d", "", false), "0000d");
        assert_eq!(elected("00000000d", "aaaaaaaaa", false), "000000--d");
    }
}
