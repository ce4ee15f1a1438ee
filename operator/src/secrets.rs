//! The Secrets of a cluster: read by name, made when missing, renewed when due. Nothing lists or watches Secrets.
//!
//! What becomes of the certificates is planned in [`pki`]; here it is read and written. A Secret is created or replaced
//! as it was read (resourceVersion), never forced: two writers cannot overwrite each other's passwords.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::api::PostParams;
use kube::{Api, Client};
use ring::rand::{SecureRandom, SystemRandom};
use sidecar_protocol::client::{ClientError, tls_config};

use crate::apply::{ApplyError, MANAGER, check_owner};
use crate::build::metadata;
use crate::desired::Desired;
use crate::engine::Engine;
use crate::hidden::Hidden;
use crate::names;
use crate::observed::Observed;
use crate::pki::{self, Authority, Held, Members, Names, Pair, PkiError, Step};

/// Key of a password in a user's Secret.
pub const PASSWORD: &str = "password";
/// Length of the passwords that we make: 190 bits.
pub const PASSWORD_LENGTH: usize = 32;
/// On `NAME-ca`: the request for a rotation that was last answered.
const ANSWERED_ANNOTATION: &str = "understudy.dev/rotated-certificates";

/// Why the Secrets are not as they should be.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// Reading, writing, or whose they are.
    #[error(transparent)]
    Objects(#[from] ApplyError),
    /// Certificates cannot be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The system gives no random numbers.
    #[error("the system gives no random numbers")]
    Random,
}

impl SecretsError {
    /// For condition reasons and metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Objects(error) => error.category(),
            Self::Pki(_) | Self::Random => "CertificatesFailed",
        }
    }
}

/// The Secret that the user named cannot be used. The cluster runs; only the application's account waits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PasswordMissing {
    /// There is none.
    #[error("Secret {0} ({1}) does not exist; create it with the key 'password'")]
    NoSecret(String, &'static str),
    /// It has no usable password.
    #[error("Secret {0} ({1}) needs the key 'password' with one line of text")]
    NoPassword(String, &'static str),
    /// The key by which members know each other is gone from our own Secret. A new one would part those who run from those who start.
    #[error(
        "the Secret {secret} was deleted, and with it the key by which members know each other; those that run still hold it, none that starts now \
         joins them. Give it back: kubectl patch secret {secret} --type merge -p \"{{\\\"stringData\\\":{{\\\"keyfile\\\":\\\"$(kubectl exec \
         {member} -c mongodb -- cat /understudy/run/keyfile)\\\"}}}}\""
    )]
    NoKey {
        /// Which.
        secret: String,
        /// Who holds it.
        member: String,
    },
}

impl PasswordMissing {
    /// Reason of the condition.
    pub const REASON: &'static str = "SecretMissing";
}

/// What the operator calls members with. It changes only when a certificate does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Whom to trust, PEM.
    pub bundle: String,
    /// The operator's certificate and key.
    pub pair: Pair,
}

impl Credentials {
    /// Configuration of the connections to members.
    ///
    /// # Errors
    /// When a certificate cannot be used.
    pub fn tls(&self) -> Result<rustls::ClientConfig, ClientError> {
        tls_config(self.bundle.as_bytes(), self.pair.certificate.as_bytes(), self.pair.key.reveal().as_bytes())
    }
}

/// What came of an engine's passwords and keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accounts {
    /// What the user has to mend; ask again in some seconds.
    pub missing: Option<PasswordMissing>,
    /// What of them a member reads only when it starts, as a digest: pods of another one are outdated. `None`: as it was.
    pub read_at_start: Option<String>,
}

/// What came of it all.
#[derive(Clone, Debug)]
pub struct Ensured {
    /// For calling members.
    pub credentials: Credentials,
    /// The engine's passwords and keys.
    pub accounts: Accounts,
}

/// Makes and renews what is missing or due.
///
/// # Errors
/// When a Secret cannot be read or written, or is not ours.
pub async fn ensure<E: Engine>(
    client: &Client,
    desired: &Desired<E>,
    observed: &Observed<E>,
    status: &E::Status,
    now: Timestamp,
) -> Result<Ensured, SecretsError> {
    let secrets = Secrets::of(client, desired);
    // For each pod that exists what its report says it trusts, `None` while it is silent.
    let exists = observed.members.values().filter(|member| member.pod.is_some());
    let trusts: Vec<_> = exists.map(|member| Some(member.report.answered()?.trust.clone())).collect();
    let (credentials, accounts) = tokio::try_join!(secrets.certificates(&trusts, now), E::accounts(&secrets, observed, status))?;
    Ok(Ensured { credentials, accounts })
}

/// What a Secret holds.
pub type Data = BTreeMap<String, ByteString>;

/// The Secrets of one cluster.
pub struct Secrets<'a, E: Engine> {
    api: Api<Secret>,
    /// Whose.
    pub desired: &'a Desired<E>,
}

