//! The kinds of cluster: how each is named, asked for and read. A new engine is one line in each of these.

use anyhow::{Result, bail};
use crds::mongo::MongoReplicaSet;
use crds::mysql::MySQLCluster;
use crds::redis::RedisReplication;
use kube::core::{DynamicObject, dynamic::ParseDynamicObjectError};
use kube::discovery::ApiResource;

use crate::cluster::Cluster;

/// What kind of cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// A MySQLCluster: `myc/NAME`.
    MySql,
    /// A MongoReplicaSet: `mrs/NAME`.
    Mongo,
    /// A RedisReplication: `rr/NAME`.
    Redis,
}

impl Engine {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::MySql, Self::Mongo, Self::Redis];

    /// The kind, if `text` says one, and the name.
    pub fn parse(text: &str) -> Result<(Option<Self>, String)> {
        let Some((kind, name)) = text.split_once('/') else { return Ok((None, text.to_owned())) };
        match kind.to_lowercase().as_str() {
            "myc" | "mysqlcluster" | "mysqlclusters" => Ok((Some(Self::MySql), name.to_owned())),
            "mrs" | "mongoreplicaset" | "mongoreplicasets" => Ok((Some(Self::Mongo), name.to_owned())),
            "rr" | "redisreplication" | "redisreplications" => Ok((Some(Self::Redis), name.to_owned())),
            _ => bail!(
                "{kind} is no kind of Understudy: write myc/{name} for a MySQLCluster, mrs/{name} for a MongoReplicaSet, \
                 rr/{name} for a RedisReplication"
            ),
        }
    }

    /// As kubectl takes it.
    pub fn short(self) -> &'static str {
        match self {
            Self::MySql => "myc",
            Self::Mongo => "mrs",
            Self::Redis => "rr",
        }
    }

    /// As Kubernetes calls it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::MySql => "MySQLCluster",
            Self::Mongo => "MongoReplicaSet",
            Self::Redis => "RedisReplication",
        }
    }

    /// The database's container, and the label of its kind.
    pub fn label(self) -> &'static str {
        match self {
            Self::MySql => "mysql",
            Self::Mongo => "mongodb",
            Self::Redis => "redis",
        }
    }

    /// Where the API server has it.
    pub fn resource(self) -> ApiResource {
        match self {
            Self::MySql => ApiResource::erase::<MySQLCluster>(&()),
            Self::Mongo => ApiResource::erase::<MongoReplicaSet>(&()),
            Self::Redis => ApiResource::erase::<RedisReplication>(&()),
        }
    }

    /// Reads what the API server has.
    pub fn read(self, object: DynamicObject) -> Result<Cluster, ParseDynamicObjectError> {
        match self {
            Self::MySql => object.try_parse::<MySQLCluster>().map(Cluster::from),
            Self::Mongo => object.try_parse::<MongoReplicaSet>().map(Cluster::from),
            Self::Redis => object.try_parse::<RedisReplication>().map(Cluster::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_named_as_kubectl_names_it() {
        assert_eq!(Engine::parse("shop").unwrap(), (None, "shop".to_owned()));
        assert_eq!(Engine::parse("myc/shop").unwrap(), (Some(Engine::MySql), "shop".to_owned()));
        assert_eq!(Engine::parse("MongoReplicaSet/stock").unwrap(), (Some(Engine::Mongo), "stock".to_owned()));
        assert_eq!(Engine::parse("RR/cache").unwrap(), (Some(Engine::Redis), "cache".to_owned()));
        assert!(Engine::parse("pod/stock").unwrap_err().to_string().contains("mrs/stock"));
        for engine in Engine::ALL {
            assert_eq!(Engine::parse(&format!("{}/x", engine.short())).unwrap().0, Some(engine));
            assert_eq!(engine.resource().kind, engine.kind());
        }
    }
}
