//! `operator check --url …`: asks one HTTP question and says whether the answer was yes. For `helm test`: the image has no shell and no curl.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// All of it: name resolution, connection, answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// What is read of an answer, in bytes.
const MAX_ANSWER: usize = 64 * 1024;

/// Why the answer was not yes.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The URL cannot be asked.
    #[error("{0}: write a URL such as http://HOST:PORT/readyz")]
    Url(String),
    /// Nobody answers.
    #[error("cannot reach {0}: {1}")]
    Unreachable(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not in time.
    #[error("{0} did not answer within {seconds} s", seconds = DEADLINE.as_secs())]
    Silent(String),
    /// Another status than 200.
    #[error("{url} answered {status}: {body}")]
    No {
        /// What was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// The reason given.
        body: String,
    },
}

/// Asks `url`; the answer must be 200.
///
/// # Errors
/// Nobody answers, or the answer is another one.
pub async fn run(url: &str) -> Result<String, CheckError> {
    timeout(DEADLINE, ask(url)).await.map_err(|_| CheckError::Silent(url.into()))?
}

async fn ask(url: &str) -> Result<String, CheckError> {
    let uri: Uri = url.parse().map_err(|_| CheckError::Url(url.into()))?;
    let (Some("http"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(CheckError::Url(url.into())) };
    let unreachable = |error: Box<dyn std::error::Error + Send + Sync>| CheckError::Unreachable(url.into(), error);
    let stream =
        TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await.map_err(|error| unreachable(error.into()))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unreachable(error.into()))?;
    tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let request =
        Request::get(path).header(HOST, authority.as_str()).body(Empty::<Bytes>::new()).map_err(|_| CheckError::Url(url.into()))?;
    let answer = sender.send_request(request).await.map_err(|error| unreachable(error.into()))?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(unreachable)?.to_bytes();
    let body = String::from_utf8_lossy(&body).trim().to_owned();
    if status == StatusCode::OK { Ok(body) } else { Err(CheckError::No { url: url.into(), status, body }) }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// A server that gives one answer.
    async fn answer(status: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/readyz", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = [0; 1024];
            let length = socket.read(&mut asked).await.unwrap();
            assert!(asked[..length].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            let text = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\nwords");
            socket.write_all(text.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn two_hundred_is_yes_and_anything_else_is_no() {
        assert_eq!(run(&answer("200 OK").await).await.unwrap(), "words");
        let no = run(&answer("503 Service Unavailable").await).await.unwrap_err();
        assert!(no.to_string().contains("503") && no.to_string().ends_with("words"), "{no}");
    }

    #[tokio::test]
    async fn nobody_and_nonsense_are_no() {
        assert!(matches!(run("http://127.0.0.1:1/readyz").await, Err(CheckError::Unreachable(..))));
        for url in ["https://127.0.0.1/", "readyz", "http://", "a b"] {
            assert!(matches!(run(url).await, Err(CheckError::Url(_))), "{url}");
        }
    }
}
