//! my.cnf, as the ConfigMap holds it (pure): defaults that suit the pod, then the user's options.
//!
//! What Understudy owns is not here: the sidecar appends it (`sidecar/src/mysql/cnf.rs`), operated or standalone, after everything
//! else, so that it wins. Nothing secret is ever in this text.

use k8s_openapi::api::core::v1::ResourceRequirements;
use ring::digest::{SHA256, digest};

use super::option::line;
use super::validate::Desired;
use crate::quantity;

/// Binary logs are kept for three days: long enough for a member to come back, and one that is away longer is cloned.
const BINLOG_SECONDS: u32 = 3 * 24 * 3600;
const MIB: u64 = 1 << 20;
/// What mysqld needs beside its buffer pool, with the performance schema and some connections.
const BESIDE: u64 = 600 * MIB;

/// The text of my.cnf.
#[must_use]
pub fn my_cnf(desired: &Desired) -> String {
    let mut text = String::from("# Made by Understudy from spec.config. What it owns itself is appended in the pod.\n[mysqld]\n");
    let mut set = |name: &str, value: &str| {
        text.push_str(&line(name, value));
        text.push('\n');
    };
    set("binlog_expire_logs_seconds", &BINLOG_SECONDS.to_string());
    if let Some(memory) = memory(desired.resources.as_ref()) {
        let pool = pool(memory);
        // MySQL rounds the pool up to chunks × instances; said here, so that it cannot round up beyond the limit.
        set("innodb_buffer_pool_instances", &pool.instances.to_string());
        set("innodb_buffer_pool_chunk_size", &pool.chunk.to_string());
        set("innodb_buffer_pool_size", &pool.size.to_string());
    }
    for (name, value) in &desired.config {
        set(name, value);
    }
    text
}

/// Name of the ConfigMap that holds `text`: another text is another object, so that a pod keeps what it was started with.
#[must_use]
pub fn map_name(cluster: &str, text: &str) -> String {
    let hash: String = digest(&SHA256, text.as_bytes()).as_ref()[..5].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{cluster}-config-{hash}")
}

/// The memory that mysqld may count on.
fn memory(resources: Option<&ResourceRequirements>) -> Option<u64> {
    let resources = resources?;
    let of = |list: &Option<std::collections::BTreeMap<_, _>>| list.as_ref().and_then(|list| quantity::units(list.get("memory")?));
    of(&resources.limits).or_else(|| of(&resources.requests))
}

struct Pool {
    size: u64,
    instances: u64,
    chunk: u64,
}

/// Three fifths of `memory`, but never so much that the rest of mysqld does not fit beside it.
fn pool(memory: u64) -> Pool {
    let size = (memory / 5 * 3).min(memory.saturating_sub(BESIDE)).max(64 * MIB);
    // One instance below 1 GiB and eight above, as MySQL would choose; small chunks keep the rounding small.
    let (instances, chunk) = match size / MIB {
        ..1024 => (1, 16 * MIB),
        1024..8192 => (8, 16 * MIB),
        _ => (8, 128 * MIB),
    };
    Pool { size: size / (instances * chunk) * (instances * chunk), instances, chunk }
}
