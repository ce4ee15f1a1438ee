//! SCRAM, both sides: how users and members of the set prove that they know a password.

use std::num::NonZeroU32;

use base64::prelude::{BASE64_STANDARD as STANDARD, Engine};
use bson::{Binary, Document, doc};
use md5::{Digest, Md5};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac, pbkdf2};

use crate::text;

/// Which hash: the name is the mechanism's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// SCRAM-SHA-1: passwords are MD5 first.
    Sha1,
    /// SCRAM-SHA-256.
    Sha256,
}

impl Mechanism {
    /// Both, as `saslSupportedMechs` lists them.
    pub const ALL: [Self; 2] = [Self::Sha1, Self::Sha256];

    /// `SCRAM-SHA-256`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SCRAM-SHA-1",
            Self::Sha256 => "SCRAM-SHA-256",
        }
    }

    /// By its name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mechanism| mechanism.name() == name)
    }

    /// mongod's default number of rounds.
    fn rounds(self) -> u32 {
        match self {
            Self::Sha1 => 10_000,
            Self::Sha256 => 15_000,
        }
    }

    fn salt_length(self) -> usize {
        match self {
            Self::Sha1 => 16,
            Self::Sha256 => 28,
        }
    }

    fn hmac(self, key: &[u8], data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => hmac::HMAC_SHA256,
        };
        hmac::sign(&hmac::Key::new(algorithm, key), data).as_ref().to_vec()
    }

    fn hash(self, data: &[u8]) -> Vec<u8> {
        let algorithm = match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
        };
        digest::digest(algorithm, data).as_ref().to_vec()
    }

    fn salted(self, user: &str, password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
        let (algorithm, length) = match self {
            Self::Sha1 => (pbkdf2::PBKDF2_HMAC_SHA1, 20),
            Self::Sha256 => (pbkdf2::PBKDF2_HMAC_SHA256, 32),
        };
        let prepared = match self {
            Self::Sha1 => text::hex(&Md5::digest(format!("{user}:mongo:{password}"))),
            // Passwords of tests are ASCII: SASLprep leaves them as they are.
            Self::Sha256 => password.to_owned(),
        };
        let mut out = vec![0; length];
        pbkdf2::derive(algorithm, NonZeroU32::new(rounds).unwrap_or(NonZeroU32::MIN), salt, prepared.as_bytes(), &mut out);
        out
    }
}

/// What a server keeps of a password.
#[derive(Clone, Debug)]
pub struct Credential {
    rounds: u32,
    salt: Vec<u8>,
    stored: Vec<u8>,
    server: Vec<u8>,
}

impl Credential {
    /// A fresh one; members of a set pass one salt for all their keys.
    pub fn new(mechanism: Mechanism, user: &str, password: &str, salt: Option<Vec<u8>>) -> Self {
        let salt = salt.unwrap_or_else(|| random(mechanism.salt_length()));
        let salted = mechanism.salted(user, password, &salt, mechanism.rounds());
        let stored = mechanism.hash(&mechanism.hmac(&salted, b"Client Key"));
        let server = mechanism.hmac(&salted, b"Server Key");
        Self { rounds: mechanism.rounds(), salt, stored, server }
    }

    /// As a user's document keeps it.
    pub fn document(&self) -> Document {
        doc! {
            "iterationCount": i32::try_from(self.rounds).unwrap_or_default(),
            "salt": encode(&self.salt), "storedKey": encode(&self.stored), "serverKey": encode(&self.server),
        }
    }

    /// From a user's document.
    pub fn read(document: &Document) -> Option<Self> {
        let bytes = |name| decode(document.get_str(name).ok()?);
        let rounds = document.get_i32("iterationCount").ok()?.try_into().ok()?;
        Some(Self { rounds, salt: bytes("salt")?, stored: bytes("storedKey")?, server: bytes("serverKey")? })
    }
}

/// The server's side of one login, between its two messages.
#[derive(Debug)]
pub struct Exchange {
    mechanism: Mechanism,
    /// Any of these will do: two keys while a key file is being rotated.
    credentials: Vec<Credential>,
    nonce: String,
    transcript: String,
}

impl Exchange {
    /// The user's name in the client's first message.
    pub fn user(first: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(first).ok()?;
        Some(attribute(text.strip_prefix("n,,")?, "n=")?.replace("=2C", ",").replace("=3D", "="))
    }

    /// Answers the client's first message.
    pub fn open(mechanism: Mechanism, credentials: Vec<Credential>, first: &[u8]) -> Option<(Self, Vec<u8>)> {
        let bare = std::str::from_utf8(first).ok()?.strip_prefix("n,,")?;
        let nonce = format!("{}{}", attribute(bare, "r=")?, encode(&random(24)));
        let shown = credentials.first()?;
        let answer = format!("r={nonce},s={},i={}", encode(&shown.salt), shown.rounds);
        let transcript = format!("{bare},{answer}");
        Some((Self { mechanism, credentials, nonce, transcript }, answer.into_bytes()))
    }

