//! The floor's connections.

use std::io::{self, Write};
use std::mem::take;
use std::os::fd::{AsRawFd, RawFd};

use mio::net::TcpStream;

use crate::floor::rooms::{Member, Seat};
use crate::sys;

/// One connection. 24 bytes: rare state is kept elsewhere.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) stream: TcpStream,
    pub(super) upgraded: bool,
    pub(super) seat: Seat,
    rest: Option<Box<Rest>>,
}

/// State that most connections never have.
#[derive(Debug, Default)]
struct Rest {
    /// The beginning of a frame or of the request.
    torn: Vec<u8>,
    /// Bytes that the kernel has not accepted yet.
    unsent: Vec<u8>,
}

impl Line {
    /// Moves the rest of the last read to the beginning of `buf`. Returns its length.
    pub(super) fn take_torn(&mut self, buf: &mut [u8]) -> usize {
        let Some(rest) = &mut self.rest else {
            return 0;
        };
        let torn = take(&mut rest.torn);
        buf[..torn.len()].copy_from_slice(&torn);
        torn.len()
    }

    /// Keeps the rest of this read for the next.
    pub(super) fn keep_torn(&mut self, torn: &[u8]) {
        if !torn.is_empty() {
            self.rest.get_or_insert_default().torn = torn.to_vec();
        }
    }
}

/// All connections by number; numbers are reused.
#[derive(Debug, Default)]
pub(super) struct Lines {
    lines: Vec<Option<Line>>,
    free: Vec<usize>,
    /// Whether bytes of a connection wait for the kernel. Separate from the connections, because a
    /// broadcast checks it for each member and should touch only one byte for that.
    blocked: Vec<bool>,
    /// Bytes that wait for the end of the round, by connection, and the connections that have some.
    pending: Vec<Vec<u8>>,
    dirty: Vec<Member>,
}

impl Lines {
    /// The number the next connection will have.
    pub(super) fn next_id(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.lines.push(None);
            self.blocked.push(false);
            self.lines.len() - 1
        })
    }

    /// Adds a connection under a number from [`Self::next_id`].
    pub(super) fn open(&mut self, id: usize, stream: TcpStream) {
        self.lines[id] = Some(Line { stream, upgraded: false, seat: Seat::NONE, rest: None });
        self.blocked[id] = false;
    }

    /// Forgets a connection; dropping the returned one closes it.
    pub(super) fn close(&mut self, id: usize) -> Option<Line> {
        let line = self.lines[id].take()?;
        self.free.push(id);
        Some(line)
    }

    pub(super) fn get(&mut self, id: usize) -> Option<&mut Line> {
        self.lines.get_mut(id)?.as_mut()
    }

    /// Sends to one connection, after all earlier sends.
    pub(super) fn send(&mut self, id: usize, bytes: &[u8]) {
        if let Some(fd) = self.get(id).map(|line| line.stream.as_raw_fd()) {
            self.send_fd(id, fd, bytes);
        }
    }

    /// As [`Self::send`], without touching the connection: the path of every delivery.
    #[inline]
    pub(super) fn send_to(&mut self, to: Member, bytes: &[u8]) {
        self.send_fd(to.line as usize, to.fd, bytes);
    }

    #[inline]
    fn send_fd(&mut self, id: usize, fd: RawFd, bytes: &[u8]) {
        if !self.blocked[id] {
            match sys::send(fd, bytes) {
                Ok(sent) if sent == bytes.len() => return,
                Ok(sent) => return self.keep_unsent(id, &bytes[sent..]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // The connection is broken; reading reports it.
                Err(_) => return,
            }
        }
        self.keep_unsent(id, bytes);
    }

    /// Adds bytes for [`Self::flush_pending`].
    #[inline]
    pub(super) fn push(&mut self, to: Member, bytes: &[u8]) {
        let id = to.line as usize;
        if self.pending.len() <= id {
            self.pending.resize_with(id + 1, Vec::new);
        }
        let pending = &mut self.pending[id];
        if pending.is_empty() {
            self.dirty.push(to);
        }
        pending.extend_from_slice(bytes);
    }

    /// Sends the pushed bytes, one `send` per connection.
    pub(super) fn flush_pending(&mut self) {
        let (mut dirty, mut pending) = (take(&mut self.dirty), take(&mut self.pending));
        for to in dirty.drain(..) {
            let bytes = &mut pending[to.line as usize];
            self.send_to(to, bytes);
            bytes.clear();
        }
        (self.dirty, self.pending) = (dirty, pending);
    }

    #[cold]
    fn keep_unsent(&mut self, id: usize, bytes: &[u8]) {
        self.blocked[id] = true;
        if let Some(line) = self.get(id) {
            let rest = line.rest.get_or_insert_default();
            rest.unsent.extend_from_slice(bytes);
        }
        // A short write is not yet a refusal, and readiness follows only a refusal.
        self.flush(id);
    }

    /// Sends waiting bytes, as far as the kernel accepts them.
    pub(super) fn flush(&mut self, id: usize) {
        if !self.blocked.get(id).is_some_and(|blocked| *blocked) {
            return;
        }
        let Some(line) = self.get(id) else {
            return;
        };
        let Some(rest) = &mut line.rest else {
            return;
        };
        let mut sent = 0;
        while sent < rest.unsent.len() {
            match line.stream.write(&rest.unsent[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => sent = rest.unsent.len(),
            }
        }
        rest.unsent.drain(..sent);
        self.blocked[id] = !rest.unsent.is_empty();
    }

    /// Sends to every upgraded connection.
    pub(super) fn send_all(&mut self, bytes: &[u8]) {
        for id in 0..self.lines.len() {
            if self.get(id).is_some_and(|line| line.upgraded) {
                self.send(id, bytes);
            }
        }
    }
}
