//! Detects a CONNECT that the client sent again before it had the answer to the first.
//!
//! The stock client sends a CONNECT for each `connect()` of a namespace on an open connection until the first is
//! answered. A Node.js server that is still processing the first admits the client for each, and the client uses the
//! last of these sockets; once the first is answered, another CONNECT closes the connection. Muster answers so fast
//! that it is never still processing the first. It therefore treats an identical CONNECT as sent before the answer for
//! as long as the answer may be in flight. Node.js keeps the earlier sockets, which receive every broadcast once more;
//! Muster ends them.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use shared::limits::CONNECT_AGAIN_MS;

/// The last CONNECT of a session, and when it arrived or was answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastConnect {
    /// A fingerprint; 0 before the first.
    print: u32,
    /// Milliseconds of the node's uptime; may have wrapped around.
    at_ms: u32,
}

impl LastConnect {
    pub(super) fn of(namespace: &str, auth: Option<&str>, at_ms: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        (namespace, auth).hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is a hash")]
        let half = hasher.finish() as u32;
        Self { print: half | 1, at_ms }
    }

    /// Records when it was answered.
    pub(super) fn answered(&mut self, at_ms: u32) {
        self.at_ms = at_ms;
    }

    /// Whether `next` is identical and was sent before the client can have read the answer.
    pub(super) fn is_sent_again(self, next: Self) -> bool {
        self.print == next.print && next.at_ms.wrapping_sub(self.at_ms) <= CONNECT_AGAIN_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_sent_again_only_soon() {
        let first = LastConnect::of("/relay", Some("{}"), u32::MAX - 1);
        let again = |at_ms| LastConnect::of("/relay", Some("{}"), at_ms);
        assert!(first.is_sent_again(again(u32::MAX - 1)) && first.is_sent_again(again(CONNECT_AGAIN_MS - 2)));
        assert!(!first.is_sent_again(again(CONNECT_AGAIN_MS - 1)));
        for other in [("/", Some("{}")), ("/relay", None), ("/relay", Some("{ }"))] {
            assert!(!first.is_sent_again(LastConnect::of(other.0, other.1, u32::MAX - 1)), "{other:?}");
        }
        assert!(!LastConnect::default().is_sent_again(LastConnect::of("/", None, 0)));
    }
}
