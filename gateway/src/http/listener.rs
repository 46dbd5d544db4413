//! Accepts connections and serves HTTP on them.
//!
//! A custom loop around hyper: heads must arrive in time and be small, connections that cannot be accepted now stay in
//! the kernel's queue instead of ending the loop, and a connection that becomes a WebSocket frees its HTTP memory.

use std::convert::Infallible;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::IntoResponse as _;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::limits::{
    ACCEPTS_PER_TURN, HEAD_MAX_BYTES, HEAD_MAX_MS, HEADERS_MAX, INPUT_COUNTED_BYTES, LISTEN_BACKLOG,
    URI_MAX_BYTES,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::guard::Guard;
use super::{ClientAddress, assets, login};
use crate::error::AppError;
use crate::metrics::{self, BadInput};
use crate::rest::{Carrier, Carries, Held, is_internal};
use crate::session::{HeldBody, Standing};
use crate::tasks::Tasks;
use crate::transport::{self, Cross, Displaced, Guest, Heads, Places, Transports, UpgradeSlot};

/// The endpoints that pages of sites in `CORS_ORIGINS` may request.
const API: &str = "/api/";

/// The pause after the kernel refused a connection, for lack of files or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One of the node's two listeners.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) router: Router,
    pub(crate) internal_token: Option<Arc<str>>,
    /// The public listener serves the engine.
    pub(crate) transports: Arc<Transports>,
    pub(crate) is_public: bool,
    /// Blocks web pages from the internal listener.
    pub(crate) guard: Guard,
    pub(crate) tasks: Tasks,
    /// Cancelled when HTTP connections must end after the request in progress.
    pub(crate) stopping: CancellationToken,
}

