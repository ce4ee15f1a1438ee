//! `reclone`: one member's data are discarded, after what only it holds is archived, and copied anew.

use std::time::Duration;

use anyhow::{Result, bail};
use crds::annotations::RECLONE;

use crate::access::Access;
use crate::cluster::{Cluster, Member};
use crate::progress::{Look, wait};
use crate::request;

/// Asks for it, and waits.
pub async fn run(access: &Access, name: &str, limit: Option<Duration>) -> Result<()> {
    let cluster = access.annotate(RECLONE, |cluster| request::reclone(cluster, name).map(Some)).await?;
    let asked = cluster.annotations.get(RECLONE).cloned().unwrap_or_default();
    let Some(limit) = limit else {
        println!("asked: {RECLONE}={asked}; `kubectl understudy status {}` shows what comes of it", access.name);
        return Ok(());
    };
    let old = row(&cluster, name).unwrap_or_default();
    let what = format!("clone {name} anew");
    let end = wait(&what, limit, async || {
        let now = access.cluster().await?;
        let leads = now.primary.as_deref() == Some(name);
        Ok(if leads { Look::Done(Err("it became the primary")) } else { look(&old, row(&now, name)) })
    });
    match end.await? {
        Ok(row) => {
            let from = row.cloned_from.as_ref().or(row.source.as_ref());
            println!("{name} is cloned from {} and follows", from.map_or("another member", String::as_str));
            if let Some(file) = row.archive.filter(|file| old.archive.as_ref() != Some(file)) {
                println!("what only it held is in {file} on its volume");
            }
            Ok(())
        }
        Err(reason) => {
            access.withdraw(RECLONE, &asked).await?;
            bail!("{name} keeps its data, the request is withdrawn: {reason}")
        }
    }
}

fn row(cluster: &Cluster, name: &str) -> Option<Member> {
    cluster.members.iter().find(|row| row.name == name).cloned()
}

fn look<E>(old: &Member, now: Option<Member>) -> Look<Result<Member, E>> {
    let Some(now) = now else { return Look::Going("it has no pod".to_owned()) };
    if now.ready && now.identity.is_some() && now.identity != old.identity {
        return Look::Done(Ok(now));
    }
    Look::Going(format!("{}{}", now.role, now.message.map_or(String::new(), |message| format!(", {message}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(identity: Option<&str>, ready: bool) -> Member {
        Member { name: "shop-1".to_owned(), role: "Replica".to_owned(), ready, identity: identity.map(str::to_owned), ..Member::default() }
    }

    #[test]
    fn it_is_done_when_other_data_serve() {
        let old = member(Some("a"), true);
        let done = |now| matches!(look::<()>(&old, Some(now)), Look::Done(Ok(_)));
        assert!(!done(member(Some("a"), true)));
        assert!(!done(member(None, false)));
        assert!(!done(member(Some("b"), false)), "it does not serve yet");
        assert!(done(member(Some("b"), true)));
        assert!(matches!(look::<()>(&old, None), Look::Going(_)));
    }
}
