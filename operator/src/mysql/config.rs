//! my.cnf, as the ConfigMap holds it (pure): defaults that suit the pod, then the user's options.
//!
//! What Understudy owns is not here: the sidecar appends it (`sidecar/src/mysql/cnf.rs`), operated or standalone, after everything
//! else, so that it wins. Nothing secret is ever in this text.

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
    if let Some(memory) = quantity::memory(desired.resources.as_ref()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql::option;
    use crate::mysql::validate::validate;
    use crds::shared::OptionValue;
    use proptest::prelude::*;
    use serde_json::json;

    fn desired(spec: serde_json::Value) -> Desired {
        let mut whole = json!({"storage": {"size": "1Gi"}});
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let metadata = json!({"name": "orders", "namespace": "shop", "uid": "u"});
        validate(
            &serde_json::from_value(
                json!({"apiVersion": "understudy.dev/v1alpha1", "kind": "MySQLCluster", "metadata": metadata, "spec": whole}),
            )
            .unwrap(),
        )
        .unwrap()
    }

    /// As MySQL reads an option file (mysys/my_default.cc): a buffer of 4096 bytes a line, comments, sections, quotes, escapes.
    fn as_mysql_reads(text: &str) -> Vec<(String, String, String)> {
        let mut read = Vec::new();
        let mut section = String::new();
        for line in text.split('\n').flat_map(|line| line.as_bytes().chunks(4095)) {
            let line = String::from_utf8_lossy(line);
            let line = line.split('\0').next().unwrap_or_default().trim();
            if line.is_empty() || line.starts_with(['#', ';']) {
                continue;
            }
            assert!(!line.starts_with('!'), "an include: {line}");
            if let Some(name) = line.strip_prefix('[') {
                section = name.split(']').next().unwrap().to_owned();
                continue;
            }
            let (name, value) =
                without_comment(line).split_once('=').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).unwrap();
            read.push((section.clone(), name, unquoted(&value)));
        }
        read
    }

    fn without_comment(line: &str) -> &str {
        let (mut quote, mut escape) = (None, false);
        for (at, char) in line.char_indices() {
            if (char == '\'' || char == '"') && !escape {
                match quote {
                    None => quote = Some(char),
                    Some(open) if open == char => quote = None,
                    Some(_) => {}
                }
            }
            if quote.is_none() && char == '#' {
                return &line[..at];
            }
            escape = quote.is_some() && char == '\\' && !escape;
        }
        line
    }

    fn unquoted(value: &str) -> String {
        let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
        let mut out = String::new();
        let mut chars = inner.chars();
        while let Some(char) = chars.next() {
            match (char, (char == '\\').then(|| chars.next()).flatten()) {
                ('\\', Some('n')) => out.push('\n'),
                ('\\', Some('r')) => out.push('\r'),
                ('\\', Some('s')) => out.push(' '),
                ('\\', Some(plain @ ('"' | '\'' | '\\'))) => out.push(plain),
                ('\\', Some(other)) => out.extend(['\\', other]),
                (other, _) => out.push(other),
            }
        }
        out
    }

    proptest! {
        /// Whatever a user writes is refused, or is one option of the section mysqld with exactly that value.
        #[test]
        fn an_option_is_read_as_written_and_as_nothing_else(
            name in "[a-z][a-z0-9_.-]{0,20}|\\PC{0,10}|!include(dir)? /etc|\\[client\\]|[a-z]+[=#\n][a-z]+",
            value in "\\PC*|[\\\\\"'#;=\\[\\] a-z!]{0,40}|[a-z\n\r\0\"]{0,20}|x{3000,5000}|[\\\\\"]{1900,2100}",
        ) {
            if let Ok((name, value)) = option::parse(&name, &OptionValue::Text(value)) {
                let mut wanted = desired(json!({}));
                wanted.config.insert(name.clone(), value.clone());
                let read = as_mysql_reads(&my_cnf(&wanted));
                prop_assert_eq!(read.last(), Some(&("mysqld".to_owned(), name, value)));
                prop_assert_eq!(read.len(), as_mysql_reads(&my_cnf(&desired(json!({})))).len() + 1);
            }
        }
    }

    #[test]
    fn a_users_option_comes_after_the_default() {
        let text = my_cnf(&desired(json!({"config": {"binlog_expire_logs_seconds": 60}})));
        let all: Vec<_> = as_mysql_reads(&text).into_iter().filter(|(_, name, _)| name == "binlog_expire_logs_seconds").collect();
        assert_eq!(all.last().unwrap().2, "60");
    }

    #[test]
    fn the_buffer_pool_fits_the_memory_and_needs_no_rounding_up() {
        let read = |memory: &str| {
            let text = my_cnf(&desired(json!({"resources": {"limits": {"memory": memory}, "requests": {"memory": "1Ti"}}})));
            let of =
                |wanted: &str| as_mysql_reads(&text).into_iter().find(|(_, name, _)| name == wanted).unwrap().2.parse::<u64>().unwrap();
            (of("innodb_buffer_pool_size"), of("innodb_buffer_pool_instances") * of("innodb_buffer_pool_chunk_size"))
        };
        for (memory, mib) in [("256Mi", 64), ("512Mi", 64), ("1Gi", 416), ("2Gi", 1152), ("4Gi", 2432), ("16Gi", 9216), ("64Gi", 38912)] {
            let (size, unit) = read(memory);
            assert_eq!(size / MIB, mib, "{memory}");
            assert_eq!(size % unit, 0, "{memory}");
        }
    }

    #[test]
    fn without_resources_mysql_keeps_its_own_default() {
        assert!(!my_cnf(&desired(json!({}))).contains("innodb_buffer_pool_size"));
    }
}
