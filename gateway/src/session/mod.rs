//! A session: one Engine.IO connection of a client, whatever transport carries it.
//!
//! [`Session`] joins the pure machine ([`state`]), the send queue and the session's sockets. Its lock is held
//! for decoding and looking things up, never over an await, a handler or a write. Transports call
//! [`Session::receive_text`] and [`Session::receive_binary`] with what came, one at a time and in order, and
//! do what the [`Work`](crate::namespace::Work) says before they bring the next: that is what keeps a client's events in order.

mod allowances;
mod deadlines;
mod engine;
mod input;
mod receive;
mod repeat;
mod requests;
mod state;
mod table;
mod upgrade;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use fanout::SendQueue;
use parking_lot::Mutex;
use shared::eio::TransportName;
use shared::ids::{SessionId, SocketId};
use shared::limits::{OUTBOX_AGE_MAX_MS, POLLING_LINGER_MS, STRANGER_INPUT_MAX_BYTES};
use shared::sio::Reassembly;
use shared::ws;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use allowances::Allowances;
pub(crate) use allowances::Counted;
pub(crate) use deadlines::Deadlines;
pub(crate) use engine::Engine;
pub(crate) use input::{Holding, Inputs, Standing};
use repeat::LastConnect;
pub(crate) use requests::Uploading;
pub(crate) use state::Refused;
use state::{Due, State};
use table::Place;
pub(crate) use table::{Bounds, Full, SessionTable};
pub(crate) use upgrade::{ProbeSeat, TakeOver};

use crate::close::CloseReason;
use crate::metrics;
use crate::namespace::Handshake;
use crate::socket::Socket;

/// One Engine.IO connection.
pub(crate) struct Session {
    id: SessionId,
    queue: Arc<SendQueue>,
    engine: Arc<Engine>,
    handshake: Handshake,
    /// No other session of the node has it.
    number: u64,
    /// It has joined a namespace before.
    is_known: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    place: Place,
    reassembly: Reassembly,
    /// What is kept for attachments that are awaited, as the budget counts it.
    awaited: Option<Box<Holding>>,
    allowances: Allowances,
    sockets: SmallVec<[Arc<Socket>; 1]>,
    last_connect: LastConnect,
    closed: Option<CloseReason>,
    /// When the entry in the wheel fires that counts.
    armed: Option<Instant>,
    /// A handler is under way, and nothing is read before it has ended.
    busy: bool,
    /// A WebSocket probes, or is about to.
    probed: bool,
    /// Dropped when the session closes: a WebSocket that probes has nothing to take over then.
    prober: Option<oneshot::Sender<()>>,
    /// A POST that is still coming in: dropped when the session closes and has nobody to bring its packets to, sent to when
    /// a WebSocket takes over.
    uploading: Option<oneshot::Sender<()>>,
    /// Dropped when the POST that is under way has ended: a WebSocket waits to take over.
    posted: Option<oneshot::Sender<()>>,
    /// Until when a closed polling session waits for its last GET.
    linger_until: Option<Instant>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A text as a server's frame.
pub(crate) fn text_frame(text: &str) -> Bytes {
    let mut wire = Vec::new();
    ws::push_frame(&mut wire, ws::OP_TEXT, text.as_bytes());
    wire.into()
}

/// `6`, which releases a GET.
pub(crate) const NOOP: Bytes = Bytes::from_static(&[0x81, 1, b'6']);
const PING: Bytes = Bytes::from_static(&[0x81, 1, b'2']);
/// `1`, the end of a session.
pub(crate) const CLOSE: Bytes = Bytes::from_static(&[0x81, 1, b'1']);

impl Session {
    pub(crate) fn id(&self) -> SessionId {
        self.id
    }

    pub(crate) fn queue(&self) -> &Arc<SendQueue> {
        &self.queue
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    pub(crate) fn transport(&self) -> TransportName {
        self.inner.lock().state.transport()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }

    /// Whether its client has joined a namespace since the handshake, which takes a valid token.
    pub(crate) fn standing(&self) -> Standing {
        if self.is_known.load(Ordering::Acquire) { Standing::Proven } else { Standing::Stranger }
    }

    /// Bytes that one message or body of it may have.
    pub(crate) fn max_input(&self) -> usize {
        match self.standing() {
            Standing::Stranger => self.engine.max_payload.min(STRANGER_INPUT_MAX_BYTES),
            Standing::Proven => self.engine.max_payload,
        }
    }

    /// A valid token was shown: from now on the place is the session's own. False when it was evicted meanwhile.
    fn prove(&self, inner: &mut Inner) -> bool {
        let proven = self.engine.sessions.prove(&mut inner.place, self.handshake.origin);
        if proven && !self.is_known.swap(true, Ordering::AcqRel) {
            self.queue.set_narrow(false);
        }
        proven
    }

    /// The last namespace was left: others may need the place.
    fn doubt(&self, inner: &mut Inner, now: Instant) {
        inner.state.disconnected(now);
        self.engine.sessions.doubt(&mut inner.place, self.handshake.origin, self.id);
    }

    /// Whether it had to go for others before it joined a namespace.
    pub(crate) fn was_evicted(&self) -> bool {
        self.inner.lock().closed == Some(CloseReason::Evicted)
    }

    /// Whether it was closed because the node has no room for its unfinished message.
    pub(crate) fn was_overloaded(&self) -> bool {
        self.inner.lock().closed == Some(CloseReason::Overloaded)
    }

    /// Runs `change` on the machine and sees to it that a new, earlier deadline is kept.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner.state);
        self.arm(&mut inner);
        result
    }

