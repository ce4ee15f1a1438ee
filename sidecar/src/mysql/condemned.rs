//! How a data directory that cannot follow is given up (I6, I10): by an order that names it, and only between two pods.
//!
//! Each step is on disk before the next begins, and whatever dies in between, the next start goes on where it ended:
//!
//! 1. An order names the `server_uuid` of this data directory. Until then nothing below happens, whatever is wrong with it.
//! 2. It is sealed and receives nothing more. Its source, a primary that is open for writing, says what it holds; one that does not
//!    answer is waited for.
//! 3. What only this member holds is in `.understudy/errant/`, and `archive.json` there names it ([`super::archive`]).
//! 4. The mark `.understudy/condemned` names the `server_uuid` ([`mark`]), and the report says `condemned`. An order that does not
//!    name it any more takes the mark away ([`pardon`]); nothing was lost so far.
//! 5. The operator replaces the pod. The new pod's sidecar finds the mark before mysqld can have started ([`bury`]): `data/` becomes
//!    `.discarded/` by one rename. From here on the volume is empty.
//! 6. `.discarded/` is removed ([`clear`]), however long that takes; the mark goes last. The member joins as any empty one does.
//!
//! A mark that names another data directory than the one that is there has no power, and is dropped.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::Config;
use super::files::{self, At, FileError};

/// Between two lines about a long removal.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// What the mark, if there is one, means to this volume now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sentence {
    /// There is none.
    None,
    /// It names the data directory, but a mysqld of this pod may run on it: later.
    Later,
    /// It names the data directory, and nobody can have opened it.
    Now,
    /// The data directory that it named is gone.
    Done,
    /// It names another data directory than the one that is there.
    Stranger,
}

fn mark_path(config: &Config) -> PathBuf {
    files::private(config).join("condemned")
}

fn grave(config: &Config) -> PathBuf {
    config.data_dir.join(".discarded")
}

/// The data directory that is marked.
///
/// # Errors
/// The mark cannot be read.
pub fn marked(config: &Config) -> Result<Option<String>, FileError> {
    let path = mark_path(config);
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.at(&path).map(|uuid| Some(uuid.trim().to_owned())),
    }
}

/// Marks the data directory with this `server_uuid`: the next pod discards it.
///
/// # Errors
/// The volume cannot be written.
pub fn mark(config: &Config, uuid: &str) -> Result<(), FileError> {
    files::write(&mark_path(config), uuid)
}

/// Takes the mark away, if there is one.
///
/// # Errors
/// The volume cannot be written.
pub fn pardon(config: &Config) -> Result<(), FileError> {
    let path = mark_path(config);
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.at(&path).and_then(|()| files::sync(&files::private(config))),
    }
}

/// What the mark means now.
///
/// # Errors
/// It cannot be read.
pub fn sentence(config: &Config) -> Result<Sentence, FileError> {
    let Some(uuid) = marked(config)? else { return Ok(Sentence::None) };
    let data = config.datadir();
    Ok(match () {
        () if !data.try_exists().at(&data)? => Sentence::Done,
        () if server_uuid(&data).is_none_or(|found| found != uuid) => Sentence::Stranger,
        // The run directory lives as long as the pod, and mysqld starts only once my.cnf is in it.
        () if config.my_cnf().try_exists().at(&config.my_cnf())? => Sentence::Later,
        () => Sentence::Now,
    })
}

/// Carries out what is due, up to the rename. Whether there is something to [`clear`].
///
/// # Errors
/// The volume cannot be read or written.
pub fn bury(config: &Config) -> Result<bool, FileError> {
    let (data, grave) = (config.datadir(), grave(config));
    match sentence(config)? {
        Sentence::None | Sentence::Done => {}
        Sentence::Later => info!("this data directory is condemned; it is discarded when the pod is replaced"),
        Sentence::Stranger => {
            warn!(marked = marked(config)?, "the mark names another data directory than this one: dropped");
            pardon(config)?;
        }
        Sentence::Now => {
            // An earlier one that was never cleared would be in the way.
            remove(&grave, &mut Removal::default())?;
            fs::rename(&data, &grave).at(&grave)?;
            files::sync(&config.data_dir)?;
            info!(server_uuid = marked(config)?, "the condemned data directory is set aside, and will be removed");
        }
    }
    let due = grave.try_exists().at(&grave)? || sentence(config)? == Sentence::Done;
    Ok(due)
}

/// Removes what was set aside, then the mark. Waits for the disk.
///
/// # Errors
/// The volume cannot be written.
pub fn clear(config: &Config) -> Result<(), FileError> {
    let mut removal = Removal::default();
    remove(&grave(config), &mut removal)?;
    files::sync(&config.data_dir)?;
    if sentence(config)? == Sentence::Done {
        pardon(config)?;
    }
    info!(files = removal.files, bytes = removal.bytes, "what was discarded is removed");
    Ok(())
}

/// `server_uuid` of a data directory, as mysqld notes it there.
pub(super) fn server_uuid(data: &Path) -> Option<String> {
    let text = fs::read_to_string(data.join("auto.cnf")).ok()?;
    text.lines().find_map(|line| Some(line.trim().strip_prefix("server-uuid")?.trim_start().strip_prefix('=')?.trim().to_owned()))
}

/// How far a removal is.
struct Removal {
    files: u64,
    bytes: u64,
    told: Instant,
}

impl Default for Removal {
    fn default() -> Self {
        Self { files: 0, bytes: 0, told: Instant::now() }
    }
}

