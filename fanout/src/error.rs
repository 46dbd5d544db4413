//! Errors of this crate.

/// Why the fan-out could not carry out a call.
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
    /// The socket has left and can enter no room.
    #[error("socket is gone")]
    Gone,
    /// Redis is away, slow or refuses; the call may have taken effect all the same.
    #[error("Redis is not available")]
    Unavailable,
    /// The packet cannot be published through Redis: this node does not serve its namespace, or an attachment is not
    /// named exactly once.
    #[error("packet cannot be published")]
    BadPacket,
    /// The packet exceeds the size that nodes accept.
    #[error("packet is too large")]
    TooLarge,
    /// Too many questions to clients are open.
    #[error("too many open questions")]
    TooManyQuestions,
    /// No such namespace on this node.
    #[error("no such namespace")]
    UnknownNamespace,
}
