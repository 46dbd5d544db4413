//! What hyper leaves to the connection: line ends of requests, before it sees them, and an end for clients
//! that do not read.
//!
//! hyper takes a bare line feed for the end of a line, as it may. A proxy in front that does not would see
//! another request in the same bytes, so a head with one must be refused: [`Heads`] puts a byte in its place
//! that no head may have, and hyper answers 400 and closes.
//!
//! hyper waits for ever until a client takes an answer. Such a client would keep its place on the listener
//! with a closed window, so a write that makes no progress for [`OUTBOX_AGE_MAX_MS`] fails.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use shared::limits::OUTBOX_AGE_MAX_MS;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// A connection whose heads are looked at as they come in.
#[derive(Debug)]
pub(crate) struct Heads {
    stream: TcpStream,
    /// Set when a request has been answered: what is read next is a head.
    next_head: Arc<AtomicBool>,
    scan: Scan,
    /// Since the client takes nothing of what is to be written: when it is given up.
    stalled: Option<Pin<Box<Sleep>>>,
}

/// How far the current head has come.
#[derive(Debug, Default)]
struct Scan {
    last: u8,
    /// Bytes of the line that is being read, its end not counted.
    line: usize,
    done: bool,
}

impl Scan {
    /// Looks at the next bytes of a connection; those after the head are let pass.
    fn look(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if self.done {
                return;
            }
            match *byte {
                b'\n' if self.last != b'\r' => *byte = 0,
                b'\n' if self.line == 0 => self.done = true,
                b'\n' => self.line = 0,
                b'\r' => {}
                _ => self.line += 1,
            }
            self.last = *byte;
        }
    }
}

impl Heads {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, next_head: Arc::default(), scan: Scan::default(), stalled: None }
    }

    /// To be set when a request has been answered.
    pub(crate) fn next_head(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.next_head)
    }

    /// What a write has come to, or an error when too many have come to nothing.
    fn judge(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let given_up = || Box::pin(sleep(Duration::from_millis(OUTBOX_AGE_MAX_MS)));
        let stalled = self.stalled.get_or_insert_with(given_up);
        stalled.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    /// The connection, for what is not HTTP any more.
    pub(super) fn into_inner(self) -> TcpStream {
        self.stream
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
            if self.next_head.swap(false, Ordering::AcqRel) {
                self.scan = Scan::default();
            }
            self.scan.look(buf.filled_mut().get_mut(before..).unwrap_or_default());
        }
        read
    }
}

impl AsyncWrite for Heads {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.judge(cx, written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

    #[test]
    fn a_good_head_and_its_body_are_left_alone() {
        let request = "POST / HTTP/1.1\r\nHost: a\r\n\r\nbody\nwith\nlines";
        assert_eq!(look(&[request]), request);
        let (a, b) = request.split_at(16);
        assert_eq!(look(&[a, b]), request);
    }
}
