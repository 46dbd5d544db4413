//! Incoming data of a session, from an Engine.IO packet to the resulting work.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;
use shared::eio::Packet;
use shared::sio::{self, Answer, DecodeError, Encoded, Kind};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::repeat::LastConnect;
use super::state::Step;
use super::{Counted, Inner, Session};
use crate::close::CloseReason;
use crate::metrics::{self, BadInput};
use crate::namespace::{Admitted, Called, Connected, HOLD_MAX, REFRESH, Refusal, Work};
use crate::socket::Socket;

impl Session {
    /// Handles one text frame, or one part of a polling body.
    pub(crate) fn receive_text(self: &Arc<Self>, text: &str) -> Work {
        let Ok(packet) = Packet::decode(text) else {
            metrics::get().bad_input(BadInput::EnginePacket);
            return Work::Close(CloseReason::ParseError);
        };
        self.receive(packet)
    }

    /// Handles one packet.
    pub(crate) fn receive(self: &Arc<Self>, packet: Packet<'_>) -> Work {
        metrics::get().packets_received.increment(1);
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return Work::None;
        }
        match inner.state.receive(packet, now) {
            Step::Ignore => {
                // The next ping may be due before the previous timeout.
                self.arm(&mut inner);
                Work::None
            }
            Step::Unsolicited => self.count(&mut inner, Counted::Control, now),
            Step::Meaningless => {
                self.arm(&mut inner);
                self.count(&mut inner, Counted::Ignored, now)
            }
            Step::Close(reason) => {
                if reason != CloseReason::Client {
                    metrics::get().bad_input(BadInput::EnginePacket);
                }
                Work::Close(reason)
            }
            Step::Message(text) => self.receive_packet(inner, text, now),
            Step::Binary(data) => self.receive_attachment(inner, data.into(), now),
        }
    }

    /// Handles one binary frame.
    pub(crate) fn receive_binary(self: &Arc<Self>, data: &[u8]) -> Work {
        self.receive(Packet::Binary(data.to_vec()))
    }

    /// Counts input that asks for nothing; exceeding its rate ends the session.
    pub(crate) fn receive_counted(&self, kind: Counted) -> Work {
        self.count(&mut self.inner.lock(), kind, Instant::now())
    }

    fn count(&self, inner: &mut Inner, kind: Counted, now: Instant) -> Work {
        if inner.closed.is_some() || inner.allowances.take(kind, self.engine.second(now)) {
            return Work::None;
        }
        metrics::get().rate_limited(kind.limit());
        Work::Close(CloseReason::RateLimited)
    }

    fn receive_packet(self: &Arc<Self>, mut guard: MutexGuard<'_, Inner>, text: &str, now: Instant) -> Work {
        let inner = &mut *guard;
        let packet = match inner.reassembly.text(text) {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                // The session buffers nothing for a namespace that it is not in.
                let known = sio::decode(text).is_ok_and(|packet| inner.socket(packet.namespace).is_some());
                if !known {
                    return Work::Close(bad_packet());
                }
                inner.state.reassembling(true, now);
                self.arm(inner);
                self.count_awaited(guard);
                return Work::None;
            }
            Err(error) => return Work::Close(refuse(error)),
        };
        self.act(guard, packet, Vec::new(), now)
    }

    fn receive_attachment(
        self: &Arc<Self>,
        mut guard: MutexGuard<'_, Inner>,
        data: Bytes,
        now: Instant,
    ) -> Work {
        let inner = &mut *guard;
        let whole = match inner.reassembly.binary(data, self.engine.max_payload) {
            Ok(Some(whole)) => whole,
            Ok(None) => {
                self.count_awaited(guard);
                return Work::None;
            }
            Err(error) => return Work::Close(refuse(error)),
        };
        inner.state.reassembling(false, now);
        inner.awaited = None;
        match sio::decode(&whole.text) {
            Ok(packet) => self.act(guard, packet, whole.attachments, now),
            Err(error) => Work::Close(refuse(error)),
        }
    }

    /// Counts the buffer of a message whose attachments are incomplete; this may close the session.
    fn count_awaited(&self, mut guard: MutexGuard<'_, Inner>) {
        let (held, mut awaited) = (guard.reassembly.held(), guard.awaited.take());
        drop(guard);
        self.hold(&mut awaited, held);
        let mut inner = self.inner.lock();
        if inner.closed.is_none() {
            inner.awaited = awaited;
        }
    }

    /// Handles a complete Socket.IO packet.
    fn act(
        self: &Arc<Self>,
        mut guard: MutexGuard<'_, Inner>,
        packet: sio::Packet<'_>,
        attachments: Vec<Bytes>,
        now: Instant,
    ) -> Work {
        let socket = guard.socket(packet.namespace);
        match (packet.kind, socket) {
            (Kind::Connect { auth }, None) => match self.count(&mut guard, Counted::Connect, now) {
                Work::None => {
                    guard.last_connect = self.last_connect(packet.namespace, auth, now);
                    drop(guard);
                    self.connect(packet.namespace, auth)
                }
                over => over,
            },
            (Kind::Connect { auth }, Some(socket))
                if guard.last_connect.is_sent_again(self.last_connect(packet.namespace, auth, now)) =>
            {
                match self.count(&mut guard, Counted::Connect, now) {
                    Work::None => {
                        guard.last_connect = self.last_connect(packet.namespace, auth, now);
                        let leaving = self.let_go(guard, socket, now);
                        self.connect_after(leaving, packet.namespace, auth)
                    }
                    over => over,
                }
            }
            // The socket is disconnected, and its client is about to receive that.
            (Kind::Event { .. }, Some(socket)) if !socket.local().is_attached() => Work::None,
            (Kind::Event { name, args, ack }, Some(socket)) => {
                drop(guard);
                let renews = name == REFRESH;
                let called = Called { name, args, ack, attachments };
                match self.engine.namespaces.dispatch(&socket, called) {
                    Work::Later(work) if renews => {
                        let session = Arc::clone(self);
                        Work::Later(Box::pin(async move {
                            let answer = work.await;
                            // The new token may expire earlier than the old one.
                            session.rearm();
                            answer
                        }))
                    }
                    work => work,
                }
            }
            (Kind::Disconnect, Some(socket)) => Work::Later(Box::pin(self.let_go(guard, socket, now))),
            (Kind::Ack { id, args }, Some(socket)) => {
                drop(guard);
                let acks = &self.engine.namespaces.context().acks;
                let counts = id.is_some_and(|id| {
                    let first = args.raw.first().copied().unwrap_or("null");
                    let answer = Answer::of(first, &attachments).unwrap_or_else(Answer::null);
                    acks.answer(id, socket.id(), answer)
                });
                if counts { Work::None } else { self.receive_counted(Counted::UnaskedAck) }
            }
            (Kind::Connect { .. }, Some(_)) | (_, None) => Work::Close(bad_packet()),
        }
    }

    fn last_connect(&self, namespace: &str, auth: Option<&str>, now: Instant) -> LastConnect {
        LastConnect::of(namespace, auth, self.engine.millisecond(now))
    }

    /// A CONNECT is about to be refused: packets that the client sent before the refusal must not count against it.
    fn note_answer(&self) {
        let at_ms = self.engine.millisecond(Instant::now());
        self.inner.lock().last_connect.answered(at_ms);
    }

    /// The client leaves a namespace.
    fn let_go(
        &self,
        mut guard: MutexGuard<'_, Inner>,
        socket: Arc<Socket>,
        now: Instant,
    ) -> impl Future<Output = Option<Encoded>> + Send + 'static {
        guard.sockets.retain(|other| !Arc::ptr_eq(other, &socket));
        if guard.sockets.is_empty() {
            self.doubt(&mut guard, now);
            self.arm(&mut guard);
        }
        drop(guard);
        self.engine.namespaces.leave(socket, CloseReason::Client)
    }

    /// Joins a namespace after the session's previous socket in it has left.
    fn connect_after(
        self: &Arc<Self>,
        leaving: impl Future<Output = Option<Encoded>> + Send + 'static,
        namespace: &str,
        auth: Option<&str>,
    ) -> Work {
        match self.connect(namespace, auth) {
            Work::Later(connecting) => Work::Later(Box::pin(async move {
                leaving.await;
                connecting.await
            })),
            // Unreachable: the namespace exists.
            work => work,
        }
    }

    /// Ends a socket that a backend disconnects. When this returns, no further broadcast reaches the socket. The
    /// returned handle ends when the disconnect packet is queued, after everything that was broadcast before.
    pub(crate) async fn end(self: &Arc<Self>, socket: Arc<Socket>) -> JoinHandle<()> {
        let context = self.engine.namespaces.context();
        context.fanout.expel(socket.local()).await;
        // The answer to its CONNECT may still be pending.
        self.queue.end_hold();
        let session = Arc::clone(self);
        context.tasks.spawn(async move {
            session.engine.namespaces.leave_before_end(&socket, CloseReason::Forced).await;
            session.dismiss(&socket);
        })
    }

    fn connect(self: &Arc<Self>, namespace: &str, auth: Option<&str>) -> Work {
        let Some(app) = self.engine.namespaces.find(namespace) else {
            let refusal = sio::encode_connect_error(namespace, "Invalid namespace", None);
            return Work::Reply(refusal);
        };
        let token = self.engine.namespaces.token_of(auth, &self.handshake);
        let session = Arc::clone(self);
        Work::Later(Box::pin(async move {
            let namespaces = &session.engine.namespaces;
            let prove = || session.prove_token();
            let admitted = namespaces.admit(&app, (token, &session.handshake), &prove).await;
            match admitted.and_then(|admitted| session.join(admitted)) {
                Ok(Some(connected)) => {
                    session.welcome(connected).await;
                    None
                }
                // Nobody reads an answer.
                Ok(None) => None,
                Err(Refusal::Answer(refusal)) => {
                    session.note_answer();
                    session.doubt_if_alone();
                    Some(refusal)
                }
                Err(Refusal::ComeBack) => {
                    session.close(CloseReason::NoKeySet);
                    None
                }
            }
        }))
    }

    /// Lets the apps place a socket in its rooms. Its client receives the CONNECT answer when that is done, or when its
    /// time is up.
    async fn welcome(&self, connected: Connected) {
        let Connected { socket, hold } = connected;
        let namespaces = &self.engine.namespaces;
        if hold.is_none() {
            return namespaces.welcome(&socket).await;
        }
        let mut welcome = std::pin::pin!(namespaces.welcome(&socket));
        if timeout(HOLD_MAX, &mut welcome).await.is_err() {
            tracing::debug!(socket = %socket.id(), "connected a client before its rooms are known");
            drop(hold);
            welcome.await;
        }
    }

    /// A CONNECT presented a valid token. False if the session has closed or lost its slot meanwhile.
    fn prove_token(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.closed.is_none() && self.prove(&mut inner)
    }

    /// A CONNECT was refused: a session in no namespace becomes pending.
    fn doubt_if_alone(&self) {
        let mut inner = self.inner.lock();
        if inner.closed.is_none() && inner.sockets.is_empty() {
            self.engine.sessions.doubt(&mut inner.place, self.handshake.origin, self.id);
        }
    }

    /// Publishes the socket of an admitted client in one step: as soon as the socket can be found, this session has it
    /// and the CONNECT answer is queued. `None` if the session has closed or joined the namespace meanwhile.
    fn join(&self, admitted: Admitted<'_>) -> Result<Option<Connected>, Refusal> {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() || inner.socket(admitted.namespace()).is_some() {
            return Ok(None);
        }
        // Repeated: the client may have left its last other namespace during this join.
        if !self.prove(&mut inner) {
            return Ok(None);
        }
        // Packets that the client sent before the answer must not count against it.
        inner.last_connect.answered(self.engine.millisecond(Instant::now()));
        let connected = admitted.enter(&self.queue)?;
        inner.sockets.push(Arc::clone(&connected.socket));
        inner.state.connected();
        self.arm(&mut inner);
        Ok(Some(connected))
    }
}

/// A well-formed Socket.IO packet in the wrong place.
fn bad_packet() -> CloseReason {
    metrics::get().bad_input(BadInput::SocketPacket);
    CloseReason::Forced
}

fn refuse(error: DecodeError) -> CloseReason {
    metrics::get().bad_input(BadInput::SocketPacket);
    match error {
        DecodeError::TooBig => CloseReason::TooBig,
        DecodeError::Malformed
        | DecodeError::Attachments
        | DecodeError::OutOfOrder
        | DecodeError::Placeholder
        | DecodeError::Depth => CloseReason::Forced,
    }
}
