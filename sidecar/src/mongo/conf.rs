//! The text of mongod.conf: the user's options, and what is Understudy's own (pure).
//!
//! mongod's configuration has no "last one wins": an option that is ours and comes from the user too is refused, by its name. The text is
//! JSON, which is YAML with all strings quoted: nothing in an option can become another one.

use serde_json::{Map, Value, json};

use super::{Config, Layout, TlsMode};

/// What no user may set: who and where this member is, and how members trust each other.
const OWNED: [&str; 14] = [
    "net.port",
    "net.bindIp",
    "net.bindIpAll",
    "net.ipv6",
    "net.tls",
    "net.ssl",
    "storage.dbPath",
    "replication.replSetName",
    "replication.replSet",
    "security.keyFile",
    "security.authorization",
    "security.clusterAuthMode",
    "security.transitionToAuth",
    "processManagement",
];

/// mongod.conf of the database container.
///
/// # Errors
/// What is wrong with the user's options, and what to do.
pub fn text(config: &Config, layout: &Layout, options: &str) -> Result<String, String> {
    let mut text = match serde_yaml::from_str(options).map_err(|error| format!("the options of mongod are no YAML: {error}"))? {
        Value::Object(options) => Value::Object(options),
        Value::Null => Value::Object(Map::new()),
        other => return Err(format!("the options of mongod must be a mapping, like mongod.conf; this is {other}")),
    };
    if let Some(owned) = OWNED.into_iter().find(|path| has(&text, path)) {
        return Err(format!("the option {owned} is Understudy's own: take it out"));
    }
    let mut ours = json!({
        "net": {"port": config.port, "bindIpAll": true, "ipv6": config.pod_ip.contains(':')},
        "storage": {"dbPath": layout.datadir()},
        "replication": {"replSetName": config.set},
    });
    if config.key_file.is_some() {
        ours["security"] = json!({"keyFile": layout.keyfile(), "authorization": "enabled", "clusterAuthMode": "keyFile"});
    }
    if let Some(tls) = &config.tls {
        ours["net"]["tls"] = json!({
            "mode": match tls.mode {
                TlsMode::Allow => "allowTLS",
                TlsMode::Prefer => "preferTLS",
                TlsMode::Require => "requireTLS",
            },
            "certificateKeyFile": layout.pem(),
            // Applications log in by password; members by the key.
            "allowConnectionsWithoutCertificates": true,
        });
        if let Some(directory) = &tls.directory {
            ours["net"]["tls"]["CAFile"] = json!(directory.join("ca.crt"));
        }
    }
    merge(&mut text, ours);
    serde_json::to_string_pretty(&text).map(|text| text + "\n").map_err(|error| error.to_string())
}

/// Whether there is something at a path; options may be written with dots, too.
fn has(options: &Value, path: &str) -> bool {
    let Value::Object(map) = options else { return false };
    map.iter().any(|(name, value)| {
        path == name
            || name.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'))
            || path.strip_prefix(name.as_str()).and_then(|rest| rest.strip_prefix('.')).is_some_and(|rest| has(value, rest))
    })
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Tls;
    use super::*;

    pub fn config() -> Config {
        Config {
            member: "shop-2".into(),
            ordinal: 2,
            host: "shop-2.shop.market.svc:27017".into(),
            pod_ip: "10.0.0.2".into(),
            set: Some("shop".into()),
            port: 27017,
            layout: Some(Layout {
                data_dir: "/data/db".into(),
                run_dir: "/understudy/run".into(),
                options: "/understudy/config/mongod.conf".into(),
            }),
            tls: Some(Tls { directory: Some("/understudy/tls".into()), mode: TlsMode::Require, unchecked: false }),
            key_file: Some("/understudy/key/keyfile".into()),
            users_dir: "/understudy/users".into(),
            login: None,
            max_lag_seconds: 30,
            standalone: false,
            config_server: false,
        }
    }

    fn of(options: &str) -> Result<Value, String> {
        let config = config();
        let layout = config.layout.clone().unwrap();
        text(&config, &layout, options).map(|text| serde_yaml::from_str(&text).unwrap())
    }

    #[test]
    fn a_member_gets_its_users_options_and_ours() {
        let conf = of(
            "replication: {oplogSizeMB: 512}\nstorage: {wiredTiger: {engineConfig: {cacheSizeGB: 1}}}\nnet: {maxIncomingConnections: 9}",
        )
        .unwrap();
        assert_eq!(conf["replication"], json!({"oplogSizeMB": 512, "replSetName": "shop"}));
        assert_eq!(conf["storage"]["wiredTiger"]["engineConfig"]["cacheSizeGB"], json!(1));
        assert_eq!(conf["storage"]["dbPath"], json!("/data/db/data"));
        assert_eq!(conf["net"]["maxIncomingConnections"], json!(9));
        assert_eq!(conf["net"]["tls"]["mode"], json!("requireTLS"));
        assert_eq!(conf["security"]["keyFile"], json!("/understudy/run/keyfile"));
    }

    #[test]
    fn no_options_are_fine() {
        assert!(of("").is_ok() && of("# nothing\n").is_ok());
    }

    #[test]
    fn an_option_that_is_ours_is_refused_by_its_name_however_it_is_written() {
        for options in
            ["net: {port: 1}", "net.port: 1", "net: {tls: {mode: disabled}}", "net.tls.mode: disabled", "security: {keyFile: /x}"]
        {
            let why = of(options).unwrap_err();
            assert!(why.contains("Understudy's own"), "{options}: {why}");
        }
        assert!(of("net: {portable: 1}").is_ok());
    }

    #[test]
    fn what_is_no_mapping_is_refused() {
        assert!(of("- a\n").unwrap_err().contains("mapping"));
        assert!(of("a: [").unwrap_err().contains("no YAML"));
    }

    #[test]
    fn members_that_change_over_to_tls_prefer_it() {
        let mut config = config();
        config.tls = Some(Tls { mode: TlsMode::Prefer, ..config.tls.unwrap() });
        let layout = config.layout.clone().unwrap();
        assert!(text(&config, &layout, "").unwrap().contains("preferTLS"));
    }
}
