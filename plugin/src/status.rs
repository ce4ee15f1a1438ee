//! `status`: one screen that answers what is wrong and what happens next.

use anyhow::Result;
use crds::annotations::{ASKED, FENCED, FORCE, counts};
use crds::conditions::{DEGRADED, PROGRESSING, READY, STALLED};
use crds::decisions::{Decided, Input};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Event, Pod};
use kube::ResourceExt;

use crate::access::Access;
use crate::cluster::{Cluster, LOST, Member};
use crate::engine::Engine;
use crate::request;
use crate::table::{Paint, short, table};

/// Events that are shown.
const EVENTS: usize = 8;
/// Characters of an event that are shown.
const EVENT_WIDTH: usize = 140;

/// What is shown.
struct Screen {
    cluster: Cluster,
    pods: Vec<Pod>,
    newest: Option<Decided>,
    events: Vec<Event>,
    now: Timestamp,
    paint: Paint,
}

/// Looks, and prints.
pub async fn run(access: &Access) -> Result<()> {
    let cluster = access.cluster().await?;
    let pods = access.pods().await?;
    let newest = access.newest().await;
    let mut events = access.own_events().await;
    // What Kubernetes says of a pod matters while it does not run.
    for pod in pods.iter().filter(|pod| trouble(pod).is_some()) {
        events.extend(access.events("Pod", &pod.name_any()).await.into_iter().filter(|event| event.type_.as_deref() == Some("Warning")));
    }
    events.sort_by_key(event_time);
    #[expect(clippy::disallowed_methods, reason = "this is the rim")]
    let now = Timestamp::now();
    print!("{}", Screen { cluster, pods, newest, events, now, paint: Paint::for_stdout() }.text());
    Ok(())
}

/// When an event took place last.
pub fn event_time(event: &Event) -> Timestamp {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    let first = event.event_time.as_ref().map(|time| time.0);
    let made = event.metadata.creation_timestamp.as_ref().map(|time| time.0);
    series.or(last).or(first).or(made).unwrap_or_default()
}

impl Screen {
    fn text(&self) -> String {
        let paint = self.paint;
        let Cluster { name, head, members, .. } = &self.cluster;
        let colour = match head.state.as_str() {
            "Healthy" => paint.good(&head.state),
            LOST | "PrimaryUnavailable" | "" => paint.bad(&head.state),
            _ => paint.warn(&head.state),
        };
        let mut text = format!("{}  {colour}  {} ready\n  {}\n\n", paint.strong(name), head.ready, head.reason);
        for (what, said) in self.facts() {
            text.push_str(&format!("  {what:12} {said}\n"));
        }
        text.push_str(&format!("  {:12} {}\n", "next", paint.strong(&next(&self.cluster))));
        let mut section = |heading: &[&str], rows: Vec<Vec<String>>| {
            if !rows.is_empty() {
                text.push_str(&format!("\n{}", table(paint, heading, &rows)));
            }
        };
        section(&["CONDITION", "", "REASON", "MESSAGE"], self.conditions());
        section(
            &["MEMBER", "ROLE", "READY", "HEARD", "VOTE", "PRIORITY", "ZONE", "SOURCE", "LAG", "VERSION", "HOLDS", "ARCHIVE", "MESSAGE"],
            members.iter().map(|member| self.member(member)).collect(),
        );
        section(&["POD", "NODE", "RESTARTS", "TROUBLE"], self.pods.iter().map(pod).collect());
        let newest = self.events.iter().skip(self.events.len().saturating_sub(EVENTS));
        section(&["AGO", "EVENT", "ABOUT", "MESSAGE"], newest.map(|event| self.event(event)).collect());
        if let Some(newest) = self.newest.as_ref().filter(|newest| newest.members.iter().any(|member| member.held.is_some())) {
            text.push_str(&format!(
                "\n  {}\n",
                paint.faint(&format!(
                    "LAG and HOLDS as of the last decision, {} ago; `explain` shows it",
                    self.ago(newest.time.parse().ok())
                ))
            ));
        }
        text
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let Cluster { annotations, term, primary, transition, handover, facts: own, .. } = &self.cluster;
        let mut facts = vec![("primary", format!("{}, term {term}", primary.as_deref().unwrap_or("nobody")))];
        if let Some(change) = transition {
            let name = |name: &Option<String>| name.clone().unwrap_or_else(|| "nobody yet".to_owned());
            let promoting = if change.promoting { ", promoting" } else { "" };
            facts.push((
                "transition",
                format!("{:?}, from {} to {}{promoting}, since {}", change.kind, name(&change.from), name(&change.to), change.since),
            ));
        }
        facts.extend(own.iter().cloned());
        let fenced = request::fenced(&self.cluster);
        if !fenced.is_empty() {
            facts.push(("fenced", self.paint.warn(&fenced.into_iter().collect::<Vec<_>>().join(", "))));
        }
        let asked = ASKED.iter().filter(|key| **key != FENCED).filter_map(|key| Some((*key, annotations.get(*key)?)));
        // A consent is to what was lost: it asks for nothing of a set that is led.
        let asked = asked.filter(|(key, value)| counts(key, value, *term) && (*key != FORCE || !self.cluster.is_led()));
        facts.extend(asked.map(|(key, value)| ("asked", format!("{key}={value}"))));
        if let Some(known) = handover {
            facts.push(match &known.refused {
                Some(refused) => ("refused", self.paint.bad(refused)),
                None => ("waits", self.paint.warn(&format!("{}, since {}", known.request, known.since))),
            });
        }
        facts
    }

