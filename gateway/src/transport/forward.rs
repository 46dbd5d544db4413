//! Requests for sessions of other nodes: no load balancer has to know which node holds which session.
//!
//! A session's id names its node, the node's lease tells how it is reached. The request goes there as it came,
//! over the internal listener, and the answer comes back; a WebSocket becomes a tunnel. An owner that is gone
//! is an unknown session, at once, and the client begins anew.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use shared::eio::HandshakeError;
use shared::ids::SessionId;
use shared::limits::PEER_CONNECT_MS;
use tokio::net::TcpStream;

use super::{Guest, Transports, Upgrade, UpgradeSlot, plain, refuse};
use crate::context::Context;

/// Where nodes take each other's requests, on the internal listener.
pub(crate) const PEER_PATH: &str = "/internal/engine";

/// Headers of one connection, which are not passed on.
const HOP_BY_HOP: [HeaderName; 6] = [
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::HOST,
];

/// What is needed to speak to other nodes.
#[derive(Debug, Clone)]
pub(crate) struct Peers {
    pub(crate) context: Context,
    pub(crate) token: Option<Arc<str>>,
}

impl Peers {
    /// Where the owner of a session is reached, if it is another living node.
    pub(super) async fn owner(&self, session: SessionId) -> Option<String> {
        let fanout = &self.context.fanout;
        if !fanout.is_clustered() || session.node() == fanout.node() {
            return None;
        }
        fanout.peer(session.node()).await.ok().flatten()
    }

    fn headers(&self, from: &HeaderMap) -> HeaderMap {
        let mut headers = from.clone();
        for name in HOP_BY_HOP {
            headers.remove(name);
        }
        // Who may connect was judged here; the session's token was read at its handshake.
        headers.remove(header::ORIGIN);
        headers.remove(header::AUTHORIZATION);
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
    /// Has another node answer.
    pub(super) async fn forward(
        &self,
        mut request: Request<Incoming>,
        owner: &str,
        slot: &UpgradeSlot,
    ) -> Response<Body> {
        let wants_upgrade = super::is_upgrade(request.headers());
        let client = wants_upgrade.then(|| hyper::upgrade::on(&mut request));
        let authority = owner.trim_start_matches("http://");
        let connect = async {
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            let (sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
            Ok::<_, std::io::Error>((sender, connection.with_upgrades()))
        };
        let connected = tokio::time::timeout(Duration::from_millis(PEER_CONNECT_MS), connect).await;
        let Ok(Ok((mut sender, connection))) = connected else {
            // Its lease has not lapsed yet, but nobody is there.
            return refuse(HandshakeError::UnknownSession);
        };
        drop(self.peers.context.tasks.spawn(async move {
            // How it ended is seen by who sent the request.
            let _ = connection.await;
        }));
        let Some(onward) = self.onward(request, authority) else { return refuse(HandshakeError::BadRequest) };
        let Ok(mut answer) = sender.send_request(onward).await else {
            return refuse(HandshakeError::UnknownSession);
        };
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = client
        {
            let server = hyper::upgrade::on(&mut answer);
            *slot.lock() = Some(Upgrade::Tunnel { client, server, tunnels: Arc::clone(&self.tunnels) });
        }
        let (mut head, body) = answer.into_parts();
        head.headers.remove(header::TRANSFER_ENCODING);
        if head.status != StatusCode::SWITCHING_PROTOCOLS {
            head.headers.remove(header::CONNECTION);
        }
        Response::from_parts(head, Body::new(body))
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

    /// Answers a request that another node has sent on: of a session that is here, or of none.
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
        let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let routed = self.route(&mut request, nobody, slot);
        self.finish(routed, request, guest, slot).await
    }
}
