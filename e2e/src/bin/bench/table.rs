//! What is printed: one line a figure, beside its floor where it has one.

use std::time::Duration;

use anyhow::Result;

pub fn head() -> Result<()> {
    println!("machine: {}", machine()?);
    println!("{:<52} {:>12} {:>12} {:>8}   goal", "what", "figure", "floor", "ratio");
    Ok(())
}

pub fn row(what: &str, figure: f64, floor: f64, goal: &str) {
    println!("{what:<52} {figure:>12.2} {floor:>12.2} {:>8.2}   {goal}", figure / floor);
}

/// A figure without a floor.
pub fn figure(what: &str, figure: f64, goal: &str) {
    println!("{what:<52} {figure:>12.2} {:>12} {:>8}   {goal}", "", "");
}

/// Percentiles of many runs in milliseconds, by nearest rank; the ratio is that of the medians.
pub fn spread(what: &str, figures: &mut [Duration], floor: Duration, goal: &str) {
    figures.sort();
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let rank = |percent: usize| ms(figures[(figures.len() * percent).div_ceil(100).max(1) - 1]);
    let (p50, p99, max) = (rank(50), rank(99), rank(100));
    row(&format!("{what}, p50, ms"), p50, ms(floor), goal);
    println!("{:<52} {p99:>12.2}", "  p99");
    println!("{:<52} {max:>12.2}   {} runs", "  max", figures.len());
}

pub fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn machine() -> Result<String> {
    let cpu = std::fs::read_to_string("/proc/cpuinfo")?;
    let model =
        cpu.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split(": ").nth(1)).unwrap_or("unknown").to_owned();
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = std::fs::read_to_string("/proc/meminfo")?;
    let total: u64 = memory.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0);
    Ok(format!("{cores} x {model}, {} GiB", total / 1024 / 1024))
}