    fn conditions(&self) -> Vec<Vec<String>> {
        let head = &self.cluster.head;
        let row = |type_: &str| {
            let condition = head.conditions.iter().find(|condition| condition.type_ == *type_)?;
            let good = (condition.status == "True") == (type_ == READY);
            // What is as it should be has nothing to add, and the reason is not told twice.
            let message = if good || condition.message == head.reason { String::new() } else { condition.message.clone() };
            Some(vec![condition.type_.clone(), condition.status.clone(), condition.reason.clone(), message])
        };
        [READY, PROGRESSING, DEGRADED, STALLED].into_iter().filter_map(row).collect()
    }

    /// A column that no member of this kind fills is not shown.
    fn member(&self, member: &Member) -> Vec<String> {
        let input = self.newest.iter().flat_map(|newest| &newest.members).find(|input| input.name == member.name);
        let known = |read: fn(&Input) -> Option<String>| input.and_then(read).unwrap_or_default();
        let said = |text: &Option<String>| text.clone().unwrap_or_default();
        vec![
            member.name.clone(),
            member.role.clone(),
            yes(member.ready),
            // That it is heard goes without saying.
            member.healthy.filter(|heard| !heard).map(yes).unwrap_or_default(),
            member.votes.map(yes).unwrap_or_default(),
            member.priority.map(|priority| priority.to_string()).unwrap_or_default(),
            said(&member.zone),
            said(&member.source),
            member.lag.clone().unwrap_or_else(|| known(|input| input.lag_seconds.map(|lag| format!("{lag}s")))),
            said(&member.version),
            known(|input| input.held.as_deref().map(short)),
            said(&member.archive),
            said(&member.message),
        ]
    }

    fn event(&self, event: &Event) -> Vec<String> {
        let about = event.involved_object.name.clone().filter(|name| *name != self.cluster.name).unwrap_or_default();
        let message = event.message.clone().unwrap_or_default();
        vec![
            self.ago(Some(event_time(event))),
            event.reason.clone().unwrap_or_default(),
            about,
            cut(message.lines().next().unwrap_or_default()),
        ]
    }

    fn ago(&self, time: Option<Timestamp>) -> String {
        let Some(time) = time else { return "?".to_owned() };
        match self.now.as_second().saturating_sub(time.as_second()).max(0) {
            seconds @ 0..120 => format!("{seconds}s"),
            seconds @ 120..7200 => format!("{}m", seconds / 60),
            seconds @ 7200..172_800 => format!("{}h", seconds / 3600),
            seconds => format!("{}d", seconds / 86400),
        }
    }
}

