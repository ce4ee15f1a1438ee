//! Where a member is in which history, also when the process has forgotten it: pure, and the file that it is kept in.
//!
//! A process that loads an append-only file keeps neither history nor offset. So the sidecar writes down what it saw last, on the volume; what is
//! read there after a restart is a lower bound, and exact if nothing could change any more when it was seen.

use std::path::Path;
use std::{fs, io};

use serde::{Deserialize, Serialize};
use sidecar_protocol::redis::{Ancestor, Data, Position, ReplId, Role};

use super::Persistence;
use super::observe::Facts;
use crate::files::{self, At, FileError};

/// Name of the file.
const FILE: &str = "position.json";
/// What a ping of a primary, one a second, adds to the offset.
const PING_BYTES: u64 = 14;

/// What is written down.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Memory {
    /// The process that was seen.
    pub run_id: String,
    /// Its history.
    pub replid: ReplId,
    /// How much of it.
    pub offset: u64,
    /// The history before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<Ancestor>,
    /// It wrote this history itself.
    #[serde(default)]
    pub led: bool,
    /// Nothing was written or received any more when it was seen.
    #[serde(default)]
    pub exact: bool,
    /// The process that came up with an older file than this: its data have an identity of their own by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverted: Option<String>,
    /// The process had thrown away what it held, for a copy that was not whole yet.
    #[serde(default)]
    pub torn: bool,
    /// It may have thrown that away since, for a copy of somebody else's data: nobody would miss it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub copying: Option<Copying>,
}

/// Whose data take the place of those that there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Copying {
    /// The process that copies.
    pub run_id: String,
    /// Their history.
    pub replid: ReplId,
}

/// What is known of a member's data.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Where it is.
    pub position: Option<Position>,
    /// What it holds.
    pub data: Data,
    /// What to write down, when it is news.
    pub memory: Option<Memory>,
    /// These data are not those of before: they get another identity.
    pub renewed: bool,
}

/// What `facts` of the process `run_id` mean together with what was written down.
#[must_use]
pub fn know(facts: &Facts, run_id: &str, memory: Option<&Memory>, persistence: Persistence) -> Known {
    let copying = memory.and_then(|memory| memory.copying.as_ref());
    // Of a member that held nothing before only that is written down.
    let memory = memory.filter(|memory| !memory.replid.0.is_empty());
    let same_process = memory.is_some_and(|memory| memory.run_id == run_id);
    // Without persistence nothing outlives the process.
    let lost = persistence == Persistence::None && memory.is_some() && !same_process;
    let memory = memory.filter(|_| !lost);
    let following = facts.role == Role::Replica;
    let syncing = facts.source.as_ref().and_then(|source| source.syncing).filter(|_| following);
    if facts.loading.is_some() {
        // While it reads a copy it holds neither what it held nor what it will hold.
        let torn = following && memory.is_some_and(|memory| !memory.torn);
        let memory = memory.filter(|_| torn).map(|memory| Memory { run_id: run_id.into(), torn: true, exact: false, ..memory.clone() });
        let data = match syncing {
            Some((copied, total)) => Data::Syncing { copied, total },
            None => Data::Loading { percent: facts.loading.unwrap_or_default() },
        };
        return Known { position: None, data, memory, renewed: lost || torn };
    }
    let up = facts.source.as_ref().is_some_and(|source| source.up && source.syncing.is_none());
    let live = facts.role == Role::Primary || following && up;
    let torn = !live && same_process && memory.is_some_and(|memory| memory.torn);
    let knows_it = copying.is_some_and(|copying| copying.replid == facts.replid)
        || memory.is_some_and(|memory| {
            let before = memory.before.as_ref().map(|before| &before.replid);
            same_process || memory.replid == facts.replid || before == Some(&facts.replid)
        });
    let interrupted = copying.filter(|copying| !live && !knows_it && copying.run_id != run_id);
    let (position, next, renewed) = match memory {
        _ if torn => (None, None, false),
        // Either what there was, or the copy. Of that it holds nobody knows how much.
        _ if interrupted.is_some() => {
            let held = interrupted.filter(|_| facts.keys > 0);
            (held.map(|copying| Position { replid: copying.replid.clone(), recovered: true, ..Position::default() }), None, false)
        }
        _ if live || knows_it => {
            // A process that had forgotten everything cannot have gone on from where it was.
            let copied = memory.is_some_and(|memory| !memory.torn && (!same_process || !goes_on(memory, facts)));
            let copied = copied && live && following;
            let reverted = memory.is_some_and(|memory| reverted(memory, facts, run_id, persistence));
            (Some(own(facts, memory)), written(facts, run_id, memory), copied || reverted)
        }
        Some(memory) => match persistence {
            Persistence::AppendOnly => (Some(remembered(memory, memory.offset)), None, false),
            // An RDB file from before anybody followed names no history. It is of this one, nobody knows how much of it.
            Persistence::Snapshot if facts.keys > 0 => {
                let next = Memory { reverted: Some(run_id.into()), exact: false, ..memory.clone() };
                (Some(remembered(memory, 0)), Some(next), reverted(memory, facts, run_id, persistence))
            }
            Persistence::Snapshot | Persistence::None => (None, None, true),
        },
        // Data that somebody else put there.
        None if facts.keys > 0 => (Some(own(facts, None)), None, false),
        None => (None, None, false),
    };
    let data = match (syncing, &position) {
        (Some((copied, total)), _) => Data::Syncing { copied, total },
        (None, None) if torn => Data::Syncing { copied: 0, total: 0 },
        (None, None) => Data::Empty,
        (None, Some(_)) => Data::Present,
    };
    Known { position, data, memory: next, renewed: lost || renewed }
}

