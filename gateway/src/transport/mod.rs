//! Requests to `/socket.io/`: finds their session and transport (protocol, 1.1–1.3).
//!
//! [`gate`] decides which clients may connect, [`polling`] and [`websocket`] carry sessions, [`probe`] upgrades one
//! from the former to the latter. Requests for another node's session are forwarded ([`forward`]), its WebSocket
//! through a [`tunnel`].

mod forward;
mod forwarding;
mod gate;
mod heads;
mod places;
mod polling;
mod probe;
mod site;
mod tunnel;
mod turn;
mod websocket;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use fanout::Peer;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use shared::eio::{HandshakeError, Query, TransportName};
use shared::ids::SessionId;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_util::sync::CancellationToken;

use crate::auth::bearer;
use crate::close::CloseReason;
use crate::limiter::Origin;
use crate::metrics::{self, BadInput, SHARES, Share};
use crate::namespace::{Handshake, Token};
use crate::session::{Engine, ProbeSeat, Session, Standing};
pub(crate) use forward::{PEER_PATH, Peers};
pub(crate) use gate::Gate;
pub(crate) use heads::Heads;
pub(crate) use places::{Displaced, Guest, PlaceLimits, Places, Seat};
pub(crate) use site::Cross;
pub(crate) use tunnel::Tunnels;

/// The engine's path.
pub(crate) const PATH: &str = "/socket.io/";

/// The approximate memory of a connection or a session.
const CONNECTION_BYTES: usize = 2 * 1024;

/// The upgrade that a connection's request has asked for; the connection's task takes it after the reply is written.
pub(crate) type UpgradeSlot = Mutex<Option<Upgrade>>;

/// A connection that becomes a WebSocket.
#[derive(Debug)]
pub(crate) enum Upgrade {
    /// For a session of this node.
    Session {
        on: OnUpgrade,
        session: Arc<Session>,
        /// The session is on polling, and this WebSocket wants to take it over.
        seat: Option<ProbeSeat>,
        /// The client accepts no binary frames on it.
        no_binary: bool,
    },
    /// For a session of another node, which has switched protocols too.
    Tunnel { client: OnUpgrade, server: OnUpgrade, lapsed: CancellationToken, tunnels: Arc<Tunnels> },
}

/// The engine over HTTP.
#[derive(Debug)]
pub(crate) struct Transports {
    pub(crate) engine: Arc<Engine>,
    pub(crate) gate: Gate,
    pub(crate) peers: Peers,
    pub(crate) tunnels: Arc<Tunnels>,
    /// The slots of the public listener.
    pub(crate) places: Arc<Places>,
}

impl Transports {
    /// Whether the node can admit no new client.
    pub(crate) fn is_full(&self) -> bool {
        self.engine.sessions.is_full() || self.places.is_full()
    }

    /// The approximate bytes held for clients, without the send queues.
    pub(crate) fn held(&self) -> usize {
        let taken = self.places.taken();
        let unfinished =
            [Standing::Stranger, Standing::Proven].map(|standing| self.engine.inputs.held(standing).0);
        let connections = taken.connections + self.engine.sessions.len();
        connections * CONNECTION_BYTES + taken.stranger_bytes + unfinished.iter().sum::<usize>()
    }

    /// The shares of the node, for monitoring.
    pub(crate) fn shares(&self) -> [Share; 8] {
        let (occupied, bounds) = (self.engine.sessions.occupied(), self.engine.sessions.bounds());
        let (taken, limits) = (self.places.taken(), self.places.limits());
        let [all, in_namespaces, pending, connections, unknown, unknown_bytes, pending_input, input_bytes] =
            SHARES;
        let share = |name, used, max| Share { name, used, max };
        let input = |name, standing| {
            let (held, max) = self.engine.inputs.held(standing);
            share(name, held, max)
        };
        [
            share(all, occupied.pending + occupied.proven, bounds.sessions),
            share(in_namespaces, occupied.proven, bounds.sessions),
            share(pending, occupied.pending, bounds.pending),
            share(connections, taken.connections, limits.connections),
            share(unknown, taken.strangers, limits.strangers),
            share(unknown_bytes, taken.stranger_bytes, limits.stranger_bytes),
            input(pending_input, Standing::Stranger),
            input(input_bytes, Standing::Proven),
        ]
    }

