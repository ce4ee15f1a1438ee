//! What the mongods of other members say: whether they are in a set, and which. Asked only while somebody is wanted who is not there.

use std::collections::BTreeMap;
use std::time::Duration;

use bson::doc;
use futures::future::join_all;
use sidecar_protocol::mongo::Answer;
use tokio::time::timeout;

use super::Config;
use super::link::{Link, LinkError, Login};
use super::observe::{Standing, look};

/// All that one member is asked, connecting included.
const DEADLINE: Duration = Duration::from_secs(3);

/// What was answered.
#[derive(Debug, Default)]
pub struct Asked {
    /// Who says what, by host. Who does not answer, or with an error, is unknown: an error is no "no".
    pub answers: BTreeMap<String, Answer>,
    /// Who refuses our login.
    pub refusing: Vec<String>,
}

/// Asks all of `hosts` at once.
pub async fn ask(config: &Config, login: &Login, hosts: Vec<String>) -> Asked {
    let answers = hosts.into_iter().map(|host| async move {
        let answer = timeout(DEADLINE, answer(config, login, &host)).await;
        (host, answer.unwrap_or(Err(LinkError::Deadline(DEADLINE))))
    });
    let mut asked = Asked::default();
    for (host, answer) in join_all(answers).await {
        if matches!(answer, Err(LinkError::Refused(_))) {
            asked.refusing.push(host.clone());
        }
        asked.answers.insert(host, answer.unwrap_or_default());
    }
    asked
}

async fn answer(config: &Config, login: &Login, host: &str) -> Result<Answer, LinkError> {
    let link = Link::open(config, host, login)?;
    Ok(look(&link, None, Standing::default()).await?.answer)
}

/// Asks the member at `host` to stand for election.
///
/// # Errors
/// It did not win, or does not answer.
pub async fn stand(config: &Config, login: &Login, host: &str, deadline: Duration) -> Result<(), LinkError> {
    Link::open(config, host, login)?.run(doc! { "replSetStepUp": 1 }, deadline).await.map(drop)
}
