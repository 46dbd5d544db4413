//! WebSocket frames (RFC 6455), without I/O.
//!
//! Tungstenite provides the close codes here, the handshake in the gateway, and the client of `gateway ping`.
//!
//! This module implements the rest for these reasons:
//!
//! - The reader. Tungstenite's allocates a read buffer for each connection (128 KiB by default) and keeps
//!   it. [`Decoder`] parses in place in whatever buffer the caller read into, so a node needs one large buffer for
//!   each worker, and an idle connection holds none. A differential test keeps the two in agreement.
//! - Headers. Counted under callgrind, tungstenite's `FrameHeader::parse` takes 205 instructions for a client's
//!   frame and ours 40; `FrameHeader::format` takes 80 and [`push_header`] 40. Decoding a publish of 128 bytes takes
//!   3,700 in all and encoding its event 1,500, so that either would be seen in `make instructions`. Opcodes are
//!   plain numbers for the same reason.
//!
//! No extension is ever negotiated, so any reserved bit is a fault.

use crate::limits::{CONTROL_PAYLOAD_MAX, FRAGMENTS_MAX};

pub use tungstenite::protocol::frame::coding::CloseCode;

/// Text frame.
pub const OP_TEXT: u8 = 0x1;
/// Binary frame.
pub const OP_BINARY: u8 = 0x2;
/// Close frame.
pub const OP_CLOSE: u8 = 0x8;
/// Ping frame.
pub const OP_PING: u8 = 0x9;
/// Pong frame.
pub const OP_PONG: u8 = 0xA;
const OP_CONTINUATION: u8 = 0x0;

/// A close code that proxies send: the server behind them has answered badly.
const BAD_GATEWAY: u16 = 1014;

/// The longest header of a frame: two bytes, eight of length, four of mask.
pub const HEADER_MAX: usize = 14;

/// Why a peer's frames cannot be read any further; each has a close code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Reserved bits or opcodes, wrong masking, broken fragmentation or control frames: 1002.
    #[error("protocol error")]
    Protocol,
    /// A text that is not UTF-8: 1007.
    #[error("text is not UTF-8")]
    NotUtf8,
    /// A message over the limit, found by its header alone where it is in one frame: 1009.
    #[error("message too big")]
    TooBig,
    /// A message in more than [`FRAGMENTS_MAX`] pieces: 1008.
    #[error("too many fragments")]
    TooManyFragments,
}

impl Fault {
    /// The close code to answer with.
    #[must_use]
    pub fn code(self) -> CloseCode {
        match self {
            Self::Protocol => CloseCode::Protocol,
            Self::NotUtf8 => CloseCode::Invalid,
            Self::TooBig => CloseCode::Size,
            Self::TooManyFragments => CloseCode::Policy,
        }
    }
}

/// The result of one call of [`Decoder::next`].
#[derive(Debug, PartialEq, Eq)]
pub enum Received<'a> {
    /// A whole text message.
    Text(&'a str),
    /// A whole binary message.
    Binary(&'a [u8]),
    /// A ping, to be answered with its payload.
    Ping(&'a [u8]),
    /// A pong.
    Pong,
    /// A close frame with its code, if it had one.
    Close(Option<u16>),
    /// A piece of a message that is not complete.
    Fragment,
}

/// The end of the connection that a [`Decoder`] reads for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Reads what clients send: masked.
    Server,
    /// Reads what servers send: not masked.
    Client,
}

/// Reads frames from the caller's buffer. Holds memory only while a message is fragmented.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    /// Opcode of the fragmented message; 0 if there is none.
    opcode: u8,
    /// The last call returned `pieces`, so the next one clears it.
    given: bool,
    fragments: u32,
    max: u32,
    pieces: Vec<u8>,
}

struct Header {
    fin: bool,
    opcode: u8,
    len: usize,
    mask: Option<[u8; 4]>,
    size: usize,
}

