//! A session's WebSocket: one small task that reads.
//!
//! The task reads into a buffer that all tasks of its worker share, and keeps bytes only while a message is incomplete
//! or a handler runs, so an idle connection holds no buffer. The send queue writes; the task helps when the socket is
//! full, and writes at once what its own client waits for. [`Turn`] bounds the work of one poll, so that no client
//! monopolizes the worker.

use std::cell::RefCell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use fanout::Status;
use futures_util::future::BoxFuture;
use shared::limits::{HANDLER_COST, LINGER_MS, OUTBOX_AGE_MAX_MS, PARTIAL_READ_BYTES, READ_MAX_BYTES};
use shared::sio::Encoded;
use shared::ws::{self, Decoder, Received, Role};
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::Sleep;

use super::places::{Lingering, Seat};
use super::turn::{Turn, wake_later};
use crate::close::CloseReason;
use crate::metrics::{self, BadInput};
use crate::namespace::Work;
use crate::session::{Counted, Holding, Session, Standing};

/// How long a closed connection waits for the client to close its side, so that a reset does not cut off the last
/// bytes.
const LINGER: Duration = Duration::from_millis(LINGER_MS);

/// After so many frames their answers are written, so that a client who reads is not taken for one who does not.
const FRAMES_PER_FLUSH: u32 = 256;

/// How long a closed session waits for its client to read the last bytes.
const PATIENCE: Duration = Duration::from_millis(OUTBOX_AGE_MAX_MS);

thread_local! {
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_MAX_BYTES].into_boxed_slice());
}

/// The task of a WebSocket.
pub(super) struct Connection {
    session: Arc<Session>,
    read: OwnedReadHalf,
    decoder: Decoder,
    /// Received but not processed: an incomplete frame, or bytes that wait for `work` or for the next turn.
    unread: Vec<u8>,
    /// The send queue knows the task's waker.
    is_attached: bool,
    /// `unread` was left at the end of a turn: nothing more is read until it is processed.
    behind: bool,
    /// Frames processed since their answers were last written.
    unflushed: u32,
    /// The running handler; nothing more is read until it ends.
    work: Option<BoxFuture<'static, Option<Encoded>>>,
    /// The node has closed its direction; how long it waits for the client's.
    linger: Option<Pin<Box<Sleep>>>,
    /// `unread` and the decoder's buffer, as the node's budget counts them.
    holding: Option<Box<Holding>>,
    /// The node has closed its direction, so another connection may take the slot.
    lingering: Option<Box<Lingering>>,
    /// The listener's slot, held as long as the connection.
    place: Arc<Seat>,
}

// With more, the runtime's allocation for the task, which is aligned to 128 bytes, grows from 256 to 384.
#[cfg(target_pointer_width = "64")]
const _: () = assert!(size_of::<Connection>() <= 136);

/// How to continue.
#[derive(Debug, PartialEq, Eq)]
enum Flow {
    Read,
    /// A handler runs.
    Wait,
    /// The session is closed.
    Stop,
}

impl Connection {
    /// The task for a stream that the session's packets are written to from now on.
    pub(super) fn new(session: Arc<Session>, stream: TcpStream, unread: Vec<u8>, place: Arc<Seat>) -> Self {
        let decoder = Decoder::new(Role::Server, session.max_input());
        let (read, write) = stream.into_split();
        session.queue().attach_stream(write);
        Self {
            session,
            read,
            decoder,
            unread,
            is_attached: false,
            behind: true,
            unflushed: 0,
            work: None,
            linger: None,
            holding: None,
            lingering: None,
            place,
        }
    }