impl<'a, E: Engine> Secrets<'a, E> {
    /// Those of the cluster that `desired` is.
    #[must_use]
    pub fn of(client: &Client, desired: &'a Desired<E>) -> Self {
        Self { api: Api::namespaced(client.clone(), &desired.namespace), desired }
    }

    /// One of our own, checked to be that.
    ///
    /// # Errors
    /// When it cannot be read, or is somebody else's.
    pub async fn get(&self, name: String) -> Result<Slot, ApplyError> {
        let living = self.read(&name).await?;
        if let Some(secret) = &living {
            check_owner::<Secret>(&secret.metadata, &self.desired.owner())?;
        }
        Ok(Slot { name, living })
    }

    async fn read(&self, name: &str) -> Result<Option<Secret>, ApplyError> {
        self.api.get_opt(name).await.map_err(|error| ApplyError::api::<Secret>("get", name, error))
    }

    /// Writes `data` and `annotations` unless the Secret holds them already.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn write<'b>(
        &self,
        slot: &Slot,
        type_: &str,
        data: Data,
        annotations: impl IntoIterator<Item = (&'b str, &'b str)>,
    ) -> Result<(), ApplyError> {
        let Slot { name, living } = slot;
        let fresh = || Secret { metadata: metadata(self.desired, name.clone()), type_: Some(type_.to_owned()), ..Secret::default() };
        let mut wanted = living.clone().unwrap_or_else(fresh);
        wanted.data = Some(data);
        for (key, value) in annotations {
            wanted.metadata.annotations.get_or_insert_default().insert(key.to_owned(), value.to_owned());
        }
        let parameters = PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
        let written = match living {
            Some(living) if *living == wanted => return Ok(()),
            Some(_) => self.api.replace(name, &parameters, &wanted).await,
            None => self.api.create(&parameters, &wanted).await,
        };
        written.map_err(|error| ApplyError::api::<Secret>("write", name, error))?;
        tracing::info!(kind = "Secret", name, "written");
        Ok(())
    }

    /// `NAME-system` with a random text of each of these lengths under these keys: made once.
    ///
    /// # Errors
    /// When it cannot be read or written.
    pub async fn system(&self, keys: &[(&str, usize)]) -> Result<(), SecretsError> {
        let slot = self.get(names::system(&self.desired.name)).await?;
        let mut data = slot.data();
        for (key, length) in keys {
            if slot.text(key).is_none_or(|text| text.is_empty()) {
                data.insert((*key).to_owned(), bytes(random(*length)?.reveal()));
            }
        }
        Ok(self.write(&slot, "Opaque", data, None).await?)
    }

    /// The password in a Secret of the user's, named in `field`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn password(&self, name: &str, field: &'static str) -> Result<Result<Hidden, PasswordMissing>, ApplyError> {
        let Some(secret) = self.read(name).await? else { return Ok(Err(PasswordMissing::NoSecret(name.to_owned(), field))) };
        let password = text(&secret, PASSWORD).filter(|text| is_line(text)).map(Hidden::new);
        Ok(password.ok_or_else(|| PasswordMissing::NoPassword(name.to_owned(), field)))
    }

    async fn certificates(&self, trusts: &[Option<String>], now: Timestamp) -> Result<Credentials, SecretsError> {
        let name = &self.desired.name;
        let (tls, ca) = tokio::try_join!(self.get(names::tls(name)), self.get(names::ca(name)))?;
        let names = Names { cluster: self.desired.name.clone(), namespace: self.desired.namespace.clone() };
        let held = Held { authority: authority(&ca), members: members(&tls) };
        let asked = self.desired.rotate.as_deref();
        let plan = pki::plan(&held, &names, asked, trusts, now);
        if plan.step != Step::Stay || plan.members || plan.operator {
            tracing::info!(step = ?plan.step, members = plan.members, operator = plan.operator, "certificates change");
        }
        let (authority, members) = pki::carry_out(&held, plan, &names, asked, now)?;
        let answered = authority.answered.as_deref().map(|request| (ANSWERED_ANNOTATION, request));
        // In this order: what a member shows must never be newer than what we can still sign for.
        self.write(&ca, "Opaque", authority_data(&authority), answered).await?;
        self.write(&tls, "kubernetes.io/tls", members_data(&members), None).await?;
        let bundle = authority.bundle();
        let pair = authority.operator.ok_or(PkiError::NoKey)?;
        Ok(Credentials { bundle, pair })
    }
}

/// A name and what lives under it.
#[derive(Debug)]
pub struct Slot {
    name: String,
    living: Option<Secret>,
}

impl Slot {
    /// All of it.
    #[must_use]
    pub fn data(&self) -> Data {
        self.living.as_ref().and_then(|secret| secret.data.clone()).unwrap_or_default()
    }

    /// The text under `key`.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        text(self.living.as_ref()?, key)
    }

    /// An annotation of it.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        Some(self.living.as_ref()?.metadata.annotations.as_ref()?.get(key)?.as_str())
    }
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    String::from_utf8(secret.data.as_ref()?.get(key)?.0.clone()).ok()
}

