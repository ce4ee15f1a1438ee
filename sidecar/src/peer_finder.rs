//! `sidecar peers`: Kubernetes' peer-finder, for set-ups that have a script instead of an operator. It looks once a second who is behind a headless
//! Service, and gives the list to a script: to `-on-start` once, then to `-on-change` at each change. Same flags, same contract.
//!
//! What a script does is its own business, and how it ends is ignored, as ever. Unlike the original, what it prints appears at once, its
//! errors too; and a script that cannot be started at all is an error instead of a silent nothing.

use std::collections::BTreeSet;
use std::io;
use std::process::Stdio;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use hickory_resolver::config::ResolverConfig;
use hickory_resolver::proto::rr::Name;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::discovery::Targets;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

/// What it is told on the command line.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The script that is run once, when this pod is in the list for the first time. Empty: none.
    pub on_start: String,
    /// The script that is run at each change. Empty: none.
    pub on_change: String,
    /// The headless Service, which must publish addresses that are not ready.
    pub service: String,
    /// Namespace of the pod.
    pub namespace: String,
    /// Domain of the cluster; empty: by the search domains.
    pub domain: String,
    /// Host name of the pod.
    pub hostname: String,
}

/// Whom to look for, and where.
#[derive(Debug, PartialEq, Eq)]
struct Names {
    /// The Service, in full.
    service: String,
    /// This pod's name behind it.
    own: String,
}

impl Config {
    fn names(&self, search: &[Name]) -> anyhow::Result<Names> {
        let Self { on_start, on_change, service, namespace, domain, hostname } = self;
        if service.is_empty() || namespace.is_empty() || (on_start.is_empty() && on_change.is_empty()) {
            anyhow::bail!("incomplete: -on-start or -on-change is needed, -service, and -ns or the environment variable POD_NAMESPACE");
        }
        let domain = match domain.trim_matches('.') {
            "" => cluster_domain(search).context("no search domain in /etc/resolv.conf begins with \"svc.\": give -domain=DOMAIN")?,
            given => given.to_owned(),
        };
        let service = format!("{service}.{namespace}.svc.{domain}");
        Ok(Names { own: format!("{hostname}.{service}"), service })
    }
}

/// What follows `svc.` in the pod's search domains.
fn cluster_domain(search: &[Name]) -> Option<String> {
    search.iter().find_map(|name| Some(name.to_string().strip_prefix("svc.")?.trim_end_matches('.').to_owned()))
}

/// Looks and runs scripts until there is none to run any more; with an `-on-change`, for ever.
///
/// # Errors
/// When it is not told enough, or a script cannot be started.
pub async fn run(config: &Config, resolver: ResolverConfig) -> anyhow::Result<()> {
    let Names { service, own } = config.names(resolver.search())?;
    let name = Name::from_str(&format!("{service}.")).with_context(|| format!("{service:?} is no name"))?;
    let targets = Targets::new(resolver).map_err(|reason| anyhow::anyhow!("cannot look up names: {reason}"))?;
    let mut script = if config.on_start.is_empty() {
        info!(script = config.on_change, "no -on-start: -on-change is run at the start");
        &config.on_change
    } else {
        &config.on_start
    };
    let mut known = BTreeSet::new();
    let mut said = String::new();
    let mut tick = interval(PERIOD);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !script.is_empty() {
        tick.tick().await;
        // Nobody and no answer are the same to a peer-finder: it looks again.
        let found: BTreeSet<String> = match targets.of(&name).await {
            Ok(targets) => targets.into_iter().map(|target| target.trim_end_matches('.').to_owned()).collect(),
            Err(error) => {
                say(&mut said, error.to_string());
                continue;
            }
        };
        if !found.contains(&own) {
            say(&mut said, format!("{own} is not in the list yet: {found:?}"));
            continue;
        }
        said.clear();
        if found == known {
            continue;
        }
        info!(was = ?known, now = ?found, script, "the list has changed");
        // The order is that of the names, as it always was.
        let list = found.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
        hand(script, &list).await.with_context(|| format!("running {script:?}"))?;
        known = found;
        script = &config.on_change;
    }
    info!("no -on-change: the peer finder ends");
    Ok(())
}

/// Says once what would be said every second.
fn say(said: &mut String, what: String) {
    if *said != what {
        warn!("{what}");
        *said = what;
    }
}

/// Runs `script` with `list` on its standard input, for as long as it takes: one may copy a terabyte before it ends.
async fn hand(script: &str, list: &str) -> io::Result<()> {
    let mut child = shell(script)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A script that does not read its input has closed it: not an error.
        let _ = stdin.write_all(list.as_bytes()).await;
    }
    let status = child.wait().await?;
    if !status.success() {
        warn!(script, %status, "the script failed, which changes nothing");
    }
    Ok(())
}

/// By bash, by sh where there is none, and where there is no shell at all as a program and its arguments.
fn shell(script: &str) -> io::Result<tokio::process::Child> {
    let spawn = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).stdin(Stdio::piped()).kill_on_drop(true).spawn();
    let missing = |spawned: &io::Result<_>| matches!(spawned, Err(error) if error.kind() == io::ErrorKind::NotFound);
    for program in ["bash", "sh"] {
        let spawned = spawn(program, &["-c", script]);
        if !missing(&spawned) {
            return spawned;
        }
    }
    let words: Vec<_> = script.split_ascii_whitespace().collect();
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::NotFound)?;
    let spawned = spawn(program, arguments);
    if missing(&spawned) { Err(io::Error::new(io::ErrorKind::NotFound, "there is no bash, no sh and no such program")) } else { spawned }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            on_start: "/on-start.sh".into(),
            service: "galera".into(),
            namespace: "shop".into(),
            hostname: "galera-0".into(),
            ..Config::default()
        }
    }

    fn search(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::from_str(name).unwrap()).collect()
    }

    #[test]
    fn the_domain_is_what_follows_svc_in_the_search_domains() {
        let domains = search(&["shop.svc.corp.local.", "svc.corp.local.", "corp.local.", "eu-west-1.compute.internal."]);
        let names = config().names(&domains).unwrap();
        assert_eq!(names, Names { service: "galera.shop.svc.corp.local".into(), own: "galera-0.galera.shop.svc.corp.local".into() });
        let told = Config { domain: "cluster.local".into(), ..config() };
        assert_eq!(told.names(&[]).unwrap().service, "galera.shop.svc.cluster.local");
        assert!(config().names(&search(&["example.com."])).unwrap_err().to_string().contains("-domain"));
    }

    #[test]
    fn what_is_missing_is_said() {
        let domains = search(&["svc.cluster.local."]);
        let nothing: [fn(&mut Config); 3] = [|it| it.service.clear(), |it| it.namespace.clear(), |it| it.on_start.clear()];
        for take in nothing {
            let mut config = config();
            take(&mut config);
            let error = config.names(&domains).unwrap_err().to_string();
            assert!(["-on-start", "-on-change", "-service", "-ns", "POD_NAMESPACE"].iter().all(|word| error.contains(word)), "{error}");
        }
        let only_change = Config { on_start: String::new(), on_change: "x".into(), ..config() };
        assert!(only_change.names(&domains).is_ok());
    }
}