    /// Does everything that can be done now within one turn.
    fn turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.is_attached {
            self.session.queue().attach_task(cx.waker().clone());
            self.is_attached = true;
        }
        let mut turn = Turn::new();
        loop {
            if turn.is_over() {
                wake_later(cx);
                return Poll::Pending;
            }
            match self.session.queue().status() {
                Status::Open => {}
                Status::Closed if self.session.is_closed() => return self.end(cx, turn),
                // Nothing can be written to this client any more. Packets that it sent before are still handled: the
                // session closes when reading reaches their end.
                Status::Closed => {}
                status @ (Status::Blocked | Status::BlockedAtEnd) => {
                    self.session.rearm();
                    let gives_up = status == Status::BlockedAtEnd
                        && (self.session.standing() == Standing::Stranger
                            || self.linger(PATIENCE).poll(cx).is_ready());
                    if gives_up {
                        self.session.queue().abort();
                        continue;
                    }
                    let stream: &TcpStream = self.read.as_ref();
                    if let Poll::Ready(ready) = stream.poll_write_ready(cx) {
                        match ready {
                            Ok(()) => self.session.queue().resume(),
                            Err(_) => self.lost(CloseReason::TransportError),
                        }
                        continue;
                    }
                }
            }
            if let Some(work) = &mut self.work {
                let reply = ready!(work.as_mut().poll(cx));
                self.work = None;
                self.session.set_busy(false);
                self.decoder.set_max(self.session.max_input());
                if let Some(reply) = reply {
                    self.session.queue().push(reply.into_wire(), 1);
                }
                self.behind = true;
            }
            if self.behind {
                self.process_unread(cx, &mut turn);
                continue;
            }
            ready!(self.read(cx, &mut turn));
        }
    }

    /// Reads once and handles the input.
    fn read(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> Poll<()> {
        BUFFER.with_borrow_mut(|buffer| {
            // An unauthenticated client must not make the node buffer much.
            let most = READ_MAX_BYTES.min(self.session.max_input());
            let mut received = ReadBuf::new(buffer.get_mut(..most).unwrap_or_default());
            let outcome = ready!(Pin::new(&mut self.read).poll_read(cx, &mut received));
            let count = received.filled().len();
            match outcome {
                Ok(()) if count == 0 => self.lost(CloseReason::TransportClose),
                Err(_) => self.lost(CloseReason::TransportError),
                Ok(()) => {
                    metrics::get().bytes_received.increment(count as u64);
                    let used = if self.unread.is_empty() {
                        let used = self.process_frames(received.filled_mut(), cx, turn);
                        let rest = received.filled().get(used..).unwrap_or_default();
                        if !rest.is_empty() {
                            self.unread = rest.to_vec();
                        }
                        used
                    } else {
                        self.unread.extend_from_slice(received.filled());
                        self.process_unread(cx, turn)
                    };
                    turn.spend_read(count);
                    if used == 0 && count < PARTIAL_READ_BYTES {
                        let work = self.session.receive_counted(Counted::PartialRead);
                        self.start_work(work, cx);
                    }
                    self.count_held();
                }
            }
            Poll::Ready(())
        })
    }

    /// Counts the buffer of an incomplete message against the node's budget.
    fn count_held(&mut self) {
        let held = self.unread.len() + self.decoder.held();
        if held != 0 || self.holding.is_some() {
            self.session.hold(&mut self.holding, held);
        }
    }

    /// The client is gone: discards the queued packets, even if the session was closed before.
    fn lost(&self, reason: CloseReason) {
        self.session.close(reason);
        self.session.queue().abort();
    }

    /// Processes earlier input. The buffer stays, so that a frame that arrives byte by byte is copied once. Returns how
    /// many bytes were processed.
    fn process_unread(&mut self, cx: &mut Context<'_>, turn: &mut Turn) -> usize {
        let mut unread = std::mem::take(&mut self.unread);
        let used = self.process_frames(&mut unread, cx, turn);
        if used < unread.len() {
            unread.drain(..used);
            self.unread = unread;
        }
        used
    }

    /// Processes whole frames until there are no more, a handler runs or the turn is over, and writes what the client
    /// waits for. Returns how many bytes were processed.
    fn process_frames(&mut self, bytes: &mut [u8], cx: &mut Context<'_>, turn: &mut Turn) -> usize {
        let mut used = 0;
        self.behind = false;
        while let Some(rest) = bytes.get_mut(used..).filter(|rest| !rest.is_empty()) {
            if turn.is_over() {
                self.behind = true;
                return used;
            }
            let work = match self.decoder.next(rest) {
                Ok(None) => break,
                Ok(Some((count, received))) => {
                    used += count;
                    turn.spend_packet(count);
                    act(&self.session, &received)
                }
                Err(fault) => {
                    metrics::get().bad_input(BadInput::WebSocketFrame);
                    Work::Close(CloseReason::Fault(fault))
                }
            };
            if matches!(work, Work::Later(_)) {
                turn.spend(HANDLER_COST);
            }
            match self.start_work(work, cx) {
                Flow::Read => {}
                Flow::Wait => break,
                // Nothing more is processed.
                Flow::Stop => return bytes.len(),
            }
            self.unflushed += 1;
            if self.unflushed >= FRAMES_PER_FLUSH {
                self.flush();
            }
        }
        self.flush();
        used
    }

    fn flush(&mut self) {
        self.unflushed = 0;
        self.session.queue().flush();
    }

    fn start_work(&mut self, work: Work, cx: &mut Context<'_>) -> Flow {
        let reply = match work {
            Work::None => None,
            Work::Reply(reply) => Some(reply),
            Work::Later(mut work) => match work.as_mut().poll(cx) {
                Poll::Ready(reply) => {
                    // It may have been the first CONNECT.
                    self.decoder.set_max(self.session.max_input());
                    reply
                }
                Poll::Pending => {
                    self.work = Some(work);
                    self.session.set_busy(true);
                    return Flow::Wait;
                }
            },
            Work::Close(reason) => {
                self.session.close(reason);
                return Flow::Stop;
            }
        };
        if let Some(reply) = reply {
            self.session.queue().push(reply.into_wire(), 1);
        }
        Flow::Read
    }

    /// Waits for the client after the end of its session; the first call sets how long.
    fn linger(&mut self, at_most: Duration) -> Pin<&mut Sleep> {
        self.linger.get_or_insert_with(|| Box::pin(tokio::time::sleep(at_most))).as_mut()
    }

    /// The node's direction is closed: discards input until the client has closed its own.
    fn end(&mut self, cx: &mut Context<'_>, mut turn: Turn) -> Poll<()> {
        self.session.close(CloseReason::TransportClose);
        if let Some(work) = self.work.take() {
            // A disconnect of the client must not cut off a running handler.
            drop(self.session.engine().namespaces.context().tasks.spawn(work));
        }
        (self.unread, self.holding) = (Vec::new(), None);
        let place = &self.place;
        let lingering = self.lingering.get_or_insert_with(|| Box::new(place.linger()));
        let displaced = Pin::new(&mut lingering.displaced).poll(cx).is_ready();
        if displaced || self.session.was_evicted() || self.linger(LINGER).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        BUFFER.with_borrow_mut(|buffer| {
            while !turn.is_over() {
                let mut received = ReadBuf::new(buffer);
                match ready!(Pin::new(&mut self.read).poll_read(cx, &mut received)) {
                    Ok(()) if !received.filled().is_empty() => turn.spend_read(received.filled().len()),
                    Ok(()) | Err(_) => return Poll::Ready(()),
                }
            }
            wake_later(cx);
            Poll::Pending
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // However the task ends, the session ends with it.
        self.lost(CloseReason::TransportClose);
    }
}

impl Future for Connection {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.get_mut().turn(cx)
    }
}

fn act(session: &Arc<Session>, received: &Received<'_>) -> Work {
    match received {
        Received::Text(text) => session.receive_text(text),
        Received::Binary(data) => session.receive_binary(data),
        Received::Fragment => session.receive_counted(Counted::Fragment),
        Received::Close(_) => Work::Close(CloseReason::Client),
        Received::Pong => session.receive_counted(Counted::Control),
        Received::Ping(payload) => {
            let mut pong = Vec::new();
            ws::push_frame(&mut pong, ws::OP_PONG, payload);
            session.queue().push(pong.into(), 1);
            session.receive_counted(Counted::Control)
        }
    }
}
