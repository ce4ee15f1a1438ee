//! The smallest MongoDB client there is, for what a driver hides: OP_QUERY, missing `$db`, streams of replies.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use mongodb::bson::{Document, deserialize_from_slice, serialize_to_vec};

const OP_QUERY: i32 = 2004;
const OP_MSG: i32 = 2013;
/// Longer than anything a test waits for.
const PATIENCE: Duration = Duration::from_secs(90);

/// One connection without login.
pub struct Raw(TcpStream);

/// A reply and how it was framed.
pub struct Answer {
    pub id: i32,
    pub response_to: i32,
    pub opcode: i32,
    pub more_to_come: bool,
    pub body: Document,
}

impl Raw {
    pub fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("mongod listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(stream)
    }

    fn send(&mut self, id: i32, opcode: i32, payload: &[u8]) {
        let length = i32::try_from(payload.len() + 16).expect("small");
        let mut bytes: Vec<u8> = [length, id, 0, opcode].iter().flat_map(|number| number.to_le_bytes()).collect();
        bytes.extend(payload);
        self.0.write_all(&bytes).expect("sent");
    }

    pub fn receive(&mut self) -> Answer {
        let mut header = [0; 16];
        self.0.read_exact(&mut header).expect("an answer");
        let number = |at: usize| i32::from_le_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let mut payload = vec![0; usize::try_from(number(0)).expect("a length") - 16];
        self.0.read_exact(&mut payload).expect("a whole answer");
        let opcode = number(12);
        let (skip, flags) = if opcode == OP_MSG { (5, payload[0]) } else { (20, 0) };
        let body = deserialize_from_slice(&payload[skip..]).expect("BSON");
        Answer { id: number(4), response_to: number(8), opcode, more_to_come: flags & 2 != 0, body }
    }

    /// Sends a body as it is, with these flags.
    pub fn message(&mut self, id: i32, flags: u32, body: &Document) {
        let mut payload = flags.to_le_bytes().to_vec();
        payload.push(0);
        payload.extend(serialize_to_vec(body).expect("BSON"));
        self.send(id, OP_MSG, &payload);
    }

    /// A command in OP_QUERY, as drivers greeted before they knew better.
    pub fn query(&mut self, id: i32, body: &Document) -> Answer {
        let mut payload = 0_i32.to_le_bytes().to_vec();
        payload.extend(b"admin.$cmd\0");
        payload.extend(0_i32.to_le_bytes());
        payload.extend((-1_i32).to_le_bytes());
        payload.extend(serialize_to_vec(body).expect("BSON"));
        self.send(id, OP_QUERY, &payload);
        self.receive()
    }

    /// A command as it is: the caller says `$db`.
    pub fn run(&mut self, body: &Document) -> Document {
        self.message(1, 0, body);
        self.receive().body
    }
}