impl Decoder {
    /// A decoder for messages of `max` bytes at most.
    #[must_use]
    pub fn new(role: Role, max: usize) -> Self {
        let max = u32::try_from(max).unwrap_or(u32::MAX);
        Self { role, opcode: 0, given: false, fragments: 0, max, pieces: Vec::new() }
    }

    /// From the next frame on, messages may have `max` bytes.
    pub fn set_max(&mut self, max: usize) {
        self.max = u32::try_from(max).unwrap_or(u32::MAX);
    }

    /// Bytes held of a fragmented message.
    #[must_use]
    pub fn held(&self) -> usize {
        self.pieces.len()
    }

    /// Reads the first frame of `buf`: the number of bytes it used, and its content. `None` when the frame is not
    /// complete yet; the caller keeps the bytes and calls again with more.
    ///
    /// # Errors
    /// A [`Fault`] ends the connection: answer a close frame with its code and read no further.
    pub fn next<'a>(&'a mut self, buf: &'a mut [u8]) -> Result<Option<(usize, Received<'a>)>, Fault> {
        if self.given {
            self.given = false;
            self.pieces = Vec::new();
        }
        let Some(header) = self.header(buf)? else { return Ok(None) };
        let end = header.size + header.len;
        let Some(payload) = buf.get_mut(header.size..end) else { return Ok(None) };
        if let Some(mask) = header.mask {
            unmask(payload, mask);
        }
        let received = match header.opcode {
            OP_PING => Received::Ping(payload),
            OP_PONG => Received::Pong,
            OP_CLOSE => Received::Close(close_code(payload)?),
            opcode if header.fin && opcode != OP_CONTINUATION => message(opcode, payload)?,
            opcode => return self.fragment(opcode, header.fin, payload).map(|r| Some((end, r))),
        };
        Ok(Some((end, received)))
    }

    /// Bytes of the whole frame at the start of `buf`, if its header can be read: how much the caller
    /// will have to hold.
    fn header(&self, buf: &[u8]) -> Result<Option<Header>, Fault> {
        let &[first, second, ref rest @ ..] = buf else { return Ok(None) };
        let (fin, opcode) = (first & 0x80 != 0, first & 0x0f);
        let masked = second & 0x80 != 0;
        if first & 0x70 != 0 || masked != (self.role == Role::Server) {
            return Err(Fault::Protocol);
        }
        match opcode {
            OP_CLOSE | OP_PING | OP_PONG => {
                if !fin || usize::from(second & 0x7f) > CONTROL_PAYLOAD_MAX {
                    return Err(Fault::Protocol);
                }
            }
            OP_TEXT | OP_BINARY if self.opcode == 0 => {}
            OP_CONTINUATION if self.opcode != 0 => {}
            _ => return Err(Fault::Protocol),
        }
        let (len, at) = match second & 0x7f {
            126 => match *rest {
                [a, b, ..] => (u64::from(u16::from_be_bytes([a, b])), 4),
                _ => return Ok(None),
            },
            127 => match rest.first_chunk::<8>() {
                Some(bytes) => (u64::from_be_bytes(*bytes), 10),
                None => return Ok(None),
            },
            short => (u64::from(short), 2),
        };
        // Checked before waiting for the payload: a header may announce 2^63 bytes.
        if len.saturating_add(self.pieces.len() as u64) > u64::from(self.max) && opcode < OP_CLOSE {
            return Err(Fault::TooBig);
        }
        let Ok(len) = usize::try_from(len) else { return Err(Fault::TooBig) };
        if !masked {
            return Ok(Some(Header { fin, opcode, len, mask: None, size: at }));
        }
        let mask = buf.get(at..).and_then(|b| b.first_chunk::<4>()).copied();
        Ok(mask.map(|mask| Header { fin, opcode, len, mask: Some(mask), size: at + 4 }))
    }

    fn fragment(&mut self, opcode: u8, fin: bool, payload: &[u8]) -> Result<Received<'_>, Fault> {
        if opcode != OP_CONTINUATION {
            self.opcode = opcode;
            self.fragments = 0;
        }
        self.fragments += 1;
        if self.fragments > FRAGMENTS_MAX {
            return Err(Fault::TooManyFragments);
        }
        self.pieces.extend_from_slice(payload);
        if !fin {
            return Ok(Received::Fragment);
        }
        let opcode = std::mem::take(&mut self.opcode);
        self.given = true;
        message(opcode, &self.pieces)
    }
}

