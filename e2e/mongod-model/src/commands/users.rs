//! Users: made, changed, shown. They are documents of `admin.system.users` and replicate as such.

use std::sync::Arc;

use bson::{Binary, Bson, Document, doc};

use super::concern::Concern;
use super::{database, truth, write};
use crate::failure::{Code, Failure, Reply};
use crate::node::{Core, Node};
use crate::roles::Role;
use crate::scram::{Credential, Mechanism, random};
use crate::store::data::USERS;

fn find(core: &Core, database: &str, user: &str) -> Option<Document> {
    core.store.data.get(USERS, &Bson::String(format!("{database}.{user}"))).cloned()
}

fn on_primary(node: &Node) -> Result<(), Failure> {
    if node.options.set.is_none() || node.read(Core::is_writable) {
        return Ok(());
    }
    Err(Failure::new(Code::NotWritablePrimary, "not primary"))
}

fn name<'a>(body: &'a Document, command: &str) -> Result<&'a str, Failure> {
    body.get_str(command).map_err(|_| Failure::new(Code::TypeMismatch, format!("\"{command}\" had the wrong type. Expected string")))
}

/// The roles a command names, each of which has to exist.
fn named_roles(body: &Document) -> Result<Vec<Role>, Failure> {
    let given = body.get_array("roles").map_err(|_| Failure::new(Code::BadValue, "\"roles\" array is required"))?;
    let mut roles = Vec::new();
    for value in given {
        let role = Role::read(value, database(body)).ok_or_else(|| Failure::new(Code::BadValue, "a role is a name or {role, db}"))?;
        if !role.exists() {
            return Err(Failure::new(Code::RoleNotFound, format!("Could not find role: {}@{}", role.name, role.database)));
        }
        roles.push(role);
    }
    Ok(roles)
}

fn credentials(body: &Document, user: &str, password: &str) -> Result<Document, Failure> {
    let given: Vec<&str> = body.get_array("mechanisms").into_iter().flatten().filter_map(Bson::as_str).collect();
    if let Some(unknown) = given.iter().find(|name| Mechanism::named(name).is_none()) {
        return Err(Failure::new(Code::BadValue, format!("Unknown auth mechanism '{unknown}'")));
    }
    let wanted = Mechanism::ALL.into_iter().filter(|mechanism| given.is_empty() || given.contains(&mechanism.name()));
    Ok(wanted
        .map(|mechanism| (mechanism.name().to_owned(), Bson::from(Credential::new(mechanism, user, password, None).document())))
        .collect())
}

fn documents(roles: &[Role]) -> Vec<Document> {
    roles.iter().map(Role::document).collect()
}

async fn save(node: &Arc<Node>, body: &Document, op: &str, user: Document) -> Reply {
    let concern = if body.contains_key("writeConcern") { Concern::of(node, body)? } else { Concern::majority() };
    write::internal(node, vec![doc! { "op": op, "ns": USERS, "o": user }], &concern).await?;
    Ok(Document::new())
}

/// `createUser`.
pub async fn create(node: &Arc<Node>, body: &Document) -> Reply {
    let (database, user) = (database(body), name(body, "createUser")?);
    on_primary(node)?;
    let roles = named_roles(body)?;
    let password = body.get_str("pwd");
    if password.is_err() && database != "$external" {
        return Err(Failure::new(
            Code::BadValue,
            "Must provide a 'pwd' field for all user documents, except those with '$external' as the user's source db",
        ));
    }
    let credentials = credentials(body, user, password.unwrap_or_default())?;
    if node.read(|core| find(core, database, user)).is_some() {
        return Err(Failure::new(Code::Location51003, format!("User \"{user}@{database}\" already exists")));
    }
    let mut id = random(16);
    if let [.., version, _, variant, _, _, _, _, _, _, _] = id.as_mut_slice() {
        (*version, *variant) = (*version & 0x0f | 0x40, *variant & 0x3f | 0x80);
    }
    let id = Binary { subtype: bson::spec::BinarySubtype::Uuid, bytes: id };
    let mut document = doc! {
        "_id": format!("{database}.{user}"), "userId": id, "user": user, "db": database,
        "credentials": credentials, "roles": documents(&roles),
    };
    if let Ok(data) = body.get_document("customData") {
        document.insert("customData", data.clone());
    }
    save(node, body, "i", document).await
}