/// Its beginning, if it is long: `kubectl describe` has all of it.
fn cut(message: &str) -> String {
    match message.char_indices().nth(EVENT_WIDTH) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

fn yes(is: bool) -> String {
    if is { "yes" } else { "no" }.to_owned()
}

/// What happens next, and who does it.
fn next(cluster: &Cluster) -> String {
    let Cluster { engine, name, head, primary, .. } = cluster;
    let fenced = request::fenced(cluster);
    if head.state.is_empty() {
        return "nothing: no operator has looked at it; does one run, and does it serve this namespace?".to_owned();
    }
    if cluster.suspend {
        return "nothing, until spec.suspend is false".to_owned();
    }
    if cluster.hibernate {
        return "nothing, until spec.hibernate is false".to_owned();
    }
    if head.state == LOST {
        let member = match engine {
            Engine::MySql | Engine::Redis => Some("MEMBER"),
            Engine::Mongo => request::forced(cluster).map(request::forced_on),
        };
        let consent = member.map(|member| format!(", or accept the loss with `kubectl understudy promote {name} {member}`"));
        return format!("a person: bring a missing member back{}", consent.unwrap_or_default());
    }
    if let Some(primary) = primary.as_ref().filter(|primary| fenced.contains(*primary)) {
        return match engine {
            Engine::MySql | Engine::Redis => {
                format!("a person: the primary is fenced, nobody writes; `kubectl understudy unfence {name} {primary}`")
            }
            Engine::Mongo => format!("the primary is fenced: {}", request::fenced_primary(*engine)),
        };
    }
    if let Some(stalled) = cluster.condition(STALLED) {
        return format!("a person: {}", stalled.message);
    }
    if head.state == "Healthy" {
        return match head.observed_generation == cluster.generation {
            true => "nothing is to be done".to_owned(),
            false => "the operator takes up the newest spec".to_owned(),
        };
    }
    if !fenced.is_empty() {
        return format!("fenced members stay out until `kubectl understudy unfence {name} MEMBER`; the operator sees to the rest");
    }
    "the operator goes on by itself".to_owned()
}

fn pod(pod: &Pod) -> Vec<String> {
    let containers = pod.status.iter().flat_map(containers);
    let restarts: i32 = containers.map(|container| container.restart_count).sum();
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let restarts = if restarts > 0 { restarts.to_string() } else { String::new() };
    vec![pod.name_any(), node, restarts, trouble(pod).unwrap_or_default()]
}

fn containers(status: &k8s_openapi::api::core::v1::PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    status.init_container_statuses.iter().chain(&status.container_statuses).flatten()
}

/// Why a pod does not serve.
fn trouble(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("is being deleted".to_owned());
    }
    let status = pod.status.as_ref()?;
    let waiting = containers(status).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting.reason.as_deref()?;
        // The curtain is closed: said by the sidecar's own status better.
        let told = waiting.message.as_ref().map_or(String::new(), |message| format!(": {message}"));
        (reason != "PodInitializing").then(|| format!("{} {reason}{told}", container.name))
    });
    let condition =
        |type_: &str| status.conditions.iter().flatten().find(|condition| condition.type_ == type_ && condition.status == "False");
    let said = |type_: &str| {
        let condition = condition(type_)?;
        Some(format!("{}: {}", condition.reason.as_deref().unwrap_or(type_), condition.message.as_deref().unwrap_or("no reason is given")))
    };
    waiting.or_else(|| said("PodScheduled")).or_else(|| said("Ready"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::{cache, lost_stock, shop, stock};
    use serde_json::{Value, json};

    fn screen(cluster: Cluster, pods: &Value) -> Screen {
        Screen {
            cluster,
            pods: serde_json::from_value(pods.clone()).unwrap(),
            newest: None,
            events: Vec::new(),
            now: "2026-01-01T01:00:00Z".parse().unwrap(),
            paint: Paint::PLAIN,
        }
    }

    #[test]
    fn a_healthy_cluster_fits_on_a_few_lines() {
        let expected = "\
shop  Healthy  3/3 ready
  shop-0 is the primary and all 3 members serve

  primary      shop-0, term 3
  acknowledge  1 of shop-1, shop-2
  next         nothing is to be done

  MEMBER   ROLE      READY
  shop-0   Primary   yes
  shop-1   Replica   yes
  shop-2   Replica   yes
";
        let ack = |name: &str| json!({"name": name, "serverUuid": "x"});
        assert_eq!(screen(shop(&json!({"status": {"ackSet": [ack("shop-1"), ack("shop-2")]}})), &json!([])).text(), expected);
    }

    #[test]
    fn a_set_shows_votes_zones_and_the_election_in_the_same_places() {
        let expected = "\
stock  Healthy  3/3 ready
  stock-0 is the primary and all 3 members serve

  primary      stock-0, term 3
  election     MongoDB's term 5
  features     of 8.0
  next         nothing is to be done

  MEMBER    ROLE        READY   VOTE   PRIORITY   ZONE
  stock-0   PRIMARY     yes     yes    1          a
  stock-1   SECONDARY   yes     yes    1          a
  stock-2   SECONDARY   yes     yes    1          a
";
        assert_eq!(screen(stock(&json!({"status": {"featureCompatibilityVersion": "8.0"}})), &json!([])).text(), expected);
    }

    #[test]
    fn a_redis_replication_shows_which_engine_runs_and_who_acknowledges() {
        let expected = "\
cache  Healthy  3/3 ready
  cache-0 is the primary and all 3 members serve

  primary      cache-0, term 3
  acknowledge  1 of cache-1, cache-2
  next         nothing is to be done

  MEMBER    ROLE      READY   SOURCE    VERSION
  cache-0   Primary   yes               Valkey 8.1.1
  cache-1   Replica   yes     cache-0   Valkey 8.1.1
  cache-2   Replica   yes     cache-0   Valkey 8.1.1
";
        let mut cluster = cache(&json!({}));
        cluster.members[1..].iter_mut().for_each(|member| member.source = Some("cache-0".to_owned()));
        assert_eq!(screen(cluster, &json!([])).text(), expected);
        assert!(next(&cache(&json!({"status": {"state": "Lost"}}))).contains("promote cache MEMBER"));
        assert!(
            next(&cache(&json!({"metadata": {"annotations": {"understudy.dev/fenced": "cache-0"}}}))).contains("unfence cache cache-0")
        );
    }

    #[test]
    fn a_consent_is_shown_while_nobody_leads() {
        let asked = |patch: Value| {
            let mut cluster = stock(&patch);
            cluster.annotations.insert(FORCE.to_owned(), "force stock-2".to_owned());
            screen(cluster, &json!([])).text().contains("understudy.dev/force=force stock-2")
        };
        assert!(asked(json!({"status": {"state": "Lost"}})) && !asked(json!({})));
    }

    #[test]
    fn trouble_of_pods_events_and_positions_are_shown() {
        let pods = json!([
            {"metadata": {"name": "shop-0"}, "spec": {"containers": [], "nodeName": "node1"}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}},
            {"metadata": {"name": "shop-1"}, "status": {"containerStatuses": [{"name": "mysql", "image": "m", "imageID": "", "ready": false,
                "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}}}]}},
            {"metadata": {"name": "shop-2"}, "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}]}},
        ]);
        let mut screen = screen(
            shop(&json!({"status": {"handover": {"request": "shop-1@3", "since": "2026-01-01T00:00:00Z", "refused": "shop-1 lags"}}})),
            &pods,
        );
        screen.events = serde_json::from_value(json!([{"metadata": {}, "involvedObject": {"name": "shop"}, "reason": "FailingOver",
            "message": "shop-0 is lost", "eventTime": "2026-01-01T00:57:00.000000Z"}]))
        .unwrap();
        screen.newest = Some(Decided {
            time: "2026-01-01T00:59:30.000Z".to_owned(),
            members: vec![Input {
                name: "shop-1".to_owned(),
                lag_seconds: Some(7),
                held: Some("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".to_owned()),
                ..Input::default()
            }],
            ..Decided::default()
        });
        let text = screen.text();
        for line in [
            "  refused      shop-1 lags\n",
            "  shop-1   Replica   yes     7s    3e11fa47…:1-5\n",
            "  shop-0   node1\n",
            "  shop-1           4          mysql CrashLoopBackOff: back-off 40s\n",
            "  shop-2                      Unschedulable: 0/3 nodes\n",
            "  3m    FailingOver   shop-0 is lost\n",
            "as of the last decision, 30s ago",
        ] {
            assert!(text.contains(line), "{line:?} is missing in\n{text}");
        }
    }

    #[test]
    fn what_happens_next_says_whose_turn_it_is() {
        let said = |patch: Value| next(&shop(&patch));
        assert_eq!(said(json!({})), "nothing is to be done");
        assert_eq!(said(json!({"metadata": {"generation": 2}})), "the operator takes up the newest spec");
        assert_eq!(said(json!({"status": {"state": "Degraded"}})), "the operator goes on by itself");
        assert!(said(json!({"status": {"state": "Lost"}})).contains("promote shop MEMBER"));
        assert!(said(json!({"status": {"state": ""}})).contains("does one run"));
        assert!(said(json!({"spec": {"suspend": true}})).contains("spec.suspend"));
        assert!(said(json!({"metadata": {"annotations": {"understudy.dev/fenced": "shop-0"}}})).contains("unfence shop shop-0"));
        let stalled = json!({"type": "Stalled", "status": "True", "reason": "X", "message": "make room", "lastTransitionTime": "2026-01-01T00:00:00Z"});
        assert_eq!(said(json!({"status": {"state": "Degraded", "conditions": [stalled]}})), "a person: make room");
    }

    #[test]
    fn a_set_without_a_majority_names_the_member_that_can_be_promoted() {
        assert!(next(&lost_stock()).contains("promote stock stock-2`"));
        assert_eq!(next(&stock(&json!({"status": {"state": "Lost"}}))), "a person: bring a missing member back");
        let fenced = stock(&json!({"metadata": {"annotations": {"understudy.dev/fenced": "stock-0"}}}));
        assert!(next(&fenced).contains("hands over"));
    }
}
