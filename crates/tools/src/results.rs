//! What was results, as the tables that `README.md` has under "Measured" and `docs/results` keeps: a test compares them.

use std::io::{self, Write};

use pipekeeper_core::store::Backend;

/// One table; every row has as many cells as it has heads.
#[derive(Debug, Clone)]
pub struct Table<const COLUMNS: usize> {
    heads: [&'static str; COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    pub fn new(heads: [&'static str; COLUMNS]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    pub fn row(&mut self, cells: [String; COLUMNS]) {
        self.rows.push(cells);
    }

    /// Says what it is of, as a paragraph, and then the table.
    pub fn write(&self, out: &mut dyn Write, caption: &str) -> io::Result<()> {
        writeln!(out, "{caption}\n\n{}", line(&self.heads))?;
        writeln!(out, "{}", line(&["---"; COLUMNS]))?;
        self.rows
            .iter()
            .try_for_each(|row| writeln!(out, "{}", line(row)))
    }
}

fn line<T: AsRef<str>>(cells: &[T]) -> String {
    let cells = cells.iter().map(|cell| format!(" {}", cell.as_ref()));
    let cells: Vec<String> = cells.map(|cell| cell.trim_end().to_owned()).collect();
    format!("|{} |", cells.join(" |"))
}

/// As tables name it, which are of the versions that tests start.
pub fn backend_name(backend: Backend) -> &'static str {
    match backend {
        Backend::Sqlite => "SQLite",
        Backend::Postgres => "PostgreSQL 17",
        Backend::Mysql => "MariaDB 11.8",
    }
}

/// 20 023
pub fn grouped(value: usize) -> String {
    let digits = value.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// The same of a rate, without what is behind the point.
pub fn per_second(rate: f64) -> String {
    // `{:.0}` of a rate is a whole number, however large.
    format!("{rate:.0}")
        .parse()
        .map_or_else(|_| "-".to_owned(), grouped)
}

/// Two digits: 0.05, 5.1, 12.
pub fn two_digits(value: f64) -> String {
    let decimals = match value {
        v if v < 1.0 => 2,
        v if v < 10.0 => 1,
        _ => 0,
    };
    format!("{value:.decimals$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_markdown() {
        let mut table = Table::new(["", "requests/s"]);
        table.row(["1 caller".to_owned(), per_second(20_022.7)]);
        let mut out = Vec::new();

        table.write(&mut out, "`scripts/bench person`:").unwrap();

        assert_eq!(
            String::from_utf8(out).unwrap(),
            "`scripts/bench person`:\n\n| | requests/s |\n| --- | --- |\n| 1 caller | 20 023 |\n"
        );
    }

    #[test]
    fn figures_are_written_as_people_read_them() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1 000"),
            (1_234_567, "1 234 567"),
        ] {
            assert_eq!(grouped(value), expected);
        }
        for (value, expected) in [(0.054, "0.05"), (5.12, "5.1"), (9.96, "10.0"), (12.4, "12")] {
            assert_eq!(two_digits(value), expected);
        }
    }
}
