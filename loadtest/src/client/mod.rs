//! Thousands of Socket.IO connections on one thread, at little cost per received frame.
//!
//! One epoll, one large read buffer for all connections, frames parsed in place, and a driver that is
//! compiled in instead of called through a table. A connection is read once per readiness: a read that does
//! not fill the buffer has emptied the socket, and only if the peer has closed is there an end to read as
//! well.
//!
//! ```text
//! dial → upgrade → 0{open} → 40/ns,{auth} → 40/ns,{sid} → 42/ns,1["join",…] → 43/ns,1[…] → events
//! ```
//!
//! A failure before the last step ends the run with its reason; where clients return, it is counted and
//! reported to the driver. A later loss of a connection is counted. A client that has said goodbye waits
//! for the server to close: the side that closes first keeps the port for a minute, and the tester has none
//! to spare.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use crate::client::conn::{Conn, Phase};
use crate::client::script::Script;
use crate::frame::{self, Head};
use crate::sys::{self, Alarm};
use crate::text::{self, Incoming, Namespace};
use crate::xorshift::Xorshift;

mod conn;
mod connect;
mod dial;
pub(crate) mod script;

/// The upper bound of one read and of one message. Only the bytes that a read fills are touched, so the
/// size costs nothing.
const READ_BYTES: usize = 2 << 20;
/// Few enough that a due publish does not wait long behind a full round.
const EVENTS: usize = 256;
const ALARM: Token = Token(usize::MAX);
/// RFC 6455 section 7.4.1: the purpose is fulfilled.
const NORMAL_CLOSE: u16 = 1000;

/// Handles the events of connections.
pub(crate) trait Driver {
    /// An event of the namespace has arrived: its array from `[` on, and when the read returned that
    /// brought it. Frames in `out` are written once all frames of the read are handled.
    fn event(&mut self, conn: usize, array: &[u8], at_ns: u64, out: &mut Outgoing);

    /// An ack other than the join's has arrived: its id and its array, as in [`Self::event`].
    fn ack(&mut self, _conn: usize, _id: u32, _array: &[u8], _at_ns: u64, _out: &mut Outgoing) {}

    /// A connection is a member of its room.
    fn ready(&mut self, _conn: usize, _at_ns: u64, _out: &mut Outgoing) {}

    /// A connection is closed: `orderly` after its goodbye, otherwise by the server in any phase.
    fn gone(&mut self, _conn: usize, _at_ns: u64, _orderly: bool) {}
}

/// Frames on their way to one connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    masks: Xorshift,
    goodbye: bool,
}

impl Outgoing {
    /// `seed` begins the sequence of frame masks.
    pub(crate) fn new(seed: u64) -> Self {
        Self { bytes: Vec::new(), masks: Xorshift::new(seed), goodbye: false }
    }

    /// Adds one text message.
    pub(crate) fn text(&mut self, packet: &[u8]) {
        self.frame(frame::TEXT, packet);
    }

    /// Leaves the namespace and asks the server to close, like the stock client.
    pub(crate) fn goodbye(&mut self, namespace: &Namespace) {
        self.text(namespace.disconnect().as_bytes());
        self.frame(frame::CLOSE, &NORMAL_CLOSE.to_be_bytes());
        self.goodbye = true;
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        // Masks protect proxies from chosen bytes; here they only have to differ.
        let [a, b, c, d, ..] = self.masks.next().to_ne_bytes();
        frame::write_masked(&mut self.bytes, opcode, payload, [a, b, c, d]);
    }

    /// The bytes added since the last call.
    #[cfg(test)]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// Counts over all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections that have reached [`Phase::Ready`] since they were last dialled, including closed ones.
    pub(crate) ready: usize,
    /// WebSocket frames received after the upgrade.
    pub(crate) frames: u64,
    /// Engine.IO pings answered.
    pub(crate) pings: u64,
    /// Connections that failed before they were ready, where this does not end the run.
    pub(crate) refused: u64,
    /// Why the first of them failed.
    pub(crate) first_refusal: Option<String>,
    /// Connections the server closed after they were ready.
    pub(crate) disconnected: u64,
    /// Why the first of them was closed.
    pub(crate) first_disconnect: Option<String>,
}

/// All connections of a run and the one poll that watches them.
#[derive(Debug)]
pub(crate) struct Swarm {
    poll: Poll,
    events: Events,
    alarm: Alarm,
    /// When the alarm fires: most rounds wait for the same instant as the one before.
    alarm_ns: u64,
    /// The servers; connection `i` is with number `i` modulo their count.
    to: Vec<SocketAddr>,
    party: Party,
}

/// The part of a swarm that the events of a round are applied to.
#[derive(Debug)]
struct Party {
    script: Script,
    conns: Vec<Conn>,
    /// Whether a connection that fails before it is ready is counted instead of ending the run.
    forgiving: bool,
    tally: Tally,
    buf: Box<[u8]>,
    out: Outgoing,
}

