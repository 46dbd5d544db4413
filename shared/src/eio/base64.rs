//! Decodes base64 as Node.js' `Buffer` does, because existing clients rely on it.
//!
//! Android's and Java's encoders break it into lines of 76 characters and end it with a line break; others omit the padding or
//! use the URL alphabet. `Buffer` accepts all of these and has no errors: it skips characters outside both alphabets, and the
//! first `=` ends the text.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The usual spellings, which the crate reads faster than [`decode_any`].
const USUAL: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// The bytes that `text` encodes.
pub(super) fn decode(text: &str) -> Vec<u8> {
    USUAL.decode(text).unwrap_or_else(|_| decode_any(text))
}

/// Node.js reads UTF-16 units, and only the lower byte of each.
fn decode_any(text: &str) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0_u32, 0_u32);
    for unit in text.encode_utf16() {
        let [_, byte] = unit.to_be_bytes();
        if byte == b'=' {
            break;
        }
        let Some(value) = value(byte) else { continue };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            let [.., low] = (bits >> count).to_be_bytes();
            decoded.push(low);
        }
    }
    decoded
}

/// The value of a character of either alphabet.
fn value(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each text was given to `Buffer.from(text, 'base64')`.
    #[test]
    fn it_is_read_as_a_node_js_buffer_reads_it() {
        let table: &[(&str, &[u8])] = &[
            ("AQIDBA==", &[1, 2, 3, 4]),
            ("AQ==\n", &[1]),
            ("AQ", &[1]),
            ("A Q = =", &[1]),
            ("AQID\r\nBAUG\n", &[1, 2, 3, 4, 5, 6]),
            ("AQ==AQ==", &[1]),
            ("QUJD=QUJD", b"ABC"),
            ("QU=JD", b"A"),
            ("A=Q", &[]),
            ("=QUJD", &[]),
            ("QUI=\nQUJD", b"AB"),
            ("AR==", &[1]),
            ("A", &[]),
            ("", &[]),
            ("====", &[]),
            ("!!!!", &[]),
            ("AAAAA", &[0, 0, 0]),
            ("QUJDR=", b"ABC"),
            ("_-8", &[0xff, 0xef]),
            ("/+8=", &[0xff, 0xef]),
            ("_+8=", &[0xff, 0xef]),
            ("Q\0U\0JD", b"ABC"),
            ("\u{feff}AQID", &[1, 2, 3]),
            ("\u{e9}AQID", &[1, 2, 3]),
            ("AQ\u{141}ID", &[1, 0, 8]),
            ("AQ\u{1f600}ID", &[1]),
        ];
        for (text, bytes) in table {
            assert_eq!(decode(text), *bytes, "{text:?}");
        }
    }
}
