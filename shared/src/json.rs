//! What can be told of JSON without reading it into anything.

/// How many bytes are meant. In blocks whose count fits into a byte, so that the compiler makes it one of whole
/// registers: a count or a search byte by byte takes twenty times as many instructions.
pub(crate) fn count(text: &str, is_meant: impl Fn(u8) -> bool) -> usize {
    let of_block = |block: &[u8]| block.iter().map(|byte| u8::from(is_meant(*byte))).sum::<u8>();
    text.as_bytes().chunks(192).map(|block| usize::from(of_block(block))).sum()
}

/// Whether arrays and objects nest `max` deep at most. Right for JSON; for other text any answer will do,
/// since it is refused anyway.
#[must_use]
pub fn nests_at_most(json: &str, max: usize) -> bool {
    // Nearly every text is told to be shallow by a mere count.
    if count(json, |byte| matches!(byte, b'[' | b'{')) <= max {
        return true;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                if depth > max {
                    return false;
                }
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_counted_once() {
        for len in [0, 1, 191, 192, 193, 1000] {
            assert_eq!(count(&"x".repeat(len), |byte| byte == b'x'), len);
            assert_eq!(count(&"x".repeat(len), |byte| byte == b'y'), 0);
        }
    }

    #[test]
    fn only_brackets_outside_of_texts_nest() {
        assert!(nests_at_most("[[1],[2],{\"a\":[3]}]", 3));
        assert!(!nests_at_most("[[1],[2],{\"a\":[3]}]", 2));
        assert!(nests_at_most("[\"[[[\\\"[[[\"]", 1));
    }
}
