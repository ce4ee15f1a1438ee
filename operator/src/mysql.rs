//! MySQL's rooms, in the order of the pipeline.

pub mod observed;
pub mod validate;
