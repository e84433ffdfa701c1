//! What is done, or would be, as a table for people. No tokens.

use crate::columns;

/// A table whose columns are as wide as what stands in them.
#[derive(Debug)]
pub(crate) struct Report<const COLUMNS: usize> {
    lines: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Report<COLUMNS> {
    pub(crate) fn new(head: [&str; COLUMNS]) -> Self {
        Self {
            lines: vec![head.map(str::to_owned)],
        }
    }

    pub(crate) fn line(&mut self, line: [String; COLUMNS]) {
        // Names come from the provider: a terminal must not obey them.
        self.lines
            .push(line.map(|text| text.chars().filter(|c| !c.is_control()).collect()));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lines.len() < 2
    }

    pub(crate) fn text(&self) -> String {
        columns::aligned(&self.lines) + "\n"
    }
}

/// `7 Acme`: id and name at the provider.
pub(crate) fn named(id: &str, name: &str) -> String {
    format!("{id} {name}").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_obey_nobody() {
        let mut report = Report::new(["row", "what"]);
        report.line(["1".to_owned(), "ein \u{1b}[31müber\n".to_owned()]);
        report.line(["1000".to_owned(), String::new()]);
        assert_eq!(report.text(), "row   what\n1     ein [31müber\n1000\n");
    }
}
