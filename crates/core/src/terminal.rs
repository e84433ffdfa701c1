//! Text for a terminal: tables, and names from a provider in a form that a terminal does not act on.

use std::fmt::Write as _;

use comfy_table::Table;
use comfy_table::presets::NOTHING;

/// A table with a line of headings. Cells are made [`plain`]; empty ones are `-`, so that every line has every column.
pub fn table<const COLUMNS: usize>(
    headings: [&str; COLUMNS],
    rows: impl IntoIterator<Item = [String; COLUMNS]>,
) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).add_row(headings);
    for row in rows {
        table.add_row(row.map(|cell| cell_of(&cell)));
    }
    aligned(table)
}

/// Names and their values, side by side.
pub fn pairs(pairs: impl IntoIterator<Item = (&'static str, String)>) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING);
    for (name, value) in pairs {
        table.add_row([name, &cell_of(&value)]);
    }
    aligned(table)
}

fn cell_of(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        plain(text)
    }
}

fn aligned(mut table: Table) -> String {
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt()
}

/// The text with every character written out that moves a cursor or hides letters: `\u{1b}`.
pub fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unseen(c) {
            plain.extend(c.escape_unicode());
        } else {
            plain.push(c);
        }
    }
    plain
}

/// The same for a JSON document. JSON itself escapes only the first 32 of these characters, and they stand only in strings.
pub fn plain_json(document: &str) -> String {
    let mut plain = String::with_capacity(document.len());
    for c in document.chars() {
        if c != '\n' && is_unseen(c) {
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                // Writing to a String can't fail.
                let _ = write!(plain, "\\u{unit:04x}");
            }
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Control characters, and those that turn the direction of writing or have no width.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{feff}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_below_their_headings_whatever_the_letters() {
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
    fn pairs_are_aligned_and_never_cut() {
        let long = "x".repeat(299);
        assert_eq!(
            pairs([("id", "7".to_owned()), ("scope", long.clone())]),
            format!("id     7\nscope  {long}")
        );
    }

    #[test]
    fn names_cannot_move_the_cursor_or_hide() {
        let name = "Acme\u{1b}[2J\r\n\u{9b}31m\u{202e}moc\u{200b}\u{7f} \u{e5}\u{1f980}";
        let plain =
            "Acme\\u{1b}[2J\\u{d}\\u{a}\\u{9b}31m\\u{202e}moc\\u{200b}\\u{7f} \u{e5}\u{1f980}";

        assert_eq!(super::plain(name), plain);
        assert_eq!(table([], []), "");
        assert_eq!(pairs([("name", name.to_owned())]), format!("name  {plain}"));
    }

    #[test]
    fn json_for_a_terminal_is_the_same_json() {
        let name = "Acme\u{1b}\u{9b}31m\u{202e}\u{7f} \"\u{e5}\u{1f980}\"\n";
        let document = serde_json::to_string_pretty(&[name, "b"]).unwrap();

        let plain = plain_json(&document);

        assert!(!plain.chars().any(|c| c != '\n' && is_unseen(c)), "{plain}");
        let read: Vec<String> = serde_json::from_str(&plain).unwrap();
        assert_eq!(read, [name, "b"]);
    }
}
