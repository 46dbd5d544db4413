//! What can go wrong for a caller of this crate.

/// Why the fan-out did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FanoutError {
    /// The socket is in as many rooms as it may be.
    #[error("socket is in too many rooms")]
    TooManyRooms,
    /// The user has as many sockets as they may have.
    #[error("user has too many sockets")]
    TooManySockets,
    /// The socket has left; nothing can be entered any more.
    #[error("socket is gone")]
    Gone,
    /// No such namespace on this node.
    #[error("no such namespace")]
    UnknownNamespace,
}
