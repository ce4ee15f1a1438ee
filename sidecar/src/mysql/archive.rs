//! Keeps what only this member holds before its data directory is given up (I6): the transactions themselves, for people to read.
//!
//! They are in the binary logs, and in the relay logs as far as they were not applied. `mysqlbinlog` turns exactly them into SQL that
//! can be read and run again; where it is not at hand, or does not deliver exactly them, the logs that hold them are kept as they are.
//! Archives are never removed and never overwritten. When to make one is [`super::condemned`]'s story.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sidecar_protocol::gtid::GtidSet;
use sidecar_protocol::mysql::{Archive, Peer, Position};
use tokio::process::Command;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use super::condemned;
use super::execute::{Access, StepError};
use super::files::{self, At, FileError};
use super::observe::{Facts, Receiver, look};
use super::sql::{Sql, SqlError, text};
use super::{Config, cnf};

/// Logs are read at some 100 MB a second; past this the logs themselves are kept.
const DECODE_DEADLINE: Duration = Duration::from_secs(1800);
/// Threads of the channel end what they are at first.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// The record of the newest archive, beside it.
const RECORD: &str = "archive.json";

/// Why a data directory is not given up.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is not as it must be: look and plan again.
    #[error("not ready to be given up: {0}")]
    NotYet(String),
    /// Not one common transaction: another cluster's primary, or an empty one (I10).
    #[error("{0} shares no history with this member, which is therefore not discarded; one of the two is in the wrong place")]
    Unrelated(String),
    /// Neither archived nor thrown away.
    #[error(
        "only this member holds {0}, and its logs do not have them any more, so they cannot be archived; \
         save what is needed from its tables, then delete its PersistentVolumeClaim and Pod"
    )]
    LogsGone(GtidSet),
    /// The volume.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Why `mysqlbinlog` did not deliver.
#[derive(Debug, thiserror::Error)]
enum DecodeError {
    #[error("{program}: {source}")]
    Spawn { program: String, source: std::io::Error },
    #[error("{0}")]
    Failed(String),
    #[error("it took longer than {} s", DECODE_DEADLINE.as_secs())]
    Deadline,
    #[error("it gave {0} instead of what was asked")]
    Other(GtidSet),
    #[error(transparent)]
    File(#[from] FileError),
}

/// `archive.json`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    #[serde(flatten)]
    archive: Archive,
    server_uuid: String,
}

/// Transactions and the logs that hold them.
type Part = (GtidSet, Vec<PathBuf>);

fn errant(config: &Config) -> PathBuf {
    files::private(config).join("errant")
}

fn record(config: &Config) -> Option<Record> {
    let text = fs::read_to_string(errant(config).join(RECORD)).ok()?;
    serde_json::from_str(&text).inspect_err(|error| warn!(%error, "{RECORD} cannot be read")).ok()
}

/// The newest archive on this volume.
#[must_use]
pub fn newest(config: &Config) -> Option<Archive> {
    record(config).map(|record| record.archive)
}

// === impl Access ===

impl Access {
    /// Archives what this member holds and `source`, an open primary, does not; then marks the data directory `uuid`.
    /// Whatever is not as expected ends it with nothing lost.
    ///
    /// # Errors
    /// What was not as expected.
    pub(super) async fn condemn(&self, sql: &mut Sql, source: &Peer, uuid: &str) -> Result<(), StepError> {
        if look(sql).await?.channel.is_some() {
            // An applier would move transactions from the relay logs into the binary logs while both are read.
            sql.run("STOP REPLICA", STOP_DEADLINE).await?;
        }
        let ours = look(sql).await?;
        given_up(&ours, uuid)?;
        let theirs = self.ask(source).await?;
        if theirs.read_only || theirs.server_uuid == uuid {
            return Err(StepError::NotYet(source.member.clone()));
        }
        let held = ours.position.held();
        let extra = held.minus(&theirs.executed);
        if extra == held && !held.is_empty() {
            return Err(ArchiveError::Unrelated(source.member.clone()).into());
        }
        if extra.is_empty() {
            info!(source = source.member, "the source holds all that this member holds: there is nothing to archive");
        } else {
            self.archive(sql, &ours.position, &extra, uuid).await?;
        }
        // Reading took a while.
        let now = look(sql).await?;
        given_up(&now, uuid)?;
        if now.position.held() != held {
            return Err(ArchiveError::NotYet("what it holds has changed".into()).into());
        }
        condemned::mark(&self.config, uuid).map_err(ArchiveError::File)?;
        info!(server_uuid = uuid, "the data directory is condemned: the next pod discards it and clones");
        Ok(())
    }

