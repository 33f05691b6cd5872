//! The table for people.

use std::fmt;

use super::{Report, Row};

/// Characters of a column; the first two are aligned to the left, and so are the notes, which come last.
const WIDTHS: [usize; 8] = [10, 27, 9, 9, 9, 9, 11, 6];

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}\n", self.title(), self.manner())?;
        line(f, &Row::HEADS)?;
        self.rows.iter().try_for_each(|row| line(f, &row.cells()))
    }
}

fn line(f: &mut fmt::Formatter<'_>, cells: &[impl AsRef<str>]) -> fmt::Result {
    let mut text = String::new();
    for (number, cell) in cells.iter().enumerate() {
        let cell = cell.as_ref();
        text += &match (number, WIDTHS.get(number)) {
            (0 | 1, Some(width)) => format!("{cell:<width$} "),
            (_, Some(width)) => format!("{cell:>width$} "),
            (_, None) => format!(" {cell}"),
        };
    }
    write!(f, "\n{}", text.trim_end())
}
