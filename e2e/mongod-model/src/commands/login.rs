//! Logging in: SCRAM's two messages, for users and for members of the set.

use std::sync::Arc;

use bson::{Bson, Document, doc};

use super::{database, whole};
use crate::failure::{Code, Failure, Reply};
use crate::node::Node;
use crate::peer::SYSTEM;
use crate::roles::Role;
use crate::scram::{Credential, Exchange, Mechanism, payload};
use crate::server::Connection;
use crate::store::data::USERS;

/// Connections have one login at a time.
const CONVERSATION: i32 = 1;

fn failed() -> Failure {
    Failure::new(Code::AuthenticationFailed, "Authentication failed.")
}

/// `saslStart`; also what `hello` carries as `speculativeAuthenticate`.
pub fn start(node: &Arc<Node>, connection: &mut Connection, body: &Document) -> Reply {
    let database = body.get_str("$db").or_else(|_| body.get_str("db")).unwrap_or("admin").to_owned();
    let name = body.get_str("mechanism").unwrap_or_default();
    let Some(mechanism) = Mechanism::named(name) else {
        let text = format!("Received authentication for mechanism {name} which is not enabled");
        return Err(Failure::new(Code::BadValue, text));
    };
    let first = bytes(body)?;
    let user = Exchange::user(&first).ok_or_else(failed)?;
    let credentials = credentials(node, mechanism, &user, &database).ok_or_else(failed)?;
    let (exchange, answer) = Exchange::open(mechanism, credentials, &first).ok_or_else(failed)?;
    connection.login = Some((exchange, user, database));
    Ok(doc! { "conversationId": CONVERSATION, "done": false, "payload": payload(answer), "ok": 1.0 })
}

/// `saslContinue`.
pub fn proceed(node: &Arc<Node>, connection: &mut Connection, body: &Document) -> Reply {
    let last = bytes(body)?;
    if last.is_empty() && !connection.users.is_empty() {
        // A driver that does not skip the empty exchange asks once more.
        return Ok(doc! { "conversationId": CONVERSATION, "done": true, "payload": payload(Vec::new()), "ok": 1.0 });
    }
    let Some((exchange, user, database)) = connection.login.take() else {
        return Err(Failure::new(Code::ProtocolError, "No SASL session state found"));
    };
    let answer = exchange.close(&last).ok_or_else(failed)?;
    let roles = roles(node, &user, &database);
    connection.users.retain(|(_, known, _)| *known != database);
    connection.users.push((user, database, roles));
    Ok(doc! { "conversationId": CONVERSATION, "done": true, "payload": payload(answer), "ok": 1.0 })
}

fn bytes(body: &Document) -> Result<Vec<u8>, Failure> {
    match body.get("payload") {
        Some(Bson::Binary(binary)) => Ok(binary.bytes.clone()),
        _ => Err(Failure::new(Code::FailedToParse, "a SASL payload is binary")),
    }
}

fn credentials(node: &Node, mechanism: Mechanism, user: &str, database: &str) -> Option<Vec<Credential>> {
    if (user, database) == (SYSTEM, "local") {
        return Some(node.keys(mechanism));
    }
    node.read(|core| {
        let stored = core.store.data.get(USERS, &Bson::String(format!("{database}.{user}")))?;
        let credential = stored.get_document("credentials").ok()?.get_document(mechanism.name()).ok()?;
        Some(vec![Credential::read(credential)?])
    })
}

/// The roles of a user; of a member of the set it is `__system`.
pub fn roles(node: &Node, user: &str, database: &str) -> Vec<Role> {
    if (user, database) == (SYSTEM, "local") {
        return vec![Role { name: SYSTEM.into(), database: "admin".into() }];
    }
    node.read(|core| {
        let stored = core.store.data.get(USERS, &Bson::String(format!("{database}.{user}")));
        let roles = stored.and_then(|stored| stored.get_array("roles").ok()).cloned().unwrap_or_default();
        roles.iter().filter_map(|role| Role::read(role, database)).collect()
    })
}

/// What `saslSupportedMechs: "admin.root"` wants to know.
pub fn mechanisms(node: &Node, user: &str, reply: &mut Document) {
    let known = node.read(|core| {
        let stored = core.store.data.get(USERS, &Bson::String(user.to_owned()))?;
        let credentials = stored.get_document("credentials").ok()?;
        let has = |mechanism: &Mechanism| credentials.contains_key(mechanism.name());
        Some(Mechanism::ALL.into_iter().filter(has).map(Mechanism::name).collect::<Vec<_>>())
    });
    if let Some(known) = known {
        reply.insert("saslSupportedMechs", known);
    }
}

/// `logout`.
pub fn logout(connection: &mut Connection, body: &Document) -> Reply {
    connection.users.retain(|(_, known, _)| known != database(body));
    Ok(doc! { "ok": f64::from(u8::from(whole(body, "logout").is_some())) })
}

/// `connectionStatus`.
pub fn status(connection: &Connection) -> Document {
    let users: Vec<Document> = connection.users.iter().map(|(user, database, _)| doc! { "user": user, "db": database }).collect();
    let roles: Vec<Document> = connection.users.iter().flat_map(|(_, _, roles)| roles).map(Role::document).collect();
    doc! { "authInfo": { "authenticatedUsers": users, "authenticatedUserRoles": roles } }
}
