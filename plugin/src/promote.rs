//! `promote`: consent to lose what a member does not hold, given by a person who was shown what that is.

use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use crds::decisions::{Decided, Input};
use sidecar_protocol::gtid::GtidSet;

use crate::access::Access;
use crate::engine::Engine;
use crate::progress::{Look, wait};
use crate::request;
use crate::table::{Paint, short, table};

/// Shows what would be lost, asks, and waits.
pub async fn run(access: &Access, member: &str, consented: bool, limit: Option<Duration>) -> Result<()> {
    let cluster = access.cluster().await?;
    // What is shown and consented to is one state of things: a later term is asked about anew.
    let asked = request::promote(&cluster, member)?;
    let newest = access.newest().await;
    let loss = match access.engine {
        Engine::MySql => shown(Paint::for_stdout(), newest.as_ref(), member),
        Engine::Redis => counted(Paint::for_stdout(), newest.as_ref(), member),
        Engine::Mongo => forced(Paint::for_stdout(), newest.as_ref(), &asked.1),
    };
    println!("{} is Lost: {}\n\n{loss}", access.name, cluster.head.reason);
    if !consented {
        confirm(member)?;
    }
    let (annotation, words) = asked;
    access
        .annotate(annotation, |cluster| {
            let (_, now) = request::promote(cluster, member)?;
            ensure!(now == words, "things changed meanwhile ({words} is {now} now): look again");
            Ok(Some(now))
        })
        .await?;
    let Some(limit) = limit else {
        println!("asked: {annotation}={words}; `kubectl understudy status {}` shows what comes of it", access.name);
        return Ok(());
    };
    let what = format!("promote {member}");
    let end = wait(&what, limit, async || {
        let now = access.cluster().await?;
        // It may have led before: then it is recorded all the time.
        let done = now.primary.as_deref() == Some(member) && now.transition.is_none() && now.is_led();
        Ok(if done { Look::Done(()) } else { Look::Going(format!("{}: {}", now.head.state, now.head.reason)) })
    });
    end.await?;
    println!("{member} is the primary");
    Ok(())
}

/// The name, typed: a "y" is given too easily.
fn confirm(member: &str) -> Result<()> {
    ensure!(std::io::stdin().is_terminal(), "nobody to ask: give --yes-lose-what-others-hold if that is meant");
    print!("Type the name of the member to promote it and lose the rest: ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    if answer.trim() != member {
        bail!("not confirmed; nothing was changed");
    }
    Ok(())
}

const NO_RECORD: &str = "The record of decisions cannot be read: what each member holds, and what would be lost, is not known here.\n";

/// MongoDB: every member's position, and whose is given up. The set itself has chosen the most advanced; how far the missing ones are ahead
/// nobody can say.
fn forced(paint: Paint, newest: Option<&Decided>, words: &str) -> String {
    let row = |member: &Input| {
        let said = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
        vec![member.name.clone(), member.seen.clone(), said(&member.role), said(&member.held)]
    };
    let mut text = match newest {
        Some(newest) => table(paint, &["MEMBER", "SEEN", "ROLE", "HOLDS"], &newest.members.iter().map(row).collect::<Vec<_>>()),
        None => NO_RECORD.to_owned(),
    };
    let price = format!("What only {} may hold is not known, and lost.", request::given_up(words).join(", "));
    text.push_str(&format!("\n{} is the most advanced of those that answer.\n{}\n", request::forced_on(words), paint.bad(&price)));
    text.push_str(&format!("The consent is to these words: {words}\n"));
    text
}

/// MySQL: every member's position, and what is lost with each.
fn shown(paint: Paint, newest: Option<&Decided>, chosen: &str) -> String {
    let Some(newest) = newest else { return NO_RECORD.to_owned() };
    let row = |member: &Input| {
        let held = member.held.as_deref().map_or("unknown".to_owned(), short);
        let lost = lost(&newest.members, &member.name).map_or("unknown".to_owned(), |lost| lost.count().to_string());
        vec![member.name.clone(), member.seen.clone(), held, lost]
    };
    let rows: Vec<_> = newest.members.iter().map(row).collect();
    let mut text = table(paint, &["MEMBER", "SEEN", "HOLDS", "KNOWN TO BE LOST"], &rows);
    let silent: Vec<&str> = newest.members.iter().filter(|member| held(member).is_none()).map(|member| member.name.as_str()).collect();
    text.push_str(&match lost(&newest.members, chosen) {
        None => format!("\nWhat {chosen} holds is not known: anything may be lost.\n"),
        Some(lost) if lost.is_empty() => format!("\n{chosen} holds all that is known to be held by anybody.\n"),
        Some(lost) => format!("\nPromoting {chosen} loses {}: {lost}\n", transactions(lost.count())),
    });
    if !silent.is_empty() {
        text.push_str(&format!("{}\n", paint.bad(&format!("What {} may hold besides is not known, and lost as well.", silent.join(", ")))));
    }
    text
}

