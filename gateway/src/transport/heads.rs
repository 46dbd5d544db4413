//! What hyper leaves to the connection: checking the line ends of requests before hyper parses them, and giving up on
//! clients that do not read.
//!
//! hyper accepts a bare line feed as the end of a line, which the RFC permits. A proxy in front that does not accept it
//! would see another request in the same bytes, so a head with one must be refused: [`Heads`] replaces it with a byte
//! that no head may contain, and hyper answers 400 and closes.
//!
//! hyper closes after an answer that it sends before the end of a body. The kernel would then answer further bytes of
//! the body with a reset, which takes the answer away from a client that has not read it. So the connection discards
//! the body until the client closes, for at most [`BODY_END_MS`] and [`BODY_END_BYTES`].
//!
//! hyper waits for ever until a client reads an answer. Such a client would keep its slot on the listener with a closed
//! window, so a write that makes no progress for [`OUTBOX_AGE_MAX_MS`] fails.

use std::future::Future as _;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use shared::limits::{HEAD_MAX_BYTES, OUTBOX_AGE_MAX_MS};
use smallvec::SmallVec;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::places::Guest;

/// How many bytes of a line are kept, runs of blanks counted as one: enough for every line that frames a body.
const LINE_KEPT: usize = 64;

/// If one read returns so many bytes, hyper's buffer for the connection has grown beyond its first size.
const READ_COMMON: usize = 8 * 1024;

/// How many milliseconds to wait for the end of a body after an answer.
const BODY_END_MS: u64 = 1_000;

/// How many bytes of it to discard.
const BODY_END_BYTES: usize = 4 << 20;

/// How many bytes of it to read in one turn.
const BODY_END_TURN: usize = 64 * 1024;

/// How many bytes of answers the kernel holds unsent for one connection. By default it holds megabytes for a client who
/// reads nothing, and a thousand such clients use up the memory that all connections of the machine share.
const UNSENT_MAX_BYTES: u32 = 32 * 1024;

/// The beginning of hyper's answer that switches protocols.
const SWITCHING: &[u8] = b"HTTP/1.1 101 ";

/// A connection whose heads are checked as they arrive.
#[derive(Debug)]
pub(crate) struct Heads {
    stream: TcpStream,
    guest: Arc<Guest>,
    scan: Scan,
    /// Set while the client reads nothing of the pending writes: when to give up on it.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Set while the client still sends after the answer: the deadline, and how many bytes are left.
    ending: Option<(Pin<Box<Sleep>>, usize)>,
    /// The answer that opens a session's WebSocket. It leaves together with the first frames.
    switch: Vec<u8>,
}

/// The position of the next byte in the requests of a connection. Bodies are framed as hyper frames them; if hyper
/// refuses a framing it closes, so errors in the rest do not matter.
#[derive(Debug, Default)]
struct Scan {
    part: Part,
    last: u8,
    /// The beginning of the current line.
    line: SmallVec<[u8; LINE_KEPT]>,
    /// The line is longer than that.
    is_cut: bool,
    /// Bytes of the head so far.
    head: usize,
    /// A line of the head was seen; empty lines before it do not end the head.
    begun: bool,
    body: Body,
}

/// A part of a request.
#[derive(Debug, Default, Clone, Copy)]
enum Part {
    #[default]
    Head,
    /// The remaining bytes of a body.
    Counted(u64),
    /// The line with the size of a chunk.
    ChunkSize,
    /// The remaining bytes of a chunk and of the line end after it.
    Chunk(u64),
    /// The lines after the last chunk, up to an empty one.
    Trailers,
    /// Not HTTP: an upgrade, or an invalid request. hyper closes after either.
    Other,
}

/// What a head says about the body.
#[derive(Debug, Default, Clone, Copy)]
enum Body {
    #[default]
    None,
    Counted(u64),
    Chunked,
    Other,
}

impl Scan {
    /// Whether a part of a body is still missing.
    fn is_within_body(&self) -> bool {
        match self.part {
            Part::Counted(_) | Part::ChunkSize | Part::Chunk(_) | Part::Trailers => true,
            Part::Head | Part::Other => false,
        }
    }

    /// Checks the next bytes of a connection; bytes outside of heads pass.
    fn look(&mut self, mut bytes: &mut [u8]) {
        while let Some((first, _)) = bytes.split_first_mut() {
            let length = match self.part {
                Part::Other => return,
                Part::Counted(left) | Part::Chunk(left) => {
                    let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    self.pass(left - length as u64);
                    length
                }
                Part::Head => {
                    if *first == b'\n' && self.last != b'\r' {
                        *first = 0;
                    }
                    self.head += 1;
                    self.byte(first);
                    1
                }
                Part::ChunkSize | Part::Trailers => {
                    self.byte(first);
                    1
                }
            };
            bytes = bytes.split_at_mut(length).1;
        }
    }

    /// Expects so many more bytes of a body or chunk.
    fn pass(&mut self, left: u64) {
        self.part = match self.part {
            Part::Counted(_) if left == 0 => Part::Head,
            Part::Counted(_) => Part::Counted(left),
            _ if left == 0 => Part::ChunkSize,
            _ => Part::Chunk(left),
        };
    }

