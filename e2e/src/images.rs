//! Images: built by buildah from Debian packages and our Dockerfile, kept as OCI archives, imported into each node's containerd.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;

use crate::binaries::{digest, fresh_dir, lock};
use crate::dirs::Dirs;
use crate::node::Node;
use crate::process::Process;
use crate::run;
use crate::ui::Ui;

mod debian;

/// Holds a pod's namespaces open.
pub const PAUSE: &str = "localhost/pause:1";
/// A real MySQL, laid out like the official image: uid 999 is `mysql`, no configuration of its own.
pub const MYSQL: &str = "localhost/mysql:9.7";
/// The same bytes under a second name, so that tests can change the image of a cluster.
pub const MYSQL_B: &str = "localhost/mysql:9.7-b";
/// A real Redis, laid out like the official image: uid 999 is `redis`, no configuration of its own.
pub const REDIS: &str = "localhost/redis:7.0";
/// The same bytes under a second name.
pub const REDIS_B: &str = "localhost/redis:7.0-b";
/// A real Valkey, laid out like the official image: uid 999 is `valkey`.
pub const VALKEY: &str = "localhost/valkey:9";
/// What stands for MongoDB: the model of mongod, playing 5.0; or a real one, from `MONGO_IMAGE_ROOTFS`.
pub const MONGO: &str = "localhost/mongo:5.0";
/// The same bytes under a second name.
pub const MONGO_B: &str = "localhost/mongo:5.0-b";
/// The release after it, from `MONGO_NEXT_IMAGE_ROOTFS` or played by the model.
pub const MONGO_NEXT: &str = "localhost/mongo:6.0";
/// Operator and sidecar of this checkout.
pub const UNDERSTUDY: &str = "localhost/understudy:dev";

/// The target that our static binaries are built for.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// At a fixed address: without relocations, which every process would read and write anew (1.7 MiB of a sidecar).
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";

/// A model of mongod where mongod is, in a system as bare as can be. It says itself what it is.
const MODEL_DOCKERFILE: &str =
    "FROM scratch\nCOPY mongod-model /usr/bin/mongod\nENV PATH=/usr/bin MONGOD_MODEL_VERSION=PLAYED\nUSER 999\nCMD [\"mongod\"]\n";
/// A real one, laid out like the official image: uid 999 is `mongodb`, mongod is in the path.
const MONGO_DOCKERFILE: &str =
    "FROM scratch\nADD ROOTFS /\nENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nUSER 999\nCMD [\"mongod\"]\n";
const PAUSE_DOCKERFILE: &str = "FROM scratch\nCOPY pause /pause\nUSER 65535:65535\nENTRYPOINT [\"/pause\"]\n";
const PAUSE_SOURCE: &str = include_str!("bin/pause.rs");

/// An OCI archive and the names it goes by in the cluster.
#[derive(Clone, Debug)]
pub struct Image {
    /// The archive, in the cache.
    pub archive: PathBuf,
    /// Its names; the first is written in the archive.
    pub names: Vec<String>,
}

/// The images that do not come from this checkout, built when the cache lacks them.
pub async fn base(dirs: &Dirs, ui: &Ui) -> Result<Vec<Image>> {
    let _lock = lock(dirs).await?;
    let mut images = vec![pause(dirs, ui).await?];
    images.extend(debian::servers(dirs, ui).await?);
    Ok(images)
}

/// What this checkout has to build.
pub async fn ours(dirs: &Dirs, ui: &Ui) -> Result<Vec<Image>> {
    let _lock = lock(dirs).await?;
    let built = compile(dirs, ui).await?;
    let next = mongo(dirs, ui, &built, &[MONGO_NEXT], "6.0.0", "MONGO_NEXT_IMAGE_ROOTFS").await?;
    Ok(vec![understudy(dirs, ui, &built).await?, mongo(dirs, ui, &built, &[MONGO, MONGO_B], "5.0.7", "MONGO_IMAGE_ROOTFS").await?, next])
}

