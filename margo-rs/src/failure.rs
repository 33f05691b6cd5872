//! What the main function of a program returns.

use std::error::Error;
use std::fmt::{self, Write};

/// Characters shown of a failure.
const SHOWN_MAX: usize = 1000;

/// Why a program failed: any error or message, for people to read as one line.
///
/// A main function that returns an error prints its `Debug` form, which of most errors is their fields. That of this type is
/// the message:
///
/// ```
/// use margo_rs::{Engine, Failure};
///
/// # #[tokio::main]
/// async fn main() -> Result<(), Failure> {
///     let engine = Engine::connect("tcp")?;
/// #   let unused = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
/// #   let address = &format!("tcp://{unused}");
/// #   let outcome = async {
///     let server = engine.lookup(address).await?;
/// #   drop(server); Ok::<(), Failure>(()) }.await;
/// #   let shown = format!("Error: {:?}", outcome.unwrap_err());
/// #   assert!(shown.starts_with("Error: cannot reach native+tcp://127.0.0.1:"), "{shown}");
///     Ok(())
/// }
/// ```
///
/// The program prints `Error: cannot reach native+tcp://…: Connection refused (os error 111); no server listens
/// there now` and exits with status 1.
///
/// Causes follow the message, unless it names them already. It is cut after 1000 characters and shown without control
/// characters, because a peer may have written parts of it. Made from any error or message by `?` or `into()`; for that it
/// does not implement [`std::error::Error`] itself, like [`HandlerError`](crate::HandlerError).
pub struct Failure(Box<dyn Error + Send + Sync>);

impl<E: Into<Box<dyn Error + Send + Sync>>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.0.to_string();
        let mut cause = self.0.source();
        while let Some(error) = cause {
            let words = error.to_string();
            if !text.contains(&words) {
                write!(text, ": {words}")?;
            }
            cause = error.source();
        }
        let shown = text.chars().take(SHOWN_MAX).map(|c| if c.is_control() { ' ' } else { c });
        shown.into_iter().try_for_each(|c| f.write_char(c))
    }
}

/// As displayed: the form that a main function's error is printed in.
impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{words}")]
    struct Layer {
        words: &'static str,
        source: Option<Box<Layer>>,
    }

    fn layers(words: &[&'static str]) -> Option<Box<Layer>> {
        let (words, rest) = words.split_first()?;
        Some(Box::new(Layer { words, source: layers(rest) }))
    }

    fn shown(words: &[&'static str]) -> String {
        let failure = Failure::from(*layers(words).expect("at least one"));
        assert_eq!(format!("{failure:?}"), failure.to_string());
        failure.to_string()
    }

    #[test]
    fn a_cause_is_said_once() {
        assert_eq!(shown(&["cannot call"]), "cannot call");
        assert_eq!(shown(&["cannot call", "no route", "link down"]), "cannot call: no route: link down");
        assert_eq!(shown(&["cannot call: no route", "no route", "link down"]), "cannot call: no route: link down");
    }

    #[test]
    fn words_of_a_peer_are_one_line_without_control_characters_and_have_an_end() {
        assert_eq!(shown(&["handler failed: a\nb\u{1b}[31m\r"]), "handler failed: a b [31m ");
        let long: Failure = "é".repeat(5000).into();
        assert_eq!(long.to_string(), "é".repeat(SHOWN_MAX));
    }

    #[test]
    fn messages_are_shown_without_quotes() {
        let missing: Result<(), Failure> = None.ok_or("which server?").map_err(Failure::from);
        assert_eq!(format!("{:?}", missing.unwrap_err()), "which server?");
    }
}
