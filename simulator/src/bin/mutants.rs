//! Proves that the simulation can fail: puts one bug after another into a copy of the source, outside the checkout, and plays schedules
//! until one breaks an invariant. A bug that none finds is a hole in the model.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, bail, ensure};
use clap::Parser;
use simulator::mutation::{Mutation, list};

/// What is copied: packages that the simulation is made of.
const PACKAGES: [&str; 4] = ["crds", "sidecar", "operator", "simulator"];

/// Puts bugs into a copy of the source and simulates until each is found.
#[derive(Parser)]
struct Cli {
    /// Only those whose name contains this.
    #[arg(long)]
    only: Option<String>,
    /// Schedules that a bug may survive: no more than the test command plays.
    #[arg(long, default_value_t = 20_000)]
    seeds: u64,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the package is in a workspace")?;
    let cache = std::env::var_os("UNDERSTUDY_CACHE").map(PathBuf::from);
    let cache = cache
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache/understudy")))
        .context("neither UNDERSTUDY_CACHE nor HOME is set")?;
    let scratch = Scratch { source: cache.join("mutants/source"), target: cache.join("mutants/target") };
    scratch.fill(root)?;
    scratch.build().context("the source as it is")?;
    ensure!(scratch.simulate(200)?.is_none(), "the source as it is breaks an invariant");

    let mutations: Vec<Mutation> =
        list(root)?.into_iter().filter(|mutation| cli.only.as_ref().is_none_or(|only| mutation.name.contains(only))).collect();
    let mut survivors = 0;
    println!("{:<70} {:<8} {:<8} seed", "bug", "breaks", "found by");
    for mutation in &mutations {
        let file = scratch.source.join(&mutation.file);
        let original = fs::read_to_string(&file).with_context(|| mutation.file.clone())?;
        fs::write(&file, mutation.apply(&original).map_err(anyhow::Error::msg)?)?;
        let found = scratch.build().with_context(|| mutation.name.clone()).and_then(|()| scratch.simulate(cli.seeds));
        fs::write(&file, original)?;
        match found? {
            Some(found) => println!("{:<70} {:<8} {:<8} {}", mutation.name, mutation.breaks, found.invariant, found.seed),
            None => {
                survivors += 1;
                println!("{:<70} {:<8} NOT CAUGHT in {} schedules", mutation.name, mutation.breaks, cli.seeds);
            }
        }
    }
    println!("{} of {} caught", mutations.len() - survivors, mutations.len());
    Ok(if survivors == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where the bugs live.
struct Scratch {
    source: PathBuf,
    target: PathBuf,
}

/// How a bug was found.
struct Found {
    seed: String,
    invariant: String,
}

impl Scratch {
    /// Copies what has changed: what has not is not built again.
    fn fill(&self, root: &Path) -> anyhow::Result<()> {
        for package in PACKAGES {
            copy(&root.join(package), &self.source.join(package))?;
        }
        let workspace = fs::read_to_string(root.join("Cargo.toml"))?;
        let members = workspace.lines().find(|line| line.starts_with("members = ")).context("Cargo.toml names no members")?;
        let ours = r#"members = ["crds", "sidecar", "sidecar/protocol", "operator", "simulator"]"#;
        write(&self.source.join("Cargo.toml"), workspace.replace(members, ours).as_bytes())?;
        // Resolved without the packages that are not here, from the same versions.
        if !self.source.join("Cargo.lock").exists() {
            fs::copy(root.join("Cargo.lock"), self.source.join("Cargo.lock"))?;
        }
        Ok(())
    }

    fn build(&self) -> anyhow::Result<()> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(&self.source).args(["build", "-q", "--offline", "-p", "simulator", "--bin", "simulate"]);
        // Small changes, many builds.
        cargo.env("CARGO_TARGET_DIR", &self.target).env("CARGO_INCREMENTAL", "1").env("RUSTFLAGS", "-Awarnings");
        cargo.env("CARGO_PROFILE_DEV_DEBUG", "0");
        let done = cargo.stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "it does not compile:\n{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    }

    fn simulate(&self, seeds: u64) -> anyhow::Result<Option<Found>> {
        let program = self.target.join("debug/simulate");
        let played = Command::new(program).args(["--seeds", &seeds.to_string()]).stdin(Stdio::null()).output()?;
        if played.status.success() {
            return Ok(None);
        }
        let said = String::from_utf8_lossy(&played.stdout);
        let last = said.lines().rev().find_map(|line| line.strip_prefix("seed ")?.split_once(" breaks "));
        let Some((seed, rest)) = last else { bail!("the simulation ended without a verdict:\n{said}") };
        let invariant = rest.split_once(':').map_or(rest, |(invariant, _)| invariant);
        Ok(Some(Found { seed: seed.to_owned(), invariant: invariant.to_owned() }))
    }
}

/// Makes `to` like `from`, without touching the files that are alike.
fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(to)?;
    let names = |directory: &Path| -> anyhow::Result<Vec<_>> {
        Ok(fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?)
    };
    let wanted = names(from)?;
    for gone in names(to)?.into_iter().filter(|name| !wanted.contains(name)) {
        let gone = to.join(gone);
        if gone.is_dir() { fs::remove_dir_all(gone)? } else { fs::remove_file(gone)? }
    }
    for name in wanted {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            write(&to, &fs::read(&from)?)?;
        }
    }
    Ok(())
}

fn write(to: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    if fs::read(to).ok().as_deref() != Some(bytes) {
        fs::write(to, bytes)?;
    }
    Ok(())
}
