//! What a document says, taken apart: code spans, lines of code, links, tables.
#![expect(
    clippy::string_slice,
    reason = "texts are cut where a sign of one byte was found"
)]

use std::path::{Path, PathBuf};

/// One document, by its path from the top of the repository.
#[derive(Debug, Default)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) spans: Vec<Span>,
    /// Lines of code blocks that say of what language they are, or are indented: the others are pictures. One that ends in
    /// `\` goes on in the same.
    pub(crate) code: Vec<Line>,
    pub(crate) links: Vec<Line>,
    pub(crate) tables: Vec<Table>,
    /// As they are linked to.
    pub(crate) anchors: Vec<String>,
    pub(crate) text: Vec<Line>,
}

#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) number: usize,
    pub(crate) text: String,
}

/// `Code` in the middle of a text.
#[derive(Debug)]
pub(crate) struct Span {
    pub(crate) line: usize,
    pub(crate) text: String,
    /// What comes right after it.
    pub(crate) after: String,
    /// The head of the column that it stands in.
    pub(crate) column: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) section: String,
    pub(crate) heads: Vec<String>,
    pub(crate) rows: Vec<(usize, Vec<String>)>,
}

impl Document {
    /// A file of another kind: all of it is text and code.
    pub(crate) fn plain(path: &Path, text: &str) -> Self {
        let lines: Vec<Line> = numbered(text).collect();
        Self {
            path: path.to_owned(),
            code: lines.clone(),
            text: lines,
            ..Self::default()
        }
    }

    pub(crate) fn markdown(path: &Path, text: &str) -> Self {
        let mut document = Self {
            path: path.to_owned(),
            text: numbered(text).collect(),
            ..Self::default()
        };
        let mut paragraph: Vec<Line> = Vec::new();
        let (mut fenced, mut picture) = (false, false);
        let (mut indented, mut goes_on) = (false, false);
        let mut after_blank = true;
        let mut section = String::new();
        let mut in_table = false;
        for Line { number, text } in numbered(text) {
            let bare = text.trim_start();
            let is_row = !fenced && bare.starts_with('|');
            indented = !fenced && text.starts_with("    ") && (indented || after_blank);
            if bare.starts_with("```") {
                document.end_of(&mut paragraph);
                fenced = !fenced;
                picture = bare == "```";
                goes_on = false;
            } else if fenced && picture {
            } else if fenced || indented {
                let more = bare.trim_end_matches('\\').to_owned();
                match document.code.last_mut() {
                    Some(last) if goes_on => last.text.push_str(&more),
                    _ => document.code.push(Line { number, text: more }),
                }
                goes_on = bare.ends_with('\\');
            } else if is_row {
                document.end_of(&mut paragraph);
                document.row(number, bare, in_table, &section);
            } else if let Some(heading) = bare.strip_prefix('#') {
                document.end_of(&mut paragraph);
                section = heading.trim_start_matches('#').trim().to_owned();
                document.anchors.push(anchor_of(&section));
            } else if bare.is_empty() {
                document.end_of(&mut paragraph);
            } else {
                paragraph.push(Line { number, text });
                after_blank = false;
                in_table = false;
                continue;
            }
            after_blank = bare.is_empty();
            in_table = is_row;
        }
        document.end_of(&mut paragraph);
        document
    }

    fn row(&mut self, number: usize, row: &str, in_table: bool, section: &str) {
        let cells = cells_of(row);
        let is_rule = |cell: &String| cell.chars().all(|c| matches!(c, '-' | ':'));
        match self.tables.last_mut().filter(|_| in_table) {
            Some(_) if cells.iter().all(is_rule) => {}
            Some(table) => {
                table.rows.push((number, cells.clone()));
                let heads = table.heads.clone();
                for (cell, head) in cells.iter().zip(heads) {
                    self.read(
                        &[Line {
                            number,
                            text: cell.clone(),
                        }],
                        Some(&head),
                    );
                }
            }
            None => {
                for head in &cells {
                    self.read(
                        &[Line {
                            number,
                            text: head.clone(),
                        }],
                        None,
                    );
                }
                self.tables.push(Table {
                    section: section.to_owned(),
                    heads: cells,
                    rows: Vec::new(),
                });
            }
        }
    }

    fn end_of(&mut self, paragraph: &mut Vec<Line>) {
        let lines = std::mem::take(paragraph);
        self.read(&lines, None);
    }

    /// Finds spans, also those that a line break divides, and links.
    fn read(&mut self, lines: &[Line], column: Option<&str>) {
        let Some(first) = lines.first() else { return };
        let texts: Vec<&str> = lines.iter().map(|line| line.text.as_str()).collect();
        let whole = texts.join("\n");
        let line_at = |at: usize| first.number + whole[..at].matches('\n').count();
        let mut rest = 0;
        while let Some(begin) = whole[rest..].find('`').map(|at| rest + at) {
            self.find_links(&whole[rest..begin], line_at(rest));
            let ticks = whole[begin..].chars().take_while(|c| *c == '`').count();
            let fence = "`".repeat(ticks);
            let inner = begin + ticks;
            let Some(length) = whole[inner..].find(&fence) else {
                rest = whole.len();
                break;
            };
            let end = inner + length;
            self.spans.push(Span {
                line: line_at(begin),
                text: whole[inner..end].replace('\n', " ").trim().to_owned(),
                after: whole[end + ticks..].replace('\n', " "),
                column: column.map(str::to_owned),
            });
            rest = end + ticks;
        }
        self.find_links(&whole[rest..], line_at(rest));
    }

    fn find_links(&mut self, text: &str, number: usize) {
        for (at, _) in text.match_indices("](") {
            if let Some((target, _)) = text[at + 2..].split_once(')') {
                let number = number + text[..at].matches('\n').count();
                let text = target.to_owned();
                self.links.push(Line { number, text });
            }
        }
    }
}

fn numbered(text: &str) -> impl Iterator<Item = Line> {
    text.lines().enumerate().map(|(index, text)| Line {
        number: index + 1,
        text: text.to_owned(),
    })
}

/// Between the bars that stand in no code.
fn cells_of(row: &str) -> Vec<String> {
    let mut cells = vec![String::new()];
    let mut in_code = false;
    let inner = row.trim().trim_start_matches('|');
    for c in inner.strip_suffix('|').unwrap_or(inner).chars() {
        in_code ^= c == '`';
        match cells.last_mut() {
            Some(cell) if c != '|' || in_code => cell.push(c),
            _ => cells.push(String::new()),
        }
    }
    cells.iter().map(|cell| cell.trim().to_owned()).collect()
}

/// `## What answers where` is `#what-answers-where`.
fn anchor_of(heading: &str) -> String {
    let kept = heading.chars().filter_map(|c| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || matches!(c, '-' | '_') => Some(c),
        _ => None,
    });
    kept.flat_map(char::to_lowercase).collect()
}