/// Compiles operator, sidecar and the model as static binaries; says where they are. Cargo decides what is stale.
async fn compile(dirs: &Dirs, ui: &Ui) -> Result<PathBuf> {
    let target = dirs.cache.join("target-static");
    ui.step("compile operator, sidecar and mongod-model (static)", async {
        let mut cargo = run::command("cargo");
        cargo.current_dir(&dirs.checkout).env("RUSTFLAGS", STATIC).env("CARGO_TARGET_DIR", &target);
        cargo.args(["build", "--profile", "image", "--target", TARGET]);
        for (package, binary) in [("operator", "operator"), ("sidecar", "sidecar"), ("mongod-model", "mongod-model")] {
            cargo.args(["-p", package, "--bin", binary]);
        }
        run::output(&mut cargo).await
    })
    .await?;
    Ok(target.join(TARGET).join("image"))
}

/// The image of operator and sidecar.
async fn understudy(dirs: &Dirs, ui: &Ui, built: &Path) -> Result<Image> {
    let dockerfile = fs::read_to_string(dirs.checkout.join("Dockerfile"))?;
    let mut key = vec![dockerfile.clone()];
    for name in ["operator", "sidecar"] {
        key.push(run::output(run::command("sha256sum").arg(built.join(name))).await?);
    }
    let archive = dirs.cache.join(format!("images/understudy-{}.tar", digest(key.iter().map(String::as_str))));
    let files: Vec<_> = ["operator", "sidecar"].iter().map(|name| built.join(name)).collect();
    build(dirs, ui, UNDERSTUDY, &archive, &dockerfile, &files).await?;
    Ok(Image { archive, names: vec![UNDERSTUDY.into()] })
}

/// Imports images into every node that runs and does not hold exactly them. Of a lab whose processes were killed, only the directory is left.
pub async fn load(dirs: &Dirs, images: &[Image], ui: &Ui) -> Result<()> {
    let mut nodes = Node::all(dirs);
    nodes.retain(|node| Process::recorded(dirs, &node.containerd_name()).is_some());
    if nodes.is_empty() {
        return Ok(());
    }
    for image in images {
        let digest = manifest_digest(&image.archive).await?;
        let bar = ui.bar(&format!("load {}", image.names.join(", ")), nodes.len());
        try_join_all(nodes.iter().map(|node| async {
            let listed = run::output(node.ctr().args(["images", "ls"])).await?;
            let held = |name: &str| listed.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains(&digest));
            if !held(&image.names[0]) {
                run::output(node.ctr().args(["images", "import"]).arg(&image.archive)).await?;
            }
            for name in image.names[1..].iter().filter(|name| !held(name)) {
                run::output(node.ctr().args(["images", "tag", "--force", &image.names[0], name])).await?;
            }
            bar.inc(1);
            anyhow::Ok(())
        }))
        .await
        .with_context(|| format!("cannot load {}", image.archive.display()))?;
        bar.finish_and_clear();
        ui.say(&format!("✓ {} in {} nodes", image.names.join(", "), nodes.len()));
    }
    Ok(())
}

/// An archive from elsewhere, by the name written in it.
pub async fn from_archive(archive: &Path) -> Result<Image> {
    let index = index(archive).await?;
    let name = index.pointer("/manifests/0/annotations/org.opencontainers.image.ref.name").and_then(|name| name.as_str());
    let name = name.with_context(|| format!("{} names no image", archive.display()))?;
    Ok(Image { archive: archive.to_owned(), names: vec![name.into()] })
}

async fn pause(dirs: &Dirs, ui: &Ui) -> Result<Image> {
    let archive = dirs.cache.join(format!("images/pause-{}.tar", digest([PAUSE_SOURCE, PAUSE_DOCKERFILE])));
    if !archive.exists() {
        let work = fresh_dir(dirs, "work-pause")?;
        fs::write(work.join("pause.rs"), PAUSE_SOURCE)?;
        run::output(
            run::command("rustc")
                .current_dir(&work)
                .args("--edition 2024 -O -C panic=abort -C strip=symbols".split(' '))
                .args(STATIC.split(' '))
                .args(["--target", TARGET, "-o", "pause", "pause.rs"]),
        )
        .await?;
        build(dirs, ui, PAUSE, &archive, PAUSE_DOCKERFILE, &[work.join("pause")]).await?;
        fs::remove_dir_all(&work)?;
    }
    Ok(Image { archive, names: vec![PAUSE.into()] })
}