    /// Handles a byte of a part that consists of lines. If the end of a line makes the framing ambiguous, the byte is
    /// made unreadable, too.
    fn byte(&mut self, byte: &mut u8) {
        self.last = *byte;
        match *byte {
            b'\n' => {
                let (line, is_cut) = (std::mem::take(&mut self.line), std::mem::take(&mut self.is_cut));
                if !self.end_line(&line, is_cut) {
                    *byte = 0;
                    self.part = Part::Other;
                }
            }
            b'\r' => {}
            // Any number of blanks may precede the value of a header.
            b' ' | b'\t' if matches!(self.line.last(), Some(b' ' | b'\t')) => {}
            _ if self.line.len() < LINE_KEPT => self.line.push(*byte),
            _ => self.is_cut = true,
        }
    }

    /// False if the line is too long to know what it says about the body.
    fn end_line(&mut self, line: &[u8], is_cut: bool) -> bool {
        match self.part {
            Part::Head if !line.is_empty() => {
                self.begun = true;
                let name = line.split(|byte| *byte == b':').next().unwrap_or_default();
                if is_cut && name.eq_ignore_ascii_case(b"content-length") {
                    return false;
                }
                self.body = header(line, self.body);
            }
            Part::Head if self.begun => {
                (self.begun, self.head) = (false, 0);
                self.part = match std::mem::take(&mut self.body) {
                    Body::None | Body::Counted(0) => Part::Head,
                    Body::Counted(length) => Part::Counted(length),
                    Body::Chunked => Part::ChunkSize,
                    Body::Other => Part::Other,
                };
            }
            Part::ChunkSize => {
                let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
                if is_cut && digits == line.len() {
                    return false;
                }
                let size = line.get(..digits).and_then(|digits| str::from_utf8(digits).ok());
                self.part = match size.and_then(|size| u64::from_str_radix(size, 16).ok()) {
                    Some(0) => Part::Trailers,
                    Some(size) => Part::Chunk(size.saturating_add(2)),
                    None => Part::Other,
                };
            }
            Part::Trailers if line.is_empty() => self.part = Part::Head,
            Part::Head | Part::Trailers | Part::Counted(_) | Part::Chunk(_) | Part::Other => {}
        }
        true
    }
}

/// What is known about a request's body after another line of its head. Chunks take precedence over a length (RFC 9112,
/// 6.3), and an upgrade over both.
fn header(line: &[u8], known: Body) -> Body {
    let mut parts = line.splitn(2, |byte| *byte == b':');
    let (Some(name), Some(value)) = (parts.next(), parts.next()) else { return known };
    if name.eq_ignore_ascii_case(b"upgrade") {
        return Body::Other;
    }
    match known {
        Body::None | Body::Counted(_) if name.eq_ignore_ascii_case(b"transfer-encoding") => Body::Chunked,
        Body::None | Body::Counted(_) if name.eq_ignore_ascii_case(b"content-length") => {
            let length = str::from_utf8(value).ok().and_then(|value| value.trim().parse().ok());
            length.map_or(Body::Other, Body::Counted)
        }
        _ => known,
    }
}

impl Heads {
    /// Sets options of a listening socket that its connections inherit, which saves a call per connection.
    pub(crate) fn prepare(listener: &socket2::Socket) {
        // If this cannot be set, the kernel holds more.
        let _ = listener.set_tcp_notsent_lowat(UNSENT_MAX_BYTES);
    }

    /// Takes over a connection. Until [`Self::into_parts`] the kernel holds little for a client who reads nothing
    /// ([`Self::prepare`]).
    pub(crate) fn new(stream: TcpStream, guest: Arc<Guest>) -> Self {
        Self { stream, guest, scan: Scan::default(), stalled: None, ending: None, switch: Vec::new() }
    }

    /// The result of a write, or an error after too long without progress.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.stalled.take().is_some() {
                let _ = SockRef::from(&self.stream).set_linger(None);
            }
            return written;
        }
        if self.stalled.is_none() {
            // The kernel then forgets unsent bytes at once when the connection ends.
            let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        let given_up = || Box::pin(sleep(Duration::from_millis(OUTBOX_AGE_MAX_MS)));
        let stalled = self.stalled.get_or_insert_with(given_up);
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// Discards the rest of a body until the client closes or a bound is reached.
    fn end_body(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let wait = || (Box::pin(sleep(Duration::from_millis(BODY_END_MS))), BODY_END_BYTES);
        let (deadline, left) = self.ending.get_or_insert_with(wait);
        if deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        let mut bytes = [MaybeUninit::uninit(); READ_COMMON];
        for _ in 0..BODY_END_TURN / READ_COMMON {
            let mut buf = ReadBuf::uninit(&mut bytes);
            let read = std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf));
            let count = buf.filled().len();
            *left = left.saturating_sub(count);
            if read.is_err() || count == 0 || *left == 0 {
                return Poll::Ready(());
            }
        }
        // Lets other tasks run.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Holds back the answer that switches protocols if the node sends first afterwards: this saves one write and one
    /// segment per connecting client. Returns whether it held `bytes` back.
    fn keep_back(&mut self, bytes: &[u8]) -> bool {
        let keeps = bytes.starts_with(SWITCHING) && self.guest.opens_websocket();
        if keeps {
            self.switch = bytes.to_vec();
        }
        keeps
    }

    /// The connection, for bytes that are no longer HTTP, and what to write to it first.
    pub(super) fn into_parts(self) -> (TcpStream, Vec<u8>) {
        let _ = SockRef::from(&self.stream).set_tcp_notsent_lowat(u32::MAX);
        (self.stream, self.switch)
    }
}

