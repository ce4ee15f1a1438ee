//! What was done and what the operator said, in the order of time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;

#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<String>>>,
    /// Times count from here.
    pub start: Instant,
    /// Tells it at once: a long run is watched.
    loud: bool,
}

impl Log {
    pub fn new(start: Instant, loud: bool) -> Self {
        Self { lines: Arc::default(), start, loud }
    }

    pub fn note(&self, what: &str) {
        let line = format!("{:8.2} s  {what}", self.start.elapsed().as_secs_f64());
        if self.loud {
            eprintln!("{line}");
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
