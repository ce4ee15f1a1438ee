//! The Sentinel endpoint: every sidecar answers on port 26379 what clients ask a Redis Sentinel for, so that they find the primary and hear of
//! a new one with no Sentinel running anywhere. It decides nothing; the operator does.
//!
//! [`run`] is all that the engine's room calls. From the wire inwards:
//! - [`serve`](mod@serve): the port, its bounds and deadlines. [`tls`]: the certificate that clients see.
//! - [`resp`]: commands in, answers out. [`commands`]: what is answered to what; [`table`]: which commands there are.
//! - [`pubsub`]: who listens to what. [`accounts`]: who may ask.
//! - [`view`]: what is known of the cluster, and which of its changes are events. [`known`]: how that follows from orders and the database.
//! - [`member`]: the whole of it, for one member.

pub mod accounts;
pub mod commands;
pub mod known;
pub mod member;
pub mod pubsub;
pub mod resp;
pub mod serve;
pub mod table;
pub mod tls;
pub mod view;

pub use accounts::Accounts;
pub use known::Names;
pub use member::{Config, run};
pub use serve::serve;
pub use view::{Node, View, sentinel_id};
