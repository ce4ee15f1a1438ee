//! Which commands there are, with their arity: what `COMMAND` tells of them, and by what a command with too few arguments is refused.

use super::resp::Value;

/// A command, or a subcommand.
pub struct Spec {
    /// In lower case.
    pub name: &'static str,
    /// How many words, its name included; negative: or more.
    pub arity: i64,
    /// In Redis' words, by blanks.
    pub flags: &'static str,
    /// Of what an ACL may speak.
    pub categories: &'static str,
    /// Its subcommands.
    pub subcommands: &'static [Self],
}

const fn leaf(name: &'static str, arity: i64, flags: &'static str, categories: &'static str) -> Spec {
    Spec { name, arity, flags, categories, subcommands: &[] }
}

const fn admin(name: &'static str, arity: i64) -> Spec {
    leaf(name, arity, "admin", "@admin @slow @dangerous")
}

const fn connection(name: &'static str, arity: i64) -> Spec {
    leaf(name, arity, "noscript loading stale", "@slow @connection")
}

const fn login(name: &'static str, arity: i64) -> Spec {
    leaf(name, arity, "noscript loading stale fast no_auth allow_busy", "@fast @connection")
}

const fn listening(name: &'static str, arity: i64) -> Spec {
    leaf(name, arity, "pubsub noscript loading stale", "@pubsub @slow")
}

/// All of them.
pub const COMMANDS: &[Spec] = &[
    leaf("ping", -1, "fast", "@fast @connection"),
    login("hello", -1),
    login("auth", -2),
    login("quit", -1),
    login("reset", 1),
    leaf("role", 1, "noscript loading stale fast", "@admin @fast @dangerous"),
    leaf("info", -1, "loading stale", "@slow @dangerous"),
    listening("subscribe", -2),
    listening("psubscribe", -2),
    listening("unsubscribe", -1),
    listening("punsubscribe", -1),
    Spec {
        name: "client",
        arity: -2,
        flags: "",
        categories: "@slow",
        subcommands: &[
            connection("id", 2),
            connection("getname", 2),
            connection("setname", 3),
            connection("setinfo", 4),
            connection("info", 2),
        ],
    },
    Spec { name: "acl", arity: -2, flags: "", categories: "@slow", subcommands: &[leaf("whoami", 2, "noscript loading stale", "@slow")] },
    Spec {
        name: "command",
        arity: -1,
        flags: "loading stale",
        categories: "@slow @connection",
        subcommands: &[connection("count", 2), connection("list", -2), connection("info", -2), connection("docs", -2)],
    },
    Spec {
        name: "sentinel",
        arity: -2,
        flags: "admin",
        categories: "@admin @slow @dangerous",
        subcommands: &[
            admin("get-master-addr-by-name", 3),
            admin("master", 3),
            admin("masters", 2),
            admin("replicas", 3),
            admin("slaves", 3),
            admin("sentinels", 3),
            admin("ckquorum", 3),
            admin("myid", 2),
            admin("is-master-down-by-addr", 6),
            admin("config", -3),
            admin("pending-scripts", 2),
            admin("info-cache", -3),
            leaf("help", 2, "loading stale", "@slow"),
            admin("failover", 3),
            admin("reset", 3),
            admin("monitor", 6),
            admin("remove", 3),
            admin("set", -5),
            admin("flushconfig", 2),
            admin("debug", -2),
            admin("simulate-failure", -3),
        ],
    },
];

/// The one called `name` among `specs`, in whatever case.
#[must_use]
pub fn find<'a>(specs: &'a [Spec], name: &[u8]) -> Option<&'a Spec> {
    specs.iter().find(|spec| name.eq_ignore_ascii_case(spec.name.as_bytes()))
}

impl Spec {
    /// Whether it takes so many words.
    #[must_use]
    pub fn takes(&self, words: usize) -> bool {
        let words = i64::try_from(words).unwrap_or(i64::MAX);
        if self.arity < 0 { words >= -self.arity } else { words == self.arity }
    }

    /// Whether it may be asked before a login.
    #[must_use]
    pub fn is_for_strangers(&self) -> bool {
        self.flags.contains("no_auth")
    }

    /// As `COMMAND INFO` has it.
    fn row(&self, parent: Option<&Self>) -> Value {
        let words = |text: &'static str| Value::Set(text.split_ascii_whitespace().map(Value::word).collect());
        let name = parent.map_or_else(|| self.name.to_owned(), |parent| format!("{}|{}", parent.name, self.name));
        Value::Array(vec![
            Value::text(name),
            Value::Integer(self.arity),
            words(self.flags),
            Value::Integer(0),
            Value::Integer(0),
            Value::Integer(0),
            words(self.categories),
            Value::Set(Vec::new()),
            Value::Set(Vec::new()),
            Value::Set(self.subcommands.iter().map(|spec| spec.row(Some(self))).collect()),
        ])
    }
}

/// `COMMAND` and `COMMAND INFO` without names.
#[must_use]
pub fn all() -> Value {
    Value::Array(COMMANDS.iter().map(|spec| spec.row(None)).collect())
}

/// `COMMAND INFO` with names.
#[must_use]
pub fn info(names: &[Vec<u8>]) -> Value {
    let row = |name: &Vec<u8>| find(COMMANDS, name).map_or(Value::NullArray, |spec| spec.row(None));
    Value::Array(names.iter().map(row).collect())
}

/// `COMMAND LIST`.
#[must_use]
pub fn list() -> Value {
    Value::Array(COMMANDS.iter().map(|spec| Value::text(spec.name)).collect())
}