/// Redis: every member's position, and what is lost with `chosen`. An offset counts the bytes of one history, so two of them compare only
/// within the same one.
fn counted(paint: Paint, newest: Option<&Decided>, chosen: &str) -> String {
    let Some(newest) = newest else { return NO_RECORD.to_owned() };
    let position = |member: &Input| {
        let (history, rest) = member.held.as_deref()?.split_once(':')?;
        Some((history.to_owned(), rest.split(' ').next()?.parse::<u64>().ok()?))
    };
    let row = |member: &Input| vec![member.name.clone(), member.seen.clone(), member.held.clone().unwrap_or_else(|| "unknown".to_owned())];
    let mut text = table(paint, &["MEMBER", "SEEN", "HOLDS"], &newest.members.iter().map(row).collect::<Vec<_>>());
    let Some((history, offset)) = newest.members.iter().find(|member| member.name == chosen).and_then(position) else {
        text.push_str(&format!("\nWhat {chosen} holds is not known: anything may be lost.\n"));
        return text;
    };
    let others: Vec<_> =
        newest.members.iter().filter(|member| member.name != chosen).map(|member| (&member.name, position(member))).collect();
    let ahead = others.iter().filter_map(|(_, at)| at.as_ref()).filter(|at| at.0 == history).map(|at| at.1.saturating_sub(offset)).max();
    text.push_str(&match ahead.unwrap_or_default() {
        0 => format!("\nNobody is known to hold more of the history {history} than {chosen}.\n"),
        bytes => format!("\nPromoting {chosen} loses the last {bytes} bytes of the history {history}.\n"),
    });
    let unknown: Vec<&str> =
        others.iter().filter(|(_, at)| at.as_ref().is_none_or(|at| at.0 != history)).map(|(name, _)| name.as_str()).collect();
    if !unknown.is_empty() {
        text.push_str(&format!(
            "{}\n",
            paint.bad(&format!("What {} may hold besides is not known, and lost as well.", unknown.join(", ")))
        ));
    }
    text
}

fn transactions(count: u64) -> String {
    format!("{count} transaction{}", if count == 1 { "" } else { "s" })
}

/// What all together hold and `chosen` does not; `None` when it is not known what that one holds.
fn lost(members: &[Input], chosen: &str) -> Option<GtidSet> {
    let ours = members.iter().find(|member| member.name == chosen).and_then(held)?;
    let all = members.iter().filter_map(held).fold(GtidSet::new(), |all, held| all.union(&held));
    Some(all.minus(&ours))
}

/// A set that was too long for the record does not parse, and is not known.
fn held(member: &Input) -> Option<GtidSet> {
    member.held.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::WORDS;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn member(name: &str, held: Option<&str>) -> Input {
        Input {
            name: name.to_owned(),
            seen: if held.is_some() { "answers" } else { "silent since 12:00" }.to_owned(),
            held: held.map(|set| format!("{UUID}:{set}")),
            ..Input::default()
        }
    }

    #[test]
    fn what_is_lost_is_what_others_hold() {
        let members = [member("shop-0", None), member("shop-1", Some("1-10")), member("shop-2", Some("1-8:12"))];
        assert_eq!(lost(&members, "shop-1").unwrap().to_string(), format!("{UUID}:12"));
        assert_eq!(lost(&members, "shop-2").unwrap().count(), 2);
        assert_eq!(lost(&members, "shop-0"), None);
    }

    #[test]
    fn the_person_sees_the_price_and_what_nobody_knows() {
        let newest = Decided {
            members: vec![member("shop-0", None), member("shop-1", Some("1-10")), member("shop-2", Some("1-9"))],
            ..Decided::default()
        };
        let text = shown(Paint::PLAIN, Some(&newest), "shop-2");
        assert!(text.contains(&format!("Promoting shop-2 loses 1 transaction: {UUID}:10")), "{text}");
        assert!(text.contains("What shop-0 may hold besides is not known"), "{text}");
        assert!(shown(Paint::PLAIN, Some(&newest), "shop-1").contains("holds all that is known"));
        assert!(shown(Paint::PLAIN, Some(&newest), "shop-0").contains("anything may be lost"));
        assert!(shown(Paint::PLAIN, None, "shop-0").contains("not known"));
    }

    #[test]
    fn offsets_of_redis_are_counted_within_one_history() {
        let row = |name: &str, held: Option<&str>| Input { name: name.to_owned(), held: held.map(str::to_owned), ..Input::default() };
        let members = [Some("aaaaaaaa:900 or a little more"), Some("aaaaaaaa:870"), Some("bbbbbbbb:5000"), None];
        let members = members.into_iter().enumerate().map(|(at, held)| row(&format!("cache-{at}"), held)).collect();
        let newest = Decided { members, ..Decided::default() };
        let text = counted(Paint::PLAIN, Some(&newest), "cache-1");
        assert!(text.contains("Promoting cache-1 loses the last 30 bytes of the history aaaaaaaa.\n"), "{text}");
        assert!(text.contains("What cache-2, cache-3 may hold besides is not known, and lost as well.\n"), "{text}");
        assert!(
            counted(Paint::PLAIN, Some(&newest), "cache-0").contains("Nobody is known to hold more of the history aaaaaaaa than cache-0")
        );
        assert!(counted(Paint::PLAIN, Some(&newest), "cache-3").contains("anything may be lost"));
        assert!(counted(Paint::PLAIN, None, "cache-0").contains("not known"));
    }

    #[test]
    fn whoever_forces_a_set_sees_the_positions_and_who_is_given_up() {
        let row = |name: &str, held: Option<&str>| Input { name: name.to_owned(), held: held.map(str::to_owned), ..Input::default() };
        let newest = Decided {
            members: vec![row("stock-0", None), row("stock-1", None), row("stock-2", Some("term 5 time 9.1"))],
            ..Decided::default()
        };
        let text = forced(Paint::PLAIN, Some(&newest), WORDS);
        for part in ["stock-2   unknown   term 5 time 9.1\n", "What only stock-0, stock-1 may hold is not known, and lost.\n", WORDS] {
            assert!(text.contains(part), "{part:?} is missing in\n{text}");
        }
        assert!(forced(Paint::PLAIN, None, WORDS).contains(WORDS));
    }
}
