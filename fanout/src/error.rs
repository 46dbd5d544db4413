//! What can go wrong for a caller of this crate.

/// Why the fan-out did not do what was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FanoutError {
    /// The socket is in as many rooms as it may be.
    #[error("socket is in too many rooms")]
    TooManyRooms,
    /// The user's sockets together watch as many rooms as they may.
    #[error("user watches too many rooms")]
    TooManyWatched,
    /// The user has as many sockets as they may have.
    #[error("user has too many sockets")]
    TooManySockets,
    /// The socket has left; nothing can be entered any more.
    #[error("socket is gone")]
    Gone,
    /// Redis is away, slow or will not: what was asked may have been done all the same.
    #[error("Redis is not available")]
    Unavailable,
    /// The packet is none that may cross Redis: it has no namespace of this node, or its attachments are not each named
    /// once.
    #[error("packet cannot be published")]
    BadPacket,
    /// The packet is larger than any node would take.
    #[error("packet is too large")]
    TooLarge,
    /// Too many questions to clients are open.
    #[error("too many open questions")]
    TooManyQuestions,
    /// No such namespace on this node.
    #[error("no such namespace")]
    UnknownNamespace,
}
