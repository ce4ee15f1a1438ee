//! A configuration from BSON, refused with the words of mongod's own parser.

use bson::{Bson, Document};

use super::{Config, Member, Settings};
use crate::text;
use crate::version::Version;

const CONFIG_FIELDS: [&str; 8] =
    ["_id", "version", "term", "members", "protocolVersion", "configsvr", "writeConcernMajorityJournalDefault", "settings"];

/// A whole configuration.
pub fn config(document: &Document, version: Version) -> Result<Config, String> {
    if let Some(name) = document.keys().find(|name| !CONFIG_FIELDS.contains(&name.as_str())) {
        return Err(unknown("ReplSetConfig", name));
    }
    let set = string(document, "ReplSetConfig", "_id")?;
    let number = whole(document, "ReplSetConfig", "version")?.ok_or_else(|| missing("ReplSetConfig", "version"))?;
    between("version", document, 1.0, f64::from(i32::MAX))?;
    let members = match document.get("members") {
        Some(Bson::Array(members)) => members,
        Some(other) => return Err(wrong_type("ReplSetConfig", "members", other, "array")),
        None => return Err(missing("ReplSetConfig", "members")),
    };
    between("protocolVersion", document, 1.0, 1.0)?;
    let members = members
        .iter()
        .enumerate()
        .map(|(index, each)| match each {
            Bson::Document(each) => member(each, version).map_err(|why| format!("member: {} :: caused by :: {why}", text::document(each))),
            other => Err(wrong_type("ReplSetConfig", &format!("members.{index}"), other, "object")),
        })
        .collect::<Result<_, _>>()?;
    Ok(Config {
        set,
        version: number,
        term: whole(document, "ReplSetConfig", "term")?.unwrap_or(-1),
        members,
        configsvr: boolean(document, "ReplSetConfig", "configsvr", false)?,
        majority_journaled: boolean(document, "ReplSetConfig", "writeConcernMajorityJournalDefault", true)?,
        settings: settings(document)?,
    })
}

fn member(document: &Document, version: Version) -> Result<Member, String> {
    const TYPE: &str = "MemberConfig";
    let known = ["_id", "host", "votes", "priority", "arbiterOnly", "hidden", "buildIndexes", "tags", "horizons", "newlyAdded"];
    if let Some(name) = document.keys().find(|name| !known.contains(&name.as_str()) && name.as_str() != version.delay_field()) {
        return Err(unknown(TYPE, name));
    }
    let id = whole(document, TYPE, "_id")?.ok_or_else(|| missing(TYPE, "_id"))?;
    between("_id", document, 0.0, 255.0)?;
    between("votes", document, 0.0, 1.0)?;
    between("priority", document, 0.0, 1000.0)?;
    between(version.delay_field(), document, 0.0, 366.0 * 24.0 * 3600.0)?;
    let arbiter = boolean(document, TYPE, "arbiterOnly", false)?;
    let given =
        document.get("priority").map(|value| number(value).ok_or_else(|| wrong_type(TYPE, "priority", value, "double"))).transpose()?;
    let member = Member {
        id: id.try_into().map_err(|_| format!("{id} is no member _id"))?,
        host: host(&string(document, TYPE, "host")?)?,
        arbiter,
        build_indexes: boolean(document, TYPE, "buildIndexes", true)?,
        hidden: boolean(document, TYPE, "hidden", false)?,
        // An arbiter's default, and the 1 that shells write, are 0.
        priority: given.filter(|priority| !(arbiter && *priority == 1.0)).unwrap_or(if arbiter { 0.0 } else { 1.0 }),
        tags: object(document, TYPE, "tags")?,
        delay: whole(document, TYPE, version.delay_field())?.unwrap_or(0),
        votes: if whole(document, TYPE, "votes")?.unwrap_or(1) == 0 { 0 } else { 1 },
        horizons: object(document, TYPE, "horizons")?,
        newly_added: boolean(document, TYPE, "newlyAdded", false)?,
    };
    if let Some((name, _)) = member.tags.iter().find(|(_, value)| value.as_str().is_none()) {
        return Err(format!("tags.{name} field has non-string value"));
    }
    member.check(version)?;
    Ok(member)
}

impl Member {
    /// What a member's fields must be to each other.
    fn check(&self, version: Version) -> Result<(), String> {
        let wrong = |text: &str| Err(text.to_owned());
        if self.arbiter {
            if self.votes == 0 {
                return wrong("Arbiter must vote (cannot have 0 votes)");
            }
            if !self.tags.is_empty() {
                return wrong("Cannot set tags on arbiters.");
            }
            if self.priority != 0.0 {
                return wrong("Arbiter priority must be 0.");
            }
        }
        if self.priority > 0.0 {
            if self.votes == 0 {
                return wrong("priority must be 0 when non-voting (votes:0)");
            }
            if self.delay > 0 {
                return Err(format!("priority must be 0 when {} is used", version.delay_field()));
            }
            if self.hidden {
                return wrong("priority must be 0 when hidden=true");
            }
            if !self.build_indexes {
                return wrong("priority must be 0 when buildIndexes=false");
            }
        }
        Ok(())
    }
}