    /// Answers a request to the engine.
    pub(crate) async fn serve(
        &self,
        mut request: Request<Incoming>,
        client: (SocketAddr, &Guest),
        slot: &UpgradeSlot,
    ) -> Response<Body> {
        let (headers, peer) = (request.headers(), client.0.ip());
        let site = match self.gate.site(headers, peer, || self.upgrades_a_session(&request)) {
            Ok(site) => site,
            Err(refusal) => return refusal.into_response(),
        };
        if request.method() == Method::OPTIONS && site.is_cross() {
            return site::preflight(&site, request.headers());
        }
        let mut response = match self.owner(&request).await {
            Some(owner) => {
                // Its session bounds how many of its requests are in progress.
                client.1.trust();
                self.forward(request, &owner, slot).await
            }
            None => {
                let routed = self.route(&mut request, client.0, slot);
                self.finish(routed, request, client.1, slot).await
            }
        };
        site.apply(response.headers_mut());
        response
    }

    /// Whether it is the WebSocket that a polling session upgrades to. Only an admitted client knows the session's id,
    /// so its origin was checked before, with more evidence: Chromium sends `Sec-Fetch-Site` with GET and POST, but not
    /// with a WebSocket. A session of another node is looked up there.
    fn upgrades_a_session(&self, request: &Request<Incoming>) -> bool {
        let query = Query::parse(request.uri().query().unwrap_or_default()).ok();
        let session = query.and_then(|query| SessionId::parse(&query.sid?));
        let is_known = session.is_some_and(|id| {
            let fanout = &self.engine.namespaces.context().fanout;
            self.engine.sessions.has(id) || (fanout.has_peers() && id.node() != fanout.node())
        });
        is_known && is_upgrade(request.headers())
    }

    /// The other node whose session a request is about.
    async fn owner(&self, request: &Request<Incoming>) -> Option<Peer> {
        let query = Query::parse(request.uri().query().unwrap_or_default()).ok()?;
        self.peers.owner(SessionId::parse(&query.sid?)?).await
    }

    async fn finish(
        &self,
        routed: Result<Route, HandshakeError>,
        request: Request<Incoming>,
        guest: &Guest,
        slot: &UpgradeSlot,
    ) -> Response<Body> {
        let (session, is_get) = match routed {
            Ok(Route::Done(response)) => return response,
            Ok(Route::Open(opening, address, token)) => {
                let opened = self.open(request, opening, (address, token, guest), slot).await;
                return opened.unwrap_or_else(refuse);
            }
            Ok(Route::Get(session)) => (session, true),
            Ok(Route::Post(session)) => (session, false),
            Err(error) => return refuse(error),
        };
        if session.standing() == Standing::Proven {
            guest.trust();
        }
        let answer = if is_get {
            polling::get(&session, request.headers()).await
        } else {
            polling::post(&session, request, guest).await
        };
        if session.standing() == Standing::Proven {
            guest.know();
        }
        answer
    }

    /// Opens a session for a new client.
    async fn open(
        &self,
        mut request: Request<Incoming>,
        Opening { switching, no_binary }: Opening,
        (address, token, guest): (IpAddr, Token, &Guest),
        slot: &UpgradeSlot,
    ) -> Result<Response<Body>, HandshakeError> {
        if guest.opens_again() {
            // A connection that sends handshakes without a pause takes turns with all others.
            tokio::task::yield_now().await;
        }
        let token = token.weighed(&self.engine.namespaces.context().tokens).await;
        let origin = Origin { address, connection: guest.connection() };
        let transport = if switching.is_some() { TransportName::WebSocket } else { TransportName::Polling };
        let opened = self.engine.open(transport, Handshake { origin, token });
        let session = opened.map_err(Gate::refusal)?;
        let Some(response) = switching else { return Ok(polling::opened(&session)) };
        if no_binary {
            session.queue().leave_out_binary();
        }
        guest.open_websocket();
        switch(&mut request, slot, (session, None, no_binary));
        Ok(response)
    }