    /// Answers the client's proof; `None` when it is none.
    pub fn close(self, last: &[u8]) -> Option<Vec<u8>> {
        let text = std::str::from_utf8(last).ok()?;
        let (without_proof, proof) = text.rsplit_once(",p=")?;
        if attribute(text, "r=")? != self.nonce {
            return None;
        }
        let proof = decode(proof)?;
        let message = format!("{},{without_proof}", self.transcript);
        let known = self.credentials.iter().find(|credential| {
            let signature = self.mechanism.hmac(&credential.stored, message.as_bytes());
            let key: Vec<u8> = proof.iter().zip(signature).map(|(a, b)| a ^ b).collect();
            self.mechanism.hash(&key) == credential.stored
        })?;
        Some(format!("v={}", encode(&self.mechanism.hmac(&known.server, message.as_bytes()))).into_bytes())
    }
}

/// The client's side: how a member logs in at another one.
#[derive(Debug)]
pub struct Client {
    bare: String,
    nonce: String,
}

impl Client {
    const MECHANISM: Mechanism = Mechanism::Sha256;

    /// `saslStart` as this user.
    pub fn start(user: &str) -> (Self, Document) {
        let nonce = encode(&random(24));
        let bare = format!("n={user},r={nonce}");
        let command = doc! {
            "saslStart": 1, "mechanism": Self::MECHANISM.name(), "payload": payload(format!("n,,{bare}").into_bytes()),
            "options": { "skipEmptyExchange": true },
        };
        (Self { bare, nonce }, command)
    }

    /// The many rounds over a password: the same for as long as the server's salt is.
    pub fn salted(user: &str, password: &str, salt: &[u8], rounds: u32) -> Vec<u8> {
        Self::MECHANISM.salted(user, password, salt, rounds)
    }

    /// `saslContinue` with the proof; `salted` answers, or remembers, the rounds over the password.
    pub fn prove(self, reply: &Document, salted: impl FnOnce(&[u8], u32) -> Vec<u8>) -> Option<Document> {
        let server = std::str::from_utf8(reply.get_binary_generic("payload").ok()?).ok()?;
        let (nonce, salt) = (attribute(server, "r=")?, decode(attribute(server, "s=")?)?);
        if !nonce.starts_with(&self.nonce) {
            return None;
        }
        let salted = salted(&salt, attribute(server, "i=")?.parse().ok()?);
        let key = Self::MECHANISM.hmac(&salted, b"Client Key");
        let last = format!("c=biws,r={nonce}");
        let message = format!("{},{server},{last}", self.bare);
        let signature = Self::MECHANISM.hmac(&Self::MECHANISM.hash(&key), message.as_bytes());
        let proof: Vec<u8> = key.iter().zip(signature).map(|(a, b)| a ^ b).collect();
        let conversation = reply.get_i32("conversationId").unwrap_or(1);
        let last = format!("{last},p={}", encode(&proof));
        Some(doc! { "saslContinue": 1, "conversationId": conversation, "payload": payload(last.into_bytes()) })
    }
}

/// SASL bytes as BSON.
pub fn payload(bytes: Vec<u8>) -> Binary {
    Binary { subtype: bson::spec::BinarySubtype::Generic, bytes }
}

/// Random bytes.
pub fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    // Without randomness there is no secret to keep: zeros fail no test and the kernel's source does not fail.
    let _ = SystemRandom::new().fill(&mut bytes);
    bytes
}

fn attribute<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    message.split(',').find_map(|part| part.strip_prefix(name))
}

fn encode(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    STANDARD.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_in(password: &str, keys: &[&str]) -> bool {
        let (client, start) = Client::start("u");
        let first = start.get_binary_generic("payload").expect("a payload");
        assert_eq!(Exchange::user(first).as_deref(), Some("u"));
        let salt = Some(vec![7; 28]);
        let credentials = keys.iter().map(|key| Credential::new(Mechanism::Sha256, "u", key, salt.clone())).collect();
        let (exchange, answer) = Exchange::open(Mechanism::Sha256, credentials, first).expect("opens");
        let last =
            client.prove(&doc! { "payload": payload(answer) }, |salt, rounds| Client::salted("u", password, salt, rounds)).expect("proves");
        exchange.close(last.get_binary_generic("payload").expect("a payload")).is_some()
    }

    #[test]
    fn the_password_opens_and_another_does_not() {
        assert!(log_in("right", &["right"]));
        assert!(!log_in("wrong", &["right"]));
    }

    #[test]
    fn either_of_two_keys_opens_while_they_are_rotated() {
        assert!(log_in("new", &["old", "new"]));
        assert!(log_in("old", &["old", "new"]));
    }
}
