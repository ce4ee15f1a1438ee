//! MongoDB's wire protocol: OP_MSG, and the one OP_QUERY with which a driver may open.

use anyhow::{Context, Result, bail, ensure};
use bson::{Document, doc};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const OP_REPLY: i32 = 1;
const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
const HEADER: usize = 16;
/// `maxMessageSizeBytes`.
const MAX_MESSAGE: usize = 48_000_000;

const CHECKSUM_PRESENT: u32 = 1;
const MORE_TO_COME: u32 = 1 << 1;
const EXHAUST_ALLOWED: u32 = 1 << 16;

/// One command as it came in.
#[derive(Debug)]
pub struct Request {
    /// The sender's number for it.
    pub id: i32,
    /// Its body; document sequences are fields of it.
    pub body: Document,
    /// No answer is wanted.
    pub silent: bool,
    /// Answers may go on without another request.
    pub exhaust: bool,
    /// Came as OP_QUERY: answered by OP_REPLY.
    pub legacy: bool,
}

/// The next message, or `None` when the other side is done.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Request>> {
    let mut header = [0; HEADER];
    match stream.read_exact(&mut header).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let mut cursor = Cursor(&header);
    let length = usize::try_from(cursor.int()?)?;
    let (id, _response_to, opcode) = (cursor.int()?, cursor.int()?, cursor.int()?);
    ensure!((HEADER..=MAX_MESSAGE).contains(&length), "a message of {length} bytes");
    let mut payload = vec![0; length - HEADER];
    stream.read_exact(&mut payload).await?;
    match opcode {
        OP_MSG => message(id, &payload).map(Some),
        OP_QUERY => query(id, &payload).map(Some),
        other => bail!("opcode {other} is not spoken here"),
    }
}

fn message(id: i32, payload: &[u8]) -> Result<Request> {
    let mut cursor = Cursor(payload);
    let flags = u32::from_le_bytes(cursor.take(4)?.try_into()?);
    if flags & CHECKSUM_PRESENT != 0 {
        let end = cursor.0.len().checked_sub(4).context("a checksum")?;
        cursor.0 = cursor.0.get(..end).context("a checksum")?;
    }
    let mut body = None;
    let mut sequences = Vec::new();
    while !cursor.0.is_empty() {
        match cursor.take(1)? {
            [0] => body = Some(cursor.document()?),
            [1] => {
                let size = usize::try_from(cursor.int()?)?.checked_sub(4).context("a sequence has a size")?;
                let mut section = Cursor(cursor.take(size)?);
                let name = section.string()?;
                let mut documents = Vec::new();
                while !section.0.is_empty() {
                    documents.push(section.document()?);
                }
                sequences.push((name, documents));
            }
            other => bail!("section kind {other:?}"),
        }
    }
    let mut body = body.context("OP_MSG has a body")?;
    for (name, documents) in sequences {
        body.insert(name, documents);
    }
    Ok(Request { id, body, silent: flags & MORE_TO_COME != 0, exhaust: flags & EXHAUST_ALLOWED != 0, legacy: false })
}

fn query(id: i32, payload: &[u8]) -> Result<Request> {
    let mut cursor = Cursor(payload);
    cursor.take(4)?;
    let collection = cursor.string()?;
    cursor.take(8)?;
    let mut body = cursor.document()?;
    let database = collection.strip_suffix(".$cmd").context("OP_QUERY of a collection")?.to_owned();
    body.insert("$db", database);
    Ok(Request { id, body, silent: false, exhaust: false, legacy: true })
}

/// Answers `request`; `previous` is the number of the answer before it in a stream, which this one then follows.
pub async fn reply(
    stream: &mut (impl AsyncWrite + Unpin),
    id: i32,
    request: &Request,
    previous: Option<i32>,
    body: &Document,
    more: bool,
) -> Result<()> {
    let body = bson::serialize_to_vec(body)?;
    let bytes = if request.legacy {
        let mut payload = Vec::with_capacity(body.len() + 20);
        // AwaitCapable, no cursor, from 0, one document.
        for number in [8_i32, 0, 0, 0, 1] {
            payload.extend(number.to_le_bytes());
        }
        payload.extend(body);
        frame(id, request.id, OP_REPLY, &payload)
    } else {
        frame(id, previous.unwrap_or(request.id), OP_MSG, &body_section(if more { MORE_TO_COME } else { 0 }, &body))
    };
    stream.write_all(&bytes?).await?;
    stream.flush().await?;
    Ok(())
}

/// Sends a command to another server and reads its answer.
pub async fn call(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), id: i32, body: &Document) -> Result<Document> {
    let bytes = frame(id, 0, OP_MSG, &body_section(0, &bson::serialize_to_vec(body)?))?;
    stream.write_all(&bytes).await?;
    stream.flush().await?;
    Ok(read(stream).await?.context("the connection was closed")?.body)
}

fn body_section(flags: u32, body: &[u8]) -> Vec<u8> {
    let mut payload = Vec::with_capacity(body.len() + 5);
    payload.extend(flags.to_le_bytes());
    payload.push(0);
    payload.extend(body);
    payload
}

fn frame(id: i32, response_to: i32, opcode: i32, payload: &[u8]) -> Result<Vec<u8>> {
    let length = i32::try_from(payload.len() + HEADER)?;
    let mut bytes = Vec::with_capacity(payload.len() + HEADER);
    for number in [length, id, response_to, opcode] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend(payload);
    Ok(bytes)
}

/// The reply to an OP_QUERY that is no greeting.
pub fn unsupported(name: &str) -> Document {
    doc! {
        "ok": 0.0,
        "errmsg": format!("Unsupported OP_QUERY command: {name}. The client driver may require an upgrade. \
                           For more details see https://dochub.mongodb.org/core/legacy-opcode-removal"),
        "code": 352,
        "codeName": "UnsupportedOpQueryCommand",
    }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(size).context("a message cut short")?;
        self.0 = tail;
        Ok(head)
    }

    fn int(&mut self) -> Result<i32> {
        Ok(i32::from_le_bytes(self.take(4)?.try_into()?))
    }

    fn string(&mut self) -> Result<String> {
        let end = self.0.iter().position(|byte| *byte == 0).context("an unterminated string")?;
        let text = std::str::from_utf8(self.take(end)?)?.to_owned();
        self.take(1)?;
        Ok(text)
    }

    fn document(&mut self) -> Result<Document> {
        let size = i32::from_le_bytes(self.0.get(..4).context("a document cut short")?.try_into()?);
        Ok(bson::deserialize_from_slice(self.take(usize::try_from(size)?)?)?)
    }
}
