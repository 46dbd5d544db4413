//! A small Socket.IO client over WebSocket, for `gateway ping` and for tests.
//!
//! It supports one namespace and text only. The caller sets the deadlines.

use std::io;
use std::net::{SocketAddr, SocketAddrV6};

use futures_util::{SinkExt as _, StreamExt as _};
use http::Uri;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async_tls_with_config};

/// How many characters of an unexpected answer are shown.
const SHOWN: usize = 60;

/// The error for a URL with an invalid port.
const BAD_PORT: &str = "expected a URL with a port of 0 to 65535, or without a colon behind the host";

/// The type of a Socket.IO packet with binary arguments, which follow in separate messages.
const BINARY_EVENT: char = '5';

/// A server's address: a URL with the scheme `ws` or `wss` and the query of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    uri: Uri,
    host_and_port: String,
    /// The socket address, if known without a DNS lookup. It may have a scope, which a URL cannot express.
    socket: Option<SocketAddr>,
}

impl Address {
    /// Parses `ws://host[:port][/path]`; `wss`, `http` and `https` work, too. The default scheme is `ws`, the default
    /// path `/socket.io/`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("ws", text));
        let (scheme, port) = match scheme.to_ascii_lowercase().as_str() {
            "ws" | "http" => ("ws", 80),
            "wss" | "https" => ("wss", 443),
            _ => return Err("expected a URL with ws, wss, http or https".to_owned()),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') || rest.contains(['?', '#']) {
            return Err("expected a URL without a user, a query and a fragment".to_owned());
        }
        let path = match path.trim_matches('/') {
            "" => "socket.io",
            path => path,
        };
        let uri = format!("{scheme}://{authority}/{path}/?EIO=4&transport=websocket");
        let uri: Uri = uri.parse().map_err(|error| format!("expected a URL ({error})"))?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("expected a URL with a host")?;
        // `Uri` accepts any text after the colon and returns no port if it is not a number.
        let port = match uri.authority().and_then(|authority| authority.as_str().strip_prefix(host)) {
            None | Some("") => port,
            Some(given) => given
                .strip_prefix(':')
                .filter(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
                .and_then(|digits| digits.parse::<u16>().ok())
                .ok_or(BAD_PORT)?,
        };
        let host_and_port = format!("{host}:{port}");
        Ok(Self { uri, host_and_port, socket: None })
    }

    /// The server that listens at `socket`.
    ///
    /// # Errors
    /// None for any socket; the type is that of [`Self::parse`].
    pub(crate) fn of_socket(socket: SocketAddr) -> Result<Self, String> {
        let shown = match socket {
            SocketAddr::V4(_) => socket,
            SocketAddr::V6(v6) => SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0).into(),
        };
        Ok(Self { socket: Some(socket), ..Self::parse(&format!("ws://{shown}"))? })
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}{}", self.uri.scheme_str().unwrap_or("ws"), self.host_and_port, self.uri.path())
    }
}

/// Why the client could not reach or use a server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("could not connect: {0}")]
    Connect(io::Error),
    #[error("the server answered with HTTP {0} and opened no WebSocket")]
    Status(http::StatusCode),
    /// The server works, but is full, draining or rate limits this client.
    #[error("the node answers, but accepts no new client now: HTTP {0}, {1:?}")]
    Busy(http::StatusCode, String),
    #[error("the server opened no WebSocket: {0}")]
    Handshake(WsError),
    #[error("the WebSocket failed: {0}")]
    Broken(WsError),
    #[error("the server closed the WebSocket")]
    Closed,
    #[error("the server does not speak Socket.IO: it sent {0:?}")]
    Foreign(String),
}

/// A packet that the server sent in the namespace.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ServerPacket {
    /// The client is in the namespace.
    Connected,
    /// The server refused the client: the message, and the code if the server sent one.
    Refused { message: String, code: Option<String> },
    /// An event and its arguments.
    Event { name: String, args: Vec<Value> },
    /// The ack of the event with this number.
    Ack { number: u64, args: Vec<Value> },
    /// The server disconnected the client from the namespace.
    Disconnected,
}