fn settings(document: &Document) -> Result<Settings, String> {
    const TYPE: &str = "ReplSetConfigSettings";
    let given = object(document, "ReplSetConfig", "settings")?;
    let default = Settings::default();
    let millis = |name: &str, default: i64| -> Result<i64, String> {
        match whole(&given, TYPE, name)? {
            Some(value) if value < 1 => Err(format!("BSON field '{name}' value must be >= 1, actual value '{value}'")),
            value => Ok(value.unwrap_or(default)),
        }
    };
    Ok(Settings {
        chaining: boolean(&given, TYPE, "chainingAllowed", default.chaining)?,
        heartbeat_interval: millis("heartbeatIntervalMillis", default.heartbeat_interval)?,
        heartbeat_timeout_secs: millis("heartbeatTimeoutSecs", default.heartbeat_timeout_secs)?,
        election_timeout: millis("electionTimeoutMillis", default.election_timeout)?,
        catch_up_timeout: whole(&given, TYPE, "catchUpTimeoutMillis")?.unwrap_or(default.catch_up_timeout),
        catch_up_takeover_delay: whole(&given, TYPE, "catchUpTakeoverDelayMillis")?.unwrap_or(default.catch_up_takeover_delay),
        modes: object(&given, TYPE, "getLastErrorModes")?,
        defaults: given.get_document("getLastErrorDefaults").cloned().unwrap_or(default.defaults),
        id: given.get_object_id("replicaSetId").ok(),
    })
}

/// `host:port`; without a port it is mongod's own.
fn host(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) => Ok(text.to_owned()),
        None if !text.is_empty() => Ok(format!("{text}:27017")),
        _ => Err(format!("Bad digit \"{}\" while parsing {text}", text.rsplit(':').next().unwrap_or_default())),
    }
}

fn number(value: &Bson) -> Option<f64> {
    match value {
        Bson::Int32(number) => Some(f64::from(*number)),
        #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
        Bson::Int64(number) => Some(*number as f64),
        Bson::Double(number) => Some(*number),
        _ => None,
    }
}

fn between(name: &str, document: &Document, low: f64, high: f64) -> Result<(), String> {
    let Some(value) = document.get(name).and_then(number) else { return Ok(()) };
    if value < low {
        return Err(format!("BSON field '{name}' value must be >= {low}, actual value '{value}'"));
    }
    if value > high {
        return Err(format!("BSON field '{name}' value must be <= {high}, actual value '{value}'"));
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, reason = "mongod truncates too")]
fn whole(document: &Document, of: &str, name: &str) -> Result<Option<i64>, String> {
    match document.get(name) {
        None => Ok(None),
        Some(value) => number(value).map(|number| Some(number as i64)).ok_or_else(|| wrong_type(of, name, value, "long")),
    }
}

fn boolean(document: &Document, of: &str, name: &str, default: bool) -> Result<bool, String> {
    match document.get(name) {
        None => Ok(default),
        Some(Bson::Boolean(value)) => Ok(*value),
        Some(value) => number(value).map(|number| number != 0.0).ok_or_else(|| wrong_type(of, name, value, "bool")),
    }
}

fn string(document: &Document, of: &str, name: &str) -> Result<String, String> {
    match document.get(name) {
        None => Err(missing(of, name)),
        Some(Bson::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong_type(of, name, other, "string")),
    }
}

fn object(document: &Document, of: &str, name: &str) -> Result<Document, String> {
    match document.get(name) {
        None => Ok(Document::new()),
        Some(Bson::Document(inner)) => Ok(inner.clone()),
        Some(other) => Err(wrong_type(of, name, other, "object")),
    }
}

fn missing(of: &str, name: &str) -> String {
    format!("BSON field '{of}.{name}' is missing but a required field")
}

fn unknown(of: &str, name: &str) -> String {
    format!("BSON field '{of}.{name}' is an unknown field.")
}

fn wrong_type(of: &str, name: &str, value: &Bson, expected: &str) -> String {
    let found = match value {
        Bson::Int32(_) => "int",
        Bson::Int64(_) => "long",
        Bson::Double(_) => "double",
        Bson::String(_) => "string",
        Bson::Document(_) => "object",
        Bson::Array(_) => "array",
        Bson::Boolean(_) => "bool",
        Bson::Null => "null",
        _ => "other",
    };
    format!("BSON field '{of}.{name}' is the wrong type '{found}', expected type '{expected}'")
}
