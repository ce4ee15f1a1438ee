//! Where things lie: the lab's state, the cache of what is slow to make, and the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Containerd appends up to 60 characters for its sockets, and the kernel allows 108.
const LONGEST_LAB_DIR: usize = 48;

/// The three places that the lab reads and writes.
#[derive(Clone, Debug)]
pub struct Dirs {
    /// State of the running lab, removed by `lab down`: `$UNDERSTUDY_LAB`.
    pub lab: PathBuf,
    /// Binaries and images, kept: `$UNDERSTUDY_CACHE`.
    pub cache: PathBuf,
    /// The checkout this program was built from.
    pub checkout: PathBuf,
}

impl Dirs {
    /// From the environment, with the defaults of the README.
    pub fn from_env() -> Result<Self> {
        let lab = std::env::var_os("UNDERSTUDY_LAB").map_or_else(|| PathBuf::from("/var/tmp/understudy-lab"), PathBuf::from);
        let cache = match std::env::var_os("UNDERSTUDY_CACHE") {
            Some(dir) => PathBuf::from(dir),
            None => PathBuf::from(std::env::var_os("HOME").context("neither UNDERSTUDY_CACHE nor HOME is set")?).join(".cache/understudy"),
        };
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("e2e lies inside the checkout")?.to_owned();
        ensure!(lab.is_absolute() && cache.is_absolute(), "UNDERSTUDY_LAB and UNDERSTUDY_CACHE must be absolute paths");
        ensure!(
            lab.as_os_str().len() <= LONGEST_LAB_DIR && lab.components().count() > 2,
            "UNDERSTUDY_LAB must be a directory of its own with a path of at most {LONGEST_LAB_DIR} characters (Unix sockets lie below it)"
        );
        Ok(Self { lab, cache, checkout })
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.lab.join("admin.kubeconfig")
    }

    /// Where a component logs.
    pub fn log(&self, component: &str) -> PathBuf {
        self.lab.join(format!("logs/{component}.log"))
    }

    /// The writes that the API server recorded.
    pub fn audit_log(&self) -> PathBuf {
        self.lab.join("audit.log")
    }
}

/// Writes a component's configuration to `DIR/NAME-DIGEST.EXTENSION`: the same text is never written twice (kube-proxy ends when its file is
/// touched), and another text is another command line, which restarts the component.
pub fn write_config(dir: &Path, name: &str, extension: &str, text: &str) -> Result<String> {
    let path = dir.join(format!("{name}-{}.{extension}", crate::binaries::digest([text])));
    if !path.exists() {
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(path.display().to_string())
}