fn remove(dir: &Path, removal: &mut Removal) -> Result<(), FileError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.at(dir)?,
    };
    for entry in entries {
        let entry = entry.at(dir)?;
        let path = entry.path();
        let known = entry.metadata().at(&path)?;
        if known.is_dir() {
            remove(&path, removal)?;
            continue;
        }
        fs::remove_file(&path).at(&path)?;
        (removal.files, removal.bytes) = (removal.files + 1, removal.bytes + known.len());
        if removal.told.elapsed() > PROGRESS_PERIOD {
            info!(files = removal.files, bytes = removal.bytes, "removing what was discarded");
            removal.told = Instant::now();
        }
    }
    fs::remove_dir(dir).at(dir)
}

#[cfg(test)]
mod tests {
    use super::super::cnf;
    use super::*;

    const OURS: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    /// A volume with a data directory, and the run directory of a pod that has just started.
    struct Volume(Config);

    impl Volume {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("understudy-condemned-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&root);
            let config = Config { data_dir: root.join("volume"), run_dir: root.join("run"), ..cnf::tests::config() };
            for dir in [files::private(&config), config.run_dir.clone()] {
                fs::create_dir_all(dir).unwrap();
            }
            let volume = Self(config);
            volume.fill(OURS);
            volume
        }

        fn fill(&self, uuid: &str) {
            fs::create_dir_all(self.0.datadir().join("shop_db")).unwrap();
            fs::write(self.0.datadir().join("auto.cnf"), format!("[auto]\nserver-uuid={uuid}\n")).unwrap();
            fs::write(self.0.datadir().join("shop_db/t.ibd"), "rows").unwrap();
        }

        /// What is on it: the data directory, what was set aside, the mark.
        fn holds(&self) -> (bool, bool, bool) {
            (self.0.datadir().exists(), grave(&self.0).exists(), mark_path(&self.0).exists())
        }

        /// A start of the sidecar.
        fn start(&self) {
            if bury(&self.0).unwrap() {
                clear(&self.0).unwrap();
            }
        }
    }

    impl Drop for Volume {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(self.0.data_dir.parent().unwrap());
        }
    }

    #[test]
    fn without_a_mark_nothing_is_ever_discarded() {
        let volume = Volume::new("unmarked");
        volume.start();
        assert_eq!(volume.holds(), (true, false, false));
    }

    #[test]
    fn a_marked_data_directory_is_gone_after_the_next_start_of_the_pod_and_the_mark_with_it() {
        let volume = Volume::new("marked");
        mark(&volume.0, OURS).unwrap();
        assert_eq!((sentence(&volume.0).unwrap(), volume.0.first_state().condemned), (Sentence::Now, false));
        assert_eq!(volume.0.first_state().data, sidecar_protocol::mysql::Data::Empty, "from the first report on");
        volume.start();
        assert_eq!(volume.holds(), (false, false, false));
    }

    #[test]
    fn a_sidecar_that_restarts_beside_a_mysqld_discards_nothing() {
        let volume = Volume::new("beside");
        mark(&volume.0, OURS).unwrap();
        fs::write(volume.0.my_cnf(), "").unwrap();
        volume.start();
        assert_eq!(volume.holds(), (true, false, true));
        assert!(volume.0.first_state().condemned);
    }

    #[test]
    fn a_mark_of_another_data_directory_is_dropped() {
        let volume = Volume::new("stranger");
        mark(&volume.0, OTHER).unwrap();
        volume.start();
        assert_eq!(volume.holds(), (true, false, false));
        fs::remove_file(volume.0.datadir().join("auto.cnf")).unwrap();
        mark(&volume.0, OURS).unwrap();
        volume.start();
        assert_eq!(volume.holds(), (true, false, false), "one that does not say which it is is not the one named");
    }

    #[test]
    fn a_pardon_ends_it_and_asking_again_changes_nothing() {
        let volume = Volume::new("pardoned");
        mark(&volume.0, OURS).unwrap();
        pardon(&volume.0).unwrap();
        pardon(&volume.0).unwrap();
        volume.start();
        assert_eq!(volume.holds(), (true, false, false));
    }

    #[test]
    fn a_start_that_dies_after_the_rename_is_finished_by_the_next() {
        let volume = Volume::new("renamed");
        mark(&volume.0, OURS).unwrap();
        assert!(bury(&volume.0).unwrap());
        assert_eq!(volume.holds(), (false, true, true));
        volume.start();
        assert_eq!(volume.holds(), (false, false, false));
    }

    #[test]
    fn a_start_that_dies_in_the_middle_of_the_removal_is_finished_by_the_next() {
        let volume = Volume::new("removing");
        mark(&volume.0, OURS).unwrap();
        bury(&volume.0).unwrap();
        fs::remove_file(grave(&volume.0).join("auto.cnf")).unwrap();
        volume.start();
        assert_eq!(volume.holds(), (false, false, false));
    }

    #[test]
    fn a_start_that_dies_before_the_mark_is_gone_is_finished_by_the_next_and_never_touches_what_was_cloned_since() {
        let volume = Volume::new("unmarking");
        mark(&volume.0, OURS).unwrap();
        bury(&volume.0).unwrap();
        fs::remove_dir_all(grave(&volume.0)).unwrap();
        assert!(bury(&volume.0).unwrap(), "the mark is left");
        volume.fill(OTHER);
        volume.start();
        assert_eq!(volume.holds(), (true, false, false));
        assert_eq!(server_uuid(&volume.0.datadir()).as_deref(), Some(OTHER));
    }

    #[test]
    fn what_an_earlier_start_left_is_not_in_the_way_of_the_next() {
        let volume = Volume::new("twice");
        mark(&volume.0, OURS).unwrap();
        bury(&volume.0).unwrap();
        volume.fill(OURS);
        volume.start();
        assert_eq!(volume.holds(), (false, false, false));
    }
}
