//! Formats Markdown: paragraphs of a bounded width, and values with units.

/// Maximum characters of a line of prose.
const WIDTH: usize = 112;

/// Formats `text` as one paragraph, wrapped between words.
pub(super) fn paragraph(text: &str) -> String {
    let mut out = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let size = word.chars().count();
        if length > 0 && length + 1 + size > WIDTH {
            out.push('\n');
            length = 0;
        } else if length > 0 {
            out.push(' ');
            length += 1;
        }
        out.push_str(word);
        length += size;
    }
    out.push('\n');
    out
}

/// Formats a number with a comma between thousands.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Formats a number of bytes, in KiB or MiB if that is exact.
pub(super) fn bytes(number: u64) -> String {
    match number {
        0 => "0 bytes".to_owned(),
        _ if number.is_multiple_of(1 << 20) => format!("{} MiB", grouped(number >> 20)),
        _ if number.is_multiple_of(1 << 10) => format!("{} KiB", grouped(number >> 10)),
        _ => format!("{} bytes", grouped(number)),
    }
}

/// Formats a duration in the largest exact unit.
pub(super) fn time(milliseconds: u64) -> String {
    let units = [(86_400_000, "days"), (3_600_000, "h"), (60_000, "min"), (1_000, "s")];
    let unit = units.iter().find(|(size, _)| milliseconds >= *size && milliseconds.is_multiple_of(*size));
    match unit {
        Some((86_400_000, _)) if milliseconds == 86_400_000 => "1 day".to_owned(),
        Some((size, unit)) => format!("{} {unit}", grouped(milliseconds / size)),
        None => format!("{} ms", grouped(milliseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_the_largest_exact_unit() {
        assert_eq!(grouped(9_007_199_254_740_991), "9,007,199,254,740,991");
        assert_eq!([bytes(16 << 20), bytes(8 << 10), bytes(1_536)], ["16 MiB", "8 KiB", "1,536 bytes"]);
        assert_eq!([time(250), time(10_000), time(90_000)], ["250 ms", "10 s", "90 s"]);
        assert_eq!([time(86_400_000), time(7 * 86_400_000), time(3_600_000)], ["1 day", "7 days", "1 h"]);
    }

    #[test]
    fn a_paragraph_keeps_its_words() {
        let text = "word ".repeat(60);
        let made = paragraph(&text);
        assert!(made.lines().all(|line| line.len() <= WIDTH));
        assert_eq!(made.split_whitespace().count(), 60);
    }
}
