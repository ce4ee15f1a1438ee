//! Understudy on real things: a Kubernetes of several nodes on this machine (**the lab**), its faults, and a control plane alone.
//!
//! - [`Lab`]: attach to the lab that `lab up` started; clients, helm, and the faults a test can cause (`nemesis`).
//! - [`ControlPlane`]: etcd and kube-apiserver for one test, no root needed.
//! - [`history`]: what clients saw under faults, and the checker of it; [`engine`]: their way in, and what differs between databases.
//! - [`clients`]: programs that use other people's client libraries for Redis as an application does.
//! - [`Plugin`]: `kubectl understudy` as a user runs it.
//! - [`stage`]: what tests of the operator stand on; [`TestNamespace`]: a namespace under Pod Security *restricted* that tells its story when the test fails.
//!
//! The rest is how the lab is made, from the ground up: [`dirs`] and [`run`] (paths, commands), [`host`] (packages), [`binaries`] and
//! [`images`] (built once, cached outside the checkout), [`pki`], [`network`], [`process`], [`node`], [`cluster`] (up and down),
//! [`provisioner`] and [`volumes`]. What Understudy itself does is not here: this crate knows Kubernetes, not the operator.

pub mod audit;
pub mod binaries;
pub mod clients;
pub mod cluster;
pub mod control_plane;
pub mod dirs;
pub mod engine;
pub mod history;
pub mod host;
pub mod images;
mod lab;
mod namespace;
mod nemesis;
pub mod network;
pub mod node;
pub mod pki;
mod plugin;
pub mod process;
pub mod provisioner;
pub mod run;
pub mod stage;
pub mod ui;
pub mod volumes;

pub use control_plane::ControlPlane;
pub use engine::Engine;
pub use lab::Lab;
pub use namespace::TestNamespace;
pub use plugin::Plugin;
