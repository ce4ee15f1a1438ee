//! MySQL's rooms, in the order of the pipeline.

pub mod act;
pub mod build;
pub mod config;
pub mod decide;
pub mod explain;
pub mod names;
pub mod observe;
pub mod observed;
pub mod option;
pub mod status;
pub mod validate;
