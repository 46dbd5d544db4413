//! A session: one Engine.IO connection of a client, on any transport.
//!
//! [`Session`] combines the pure state machine ([`state`]), the send queue and the session's sockets. It holds its lock
//! for decoding and lookups, never across an await, a handler or a write. Transports pass input to
//! [`Session::receive_text`] and [`Session::receive_binary`] one item at a time, in order, and do what the
//! [`Work`](crate::namespace::Work) says before they pass the next. That keeps a client's events in order.

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
use futures_util::future::join_all;
use parking_lot::Mutex;
use shared::eio::TransportName;
use shared::ids::{SessionId, SocketId};
use shared::limits::{OUTBOX_AGE_MAX_MS, POLLING_LINGER_MS, STRANGER_INPUT_MAX_BYTES};
use shared::sio::{Reassembly, encode_disconnect};
use shared::ws;
use smallvec::SmallVec;
use tokio::sync::oneshot;

use allowances::Allowances;
pub(crate) use allowances::Counted;
pub(crate) use deadlines::Deadlines;
pub(crate) use engine::Engine;
pub(crate) use input::{HeldBody, Holding, Inputs, Standing};
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
    /// Unique among the node's sessions.
    number: u64,
    /// The client has joined a namespace at least once.
    is_known: AtomicBool,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    place: Place,
    reassembly: Reassembly,
    /// The buffer of a message with awaited attachments, as the budget counts it.
    awaited: Option<Box<Holding>>,
    allowances: Allowances,
    sockets: SmallVec<[Arc<Socket>; 1]>,
    last_connect: LastConnect,
    closed: Option<CloseReason>,
    /// When the wheel entry that counts fires; for a closed session, when it ends.
    armed: Option<Instant>,
    /// A handler is running; nothing is read until it ends.
    busy: bool,
    /// A WebSocket probes, or is about to.
    probed: bool,
    /// Dropped when the session closes, because then a probing WebSocket has nothing to take over.
    prober: Option<oneshot::Sender<()>>,
    /// A POST whose body is still arriving. Dropped when the session closes and nothing can receive its packets; sent
    /// to when a WebSocket takes over.
    uploading: Option<oneshot::Sender<()>>,
    /// Dropped when the POST in progress ends: a WebSocket waits to take over.
    posted: Option<oneshot::Sender<()>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A text as an unmasked WebSocket frame.
pub(crate) fn text_frame(text: &str) -> Bytes {
    let mut wire = Vec::new();
    ws::push_frame(&mut wire, ws::OP_TEXT, text.as_bytes());
    wire.into()
}

