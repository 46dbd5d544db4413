//! What comes in on a session, from an Engine.IO packet to the work it asks for.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use parking_lot::MutexGuard;
use shared::eio::Packet;
use shared::sio::{self, DecodeError, Kind};

use super::state::Step;
use super::{Inner, Session};
use crate::close::CloseReason;
use crate::metrics::{self, BadInput, Limit};
use crate::namespace::{Called, REFRESH, Work};
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
            Step::Unsolicited => self.meter_control(&mut inner, now),
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

    /// A WebSocket ping or pong has come; more than a few a second end the session.
    pub(crate) fn receive_control(&self) -> Work {
        self.meter_control(&mut self.inner.lock(), Instant::now())
    }

    fn meter_control(&self, inner: &mut Inner, now: Instant) -> Work {
        match self.engine.control_rate {
            Some(rate) if !inner.control.take(rate, now) => {
                metrics::get().rate_limited(Limit::ControlFrames);
                Work::Close(CloseReason::RateLimited)
            }
            _ => Work::None,
        }
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
            (Kind::Connect { auth }, None) => {
                drop(guard);
                self.connect(packet.namespace, auth)
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
            (Kind::Disconnect, Some(socket)) => {
                guard.sockets.retain(|other| !Arc::ptr_eq(other, &socket));
                if guard.sockets.is_empty() {
                    self.doubt(&mut guard, now);
                    self.arm(&mut guard);
                }
                drop(guard);
                let namespaces = &self.engine.namespaces;
                Work::Later(Box::pin(namespaces.leave(socket, CloseReason::Client)))
            }
            (Kind::Ack { id, args }, Some(socket)) => {
                drop(guard);
                if let Some(id) = id {
                    // Binary in an answer has no place in a list of answers.
                    let first = args.raw.first().copied().filter(|_| attachments.is_empty());
                    let acks = &self.engine.namespaces.context().acks;
                    acks.answer(id, socket.id(), first.unwrap_or("null"));
                }
                Work::None
            }
            (Kind::Connect { .. }, Some(_)) | (_, None) => Work::Close(bad_packet()),
        }
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
            let joined = namespaces.connect(&app, token, &session.handshake, (&session.outbox, &prove)).await;
            let (socket, reply) = match joined {
                Ok(joined) => joined,
                Err(refusal) => {
                    session.doubt_if_alone();
                    return Some(refusal);
                }
            };
            if session.join(&socket) {
                // Before anything else can be emitted to the socket by an app.
                session.outbox.send(reply.into_wire(), 1);
                namespaces.welcome(&socket).await;
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
