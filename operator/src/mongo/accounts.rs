//! The key by which members trust each other, and the passwords of the users with what they need to connect.

use crds::mongo::{Tls, User};
use sidecar_protocol::mongo::PORT;

use super::Mongo;
use super::validate::Desired;
use crate::hidden::Hidden;
use crate::names;
use crate::secrets::{self, PasswordMissing, Secrets, SecretsError, bytes, encoded, is_line};

/// Key of the key file in `NAME-system`.
pub const KEY_FILE: &str = "keyfile";
/// Its length: mongod takes 6 to 1024 characters of base64.
const KEY_LENGTH: usize = 756;
/// Where the user names a Secret.
const FIELD: &str = "spec.users[].secret";

/// Makes sure of them.
///
/// # Errors
/// When a Secret cannot be read or written.
pub async fn ensure(secrets: &Secrets<'_, Mongo>) -> Result<Option<PasswordMissing>, SecretsError> {
    secrets.system(&[(KEY_FILE, KEY_LENGTH)]).await?;
    users(secrets).await
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