impl AsyncRead for Heads {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            let read = buf.filled_mut().get_mut(before..).unwrap_or_default();
            let count = read.len();
            self.scan.look(read);
            if count >= READ_COMMON || self.scan.head >= READ_COMMON {
                self.guest.hold(HEAD_MAX_BYTES);
            }
        }
        read
    }
}

impl AsyncWrite for Heads {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.keep_back(buf) {
            return Poll::Ready(Ok(buf.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ending.is_none() {
            let ended = std::task::ready!(Pin::new(&mut self.stream).poll_shutdown(cx));
            if ended.is_err() || !self.scan.is_within_body() {
                return Poll::Ready(ended);
            }
        }
        self.end_body(cx).map(Ok)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let first = bufs.iter().find(|buf| !buf.is_empty());
        if let Some(first) = first.filter(|first| self.keep_back(first)) {
            return Poll::Ready(Ok(first.len()));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.judge(cx, written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(pieces: &[&str]) -> String {
        let mut scan = Scan::default();
        let mut seen = Vec::new();
        for piece in pieces {
            let mut piece = piece.as_bytes().to_vec();
            scan.look(&mut piece);
            seen.append(&mut piece);
        }
        String::from_utf8(seen).unwrap()
    }

    #[test]
    fn a_bare_line_feed_in_a_head_is_made_unreadable() {
        assert_eq!(look(&["GET / HTTP/1.1\nHost: a\r\n\r\n"]), "GET / HTTP/1.1\0Host: a\r\n\r\n");
        assert_eq!(look(&["GET / HTTP/1.1\r\n\n"]), "GET / HTTP/1.1\r\n\0");
    }

    /// A valid text passes unchanged whole, in two pieces wherever it is cut, and byte by byte.
    fn passes(text: &str) {
        assert_eq!(look(&[text]), text);
        for at in 1..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(look(&[a, b]), text, "cut at {at}");
        }
    }

    #[test]
    fn good_heads_and_their_bodies_are_left_alone() {
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let counted = "POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:  9\r\n\r\na\nb\r\n\r\n\nc";
        let empty = "POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n";
        let chunked = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n\
                       3;x=y\r\n\n\n\n\r\nA\r\n0123\r\n\n\n\r\n\r\n0\r\nX: y\r\n\r\n";
        let upgrade = "GET / HTTP/1.1\r\nUpgrade: websocket\r\n\r\n\n\n\n";
        passes(&[get, counted, empty, chunked, get, counted, upgrade].concat());
    }

    #[test]
    fn later_heads_are_checked_too() {
        let good = "POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n\n\nPOST / HTTP/1.1\r\n\
                    Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\n0\r\n\r\n\r\n";
        let text = format!("{good}GET / HTTP/1.1\nHost: a\r\n\r\n");
        let expected = format!("{good}GET / HTTP/1.1\0Host: a\r\n\r\n");
        for at in 1..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(look(&[a, b]), expected, "cut at {at}");
        }
    }

    #[test]
    fn a_line_that_would_hide_a_length_is_made_unreadable() {
        let hidden = "0".repeat(LINE_KEPT);
        let counted = format!("POST / HTTP/1.1\r\nContent-Length: {hidden}2\r\n");
        assert_eq!(look(&[&counted]), counted.strip_suffix('\n').unwrap().to_owned() + "\0");
        let chunked = format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n{hidden}2\r\n");
        assert_eq!(look(&[&chunked]), chunked.strip_suffix('\n').unwrap().to_owned() + "\0");
        let blanks = " \t".repeat(LINE_KEPT);
        let long = "x".repeat(2 * LINE_KEPT);
        let good = format!(
            "POST /{long} HTTP/1.1\r\n{long}: {long}\r\nContent-Length:{blanks}2{blanks}\r\n\r\n\n\n\
             POST / HTTP/1.1\r\nTransfer-Encoding: {long}\r\n\r\n1;{long}\r\n\n\r\n0\r\n{long}: {long}\r\n\r\n"
        );
        passes(&format!("{good}{good}"));
        let then = format!("{good}GET / HTTP/1.1\nHost: a\r\n\r\n");
        assert_eq!(look(&[&then]), format!("{good}GET / HTTP/1.1\0Host: a\r\n\r\n"));
    }

    #[test]
    fn empty_lines_before_a_head_do_not_hide_it() {
        assert_eq!(look(&["\r\nGET / HTTP/1.1\nHost: a\r\n"]), "\r\nGET / HTTP/1.1\0Host: a\r\n");
    }
}
