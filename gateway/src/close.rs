//! Why a session ended, and what its client sees of it (protocol, 2.3).

use bytes::Bytes;
use shared::ws::{self, CloseCode, Fault};

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CloseReason {
    /// The client closed: `1`, or a WebSocket close frame.
    Client,
    /// The connection ended.
    TransportClose,
    /// The connection broke, or a polling rule was broken.
    TransportError,
    /// No pong in time.
    PingTimeout,
    /// A packet that cannot be read.
    ParseError,
    /// A WebSocket fault; its code is told.
    Fault(Fault),
    /// A packet out of place.
    Forced,
    /// The node drains.
    Shutdown,
    /// The send queue passed its bounds, or the client took nothing for too long.
    SlowConsumer,
    /// Far more than the limits allow.
    RateLimited,
    /// More bytes than one message may have.
    TooBig,
    /// No namespace was joined in time.
    ConnectTimeout,
    /// No namespace was joined yet, and others needed the place or the memory.
    Evicted,
    /// The token of its only namespace has expired; a stock client comes back with what its `auth` gives then.
    TokenExpired,
    /// The key set could not be fetched, so nobody could tell whether its token is good; it is to come back.
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

    /// The word in metrics and logs; all faults are one.
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

    /// Whether it was a good client, who is to come back by itself. Its WebSocket ends by the end of the TCP connection, without a
    /// close frame: OkHttp, which Java and Android use, stops reading at one and does not notice the end for as long as a
    /// heartbeat takes, and the C++ client takes one without a code for a wish that it stays away.
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

    /// The last frame of a WebSocket, if it is not to come back; one without a code is an orderly close of the engine.
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

    /// Whether the client may still read what waits for it.
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

    /// Whether a polling client is kept what waits for it until its next GET, and told. Not one that has
    /// left, that cannot be understood, that was not heard of for so long, or whose packets are gone.
    pub(crate) fn lingers(self) -> bool {
        self.is_orderly() && !matches!(self, Self::Client | Self::ParseError | Self::PingTimeout)
    }

    /// For counting: the reason without its particulars.
    pub(crate) fn plain(self) -> Self {
        match self {
            Self::Fault(_) => Self::Fault(Fault::Protocol),
            other => other,
        }
    }
}
