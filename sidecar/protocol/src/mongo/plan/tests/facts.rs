//! One rule a test.

use super::world::{SERVER, World, arbiter, at, desired, set_id, silent, voter, wanted};
use crate::mongo::Answer;
use crate::mongo::config::{Member, SetId};
use crate::mongo::plan::{Consent, Next, plan};
use crate::mongo::rules::Server;
use crate::mongo::status::MemberState;

#[test]
fn one_grows_to_three_in_two_votes() {
    let mut world = World::new(vec![voter(0)], desired(3));
    assert_eq!(
        world.walk().unwrap(),
        [
            "added m-1:27017, m-2:27017, without a vote until it is a secondary",
            "m-1:27017 votes from now on",
            "m-2:27017 votes from now on"
        ]
    );
    assert_eq!(world.next(), Next::Settled);
}