/// `6`, which releases a GET.
pub(crate) const NOOP: Bytes = Bytes::from_static(&[0x81, 1, b'6']);
const PING: Bytes = Bytes::from_static(&[0x81, 1, b'2']);
/// `1`, which ends a session.
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

    /// Whether the client has joined a namespace since the handshake, which requires a valid token.
    pub(crate) fn standing(&self) -> Standing {
        if self.is_known.load(Ordering::Acquire) { Standing::Proven } else { Standing::Stranger }
    }

    /// Maximum bytes of one message or body.
    pub(crate) fn max_input(&self) -> usize {
        match self.standing() {
            Standing::Stranger => self.engine.max_payload.min(STRANGER_INPUT_MAX_BYTES),
            Standing::Proven => self.engine.max_payload,
        }
    }

    /// The client presented a valid token: the session can no longer be evicted. False if it was evicted meanwhile.
    fn prove(&self, inner: &mut Inner) -> bool {
        let proven = self.engine.sessions.prove(&mut inner.place, self.handshake.origin);
        if proven && !self.is_known.swap(true, Ordering::AcqRel) {
            self.queue.set_narrow(false);
        }
        proven
    }

    /// The client left its last namespace: the session can be evicted.
    fn doubt(&self, inner: &mut Inner, now: Instant) {
        inner.state.disconnected(now);
        self.engine.sessions.doubt(&mut inner.place, self.handshake.origin, self.id);
    }

    /// Whether the session was evicted before it joined a namespace.
    pub(crate) fn was_evicted(&self) -> bool {
        self.inner.lock().closed == Some(CloseReason::Evicted)
    }

    /// Whether the session was closed because the node had no room for its unfinished message.
    pub(crate) fn was_overloaded(&self) -> bool {
        self.inner.lock().closed == Some(CloseReason::Overloaded)
    }

    /// Runs `change` on the state machine and arms an earlier deadline if there is one.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut inner = self.inner.lock();
        let result = change(&mut inner.state);
        self.arm(&mut inner);
        result
    }

    fn arm(&self, inner: &mut Inner) {
        let mut at = inner.state.next_deadline();
        // Sockets that are being ended have had their deadline.
        let lasting = inner.sockets.iter().filter(|socket| !socket.has_expired());
        let expiry = lasting.map(|socket| socket.expires_at()).min();
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
        if let Some(armed) = inner.armed.filter(|armed| *armed > now) {
            // A stale entry, since another deadline has replaced it. If the session is closed, it may also be the entry
            // for its end: one that was added after the process had been frozen fires early.
            if inner.closed.is_some() {
                self.engine.deadlines.add(self.id, armed);
            }
            return;
        }
        inner.armed = None;
        if inner.closed.is_some() {
            drop(inner);
            self.forget();
            return;
        }
        let mut close = None;
        while let Some(due) = inner.state.due(now) {
            match due {
                Due::Ping => self.queue.send_first(PING),
                Due::UpgradeTimeout => {}
                // The client's pong may have arrived and be waiting behind the handler.
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
        if close.is_some() {
            // All of them end with the session.
            expired.clear();
        }
        // They stay in the session until their client receives the disconnect packet, so events that it sends until
        // then do not close the session.
        expired.retain(|socket| socket.set_expired());
        let are_all = !expired.is_empty() && inner.sockets.iter().all(|socket| socket.has_expired());
        self.arm(&mut inner);
        drop(inner);
        if are_all {
            self.close_expired(expired);
        } else {
            expired.into_iter().for_each(|socket| self.expire(socket));
        }
        if let Some(reason) = close {
            self.close(reason);
        }
    }

    /// Ends a socket whose token has expired while the session has others: sends `41`, after everything sent to it
    /// before.
    fn expire(self: &Arc<Self>, socket: Arc<Socket>) {
        tracing::debug!(socket = %socket.id(), user = %socket.user(), "token expired");
        let session = Arc::clone(self);
        drop(self.engine.namespaces.context().tasks.spawn(async move {
            drop(session.end(socket).await);
        }));
    }

    /// Closes a session whose sockets have all expired, after they have left. A client that receives a disconnect
    /// packet stays away; a client that loses its connection reconnects, with the token that its `auth` then returns.
    fn close_expired(self: &Arc<Self>, sockets: SmallVec<[Arc<Socket>; 1]>) {
        let session = Arc::clone(self);
        drop(self.engine.namespaces.context().tasks.spawn(async move {
            let namespaces = &session.engine.namespaces;
            for socket in &sockets {
                namespaces.context().fanout.expel(socket.local()).await;
            }
            let leaving =
                sockets.iter().map(|socket| namespaces.leave_before_end(socket, CloseReason::TokenExpired));
            join_all(leaving).await;
            session.close(CloseReason::TokenExpired);
        }));
    }

    /// Does what is due before the wheel gets to it, so that a lookup right after a deadline sees its effect.
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

    /// A deadline moved earlier: the client read only a part of its queue, or renewed a token.
    pub(crate) fn rearm(&self) {
        self.arm(&mut self.inner.lock());
    }

    /// Removes a socket from the session, which keeps its others, and sends the disconnect packet. Does nothing if the
    /// client has left.
    fn dismiss(&self, socket: &Socket) {
        {
            let mut inner = self.inner.lock();
            let Some(at) = inner.sockets.iter().position(|other| other.id() == socket.id()) else { return };
            inner.sockets.remove(at);
            // Queued before packets that the client still sends to the namespace can close its connection.
            self.queue.send(encode_disconnect(socket.namespace().as_str()).into_wire(), 1);
            if inner.sockets.is_empty() {
                self.doubt(&mut inner, Instant::now());
                self.arm(&mut inner);
            }
        }
        self.queue.flush();
    }

    /// One of its sockets.
    pub(crate) fn socket(&self, id: SocketId) -> Option<Arc<Socket>> {
        self.inner.lock().sockets.iter().find(|socket| socket.id() == id).cloned()
    }

    /// Ids of its sockets.
    pub(crate) fn sockets(&self) -> Vec<SocketId> {
        self.inner.lock().sockets.iter().map(|socket| socket.id()).collect()
    }

    /// Records that a handler runs, or has ended.
    pub(crate) fn set_busy(&self, busy: bool) {
        self.inner.lock().busy = busy;
    }

    /// Ends the session. Its sockets leave, and the client is notified if it is still reachable. Only the first call
    /// has an effect.
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
                // The session waits for its last GET until then.
                let until = Instant::now() + Duration::from_millis(POLLING_LINGER_MS);
                self.engine.deadlines.add(self.id, until);
                inner.armed = Some(until);
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

    /// Writes the queued packets and ends the server's direction of the connection, with or without a close frame.
    fn end_websocket(&self, reason: CloseReason) {
        match reason {
            // The client is gone or reads nothing.
            CloseReason::TransportClose | CloseReason::TransportError | CloseReason::SlowConsumer => {
                self.queue.abort();
            }
            CloseReason::Evicted => {
                // Last attempt to write: the connection must not wait for a client who does not read.
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

    /// Removes a closed session from the table.
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
        // This GET has its packets, but its task has not recorded that yet.
        session.close(CloseReason::ConnectTimeout);
        session.taken(&packets);
        assert!(is_known(&session), "the next GET must still receive the end");
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
    async fn a_session_that_its_client_closed_waits_for_no_get() {
        use CloseReason::{Client, ParseError, PingTimeout, TransportError};
        for reason in [Client, ParseError, TransportError, PingTimeout] {
            let session = polling_session().await;
            session.close(reason);
            assert!(!is_known(&session), "{reason:?}");
        }
    }
}
