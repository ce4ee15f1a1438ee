//! Waiting with jitter, so that what failed together does not come back together.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Ever longer pauses, from `first` to `last`, without end; jitter adds up to as much again.
#[must_use]
pub fn growing(first: Duration, last: Duration) -> ExponentialBackoff {
    builder(first, last).build()
}

/// The same, not begun yet.
#[must_use]
pub fn builder(first: Duration, last: Duration) -> ExponentialBuilder {
    ExponentialBuilder::new().with_min_delay(first).with_max_delay(last).without_max_times().with_jitter()
}

/// One pause of `least`, and up to as much again.
#[must_use]
pub fn about(least: Duration) -> Duration {
    growing(least, least).next().unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_ceiling_and_never_end() {
        let (first, last) = (Duration::from_millis(50), Duration::from_millis(500));
        let all: Vec<_> = growing(first, last).take(100).collect();
        assert_eq!(all.len(), 100);
        assert!(all.iter().all(|pause| *pause >= first && *pause <= last * 2), "{all:?}");
        assert!(all[50..].iter().all(|pause| *pause >= last), "{all:?}");
        assert!((0..100).map(|_| about(first)).all(|pause| pause >= first && pause <= first * 2));
    }
}
