//! Names that cross the edge of the system, checked once when they enter it.
//!
//! The contract: names and ids are opaque, 1–128 characters of `A–Z a–z 0–9 . _ : -`. A value of one of
//! these types has passed that check, so nothing behind the edge checks again.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::limits::NAME_MAX;

/// A text that is not a name: empty, too long, or with other characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {NAME_MAX} characters of A-Z a-z 0-9 . _ : -")]
pub struct BadName;

/// Whether `text` is a name by the contract's rule.
#[must_use]
pub fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-'))
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks `text` by the contract's rule for names.
            ///
            /// # Errors
            /// [`BadName`] when it is not a name.
            pub fn parse(text: &str) -> Result<Self, BadName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(BadName) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name! {
    /// A room of a namespace, as it is called in the cluster.
    Room
}
name! {
    /// A user, across sockets, nodes and namespaces.
    UserId
}

/// How the room of all sockets of a user begins. Nobody enters such a room; every socket is in its user's.
pub const USER_ROOM_PREFIX: &str = "user:";

impl Room {
    /// The room of all sockets of a user.
    #[must_use]
    pub fn of_user(user: &UserId) -> Self {
        Self::prefixed(USER_ROOM_PREFIX, user.as_str())
    }

    /// A room as the cluster calls it, which a client may not have been able to write: an app's prefix may
    /// make it longer than a name.
    #[must_use]
    pub fn of_cluster(text: &str) -> Option<Self> {
        let name = match text.split_once(':') {
            Some((_, rest)) if text.len() > NAME_MAX => rest,
            _ => text,
        };
        let checked = is_name(name)
            && text.len() <= 2 * NAME_MAX
            && text.split(':').all(|part| part.is_empty() || is_name(part));
        checked.then(|| Self(text.into()))
    }

    /// A room of an app: `prefix` (with its colon) and a checked `name`. Longer than [`NAME_MAX`] by the
    /// prefix at most, which no client can write.
    #[must_use]
    pub fn prefixed(prefix: &str, name: &str) -> Self {
        let mut text = String::with_capacity(prefix.len() + name.len());
        text.push_str(prefix);
        text.push_str(name);
        Self(text.into())
    }
}

/// A Socket.IO namespace, with its leading slash.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Checks a namespace: `/`, or `/` and path segments of a name's characters.
    ///
    /// # Errors
    /// [`BadName`] when it does not start with a slash, is too long or has other characters.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        let Some(path) = text.strip_prefix('/') else { return Err(BadName) };
        let ok = path.is_empty() || path.split('/').all(is_name);
        if ok && text.len() <= NAME_MAX { Ok(Self(text.into())) } else { Err(BadName) }
    }

    /// The namespace as text, with its slash.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for Namespace {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_1_to_128_plain_characters() {
        for good in ["a", "asteroid-2465633", "user:U_1.x", &"x".repeat(NAME_MAX)] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "a b", "a}{b", "*", "a\r\nb", "a\0", "é", &"x".repeat(NAME_MAX + 1)] {
            assert!(!is_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_namespace_starts_with_a_slash() {
        for good in ["/", "/relay", "/a/b-c"] {
            assert!(Namespace::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "relay", "//", "/a/", "/../admin?", "/a b"] {
            assert!(Namespace::parse(bad).is_err(), "{bad}");
        }
    }
}
