//! `switchover`: asks, and waits for the new primary or for the reason why not. What was not done is not left behind to be done later.

use std::time::Duration;

use anyhow::{Result, anyhow};
use crds::annotations::SWITCHOVER;
use crds::conditions::PROGRESSING;
use crds::shared::TransitionKind;
use tokio::time::Instant;

use crate::access::Access;
use crate::cluster::Cluster;
use crate::progress::{Look, wait};
use crate::request;

/// The operator answers a request within moments.
const FORGETS: Duration = Duration::from_secs(10);

/// Hands the role over.
pub async fn run(access: &Access, to: Option<&str>, limit: Option<Duration>) -> Result<()> {
    let old = access.cluster().await?;
    let request = request::switchover(&old, to)?;
    if refusal(&old, &request).is_some() {
        // It was asked before in this term, and its refusal stays until nobody asks it any more: asked anew, it is considered anew.
        access.withdraw(SWITCHOVER, &request).await?;
        wait("the earlier refusal", FORGETS, async || Ok(refusal(&access.cluster().await?, &request).map_or(Look::Done(()), Look::Going)))
            .await?;
    }
    let before = access.annotate(SWITCHOVER, |cluster| request::switchover(cluster, to).map(Some)).await?;
    let asked = before.annotations.get(SWITCHOVER).cloned().unwrap_or_default();
    let begun = Instant::now();
    let Some(limit) = limit else {
        println!("asked: {SWITCHOVER}={asked}; `kubectl understudy status {}` shows what comes of it", access.name);
        return Ok(());
    };
    let look = async || {
        let now = access.cluster().await?;
        let end = end(&before, &now, to).or_else(|| refusal(&now, &asked).map(Err));
        Ok(end.map_or_else(|| Look::Going(going(&now)), Look::Done))
    };
    let outcome = tokio::select! {
        outcome = wait("switchover", limit, look) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    let failure = match outcome {
        Ok(Ok(primary)) => {
            println!("{primary} is the primary: {:.1} s", begun.elapsed().as_secs_f32());
            return Ok(());
        }
        Ok(Err(reason)) => anyhow!(reason),
        Err(error) => error,
    };
    // Asked in a term that is still going on, it could be granted at any later time, when nobody expects it any more.
    match access.withdraw(SWITCHOVER, &asked).await {
        Ok(()) => Err(failure.context(format!("no switchover of {}; the request is withdrawn", access.name))),
        Err(error) => {
            Err(failure.context(format!("no switchover of {}; the request stays, {SWITCHOVER}={asked} ({error:#})", access.name)))
        }
    }
}

/// The new primary, or why there is none; `None` while it is not known.
fn end(before: &Cluster, now: &Cluster, to: Option<&str>) -> Option<Result<String, String>> {
    let taken_back = now.transition.as_ref().filter(|change| change.kind == TransitionKind::TakenBack);
    if taken_back.is_some() && taken_back != before.transition.as_ref() {
        return Some(Err(format!("it was begun and taken back: {}", now.head.reason)));
    }
    let primary = now.primary.as_ref().filter(|primary| before.primary.as_ref() != Some(*primary))?;
    match to {
        Some(to) if to != primary => Some(Err(format!("{primary} became the primary instead: {}", now.head.reason))),
        _ if now.transition.is_none() => Some(Ok(primary.clone())),
        _ => None,
    }
}

/// What is done, or waited for.
fn going(now: &Cluster) -> String {
    now.condition(PROGRESSING).map_or(&now.head.reason, |condition| &condition.message).clone()
}

/// Why what was asked is refused.
fn refusal(cluster: &Cluster, asked: &str) -> Option<String> {
    cluster.handover.as_ref().filter(|known| known.request == asked)?.refused.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::{shop, stock};
    use serde_json::{Value, json};

    fn status(patch: &Value) -> Cluster {
        shop(&json!({ "status": patch }))
    }

    #[test]
    fn it_is_done_when_another_one_is_primary_and_nothing_is_under_way() {
        let before = status(&json!({}));
        let change = |kind: &str| json!({"kind": kind, "from": "shop-0", "to": "shop-1", "since": "2026-01-01T00:00:00Z"});
        assert_eq!(end(&before, &before, None), None);
        assert_eq!(end(&before, &status(&json!({"transition": change("Switchover")})), None), None);
        assert_eq!(end(&before, &status(&json!({"primary": "shop-1", "transition": change("Switchover")})), None), None);
        assert_eq!(end(&before, &status(&json!({"primary": "shop-1"})), None), Some(Ok("shop-1".to_owned())));
        assert_eq!(end(&before, &status(&json!({"primary": "shop-1"})), Some("shop-1")), Some(Ok("shop-1".to_owned())));
    }

    #[test]
    fn a_set_has_handed_over_when_the_one_that_it_elected_is_recorded() {
        let (before, change) =
            (stock(&json!({})), json!({"kind": "Switchover", "from": "stock-0", "to": "stock-1", "since": "2026-01-01T00:00:00Z"}));
        assert_eq!(end(&before, &stock(&json!({"status": {"term": 4, "transition": change}})), Some("stock-1")), None);
        let elected = stock(&json!({"status": {"term": 4, "primary": "stock-1", "electionTerm": 6}}));
        assert_eq!(end(&before, &elected, Some("stock-1")), Some(Ok("stock-1".to_owned())));
    }

    #[test]
    fn another_primary_than_asked_for_or_one_taken_back_is_no_success() {
        let before = status(&json!({}));
        let taken_back = json!({"transition": {"kind": "TakenBack", "since": "2026-01-01T00:00:00Z"}});
        assert!(end(&before, &status(&json!({"primary": "shop-2"})), Some("shop-1")).unwrap().unwrap_err().contains("shop-2 became"));
        assert!(end(&before, &status(&taken_back), None).unwrap().unwrap_err().contains("taken back"));
        let again = status(&taken_back);
        assert_eq!(end(&again, &again, None), None, "that was the last one");
    }

    #[test]
    fn a_refusal_counts_for_what_it_refuses() {
        let known =
            |refused: Value| status(&json!({"handover": {"request": "shop-1@3", "since": "2026-01-01T00:00:00Z", "refused": refused}}));
        let refused = known(json!("shop-1 lags 40 s"));
        assert_eq!(refusal(&refused, "shop-1@3").as_deref(), Some("shop-1 lags 40 s"));
        assert_eq!(refusal(&refused, "any@3"), None);
        assert_eq!(refusal(&known(Value::Null), "shop-1@3"), None, "it waits");
    }
}