    fn route(
        &self,
        request: &mut Request<Incoming>,
        peer: SocketAddr,
        slot: &UpgradeSlot,
    ) -> Result<Route, HandshakeError> {
        let uri = request.uri().clone();
        let query = Query::parse(uri.query().unwrap_or_default()).inspect_err(|_| {
            metrics::get().bad_input(BadInput::Handshake);
        })?;
        let upgrade = is_upgrade(request.headers());
        if let Some(sid) = &query.sid {
            let session = SessionId::parse(sid).and_then(|id| self.engine.find(id));
            let session = session.ok_or(HandshakeError::UnknownSession)?;
            if !query.version_4 || (query.transport == TransportName::WebSocket) != upgrade {
                return Err(HandshakeError::BadRequest);
            }
            if upgrade && request.method() != Method::GET {
                return Err(HandshakeError::BadMethod);
            }
            if upgrade {
                let seat = session.seat_probe().ok_or(HandshakeError::BadRequest)?;
                let answer = handshake(request);
                if answer.is_ok() {
                    switch(request, slot, (session, Some(seat), query.no_binary));
                }
                return Ok(Route::Done(answer.unwrap_or_else(Unfit::answer)));
            }
            if session.transport() != TransportName::Polling {
                return Err(HandshakeError::BadRequest);
            }
            return match *request.method() {
                Method::GET => Ok(Route::Get(session)),
                Method::POST if session.is_closed() => Err(HandshakeError::UnknownSession),
                Method::POST => Ok(Route::Post(session)),
                _ => {
                    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED);
                    let allowed = HeaderValue::from_static("GET, POST");
                    response.headers_mut().insert(header::ALLOW, allowed);
                    Ok(Route::Done(response))
                }
            };
        }
        if let Some(malformed) = malformed(request, &query, upgrade) {
            metrics::get().bad_input(BadInput::Handshake);
            return Err(malformed);
        }
        let switching = match upgrade.then(|| handshake(request)).transpose() {
            Ok(switching) => switching,
            Err(unfit) => return Ok(Route::Done(unfit.answer())),
        };
        let address = self.gate.client_address(peer.ip(), request.headers());
        self.gate.note_forwarding(peer.ip(), request.headers());
        self.gate.admit(address)?;
        let token = Token::of_handshake(query.token.as_deref(), bearer(request.headers()));
        let opening = Opening { switching, no_binary: query.no_binary };
        Ok(Route::Open(opening, address, token))
    }
}

enum Route {
    Done(Response<Body>),
    /// A handshake, from this address and with this token.
    Open(Opening, IpAddr, Token),
    Get(Arc<Session>),
    Post(Arc<Session>),
}

/// The start of a session.
struct Opening {
    /// The answer that switches protocols, if the session begins on a WebSocket.
    switching: Option<Response<Body>>,
    no_binary: bool,
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    has_token(headers, header::CONNECTION, "upgrade") && has_token(headers, header::UPGRADE, "websocket")
}

/// Why a request cannot belong to any session.
fn malformed(request: &Request<Incoming>, query: &Query<'_>, upgrade: bool) -> Option<HandshakeError> {
    if request.method() != Method::GET {
        Some(HandshakeError::BadMethod)
    } else if (query.transport == TransportName::WebSocket) != upgrade {
        Some(HandshakeError::BadRequest)
    } else if !query.version_4 {
        Some(HandshakeError::UnsupportedVersion)
    } else if query.jsonp && query.transport == TransportName::Polling {
        // Clients of this protocol version need no JSONP.
        Some(HandshakeError::BadRequest)
    } else {
        None
    }
}

