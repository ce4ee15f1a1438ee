//! A client that shows what arrives: RESP, parsed and no more.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Nothing on loopback takes longer, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(10);

/// An answer as it arrived, its kind included.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    Simple(String),
    Error(String),
    Integer(i64),
    Bulk(String),
    /// `$-1`, `*-1` or `_`.
    Null(char),
    /// `*`, `~` or `>`.
    List(char, Vec<Reply>),
    Map(Vec<(Reply, Reply)>),
}

impl Reply {
    pub fn text(&self) -> &str {
        match self {
            Self::Simple(text) | Self::Error(text) | Self::Bulk(text) => text,
            other => panic!("no text: {other:?}"),
        }
    }

    pub fn list(&self) -> &[Self] {
        match self {
            Self::List(_, list) => list,
            other => panic!("no list: {other:?}"),
        }
    }

    /// A row, of either version.
    pub fn row(&self) -> BTreeMap<String, String> {
        match self {
            Self::List('*', list) => list.chunks(2).map(|pair| (pair[0].text().to_owned(), pair[1].text().to_owned())).collect(),
            Self::Map(pairs) => pairs.iter().map(|(name, value)| (name.text().to_owned(), value.text().to_owned())).collect(),
            other => panic!("no row: {other:?}"),
        }
    }
}

pub struct Client<S> {
    stream: BufReader<S>,
}

impl Client<TcpStream> {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(timeout(DEADLINE, TcpStream::connect(address)).await.unwrap().unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        timeout(DEADLINE, self.stream.write_all(bytes.as_ref())).await.expect("it is read").unwrap();
    }

    /// Asks as clients do: an array of words, which are split at blanks.
    pub async fn ask(&mut self, line: &str) -> Reply {
        let words: Vec<_> = line.split(' ').collect();
        let mut bytes = format!("*{}\r\n", words.len());
        for word in words {
            bytes += &format!("${}\r\n{word}\r\n", word.len());
        }
        self.send(bytes).await;
        self.read().await
    }

    pub async fn read(&mut self) -> Reply {
        self.next().await.expect("an answer, not the end")
    }

    /// The next answer; `None` at the end of the connection.
    pub async fn next(&mut self) -> Option<Reply> {
        timeout(DEADLINE, parse(&mut self.stream)).await.expect("an answer in time")
    }

    /// Nothing has arrived for so long.
    pub async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.stream.fill_buf()).await.is_err()
    }

    pub async fn is_closed(&mut self) -> bool {
        self.next().await.is_none()
    }
}

async fn parse<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> Option<Reply> {
    let mut line = String::new();
    // A reset is an end.
    if stream.read_line(&mut line).await.unwrap_or(0) == 0 {
        return None;
    }
    let line = line.strip_suffix("\r\n").unwrap_or_else(|| panic!("a whole line: {line:?}"));
    let (kind, rest) = line.split_at(1);
    let number = || rest.parse::<i64>().unwrap();
    Some(match kind {
        "+" => Reply::Simple(rest.into()),
        "-" => Reply::Error(rest.into()),
        ":" => Reply::Integer(number()),
        "_" => Reply::Null('_'),
        "$" | "*" if number() < 0 => Reply::Null(if kind == "$" { '$' } else { '*' }),
        "$" => {
            let mut bytes = vec![0; usize::try_from(number()).unwrap() + 2];
            stream.read_exact(&mut bytes).await.unwrap();
            assert!(bytes.ends_with(b"\r\n"));
            Reply::Bulk(String::from_utf8(bytes[..bytes.len() - 2].to_vec()).unwrap())
        }
        "*" | "~" | ">" => {
            let mut list = Vec::new();
            for _ in 0..number() {
                list.push(Box::pin(parse(stream)).await.unwrap());
            }
            Reply::List(kind.chars().next().unwrap(), list)
        }
        "%" => {
            let mut pairs = Vec::new();
            for _ in 0..number() {
                pairs.push((Box::pin(parse(stream)).await.unwrap(), Box::pin(parse(stream)).await.unwrap()));
            }
            Reply::Map(pairs)
        }
        other => panic!("no RESP: {other:?}"),
    })
}
