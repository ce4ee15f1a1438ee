//! The key by which members trust each other, and the passwords of the users with what they need to connect.

use crds::mongo::{MongoReplicaSetStatus, Tls, User};
use sidecar_protocol::mongo::PORT;

use super::Mongo;
use super::keys::{self, Held, Step};
use super::observed::Observed;
use super::validate::Desired;
use crate::hidden::Hidden;
use crate::names;
use crate::secrets::{self, Accounts, PasswordMissing, Secrets, SecretsError, bytes, encoded, is_line};

/// Where the user names a Secret.
const FIELD: &str = "spec.users[].secret";

/// Makes sure of them.
///
/// # Errors
/// When a Secret cannot be read or written.
pub async fn ensure(secrets: &Secrets<'_, Mongo>, observed: &Observed, status: &MongoReplicaSetStatus) -> Result<Accounts, SecretsError> {
    let (read_at_start, lost) = key(secrets, observed, status).await?;
    let missing = users(secrets).await?;
    Ok(Accounts { missing: lost.or(missing), read_at_start })
}

/// The key file in `NAME-system`, as [`keys::plan`] has it; its digest.
async fn key(
    secrets: &Secrets<'_, Mongo>,
    observed: &Observed,
    status: &MongoReplicaSetStatus,
) -> Result<(Option<String>, Option<PasswordMissing>), SecretsError> {
    let desired = secrets.desired;
    let slot = secrets.get(names::system(&desired.name)).await?;
    let (file, next) = (slot.text(keys::FILE).filter(|text| !text.is_empty()), slot.text(keys::NEXT));
    let asked = observed.asked.key.as_deref();
    let held = Held { file: file.as_deref(), next: next.as_deref(), answered: slot.annotation(keys::ANSWERED_ANNOTATION) };
    let step = keys::plan(&held, status.replica_set_id.is_some(), asked, keys::all_take_both(desired.replicas, observed));
    let fresh = || secrets::random(keys::LENGTH);
    let mut data = slot.data();
    let (file, answered) = match step {
        Step::Stay => (file.unwrap_or_default(), None),
        Step::Make => (fresh()?.reveal().to_owned(), asked),
        Step::Add { old } => {
            let new = fresh()?;
            data.insert(keys::NEXT.to_owned(), bytes(new.reveal()));
            (keys::both(old, new.reveal()), None)
        }
        Step::Drop { new } => {
            data.remove(keys::NEXT);
            (new.to_owned(), asked)
        }
        Step::Lost => {
            // There is something to give it back to.
            secrets.write(&slot, "Opaque", data, None).await?;
            let lost = PasswordMissing::NoKey { secret: names::system(&desired.name), member: desired.member_name(0) };
            return Ok((None, Some(lost)));
        }
    };
    data.insert(keys::FILE.to_owned(), bytes(&file));
    secrets.write(&slot, "Opaque", data, answered.map(|request| (keys::ANSWERED_ANNOTATION, request))).await?;
    Ok((Some(keys::digest_of(&file)), None))
}

/// `NAME-app`: under the name of each user its password, under `USER.uri` its connection string. What a user has now stays while its
/// Secret is missing, and what is no user's any more goes.
async fn users(secrets: &Secrets<'_, Mongo>) -> Result<Option<PasswordMissing>, SecretsError> {
    let desired = secrets.desired;
    if desired.own.users.is_empty() {
        return Ok(None);
    }
    let slot = secrets.get(names::app(&desired.name)).await?;
    let (mut data, mut missing) = (secrets::Data::new(), None);
    for user in &desired.own.users {
        let known = slot.text(&user.name).filter(|text| is_line(text)).map(Hidden::new);
        let password = match &user.secret {
            Some(name) => match secrets.password(name, FIELD).await? {
                Ok(password) => Some(password),
                Err(why) => {
                    missing.get_or_insert(why);
                    known
                }
            },
            None => Some(match known {
                Some(known) => known,
                None => secrets::password()?,
            }),
        };
        if let Some(password) = password {
            data.insert(user.name.clone(), bytes(password.reveal()));
            data.insert(format!("{}.uri", user.name), bytes(&uri(desired, user, &password)));
        }
    }
    secrets.write(&slot, "Opaque", data, None).await?;
    Ok(missing)
}

/// Every member that holds data as a seed, so that a driver finds the set whoever is away.
fn uri(desired: &Desired, user: &User, password: &Hidden) -> String {
    let seeds = (0..desired.replicas).filter(|ordinal| !desired.is_arbiter(*ordinal));
    let seeds = seeds.map(|ordinal| format!("{}:{PORT}", desired.host(ordinal))).collect::<Vec<_>>().join(",");
    let tls = if matches!(desired.own.tls, Tls::Required | Tls::Preferred) { "&tls=true" } else { "" };
    let (name, password, database) = (encoded(&user.name), encoded(password.reveal()), encoded(&user.database));
    format!("mongodb://{name}:{password}@{seeds}/?replicaSet={}&authSource={database}{tls}", desired.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mongo::validate::tests::check;
    use serde_json::json;

    #[test]
    fn a_connection_string_names_every_member_that_holds_data() {
        let user = json!({"name": "clerk", "database": "shop", "roles": [{"role": "readWrite", "db": "shop"}]});
        let desired = check(json!({"replicas": 4, "arbiters": 1, "users": [user]})).unwrap();
        assert_eq!(
            uri(&desired, &desired.own.users[0], &Hidden::new("p@ss")),
            "mongodb://clerk:p%40ss@stock-0.stock.shop.svc:27017,stock-1.stock.shop.svc:27017,stock-2.stock.shop.svc:27017,\
             stock-3.stock.shop.svc:27017/?replicaSet=stock&authSource=shop&tls=true"
        );
    }
}
