//! A `MongoReplicaSet` as an application comes in, by MongoDB's own driver.

use std::time::Duration;

use anyhow::{Context, Result};
use bson::doc;
use crds::mongo::{MongoReplicaSet, MongoReplicaSetStatus};
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{ClientOptions, Credential, ServerAddress, Tls, TlsOptions};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Engine, Glance, secret, service, value};
use crate::lab::Lab;

/// A statement waits no longer for a server that the driver has seen go: who connects again finds the next one sooner.
const SELECTION: Duration = Duration::from_millis(50);

/// The account of its application in each test, with its password in `NAME-app`.
#[derive(Clone)]
pub struct Mongo {
    password: String,
    primary: String,
}

impl Mongo {
    /// The application's account, which a spec has to name in `users`.
    pub const USER: &'static str = "clerk";
    /// Its database.
    pub const DATABASE: &'static str = "shop";

    /// A client of exactly this address. Nothing is sent yet; who does not answer within `within` is given up.
    pub fn client(&self, address: &str, within: Duration) -> Result<Client> {
        self.open(address, within, within)
    }

    /// The same account with another password.
    #[must_use]
    pub fn with_password(&self, password: &str) -> Self {
        Self { password: password.into(), primary: self.primary.clone() }
    }

    fn open(&self, address: &str, within: Duration, selection: Duration) -> Result<Client> {
        let mut options = ClientOptions::default();
        options.hosts = vec![ServerAddress::parse(address)?];
        options.direct_connection = Some(true);
        let account = Credential::builder().username(Self::USER.to_owned()).password(self.password.clone());
        options.credential = Some(account.source(Self::DATABASE.to_owned()).build());
        // The certificate has names, and this is an address. That it is checked elsewhere is another test.
        options.tls = Some(Tls::Enabled(TlsOptions::builder().allow_invalid_certificates(true).build()));
        (options.connect_timeout, options.server_selection_timeout) = (Some(within), Some(selection));
        (options.retry_reads, options.retry_writes) = (Some(false), Some(false));
        Ok(Client::with_options(options)?)
    }
}

impl Engine for Mongo {
    type Object = MongoReplicaSet;
    type Connection = Client;
    const NAME: &'static str = "mongo";
    const CONTAINER: &'static str = "mongodb";
    const PORT: u16 = 27017;

    fn glance(object: &MongoReplicaSet) -> Option<Glance> {
        let status = object.status.clone()?;
        let MongoReplicaSetStatus { state, reason, ready, term, primary, election_term, transition, members, .. } = status;
        let (leads, elected) = (primary.as_deref().unwrap_or("nobody"), election_term.unwrap_or_default());
        let roles: Vec<_> = members.iter().map(|member| member.role.as_str()).collect();
        Some(Glance {
            story: format!("{state}: {reason} (term {term}, {leads}, MongoDB's term {elected}, {ready} ready, {roles:?})"),
            settled: state == "Healthy" && transition.is_none(),
            term,
            primary,
            transition,
            ready: members.iter().filter(|member| member.ready).map(|member| member.name.clone()).collect(),
            members: members.into_iter().map(|member| member.name).collect(),
        })
    }

    async fn of(lab: &Lab, namespace: &str, cluster: &str) -> Result<Self> {
        let password = value(&secret(lab, namespace, &format!("{cluster}-app")).await?, Self::USER)?;
        Ok(Self { password, primary: service(lab, namespace, cluster).await? })
    }

    fn primary(&self) -> &str {
        &self.primary
    }

    async fn connect(&self, address: &str, within: Duration) -> Result<Client> {
        let (client, end) = (self.open(address, within, SELECTION)?, Instant::now() + within);
        // After a refusal the driver rests for half a second: it would be measured instead of the server.
        timeout_at(end, TcpStream::connect((address, Self::PORT))).await.context("nobody listens")??;
        let database = client.database(Self::DATABASE);
        loop {
            // It logs in with the first command.
            match timeout_at(end, database.run_command(doc! { "ping": 1 })).await.context("no connection in time")? {
                Ok(_) => return Ok(client),
                // Not greeted yet.
                Err(error) if matches!(*error.kind, ErrorKind::ServerSelection { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// As long as its connection lives: the driver makes a new one by itself, which may lead elsewhere.
    async fn member(connection: &mut Client) -> Result<String> {
        let hello = connection.database(Self::DATABASE).run_command(doc! { "hello": 1 }).await?;
        let host = hello.get_str("me").context("not a member of a set")?;
        Ok(host.split('.').next().unwrap_or(host).to_owned())
    }
}
