//! The floor: the least that a server can do to fan out, as a baseline for other servers.
//!
//! One thread, one epoll, no runtime. It supports just enough Engine.IO and Socket.IO over WebSocket for the scenarios of
//! this crate: upgrade, open, CONNECT to any namespace without checking the token, `join`, `leave` and `echo` with an ack,
//! `publish`, pings. A broadcast is encoded once and passed to the kernel once per member, by a `send` at once, or
//! (`--coalesce`) together with everything else at the end of the round.
//!
//! It leaves out what the servers under test are measured for: limits, timeouts, polling, any checks, and members in more
//! than one room (a second join moves the connection).

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::floor::fault::Injection;
use crate::floor::lines::{Line, Lines};
use crate::floor::packet::{Packet, Publish};
use crate::floor::rooms::Rooms;
use crate::frame;
use crate::output;
use crate::sys;
use crate::upgrade;

mod fault;
mod lines;
mod packet;
mod rooms;

const LISTENER: Token = Token(usize::MAX);
const BACKLOG: i32 = 4096;
const EVENTS: usize = 1024;
/// The upper bound of one read and of one message.
const READ_BYTES: usize = 2 << 20;
const PING_INTERVAL_NS: u64 = 25_000_000_000;

/// The flags of `loadtest floor`.
#[derive(Args, Debug)]
pub(crate) struct FloorArgs {
    /// Where to listen; port 0 takes a free one. The address is printed when it serves.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,

    /// One `send` per member for everything published in a round, instead of one per broadcast.
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "room"
    )]
    coalesce: Option<Coalesce>,

    /// Inject faults to test the tester: drop, duplicate, reorder, misroute or corrupt every n-th delivery, such as
    /// drop:1000.
    #[arg(long, value_name = "KIND:N")]
    inject: Option<Injection>,
}

/// Where publishes of a round wait for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Coalesce {
    /// In one buffer for the whole room: the cheapest way.
    Room,
    /// In one buffer per connection, into which every delivery is copied.
    Connection,
}

/// Serves until the process is ended.
pub(crate) fn run(args: &FloorArgs) -> Result<bool> {
    sys::raise_file_limit()?;
    let mut floor = Floor::bind(args).with_context(|| format!("listening on {}", args.listen))?;
    output::line(&format!("listening {}", floor.listener.local_addr()?));
    loop {
        floor.round()?;
    }
}

struct Floor {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    lines: Lines,
    rooms: Rooms,
    coalesce: Option<Coalesce>,
    inject: Option<Injection>,
    ping_at_ns: u64,
    buf: Box<[u8]>,
    /// Scratch space for the answers of one read, and for one broadcast.
    reply: Vec<u8>,
    text: Vec<u8>,
}

