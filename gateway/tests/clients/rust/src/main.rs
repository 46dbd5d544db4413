//! Keeps four connections, or sends bytes over two, and prints what happens as lines of JSON until its standard input ends.

use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rust_socketio::client::Client;
use rust_socketio::{ClientBuilder, Event, Payload, RawClient, TransportType};
use serde_json::json;

const ACK: Duration = Duration::from_secs(10);

fn say(name: &str, event: &str, value: &serde_json::Value) {
    println!("{}", json!({"name": name, "event": event, "value": value}));
}

fn builder(url: &str, token: &str, name: &'static str, transport: TransportType) -> ClientBuilder {
    ClientBuilder::new(url)
        .namespace("/relay")
        .transport_type(transport)
        .auth(json!({"token": token}))
        .reconnect_delay(200, 1_000)
        .on(Event::Close, move |_, _| say(name, "disconnect", &json!("close")))
}

/// The first argument of an answer: acks come as a list within a list.
fn first(payload: &Payload) -> serde_json::Value {
    match payload {
        Payload::Text(values) => match values.first() {
            Some(serde_json::Value::Array(inner)) => inner.first().cloned().unwrap_or_default(),
            other => other.cloned().unwrap_or_default(),
        },
        Payload::Binary(bytes) => json!(bytes.len()),
        #[allow(deprecated)]
        Payload::String(text) => json!(text),
    }
}

fn echo(client: &RawClient, name: &'static str, count: &AtomicU64) {
    let number = count.fetch_add(1, Ordering::Relaxed) + 1;
    let _ = client.emit_with_ack("echo", json!(number), ACK, move |back: Payload, _| {
        say(name, "echo", &first(&back));
    });
}

fn keep(url: &str, token: &str, name: &'static str, transport: TransportType, sends: bool) -> Client {
    let count = Arc::new(AtomicU64::new(0));
    let at_connect = Arc::clone(&count);
    let client = builder(url, token, name, transport)
        .on(Event::Connect, move |_, client| {
            say(name, "connect", &json!(0));
            if !sends {
                echo(&client, name, &at_connect);
            }
        })
        .connect()
        .expect("the first connection");
    if sends {
        let client = client.clone();
        std::thread::spawn(move || {
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let number = count.fetch_add(1, Ordering::Relaxed) + 1;
                // Refused while there is no connection.
                let _ = client.emit_with_ack("echo", json!(number), ACK, move |back: Payload, _| {
                    say(name, "echo", &first(&back));
                });
            }
        });
    }
    client
}

fn main() {
    let mut args = std::env::args().skip(1);
    let (url, token) = (args.next().expect("a URL"), args.next().expect("a token"));
    let _clients = [
        keep(&url, &token, "websocket idle", TransportType::Websocket, false),
        keep(&url, &token, "websocket sending", TransportType::Websocket, true),
        keep(&url, &token, "polling idle", TransportType::Polling, false),
        keep(&url, &token, "polling sending", TransportType::Polling, true),
    ];
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
    std::process::exit(0);
}
