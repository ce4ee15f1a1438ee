//! Passwords of a MySQL cluster: those of the internal accounts, and what an application needs to connect.

use sidecar_protocol::mysql::PORT;

use super::MySql;
use super::validate::Desired;
use crate::hidden::Hidden;
use crate::names;
use crate::secrets::{self, Accounts, Data, PASSWORD, PASSWORD_LENGTH, PasswordMissing, Secrets, SecretsError, bytes, encoded, is_line};

/// Where the user names a Secret.
const FIELD: &str = "spec.database.secret";

/// Makes sure of them.
///
/// # Errors
/// When a Secret cannot be read or written.
pub async fn ensure(secrets: &Secrets<'_, MySql>) -> Result<Accounts, SecretsError> {
    secrets.system(&[("replication", PASSWORD_LENGTH), ("clone", PASSWORD_LENGTH)]).await?;
    Ok(Accounts { missing: app(secrets).await?, read_at_start: None })
}

/// What an application needs.
async fn app(secrets: &Secrets<'_, MySql>) -> Result<Option<PasswordMissing>, SecretsError> {
    let desired = secrets.desired;
    let Some(database) = &desired.own.database else { return Ok(None) };
    let slot = secrets.get(names::app(&desired.name)).await?;
    let password = match &database.secret {
        Some(name) => match secrets.password(name, FIELD).await? {
            Ok(password) => password,
            // What applications use now stays.
            Err(missing) => return Ok(Some(missing)),
        },
        None => match slot.text(PASSWORD).filter(|text| is_line(text)) {
            Some(known) => Hidden::new(known),
            None => secrets::password()?,
        },
    };
    secrets.write(&slot, "Opaque", data(desired, &database.owner, &database.name, &password), None).await?;
    Ok(None)
}

fn data(desired: &Desired, username: &str, database: &str, password: &Hidden) -> Data {
    let host = format!("{}.{}.svc", names::primary(&desired.name), desired.namespace);
    let uri = format!("mysql://{}:{}@{host}:{PORT}/{}", encoded(username), encoded(password.reveal()), encoded(database));
    [
        ("host", host.as_str()),
        ("port", &PORT.to_string()),
        ("username", username),
        (PASSWORD, password.reveal()),
        ("database", database),
        ("uri", &uri),
    ]
    .map(|(name, text)| (name.to_owned(), bytes(text)))
    .into()
}