/// Whether what it holds now is what it held then and more, and no copy.
fn goes_on(memory: &Memory, facts: &Facts) -> bool {
    memory.replid == facts.replid || facts.before.as_ref().is_some_and(|before| before.replid == memory.replid)
}

/// Whether a process began with an older file than what was written down: it does not hold all that it acknowledged, and is neither to lead as who it
/// was nor to be counted among those who acknowledged (I2, I10).
fn reverted(memory: &Memory, facts: &Facts, run_id: &str, persistence: Persistence) -> bool {
    let another = memory.run_id != run_id && memory.reverted.as_deref() != Some(run_id);
    let whole = memory.exact && (&memory.replid, memory.offset) == (&facts.replid, facts.offset);
    persistence == Persistence::Snapshot && another && !whole
}

fn own(facts: &Facts, memory: Option<&Memory>) -> Position {
    let following = facts.role == Role::Replica && facts.source.as_ref().is_some_and(|source| source.up);
    let led = facts.role == Role::Primary || !following && memory.is_some_and(|memory| memory.led);
    Position { replid: facts.replid.clone(), offset: facts.offset, before: before(facts, memory), recovered: false, led }
}

/// The history that this one went on from. A primary that was restarted and led on does not know which that was: what was written down does.
fn before(facts: &Facts, memory: Option<&Memory>) -> Option<Ancestor> {
    match memory {
        Some(memory) if memory.replid == facts.replid => memory.before.clone().or_else(|| facts.before.clone()),
        Some(memory) if facts.role == Role::Primary && !goes_on(memory, facts) => {
            Some(Ancestor { replid: memory.replid.clone(), end: Some(memory.offset) })
        }
        _ => facts.before.clone(),
    }
}

fn remembered(memory: &Memory, offset: u64) -> Position {
    let Memory { replid, before, led, exact, .. } = memory.clone();
    Position { replid, before, led, recovered: !exact || offset != memory.offset, offset }
}

/// Whether `now` says nothing that `kept` did not, but for the pings of a primary in `seconds`.
#[must_use]
pub fn is_idle(kept: &Memory, now: &Memory, seconds: u64) -> bool {
    let Memory { run_id, replid, offset, before, led, exact, reverted, torn, copying } = kept;
    let pings = offset.saturating_add(PING_BYTES.saturating_mul(seconds.saturating_add(2)));
    (run_id, replid, before, led, exact, reverted, torn, copying)
        == (&now.run_id, &now.replid, &now.before, &now.led, &now.exact, &now.reverted, &now.torn, &now.copying)
        && (*offset..=pings).contains(&now.offset)
}

/// What to write down, if that is safe: until a copy is on the volume as a whole, a restart brings back what there was before it.
fn written(facts: &Facts, run_id: &str, memory: Option<&Memory>) -> Option<Memory> {
    if facts.role != Role::Primary && facts.rewriting {
        return None;
    }
    let Position { replid, offset, before, led, .. } = own(facts, memory);
    let up = facts.source.as_ref().is_some_and(|source| source.up && source.syncing.is_none());
    let copied = facts.role == Role::Primary || facts.role == Role::Replica && up;
    let copying = memory.and_then(|memory| memory.copying.clone()).filter(|_| !copied);
    let exact = facts.role == Role::Isolated;
    let next = Memory { run_id: run_id.into(), replid, offset, before, led, exact, reverted: None, torn: false, copying };
    (memory != Some(&next)).then_some(next)
}

// === impl Memory ===

