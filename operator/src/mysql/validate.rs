//! Spec → [`Desired`] (pure): parse, don't check. After this step nobody reads the raw spec.