    fn arm(&self, inner: &mut Inner) {
        let mut at = inner.state.next_deadline();
        let expiry = inner.sockets.iter().map(|socket| socket.expires_at()).min();
        at = expiry.map_or(at, |expiry| expiry.min(at));
        if let Some(since) = self.queue.blocked_since() {
            at = at.min(since.into_std() + OUTBOX_AGE);
        }
        if inner.closed.is_none() && inner.armed.is_none_or(|armed| at < armed) {
            inner.armed = Some(self.engine.deadlines.add(self.id, at));
        }
    }

    fn on_deadline(self: &Arc<Self>, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.armed.is_some_and(|armed| armed > now) {
            // An entry that an earlier deadline has overtaken.
            return;
        }
        inner.armed = None;
        if inner.closed.is_some() {
            match inner.linger_until.filter(|until| *until > now) {
                Some(until) => inner.armed = Some(self.engine.deadlines.add(self.id, until)),
                None => {
                    drop(inner);
                    self.forget();
                }
            }
            return;
        }
        let mut close = None;
        while let Some(due) = inner.state.due(now) {
            match due {
                Due::Ping => self.queue.send_first(PING),
                Due::UpgradeTimeout => {}
                // Its pong may have come and wait behind the handler.
                Due::Close(CloseReason::PingTimeout) if inner.busy => inner.state.excuse(now),
                Due::Close(reason) => {
                    close = Some(reason);
                    break;
                }
            }
        }
        let age = self.queue.blocked_since().map(|since| now.saturating_duration_since(since.into_std()));
        if self.queue.has_overflowed() || age.is_some_and(|age| age >= OUTBOX_AGE) {
            close = Some(CloseReason::SlowConsumer);
        }
        let mut expired: SmallVec<[Arc<Socket>; 1]> =
            inner.sockets.iter().filter(|socket| socket.expires_at() <= now).cloned().collect();
        if !expired.is_empty() && expired.len() == inner.sockets.len() {
            // A client that is told that a namespace has ended stays away. One that has lost its connection comes back, with
            // the token that its `auth` gives then.
            close = close.or(Some(CloseReason::TokenExpired));
            expired.clear();
        }
        inner.sockets.retain(|socket| !expired.iter().any(|other| Arc::ptr_eq(other, socket)));
        self.arm(&mut inner);
        drop(inner);
        for socket in expired {
            self.engine.namespaces.expire(socket);
        }
        if let Some(reason) = close {
            self.close(reason);
        }
    }

    /// Does what is due, where the wheel has not come to it yet: whoever asks in the moment after a deadline finds it kept.
    pub(crate) fn look(self: &Arc<Self>, now: Instant) {
        {
            let mut inner = self.inner.lock();
            if inner.closed.is_some() || inner.state.next_deadline() > now {
                return;
            }
            inner.armed = None;
        }
        self.on_deadline(now);
    }

    /// Something has an earlier deadline now: the socket took less than everything, or a token was renewed.
    pub(crate) fn rearm(&self) {
        self.arm(&mut self.inner.lock());
    }

    /// Takes a socket out of the session, which stays for others: the server ends it.
    pub(crate) fn release(&self, id: SocketId) -> Option<Arc<Socket>> {
        let mut inner = self.inner.lock();
        let at = inner.sockets.iter().position(|socket| socket.id() == id)?;
        let socket = inner.sockets.remove(at);
        if inner.sockets.is_empty() {
            self.doubt(&mut inner, Instant::now());
            self.arm(&mut inner);
        }
        Some(socket)
    }

    /// One of its sockets.
    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<Socket>> {
        self.inner.lock().sockets.iter().find(|socket| socket.id() == id).cloned()
    }

    /// Ids of its sockets.
    pub(crate) fn sockets(&self) -> Vec<SocketId> {
        self.inner.lock().sockets.iter().map(|socket| socket.id()).collect()
    }

    /// A handler is under way, or has ended.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.inner.lock().busy = busy;
    }

