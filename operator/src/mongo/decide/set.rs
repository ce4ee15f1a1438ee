//! The set that there shall be, and the order of each member: the same for everybody, but for who stands and who yields.

use std::collections::{BTreeMap, BTreeSet};

use sidecar_protocol::mongo::config::SetId;
use sidecar_protocol::mongo::plan::{Consent, Desired as Set, Wanted};
use sidecar_protocol::mongo::{Assignment, Part, Role, User, Yield};

use super::{Authority, Decision, State, View, rollout};
use crate::mongo::validate::{Feature, release};

/// The set that there shall be.
pub fn wanted(view: &View<'_>) -> Set {
    let member = |ordinal: u32| {
        let (arbiter, zone) = (view.desired.is_arbiter(ordinal), view.zone(ordinal));
        let given = zone.as_ref().and_then(|zone| view.desired.own.zones.priorities.get(zone));
        let priority = if arbiter || view.is_fenced(ordinal) { 0.0 } else { given.map_or(1.0, |priority| f64::from(*priority)) };
        Wanted { host: view.desired.set_host(ordinal), aliases: Vec::new(), zone, arbiter, priority }
    };
    Set {
        members: (0..view.desired.replicas).map(member).collect(),
        set_id: view.status.replica_set_id.clone().map(|hex| SetId { hex }),
        consent: Consent { thin: view.desired.own.thin, force: view.status.consent.clone() },
    }
}

/// Everybody's order. `stands` is a member and the election after which it is to stand, `yields` the leader and to whom it is to yield.
pub fn orders(view: &View<'_>, stands: Option<(u32, i64)>, yields: Option<(u32, Yield)>) -> BTreeMap<u32, Assignment> {
    let part = Part { desired: wanted(view), users: users(view), fcv: ordered_feature(view), stand: None, yield_to: None };
    let order = |ordinal: u32| Part {
        stand: stands.filter(|(who, _)| *who == ordinal).map(|(_, term)| term),
        yield_to: yields.as_ref().filter(|(who, _)| *who == ordinal).map(|(_, to)| to.clone()),
        ..part.clone()
    };
    view.observed.members.keys().map(|ordinal| (*ordinal, Assignment::Member(Box::new(order(*ordinal))))).collect()
}

fn users(view: &View<'_>) -> Vec<User> {
    let users = view.desired.own.users.iter().map(|user| User {
        name: user.name.clone(),
        database: user.database.clone(),
        roles: user.roles.iter().map(|role| Role { role: role.role.clone(), db: role.db.clone() }).collect(),
        // The file has the user's name, whatever Secret its password came from.
        secret: user.name.clone(),
    });
    users.collect()
}

/// Only what is recorded is ordered: a feature version that was raised does not come down again.
fn ordered_feature(view: &View<'_>) -> Option<String> {
    view.status.feature_compatibility_version.clone().filter(|_| view.desired.own.feature != Feature::Manual)
}

/// Claims the feature version that there shall be, once every binary takes it and nothing else goes on.
pub fn feature(view: &View<'_>, leader: u32) -> Option<Decision> {
    let state = view.state(leader)?;
    let quiet = state.said.as_ref().is_some_and(|said| said.settled)
        && (0..view.desired.replicas).all(|ordinal| view.serves(ordinal))
        && rollout::outdated(view).is_empty();
    if !quiet {
        return None;
    }
    let releases = (0..view.desired.replicas).map(|ordinal| release(view.state(ordinal)?.version.as_deref()?));
    let releases: BTreeSet<(u16, u16)> = releases.collect::<Option<_>>()?;
    let (major, minor) = match view.desired.own.feature {
        Feature::Manual => return None,
        Feature::Automatic => releases.first().copied().filter(|_| releases.len() == 1)?,
        Feature::Version(major, minor) => {
            releases.first().map(|_| (major, minor)).filter(|wanted| releases.iter().all(|of| of >= wanted))?
        }
    };
    let version = format!("{major}.{minor}");
    let known = view.status.feature_compatibility_version.as_ref();
    if known == Some(&version) || known.is_none() && state.fcv.as_ref() == Some(&version) {
        return None;
    }
    let authority = Authority { feature: Some(version.clone()), ..Authority::of(view.status) };
    Some(Decision::claim(view, State::Updating, format!("every member runs {version} or newer: its features are allowed"), authority))
}
