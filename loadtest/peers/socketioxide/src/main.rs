//! A Socket.IO server on socketioxide and axum as its users would write it: every client may join and publish to any
//! room.
//!
//! On tokio's current-thread runtime, for one core: with several threads it may answer a client's CONNECT before it
//! listens to the client's events, and lets one client's messages overtake each other.

use axum::Router;
use axum::serve::ListenerExt;
use clap::Parser;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use socketioxide::SocketIo;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{AckSender, Data, SocketRef};
use socketioxide_redis::{RedisAdapter, RedisAdapterCtr};
use tokio::net::TcpListener;

#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Packets that may wait for one socket; the default of 128 loses deliveries where many broadcasts are in flight.
const PACKETS_WAITING: usize = 4096;

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[derive(Parser)]
struct Args {
    /// Port on 127.0.0.1.
    #[arg(long)]
    port: u16,

    /// Port of the Redis on 127.0.0.1 that makes nodes a cluster.
    #[arg(long)]
    redis: Option<u16>,
}

#[derive(Deserialize)]
struct Room {
    room: String,
}

#[derive(Deserialize)]
struct Publish {
    room: String,
    event: String,
    data: Value,
}

#[derive(Serialize)]
struct Success {
    success: bool,
}

const SUCCESS: Success = Success { success: true };

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let args = Args::parse();
    let builder = SocketIo::builder().max_buffer_size(PACKETS_WAITING);
    let app = match args.redis {
        None => {
            let (layer, io) = builder.build_layer();
            io.ns("/relay", on_connect);
            Router::new().layer(layer)
        }
        Some(port) => {
            let client = redis::Client::open(format!("redis://127.0.0.1:{port}?protocol=resp3"))?;
            let adapter = RedisAdapterCtr::new_with_redis(&client).await?;
            let (layer, io) = builder.with_adapter::<RedisAdapter<_>>(adapter).build_layer();
            io.ns("/relay", on_connect).await?;
            Router::new().layer(layer)
        }
    };
    let listener = TcpListener::bind(("127.0.0.1", args.port)).await?.tap_io(|stream| {
        // A socket that is gone already needs none.
        let _ = stream.set_nodelay(true);
    });
    Ok(axum::serve(listener, app).await?)
}

async fn on_connect<A: Adapter>(socket: SocketRef<A>) {
    socket.on("join", async |socket: SocketRef<A>, Data(Room { room }), ack: AckSender<A>| {
        socket.join(room);
        let _ = ack.send(&SUCCESS);
    });
    socket.on("leave", async |socket: SocketRef<A>, Data(Room { room }), ack: AckSender<A>| {
        socket.leave(room);
        let _ = ack.send(&SUCCESS);
    });
    socket.on("publish", async |socket: SocketRef<A>, Data(publish), ack: AckSender<A>| {
        let Publish { room, event, data } = publish;
        let _ = socket.within(room).emit(event, &data).await;
        let _ = ack.send(&SUCCESS);
    });
    socket.on("echo", async |Data::<Value>(data), ack: AckSender<A>| {
        let _ = ack.send(&data);
    });
}
