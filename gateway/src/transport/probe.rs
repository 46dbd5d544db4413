//! A WebSocket that wants to take a polling session over (protocol, 1.7).
//!
//! ```text
//!   client                         gateway
//!     ├── 2probe ──────────────────► every GET is released from now on
//!     ◄────────────────── 3probe ──┤
//!     │ (its last GET ends)        │
//!     ├── 5 ───────────────────────► the outbox goes on here, what waits first
//! ```
//! Until `5` the session is on polling, and anything else than these two packets ends this WebSocket alone.

use std::sync::Arc;

use shared::limits::CONTROL_FRAMES_BURST;
use shared::ws::{self, Decoder, Received, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Seat;
use super::websocket::Connection;
use crate::metrics::{self, Limit};
use crate::session::{ProbeSeat, Session};

/// Bytes read at once; a probe has two short frames.
const CHUNK: usize = 512;

/// Probes, and goes on as the session's WebSocket if it is let.
pub(super) async fn run(
    session: Arc<Session>,
    mut stream: TcpStream,
    unread: Vec<u8>,
    (place, seat): (Arc<Seat>, ProbeSeat),
) {
    let limit = session.engine().times.upgrade_timeout;
    let mut frames = Frames { decoder: Decoder::new(Role::Server, CHUNK), unread, passed: 0 };
    let probed = tokio::time::timeout(limit, probe(&session, &mut stream, &mut frames)).await;
    if probed == Ok(true) {
        let tasks = session.engine().namespaces.context().tasks.clone();
        drop(tasks.spawn(Connection::new(session, stream, frames.unread, place)));
        return;
    }
    let mut close = Vec::new();
    ws::push_close(&mut close, None);
    // The client may be gone; there is nobody to tell.
    let _ = stream.write_all(&close).await;
    let _ = stream.shutdown().await;
    drop(seat);
}

async fn probe(session: &Session, stream: &mut TcpStream, frames: &mut Frames) -> bool {
    if !frames.next_is(stream, "2probe").await {
        return false;
    }
    let Some(closed) = session.begin_upgrade() else { return false };
    let _open = Probing { session };
    let mut pong = Vec::new();
    ws::push_frame(&mut pong, ws::OP_TEXT, b"3probe");
    if stream.write_all(&pong).await.is_err() {
        return false;
    }
    tokio::select! {
        _ = closed => false,
        goes_on = frames.next_is(stream, "5") => goes_on && session.complete_upgrade(),
    }
}

/// A probe under way; when it ends in whatever way, GETs wait again.
struct Probing<'a> {
    session: &'a Session,
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.session.abort_upgrade();
    }
}

struct Frames {
    decoder: Decoder,
    unread: Vec<u8>,
    /// Frames that were passed over.
    passed: u32,
}

impl Frames {
    /// Whether the next message is this text. A few pings, pongs and pieces are passed over.
    async fn next_is(&mut self, stream: &mut TcpStream, expected: &str) -> bool {
        loop {
            match self.decoder.next(&mut self.unread) {
                Err(_) | Ok(Some((_, Received::Binary(_) | Received::Close(_)))) => return false,
                Ok(Some((used, Received::Text(text)))) => {
                    let is = text == expected;
                    self.unread.drain(..used);
                    return is;
                }
                Ok(Some((used, Received::Ping(_) | Received::Pong | Received::Fragment))) => {
                    self.unread.drain(..used);
                    self.passed += 1;
                    if self.passed > CONTROL_FRAMES_BURST {
                        metrics::get().rate_limited(Limit::ControlFrames);
                        return false;
                    }
                }
                Ok(None) => {
                    let mut chunk = [0; CHUNK];
                    match stream.read(&mut chunk).await {
                        Ok(count @ 1..) => {
                            self.unread.extend_from_slice(chunk.get(..count).unwrap_or_default());
                        }
                        Ok(0) | Err(_) => return false,
                    }
                }
            }
        }
    }
}
