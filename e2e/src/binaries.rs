//! Kubernetes and Helm, compiled from their Go modules once and cached by version and content.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::dirs::Dirs;
use crate::run;
use crate::ui::Ui;

/// The Kubernetes that the lab runs; `kube/go.mod` pins the same.
pub const KUBERNETES: &str = "v1.36.3";
/// The Helm that installs the chart.
pub const HELM: &str = "v4.3.1";

const SOURCE: [(&str, &str); 3] =
    [("go.mod", include_str!("../kube/go.mod")), ("go.sum", include_str!("../kube/go.sum")), ("main.go", include_str!("../kube/main.go"))];

/// The one executable of all Kubernetes components, built when the cache has none from this source.
pub async fn kube(dirs: &Dirs, ui: &Ui) -> Result<PathBuf> {
    let path = kube_path(dirs);
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(dirs).await?;
    if path.exists() {
        return Ok(path);
    }
    require_go().await?;
    // Built from a copy: the checkout may be read-only or change under a build of several minutes.
    let source = fresh_dir(dirs, "work-kube")?;
    for (name, text) in SOURCE {
        std::fs::write(source.join(name), text)?;
    }
    let version = "-X k8s.io/component-base/version.git";
    let flags = format!("-s -w {version}Version={KUBERNETES} {version}Major=1 {version}Minor=36");
    ui.step(&format!("build Kubernetes {KUBERNETES} from source (several minutes, once)"), async {
        run::output(run::command("go").current_dir(&source).env("CGO_ENABLED", "0").args([
            "build",
            "-trimpath",
            "-ldflags",
            &flags,
            "-o",
            "kube.out",
            ".",
        ]))
        .await
    })
    .await?;
    keep(&source.join("kube.out"), &path)?;
    std::fs::remove_dir_all(&source)?;
    Ok(path)
}

/// Where [`kube`] lies, built or not.
pub fn kube_path(dirs: &Dirs) -> PathBuf {
    dirs.cache.join(format!("bin/kube-{KUBERNETES}-{}", digest(SOURCE.iter().map(|(_, text)| *text))))
}

/// Helm, built when the cache lacks this version.
pub async fn helm(dirs: &Dirs, ui: &Ui) -> Result<PathBuf> {
    let path = helm_path(dirs);
    if path.exists() {
        return Ok(path);
    }
    let _lock = lock(dirs).await?;
    if path.exists() {
        return Ok(path);
    }
    require_go().await?;
    let out = fresh_dir(dirs, "work-helm")?;
    ui.step(&format!("build Helm {HELM} from source (a minute or two, once)"), async {
        let module = format!("helm.sh/helm/v4/cmd/helm@{HELM}");
        run::output(run::command("go").env("CGO_ENABLED", "0").env("GOBIN", &out).args([
            "install",
            "-trimpath",
            "-ldflags",
            "-s -w",
            &module,
        ]))
        .await
    })
    .await?;
    keep(&out.join("helm"), &path)?;
    std::fs::remove_dir_all(&out)?;
    Ok(path)
}

/// Where [`helm`] lies, built or not.
pub fn helm_path(dirs: &Dirs) -> PathBuf {
    dirs.cache.join(format!("bin/helm-{HELM}"))
}

/// Twelve hexadecimal digits that change with any of the texts: a cache key.
pub fn digest<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    for text in texts {
        context.update(text.as_bytes());
        context.update(&[0]);
    }
    context.finish().as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// One builder at a time fills the cache; others wait, and then find what they wanted.
pub(crate) async fn lock(dirs: &Dirs) -> Result<File> {
    std::fs::create_dir_all(&dirs.cache)?;
    let path = dirs.cache.join("lock");
    let file = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    let (file, locked) = tokio::task::spawn_blocking(move || {
        let locked = file.lock();
        (file, locked)
    })
    .await?;
    locked.context("cannot lock the cache")?;
    Ok(file)
}

/// An empty directory in the cache; what an interrupted build left in it goes.
pub(crate) fn fresh_dir(dirs: &Dirs, name: &str) -> Result<PathBuf> {
    let dir = dirs.cache.join(name);
    if dir.exists() {
        std::fs::remove_dir_all(&dir)?;
    }
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}

pub(crate) async fn require_go() -> Result<()> {
    let version = run::output(run::command("go").arg("version"))
        .await
        .context("Go builds what the lab runs, Kubernetes above all: install it from go.dev")?;
    ensure!(version.starts_with("go version go"), "`go version` said {version}");
    Ok(())
}

/// A cache entry appears whole or not at all: an interrupted build leaves none.
pub(crate) fn keep(built: &Path, path: &Path) -> Result<()> {
    std::fs::create_dir_all(path.parent().context("a cache entry lies in a directory")?)?;
    std::fs::rename(built, path).with_context(|| format!("cannot keep {}", path.display()))
}
