//! A CONNECT that was sent again before its answer was there.
//!
//! The stock client sends one for each `connect()` of a namespace on an open connection, as long as the first is not answered.
//! A Node.js server that is still busy with the first lets the client in for each, and the last of them is the socket that
//! the client goes on with; when the first is answered, one more closes the connection. A node answers so soon that it could
//! never be busy, so it takes the same CONNECT for one that was sent before the answer for as long as that may be on its way.
//! Where Node.js keeps the sockets before the last, which get every broadcast once more, the node lets them go.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use shared::limits::CONNECT_AGAIN_MS;

/// The last CONNECT of a session, and when it came or was answered.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LastConnect {
    /// What tells it from others; 0 before the first.
    print: u32,
    /// Milliseconds of the node's uptime; they may have wrapped around.
    at_ms: u32,
}

impl LastConnect {
    pub(super) fn of(namespace: &str, auth: Option<&str>, at_ms: u32) -> Self {
        let mut hasher = DefaultHasher::new();
        (namespace, auth).hash(&mut hasher);
        #[expect(clippy::cast_possible_truncation, reason = "half of a hash is one")]
        let half = hasher.finish() as u32;
        Self { print: half | 1, at_ms }
    }

    /// It is answered so late.
    pub(super) fn answered(&mut self, at_ms: u32) {
        self.at_ms = at_ms;
    }

    /// Whether `next` says the same, and was sent before the answer to this one can have been read.
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