    async fn archive(&self, sql: &mut Sql, position: &Position, extra: &GtidSet, uuid: &str) -> Result<(), StepError> {
        let config = &self.config;
        if let Some(record) = record(config)
            && record.server_uuid == uuid
            && record.archive.gtids.contains(extra)
            && Path::new(&record.archive.file).exists()
        {
            info!(file = record.archive.file, "archived before");
            return Ok(());
        }
        let received = extra.minus(&position.executed);
        let executed = extra.minus(&received);
        let parts: Vec<Part> = vec![
            (executed.clone(), binary_logs(sql, &position.executed, &executed).await?),
            (received.clone(), if received.is_empty() { vec![] } else { relay_logs(sql).await? }),
        ];
        let rows = sql.rows("SELECT DATE_FORMAT(UTC_TIMESTAMP(), '%Y%m%dT%H%i%SZ') AS now").await?;
        let now = rows.first().and_then(|row| text(row, "now")).unwrap_or_default();
        let base = errant(config).join(format!("{now}-{}", uuid.split('-').next().unwrap_or(uuid)));
        files::private_dir(&errant(config)).map_err(ArchiveError::File)?;
        let file = match self.decoded(&base, &parts, extra, uuid).await {
            Ok(file) => file,
            Err(error) => {
                warn!(%error, "mysqlbinlog does not decode what only this member holds; the logs are kept as they are");
                let (base, extra) = (base.clone(), extra.clone());
                let kept = spawn_blocking(move || keep(&base, &parts, &extra)).await;
                kept.expect("it does not panic, and is not cancelled").map_err(ArchiveError::File)?
            }
        };
        let archive = Archive { file: file.to_string_lossy().into_owned(), gtids: extra.clone() };
        info!(file = archive.file, gtids = %archive.gtids, "archived what only this member holds");
        let record = Record { archive, server_uuid: uuid.into() };
        let text = serde_json::to_string(&record).expect("strings always serialise");
        Ok(files::write(&errant(config).join(RECORD), &text).map_err(ArchiveError::File)?)
    }

