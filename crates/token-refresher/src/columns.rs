//! Text in columns, for a terminal.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Wider ones end in `…`; the first column is never cut: it is there to be copied.
const WIDEST: usize = 32;

const GAP: &str = "  ";

/// A table of cells that are fit for a terminal; what is empty is `-`, so that every line has every column.
pub(crate) fn table<const COLUMNS: usize>(
    heads: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut lines = vec![heads.map(str::to_owned)];
    lines.extend(rows.into_iter().map(|row| {
        let mut column = 0;
        row.map(|cell| {
            column += 1;
            match (cell.is_empty(), column) {
                (true, _) => "-".to_owned(),
                (false, 1) => cell,
                (false, _) => cut(cell),
            }
        })
    }));
    aligned(&lines)
}

/// Names and what stands for them, side by side.
pub(crate) fn pairs(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let lines: Vec<_> = pairs
        .into_iter()
        .map(|(name, value)| {
            let value = if value.is_empty() {
                "-".to_owned()
            } else {
                value
            };
            [name.to_owned(), value]
        })
        .collect();
    aligned(&lines)
}

/// Each column as wide as its widest cell.
pub(crate) fn aligned<const COLUMNS: usize>(lines: &[[String; COLUMNS]]) -> String {
    let mut widths = [0; COLUMNS];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.width());
        }
    }
    let line = |cells: &[String; COLUMNS]| {
        let padded: Vec<String> = cells
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell}{}", " ".repeat(width - cell.width())))
            .collect();
        padded.join(GAP).trim_end().to_owned()
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn cut(cell: String) -> String {
    if cell.width() <= WIDEST {
        return cell;
    }
    let mut room = WIDEST - 1;
    let fits = |c: &char| match room.checked_sub(c.width().unwrap_or(0)) {
        Some(left) => {
            room = left;
            true
        }
        None => false,
    };
    let mut cut: String = cell.chars().take_while(fits).collect();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_heads_whatever_the_letters() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned);

        let table = table(
            ["ID", "COMPANY", "STATE"],
            [
                row(["1", "株式会社", "active"]),
                row(["22", "", "revoked"]),
                row(["3", "Åcme \u{1f980}", ""]),
            ],
        );

        assert_eq!(
            table,
            "ID  COMPANY   STATE\n\
             1   株式会社  active\n\
             22  -         revoked\n\
             3   Åcme \u{1f980}   -"
        );
    }

    #[test]
    fn wide_cells_are_cut_but_for_the_first_column() {
        let long = "x".repeat(40);

        let table = table(["ID", "NAME"], [[long.clone(), "株".repeat(20)]]);

        let line = table.lines().nth(1).unwrap();
        assert_eq!(line, format!("{long}  {}…", "株".repeat(15)));
    }

    #[test]
    fn pairs_are_aligned_and_never_cut() {
        let long = "x".repeat(99);
        assert_eq!(
            pairs([("id", "7".to_owned()), ("scope", long.clone())]),
            format!("id     7\nscope  {long}")
        );
    }
}
