//! The table for documents.

use super::{Report, Row};

impl Report {
    /// The table in Markdown, as it stands in docs/performance.md.
    pub(in super::super) fn markdown(&self) -> String {
        let row = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
        let mut text = format!("{}; {}:\n\n", self.title(), self.manner());
        text += &row(&Row::HEADS.map(str::to_owned));
        text += "|---|---|--:|--:|--:|--:|--:|--:|---|\n";
        for found in &self.rows {
            let [transport, case, figures @ ..] = found.cells();
            let mut cells = vec![transport, format!("`{case}`")];
            cells.extend(figures);
            text += &row(&cells);
        }
        text.trim_end().to_owned()
    }
}
