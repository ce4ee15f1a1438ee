//! `MongoReplicaSet` in the lab: the operator from its Helm chart, real pods, through the Services, by MongoDB's own driver.
//!
//! The server in the pods is the model of mongod (`e2e/mongod-model`), unless `MONGO_IMAGE_ROOTFS` names a system with a real one: nothing here
//! knows the difference. Needs a running lab: `lab up`, then `cargo test -p e2e --features lab --test mongoreplicaset`.

mod births;
mod changes;
mod failover;
mod idle;
mod losses;
mod refusals;
mod rig;
mod scales;
mod secrets;
mod standalone;
mod switchovers;
mod writer;
