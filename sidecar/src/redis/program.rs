//! Which program the image has, of which engine and version; and whether it takes the user's options.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sidecar_protocol::redis::{Engine, Problem, ProblemCode};
use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::time::{Instant, sleep, timeout};

use super::{Config, conf};
use crate::files;

/// What the two are called. An image of Valkey may have the other name too.
const PROGRAMS: [&str; 2] = ["valkey-server", "redis-server"];
/// Telling a version takes milliseconds.
const VERSION_DEADLINE: Duration = Duration::from_secs(10);
/// So does reading a configuration, on a machine that has time.
const CHECK_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks whether it listens.
const CHECK_POLL: Duration = Duration::from_millis(20);
/// The oldest Redis that hands over by `FAILOVER`.
const OLDEST: (u32, u32) = (6, 2);

/// The database's program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// What it is.
    pub engine: Engine,
    /// Its version.
    pub version: String,
}

/// Finds it, and asks what it is.
///
/// # Errors
/// There is none, or not the one that is wanted.
pub async fn find(config: &Config) -> Result<Program, Problem> {
    let wrong = |why: String| Problem::new(ProblemCode::WrongEngine, why);
    let path = config.program.clone().or_else(|| PROGRAMS.iter().find_map(|name| in_path(name)));
    let path = path.ok_or_else(|| wrong("the image has neither redis-server nor valkey-server; give spec.image one that has".into()))?;
    let asked = timeout(VERSION_DEADLINE, Command::new(&path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output());
    let output = match asked.await {
        Err(_) => return Err(wrong(format!("{} does not tell its version", path.display()))),
        Ok(output) => output.map_err(|error| wrong(format!("{}: {error}", path.display())))?,
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (engine, version) = parse(&said).ok_or_else(|| wrong(format!("{} says {said:?}, which is no version", path.display())))?;
    if let Some(wanted) = config.engine.filter(|wanted| *wanted != engine) {
        return Err(wrong(format!("the image has {engine:?} {version}, spec.engine says {wanted:?}: change one of them")));
    }
    let mut parts = version.split('.').filter_map(|part| part.parse().ok());
    let parts = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if engine == Engine::Redis && parts < OLDEST {
        return Err(wrong(format!("the image has Redis {version}; at least {}.{} is needed", OLDEST.0, OLDEST.1)));
    }
    Ok(Program { path, engine, version })
}

/// `Redis server v=7.0.15 sha=...`, `Valkey server v=8.0.1 sha=...`.
fn parse(said: &str) -> Option<(Engine, String)> {
    let engine = match said.split_whitespace().next()? {
        "Redis" => Engine::Redis,
        "Valkey" => Engine::Valkey,
        _ => return None,
    };
    let version = said.split_whitespace().find_map(|word| word.strip_prefix("v="))?;
    Some((engine, version.to_owned()))
}

fn in_path(name: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Asks it whether it would take these options, by starting it on nothing; its own words if not.
///
/// # Errors
/// It refuses, or cannot be asked.
pub async fn check(config: &Config, program: &Path, user: &str) -> Result<(), Problem> {
    let rejected = |why: String| Problem::new(ProblemCode::ConfigRejected, why);
    conf::checked(user).map_err(rejected)?;
    let directory = config.run_dir.join("scratch");
    let prepared = files::wipe(&directory).and_then(|()| files::write(&directory.join("redis.conf"), &conf::scratch(user, &directory)));
    prepared.map_err(|error| Problem::new(ProblemCode::Storage, error))?;
    let mut command = Command::new(program);
    command.arg(directory.join("redis.conf")).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| rejected(format!("{}: {error}", program.display())))?;
    let begun = Instant::now();
    let ended = loop {
        if UnixStream::connect(directory.join("scratch.sock")).await.is_ok() {
            break false;
        }
        match child.try_wait() {
            Ok(None) if begun.elapsed() < CHECK_DEADLINE => sleep(CHECK_POLL).await,
            Ok(None) => return Err(rejected(format!("with these options it does not listen within {} s", CHECK_DEADLINE.as_secs()))),
            Ok(Some(_)) | Err(_) => break true,
        }
    };
    if !ended {
        // It holds nothing. Already gone is as good.
        let _ = child.kill().await;
        return Ok(());
    }
    let output = child.wait_with_output().await.map_err(|error| rejected(error.to_string()))?;
    let said = [output.stdout, output.stderr].concat();
    Err(rejected(complaint(&String::from_utf8_lossy(&said))))
}

/// What it says of the line that it refuses, or the last that it says at all.
fn complaint(said: &str) -> String {
    let lines: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let Some(at) = lines.iter().position(|line| line.starts_with(">>> ")) else {
        let last = lines.iter().rev().find(|line| line.contains('#')).or(lines.last());
        return last.map_or_else(|| "it ends without a word".into(), |line| (*line).to_owned());
    };
    let line = lines[at].trim_start_matches(">>> ").trim_matches('\'');
    // The option may be a password that somebody wrote in the wrong place.
    let option = line.split_whitespace().next().unwrap_or_default();
    format!("{option}: {}", lines.get(at + 1).unwrap_or(&"refused"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_are_told_by_their_version() {
        let redis = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0 bits=64 build=be8a";
        assert_eq!(parse(redis), Some((Engine::Redis, "7.0.15".into())));
        assert_eq!(parse("Valkey server v=8.1.1 sha=0"), Some((Engine::Valkey, "8.1.1".into())));
        assert_eq!(parse("mysqld  Ver 9.7"), None);
    }

    #[test]
    fn a_refused_option_is_named_with_the_servers_own_words() {
        let said = "\n*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nReading the configuration file, at line 2\n>>> 'maxmemoryy 1gb'\n\
             Bad directive or wrong number of arguments\n";
        assert_eq!(complaint(said), "maxmemoryy: Bad directive or wrong number of arguments");
    }
}
