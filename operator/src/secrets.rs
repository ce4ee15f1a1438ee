//! The Secrets of a cluster.

/// Passwords of the internal accounts; members mount it.
#[must_use]
pub fn system_name(cluster: &str) -> String {
    format!("{cluster}-system")
}

/// What an application needs to connect; members mount part of it.
#[must_use]
pub fn app_name(cluster: &str) -> String {
    format!("{cluster}-app")
}

/// The certificates that members mount.
#[must_use]
pub fn tls_name(cluster: &str) -> String {
    format!("{cluster}-tls")
}

/// The CA's key and the operator's own certificate; never mounted.
#[must_use]
pub fn ca_name(cluster: &str) -> String {
    format!("{cluster}-ca")
}
