//! Passwords of a Redis cluster: `NAME-system` the one of the members and the exporters', `NAME-users` those that members take of applications, and `NAME-app`
//! what applications are told. How one takes the place of another is planned in [`passwords`](super::passwords).

use std::collections::BTreeMap;

use crds::redis::{Tls, User};
use jiff::{SignedDuration, Timestamp};
use sidecar_protocol::redis::{PORT, SENTINEL_PORT};

use super::Redis;
use super::observed::Observed;
use super::passwords::{EXPORTER, Held, REPLICATION, Stage, lines, plan, taken_everywhere};
use super::validate::Desired;
use crate::hidden::Hidden;
use crate::names;
use crate::secrets::{self, Accounts, Data, PasswordMissing, Secrets, SecretsError, Slot, bytes, encoded, is_line};

/// Where the user names a Secret.
const FIELD: &str = "spec.users[].secret";
/// In `NAME-system` while the members' password is being replaced: how far that is.
const STAGE: &str = "rotation";
/// On `NAME-system` and `NAME-users`: the request for a rotation that was last answered.
const ANSWERED_ANNOTATION: &str = "understudy.dev/rotated-passwords";
/// On `NAME-users`: until when the second password of whom is taken, as a JSON object.
const OVERLAPS_ANNOTATION: &str = "understudy.dev/password-overlaps";

/// Makes sure of them.
///
/// # Errors
/// When a Secret cannot be read or written.
pub async fn ensure(secrets: &Secrets<'_, Redis>, observed: &Observed, now: Timestamp) -> Result<Accounts, SecretsError> {
    let name = &secrets.desired.name;
    let (system, users) = tokio::try_join!(secrets.get(names::system(name)), secrets.get(names::users(name)))?;
    // Of what is there now: what this pass writes, nobody takes yet.
    let everywhere = taken_everywhere(observed, texts(secrets.desired, &system, &users).iter().map(|(name, text)| (*name, text.as_str())));
    let asked = observed.asked.passwords.as_deref();
    internal(secrets, &system, asked, everywhere).await?;
    let missing = applications(secrets, &users, asked, everywhere, now).await?;
    Ok(Accounts { missing, read_at_start: None })
}

/// The files that are there, in the order in which members read them.
fn texts<'a>(desired: &'a Desired, system: &Slot, users: &Slot) -> Vec<(&'a str, String)> {
    let ours = [EXPORTER, REPLICATION].into_iter().map(|name| (name, system.text(name)));
    let theirs = desired.own.users.iter().map(|user| (user.name.as_str(), users.text(&user.name)));
    ours.chain(theirs).filter_map(|(name, text)| Some((name, text?))).collect()
}

/// What members log in to each other with. The exporters' password is one line, as exporters read it, and is not replaced here.
async fn internal(secrets: &Secrets<'_, Redis>, slot: &Slot, asked: Option<&str>, everywhere: bool) -> Result<(), SecretsError> {
    let mut data = slot.data();
    for name in [REPLICATION, EXPORTER] {
        if slot.text(name).is_none_or(|text| lines(&text).is_empty()) {
            data.insert(name.to_owned(), bytes(secrets::password()?.reveal()));
        }
    }
    let born = slot.text(REPLICATION).is_none();
    let (stage, due) =
        (Stage::parse(slot.text(STAGE).as_deref()), asked.filter(|_| !born && asked != slot.annotation(ANSWERED_ANNOTATION)));
    let next = stage.next(due.is_some(), everywhere);
    if let Some(next) = next {
        let before = slot.text(REPLICATION).unwrap_or_default();
        data.insert(REPLICATION.to_owned(), bytes(&next.lines(&lines(&before), secrets::password()?.reveal())));
        match next.mark() {
            Some(mark) => data.insert(STAGE.to_owned(), bytes(mark)),
            None => data.remove(STAGE),
        };
        tracing::info!(stage = ?next, "the members' password changes");
    }
    // A request is answered when it is through, and one that came with the cluster by its first passwords.
    let answered = if next == Some(Stage::Settled) || born { asked } else { None };
    Ok(secrets.write(slot, "Opaque", data, answered.map(|request| (ANSWERED_ANNOTATION, request))).await?)
}