/// A real mongod where a variable names one, else the model of one of this version.
async fn mongo(dirs: &Dirs, ui: &Ui, built: &Path, names: &[&str], version: &str, variable: &str) -> Result<Image> {
    let (dockerfile, file) = match std::env::var_os(variable) {
        Some(rootfs) => {
            let rootfs = PathBuf::from(rootfs);
            let name =
                rootfs.file_name().and_then(|name| name.to_str()).with_context(|| format!("{variable} must name a tar of a system"))?;
            (MONGO_DOCKERFILE.replace("ROOTFS", name), rootfs)
        }
        None => (MODEL_DOCKERFILE.replace("PLAYED", version), built.join("mongod-model")),
    };
    let sum = run::output(run::command("sha256sum").arg(&file)).await?;
    // The release is a part of the archive's name: only the newest of each is kept.
    let release = &version[..3];
    let archive = dirs.cache.join(format!("images/mongo-{release}-{}.tar", digest([dockerfile.as_str(), &sum])));
    build(dirs, ui, names[0], &archive, &dockerfile, &[file]).await?;
    Ok(Image { archive, names: names.iter().map(|name| (*name).into()).collect() })
}

/// Builds an image from a Dockerfile and the files it copies, unless the archive is in the cache. No daemon, no registry.
async fn build(dirs: &Dirs, ui: &Ui, name: &str, archive: &Path, dockerfile: &str, files: &[PathBuf]) -> Result<()> {
    if archive.exists() {
        return Ok(());
    }
    let work = fresh_dir(dirs, "work-build")?;
    let context = work.join("context");
    fs::create_dir_all(&context)?;
    fs::create_dir_all(archive.parent().context("the cache has a directory for images")?)?;
    fs::write(work.join("Dockerfile"), dockerfile)?;
    for file in files {
        let place = context.join(file.file_name().context("a file to copy has a name")?);
        fs::hard_link(file, &place).or_else(|_| fs::copy(file, &place).map(drop))?;
    }
    let storage = work.join("storage");
    let buildah = || {
        let mut command = run::command("buildah");
        command
            .arg("--root")
            .arg(&storage)
            .arg("--runroot")
            .arg(work.join("run"))
            .args(["--storage-driver", "vfs"])
            .env("BUILDAH_ISOLATION", "chroot");
        command
    };
    ui.step(&format!("build image {name}"), async {
        run::output(
            buildah().args(["build", "--layers=false", "--timestamp=0", "-t", name, "-f"]).arg(work.join("Dockerfile")).arg(&context),
        )
        .await?;
        let out = work.join("image.tar");
        run::output(buildah().args(["push", name]).arg(format!("oci-archive:{}:{name}", out.display()))).await?;
        ensure!(out.exists(), "buildah wrote no archive");
        fs::rename(&out, archive)?;
        forget_older(archive)
    })
    .await?;
    fs::remove_dir_all(&work).with_context(|| format!("cannot remove {}", work.display()))
}

/// Each change of the binaries makes an archive; only the newest of an image is kept.
fn forget_older(archive: &Path) -> Result<()> {
    let stem = |path: &Path| Some(path.file_name()?.to_str()?.rsplit_once('-')?.0.to_owned());
    for entry in fs::read_dir(archive.parent().context("the cache has a directory for images")?)? {
        let other = entry?.path();
        if other != archive && stem(&other) == stem(archive) {
            fs::remove_file(other)?;
        }
    }
    Ok(())
}

async fn manifest_digest(archive: &Path) -> Result<String> {
    let index = index(archive).await?;
    let digest = index.pointer("/manifests/0/digest").and_then(|digest| digest.as_str());
    Ok(digest.with_context(|| format!("{} is no OCI archive", archive.display()))?.to_owned())
}

async fn index(archive: &Path) -> Result<serde_json::Value> {
    let text = run::output(run::command("tar").arg("-xOf").arg(archive).arg("index.json")).await.context("not an OCI archive")?;
    Ok(serde_json::from_str(&text)?)
}
