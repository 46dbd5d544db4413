//! The page of close codes: how a session ends, and what the engine refuses.

use std::fmt::Write as _;

use shared::ws::Fault;

use super::text::paragraph;
use crate::close::CloseReason;
use crate::metrics::REFUSALS;

const INTRO: &str = "\
Why a connection ends, and what its client sees. The first word of each heading is the label `reason` of
`muster_sessions_closed_total` and the field `reason` of the log.

**A connection whose client should come back ends without a close frame.** On WebSocket the TCP connection just ends:
OkHttp (Java, Android) stops reading at a close frame and notices the end 45 s later, and the C++ client takes an empty
close frame as a wish that it stays away. The stock client reports `transport close`, and reconnects. A client that
broke a rule gets a close frame with a code.

**Long-polling.** A GET is answered with what is queued. The GET that finds nothing queued gets `1`, the separator
0x1e and `-`: the stock client reads the `1` and reconnects, and python-socketio takes the unreadable rest as a lost
connection and reconnects too.

## Ends of a session
";

const REFUSED: &str = "
## Refusals of `/socket.io/`

A request that the engine refuses is answered with `{\"code\":n,\"message\":\"…\"}`. The word in the heading
is the label `reason` of `muster_handshakes_refused_total`.
";

/// The body of the page.
pub(super) fn body() -> String {
    let mut out = INTRO.to_owned();
    for reason in CloseReason::ALL {
        let seen = if reason.comes_back() {
            "The TCP connection ends without a close frame; the client reconnects.".to_owned()
        } else {
            match code(reason) {
                Some(codes) => format!("Close frame with code {codes}."),
                None => "Close frame without a code.".to_owned(),
            }
        };
        // Writing to a String does not fail.
        let _ = write!(
            out,
            "\n### `{}`\n\n{}\n{}",
            reason.as_str(),
            paragraph(meaning(reason)),
            paragraph(&seen)
        );
    }
    out.push_str(REFUSED);
    for refusal in REFUSALS {
        let (status, code) = (refusal.status(), refusal.code());
        let text = format!("Status {status}, code {code}: `{}`.", refusal.message());
        let _ = write!(out, "\n### `{}`\n\n{}", refusal.kind(), paragraph(&text));
    }
    out
}

/// The codes of the close frame. The faults of WebSocket have several.
fn code(reason: CloseReason) -> Option<String> {
    if matches!(reason, CloseReason::Fault(_)) {
        let faults = [Fault::Protocol, Fault::NotUtf8, Fault::TooManyFragments, Fault::TooBig];
        let codes = faults.map(|fault| format!("{} ({fault})", u16::from(fault.code())));
        return Some(codes.join(", "));
    }
    // Two bytes of frame header, then the code, if any.
    let frame = reason.close_frame()?;
    let code = frame.get(2..4).and_then(|bytes| <[u8; 2]>::try_from(bytes).ok());
    code.map(|bytes| u16::from_be_bytes(bytes).to_string())
}

fn meaning(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Client => "The client closed the connection.",
        CloseReason::TransportClose => {
            "The connection ended without a close: the network, a proxy, or a killed app."
        }
        CloseReason::TransportError => "The connection broke, or a request broke a rule of long-polling.",
        CloseReason::PingTimeout => "The client sent no pong within `PING_TIMEOUT`.",
        CloseReason::ParseError => "The client sent a packet that cannot be parsed.",
        CloseReason::Fault(_) => "The client broke a rule of the WebSocket protocol (RFC 6455).",
        CloseReason::Forced => {
            "The client sent a packet where it is not allowed, such as an event before CONNECT."
        }
        CloseReason::Shutdown => "The node is draining.",
        CloseReason::SlowConsumer => {
            "The client did not read what was sent to it: its send queue passed `OUTBOX_BYTES` or `OUTBOX_PACKETS`, \
             or it took nothing for 10 s."
        }
        CloseReason::RateLimited => "The client went on sending far beyond a rate limit.",
        CloseReason::TooBig => "The client sent a message larger than `MAX_PAYLOAD`.",
        CloseReason::ConnectTimeout => "The client joined no namespace within `CONNECT_TIMEOUT`.",
        CloseReason::Evicted => {
            "The client had joined no namespace yet, and the node needed its place or its memory for others \
             (`MAX_PENDING`)."
        }
        CloseReason::TokenExpired => {
            "The token of the connection's only namespace has expired. The client comes back with the token that its \
             `auth` gives then."
        }
        CloseReason::NoKeySet => {
            "The node could not fetch the key set (`JWKS_URL`), so it could not verify the token."
        }
        CloseReason::Overloaded => {
            "The client's unfinished message was the largest when `UNFINISHED_BYTES` was used up."
        }
    }
}
