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

/// Who says what, by host. Who does not answer, or with an error, is unknown: an error is no "no".
pub async fn ask(config: &Config, login: &Login, hosts: Vec<String>) -> BTreeMap<String, Answer> {
    let asked = hosts.into_iter().map(|host| async move {
        let answer = timeout(DEADLINE, answer(config, login, &host)).await.ok().and_then(Result::ok).unwrap_or_default();
        (host, answer)
    });
    join_all(asked).await.into_iter().collect()
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
