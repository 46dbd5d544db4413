//! Why a session ended, and what its client observes (protocol, 2.3).

use bytes::Bytes;
use shared::ws::{self, CloseCode, Fault};

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed: `1`, or a WebSocket close frame.
    Client,
    /// The connection ended.
    TransportClose,
    /// The connection failed, or a polling request broke the rules.
    TransportError,
    /// No pong in time.
    PingTimeout,
    /// A packet that cannot be parsed.
    ParseError,
    /// A WebSocket fault; the close frame carries its code.
    Fault(Fault),
    /// A packet out of place.
    Forced,
    /// The node is draining.
    Shutdown,
    /// The send queue exceeded its bounds, or the client read nothing for too long.
    SlowConsumer,
    /// Far more than the limits allow.
    RateLimited,
    /// More bytes than one message may have.
    TooBig,
    /// The client joined no namespace in time.
    ConnectTimeout,
    /// The client had joined no namespace, and another client needed the slot or the memory.
    Evicted,
    /// The token of its only namespace has expired; a stock client reconnects with the token that its `auth` then
    /// returns.
    TokenExpired,
    /// The node could not fetch the key set, so it could not verify the token; the client should reconnect.
    NoKeySet,
    /// Its unfinished message was the largest when the node's budget for them was used up.
    Overloaded,
}

impl CloseReason {
    /// One of each, for metrics.
    pub(crate) const ALL: [Self; 16] = [
        Self::Client,
        Self::TransportClose,
        Self::TransportError,
        Self::PingTimeout,
        Self::ParseError,
        Self::Fault(Fault::Protocol),
        Self::Forced,
        Self::Shutdown,
        Self::SlowConsumer,
        Self::RateLimited,
        Self::TooBig,
        Self::ConnectTimeout,
        Self::Evicted,
        Self::TokenExpired,
        Self::NoKeySet,
        Self::Overloaded,
    ];

    /// The word in metrics and logs; all faults share one.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::TransportClose => "transport_close",
            Self::TransportError => "transport_error",
            Self::PingTimeout => "ping_timeout",
            Self::ParseError => "parse_error",
            Self::Fault(_) => "websocket_fault",
            Self::Forced => "forced_close",
            Self::Shutdown => "server_shutdown",
            Self::SlowConsumer => "slow_consumer",
            Self::RateLimited => "rate_limited",
            Self::TooBig => "too_big",
            Self::ConnectTimeout => "connect_timeout",
            Self::Evicted => "evicted",
            Self::TokenExpired => "token_expired",
            Self::NoKeySet => "no_key_set",
            Self::Overloaded => "overloaded",
        }
    }

    /// Whether the client behaved well and should reconnect by itself. Its WebSocket then ends with the TCP connection,
    /// without a close frame. OkHttp, the client of Java and Android, stops reading at a close frame and notices the
    /// end only after a heartbeat; the C++ client takes a close frame without a code as a request to stay away.
    pub(crate) fn comes_back(self) -> bool {
        matches!(
            self,
            Self::Shutdown
                | Self::PingTimeout
                | Self::SlowConsumer
                | Self::TokenExpired
                | Self::NoKeySet
                | Self::Evicted
                | Self::Overloaded
        )
    }

    /// The last frame of a WebSocket whose client should not reconnect; a frame without a code is an orderly close by
    /// the engine.
    pub(crate) fn close_frame(self) -> Option<Bytes> {
        if self.comes_back() {
            return None;
        }
        let code = match self {
            Self::Fault(fault) => Some(fault.code()),
            Self::RateLimited => Some(CloseCode::Policy),
            Self::TooBig => Some(CloseCode::Size),
            _ => None,
        };
        let mut frame = Vec::new();
        ws::push_close(&mut frame, code);
        Some(frame.into())
    }

    /// Whether the client may still read queued packets.
    pub(crate) fn is_orderly(self) -> bool {
        !matches!(
            self,
            Self::TransportClose
                | Self::TransportError
                | Self::SlowConsumer
                | Self::Evicted
                | Self::Overloaded
        )
    }

    /// Whether a polling session keeps its queued packets for one more GET, which reports the end. Not if the client
    /// left, sent an unreadable packet, was silent for too long, or lost packets.
    pub(crate) fn lingers(self) -> bool {
        self.is_orderly() && !matches!(self, Self::Client | Self::ParseError | Self::PingTimeout)
    }

    /// The reason without its details, for counting.
    pub(crate) fn plain(self) -> Self {
        match self {
            Self::Fault(_) => Self::Fault(Fault::Protocol),
            other => other,
        }
    }
}
