//! Measured figures: a row of `docs/measured`, as it was printed; or over several rows that begin alike the least and the most
//! of each column.

use super::facts::Facts;

/// What is wrong with a row under "Measured".
pub(crate) fn not_measured(heads: &[String], cells: &[String], facts: &Facts) -> Option<String> {
    let tables = facts.measured.iter().filter(|table| table.heads == heads);
    let rows: Vec<&Vec<String>> = tables
        .flat_map(|table| &table.rows)
        .map(|(_, row)| row)
        .collect();
    if rows.is_empty() {
        return Some(format!(
            "docs/measured has no table of `{}`",
            heads.join("`, `")
        ));
    }
    if rows.iter().any(|row| *row == cells) {
        return None;
    }
    let alike: Vec<_> = rows
        .into_iter()
        .filter(|row| row.first() == cells.first())
        .collect();
    let differs = |(column, cell): &(usize, &String)| {
        let measured: Option<Vec<&String>> = alike.iter().map(|row| row.get(*column)).collect();
        measured.and_then(|measured| range_of(&measured)).as_ref() != Some(cell)
    };
    let wrong = cells.iter().enumerate().skip(1).find(differs);
    wrong.map(|(_, cell)| format!("`{cell}` was not measured so"))
}

/// `1 219–1 249`, or the one figure that all of them have.
fn range_of(cells: &[&String]) -> Option<String> {
    let number = |cell: &&&String| cell.replace(' ', "").parse::<u64>().ok();
    let (least, most) = (
        cells.iter().min_by_key(number)?,
        cells.iter().max_by_key(number)?,
    );
    if !cells.iter().all(|cell| number(&cell).is_some()) {
        return None;
    }
    Some(if least == most {
        (*least).clone()
    } else {
        format!("{least}–{most}")
    })
}