/// A connection in at most one namespace.
#[derive(Debug)]
pub(crate) struct Client {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
    namespace: String,
    acks: u64,
}

impl Client {
    /// Opens the TCP connection.
    pub(crate) async fn reach(address: &Address) -> Result<TcpStream, ClientError> {
        let stream = match address.socket {
            Some(socket) => TcpStream::connect(socket).await,
            None => TcpStream::connect(&address.host_and_port).await,
        };
        let stream = stream.map_err(ClientError::Connect)?;
        stream.set_nodelay(true).map_err(ClientError::Connect)?;
        Ok(stream)
    }

    /// Opens a session on a connection: TLS, the WebSocket handshake and the Engine.IO open packet.
    pub(crate) async fn open(address: &Address, stream: TcpStream) -> Result<Self, ClientError> {
        let request = address.uri.clone().into_client_request().map_err(ClientError::Handshake)?;
        // Boxed: the future is large with TLS in it, and callers hold it while they wait.
        let opened = Box::pin(client_async_tls_with_config(request, stream, None, None)).await;
        let (stream, _) = opened.map_err(|error| match error {
            WsError::Http(response) => refusal(&response),
            error => ClientError::Handshake(error),
        })?;
        let mut client = Self { stream, namespace: "/".to_owned(), acks: 0 };
        let Some(first) = client.message().await? else { return Err(foreign("a binary message")) };
        let is_open = first.strip_prefix('0').and_then(|json| serde_json::from_str::<Value>(json).ok());
        match is_open.as_ref().and_then(|open| open.get("sid")) {
            Some(Value::String(_)) => Ok(client),
            _ => Err(foreign(&first)),
        }
    }

    /// Sends CONNECT for a namespace; the server answers with [`ServerPacket::Connected`] or [`ServerPacket::Refused`].
    pub(crate) async fn connect(&mut self, namespace: &str, token: Option<&str>) -> Result<(), ClientError> {
        namespace.clone_into(&mut self.namespace);
        let auth = token.map(|token| json!({ "token": token }).to_string()).unwrap_or_default();
        self.send("0", "", &auth).await
    }

    /// Emits an event with an ack and returns the ack's number.
    pub(crate) async fn ask(&mut self, name: &str, argument: &Value) -> Result<u64, ClientError> {
        let number = self.acks;
        self.acks += 1;
        self.send("2", &number.to_string(), &json!([name, argument]).to_string()).await?;
        Ok(number)
    }

    /// The server's next packet in the namespace. Answers heartbeats meanwhile and skips events with binary arguments,
    /// which other clients may broadcast.
    pub(crate) async fn next(&mut self) -> Result<ServerPacket, ClientError> {
        loop {
            let Some(text) = self.message().await? else { continue };
            match text.strip_prefix('4') {
                Some(packet) if packet.starts_with(BINARY_EVENT) => {}
                Some(packet) => return self.read(packet).ok_or_else(|| foreign(&text)),
                None if text == "2" => self.write("3".to_owned()).await?,
                None => return Err(foreign(&text)),
            }
        }
    }

