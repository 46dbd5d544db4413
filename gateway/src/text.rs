//! Texts: what people write, checked where it comes in; and JSON of our own.

use serde::Serialize;
use shared::blank::is_blank;

use crate::error::AppError;

/// JSON of one of our own types.
pub(crate) fn json(body: &impl Serialize) -> String {
    // Our types have string keys and no failing parts.
    serde_json::to_string(body).unwrap_or_default()
}

/// A text of 1 to `max` Unicode scalar values when trimmed. `what` begins the refusal.
///
/// # Errors
/// [`AppError::BadInput`].
pub(crate) fn checked(text: &str, what: &str, max: usize) -> Result<String, AppError> {
    let text = text.trim();
    if is_blank(text) {
        return Err(AppError::BadInput(format!("{what} cannot be empty").into()));
    }
    bounded(text, what, max)
}

/// A text of no more than `max` Unicode scalar values.
///
/// # Errors
/// [`AppError::BadInput`].
pub(crate) fn bounded(text: &str, what: &str, max: usize) -> Result<String, AppError> {
    if text.chars().count() > max {
        return Err(AppError::BadInput(format!("{what} too long (max {max} characters)").into()));
    }
    if text.contains('\0') {
        // PostgreSQL's texts cannot hold it.
        return Err(AppError::BadInput(format!("{what} contains a null character").into()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_trimmed_and_bounded() {
        assert_eq!(checked("  hi \n", "Message", 2).as_deref(), Ok("hi"));
        // Scalar values count, not bytes.
        assert!(checked(&"😀".repeat(9), "Message", 9).is_ok());
        let refused = |text: &str| checked(text, "Message", 9).unwrap_err().say().to_owned();
        assert_eq!(refused(&"x".repeat(10)), "Message too long (max 9 characters)");
        for blank in ["", " \t ", "\u{200b}", " \u{feff}\u{3164}\n"] {
            assert_eq!(refused(blank), "Message cannot be empty", "{blank:?}");
        }
        assert_eq!(
            checked("👩\u{200d}🚀", "Message", 9).as_deref(),
            Ok("👩\u{200d}🚀"),
            "it joins what can be seen"
        );
        assert_eq!(refused("a\0b"), "Message contains a null character");
        assert_eq!(bounded("", "Address", 1).as_deref(), Ok(""));
    }
}
