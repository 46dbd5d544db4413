//! One connection: its phase, and its incomplete reads and writes.

use std::io::{self, Write};

use mio::net::TcpStream;

/// The steps between dialling and being a member of a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// TCP handshake under way.
    Dialing,
    /// HTTP upgrade sent.
    Upgrading,
    /// Waiting for the Engine.IO open packet.
    Opening,
    /// CONNECT sent.
    Connecting,
    /// Join sent.
    Joining,
    /// A member.
    Ready,
    /// The client has said goodbye; the server closes.
    Leaving,
    /// Gone; the stream is closed.
    Closed,
}

/// One connection's state. Small, because ten thousand of them are visited in turn.
#[derive(Debug)]
pub(crate) struct Conn {
    /// `None` once it is closed.
    pub(crate) stream: Option<TcpStream>,
    pub(crate) phase: Phase,
    /// Whether it has reached [`Phase::Ready`].
    pub(crate) was_ready: bool,
    /// The beginning of an incomplete frame. Nearly always empty.
    pub(crate) torn: Vec<u8>,
    /// Bytes that the kernel has not accepted yet. Nearly always empty.
    unsent: Vec<u8>,
}

impl Conn {
    /// A connection that has just been dialled.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self {
            stream: Some(stream),
            phase: Phase::Dialing,
            was_ready: false,
            torn: Vec::new(),
            unsent: Vec::new(),
        }
    }

    /// Writes `bytes` after earlier writes; bytes that do not fit are sent later.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if !self.unsent.is_empty() {
            self.unsent.extend_from_slice(bytes);
            return self.flush();
        }
        let sent = self.write_some(bytes)?;
        self.unsent.extend_from_slice(&bytes[sent..]);
        Ok(())
    }

    /// Writes the remaining bytes, as far as the kernel accepts them.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if self.unsent.is_empty() {
            return Ok(());
        }
        let unsent = std::mem::take(&mut self.unsent);
        let sent = self.write_some(&unsent)?;
        self.unsent = unsent;
        self.unsent.drain(..sent);
        Ok(())
    }

    /// Writes until the kernel refuses. Returns how many bytes it accepted: edge-triggered
    /// readiness is reported again only after a refusal.
    fn write_some(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else {
            return Ok(bytes.len());
        };
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Closes the connection at once.
    pub(crate) fn close(&mut self) {
        self.stream = None;
        self.phase = Phase::Closed;
        self.torn = Vec::new();
        self.unsent = Vec::new();
    }
}