/// Opens a listening socket.
///
/// # Errors
/// The system's error.
pub(crate) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    // Connections inherit both. Small frames must not wait for the acknowledgement of earlier ones.
    socket.set_tcp_nodelay(true)?;
    Heads::prepare(&socket);
    socket.bind(&address.into())?;
    socket.listen(LISTEN_BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Accepts connections until the listener stops, at most as many at once as there are `places`.
pub(crate) async fn run(listener: TcpListener, door: Door, places: Arc<Places>) {
    let mut turns = (1..=ACCEPTS_PER_TURN).cycle();
    loop {
        if turns.next() == Some(ACCEPTS_PER_TURN) {
            tokio::task::yield_now().await;
        }
        let accepted = tokio::select! {
            biased;
            () = door.stopping.cancelled() => return,
            accepted = accept(&listener, &places) => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (guest, displaced) = places.enter(peer.ip());
                let door_of = door.clone();
                drop(door.tasks.spawn(Box::pin(async move {
                    serve(stream, peer, &door_of, (guest, displaced)).await;
                })));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn accept(listener: &TcpListener, places: &Places) -> io::Result<(TcpStream, SocketAddr)> {
    places.room().await;
    listener.accept().await
}

async fn serve(stream: TcpStream, peer: SocketAddr, door: &Door, (guest, displaced): (Guest, Displaced)) {
    let slot = UpgradeSlot::default();
    let (guest, pace) = (Arc::new(guest), Pace::default());
    if !door.is_public {
        guest.rest_on_demand();
    }
    {
        let heads = Heads::new(stream, Arc::clone(&guest));
        let client = Client::new(peer, Arc::clone(&guest), Arc::clone(&door.transports));
        let service = service_fn(|request| {
            let (pace, slot, client) = (&pace, &slot, &client);
            async move {
                pace.turn().await;
                answer(request, client, door, slot).await
            }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(Duration::from_millis(HEAD_MAX_MS))
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_MAX_BYTES)
            .half_close(false);
        let connection = builder.serve_connection(TokioIo::new(heads), service).with_upgrades();
        let mut connection = pin!(connection);
        let served = async {
            tokio::select! {
                outcome = connection.as_mut() => outcome,
                () = door.stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
                // Another connection needs the slot more; the requests in progress end with the connection.
                _ = displaced => Ok(()),
            }
        };
        if let Err(error) = pace.around(served).await {
            tracing::debug!(%error, %peer, "connection ended");
        }
    }
    let upgrade = slot.lock().take();
    if let Some(upgrade) = upgrade {
        transport::upgrade(upgrade, guest.leave()).await;
    }
}

/// Limits a connection to one new request per poll: a client may send hundreds without waiting for answers, and other
/// connections get their turn in between.
#[derive(Debug, Default)]
struct Pace {
    begun: AtomicBool,
}

impl Pace {
    /// Runs the connection that carries the requests.
    async fn around<T>(&self, connection: impl Future<Output = T>) -> T {
        let mut connection = pin!(connection);
        poll_fn(|cx| {
            self.begun.store(false, Ordering::Relaxed);
            connection.as_mut().poll(cx)
        })
        .await
    }

    /// Waits for a poll in which no request has begun.
    async fn turn(&self) {
        while self.begun.swap(true, Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
    }
}

/// The client of a connection.
struct Client {
    peer: SocketAddr,
    guest: Arc<Guest>,
    carrier: Carrier,
}

impl Client {
    fn new(peer: SocketAddr, guest: Arc<Guest>, transports: Arc<Transports>) -> Self {
        let carrier = Carrier(Arc::new(Reading { guest: Arc::clone(&guest), transports }));
        Self { peer, guest, carrier }
    }
}

async fn answer(
    request: Request<Incoming>,
    client: &Client,
    door: &Door,
    slot: &UpgradeSlot,
) -> Result<Response<Body>, Infallible> {
    if let Some(error) = refusal(&request) {
        let mut response = error.into_response();
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Ok(response);
    }
    let wants_upgrade = request.headers().contains_key(header::UPGRADE);
    if !door.is_public {
        // Nodes, backends and operators.
        client.guest.trust();
    }
    let mut response = dispatch(request, client, door, slot).await?;
    if door.is_public {
        client.guest.rest();
    } else {
        client.guest.idle();
    }
    if wants_upgrade && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        // The following bytes may not be HTTP.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Passes a request to its handler.
async fn dispatch(
    mut request: Request<Incoming>,
    Client { peer, guest, carrier }: &Client,
    door: &Door,
    slot: &UpgradeSlot,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path();
    let is_engine = path.starts_with(transport::PATH) || path == transport::PATH.trim_end_matches('/');
    if door.is_public && is_engine && !assets::is_client_file(path) {
        return Ok(door.transports.serve(request, (*peer, guest), slot).await);
    }
    if !door.is_public {
        let is_peer = path == transport::PEER_PATH
            && request.headers().get("x-internal-request").is_some_and(|value| value == "true");
        if door.guard.refuses(request.headers(), is_peer) {
            metrics::get().bad_input(BadInput::InternalPage);
            return Ok(AppError::Forbidden("Not for web pages".into()).into_response());
        }
    }
    if !door.is_public && path == transport::PEER_PATH {
        if !is_internal(request.headers(), door.internal_token.as_deref()) {
            return Ok(AppError::Forbidden("Internal requests only".into()).into_response());
        }
        return Ok(door.transports.serve_peer(request, guest, slot).await);
    }
    let cross = if door.is_public && path.starts_with(API) {
        match door.transports.gate.judge(&request, peer.ip()) {
            Ok(cross) => cross,
            Err(answer) => return Ok(*answer),
        }
    } else {
        // A browser withholds the answer from pages of other sites if the node does not allow it.
        Cross::default()
    };
    let gate = &door.transports.gate;
    let address = gate.client_address(peer.ip(), request.headers());
    if door.is_public && request.uri().path() == login::PATH {
        gate.note_forwarding(peer.ip(), request.headers());
    }
    request.extensions_mut().insert(ClientAddress(address));
    request.extensions_mut().insert(carrier.clone());
    let mut response = door.router.clone().oneshot(request.map(Body::new)).await?;
    cross.apply(response.headers_mut());
    Ok(response)
}

/// A connection whose requests are being read: their bodies count as unfinished input of its client.
struct Reading {
    guest: Arc<Guest>,
    transports: Arc<Transports>,
}

impl Carries for Reading {
    fn is_trusted(&self) -> bool {
        self.guest.is_trusted()
    }

    fn trust(&self) {
        self.guest.trust();
    }

    fn counts(&self, at_most: u64) -> bool {
        !self.guest.is_trusted() || at_most >= INPUT_COUNTED_BYTES as u64
    }

    fn hold(&self) -> Held {
        let (guest, transports) = (Arc::clone(&self.guest), Arc::clone(&self.transports));
        if !guest.is_trusted() {
            return Held {
                grow: Box::new(move |bytes| guest.hold_body(bytes)),
                refused: Box::pin(pending()),
            };
        }
        let (mut body, refused) = HeldBody::new(Standing::Proven, guest.source(), guest.connection());
        Held {
            grow: Box::new(move |bytes| transports.engine.grow(&mut body, bytes)),
            refused: Box::pin(async move { drop(refused.await) }),
        }
    }
}

/// Why a request's head is invalid for any target.
fn refusal(request: &Request<Incoming>) -> Option<AppError> {
    let hosts = request.headers().get_all(header::HOST).iter().count();
    let path_and_query = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if path_and_query > URI_MAX_BYTES {
        Some(AppError::UriTooLong)
    } else if hosts > 1 || (hosts == 0 && request.version() >= Version::HTTP_11) {
        // RFC 9112, 3.2: a node that guesses a host may guess differently from the proxy in front.
        Some(AppError::BadInput("Expected one Host".into()))
    } else {
        None
    }
}
