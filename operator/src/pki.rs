//! The certificates of a cluster: one CA each, a certificate that its members share, one for the operator. No I/O.
//!
//! [`plan`] looks at what the Secrets hold and says what comes next; [`carry_out`] makes the keys. A CA is replaced in three phases,
//! so that at no moment somebody is shown a certificate that they do not trust yet, or any more:
//!
//! 1. [`Step::Begin`]: everybody is given the bundle old+new; certificates are still of the old.
//! 2. [`Step::Switch`], when every member says that it trusts old+new: certificates of the new, and the bundle new+old. The order
//!    tells the two bundles apart, so a member that trusts new+old also has its new certificate: they come in one Secret.
//! 3. [`Step::Finish`], when every member says that it trusts new+old: the bundle is new.
//!
//! The CA's key may be lost with its Secret ([`Step::Adopt`]). Then the same phases run with an old CA that signs no more.

mod x509;

use jiff::Timestamp;
use ring::digest::{SHA256, digest};

use crate::hidden::Hidden;
pub use x509::PkiError;

/// Whose certificates these are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Name of the cluster.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

/// A certificate and its key, PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: Hidden,
}

/// What `NAME-ca` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authority {
    /// The CA that members trust.
    pub current: String,
    /// Its key; lost when this Secret was.
    pub key: Option<Hidden>,
    /// Its successor, in phase 1.
    pub next: Option<Pair>,
    /// Its predecessor, in phase 2.
    pub previous: Option<String>,
    /// The operator's own certificate.
    pub operator: Option<Pair>,
    /// The request for a rotation that was last answered.
    pub answered: Option<String>,
}

impl Authority {
    /// What members and the operator trust.
    #[must_use]
    pub fn bundle(&self) -> String {
        let second = self.next.as_ref().map(|next| &next.certificate).or(self.previous.as_ref());
        format!("{}{}", self.current, second.map_or("", String::as_str))
    }

    /// The CA that signs.
    fn signer(&self) -> Option<(&str, &Hidden)> {
        let next = self.next.as_ref().map(|next| (next.certificate.as_str(), &next.key));
        self.key.as_ref().map(|key| (self.current.as_str(), key)).or(next)
    }

    fn is_usable(&self) -> bool {
        x509::is_bundle(&self.current)
            && self.signer().is_some_and(|(certificate, key)| x509::fits(certificate, key))
            && self.next.as_ref().is_none_or(|next| x509::fits(&next.certificate, &next.key))
            && self.previous.as_ref().is_none_or(|previous| x509::is_bundle(previous))
    }
}

/// What `NAME-tls` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// Whom members trust.
    pub bundle: String,
    /// The certificate that they share.
    pub pair: Pair,
}

/// What the two Secrets hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// `NAME-ca`, as far as it can be read.
    pub authority: Option<Authority>,
    /// `NAME-tls`, as far as it can be read.
    pub members: Option<Members>,
}

/// What happens to the CA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Stay,
    /// There is none: the first.
    Create,
    /// Its key is lost, and members trust it: a new one beside it.
    Adopt,
    /// Phase 1.
    Begin,
    /// Phase 2.
    Switch,
    /// Phase 3.
    Finish,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// With the CA.
    pub step: Step,
    /// Issue the members' certificate.
    pub members: bool,
    /// Issue the operator's certificate.
    pub operator: bool,
}