impl Swarm {
    /// A swarm without connections yet.
    pub(crate) fn new(to: Vec<SocketAddr>, script: Script, seed: u64) -> Result<Self> {
        let poll = Poll::new()?;
        let alarm = Alarm::new()?;
        poll.registry().register(&mut SourceFd(&alarm.as_raw_fd()), ALARM, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            alarm,
            alarm_ns: 0,
            to,
            party: Party {
                script,
                conns: Vec::new(),
                forgiving: false,
                tally: Tally::default(),
                buf: vec![0; READ_BYTES].into_boxed_slice(),
                out: Outgoing::new(seed),
            },
        })
    }

    /// What has been counted so far.
    pub(crate) fn tally(&self) -> &Tally {
        &self.party.tally
    }

    /// From now on a connection that fails before it is ready is counted instead of ending the run.
    pub(crate) fn forgive(&mut self) {
        self.party.forgiving = true;
    }

    /// The dialogue's texts.
    pub(crate) fn script(&self) -> &Script {
        &self.party.script
    }

    /// Closes a connection without any packet, like an app that is killed.
    pub(crate) fn cut(&mut self, conn: usize) {
        self.party.conns[conn].close();
    }

    /// Whether a connection is a member of its room.
    pub(crate) fn is_ready(&self, conn: usize) -> bool {
        self.party.conns[conn].phase == Phase::Ready
    }

    /// Whether a connection is closed, and not dialled again yet.
    pub(crate) fn is_closed(&self, conn: usize) -> bool {
        self.party.conns[conn].phase == Phase::Closed
    }

    /// Waits for events until `until_ns` at the latest, and handles them.
    pub(crate) fn turn(&mut self, driver: &mut impl Driver, until_ns: u64) -> Result<()> {
        let left = until_ns.saturating_sub(sys::now_ns());
        let timeout = if left == 0 {
            Duration::ZERO
        } else {
            // The alarm is exact; the timeout, in whole milliseconds, only has to come after it.
            if self.alarm_ns != until_ns {
                self.alarm.set(until_ns)?;
                self.alarm_ns = until_ns;
            }
            Duration::from_nanos(left) + Duration::from_millis(5)
        };
        match self.poll.poll(&mut self.events, Some(timeout)) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            outcome => outcome.context("waiting for events")?,
        }
        for event in &self.events {
            if event.token() != ALARM {
                self.party.wake(event, driver)?;
            }
        }
        Ok(())
    }

    /// Sends the frames that `fill` adds, on one connection.
    pub(crate) fn send(&mut self, conn: usize, fill: impl FnOnce(&mut Outgoing)) {
        fill(&mut self.party.out);
        self.party.write_out(conn);
    }
}

impl Party {
    fn wake(&mut self, event: &Event, driver: &mut impl Driver) -> Result<()> {
        let i = event.token().0;
        let conn = &mut self.conns[i];
        if conn.phase == Phase::Dialing {
            match self.dialed(i, event) {
                Ok(true) => {}
                Ok(false) => return Ok(()),
                Err(reason) => return self.lost(i, &reason, driver),
            }
        }
        let conn = &mut self.conns[i];
        if event.is_writable()
            && let Err(error) = conn.flush()
        {
            return self.lost(i, &anyhow!(error), driver);
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            // Taken out during the call, so that its frames can be passed on while the rest of `self`
            // changes.
            let mut buf = std::mem::take(&mut self.buf);
            let outcome = self.read(i, &mut buf, event.is_read_closed(), driver);
            self.buf = buf;
            if let Err(reason) = outcome {
                return self.lost(i, &reason, driver);
            }
        }
        Ok(())
    }

