//! What comes in on a session, from an Engine.IO packet to the work it asks for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;
use shared::eio::Packet;
use shared::sio::{self, Answer, DecodeError, Encoded, Kind};

use super::repeat::LastConnect;
use super::state::Step;
use super::{Counted, Inner, Session};
use crate::close::CloseReason;
use crate::metrics::{self, BadInput};
use crate::namespace::{Called, REFRESH, Refusal, Work};
use crate::socket::Socket;

impl Session {
    /// One text frame, or one part of a polling body, has come.
    pub(crate) fn receive_text(self: &Arc<Self>, text: &str) -> Work {
        let Ok(packet) = Packet::decode(text) else {
            metrics::get().bad_input(BadInput::EnginePacket);
            return Work::Close(CloseReason::ParseError);
        };
        self.receive(packet)
    }

    /// One packet has come.
    pub(crate) fn receive(self: &Arc<Self>, packet: Packet<'_>) -> Work {
        metrics::get().packets_received.increment(1);
        let now = Instant::now();
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return Work::None;
        }
        match inner.state.receive(packet, now) {
            Step::Ignore => {
                // The next ping may be due before the timeout of the last would have been.
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

    /// One binary frame has come.
    pub(crate) fn receive_binary(self: &Arc<Self>, data: &[u8]) -> Work {
        self.receive(Packet::Binary(data.to_vec()))
    }

    /// Something has come that is counted and asks for nothing; more of it than its rate allows ends the session.
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
                // Nothing is kept for a namespace that the session is not in.
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

    /// Counts what is kept for attachments that have not come yet; the session may be closed for it.
    fn count_awaited(&self, mut guard: MutexGuard<'_, Inner>) {
        let (held, mut awaited) = (guard.reassembly.held(), guard.awaited.take());
        drop(guard);
        self.hold(&mut awaited, held);
        let mut inner = self.inner.lock();
        if inner.closed.is_none() {
            inner.awaited = awaited;
        }
    }

    /// A whole Socket.IO packet.
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
            (Kind::Event { name, args, ack }, Some(socket)) => {
                drop(guard);
                let renews = name == REFRESH;
                let called = Called { name, args, ack, attachments };
                match self.engine.namespaces.dispatch(&socket, called) {
                    Work::Later(work) if renews => {
                        let session = Arc::clone(self);
                        Work::Later(Box::pin(async move {
                            let answer = work.await;
                            // The new token may end earlier than the old one.
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

    /// A CONNECT is about to be answered: what was sent before that is not handled yet.
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

    /// Joins a namespace when the socket that the session had in it has left.
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
            // There is no such namespace, which cannot be.
            work => work,
        }
    }

    /// Ends a socket that a backend disconnects. When this has ended nothing that is broadcast reaches it any more, and its
    /// client has been told behind everything that was broadcast before.
    pub(crate) async fn end(&self, socket: Arc<Socket>) {
        let fanout = &self.engine.namespaces.context().fanout;
        fanout.expel(socket.local()).await;
        fanout.emit(socket.local(), sio::encode_disconnect(socket.namespace().as_str()));
        // Before what the client still sends to the namespace ends its connection.
        self.queue.flush();
        self.release(socket.id());
        let tasks = &self.engine.namespaces.context().tasks;
        // Even where its client has left meanwhile: what follows may have been left to this.
        drop(tasks.spawn(self.engine.namespaces.leave(socket, CloseReason::Forced)));
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
            let joined = namespaces.connect(&app, token, &session.handshake, (&session.queue, &prove)).await;
            session.note_answer();
            let (socket, reply) = match joined {
                Ok(joined) => joined,
                Err(Refusal::Answer(refusal)) => {
                    session.doubt_if_alone();
                    return Some(refusal);
                }
                Err(Refusal::ComeBack) => {
                    session.close(CloseReason::NoKeySet);
                    return None;
                }
            };
            if session.join(&socket) {
                // Before anything else can be emitted to the socket by an app.
                session.queue.send(reply.into_wire(), 1);
                if socket.local().is_attached() {
                    namespaces.welcome(&socket).await;
                } else {
                    // A backend has disconnected it meanwhile.
                    session.end(socket).await;
                }
            } else {
                namespaces.leave(socket, CloseReason::TransportClose).await;
            }
            None
        }))
    }

    /// A CONNECT has brought a valid token. False when the session has closed or lost its place meanwhile.
    fn prove_token(&self) -> bool {
        let mut inner = self.inner.lock();
        inner.closed.is_none() && self.prove(&mut inner)
    }

    /// A CONNECT was refused: whoever is in no namespace is pending.
    fn doubt_if_alone(&self) {
        let mut inner = self.inner.lock();
        if inner.closed.is_none() && inner.sockets.is_empty() {
            self.engine.sessions.doubt(&mut inner.place, self.handshake.origin, self.id);
        }
    }

    /// Takes a connected socket in; false when the session has closed or joined the namespace meanwhile.
    fn join(&self, socket: &Arc<Socket>) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() || inner.socket(socket.namespace().as_str()).is_some() {
            return false;
        }
        // Again: the last other namespace may have been left while this one was joined.
        if !self.prove(&mut inner) {
            return false;
        }
        inner.sockets.push(Arc::clone(socket));
        inner.state.connected();
        self.arm(&mut inner);
        true
    }
}

/// A Socket.IO packet that is well-formed and out of place.
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
