//! Who may do what: mongod's built-in roles, as far as an operator and its users need them. Pure.

use bson::{Bson, Document, doc};

/// What a command needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Nothing: greetings and logins.
    Nothing,
    /// Any user.
    Login,
    /// To look at the cluster.
    Monitor,
    /// To change the cluster.
    Manage,
    /// To read the database.
    Read,
    /// To write to it.
    Write,
    /// To manage its users.
    Users,
    /// To be a member of the set.
    Member,
}

/// A role, and the database it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// `readWrite`.
    pub name: String,
    /// Where it counts.
    pub database: String,
}

const OF_A_DATABASE: [&str; 5] = ["read", "readWrite", "dbAdmin", "userAdmin", "dbOwner"];
const OF_ADMIN: [&str; 13] = [
    "readAnyDatabase",
    "readWriteAnyDatabase",
    "dbAdminAnyDatabase",
    "userAdminAnyDatabase",
    "clusterAdmin",
    "clusterManager",
    "clusterMonitor",
    "hostManager",
    "backup",
    "restore",
    "root",
    "__system",
    "enableSharding",
];

impl Role {
    /// From `"name"` (of `database`) or `{role, db}`.
    pub fn read(value: &Bson, database: &str) -> Option<Self> {
        match value {
            Bson::String(name) => Some(Self { name: name.clone(), database: database.into() }),
            Bson::Document(role) => Some(Self { name: role.get_str("role").ok()?.into(), database: role.get_str("db").ok()?.into() }),
            _ => None,
        }
    }

    /// `{role, db}`.
    pub fn document(&self) -> Document {
        doc! { "role": &self.name, "db": &self.database }
    }

    /// Is there such a role?
    pub fn exists(&self) -> bool {
        OF_A_DATABASE.contains(&self.name.as_str()) || (self.database == "admin" && OF_ADMIN.contains(&self.name.as_str()))
    }

    /// Is it enough for `need` on `database`?
    pub fn grants(&self, need: Need, database: &str) -> bool {
        let here = self.database == database;
        let user_database = database != "local" && database != "config";
        match (self.name.as_str(), need) {
            (_, Need::Nothing | Need::Login) | ("__system", _) => true,
            (_, Need::Member) => false,
            ("root", _) | ("clusterAdmin" | "clusterManager", Need::Monitor | Need::Manage) => true,
            ("clusterMonitor" | "backup", Need::Monitor) | ("backup", Need::Read) | ("restore", Need::Write | Need::Users) => true,
            ("readAnyDatabase", Need::Read) | ("readWriteAnyDatabase", Need::Read | Need::Write) => user_database,
            ("userAdminAnyDatabase", Need::Users) | ("dbAdminAnyDatabase", Need::Write) => true,
            ("read" | "readWrite" | "dbOwner", Need::Read) | ("readWrite" | "dbOwner", Need::Write) => here,
            ("userAdmin" | "dbOwner", Need::Users) => here,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(name: &str, database: &str) -> Role {
        Role { name: name.into(), database: database.into() }
    }

    #[test]
    fn roles_grant_what_mongod_grants() {
        for (role, need, database, granted) in [
            (role("root", "admin"), Need::Manage, "admin", true),
            (role("root", "admin"), Need::Member, "admin", false),
            (role("clusterMonitor", "admin"), Need::Monitor, "admin", true),
            (role("clusterMonitor", "admin"), Need::Manage, "admin", false),
            (role("readWrite", "shop"), Need::Write, "shop", true),
            (role("readWrite", "shop"), Need::Write, "other", false),
            (role("read", "shop"), Need::Write, "shop", false),
            (role("readWriteAnyDatabase", "admin"), Need::Write, "local", false),
        ] {
            assert_eq!(role.grants(need, database), granted, "{role:?} {need:?} {database}");
        }
        assert!(!role("root", "shop").exists());
    }
}
