//! Forwards requests for sessions of other nodes, so that load balancers need not know which node holds which session.
//!
//! A session's id names its node, and the node's lease contains its address. The request goes there unchanged, over the
//! internal listener, and the answer comes back; a WebSocket becomes a tunnel. If the owner is dead, the session is
//! unknown at once, and the client reconnects.
//!
//! An owner may also stall: the kernel accepts connections, but the process does not answer. So every step ends when
//! the owner's lease lapses, or at a deadline of its own while Redis, which keeps the leases, is unavailable:
//!
//! | step | ends after | with |
//! | --- | --- | --- |
//! | find the owner | `REDIS_COMMAND_MS` for each of two commands | session unknown |
//! | look up its name, connect, begin HTTP | `PEER_CONNECT_MS` | session unknown |
//! | send the request, wait for the head of the answer | the lease, or the longest poll and `PEER_MARGIN_MS` | session unknown |
//! | each part of the answer's body | the lease, or `OUTBOX_AGE_MAX_MS` | the client's connection is closed |
//! | a tunnel, either way | the lease; a peer that takes no bytes, `OUTBOX_AGE_MAX_MS` | transport close |

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use fanout::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared::eio::HandshakeError;
use shared::ids::SessionId;
use shared::limits::{BODY_MAX_MS, OUTBOX_AGE_MAX_MS, PEER_CONNECT_MS, PEER_MARGIN_MS};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

use super::{Guest, Transports, Upgrade, UpgradeSlot, plain, refuse};
use crate::context::Context;

/// The endpoint on the internal listener where nodes accept each other's requests.
pub(crate) const PEER_PATH: &str = "/internal/engine";

/// Headers of a single connection, which are not forwarded.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::HOST,
];

/// What a node needs to reach other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) context: Context,
    pub(crate) token: Option<Arc<str>>,
}

impl Peers {
    /// The owner of a session, if it is another living node.
    pub(super) async fn owner(&self, session: SessionId) -> Option<Peer> {
        let fanout = &self.context.fanout;
        if session.node() == fanout.node() {
            return None;
        }
        fanout.peer(session.node()).await.ok().flatten()
    }

    fn headers(&self, from: &HeaderMap) -> HeaderMap {
        let mut headers = from.clone();
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        // This node has checked the origin, and read the session's token at its handshake.
        headers.remove(header::ORIGIN);
        headers.remove(header::AUTHORIZATION);
        headers.remove("sec-fetch-site");
        headers.insert("x-internal-request", HeaderValue::from_static("true"));
        if let Some(token) = &self.token
            && let Ok(value) = HeaderValue::try_from(format!("Bearer {token}"))
        {
            headers.insert(header::AUTHORIZATION, value);
        }
        headers
    }
}

impl Transports {
    /// Lets another node answer.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
        owner: &Peer,
        slot: &UpgradeSlot,
    ) -> Response<Body> {
        let wants_upgrade = super::is_upgrade(request.headers());
        let client = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let authority = owner.url.trim_start_matches("http://");
        let connect = async {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            // Bytes that the owner does not accept are given up; this also bounds the kernel's retransmissions.
            SockRef::from(&stream).set_tcp_user_timeout(Some(Duration::from_millis(OUTBOX_AGE_MAX_MS)))?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((sender, connection.with_upgrades()))
        };
        let connected = tokio::time::timeout(Duration::from_millis(PEER_CONNECT_MS), connect).await;
        let Ok(Ok((mut sender, connection))) = connected else {
            // Its lease has not lapsed yet, but nothing answers there.
            return refuse(HandshakeError::UnknownSession);
        };
        let Some(onward) = self.onward(request, authority) else { return refuse(HandshakeError::BadRequest) };
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        drop(self.peers.context.tasks.spawn(async move {
            tokio::select! {
                // The sender of the request sees how it ended.
                _ = connection => {}
                () = ended.cancelled() => {}
            }
        }));
        let answered = tokio::select! {
            answered = sender.send_request(onward) => answered.ok(),
            () = owner.lapsed.cancelled() => None,
            () = tokio::time::sleep(self.longest_answer()) => None,
        };
        let Some(mut answer) = answered else {
            let mut refusal = refuse(HandshakeError::UnknownSession);
            // The rest of the request's body is not read.
            refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return refusal;
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let server = hyper::upgrade::on(&mut answer);
            let (lapsed, tunnels) = (owner.lapsed.clone(), Arc::clone(&self.tunnels));
            *slot.lock() = Some(Upgrade::Tunnel { client, server, lapsed, tunnels });
        }
        let (mut head, body) = answer.into_parts();
        head.headers.remove(header::TRANSFER_ENCODING);
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            // The connection becomes a tunnel.
            drop(guard.disarm());
            return Response::from_parts(head, Body::empty());
        }
        head.headers.remove(header::CONNECTION);
        Response::from_parts(head, Body::new(Answer::new(body, &owner.lapsed, guard)))
    }

    /// How long another node may take to begin its answer: a poll ends with the next ping or the session, a POST when
    /// its body has arrived and its packets are handled.
    fn longest_answer(&self) -> Duration {
        let times = &self.engine.times;
        let poll = times.ping_interval.saturating_add(times.ping_timeout);
        poll.max(Duration::from_millis(BODY_MAX_MS)).saturating_add(Duration::from_millis(PEER_MARGIN_MS))
    }

    fn onward(&self, request: Request<Incoming>, authority: &str) -> Option<Request<Incoming>> {
        let (head, body) = request.into_parts();
        let query = head.uri.query().unwrap_or_default();
        let mut onward = Request::new(body);
        *onward.method_mut() = head.method;
        *onward.uri_mut() = format!("{PEER_PATH}?{query}").parse::<Uri>().ok()?;
        *onward.headers_mut() = self.peers.headers(&head.headers);
        onward.headers_mut().insert(header::HOST, HeaderValue::try_from(authority).ok()?);
        Some(onward)
    }

    /// Answers a request that another node forwarded, for a local session or an unknown one.
    pub(crate) async fn serve_peer(
        &self,
        mut request: Request<Incoming>,
        guest: &Guest,
        slot: &UpgradeSlot,
    ) -> Response<Body> {
        let has_session = request.uri().query().is_some_and(|query| query.contains("sid="));
        if !has_session {
            return plain(StatusCode::BAD_REQUEST);
        }
        let unspecified = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let routed = self.route(&mut request, unspecified, slot);
        self.finish(routed, request, guest, slot).await
    }
}

/// The body of another node's answer. It ends with an error when that node's lease lapses, or if it sends nothing for
/// `OUTBOX_AGE_MAX_MS`.
struct Answer {
    body: Incoming,
    lapsed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Set while waiting for a part: when to give up.
    late: Option<Pin<Box<Sleep>>>,
    /// Ends the connection on drop.
    _connection: DropGuard,
}

impl Answer {
    fn new(body: Incoming, lapsed: &CancellationToken, connection: DropGuard) -> Self {
        let lapsed = Box::pin(lapsed.clone().cancelled_owned());
        Self { body, lapsed, late: None, _connection: connection }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.late = None;
            return Poll::Ready(frame.map(|frame| frame.map_err(io::Error::other)));
        }
        if self.lapsed.as_mut().poll(cx).is_pending() {
            let limit = Duration::from_millis(OUTBOX_AGE_MAX_MS);
            let late = self.late.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
            ready!(late.as_mut().poll(cx));
        }
        Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
