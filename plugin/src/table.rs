//! Columns and colour, for a terminal (pure).

use std::io::IsTerminal;

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint(bool);

impl Paint {
    /// Colours on a terminal whose owner did not say no.
    pub fn for_stdout() -> Self {
        Self(std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()))
    }

    /// None at all.
    #[cfg(test)]
    pub const PLAIN: Self = Self(false);

    pub fn good(self, text: &str) -> String {
        self.with("32", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.with("31", text)
    }

    pub fn warn(self, text: &str) -> String {
        self.with("33", text)
    }

    pub fn strong(self, text: &str) -> String {
        self.with("1", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.with("2", text)
    }

    fn with(self, code: &str, text: &str) -> String {
        if self.0 { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

/// Rows under a heading, in columns as wide as needed; columns in which no row says anything are left out.
pub fn table(paint: Paint, heading: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |row: &Vec<String>, column: usize| row.get(column).cloned().unwrap_or_default();
    let shown: Vec<usize> = (0..heading.len()).filter(|column| rows.iter().any(|row| !cell(row, *column).is_empty())).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| cell(row, column).chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or_default()
    };
    let line = |cells: &dyn Fn(usize) -> String| {
        let padded = shown.iter().map(|column| format!("{:1$}", cells(*column), width(*column)));
        padded.collect::<Vec<_>>().join("   ").trim_end().to_owned()
    };
    let mut lines = vec![paint.faint(&line(&|column| heading[column].to_owned()))];
    lines.extend(rows.iter().map(|row| line(&|column| cell(row, column))));
    lines.iter().map(|line| format!("  {line}\n")).collect()
}

/// A GTID set with its UUIDs cut short: enough to see which member is ahead.
pub fn short(gtids: &str) -> String {
    let origin = |origin: &str| match origin.split_once(':') {
        Some((uuid, rest)) if uuid.len() > 8 => {
            format!("{}…:{rest}", &uuid[..uuid.char_indices().nth(8).map_or(uuid.len(), |(end, _)| end)])
        }
        _ => origin.to_owned(),
    };
    gtids.split(',').map(origin).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_needed_and_empty_ones_are_left_out() {
        let rows = [vec!["shop-0".to_owned(), String::new(), "yes".to_owned()], vec!["a".to_owned(), String::new()]];
        assert_eq!(table(Paint::PLAIN, &["NAME", "LAG", "READY"], &rows), "  NAME     READY\n  shop-0   yes\n  a\n");
    }

    #[test]
    fn colour_is_only_added_on_request() {
        assert_eq!(Paint(false).bad("x"), "x");
        assert_eq!(Paint(true).bad("x"), "\u{1b}[31mx\u{1b}[0m");
    }

    #[test]
    fn a_gtid_set_stays_recognisable() {
        assert_eq!(short("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"), "3e11fa47…:1-5");
        assert_eq!(
            short("3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:7,4e11fa47-71ca-11e1-9e33-c80aa9429562:1"),
            "3e11fa47…:1-5:7,4e11fa47…:1"
        );
        assert_eq!(short(""), "");
    }
}
