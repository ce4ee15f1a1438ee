//! The command line: the only place where options are read.

use std::time::Duration;

use clap::{Args, Parser, Subcommand};

/// Looks at clusters run by Understudy, of MySQL (myc/NAME), MongoDB (mrs/NAME) and Redis (rr/NAME), and asks things of them.
#[derive(Debug, Parser)]
#[command(name = "kubectl-understudy", bin_name = "kubectl understudy", version)]
pub struct Cli {
    /// Where.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Where the cluster is.
#[derive(Clone, Debug, Args)]
pub struct Place {
    /// Namespace; the context's if absent.
    #[arg(short, long, global = true)]
    pub namespace: Option<String>,
    /// Context of the kubeconfig; the current one if absent.
    #[arg(long, global = true)]
    pub context: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// What is wrong, and what happens next.
    Status {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
    },
    /// Hand the primary's role over, without losing a write.
    Switchover {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// The next primary; the best one if absent.
        #[arg(long)]
        to: Option<String>,
        #[command(flatten)]
        wait: Wait<60>,
    },
    /// Make a member primary although others may hold more: for a cluster in state Lost.
    Promote {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// The next primary.
        member: String,
        /// Do not ask: what only others hold is given up.
        #[arg(long = "yes-lose-what-others-hold")]
        consented: bool,
        #[command(flatten)]
        wait: Wait<60>,
    },
    /// Keep a member from leading, and one of MySQL or Redis from serving: a fenced primary of these is not replaced, and nobody writes.
    Fence {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// The member.
        member: String,
    },
    /// Let a fenced member serve again.
    Unfence {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// The member.
        #[arg(required_unless_present = "all")]
        member: Option<String>,
        /// Every member.
        #[arg(long, conflicts_with = "member")]
        all: bool,
    },
    /// MySQL, Redis: discard a replica's data, after what only it holds is archived, and clone it anew. Of Redis only data of a history that
    /// the primary never had.
    Reclone {
        /// The cluster: NAME, myc/NAME or rr/NAME.
        name: String,
        /// The member.
        member: String,
        #[command(flatten)]
        wait: Wait<3600>,
    },
    /// Logs of the members, in the order of time.
    Logs {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// One member; all if absent.
        member: Option<String>,
        /// The sidecar's instead of the database's.
        #[arg(long)]
        sidecar: bool,
        /// Go on as lines come.
        #[arg(short, long)]
        follow: bool,
        /// Lines of each member to begin with; -1 for all.
        #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
        tail: i64,
    },
    /// MySQL: mysql in a member's pod, as its local administrator `understudy`.
    Sql {
        /// The MySQLCluster: NAME, or myc/NAME.
        name: String,
        /// The member; the primary if absent.
        member: Option<String>,
        /// The primary, which is the default.
        #[arg(long, conflicts_with = "member")]
        primary: bool,
        /// Further arguments of mysql, such as `-e "SELECT 1"`.
        #[arg(last = true)]
        arguments: Vec<String>,
    },
    /// The last decisions of the operator with their inputs, refusals included.
    Explain {
        /// The cluster: NAME, myc/NAME, mrs/NAME or rr/NAME.
        name: String,
        /// How many.
        #[arg(long, default_value_t = 5)]
        last: usize,
    },
}

/// How long to wait for the outcome.
#[derive(Clone, Copy, Debug, Args)]
pub struct Wait<const DEFAULT: u64> {
    /// Seconds to wait for the outcome; 0 only asks.
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT)]
    wait: u64,
}

impl<const DEFAULT: u64> Wait<DEFAULT> {
    /// None when nobody waits.
    pub fn limit(self) -> Option<Duration> {
        (self.wait > 0).then(|| Duration::from_secs(self.wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(["kubectl-understudy"].into_iter().chain(line.split_whitespace()))
    }

    #[test]
    fn every_verb_is_read() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
        for line in [
            "status shop -n db --context lab",
            "status mrs/stock",
            "status rr/cache",
            "switchover shop --to shop-1 --wait 5",
            "promote shop shop-1 --yes-lose-what-others-hold",
            "fence shop shop-1",
            "unfence shop --all",
            "reclone shop shop-1",
            "logs shop shop-0 --sidecar -f --tail -1",
            "sql shop -- -e SELECT",
            "sql shop shop-1",
            "sql shop --primary",
            "explain shop --last 3",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line).err());
        }
    }

    #[test]
    fn unfence_needs_to_know_whom() {
        assert!(parse("unfence shop").is_err());
        assert!(parse("unfence shop shop-1 --all").is_err());
    }

    #[test]
    fn a_wait_of_zero_only_asks() {
        let limit = |line| match parse(line).unwrap().verb {
            Verb::Switchover { wait, .. } => wait.limit(),
            _ => unreachable!(),
        };
        assert_eq!(limit("switchover shop"), Some(Duration::from_secs(60)));
        assert_eq!(limit("switchover shop --wait 0"), None);
    }
}
