//! Text that a peer wrote, made safe to print.

use std::fmt;

/// Displays text in quotes, escaped and cut off after [`Quoted::MAX`] characters, so that no peer can fill a terminal
/// or a log, or write control characters and lines of its own into it.
pub struct Quoted<'a>(pub &'a str);

impl Quoted<'_> {
    /// Characters that are shown at most.
    pub const MAX: usize = 64;
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(Self::MAX) {
            None => write!(f, "{:?}", self.0),
            Some((end, _)) => write!(f, "{:?}...", &self.0[..end]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Quoted;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(Quoted("a\n\u{1b}[31mb\"").to_string(), r#""a\n\u{1b}[31mb\"""#);
    }

    #[test]
    fn long_text_is_cut_at_a_character() {
        let text = "é".repeat(65);
        assert_eq!(Quoted(&text).to_string(), format!("\"{}\"...", "é".repeat(64)));
        assert_eq!(Quoted(&text[..128]).to_string(), format!("\"{}\"", "é".repeat(64)));
    }
}
