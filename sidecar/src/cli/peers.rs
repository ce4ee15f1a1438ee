//! What a peer-finder is told on the command line, in Go's spelling: `-on-start=…` and `-on-start …` are as good as with two dashes.

use std::ffi::{OsStr, OsString};
use std::fs;

use anyhow::Context;
use clap::Args;
use hickory_resolver::system_conf::read_system_conf;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::peer_finder::{self, Config};

/// The subcommand's name.
const NAME: &str = "peers";
/// Its flags, which Go would also take with one dash.
const FLAGS: &[&str] = &["on-start", "on-change", "service", "ns", "domain", "help"];

/// What a peer-finder is told.
#[derive(Args, Debug)]
#[command(args_override_self = true)]
pub struct Peers {
    /// Script to run when this pod is in the list for the first time, with the list on its standard input, a name a line.
    #[arg(long, value_name = "SCRIPT", default_value = "", allow_hyphen_values = true)]
    on_start: String,
    /// Script to run at each change of the list. Without one the program ends after -on-start.
    #[arg(long, value_name = "SCRIPT", default_value = "", allow_hyphen_values = true)]
    on_change: String,
    /// The headless Service whose pods are looked for. It must publish addresses that are not ready.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    service: String,
    /// Namespace of the pod; by default $POD_NAMESPACE.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    ns: String,
    /// Domain of the cluster, for example cluster.local; by default what /etc/resolv.conf says.
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    domain: String,
}

impl Peers {
    /// Looks and runs scripts until it is told to end, or there is none to run any more.
    ///
    /// # Errors
    /// What is missing, or what failed.
    pub fn start(self) -> anyhow::Result<()> {
        let Self { on_start, on_change, service, ns, domain } = self;
        // An empty -ns is none, as ever.
        let namespace = if ns.is_empty() { std::env::var("POD_NAMESPACE").unwrap_or_default() } else { ns };
        let hostname = fs::read_to_string("/proc/sys/kernel/hostname").context("the host name")?.trim().to_owned();
        let (resolver, _) = read_system_conf().context("/etc/resolv.conf")?;
        let config = Config { on_start, on_change, service, namespace, domain, hostname };
        let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(1).build()?;
        runtime.block_on(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                ended = peer_finder::run(&config, resolver) => ended,
                _ = terminate.recv() => Ok(()),
                _ = interrupt.recv() => Ok(()),
            }
        })
    }
}

/// The command line with Go's flags as clap wants them: `-on-start` after the subcommand becomes `--on-start`. What a flag without `=` is
/// followed by is its value, whatever it looks like.
pub fn spelled(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut spelled = Vec::new();
    let (mut within, mut value, mut done) = (false, false, false);
    for argument in arguments {
        let flag = argument.to_str().filter(|_| within && !value && !done).and_then(go_flag);
        done |= argument == OsStr::new("--") && !value;
        value = flag.is_some_and(|flag| flag != "help" && !flag.contains('='));
        within |= argument == OsStr::new(NAME);
        spelled.push(flag.map_or_else(|| argument.clone(), |flag| format!("--{flag}").into()));
    }
    spelled
}

/// A flag of the subcommand, without its dashes.
fn go_flag(argument: &str) -> Option<&str> {
    let flag = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    let name = flag.split('=').next()?;
    FLAGS.contains(&name).then_some(flag)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;

    fn parsed(arguments: &[&str]) -> Peers {
        let line = ["sidecar", "peers"].iter().chain(arguments).map(OsString::from);
        match Cli::try_parse_from(spelled(line)).unwrap().command {
            Command::Peers(peers) => peers,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_have_one_dash_or_two_and_a_value_behind_an_equals_sign_or_apart() {
        for line in [
            &["-on-start=/a b", "-on-change=/c", "-service=s", "-ns=n", "-domain=d.e"][..],
            &["--on-start=/a b", "--on-change=/c", "--service=s", "--ns=n", "--domain=d.e"],
            &["-on-start", "/a b", "--on-change", "/c", "-service", "s", "--ns", "n", "-domain", "d.e"],
            &["-on-start=first", "-on-start=/a b", "-on-change=/c", "-service=s", "-ns=", "-ns=n", "-domain=d.e"],
        ] {
            let Peers { on_start, on_change, service, ns, domain } = parsed(line);
            assert_eq!([&*on_start, &on_change, &service, &ns, &domain], ["/a b", "/c", "s", "n", "d.e"], "{line:?}");
        }
    }

    #[test]
    fn a_value_that_looks_like_a_flag_is_a_value() {
        let Peers { on_start, service, .. } = parsed(&["-on-start", "-service", "-service=a=b"]);
        assert_eq!((&*on_start, &*service), ("-service", "a=b"));
    }

    #[test]
    fn the_rest_of_the_command_line_is_left_alone() {
        let line = ["sidecar", "guard", "--", "mysqld", "-service=x", "peers"].map(OsString::from);
        assert_eq!(spelled(line.clone().into_iter()), line);
        assert!(Cli::try_parse_from(["sidecar", "peers", "-unknown"]).is_err());
    }
}