/// Plans. `trusts` has an entry for each pod that exists: the hash of the bundle it trusts, `None` while it does not say.
/// `asked` is the user's request for a rotation, any text.
#[must_use]
pub fn plan(held: &Held, names: &Names, asked: Option<&str>, trusts: &[Option<String>], now: Timestamp) -> Plan {
    let Some(authority) = held.authority.as_ref().filter(|authority| authority.is_usable()) else {
        let known = held.members.as_ref().filter(|members| x509::is_bundle(&members.bundle));
        return match known {
            Some(members) => {
                Plan { step: Step::Adopt, members: !x509::members_valid(&members.pair, &members.bundle, names, now), operator: true }
            }
            None => Plan { step: Step::Create, members: true, operator: true },
        };
    };
    let step = step(authority, held.members.as_ref(), asked, trusts, now);
    if step == Step::Switch {
        return Plan { step, members: true, operator: true };
    }
    let members = held.members.as_ref().is_none_or(|members| {
        let valid = x509::members_valid(&members.pair, &authority.current, names, now);
        // An old CA without its key cannot renew; what it signed serves until phase 2.
        !valid || authority.key.is_some() && x509::is_due(&members.pair.certificate, now)
    });
    let operator = match (&authority.operator, authority.signer()) {
        (Some(pair), Some((signer, _))) => !x509::operator_valid(pair, signer, now) || x509::is_due(&pair.certificate, now),
        _ => true,
    };
    Plan { step, members, operator }
}

fn step(authority: &Authority, members: Option<&Members>, asked: Option<&str>, trusts: &[Option<String>], now: Timestamp) -> Step {
    let bundle = authority.bundle();
    let hash = trust(&bundle);
    // What is not in the Secret yet, nobody who starts now would trust.
    let everybody =
        members.is_some_and(|members| members.bundle == bundle) && trusts.iter().all(|trust| trust.as_deref() == Some(hash.as_str()));
    let wanted = asked.is_some() && asked != authority.answered.as_deref() || x509::is_due(&authority.current, now);
    match (&authority.next, &authority.previous) {
        (Some(_), _) if everybody => Step::Switch,
        (None, Some(_)) if everybody => Step::Finish,
        (None, None) if wanted => Step::Begin,
        _ => Step::Stay,
    }
}

/// Does it: what the Secrets shall hold. `NAME-ca` is written first; if the second write fails, the next plan repeats it.
///
/// # Errors
/// When a key cannot be made or used.
pub fn carry_out(held: &Held, plan: Plan, names: &Names, asked: Option<&str>, now: Timestamp) -> Result<(Authority, Members), PkiError> {
    let fresh = || x509::authority(names, now);
    let mut authority = match (plan.step, &held.authority, &held.members) {
        (Step::Adopt, _, Some(members)) => Authority {
            current: members.bundle.clone(),
            key: None,
            next: Some(fresh()?),
            previous: None,
            operator: None,
            answered: asked.map(str::to_owned),
        },
        (Step::Create | Step::Adopt, ..) | (_, None, _) => {
            let first = fresh()?;
            Authority {
                current: first.certificate,
                key: Some(first.key),
                next: None,
                previous: None,
                operator: None,
                answered: asked.map(str::to_owned),
            }
        }
        (Step::Begin, Some(authority), _) => {
            Authority { next: Some(fresh()?), answered: asked.map(str::to_owned).or(authority.answered.clone()), ..authority.clone() }
        }
        (Step::Switch, Some(Authority { current, next: Some(next), operator, answered, .. }), _) => Authority {
            current: next.certificate.clone(),
            key: Some(next.key.clone()),
            next: None,
            previous: Some(current.clone()),
            operator: operator.clone(),
            answered: answered.clone(),
        },
        (Step::Finish, Some(authority), _) => Authority { previous: None, ..authority.clone() },
        (Step::Stay | Step::Switch, Some(authority), _) => authority.clone(),
    };
    let (signer, key) = authority.signer().ok_or(PkiError::NoKey)?;
    let pair = match &held.members {
        Some(members) if !plan.members => members.pair.clone(),
        _ => x509::members(signer, key, names, now)?,
    };
    let operator = match &authority.operator {
        Some(operator) if !plan.operator => operator.clone(),
        _ => x509::operator(signer, key, now)?,
    };
    authority.operator = Some(operator);
    let members = Members { bundle: authority.bundle(), pair };
    Ok((authority, members))
}

/// How a member names the bundle that it trusts: SHA-256 in hex.
#[must_use]
pub fn trust(bundle: &str) -> String {
    digest(&SHA256, bundle.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
