//! Long-polling: a GET waits for packets, a POST sends some (protocol, 1.5).

use std::future::poll_fn;
use std::io::Write as _;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use fanout::Polled;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use shared::eio::{HandshakeError, Packet, Payload, push_polling};
use shared::limits::{BODY_MAX_MS, HANDLER_COST};

use super::turn::Turn;
use super::{Guest, plain, refuse};
use crate::close::CloseReason;
use crate::metrics::{self, BadInput};
use crate::namespace::Work;
use crate::session::{CLOSE, NOOP, Refused, Session, Uploading};

/// Bodies of at least so many bytes are compressed, as in the reference implementation.
const GZIP_MIN: usize = 1_024;

/// The answer to a handshake: the open packet.
pub(super) fn opened(session: &Session) -> Response<Body> {
    match session.queue().poll_packets(Waker::noop()) {
        Polled::Packets(packets) => packets_body(&packets, &HeaderMap::new()),
        Polled::Nothing | Polled::Ended => refuse(HandshakeError::UnknownSession),
    }
}

/// A GET in progress. Dropped unanswered if the client disconnects, which ends the session.
struct Get<'a> {
    session: &'a Session,
    answered: bool,
}

impl Drop for Get<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.session.close(CloseReason::TransportError);
            self.session.end_get();
        }
    }
}

/// Waits for packets and takes all of them.
pub(super) async fn get(session: &Arc<Session>, request: &HeaderMap) -> Response<Body> {
    let release = match session.begin_get() {
        Ok(release) => release,
        Err(Refused::NotPolling) => return refuse(HandshakeError::BadRequest),
        Err(Refused::Overlapping) => {
            session.close(CloseReason::TransportError);
            return plain(StatusCode::BAD_REQUEST);
        }
    };
    let mut get = Get { session, answered: false };
    let packets = poll_fn(|cx| match session.queue().poll_packets(cx.waker()) {
        Polled::Packets(packets) => Poll::Ready(packets),
        // During a WebSocket's probe no GET may wait: the client upgrades when its last one has ended.
        Polled::Nothing if release => Poll::Ready(vec![NOOP]),
        Polled::Nothing => Poll::Pending,
        Polled::Ended if session.queue().has_overflowed() => {
            session.close(CloseReason::SlowConsumer);
            Poll::Ready(Vec::new())
        }
        Polled::Ended if session.is_closed() => Poll::Ready(session.farewell()),
        // A WebSocket has taken over.
        Polled::Ended if session.is_upgraded_unprobed() => Poll::Ready(vec![CLOSE]),
        Polled::Ended => Poll::Ready(vec![NOOP]),
    })
    .await;
    get.answered = true;
    session.taken(&packets);
    if packets.is_empty() {
        return refuse(HandshakeError::UnknownSession);
    }
    packets_body(&packets, request)
}

fn packets_body(packets: &[Bytes], request: &HeaderMap) -> Response<Body> {
    let mut body = String::with_capacity(packets.iter().map(Bytes::len).sum());
    for packet in packets {
        push_polling(&mut body, packet);
    }
    let zipped = if body.len() >= GZIP_MIN && accepts_gzip(request) { gzip(body.as_bytes()) } else { None };
    let is_zipped = zipped.is_some();
    let mut response = Response::new(zipped.map_or_else(|| Body::from(body), Body::from));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=UTF-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if is_zipped {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    let Some(accepted) = headers.get(header::ACCEPT_ENCODING).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    accepted.split(',').any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        coding.trim() == "gzip" && weight.trim().trim_start_matches("q=").parse() != Ok(0.0_f32)
    })
}

fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// A POST in progress. Dropped before its packets are handled if the client disconnects, which ends the session.
struct Post {
    session: Arc<Session>,
    received: bool,
}

impl Drop for Post {
    fn drop(&mut self) {
        self.session.set_busy(false);
        self.session.end_post();
        if !self.received {
            self.session.close(CloseReason::TransportError);
        }
    }
}