    /// Parses a packet: type, namespace, ack number and JSON.
    fn read(&self, packet: &str) -> Option<ServerPacket> {
        let (kind, rest) = packet.split_at_checked(1)?;
        let rest = if self.namespace == "/" { rest } else { rest.strip_prefix(self.namespace.as_str())? };
        let rest = rest.strip_prefix(',').unwrap_or(rest);
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, json) = rest.split_at(digits);
        let args = || serde_json::from_str::<Vec<Value>>(json).ok();
        match kind {
            "0" => Some(ServerPacket::Connected),
            "1" => Some(ServerPacket::Disconnected),
            "2" => {
                let mut args = args()?;
                let name = (!args.is_empty()).then(|| args.remove(0))?;
                Some(ServerPacket::Event { name: name.as_str()?.to_owned(), args })
            }
            "3" => Some(ServerPacket::Ack { number: number.parse().ok()?, args: args()? }),
            "4" => {
                let refusal = serde_json::from_str::<Value>(json).ok()?;
                let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
                let code = text(refusal.get("data").and_then(|data| data.get("code")));
                Some(ServerPacket::Refused { message: text(refusal.get("message"))?, code })
            }
            _ => None,
        }
    }

    async fn send(&mut self, kind: &str, number: &str, json: &str) -> Result<(), ClientError> {
        let (namespace, comma) =
            if self.namespace == "/" { ("", "") } else { (self.namespace.as_str(), ",") };
        let packet = format!("4{kind}{namespace}{comma}{number}{json}");
        self.write(packet).await
    }

    async fn write(&mut self, text: String) -> Result<(), ClientError> {
        self.stream.send(Message::text(text)).await.map_err(ClientError::Broken)
    }

    /// The text of the next message, or `None` if it is binary.
    async fn message(&mut self) -> Result<Option<Utf8Bytes>, ClientError> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Some(text)),
                Some(Ok(Message::Binary(_))) => return Ok(None),
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Close(_))) | None => return Err(ClientError::Closed),
                Some(Err(error)) => return Err(ClientError::Broken(error)),
            }
        }
    }
}

/// Interprets an HTTP answer that opens no WebSocket. The body distinguishes a busy node, which sends an Engine.IO
/// error, from a load balancer without nodes. A node writes head and body at once, so a later body is not awaited.
fn refusal(response: &http::Response<Option<Vec<u8>>>) -> ClientError {
    let status = response.status();
    let body = response.body().as_deref().and_then(|body| serde_json::from_slice::<Value>(body).ok());
    let message =
        body.as_ref().filter(|body| body["code"].is_u64()).and_then(|body| body["message"].as_str());
    match (status, message) {
        (http::StatusCode::SERVICE_UNAVAILABLE | http::StatusCode::TOO_MANY_REQUESTS, Some(message)) => {
            ClientError::Busy(status, message.chars().take(SHOWN).collect())
        }
        _ => ClientError::Status(status),
    }
}

fn foreign(text: &str) -> ClientError {
    ClientError::Foreign(text.chars().take(SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_port_and_a_path() {
        let read = |text: &str| Address::parse(text).map(|address| address.to_string());
        for (text, expected) in [
            ("localhost", "ws://localhost:80/socket.io/"),
            ("127.0.0.1:8080", "ws://127.0.0.1:8080/socket.io/"),
            ("http://[::1]:8080/", "ws://[::1]:8080/socket.io/"),
            ("HTTPS://example.org", "wss://example.org:443/socket.io/"),
            ("wss://example.org:8443/my/io", "wss://example.org:8443/my/io/"),
        ] {
            assert_eq!(read(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in [
            "",
            "ws://",
            "ftp://example.org",
            "ws://a b/",
            "ws://u:p@example.org",
            "ws://example.org/?a=b",
            "ws://:80",
        ] {
            assert!(read(bad).is_err(), "{bad}");
        }
        for bad in
            ["localhost:", "localhost:80800", "ws://localhost:abc/", "localhost:+80", "[::1]:", "[::1]:x"]
        {
            assert_eq!(read(bad), Err(BAD_PORT.to_owned()), "{bad}");
        }
    }

    #[test]
    fn the_address_of_a_socket_keeps_a_scope_that_its_url_cannot_name() {
        for (text, expected) in [
            ("192.0.2.7:80", "ws://192.0.2.7:80/socket.io/"),
            ("[fe80::1%3]:8080", "ws://[fe80::1]:8080/socket.io/"),
        ] {
            let socket = text.parse().unwrap();
            let address = Address::of_socket(socket).unwrap();
            assert_eq!((address.to_string().as_str(), address.socket), (expected, Some(socket)));
        }
    }
}