impl Floor {
    fn bind(args: &FloorArgs) -> Result<Self> {
        let domain = Domain::for_address(args.listen);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        // Accepted sockets inherit it, which saves a call for each.
        socket.set_tcp_nodelay(true)?;
        socket.bind(&args.listen.into())?;
        socket.listen(BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS),
            listener,
            lines: Lines::default(),
            rooms: Rooms::default(),
            coalesce: args.coalesce,
            inject: args.inject.clone(),
            ping_at_ns: sys::now_ns() + PING_INTERVAL_NS,
            buf: vec![0; READ_BYTES].into_boxed_slice(),
            reply: Vec::new(),
            text: Vec::new(),
        })
    }

    /// Waits for events and handles them.
    fn round(&mut self) -> Result<()> {
        let left = self.ping_at_ns.saturating_sub(sys::now_ns());
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(Duration::from_nanos(left))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            outcome => outcome?,
        }
        for event in &events {
            if event.token() == LISTENER {
                self.accept()?;
                continue;
            }
            let id = event.token().0;
            if event.is_writable() {
                self.lines.flush(id);
            }
            if event.is_readable() || event.is_read_closed() || event.is_error() {
                self.read(id);
            }
        }
        self.events = events;
        match self.coalesce {
            None => {}
            Some(Coalesce::Room) => self.rooms.flush(&mut self.lines),
            Some(Coalesce::Connection) => self.lines.flush_pending(),
        }
        if left == 0 {
            self.ping();
        }
        Ok(())
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut stream, _)) => {
                    let id = self.lines.next_id();
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut stream, Token(id), interest)?;
                    self.lines.open(id, stream);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // The peer has gone already; and without free descriptors the other connections are still served.
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => return Ok(()),
                Err(_) => {}
            }
        }
    }

    fn close(&mut self, id: usize) {
        if let Some(line) = self.lines.close(id) {
            self.rooms.leave(line.seat, &mut self.lines);
        }
    }

    /// Reads and answers all available bytes, or closes the connection.
    fn read(&mut self, id: usize) {
        let mut buf = std::mem::take(&mut self.buf);
        if self.read_into(id, &mut buf).is_err() {
            self.reply.clear();
            self.close(id);
        }
        self.buf = buf;
    }

    fn read_into(&mut self, id: usize, buf: &mut [u8]) -> Result<()> {
        loop {
            let Some(line) = self.lines.get(id) else {
                return Ok(());
            };
            let kept = line.take_torn(buf);
            let got = match line.stream.read(&mut buf[kept..]) {
                Ok(0) => bail!("closed"),
                Ok(got) => got,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    line.keep_torn(&buf[..kept]);
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            };
            let filled = kept + got;
            let used = self.frames(id, &mut buf[..filled])?;
            if !self.reply.is_empty() {
                self.lines.send(id, &self.reply);
                self.reply.clear();
            }
            let torn = &buf[used..filled];
            if torn.len() == buf.len() {
                bail!("too long");
            }
            if let Some(line) = self.lines.get(id) {
                line.keep_torn(torn);
            }
            if filled < buf.len() {
                return Ok(());
            }
        }
    }

    /// Handles every complete frame. Returns where the first incomplete one begins.
    fn frames(&mut self, id: usize, received: &mut [u8]) -> Result<usize> {
        let mut used = 0;
        if self.lines.get(id).is_some_and(|line| !line.upgraded) {
            let Some((head, answer)) = upgrade::answer(received)? else {
                return Ok(0);
            };
            self.open(id, &answer);
            used = head;
        }
        while let Some(found) = frame::head(received, used)? {
            used = found.end;
            let payload = &mut received[found.start..found.end];
            let Some(mask) = found.mask else {
                bail!("unmasked");
            };
            frame::apply_mask(payload, mask);
            match found.opcode {
                frame::TEXT => self.packet(id, payload)?,
                frame::PING => frame::write_plain(&mut self.reply, frame::PONG, payload),
                frame::CLOSE => bail!("closed"),
                _ => {}
            }
        }
        Ok(used)
    }

    fn open(&mut self, id: usize, answer: &str) {
        self.reply.extend_from_slice(answer.as_bytes());
        let open = format!(
            r#"0{{"sid":"{id:020}","upgrades":[],"pingInterval":{},"pingTimeout":20000,"maxPayload":1000000}}"#,
            PING_INTERVAL_NS / 1_000_000
        );
        frame::write_plain(&mut self.reply, frame::TEXT, open.as_bytes());
        if let Some(line) = self.lines.get(id) {
            line.upgraded = true;
        }
    }

    fn packet(&mut self, id: usize, text: &[u8]) -> Result<()> {
        match packet::read(text)? {
            Packet::Connect { tag } => {
                let reply = format!(r#"40{tag}{{"sid":"s{id:019}"}}"#);
                frame::write_plain(&mut self.reply, frame::TEXT, reply.as_bytes());
            }
            Packet::Join { tag, ack, room } => {
                let line = self.lines.get(id).map(Line::place);
                if let Some((fd, seat)) = line {
                    self.rooms.leave(seat, &mut self.lines);
                    let seat = self.rooms.enter(&format!("{tag}{room}"), id, fd);
                    if let Some(line) = self.lines.get(id) {
                        line.seat = seat;
                    }
                }
                if let Some(ack) = ack {
                    let room = serde_json::to_string(&room)?;
                    self.acknowledge(tag, ack, &format!(r#"{{"success":true,"room":{room}}}"#));
                }
            }
            // A connection is in at most one room, so there is only one to leave.
            Packet::Leave { tag, ack } => {
                if let Some(line) = self.lines.get(id) {
                    let seat = std::mem::replace(&mut line.seat, rooms::Seat::NONE);
                    self.rooms.leave(seat, &mut self.lines);
                }
                if let Some(ack) = ack {
                    self.acknowledge(tag, ack, r#"{"success":true}"#);
                }
            }
            Packet::Echo { tag, ack, data } => self.acknowledge(tag, ack, data),
            Packet::Publish(publish) => self.publish(&publish)?,
            Packet::Other => {}
        }
        Ok(())
    }

    fn publish(&mut self, publish: &Publish<'_>) -> Result<()> {
        let Publish { tag, ack, body } = publish;
        self.text.clear();
        publish.write_event(&mut self.text)?;
        let Some(room) = self.rooms.find(&format!("{tag}{}", body.room)) else {
            return Ok(());
        };
        let (rooms, lines) = (&mut self.rooms, &mut self.lines);
        match (&mut self.inject, self.coalesce) {
            (Some(injection), _) => injection.broadcast(rooms, room, &self.text, lines),
            (None, None) => rooms.broadcast(room, &self.text, |to, frame| lines.send_to(to, frame)),
            (None, Some(Coalesce::Room)) => rooms.push(room, &self.text),
            (None, Some(Coalesce::Connection)) => {
                rooms.broadcast(room, &self.text, |to, frame| lines.push(to, frame));
            }
        }
        if let Some(ack) = ack {
            self.acknowledge(tag, ack, r#"{"success":true}"#);
        }
        Ok(())
    }

    /// Acknowledges an event that requested it.
    fn acknowledge(&mut self, tag: &str, ack: &str, data: &str) {
        self.text.clear();
        for part in ["43", tag, ack, "[", data, "]"] {
            self.text.extend_from_slice(part.as_bytes());
        }
        frame::write_plain(&mut self.reply, frame::TEXT, &self.text);
    }

    /// Pings all clients at once. A client that does not answer keeps its connection: the load tester counts the loss itself.
    fn ping(&mut self) {
        let mut ping = Vec::new();
        frame::write_plain(&mut ping, frame::TEXT, b"2");
        self.lines.send_all(&ping);
        self.ping_at_ns = sys::now_ns() + PING_INTERVAL_NS;
    }
}

impl Line {
    /// What a room keeps of a connection, and its current seat.
    fn place(&mut self) -> (std::os::fd::RawFd, rooms::Seat) {
        (self.stream.as_raw_fd(), self.seat)
    }
}