fn existing(node: &Node, database: &str, user: &str) -> Result<Document, Failure> {
    let text = || format!("Could not find user \"{user}\" for db \"{database}\"");
    node.read(|core| find(core, database, user)).ok_or_else(|| Failure::new(Code::UserNotFound, text()))
}

/// `updateUser`.
pub async fn update(node: &Arc<Node>, body: &Document) -> Reply {
    let (database, user) = (database(body), name(body, "updateUser")?);
    on_primary(node)?;
    let mut document = existing(node, database, user)?;
    if let Ok(password) = body.get_str("pwd") {
        document.insert("credentials", credentials(body, user, password)?);
    }
    if body.contains_key("roles") {
        document.insert("roles", documents(&named_roles(body)?));
    }
    if let Ok(data) = body.get_document("customData") {
        document.insert("customData", data.clone());
    }
    save(node, body, "u", document).await
}

/// `dropUser`.
pub async fn remove(node: &Arc<Node>, body: &Document) -> Reply {
    let (database, user) = (database(body), name(body, "dropUser")?);
    on_primary(node)?;
    if node.read(|core| find(core, database, user)).is_none() {
        return Err(Failure::new(Code::UserNotFound, format!("User '{user}@{database}' not found")));
    }
    save(node, body, "d", doc! { "_id": format!("{database}.{user}") }).await
}

/// `grantRolesToUser` and `revokeRolesFromUser`.
pub async fn roles(node: &Arc<Node>, command: &str, body: &Document) -> Reply {
    let (database, user) = (database(body), name(body, command)?);
    on_primary(node)?;
    let mut document = existing(node, database, user)?;
    let named = named_roles(body)?;
    let held = document.get_array("roles").cloned().unwrap_or_default();
    let mut held: Vec<Role> = held.iter().filter_map(|role| Role::read(role, database)).filter(|role| !named.contains(role)).collect();
    if command == "grantRolesToUser" {
        held.extend(named);
    }
    document.insert("roles", documents(&held));
    save(node, body, "u", document).await
}

/// `usersInfo`.
pub fn show(node: &Arc<Node>, body: &Document) -> Reply {
    let here = database(body);
    let wanted = |user: &Document, asked: &Bson| -> bool {
        let (name, home) = (user.get_str("user").unwrap_or_default(), user.get_str("db").unwrap_or_default());
        match asked {
            Bson::String(asked) => (name, home) == (asked.as_str(), here),
            Bson::Document(asked) if truth(asked, "forAllDBs") => true,
            Bson::Document(asked) => (asked.get_str("user").ok(), asked.get_str("db").ok()) == (Some(name), Some(home)),
            _ => home == here,
        }
    };
    let asked = match body.get("usersInfo") {
        Some(Bson::Array(several)) => several.clone(),
        Some(one) => vec![one.clone()],
        None => Vec::new(),
    };
    let users: Vec<Document> = node.read(|core| {
        let all = core.store.data.all(USERS);
        all.filter(|user| asked.iter().any(|asked| wanted(user, asked))).map(|user| shown(user, truth(body, "showCredentials"))).collect()
    });
    Ok(doc! { "users": users })
}

fn shown(user: &Document, with_credentials: bool) -> Document {
    let mut shown: Document =
        user.iter().filter(|(name, _)| with_credentials || *name != "credentials").map(|(k, v)| (k.clone(), v.clone())).collect();
    let mechanisms: Vec<String> = user.get_document("credentials").map(|all| all.keys().cloned().collect()).unwrap_or_default();
    shown.insert("mechanisms", mechanisms);
    shown
}
