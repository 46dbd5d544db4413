//! Thousands of Socket.IO connections on one thread, at little cost per received frame.
//!
//! One epoll, one large read buffer for all connections, frames parsed where the kernel put them, and
//! a driver that is compiled in and not called through a table. A connection is read once per
//! readiness: a read that leaves room in the buffer has emptied the socket.
//!
//! ```text
//! dial → upgrade → 0{open} → 40/ns,{auth} → 40/ns,{sid} → 42/ns,1["join",…] → 43/ns,1[…] → events
//! ```
//!
//! A failure before the last step ends the run with its reason; a connection lost later is counted.

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
use crate::text::{self, Incoming};

mod conn;
mod connect;
mod dial;
pub(crate) mod script;
pub(crate) mod url;

/// As much as one read may bring, and as large as a message can be. Only what a read fills is touched,
/// so its size costs nothing.
const READ_BYTES: usize = 2 << 20;
/// Few enough that a due publish does not wait long behind a full round.
const EVENTS: usize = 256;
const ALARM: Token = Token(usize::MAX);

/// What the connections are for.
pub(crate) trait Driver {
    /// One event of the namespace came on a connection: its array from `[` on, and when the read that
    /// brought it returned. What is put into `out` is written when all frames of the read are seen.
    fn event(&mut self, conn: usize, array: &[u8], at_ns: u64, out: &mut Outgoing);
}

/// Frames on their way to one connection.
#[derive(Debug)]
pub(crate) struct Outgoing {
    bytes: Vec<u8>,
    masks: u64,
}

impl Outgoing {
    /// `seed` begins the sequence of frame masks.
    pub(crate) fn new(seed: u64) -> Self {
        Self { bytes: Vec::new(), masks: seed | 1 }
    }

    /// Adds one text message.
    pub(crate) fn text(&mut self, packet: &[u8]) {
        self.frame(frame::TEXT, packet);
    }

    fn frame(&mut self, opcode: u8, payload: &[u8]) {
        // Masks guard proxies against chosen bytes; here they need only differ (xorshift).
        self.masks ^= self.masks << 13;
        self.masks ^= self.masks >> 7;
        self.masks ^= self.masks << 17;
        let [a, b, c, d, ..] = self.masks.to_ne_bytes();
        frame::write_masked(&mut self.bytes, opcode, payload, [a, b, c, d]);
    }

    /// What was added since it was last taken.
    #[cfg(test)]
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// Counts over all connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Connections that have reached [`Phase::Ready`], whether or not they are still there.
    pub(crate) ready: usize,
    /// WebSocket frames received after the upgrade.
    pub(crate) frames: u64,
    /// Engine.IO pings answered.
    pub(crate) pings: u64,
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
    /// What the alarm is set to: most rounds wait for the same instant as the one before.
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

    /// Waits for something to happen, until `until_ns` at the latest, and deals with all that has.
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

    /// Sends what `fill` puts out, on one connection.
    pub(crate) fn send(&mut self, conn: usize, fill: impl FnOnce(&mut Outgoing)) {
        fill(&mut self.party.out);
        self.party.write_out(conn);
    }
}

impl Party {
    fn wake(&mut self, event: &Event, driver: &mut impl Driver) -> Result<()> {
        let i = event.token().0;
        let conn = &mut self.conns[i];
        if conn.phase == Phase::Dialing && !self.dialed(i, event)? {
            return Ok(());
        }
        let conn = &mut self.conns[i];
        if event.is_writable()
            && let Err(error) = conn.flush()
        {
            return self.lost(i, &anyhow!(error));
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            // Taken out for the time of the call, so that frames in it can be passed on while the rest
            // of `self` changes.
            let mut buf = std::mem::take(&mut self.buf);
            let outcome = self.read(i, &mut buf, driver);
            self.buf = buf;
            if let Err(reason) = outcome {
                return self.lost(i, &reason);
            }
        }
        Ok(())
    }

    /// Reads all there is. An `Err` is the reason why this connection is of no more use.
    fn read(&mut self, i: usize, buf: &mut [u8], driver: &mut impl Driver) -> Result<()> {
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
            if filled < buf.len() {
                return Ok(());
            }
        }
    }

    /// Passes on every whole frame in `received` and returns where the first torn one begins.
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
                            self.advance(i, &Incoming::Event(array))?;
                        }
                    }
                    packet => self.advance(i, &packet)?,
                }
            } else {
                self.control(found, payload)?;
            }
        }
        Ok(used)
    }

    #[cold]
    fn control(&mut self, found: Head, payload: &[u8]) -> Result<()> {
        match (found.opcode, found.mask) {
            (_, Some(_)) => bail!("a masked frame from the server"),
            (frame::PING, _) => self.out.frame(frame::PONG, payload),
            (frame::CLOSE, _) => match payload {
                [high, low, reason @ ..] => bail!(
                    "WebSocket close {} {}",
                    u16::from_be_bytes([*high, *low]),
                    String::from_utf8_lossy(reason)
                ),
                _ => bail!("WebSocket close without a code"),
            },
            // Pongs, and attachments of events that are not ours.
            _ => {}
        }
        Ok(())
    }

    /// Writes what has been put out, on connection `i`.
    fn write_out(&mut self, i: usize) {
        if !self.out.bytes.is_empty() {
            // A connection that cannot be written to will say so when it is read.
            let _ = self.conns[i].write(&self.out.bytes);
            self.out.bytes.clear();
        }
    }

    /// Counts a lost connection, or ends the run if it never became ready.
    #[cold]
    fn lost(&mut self, i: usize, reason: &anyhow::Error) -> Result<()> {
        let phase = self.conns[i].phase;
        self.conns[i].close();
        self.out.bytes.clear();
        match phase {
            Phase::Ready => {
                self.tally.disconnected += 1;
                if self.tally.first_disconnect.is_none() {
                    self.tally.first_disconnect = Some(format!("connection {i}: {reason:#}"));
                }
                Ok(())
            }
            Phase::Closed => Ok(()),
            _ => Err(anyhow!("connection {i}, while {phase:?}: {reason:#}")),
        }
    }

    /// Takes the next step of the dialogue, or answers what comes outside of it.
    fn advance(&mut self, i: usize, packet: &Incoming<'_>) -> Result<()> {
        let phase = self.conns[i].phase;
        match (phase, packet) {
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
                None => self.ready(i),
            },
            (Phase::Joining, Incoming::Ack(answer)) => {
                if text::is_refusal(answer) {
                    bail!("join refused: {}", String::from_utf8_lossy(answer));
                }
                self.ready(i);
            }
            (Phase::Joining, Incoming::Event(array)) => {
                let confirmation = self.script.joined_on.as_deref();
                if confirmation.is_some_and(|name| text::is_event(array, name)) {
                    self.ready(i);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn ready(&mut self, i: usize) {
        self.conns[i].phase = Phase::Ready;
        self.tally.ready += 1;
    }
}