    /// Writes exactly `extra` as SQL.
    async fn decoded(&self, base: &Path, parts: &[Part], extra: &GtidSet, uuid: &str) -> Result<PathBuf, DecodeError> {
        let config = &self.config;
        let (path, draft) = (base.with_extension("sql"), base.with_file_name("sql.draft"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).at(&draft)?;
        writeln!(
            file,
            "-- What only {} (server_uuid {uuid}) held when its data directory was given up: {extra}\n\
             -- Row changes are readable in the lines that begin with ###. These changes are in no other member.",
            config.member
        )
        .at(&draft)?;
        for (set, logs) in parts.iter().filter(|(set, _)| !set.is_empty()) {
            let spawned = Command::new(&config.mysqlbinlog)
                .args(["--no-defaults", "--verbose", &format!("--include-gtids={set}")])
                .args(logs)
                .stdin(Stdio::null())
                .stdout(Stdio::from(file.try_clone().at(&draft)?))
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn();
            let spawning = |source| DecodeError::Spawn { program: config.mysqlbinlog.display().to_string(), source };
            let output = timeout(DECODE_DEADLINE, spawned.map_err(spawning)?.wait_with_output()).await;
            let output = output.map_err(|_| DecodeError::Deadline)?.map_err(spawning)?;
            if !output.status.success() {
                return Err(DecodeError::Failed(cnf::complaint(&String::from_utf8_lossy(&output.stderr))));
            }
        }
        let (extra, wanted) = (extra.clone(), path.clone());
        let finished = spawn_blocking(move || {
            file.sync_all().at(&draft)?;
            let found = transactions(&draft)?;
            if found != extra {
                return Err(DecodeError::Other(found));
            }
            fs::rename(&draft, &wanted).at(&wanted)?;
            Ok(wanted.parent().map_or(Ok(()), files::sync)?)
        });
        finished.await.expect("it does not panic, and is not cancelled")?;
        Ok(path)
    }
}

/// Whether this member is what the order names, and can neither write nor receive.
fn given_up(facts: &Facts, uuid: &str) -> Result<(), ArchiveError> {
    let receiving = facts.channel.as_ref().is_some_and(|channel| channel.receiver != Receiver::Off);
    match () {
        () if facts.server_uuid != uuid => Err(ArchiveError::NotYet(format!("this is {}, not {uuid}", facts.server_uuid))),
        () if !facts.super_read_only => Err(ArchiveError::NotYet("it is not read-only".into())),
        () if receiving => Err(ArchiveError::NotYet("it still receives".into())),
        () => Ok(()),
    }
}

/// The binary logs that hold `wanted`, which is part of `executed`: the newest first until all of it was seen, then in their order.
async fn binary_logs(sql: &mut Sql, executed: &GtidSet, wanted: &GtidSet) -> Result<Vec<PathBuf>, StepError> {
    let (mut left, mut logs) = (wanted.clone(), Vec::new());
    let names: Vec<String> = sql.rows("SHOW BINARY LOGS").await?.iter().filter_map(|row| text(row, "Log_name")).collect();
    let base = variable(sql, "log_bin_basename").await?;
    let mut until = executed.clone();
    for name in names.iter().rev() {
        if left.is_empty() {
            break;
        }
        let events = sql.rows(&format!("SHOW BINLOG EVENTS IN {} LIMIT 4", cnf::literal(name))).await?;
        let event = events.iter().find(|row| text(row, "Event_type").as_deref() == Some("Previous_gtids"));
        let before = event.and_then(|row| text(row, "Info")).unwrap_or_default();
        let before: GtidSet = before.parse().map_err(|error| SqlError::Unclear(format!("previous GTIDs of {name}: {error}")))?;
        let rest = left.minus(&until.minus(&before));
        if rest != left {
            logs.insert(0, base.with_file_name(name));
        }
        (left, until) = (rest, before);
    }
    if left.is_empty() { Ok(logs) } else { Err(ArchiveError::LogsGone(left).into()) }
}

/// All relay logs: they are few, those that are applied are gone.
async fn relay_logs(sql: &mut Sql) -> Result<Vec<PathBuf>, StepError> {
    let index = variable(sql, "relay_log_index").await?;
    let names = files::read(&index).map_err(ArchiveError::File)?;
    Ok(names.lines().filter(|name| !name.is_empty()).map(|name| index.with_file_name("").join(name)).collect())
}

/// A path that mysqld works with.
async fn variable(sql: &mut Sql, name: &str) -> Result<PathBuf, SqlError> {
    let rows = sql.rows(&format!("SELECT @@global.{name} AS path")).await?;
    let path = rows.first().and_then(|row| text(row, "path"));
    path.map(PathBuf::from).ok_or_else(|| SqlError::Unclear(format!("no {name}")))
}

/// Keeps the logs of `parts` in a directory, with a file that says which transactions count. Links cost no room, and hold the logs when
/// the data directory goes; where the volume has none, they are copied.
fn keep(base: &Path, parts: &[Part], extra: &GtidSet) -> Result<PathBuf, FileError> {
    let dir = base.with_extension("logs");
    let draft = base.with_file_name("logs.draft");
    files::wipe(&draft)?;
    let logs: BTreeSet<&PathBuf> = parts.iter().filter(|(set, _)| !set.is_empty()).flat_map(|(_, logs)| logs).collect();
    for log in logs {
        let Some(name) = log.file_name() else { continue };
        let copy = draft.join(name);
        fs::hard_link(log, &copy).or_else(|_| fs::copy(log, &copy).map(drop)).at(log)?;
    }
    files::write(&draft.join("gtids"), &extra.to_string())?;
    files::sync_tree(&draft)?;
    fs::rename(&draft, &dir).at(&dir)?;
    dir.parent().map_or(Ok(()), files::sync)?;
    Ok(dir)
}

/// The transactions in the output of `mysqlbinlog`.
fn transactions(path: &Path) -> Result<GtidSet, FileError> {
    const BEGIN: &[u8] = b"SET @@SESSION.GTID_NEXT= '";
    let mut lines = BufReader::new(File::open(path).at(path)?);
    let (mut found, mut line) = (GtidSet::new(), Vec::new());
    while lines.read_until(b'\n', &mut line).at(path)? > 0 {
        let gtid = line.strip_prefix(BEGIN).and_then(|rest| rest.split(|byte| *byte == b'\'').next());
        if let Some(one) = gtid.and_then(|gtid| std::str::from_utf8(gtid).ok()).and_then(|gtid| gtid.parse::<GtidSet>().ok()) {
            found = found.union(&one);
        }
        line.clear();
    }
    Ok(found)
}
