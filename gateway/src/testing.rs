//! A node in this process, with its records in memory, and clients of it, for tests of the apps' rules.
//!
//! A node starts in a few milliseconds, so each test has its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use shared::auth::sign_hs256;
use shared::config::{Config, Layer, Layers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::apps;
use crate::client::{Address, Client, ServerPacket};
use crate::clock::now_s;
use crate::node::Node;

/// How long a test waits for anything.
const PATIENCE: Duration = Duration::from_secs(10);

const SECRET: &str = "the secret of the nodes in tests";

/// A running node; it stops with the test's runtime.
pub(crate) struct TestNode {
    node: Node,
}

/// The answer to an HTTP request.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Value,
}

impl Answer {
    /// The `data` of a successful answer.
    #[track_caller]
    pub(crate) fn data(&self) -> &Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        assert_eq!(self.body["success"], json!(true));
        &self.body["data"]
    }

    /// Fails unless the answer is this refusal.
    #[track_caller]
    pub(crate) fn is_refused(&self, status: u16, error: &str) {
        assert_eq!((self.status, &self.body), (status, &refusal(error)));
    }
}

/// The answer to a refused request or event.
pub(crate) fn refusal(error: &str) -> Value {
    json!({ "success": false, "error": error })
}

impl TestNode {
    /// A node with all apps.
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// A node with additional settings.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let mut layers = Layers::new(apps::declarations());
        let own = [
            ("listen", "127.0.0.1:0"),
            ("internal_listen", "127.0.0.1:0"),
            ("database_url", "sqlite::memory:"),
            ("jwt_secret", SECRET),
            // Tests send events faster than clients should.
            ("events_per_second", "0"),
            ("handshakes_per_address", "0"),
        ];
        for (key, value) in own.iter().chain(settings) {
            layers.set(Layer::Flag, key, value);
        }
        let config: Config = layers.resolve().unwrap();
        let node = Self { node: Node::start(config, SECRET).await.unwrap() };
        timeout(PATIENCE, async {
            while node.send(node.node.public, "GET", "/ready", &[], None).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the node becomes ready");
        node
    }

    /// A token of a user with additional claims.
    pub(crate) fn token(&self, user: &str, claims: &Value) -> String {
        let mut all = json!({ "sub": user, "exp": now_s() + 3_600 });
        all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
        sign_hs256(SECRET, &all).unwrap()
    }

    /// Connects a user's client to a namespace.
    pub(crate) async fn client(&self, namespace: &str, user: &str, claims: &Value) -> TestClient {
        let token = self.token(user, claims);
        self.try_client(namespace, Some(&token)).await.expect("the node accepts the client")
    }

    /// Connects a client to a namespace; an error is the refusal.
    pub(crate) async fn try_client(
        &self,
        namespace: &str,
        token: Option<&str>,
    ) -> Result<TestClient, String> {
        let address = Address::parse(&format!("ws://{}", self.node.public)).unwrap();
        let stream = Client::reach(&address).await.unwrap();
        let mut client = Client::open(&address, stream).await.unwrap();
        client.connect(namespace, token).await.unwrap();
        let mut events = VecDeque::new();
        loop {
            match timeout(PATIENCE, client.next()).await.expect("an answer to CONNECT").unwrap() {
                ServerPacket::Connected => return Ok(TestClient { client, events, is_disconnected: false }),
                ServerPacket::Refused { message, .. } => return Err(message),
                ServerPacket::Event { name, args } => events.push_back((name, args)),
                ServerPacket::Ack { .. } | ServerPacket::Disconnected => {}
            }
        }
    }

    /// Sends a request to the public listener as a user with a role.
    pub(crate) async fn rest(
        &self,
        (user, role): (&str, &str),
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Answer {
        let token = self.token(user, &json!({ "role": role }));
        let headers = [("authorization", format!("Bearer {token}"))];
        self.send(self.node.public, method, path, &headers, body).await
    }

    /// Sends a request to the public listener without a token.
    pub(crate) async fn rest_without_token(&self, method: &str, path: &str) -> Answer {
        self.send(self.node.public, method, path, &[], None).await
    }

    /// Sends a request to the internal listener as a backend.
    pub(crate) async fn internal(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let headers = [("x-internal-request", "true".to_owned())];
        self.send(self.node.internal, method, path, &headers, body).await
    }

    async fn send(
        &self,
        to: SocketAddr,
        method: &str,
        path: &str,
        headers: &[(&str, String)],
        body: Option<&Value>,
    ) -> Answer {
        let body = body.map(Value::to_string).unwrap_or_default();
        let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {to}\r\nconnection: close\r\n");
        for (name, value) in headers {
            request.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            request
                .push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        request.push_str(&format!("\r\n{body}"));
        let answered = timeout(PATIENCE, async {
            let mut stream = TcpStream::connect(to).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        });
        let answer = answered.await.unwrap_or_else(|_| panic!("no answer to {method} {path}"));
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, body: serde_json::from_str(body).unwrap_or_default() }
    }
}

/// A client in a namespace. It queues events until the test asks for them.
pub(crate) struct TestClient {
    client: Client,
    events: VecDeque<(String, Vec<Value>)>,
    is_disconnected: bool,
}

impl TestClient {
    /// Emits an event and returns the first argument of its ack.
    pub(crate) async fn ask(&mut self, name: &str, argument: Value) -> Value {
        let asked = self.client.ask(name, &argument).await.unwrap();
        loop {
            match self.next(&format!("an ack of {name}")).await {
                ServerPacket::Ack { number, args } if number == asked => {
                    return args.into_iter().next().unwrap_or_default();
                }
                packet => self.keep(packet),
            }
        }
    }

    /// Fails unless the ack of the event is this refusal.
    pub(crate) async fn is_refused(&mut self, name: &str, argument: Value, error: &str) {
        let shown = argument.to_string();
        assert_eq!(self.ask(name, argument).await, refusal(error), "{name} {shown}");
    }

    /// The argument of the next event with this name; earlier events with other names stay queued.
    pub(crate) async fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|(other, _)| other == name) {
                let (_, args) = self.events.remove(at).unwrap();
                return args.into_iter().next().unwrap_or_default();
            }
            let packet = self.next(name).await;
            self.keep(packet);
        }
    }

    /// Names of the queued events, including those that the node sent before it answered the last request.
    pub(crate) async fn others(&mut self) -> Vec<String> {
        assert_eq!(self.ask("no such event", Value::Null).await, refusal("Unknown event"));
        self.events.drain(..).map(|(name, _)| name).collect()
    }

    /// Waits until the node disconnects the client from the namespace.
    pub(crate) async fn is_put_out(&mut self) {
        while !self.is_disconnected {
            let packet = self.next("the end").await;
            self.keep(packet);
        }
    }

    fn keep(&mut self, packet: ServerPacket) {
        match packet {
            ServerPacket::Event { name, args } => self.events.push_back((name, args)),
            ServerPacket::Disconnected => self.is_disconnected = true,
            ServerPacket::Ack { .. } | ServerPacket::Connected | ServerPacket::Refused { .. } => {}
        }
    }

    async fn next(&mut self, what: &str) -> ServerPacket {
        let next = timeout(PATIENCE, self.client.next()).await;
        next.unwrap_or_else(|_| panic!("no {what}; there are {:?}", self.events)).unwrap()
    }
}