fn message(opcode: u8, payload: &[u8]) -> Result<Received<'_>, Fault> {
    if opcode == OP_BINARY {
        return Ok(Received::Binary(payload));
    }
    simdutf8::basic::from_utf8(payload).map(Received::Text).map_err(|_| Fault::NotUtf8)
}

/// The code of a close frame's payload: none, or two bytes and a UTF-8 reason.
fn close_code(payload: &[u8]) -> Result<Option<u16>, Fault> {
    let (code, reason) = match payload {
        [] => return Ok(None),
        [a, b, reason @ ..] => (u16::from_be_bytes([*a, *b]), reason),
        [_] => return Err(Fault::Protocol),
    };
    // 1014 was registered after RFC 6455, and tungstenite does not know it.
    if !CloseCode::from(code).is_allowed() && code != BAD_GATEWAY {
        return Err(Fault::Protocol);
    }
    if simdutf8::basic::from_utf8(reason).is_err() {
        return Err(Fault::NotUtf8);
    }
    Ok(Some(code))
}

/// Applies a client's mask; applying it again removes it.
pub fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from_ne_bytes([mask[0], mask[1], mask[2], mask[3], mask[0], mask[1], mask[2], mask[3]]);
    let (chunks, rest) = payload.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
    // `rest` is shorter than eight but may be longer than four.
    for (byte, mask) in rest.iter_mut().skip(4).zip(mask) {
        *byte ^= mask;
    }
}

/// Bytes of the header of a server's frame with `len` bytes of payload.
#[must_use]
pub fn header_len(len: usize) -> usize {
    match len {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    }
}

/// Appends the header of an unmasked, whole frame.
pub fn push_header(out: &mut Vec<u8>, opcode: u8, len: usize) {
    out.push(0x80 | opcode);
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ 0..=125), _) => out.push(len),
        (_, Ok(len)) => {
            out.push(126);
            out.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
}

/// Appends a whole server frame.
pub fn push_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.reserve(header_len(payload.len()) + payload.len());
    push_header(out, opcode, payload.len());
    out.extend_from_slice(payload);
}

/// Appends a whole client frame, masked.
pub fn push_masked_frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8], mask: [u8; 4]) {
    let start = out.len();
    push_header(out, opcode, payload.len());
    out[start + 1] |= 0x80;
    out.extend_from_slice(&mask);
    let body = out.len();
    out.extend_from_slice(payload);
    unmask(&mut out[body..], mask);
}

/// Appends a close frame; without a code it is empty, which is how Engine.IO servers close.
pub fn push_close(out: &mut Vec<u8>, code: Option<CloseCode>) {
    match code {
        None => push_frame(out, OP_CLOSE, &[]),
        Some(code) => push_frame(out, OP_CLOSE, &u16::from(code).to_be_bytes()),
    }
}

/// Iterates over complete, unmasked frames as the functions above write them: opcode and payload of each.
pub fn frames(mut wire: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || {
        let &[first, len, ref rest @ ..] = wire else { return None };
        let (len, rest) = match len {
            126 => rest.split_first_chunk::<2>().map(|(l, r)| (u64::from(u16::from_be_bytes(*l)), r))?,
            127 => rest.split_first_chunk::<8>().map(|(l, r)| (u64::from_be_bytes(*l), r))?,
            short => (u64::from(short), rest),
        };
        let (payload, rest) = rest.split_at_checked(usize::try_from(len).ok()?)?;
        wire = rest;
        Some((first & 0x0f, payload))
    })
}
