//! What can be told of JSON without reading it into anything.

/// Whether arrays and objects nest `max` deep at most. Right for JSON; for other text any answer will do,
/// since it is refused anyway.
#[must_use]
pub fn nests_at_most(json: &str, max: usize) -> bool {
    // Nearly every text is told to be shallow by a count that the compiler vectorises.
    let opened = json.bytes().filter(|b| matches!(b, b'[' | b'{')).count();
    if opened <= max {
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
    fn only_brackets_outside_of_texts_nest() {
        assert!(nests_at_most("[[1],[2],{\"a\":[3]}]", 3));
        assert!(!nests_at_most("[[1],[2],{\"a\":[3]}]", 2));
        assert!(nests_at_most("[\"[[[\\\"[[[\"]", 1));
    }
}
