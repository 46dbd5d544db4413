//! Detects texts without visible characters.

use icu_properties::props::{DefaultIgnorableCodePoint, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Whether a text has no visible characters: it is empty, or contains only whitespace, control characters and
/// Unicode's format or default-ignorable characters, such as U+200B, a byte order mark or a Hangul filler.
///
/// Inside other text many of these have a meaning (they join emoji, or change the direction of writing), so a text
/// with visible characters keeps all of them.
#[must_use]
pub fn is_blank(text: &str) -> bool {
    text.chars().all(is_invisible)
}

fn is_invisible(c: char) -> bool {
    if c.is_ascii() {
        return !c.is_ascii_graphic();
    }
    c.is_whitespace()
        || c.is_control()
        || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
        || CodePointMapData::<GeneralCategory>::new().get(c) == GeneralCategory::Format
        // A braille cell without dots is a symbol in Unicode, but looks like a space.
        || c == '\u{2800}'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_without_visible_characters_are_blank() {
        let invisible = "\t\r\n \0\u{7f}\u{85}\u{a0}\u{ad}\u{34f}\u{61c}\u{115f}\u{1160}\u{1680}\u{17b4}\u{180e}\u{200b}\u{200d}\
            \u{200e}\u{2028}\u{202e}\u{2060}\u{2064}\u{2066}\u{206f}\u{2800}\u{3000}\u{3164}\u{fe0f}\u{feff}\u{ffa0}\u{fff9}\u{1d173}\
            \u{e0001}\u{e0020}\u{e0100}";
        for c in invisible.chars() {
            assert!(is_blank(&c.to_string()), "{c:?}");
        }
        assert!(is_blank("") && is_blank(invisible));
    }

    #[test]
    fn texts_with_visible_characters_are_not_blank() {
        for seen in [
            "a",
            ".",
            "\u{200b}a",
            "é",
            "👩\u{200d}🚀",
            "❤\u{fe0f}",
            "\u{301}",
            "ー",
            "\u{e000}",
            "1\u{20e3}",
        ] {
            assert!(!is_blank(seen), "{seen:?}");
        }
    }
}