/// `NAME-users`: under the name of each user the passwords that members take. `NAME-app`: under the name of each user the password to use,
/// under `USER.uri` its connection string. What a user has now stays while its Secret is missing, and what is no user's any more goes.
async fn applications(
    secrets: &Secrets<'_, Redis>,
    taken: &Slot,
    asked: Option<&str>,
    everywhere: bool,
    now: Timestamp,
) -> Result<Option<PasswordMissing>, SecretsError> {
    let desired = secrets.desired;
    let told = secrets.get(names::app(&desired.name)).await?;
    let overlaps: Overlaps = taken.annotation(OVERLAPS_ANNOTATION).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let due = asked.is_some() && asked != taken.annotation(ANSWERED_ANNOTATION);
    let overlap = SignedDuration::from_secs(desired.own.password_overlap_seconds.into());
    let (mut kept, mut handed, mut until, mut missing) = (Data::new(), general(desired), Overlaps::new(), None);
    for user in &desired.own.users {
        let held = held(user, taken, &told, &overlaps);
        let known = held.lines.first().or(held.published.as_ref()).map(Hidden::new);
        let wanted = match &user.secret {
            Some(name) => match secrets.password(name, FIELD).await? {
                Ok(password) => Some(password),
                Err(why) => {
                    missing.get_or_insert(why);
                    known
                }
            },
            // One that was replaced a moment ago is not replaced again.
            None if known.is_some() && (!due || held.lines.len() > 1) => known,
            None => Some(secrets::password()?),
        };
        let Some(wanted) = wanted else { continue };
        let Held { lines, published, until: end } = plan(held, wanted.reveal(), everywhere, overlap, now);
        kept.insert(user.name.clone(), bytes(&lines.join("\n")));
        if let Some(end) = end {
            until.insert(user.name.clone(), end);
        }
        if let Some(published) = published {
            handed.insert(format!("{}.uri", user.name), bytes(&uri(desired, user, &published)));
            handed.insert(user.name.clone(), bytes(&published));
        }
    }
    // In this order: what is handed out is taken already, and the time of the old one begins when the new one is handed out.
    secrets.write(&told, "Opaque", handed, None).await?;
    let until = serde_json::to_string(&until).unwrap_or_default();
    let answered = asked.map(|request| (ANSWERED_ANNOTATION, request));
    secrets.write(taken, "Opaque", kept, [(OVERLAPS_ANNOTATION, until.as_str())].into_iter().chain(answered)).await?;
    Ok(missing)
}

/// Until when the old password of whom is taken.
type Overlaps = BTreeMap<String, Timestamp>;

fn held(user: &User, taken: &Slot, told: &Slot, overlaps: &Overlaps) -> Held {
    let file = taken.text(&user.name).unwrap_or_default();
    Held {
        lines: lines(&file).into_iter().map(str::to_owned).collect(),
        published: told.text(&user.name).filter(|text| is_line(text)),
        until: overlaps.get(&user.name).copied(),
    }
}

fn host(desired: &Desired) -> String {
    format!("{}.{}.svc", names::primary(&desired.name), desired.namespace)
}

/// What every application is told.
fn general(desired: &Desired) -> Data {
    let sentinel = format!("{}.{}.svc:{SENTINEL_PORT}", names::sentinel(&desired.name), desired.namespace);
    [("host", host(desired).as_str()), ("port", &PORT.to_string()), ("sentinel", &sentinel), ("masterName", &desired.own.master_name)]
        .map(|(name, text)| (name.to_owned(), bytes(text)))
        .into()
}

fn uri(desired: &Desired, user: &User, password: &str) -> String {
    let scheme = if desired.own.tls == Tls::Required { "rediss" } else { "redis" };
    format!("{scheme}://{}:{}@{}:{PORT}", encoded(&user.name), encoded(password), host(desired))
}
