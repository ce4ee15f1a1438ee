//! `explain`: the record of decisions, readably.

use anyhow::{Result, ensure};
use crds::decisions::{Claim, Decided, Input};

use crate::access::Access;
use crate::table::{Paint, short, table};

/// Prints the newest `last` decisions, oldest first.
pub async fn run(access: &Access, last: usize) -> Result<()> {
    access.cluster().await?;
    let all = access.decisions().await?;
    ensure!(
        !all.is_empty(),
        "no decision of {} is recorded: the operator writes ConfigMap {0}-decisions a second after it decides",
        access.name
    );
    let paint = Paint::for_stdout();
    let shown: Vec<String> = all.iter().skip(all.len().saturating_sub(last)).map(|decided| text(paint, decided)).collect();
    println!("{}", shown.join("\n"));
    Ok(())
}

/// One decision.
fn text(paint: Paint, decided: &Decided) -> String {
    // Destructured whole: what is recorded is shown.
    let Decided { time, term, state, reason, intent, orders, route, step, refused, stalled, asked, members } = decided;
    let mut text = format!("{}  term {term}  {}\n  {reason}\n", paint.faint(time), paint.strong(state));
    let mut say = |what: &str, said: String| text.push_str(&format!("  {what:8} {said}\n"));
    for (key, value) in asked {
        say("asked", format!("{key}={value}"));
    }
    if let Some(refused) = refused {
        say("refused", paint.bad(refused));
    }
    if let Some(stalled) = stalled {
        say("stalled", paint.bad(stalled));
    }
    if let Some(claim) = intent {
        say("claimed", claimed(claim));
    }
    for (member, order) in orders {
        say("order", format!("{member}: {order}"));
    }
    if let Some(step) = step {
        say("step", step.clone());
    }
    say("route", route.clone());
    text.push_str(&table(
        paint,
        &["MEMBER", "SEEN", "POD", "PROCESS", "ROLE", "DATA", "TERM", "FOLLOWS", "LAG", "HOLDS", "ACCEPTED", "PROBLEM"],
        &members.iter().map(row).collect::<Vec<_>>(),
    ));
    text
}

fn claimed(claim: &Claim) -> String {
    let Claim { term, primary, transition, ack_set, acks, handover } = claim;
    let mut parts = vec![format!("term {term}"), format!("primary {}", primary.as_deref().unwrap_or("none"))];
    if let Some(change) = transition {
        let to = change.to.as_deref().unwrap_or("not chosen yet");
        let promoting = if change.promoting { ", promoting" } else { "" };
        parts.push(format!("{:?} from {} to {to}{promoting}", change.kind, change.from.as_deref().unwrap_or("nobody")));
    }
    parts.extend(handover.as_ref().map(|known| format!("hand-over {known}")));
    let set = if ack_set.is_empty() { "nobody".to_owned() } else { ack_set.join(", ") };
    parts.push(format!("{acks} of {set} acknowledge"));
    parts.join("; ")
}

fn row(member: &Input) -> Vec<String> {
    let Input { name, seen, pod, process, role, data, term, order, held, follows, lag_seconds, server_uuid: _, problem } = member;
    let said = |text: &Option<String>| text.clone().unwrap_or_default();
    vec![
        name.clone(),
        seen.clone(),
        pod.clone(),
        said(process),
        said(role),
        said(data),
        term.map(|term| term.to_string()).unwrap_or_default(),
        said(follows),
        lag_seconds.filter(|lag| *lag > 0).map(|lag| format!("{lag}s")).unwrap_or_default(),
        held.as_deref().map(short).unwrap_or_default(),
        said(order),
        said(problem),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_what_was_asked() {
        let decided = Decided {
            time: "2026-01-01T00:00:00Z".to_owned(),
            term: 3,
            state: "Healthy".to_owned(),
            reason: "all is well".to_owned(),
            refused: Some("shop-1 lags 40 s".to_owned()),
            asked: [("understudy.dev/switchover".to_owned(), "shop-1@3".to_owned())].into(),
            route: "shop-0".to_owned(),
            orders: [("shop-0".to_owned(), "primary, 1 acknowledgements".to_owned())].into(),
            members: vec![Input { name: "shop-1".to_owned(), seen: "answers".to_owned(), lag_seconds: Some(40), ..Input::default() }],
            ..Decided::default()
        };
        let expected = "\
2026-01-01T00:00:00Z  term 3  Healthy
  all is well
  asked    understudy.dev/switchover=shop-1@3
  refused  shop-1 lags 40 s
  order    shop-0: primary, 1 acknowledgements
  route    shop-0
  MEMBER   SEEN      LAG
  shop-1   answers   40s
";
        assert_eq!(text(Paint::PLAIN, &decided), expected);
    }

    #[test]
    fn a_claim_says_who_takes_over_from_whom() {
        use crds::shared::{Transition, TransitionKind};
        let claim = Claim {
            term: 4,
            primary: Some("shop-1".to_owned()),
            transition: Some(Transition {
                kind: TransitionKind::Failover,
                from: Some("shop-0".to_owned()),
                to: Some("shop-1".to_owned()),
                promoting: true,
                since: String::new(),
            }),
            ack_set: vec!["shop-0".to_owned(), "shop-2".to_owned()],
            acks: 1,
            handover: None,
        };
        assert_eq!(claimed(&claim), "term 4; primary shop-1; Failover from shop-0 to shop-1, promoting; 1 of shop-0, shop-2 acknowledge");
    }
}