/// Why an upgrade request violates RFC 6455.
enum Unfit {
    /// Not version 13, the only one.
    Version,
    /// No key, an invalid one or several.
    Key,
}

impl Unfit {
    fn answer(self) -> Response<Body> {
        metrics::get().bad_input(BadInput::Handshake);
        match self {
            Self::Version => {
                let mut response = plain(StatusCode::UPGRADE_REQUIRED);
                let version = HeaderValue::from_static("13");
                response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, version);
                response
            }
            Self::Key => refuse(HandshakeError::BadRequest),
        }
    }
}

/// The answer that switches protocols.
fn handshake(request: &mut Request<Incoming>) -> Result<Response<Body>, Unfit> {
    let headers = request.headers_mut();
    let has_several_keys = headers.get_all(header::SEC_WEBSOCKET_KEY).iter().nth(1).is_some();
    // `is_upgrade` has read all lines and lists of these headers; tungstenite reads only the first line.
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let mut response = create_response_with_body(request, Body::empty).map_err(|error| match error {
        WsError::Protocol(ProtocolError::MissingSecWebSocketVersionHeader) => Unfit::Version,
        _ => Unfit::Key,
    })?;
    if has_several_keys {
        return Err(Unfit::Key);
    }
    if let Some(protocol) = subprotocol(request.headers()) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Ok(response)
}

/// The first subprotocol that a client offers, as Node.js' `ws` answers: a browser closes a WebSocket if the server
/// selects none of the offered ones. It has no meaning here.
fn subprotocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offered.split(',').next()?.trim();
    let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    (!first.is_empty() && first.bytes().all(is_token)).then(|| HeaderValue::from_str(first).ok())?
}

/// Switches protocols; the connection's task continues with the socket.
fn switch(
    request: &mut Request<Incoming>,
    slot: &UpgradeSlot,
    (session, seat, no_binary): (Arc<Session>, Option<ProbeSeat>, bool),
) {
    *slot.lock() = Some(Upgrade::Session { on: hyper::upgrade::on(request), session, seat, no_binary });
}

/// Continues a connection after HTTP: as a session's WebSocket, or as a probe.
pub(crate) async fn upgrade(upgrade: Upgrade, place: Arc<Seat>) {
    let (on, session, seat, no_binary) = match upgrade {
        Upgrade::Session { on, session, seat, no_binary } => (on, session, seat, no_binary),
        Upgrade::Tunnel { client, server, lapsed, tunnels } => {
            tunnels.carry(client, server, lapsed).await;
            drop(place);
            return;
        }
    };
    let stream = match on.await {
        Ok(upgraded) => upgraded.downcast::<TokioIo<Heads>>().ok(),
        Err(_) => None,
    };
    let Some(parts) = stream else {
        if seat.is_none() {
            session.close(CloseReason::TransportError);
        }
        return;
    };
    let ((stream, answer), unread) = (parts.io.into_inner().into_parts(), parts.read_buf.to_vec());
    let tasks = session.engine().namespaces.context().tasks.clone();
    // A separate task, because the ending one holds the memory of an HTTP connection.
    if let Some(seat) = seat {
        drop(tasks.spawn(Box::pin(probe::run(session, stream, unread, no_binary, (place, seat)))));
    } else {
        let answer = answer.into();
        if !session.queue().begin_with(&answer) {
            // The session has ended already: the client gets its answer, then the end. The answer is the first write,
            // so there is room for it.
            let _ = stream.try_write(&answer);
        }
        drop(tasks.spawn(websocket::Connection::new(session, stream, unread, place)));
    }
}

/// An Engine.IO refusal.
fn refuse(error: HandshakeError) -> Response<Body> {
    metrics::get().handshake_refused(error);
    let body = format!("{{\"code\":{},\"message\":\"{}\"}}", error.code(), error.message());
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(error.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if matches!(error, HandshakeError::AtCapacity | HandshakeError::TooManyRequests) {
        // Spread, so that the refused clients do not all return at once.
        let seconds = rand::random_range(1..=5_u32);
        headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A response with only a status.
fn plain(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
