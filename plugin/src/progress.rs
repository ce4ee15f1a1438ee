//! Waiting for the operator: a spinner on a terminal, a line a change elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::{Instant, sleep};

/// How often it is looked.
const POLL: Duration = Duration::from_millis(100);

/// What one look came to.
pub enum Look<T> {
    /// The end, good or bad.
    Done(T),
    /// Not yet; what is going on.
    Going(String),
}

/// Looks until it is done; at the limit an error says what was going on last.
pub async fn wait<T>(what: &str, limit: Duration, mut look: impl AsyncFnMut() -> Result<Look<T>>) -> Result<T> {
    let begun = Instant::now();
    let live = std::io::stderr().is_terminal();
    let bar = if live { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
    bar.set_style(ProgressStyle::with_template("{spinner} {prefix} {elapsed}: {wide_msg}").expect("the template is a constant"));
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(POLL);
    let mut shown = String::new();
    loop {
        // The API server may be away for a moment, in the very moment that is waited for.
        let going = match look().await {
            Ok(Look::Done(end)) => {
                bar.finish_and_clear();
                return Ok(end);
            }
            Ok(Look::Going(going)) => going,
            Err(error) => format!("{error:#}"),
        };
        if going != shown {
            if !live {
                eprintln!("… {going}");
            }
            bar.set_message(going.clone());
            shown = going;
        }
        if begun.elapsed() >= limit {
            bar.finish_and_clear();
            bail!("not within {} s: {what}: {shown}", limit.as_secs());
        }
        sleep(POLL).await;
    }
}
