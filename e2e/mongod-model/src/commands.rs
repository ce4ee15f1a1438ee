//! The commands: one table of names, one file for each family.

pub mod admin;
pub mod concern;
pub mod hello;
pub mod login;
pub mod read;
pub mod reconfig;
pub mod status;
pub mod step;
pub mod users;
pub mod write;

use std::sync::Arc;

use bson::{Bson, Document, doc};

use crate::failure::{Code, Failure, Reply};
use crate::node::Node;
use crate::roles::Need;
use crate::server::Connection;
use crate::{election, heartbeat, replication};

/// What has to hold before a command runs.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// On `admin` only.
    pub admin_only: bool,
    /// Who may.
    pub need: Need,
    /// Also who came from this machine before there is any user.
    pub before_users: bool,
}

/// The table; `None` is no command.
pub fn spec(name: &str) -> Option<Spec> {
    let (admin_only, need, before_users) = match name {
        "hello" | "isMaster" | "ismaster" | "ping" | "buildInfo" | "buildinfo" | "saslStart" | "saslContinue" | "logout"
        | "connectionStatus" | "whatsmyuri" | "_isSelf" => (false, Need::Nothing, false),
        "endSessions" | "killSessions" | "startSession" | "refreshSessions" | "killCursors" | "getMore" => (false, Need::Login, false),
        "listDatabases" => (true, Need::Login, true),
        "replSetGetStatus" => (true, Need::Monitor, true),
        "replSetInitiate" | "replSetReconfig" => (true, Need::Manage, true),
        "replSetGetConfig" => (true, Need::Monitor, false),
        "replSetStepDown" | "replSetFreeze" | "replSetStepUp" | "replSetAbortPrimaryCatchUp" => (true, Need::Manage, false),
        "setFeatureCompatibilityVersion" | "setDefaultRWConcern" | "shutdown" => (true, Need::Manage, false),
        "getParameter" | "getDefaultRWConcern" | "getCmdLineOpts" | "replSetGetRBID" => (true, Need::Monitor, false),
        "serverStatus" => (false, Need::Monitor, false),
        "replSetHeartbeat" | "replSetRequestVotes" | "modelCopy" | "modelCommonPoint" => (true, Need::Member, false),
        "createUser" => (false, Need::Users, true),
        "updateUser" | "dropUser" | "usersInfo" | "grantRolesToUser" | "revokeRolesFromUser" => (false, Need::Users, false),
        "insert" | "update" | "delete" | "findAndModify" | "findandmodify" | "create" | "createIndexes" | "drop" | "dropDatabase" => {
            (false, Need::Write, false)
        }
        "find" | "count" | "aggregate" | "listCollections" | "listIndexes" => (false, Need::Read, false),
        _ => return None,
    };
    Some(Spec { admin_only, need, before_users })
}

/// Runs a command of the table.
pub async fn run(node: &Arc<Node>, connection: &mut Connection, name: &str, body: &Document) -> Reply {
    match name {
        "hello" | "isMaster" | "ismaster" => hello::hello(node, connection, name, body).await,
        "saslStart" => login::start(node, connection, body),
        "saslContinue" => login::proceed(node, connection, body),
        "logout" => login::logout(connection, body),
        "connectionStatus" => Ok(login::status(connection)),
        "_isSelf" => Ok(doc! { "id": node.instance }),
        "ping" | "endSessions" | "killSessions" | "refreshSessions" => Ok(Document::new()),
        "replSetGetStatus" => status::status(node),
        "replSetGetConfig" => reconfig::show(node, body),
        "replSetInitiate" => reconfig::initiate(node, body).await,
        "replSetReconfig" => reconfig::reconfig(node, body).await,
        "replSetStepDown" => step::down(node, body).await,
        "replSetStepUp" => step::up(node, body).await,
        "replSetFreeze" => step::freeze(node, body),
        "replSetAbortPrimaryCatchUp" => step::abort_catch_up(node),
        "replSetHeartbeat" => heartbeat::answer(node, body),
        "replSetRequestVotes" => node.change(|core| election::answer(core, body)),
        "modelCopy" => replication::answer(node, body).await,
        "modelCommonPoint" => node.read(|core| replication::common_point(core, body)),
        "createUser" => users::create(node, body).await,
        "updateUser" => users::update(node, body).await,
        "dropUser" => users::remove(node, body).await,
        "grantRolesToUser" | "revokeRolesFromUser" => users::roles(node, name, body).await,
        "usersInfo" => users::show(node, body),
        "insert" => write::insert(node, body).await,
        "update" => write::update(node, body).await,
        "delete" => write::delete(node, body).await,
        "findAndModify" | "findandmodify" => write::find_and_modify(node, body).await,
        "create" | "createIndexes" | "drop" | "dropDatabase" => write::schema(node, name, body).await,
        "find" | "count" | "aggregate" | "listCollections" | "listDatabases" | "listIndexes" => read::read(node, name, body).await,
        "killCursors" | "getMore" => read::cursor(name, body),
        "setDefaultRWConcern" => concern::set_default(node, body).await,
        "getDefaultRWConcern" => concern::show_default(node),
        _ => admin::run(node, connection, name, body).await,
    }
}

/// The database of a command.
pub fn database(body: &Document) -> &str {
    body.get_str("$db").unwrap_or_default()
}

/// Any number, as a whole one.
#[allow(clippy::cast_possible_truncation, reason = "mongod truncates too")]
pub fn whole(body: &Document, name: &str) -> Option<i64> {
    match body.get(name)? {
        Bson::Int32(number) => Some(i64::from(*number)),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) => Some(*number as i64),
        Bson::Boolean(value) => Some(i64::from(*value)),
        _ => None,
    }
}

/// Any truth.
pub fn truth(body: &Document, name: &str) -> bool {
    body.get(name).is_some_and(crate::store::query::truth)
}

/// A field that has to be a document.
pub fn object<'a>(body: &'a Document, command: &str, name: &str) -> Result<&'a Document, Failure> {
    body.get_document(name).map_err(|_| {
        Failure::new(Code::TypeMismatch, format!("BSON field '{command}.{name}' is missing or the wrong type, expected type 'object'"))
    })
}
