//! What the person at the terminal sees: one spinner per running step, or plain lines when nobody watches.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// Progress of the steps of one command.
#[derive(Clone, Debug)]
pub struct Ui {
    bars: MultiProgress,
    live: bool,
}

impl Default for Ui {
    fn default() -> Self {
        Self { bars: MultiProgress::new(), live: std::io::stderr().is_terminal() }
    }
}

impl Ui {
    /// Says one thing.
    pub fn say(&self, text: &str) {
        if self.live {
            // A closed terminal is no reason to stop.
            let _ = self.bars.println(text);
        } else {
            eprintln!("{text}");
        }
    }

    /// Shows `what` until `work` ends, then how long it took; an error gets `what` as its context.
    pub async fn step<T>(&self, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
        let start = Instant::now();
        let bar = self.live.then(|| {
            let bar = self.bars.add(ProgressBar::new_spinner().with_message(what.to_owned()));
            bar.set_style(ProgressStyle::default_spinner().template("{spinner} {msg} ({elapsed})").expect("the template is a constant"));
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if !self.live {
            eprintln!("… {what}");
        }
        let result = work.await;
        if let Some(bar) = bar {
            bar.finish_and_clear();
        }
        if result.is_ok() {
            self.say(&format!("✓ {what} ({:.1}s)", start.elapsed().as_secs_f32()));
        }
        result.with_context(|| what.to_owned())
    }

    /// A bar of `total` equal parts; nothing when nobody watches.
    pub fn bar(&self, what: &str, total: usize) -> ProgressBar {
        if !self.live {
            return ProgressBar::hidden();
        }
        let bar = self.bars.add(ProgressBar::new(total as u64).with_message(what.to_owned()));
        bar.set_style(ProgressStyle::default_bar().template("{msg} {bar:30} {pos}/{len} ({elapsed})").expect("the template is a constant"));
        bar.enable_steady_tick(Duration::from_millis(250));
        bar
    }
}