/// Handles the packets of a body, and answers after the last one.
pub(super) async fn post(
    session: &Arc<Session>,
    request: Request<Incoming>,
    guest: &Guest,
) -> Response<Body> {
    let uploading = match session.begin_post() {
        Ok(uploading) => uploading,
        Err(Refused::NotPolling) => return refuse(HandshakeError::BadRequest),
        Err(Refused::Overlapping) => {
            session.close(CloseReason::TransportError);
            return plain(StatusCode::BAD_REQUEST);
        }
    };
    let mut post = Post { session: Arc::clone(session), received: false };
    let octets = HeaderValue::from_static("application/octet-stream");
    if request.headers().get(header::CONTENT_TYPE) == Some(&octets) {
        return bad_body(post);
    }
    let body = match upload(session, request.into_body(), guest, uploading).await {
        Ok(body) => body,
        Err(Unread::TooLarge) => {
            // The session stays: the stock client closes it by itself.
            post.received = true;
            metrics::get().bad_input(BadInput::Payload);
            return closing(StatusCode::PAYLOAD_TOO_LARGE);
        }
        Err(Unread::TakenOver) => {
            // Further packets arrive on the WebSocket.
            post.received = true;
            return closing(StatusCode::BAD_REQUEST);
        }
        Err(Unread::Broken) if session.was_overloaded() => {
            let mut response = closing(StatusCode::SERVICE_UNAVAILABLE);
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            return response;
        }
        Err(Unread::Broken) => return closing(StatusCode::BAD_REQUEST),
        Err(Unread::Late) => return closing(StatusCode::REQUEST_TIMEOUT),
    };
    post.received = true;
    metrics::get().bytes_received.increment(body.len() as u64);
    let tasks = &session.engine().namespaces.context().tasks;
    // A separate task, so that the packets are handled even if the client disconnects meanwhile.
    let handled = tasks.spawn(async move {
        let good = receive(&post.session, &body).await;
        (good, post)
    });
    match handled.await {
        Ok((true, post)) => {
            drop(post);
            let mut response = Response::new(Body::from("ok"));
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
            headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Ok((false, _)) => plain(StatusCode::BAD_REQUEST),
        Err(_) => plain(StatusCode::INTERNAL_SERVER_ERROR),
    }
}

fn bad_body(mut post: Post) -> Response<Body> {
    metrics::get().bad_input(BadInput::Payload);
    post.received = true;
    post.session.close(CloseReason::ParseError);
    closing(StatusCode::BAD_REQUEST)
}

/// A status for a request whose body is not read completely.
fn closing(status: StatusCode) -> Response<Body> {
    let mut response = plain(status);
    response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    response
}

enum Unread {
    TooLarge,
    Broken,
    Late,
    /// A WebSocket has taken the session over.
    TakenOver,
}

/// Reads a body as long as the session needs it.
async fn upload(
    session: &Session,
    body: Incoming,
    guest: &Guest,
    uploading: Uploading,
) -> Result<Bytes, Unread> {
    let deadline = Duration::from_millis(BODY_MAX_MS);
    tokio::select! {
        collected = tokio::time::timeout(deadline, collect(session, body, guest)) => {
            let body = collected.unwrap_or(Err(Unread::Late))?;
            if session.uploaded() || session.is_closed() { Ok(body) } else { Err(Unread::TakenOver) }
        }
        ended = uploading => Err(if ended.is_ok() { Unread::TakenOver } else { Unread::Broken }),
    }
}

/// Reads a body of at most the allowed size.
async fn collect(session: &Session, mut body: Incoming, guest: &Guest) -> Result<Bytes, Unread> {
    let (max, mut holding) = (session.max_input(), None);
    if body.size_hint().lower() > max as u64 {
        return Err(Unread::TooLarge);
    }
    let mut read = BytesMut::new();
    let mut turn = Turn::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Unread::Broken)?;
        let Ok(data) = frame.into_data() else { continue };
        turn.spend_read(data.len());
        turn.pass().await;
        if read.len() + data.len() > max {
            return Err(Unread::TooLarge);
        }
        read.extend_from_slice(&data);
        if guest.is_trusted() {
            session.hold(&mut holding, read.len());
        } else {
            guest.hold_body(read.len());
        }
    }
    Ok(read.freeze())
}

/// Whether a POST that ended the session is refused. A body that is valid Engine.IO is acknowledged, whatever its
/// Socket.IO packets caused: the client's GET reports the end as a `transport close` (protocol, 2.3). A refusal could
/// overtake that GET and would be a `transport error`.
fn is_malformed(reason: CloseReason) -> bool {
    matches!(reason, CloseReason::ParseError | CloseReason::TooBig)
}

fn spend(turn: &mut Turn, packet: &Packet<'_>) {
    turn.spend_packet(match packet {
        Packet::Message(text) => text.len(),
        Packet::Binary(data) => data.len(),
        Packet::Open
        | Packet::Close
        | Packet::Ping
        | Packet::PingProbe
        | Packet::Pong
        | Packet::Upgrade
        | Packet::Noop => 0,
    });
}

/// Handles the packets of a body one after the other; false if the body must be refused. Yields to other tasks in
/// between, because a body may have thousands of packets.
async fn receive(session: &Arc<Session>, body: &Bytes) -> bool {
    let Ok(text) = str::from_utf8(body) else {
        metrics::get().bad_input(BadInput::Payload);
        session.close(CloseReason::ParseError);
        return false;
    };
    let mut turn = Turn::new();
    for packet in Payload::new(text) {
        turn.pass().await;
        let Ok(packet) = packet else {
            metrics::get().bad_input(BadInput::EnginePacket);
            session.close(CloseReason::ParseError);
            return false;
        };
        spend(&mut turn, &packet);
        let reply = match session.receive(packet) {
            Work::None => None,
            Work::Reply(reply) => Some(reply),
            Work::Later(work) => {
                turn.spend(HANDLER_COST);
                session.set_busy(true);
                let reply = work.await;
                session.set_busy(false);
                reply
            }
            Work::Close(reason) => {
                session.close(reason);
                return !is_malformed(reason);
            }
        };
        if let Some(reply) = reply {
            session.queue().send(reply.into_wire(), 1);
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        let accepts = |value| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
            accepts_gzip(&headers)
        };
        assert!(accepts("gzip, deflate, br") && accepts("br;q=1.0, gzip;q=0.5"));
        assert!(!accepts("br") && !accepts("gzip;q=0") && !accepts("x-gzip"));
        assert!(!accepts_gzip(&HeaderMap::new()));
    }
}