impl Memory {
    /// What is written down in `directory`, if anything is.
    ///
    /// # Errors
    /// It cannot be read, or is not what we write.
    pub fn read(directory: &Path) -> Result<Option<Self>, FileError> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.and_then(|text| serde_json::from_slice(&text).map_err(io::Error::from)).at(&path).map(Some),
        }
    }

    /// Writes it down; on the disk when this returns.
    ///
    /// # Errors
    /// The volume cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), FileError> {
        let path = directory.join(FILE);
        let text = serde_json::to_string(self).map_err(io::Error::from).at(&path)?;
        files::write(&path, &text)
    }

    /// Forgets all.
    ///
    /// # Errors
    /// The volume cannot be written.
    pub fn forget(directory: &Path) -> Result<(), FileError> {
        let path = directory.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error).at(&path),
            _ => files::sync(directory),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(replid: &str, offset: u64) -> Memory {
        Memory { run_id: "first".into(), replid: ReplId(replid.into()), offset, led: true, ..Memory::default() }
    }

    fn primary(replid: &str, offset: u64) -> Facts {
        Facts { role: Role::Primary, replid: ReplId(replid.into()), offset, keys: 1, ..Facts::default() }
    }

    #[test]
    fn a_primary_that_was_restarted_and_leads_on_knows_from_where() {
        let known = know(&primary("b", 14), "second", Some(&memory("a", 900)), Persistence::AppendOnly);
        let from = Some(Ancestor { replid: ReplId("a".into()), end: Some(900) });
        assert_eq!((known.position.unwrap().before, known.renewed), (from.clone(), false));
        // And so it does later.
        let later = know(&primary("b", 28), "second", known.memory.as_ref(), Persistence::AppendOnly);
        assert_eq!(later.position.unwrap().before, from);
    }

    #[test]
    fn a_copy_that_was_not_seen_whole_is_of_its_history_and_nobody_knows_how_much_of_it() {
        let copying = Some(Copying { run_id: "first".into(), replid: ReplId("b".into()) });
        let before = [Memory { copying: copying.clone(), ..memory("a", 900) }, Memory { copying, ..Memory::default() }];
        for memory in before {
            let boots = |keys| Facts { role: Role::Isolated, replid: ReplId("boot".into()), keys, ..Facts::default() };
            let known = know(&boots(1), "second", Some(&memory), Persistence::AppendOnly);
            let position = known.position.unwrap();
            assert_eq!((position.replid.0.as_str(), position.offset, position.recovered, position.led), ("b", 0, true, false));
            assert_eq!(know(&boots(0), "second", Some(&memory), Persistence::AppendOnly).data, Data::Empty);
            // In the process that is to copy nothing has changed yet.
            let known = know(&boots(0), "first", Some(&memory), Persistence::AppendOnly);
            assert_eq!(known.data == Data::Empty, memory.replid.0.is_empty());
            let up = Some(crate::redis::observe::Source { up: true, ..Default::default() });
            let live = Facts { role: Role::Replica, source: up, replid: ReplId("b".into()), offset: 5, keys: 1, ..Facts::default() };
            let known = know(&live, "first", Some(&memory), Persistence::AppendOnly);
            assert_eq!(known.memory.as_ref().map(|memory| (memory.offset, &memory.copying)), Some((5, &None)));
            assert_eq!(known.renewed, !memory.replid.0.is_empty(), "one that held nothing keeps its identity");
            let known = know(&Facts { rewriting: true, ..live }, "first", Some(&memory), Persistence::AppendOnly);
            assert_eq!((known.memory, known.position.unwrap().offset), (None, 5), "until it is on the volume as a whole");
        }
    }

    #[test]
    fn a_process_that_began_with_an_older_snapshot_holds_other_data_and_one_that_began_with_all_of_it_the_same() {
        let boots =
            |replid: &str, offset, keys| Facts { role: Role::Isolated, replid: ReplId(replid.into()), offset, keys, ..Facts::default() };
        let exact = Memory { exact: true, ..memory("a", 900) };
        for (memory, facts, renewed) in [
            (exact.clone(), boots("a", 900, 1), false),
            (exact.clone(), boots("a", 500, 1), true),
            (exact, boots("boot", 0, 1), true),
            // Nobody knows how much came after it was looked at last.
            (memory("a", 900), boots("a", 900, 1), true),
            (memory("a", 900), boots("boot", 0, 1), true),
            (memory("a", 900), boots("boot", 0, 0), true),
        ] {
            let known = know(&facts, "second", Some(&memory), Persistence::Snapshot);
            assert_eq!(known.renewed, renewed, "{facts:?}");
            // Once.
            if let Some(kept) = known.memory.filter(|_| renewed) {
                let again = know(&facts, "second", Some(&kept), Persistence::Snapshot);
                assert_eq!((again.renewed, &again.position), (false, &known.position), "{facts:?}");
                let next = know(&boots("a", 400, 1), "third", Some(&kept), Persistence::Snapshot);
                assert!(next.renewed, "and the next one again: {facts:?}");
            }
        }
    }

    #[test]
    fn pings_alone_are_not_worth_a_write() {
        assert!(is_idle(&memory("a", 900), &memory("a", 900), 0));
        assert!(is_idle(&memory("a", 900), &memory("a", 900 + 14 * 5), 5));
        assert!(!is_idle(&memory("a", 900), &memory("a", 900 + 14 * 8), 5), "something was written");
        assert!(!is_idle(&memory("a", 900), &memory("b", 900), 5));
        assert!(!is_idle(&memory("a", 900), &memory("a", 800), 5));
    }
}
