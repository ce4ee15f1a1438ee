//! From an empty namespace to three members: points 1 and 2.

use anyhow::{Result, ensure};
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};

use crate::rig::{Cluster, IMAGE};
use e2e::stage::{eventually, on_stage};

#[tokio::test]
async fn the_smallest_example_comes_up_and_gets_its_application_later() -> Result<()> {
    on_stage("smallest", |lab, namespace| async move {
        let cluster = Cluster::new(&lab, &namespace);
        let example = include_str!("../../../docs/examples/mysqlcluster-minimal.yaml");
        let mut spec = serde_yaml::from_str::<Value>(example)?["spec"].take();
        (spec["image"], spec["imagePullPolicy"]) = (IMAGE.into(), "Never".into());
        cluster.apply(spec).await?;
        cluster.whole(3).await?;
        cluster.merge(json!({"database": {"name": "shop", "owner": "app"}})).await?;
        eventually("the application's account", || async {
            cluster.ledger().await?;
            cluster.writes().await?.query_drop("REPLACE INTO ledger VALUES (1, 'late')").await?;
            Ok(())
        })
        .await?;
        cluster.whole(3).await?;
        cluster.holds(&[1].into()).await
    })
    .await
}

#[tokio::test]
async fn from_nothing_to_three_members_that_clone_from_each_other_and_replicate_encrypted() -> Result<()> {
    on_stage("birth", |lab, namespace| async move {
        let cluster = Cluster::create(&lab, &namespace, 3).await?;
        cluster.ledger().await?;
        cluster.writes().await?.query_drop("INSERT INTO ledger VALUES (1, 'through the primary')").await?;
        eventually("the row through NAME-read", || async {
            let note: Option<String> = cluster.through("read").await?.query_first("SELECT note FROM ledger WHERE number = 1").await?;
            ensure!(note.as_deref() == Some("through the primary"), "got {note:?}");
            Ok(())
        })
        .await?;
        for member in ["orders-0", "orders-1", "orders-2"] {
            eventually("the row on each member", || async {
                ensure!(cluster.numbers(member).await?.contains(&1), "not yet on {member}");
                Ok(())
            })
            .await?;
        }

        // Cloned from the previous ordinal: by the status, and by MySQL's own record.
        let status = cluster.status().await?;
        for (ordinal, donor) in [(1, "orders-0"), (2, "orders-1")] {
            let row = status.members.iter().find(|member| member.name == cluster.member(ordinal));
            ensure!(row.and_then(|row| row.cloned_from.as_deref()) == Some(donor), "status says {row:?}");
            let record = cluster.sql(&cluster.member(ordinal), "SELECT STATE, SOURCE FROM performance_schema.clone_status").await?;
            ensure!(record.starts_with("Completed") && record.contains(&format!("{donor}.")), "performance_schema says {record:?}");
        }

        // Encrypted: the channels say so, and no account of ours can be used without a certificate.
        for member in ["orders-1", "orders-2"] {
            let channel = "SELECT SSL_ALLOWED, SSL_VERIFY_SERVER_CERTIFICATE FROM performance_schema.replication_connection_configuration";
            let said = cluster.sql(member, channel).await?;
            ensure!(said == "YES\tYES", "{member}: {said:?}");
            ensure!(
                status.members.iter().any(|row| row.name == member && row.tls == Some(true)),
                "the status of {member} does not say TLS"
            );
        }
        let accounts = cluster
            .sql("orders-0", "SELECT DISTINCT ssl_type FROM mysql.user WHERE user LIKE 'understudy_%' AND host <> 'localhost'")
            .await?;
        ensure!(accounts == "X509", "accounts without X509: {accounts:?}");
        let ciphers = "SELECT COUNT(*) FROM performance_schema.status_by_thread JOIN performance_schema.threads USING (THREAD_ID) \
                       WHERE PROCESSLIST_USER LIKE 'understudy_repl%' AND VARIABLE_NAME = 'Ssl_cipher' AND VARIABLE_VALUE <> ''";
        ensure!(cluster.sql("orders-0", ciphers).await? == "2", "the dump threads are not both encrypted");

        // Semi-sync has ramped up, and every replica boots read-only.
        cluster.acks(1).await?;
        ensure!(cluster.sql("orders-1", "SELECT @@super_read_only").await? == "1", "a replica is writable");
        ensure!(
            cluster.sql("orders-0", "SELECT @@rpl_semi_sync_source_enabled, @@rpl_semi_sync_source_wait_for_replica_count").await?
                == "1\t1"
        );
        Ok(())
    })
    .await
}
