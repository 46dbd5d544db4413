//! Validates text that people write, and serializes JSON.

use serde::Serialize;
use shared::blank::is_blank;

use crate::error::AppError;

/// Serializes one of Muster's types.
pub(crate) fn json(body: &impl Serialize) -> String {
    // These types have string keys and no field that can fail.
    serde_json::to_string(body).unwrap_or_default()
}

/// Trims a text as JavaScript's `trim` does, which treats a byte order mark as whitespace, but not U+0085.
pub(crate) fn trim(text: &str) -> &str {
    text.trim_matches(|c: char| c == '\u{feff}' || (c.is_whitespace() && c != '\u{85}'))
}

/// A text of 1 to `max` Unicode scalar values after trimming. The error sentence begins with `what`.
///
/// # Errors
/// [`AppError::BadInput`].
pub(crate) fn checked(text: &str, what: &str, max: usize) -> Result<String, AppError> {
    let text = trim(text);
    if is_blank(text) {
        return Err(AppError::BadInput(format!("{what} cannot be empty").into()));
    }
    bounded(text, what, max)
}

/// A text of at most `max` Unicode scalar values.
///
/// # Errors
/// [`AppError::BadInput`].
pub(crate) fn bounded(text: &str, what: &str, max: usize) -> Result<String, AppError> {
    if text.chars().count() > max {
        return Err(AppError::BadInput(format!("{what} too long (max {max} characters)").into()));
    }
    if text.contains('\0') {
        // PostgreSQL cannot store it.
        return Err(AppError::BadInput(format!("{what} contains a null character").into()));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_trimmed_as_in_javascript() {
        // Each code unit that `trim` removes in Node.js.
        let white = "\t\n\u{b}\u{c}\r \u{a0}\u{1680}\u{2000}\u{2001}\u{2002}\u{2003}\u{2004}\u{2005}\u{2006}\u{2007}\
            \u{2008}\u{2009}\u{200a}\u{2028}\u{2029}\u{202f}\u{205f}\u{3000}\u{feff}";
        assert_eq!(trim(&format!("{white}a{white}b{white}")), format!("a{white}b"));
        assert_eq!(trim(white), "");
        for kept in ["\u{85}", "\u{180e}", "\u{200b}", "\u{2060}", "\u{1c}", "\0"] {
            assert_eq!(trim(kept), kept);
        }
        assert_eq!(checked("\u{feff}hi\u{feff}", "Message", 2).as_deref(), Ok("hi"));
    }

    #[test]
    fn a_text_is_trimmed_and_bounded() {
        assert_eq!(checked("  hi \n", "Message", 2).as_deref(), Ok("hi"));
        // The limit counts scalar values, not bytes.
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