/// Text as Secrets hold it.
#[must_use]
pub fn bytes(text: &str) -> ByteString {
    ByteString(text.as_bytes().to_vec())
}

/// Whether it is one line of printable text.
#[must_use]
pub fn is_line(text: &str) -> bool {
    !text.is_empty() && !text.contains(char::is_control)
}

fn pair(slot: &Slot, name: &str) -> Option<Pair> {
    Some(Pair { certificate: slot.text(&format!("{name}.crt"))?, key: Hidden::new(slot.text(&format!("{name}.key"))?) })
}

fn authority(slot: &Slot) -> Option<Authority> {
    Some(Authority {
        current: slot.text("ca.crt")?,
        key: slot.text("ca.key").map(Hidden::new),
        next: pair(slot, "next"),
        previous: slot.text("previous.crt"),
        operator: pair(slot, "operator"),
        answered: slot.annotation(ANSWERED_ANNOTATION).map(str::to_owned),
    })
}

fn authority_data(authority: &Authority) -> Data {
    // Destructured whole: a key that is not written is a key that is lost.
    let Authority { current, key, next, previous, operator, answered: _ } = authority;
    let mut data = Data::from([("ca.crt".to_owned(), bytes(current))]);
    let mut set = |name: &str, text: &str| data.insert(name.to_owned(), bytes(text));
    if let Some(key) = key {
        set("ca.key", key.reveal());
    }
    if let Some(previous) = previous {
        set("previous.crt", previous);
    }
    for (name, pair) in [("next", next), ("operator", operator)] {
        if let Some(Pair { certificate, key }) = pair {
            set(&format!("{name}.crt"), certificate);
            set(&format!("{name}.key"), key.reveal());
        }
    }
    data
}

fn members(slot: &Slot) -> Option<Members> {
    Some(Members { bundle: slot.text("ca.crt")?, pair: pair(slot, "tls")? })
}

fn members_data(members: &Members) -> Data {
    let Members { bundle, pair: Pair { certificate, key } } = members;
    [("ca.crt", bundle.as_str()), ("tls.crt", certificate), ("tls.key", key.reveal())]
        .map(|(name, text)| (name.to_owned(), bytes(text)))
        .into()
}

/// Percent-encoded, as a part of a URI.
#[must_use]
pub fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A password of our own making.
///
/// # Errors
/// When the system gives no random numbers.
pub fn password() -> Result<Hidden, SecretsError> {
    random(PASSWORD_LENGTH)
}

/// Letters and digits only: it survives every shell, URI and option file.
///
/// # Errors
/// When the system gives no random numbers.
pub fn random(length: usize) -> Result<Hidden, SecretsError> {
    const LETTERS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
    let random = SystemRandom::new();
    let mut text = String::with_capacity(length);
    while text.len() < length {
        let mut draw = [0_u8; PASSWORD_LENGTH];
        random.fill(&mut draw).map_err(|_| SecretsError::Random)?;
        // Four times 62 is 248: what is above would make some letters likelier.
        let letters = draw.iter().filter(|byte| **byte < 248).map(|byte| char::from(LETTERS[usize::from(*byte) % LETTERS.len()]));
        text.extend(letters.take(length - text.len()));
    }
    Ok(Hidden::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_long_plain_and_never_the_same() {
        let (one, two) = (password().unwrap(), password().unwrap());
        assert_ne!(one, two);
        assert_eq!(one.reveal().len(), PASSWORD_LENGTH);
        assert!(one.reveal().bytes().all(|byte| byte.is_ascii_alphanumeric()));
        assert_eq!(format!("{one:?}"), "***");
    }

    #[test]
    fn a_uri_survives_any_password() {
        assert_eq!(encoded("p@ss:w/ö?#%"), "p%40ss%3Aw%2F%C3%B6%3F%23%25");
        assert_eq!(encoded("Az09-._~"), "Az09-._~");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let names = Names { cluster: "orders".into(), namespace: "shop".into() };
        let (now, asked) = (Timestamp::from_second(1_800_000_000).unwrap(), Some("today"));
        let mut held = Held::default();
        // Through every shape of NAME-ca: made, both CAs, new with its predecessor, new alone.
        for _ in 0..5 {
            let trusts: Vec<_> = held.members.iter().map(|members| Some(pki::trust(&members.bundle))).collect();
            let asked = asked.filter(|_| held.authority.is_some());
            let (authority, members) = pki::carry_out(&held, pki::plan(&held, &names, asked, &trusts, now), &names, asked, now).unwrap();
            let annotations = authority.answered.clone().map(|value| [(ANSWERED_ANNOTATION.to_owned(), value)].into());
            let slot = |data, annotations| {
                let mut secret = Secret { data: Some(data), ..Secret::default() };
                secret.metadata.annotations = annotations;
                Slot { name: String::new(), living: Some(secret) }
            };
            let ca = slot(authority_data(&authority), annotations);
            let tls = slot(members_data(&members), None);
            held = Held { authority: Some(authority), members: Some(members) };
            assert_eq!(Held { authority: super::authority(&ca), members: super::members(&tls) }, held);
        }
    }
}