    /// Ends the session. Its sockets leave, and the client is told as far as it can still be reached.
    /// Only the first call does anything.
    pub(crate) fn close(&self, reason: CloseReason) {
        let (transport, sockets, getting, place) = {
            let mut inner = self.inner.lock();
            if inner.closed.is_some() {
                return;
            }
            inner.closed = Some(reason);
            (inner.prober, inner.uploading, inner.posted) = (None, None, None);
            let transport = inner.state.transport();
            if transport == TransportName::Polling && reason.lingers() {
                let linger = Instant::now() + Duration::from_millis(POLLING_LINGER_MS);
                inner.linger_until = Some(linger);
                inner.armed = Some(self.engine.deadlines.add(self.id, linger));
            }
            (inner.reassembly, inner.awaited) = (Reassembly::default(), None);
            (transport, std::mem::take(&mut inner.sockets), inner.state.is_getting(), inner.place)
        };
        metrics::get().closed(reason.plain());
        metrics::get().connections(transport).decrement(1);
        tracing::debug!(session = self.id.short(), reason = reason.as_str(), "session closed");
        self.engine.sessions.release(place, self.handshake.origin);
        match transport {
            TransportName::WebSocket => {
                self.engine.sessions.remove(self.id);
                self.end_websocket(reason);
            }
            TransportName::Polling => self.end_polling(reason, getting),
        }
        for socket in sockets {
            let context = self.engine.namespaces.context();
            drop(context.tasks.spawn(self.engine.namespaces.leave(socket, reason)));
        }
    }

    /// Writes what waits, and ends our direction of the connection: after a close frame, or without one.
    fn end_websocket(&self, reason: CloseReason) {
        match reason {
            // Nobody is there, or nobody takes what waits.
            CloseReason::TransportClose | CloseReason::TransportError | CloseReason::SlowConsumer => {
                self.queue.abort();
            }
            CloseReason::Evicted => {
                // Written now or never: its connection must not wait for a client who does not read.
                self.queue.finish(None);
                self.queue.flush();
                self.queue.abort();
            }
            CloseReason::Shutdown => {
                self.queue.finish(None);
                // The flushers end with the node.
                self.queue.flush();
            }
            _ => self.queue.finish(reason.close_frame()),
        }
    }

    /// Takes a closed session out of the table.
    pub(crate) fn forget(&self) {
        self.queue.abort();
        self.engine.sessions.remove(self.id);
    }
}

impl Inner {
    fn socket(&self, namespace: &str) -> Option<Arc<Socket>> {
        self.sockets.iter().find(|socket| socket.namespace().as_str() == namespace).cloned()
    }
}

const OUTBOX_AGE: Duration = Duration::from_millis(OUTBOX_AGE_MAX_MS);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::task::Waker;

    use fanout::Polled;
    use shared::config::{Config, Layers};

    use super::deadlines::TICK;
    use super::*;
    use crate::context::Context;
    use crate::limiter::Origin;
    use crate::namespace::{Namespaces, Token};

    async fn polling_session() -> Arc<Session> {
        let config: Config = Layers::new(crate::apps::declarations()).resolve().unwrap();
        let context = Context::alone(&[]).await;
        let namespaces = Namespaces::new(context, Vec::new(), &config.auth, 0).unwrap();
        let sessions = SessionTable::new(Bounds::default());
        let engine = Arc::new(Engine::new(config.times, 1_000, sessions, Inputs::new(0, 0), namespaces));
        let origin = Origin { address: Ipv4Addr::LOCALHOST.into(), connection: 0 };
        let handshake = Handshake { origin, token: Token::of_handshake(None, None) };
        let session = engine.open(TransportName::Polling, handshake).unwrap();
        assert!(matches!(poll(&session), Polled::Packets(_)), "the open packet");
        session
    }

    fn poll(session: &Session) -> Polled {
        session.queue().poll_packets(Waker::noop())
    }

    fn is_known(session: &Session) -> bool {
        session.engine().sessions.get(session.id()).is_some()
    }

    #[tokio::test]
    async fn the_end_of_a_session_is_not_lost_behind_a_get_that_has_its_packets() {
        let session = polling_session().await;
        session.begin_get().unwrap();
        session.queue().push(text_frame("4x"), 1);
        let Polled::Packets(packets) = poll(&session) else { panic!("a packet") };
        // This GET has what it will answer, and its task has not come to say so.
        session.close(CloseReason::ConnectTimeout);
        session.taken(&packets);
        assert!(is_known(&session), "the next GET is still to be told");
        session.begin_get().unwrap();
        assert_eq!(poll(&session), Polled::Packets(vec![CLOSE]));
        session.taken(&[CLOSE]);
        assert!(!is_known(&session));
    }

    #[tokio::test]
    async fn the_last_packets_wait_for_a_get_so_long_and_no_longer() {
        let session = polling_session().await;
        session.close(CloseReason::Shutdown);
        let linger = Duration::from_millis(POLLING_LINGER_MS);
        session.engine().tick(Instant::now() + linger - Duration::from_secs(1)).await;
        assert!(is_known(&session));
        session.engine().tick(Instant::now() + linger + 3 * TICK).await;
        assert!(!is_known(&session));
        assert_eq!(poll(&session), Polled::Ended);
    }

    #[tokio::test]
    async fn who_has_left_is_not_waited_for() {
        use CloseReason::{Client, ParseError, PingTimeout, TransportError};
        for reason in [Client, ParseError, TransportError, PingTimeout] {
            let session = polling_session().await;
            session.close(reason);
            assert!(!is_known(&session), "{reason:?}");
        }
    }
}
