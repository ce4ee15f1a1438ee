//! `logs` and `sql`: what kubectl does itself, called in the right places. No password passes through here.

use std::io::IsTerminal;
use std::process::{Command, ExitCode, ExitStatus, Stdio};

use anyhow::{Context, Result, bail, ensure};
use kube::ResourceExt;

use crate::access::Access;
use crate::engine::Engine;

/// mysql in the pod. It reads the password of the local account from a pipe that the shell makes, so that it is in no argument, no
/// environment and no file, and the account is not reachable from outside of the pod.
const SQL: &str = r#"password=$(cat /var/lib/mysql/.understudy/local-password) || exit 1
exec mysql --defaults-extra-file=/dev/fd/3 --socket=/understudy/run/mysqld.sock --user=understudy "$@" 3<<END
[client]
password="$password"
END"#;
/// What a shell, and the runtime in its place, answer when there is no such program.
const NO_PROGRAM: [i32; 2] = [126, 127];

/// mysql in `member`, or in the primary.
pub async fn sql(access: &Access, member: Option<&str>, arguments: &[String]) -> Result<ExitCode> {
    ensure!(
        access.engine == Engine::MySql,
        "sql is for MySQL; use {} with a user's connection string: key USER.uri of the Secret {}-app",
        if access.engine == Engine::Redis { "redis-cli or valkey-cli (-u)" } else { "mongosh" },
        access.name
    );
    let cluster = access.cluster().await?;
    let pod = member.map(str::to_owned).or(cluster.primary).with_context(|| format!("{} has no primary: name a member", access.name))?;
    known(access, &pod).await?;
    let mut command = kubectl(access, &["exec", "-i"]);
    if std::io::stdin().is_terminal() && std::io::stdout().is_terminal() {
        command.arg("-t");
    }
    command.args([&pod, "-c", "mysql", "--", "sh", "-c", SQL, "mysql"]).args(arguments);
    let end = command.status().context("cannot run kubectl: is it in PATH?")?;
    if end.code().is_some_and(|code| NO_PROGRAM.contains(&code)) {
        bail!("the image of {pod} has no shell (sh, cat) or no mysql client in it, and `sql` needs both");
    }
    Ok(code(end))
}

/// Logs of `member`, or of all.
pub async fn logs(access: &Access, member: Option<&str>, sidecar: bool, follow: bool, tail: i64) -> Result<ExitCode> {
    let container = if sidecar { "sidecar" } else { access.engine.label() };
    let mut command = kubectl(access, &["logs", "-c", container, &format!("--tail={tail}")]);
    match member {
        Some(member) => {
            known(access, member).await?;
            command.arg(member);
        }
        // A member whose container does not run yet does not keep the others from being shown.
        None => {
            command.args(["--prefix", "--ignore-errors", "--max-log-requests=32", "-l", &access.selector()]);
        }
    }
    if follow || member.is_some() {
        if follow {
            command.arg("--follow");
        }
        return Ok(code(command.status().context("cannot run kubectl: is it in PATH?")?));
    }
    // kubectl shows one pod after the other; what happened is understood in the order of time.
    let shown = command.arg("--timestamps").stderr(Stdio::inherit()).output().context("cannot run kubectl: is it in PATH?")?;
    print!("{}", by_time(&String::from_utf8_lossy(&shown.stdout)));
    Ok(code(shown.status))
}

/// Lines of `[pod/POD/CONTAINER] TIME TEXT` in the order of TIME, without the decoration.
fn by_time(lines: &str) -> String {
    let parse = |line: &str| {
        let (pod, rest) = line.strip_prefix("[pod/")?.split_once("] ")?;
        let (time, text) = rest.split_once(' ').unwrap_or((rest, ""));
        // Without trailing zeros, times of different length do not compare as text.
        let at: jiff::Timestamp = time.parse().ok()?;
        Some((at, format!("{}  {text}\n", pod.split('/').next().unwrap_or(pod))))
    };
    let mut parsed: Vec<(jiff::Timestamp, String)> = Vec::new();
    for line in lines.lines() {
        // What cannot be read stays where it is.
        let last = parsed.last().map_or(jiff::Timestamp::MIN, |(at, _)| *at);
        parsed.push(parse(line).unwrap_or_else(|| (last, format!("{line}\n"))));
    }
    parsed.sort_by_key(|(at, _)| *at);
    parsed.into_iter().map(|(_, line)| line).collect()
}

async fn known(access: &Access, pod: &str) -> Result<()> {
    let pods: Vec<String> = access.pods().await?.iter().map(ResourceExt::name_any).collect();
    ensure!(pods.iter().any(|name| name == pod), "{} has no pod {pod}; its pods are: {}", access.name, pods.join(", "));
    Ok(())
}

fn kubectl(access: &Access, arguments: &[&str]) -> Command {
    let mut command = Command::new("kubectl");
    if let Some(context) = &access.context {
        command.args(["--context", context]);
    }
    command.args(["--namespace", &access.namespace]).args(arguments);
    command
}

/// Its end is ours.
fn code(end: ExitStatus) -> ExitCode {
    end.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_all_members_come_in_the_order_of_time() {
        let lines = "\
[pod/shop-0/mysql] 2026-01-01T00:00:01.5Z one
[pod/shop-0/mysql] 2026-01-01T00:00:03Z three
  more of three
[pod/shop-1/mysql] 2026-01-01T00:00:02.25Z two
[pod/shop-1/mysql] 2026-01-01T00:00:04Z
";
        assert_eq!(by_time(lines), "shop-0  one\nshop-1  two\nshop-0  three\n  more of three\nshop-1  \n");
    }

    #[test]
    fn the_password_is_in_no_argument_and_no_environment() {
        assert!(!SQL.contains("MYSQL_PWD") && !SQL.contains(" -p") && !SQL.contains("--password"));
        let (command, input) = SQL.split_once("3<<END").unwrap();
        assert!(!command.contains("$password") && input.contains("$password"));
    }
}
