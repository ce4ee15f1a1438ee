//! What a client asks about the server itself.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, doc};

use super::concern::Concern;
use super::{hello, step, truth};
use crate::failure::{Code, Failure, Reply};
use crate::node::Node;
use crate::server::Connection;
use crate::store::data::VERSIONS;

/// The mark by which everyone can see that this is no database.
const MARK: &str = "mongod-model";
const FEATURE: &str = "featureCompatibilityVersion";

/// Runs one of them.
pub async fn run(node: &Arc<Node>, connection: &Connection, name: &str, body: &Document) -> Reply {
    match name {
        "buildInfo" | "buildinfo" => Ok(build_info(node)),
        "getParameter" => get_parameter(node, body),
        "setFeatureCompatibilityVersion" => set_feature_version(node, body).await,
        "serverStatus" => Ok(server_status(node)),
        "getCmdLineOpts" => Ok(doc! { "argv": node.options.argv.clone(), "parsed": {} }),
        "whatsmyuri" => Ok(doc! { "you": format!("connection:{}", connection.id) }),
        "replSetGetRBID" => Ok(doc! { "rbid": node.read(|core| core.rollbacks) }),
        "startSession" => Ok(doc! { "timeoutMinutes": 30 }),
        "shutdown" => {
            let node = node.clone();
            tokio::spawn(async move {
                step::terminate(&node).await;
                std::process::exit(0);
            });
            Ok(Document::new())
        }
        _ => Err(Failure::new(Code::CommandNotFound, format!("no such command: '{name}'"))),
    }
}

fn build_info(node: &Node) -> Document {
    let version = node.options.version;
    doc! {
        "version": version.to_string(), "gitVersion": MARK, "modules": [MARK], "allocator": "system", "javascriptEngine": "none",
        "sysInfo": "deprecated", "versionArray": version.array().to_vec(),
        "openssl": { "running": "disabled", "compiled": "disabled" },
        "buildEnvironment": { "distmod": "", "distarch": std::env::consts::ARCH, "target_os": std::env::consts::OS },
        "bits": 64, "debug": cfg!(debug_assertions), "maxBsonObjectSize": hello::MAX_DOCUMENT, "storageEngines": [MARK],
    }
}

fn feature_version(node: &Node) -> Option<String> {
    node.read(|core| {
        let stored = core.store.data.get(VERSIONS, &Bson::String(FEATURE.into()))?;
        stored.get_str("version").ok().map(str::to_owned)
    })
}

fn get_parameter(node: &Node, body: &Document) -> Reply {
    let mut reply = Document::new();
    if truth(body, FEATURE) {
        let text = "featureCompatibilityVersion is not yet known.";
        let version = match &node.options.set {
            Some(_) => feature_version(node).ok_or_else(|| Failure::new(Code::UnknownFeatureCompatibilityVersion, text))?,
            None => node.options.version.feature(),
        };
        reply.insert(FEATURE, doc! { "version": version });
    }
    if truth(body, "shutdownTimeoutMillisForSignaledShutdown") {
        reply.insert("shutdownTimeoutMillisForSignaledShutdown", i64::try_from(node.options.shutdown_millis).unwrap_or(i64::MAX));
    }
    if reply.is_empty() {
        return Err(Failure::new(Code::InvalidOptions, "no option found to get"));
    }
    Ok(reply)
}

async fn set_feature_version(node: &Arc<Node>, body: &Document) -> Reply {
    let (now, before) = (node.options.version.feature(), node.options.version.feature_before());
    let wanted = body.get_str("setFeatureCompatibilityVersion").unwrap_or_default();
    if wanted != now && wanted != before {
        let text = format!(
            "Invalid value for featureCompatibilityVersion document in {VERSIONS}, found '{wanted}', expected '{before}' or '{now}'. \
             See https://docs.mongodb.com/master/release-notes/{now}-compatibility/#feature-compatibility."
        );
        return Err(Failure::new(Code::BadValue, text));
    }
    if node.options.version.confirms_feature_version() && !truth(body, "confirm") && feature_version(node).as_deref() != Some(wanted) {
        let text = format!(
            "Once you have upgraded to {now}, you will not be able to downgrade FCV and binary version without support assistance. Please \
             re-run this command with 'confirm: true' to acknowledge this and continue with the FCV upgrade."
        );
        return Err(Failure::new(Code::Location7369100, text));
    }
    let document = doc! { "_id": FEATURE, "version": wanted };
    super::write::internal(node, vec![doc! { "op": "u", "ns": VERSIONS, "o": document }], &Concern::majority()).await?;
    Ok(Document::new())
}

fn server_status(node: &Node) -> Document {
    doc! {
        "host": format!("localhost:{}", node.options.port), "version": node.options.version.to_string(), "process": MARK,
        "pid": i64::from(std::process::id()), "uptime": node.started.elapsed().as_secs_f64(), "localTime": DateTime::now(),
    }
}