    /// Reads all available bytes, `to_end` where the end is known to be there. An `Err` is the reason why
    /// this connection is unusable.
    fn read(&mut self, i: usize, buf: &mut [u8], to_end: bool, driver: &mut impl Driver) -> Result<()> {
        loop {
            let conn = &mut self.conns[i];
            let Some(stream) = &mut conn.stream else {
                return Ok(());
            };
            let kept = conn.torn.len();
            buf[..kept].copy_from_slice(&conn.torn);
            let got = match stream.read(&mut buf[kept..]) {
                Ok(0) => bail!("closed by the server"),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let at_ns = sys::now_ns();
            let filled = kept + got;
            let used = self.frames(i, &buf[..filled], at_ns, driver)?;
            let conn = &mut self.conns[i];
            conn.torn.clear();
            conn.torn.extend_from_slice(&buf[used..filled]);
            if conn.torn.len() == buf.len() {
                bail!("a frame of more than {} bytes", buf.len());
            }
            self.write_out(i);
            if filled < buf.len() && !to_end {
                return Ok(());
            }
        }
    }

    /// Passes on every complete frame in `received`. Returns where the first incomplete one begins.
    fn frames(&mut self, i: usize, received: &[u8], at_ns: u64, driver: &mut impl Driver) -> Result<usize> {
        let mut used = 0;
        if self.conns[i].phase == Phase::Upgrading {
            let Some(head) = self.script.upgrade(i).check(received)? else {
                return Ok(0);
            };
            used = head;
            self.conns[i].phase = Phase::Opening;
        }
        while let Some(found) = frame::head(received, used)? {
            used = found.end;
            self.tally.frames += 1;
            let payload = &received[found.start..found.end];
            if found.opcode == frame::TEXT && found.mask.is_none() {
                match self.script.namespace.read(payload) {
                    Incoming::Event(array) => {
                        driver.event(i, array, at_ns, &mut self.out);
                        if self.conns[i].phase != Phase::Ready {
                            self.advance(i, &Incoming::Event(array), at_ns, driver)?;
                        }
                    }
                    Incoming::Ack { id, array } if self.conns[i].phase == Phase::Ready => {
                        driver.ack(i, id, array, at_ns, &mut self.out);
                    }
                    packet => self.advance(i, &packet, at_ns, driver)?,
                }
            } else {
                self.control(i, found, payload)?;
            }
        }
        Ok(used)
    }

    #[cold]
    fn control(&mut self, i: usize, found: Head, payload: &[u8]) -> Result<()> {
        match (found.opcode, found.mask) {
            (_, Some(_)) => bail!("a masked frame from the server"),
            // The answer to ours. The server closes the connection next.
            (frame::CLOSE, _) if self.conns[i].phase == Phase::Leaving => {}
            (frame::PING, _) => self.out.frame(frame::PONG, payload),
            (frame::CLOSE, _) => match payload {
                [high, low, reason @ ..] => bail!(
                    "WebSocket close {} {}",
                    u16::from_be_bytes([*high, *low]),
                    String::from_utf8_lossy(reason)
                ),
                _ => bail!("WebSocket close without a code"),
            },
            // Pongs, and attachments of other events.
            _ => {}
        }
        Ok(())
    }

    /// Writes the pending frames of connection `i`.
    fn write_out(&mut self, i: usize) {
        if !self.out.bytes.is_empty() {
            // Reading reports a connection that cannot be written to.
            let _ = self.conns[i].write(&self.out.bytes);
            self.out.bytes.clear();
            if std::mem::take(&mut self.out.goodbye) {
                self.conns[i].phase = Phase::Leaving;
            }
        }
    }

    /// Counts a lost connection and reports it to the driver, or ends the run if it never became ready.
    #[cold]
    fn lost(&mut self, i: usize, reason: &anyhow::Error, driver: &mut impl Driver) -> Result<()> {
        let phase = self.conns[i].phase;
        self.conns[i].close();
        self.out.bytes.clear();
        self.out.goodbye = false;
        let tally = &mut self.tally;
        let (count, first, reason) = match phase {
            Phase::Closed => return Ok(()),
            Phase::Leaving => {
                driver.gone(i, sys::now_ns(), true);
                return Ok(());
            }
            Phase::Ready => {
                let reason = format!("connection {i}: {reason:#}");
                (&mut tally.disconnected, &mut tally.first_disconnect, reason)
            }
            _ => {
                let reason = format!("connection {i}, while {phase:?}: {reason:#}");
                if !self.forgiving {
                    bail!(reason);
                }
                (&mut tally.refused, &mut tally.first_refusal, reason)
            }
        };
        *count += 1;
        first.get_or_insert(reason);
        driver.gone(i, sys::now_ns(), false);
        Ok(())
    }

    /// Takes the next step of the dialogue, or answers a packet outside of it.
    fn advance(
        &mut self,
        i: usize,
        packet: &Incoming<'_>,
        at_ns: u64,
        driver: &mut impl Driver,
    ) -> Result<()> {
        let phase = self.conns[i].phase;
        match (phase, packet) {
            (Phase::Leaving, _) => {}
            (_, Incoming::Ping) => {
                self.tally.pings += 1;
                self.out.text(b"3");
            }
            (_, Incoming::Close) => bail!("Engine.IO close from the server"),
            (_, Incoming::Refused(reason)) => bail!("refused: {reason}"),
            (Phase::Opening, Incoming::Open) => {
                let connect = self.script.connect(i)?;
                self.out.text(connect.as_bytes());
                self.conns[i].phase = Phase::Connecting;
            }
            (Phase::Connecting, Incoming::Connected) => match self.script.join(i) {
                Some(join) => {
                    self.out.text(join.as_bytes());
                    self.conns[i].phase = Phase::Joining;
                }
                None => self.ready(i, at_ns, driver),
            },
            (Phase::Joining, Incoming::Ack { array, .. }) => {
                if text::is_refusal(array) {
                    bail!("join refused: {}", String::from_utf8_lossy(array));
                }
                self.ready(i, at_ns, driver);
            }
            (Phase::Joining, Incoming::Event(array)) => {
                let confirmation = self.script.joined_on.as_deref();
                if confirmation.is_some_and(|name| text::is_event(array, name)) {
                    self.ready(i, at_ns, driver);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ready(&mut self, i: usize, at_ns: u64, driver: &mut impl Driver) {
        let conn = &mut self.conns[i];
        (conn.phase, conn.was_ready) = (Phase::Ready, true);
        self.tally.ready += 1;
        driver.ready(i, at_ns, &mut self.out);
    }
}
