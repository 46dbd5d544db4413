//! A WebSocket that wants to take a polling session over (protocol, 1.7).
//!
//! ```text
//!   client                         gateway
//!     ├── 2probe ──────────────────► every GET is released from now on
//!     ◄────────────────── 3probe ──┤
//!     │ (its last GET ends)        │
//!     ├── 5 ───────────────────────► the send queue goes on here, what waits first
//! ```
//! As with the reference, `2probe` may be left out or repeated, and a POST that is under way does not stop `5`. Anything else
//! than these two packets ends this WebSocket alone, and the session stays on polling.

use std::sync::Arc;

use shared::eio::Packet;
use shared::limits::CONTROL_FRAMES_BURST;
use shared::ws::{self, Decoder, Received, Role};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::Seat;
use super::websocket::Connection;
use crate::metrics::{self, Limit};
use crate::session::{ProbeSeat, Session, TakeOver};

/// Bytes read at once; a probe has two short frames.
const CHUNK: usize = 512;

/// Probes, and goes on as the session's WebSocket if it is let.
pub(super) async fn run(
    session: Arc<Session>,
    mut stream: TcpStream,
    unread: Vec<u8>,
    no_binary: bool,
    (place, seat): (Arc<Seat>, ProbeSeat),
) {
    let mut frames = Frames { decoder: Decoder::new(Role::Server, CHUNK), unread, passed: 0 };
    if takes_over(&session, &mut stream, &mut frames).await {
        if no_binary {
            session.queue().leave_out_binary();
        }
        let tasks = session.engine().namespaces.context().tasks.clone();
        drop(tasks.spawn(Connection::new(session, stream, frames.unread, place)));
        return;
    }
    // A client that has switched already is to come back from what has ended its session, and some do not after a close frame.
    if !session.is_closed() {
        let mut close = Vec::new();
        ws::push_close(&mut close, None);
        // The client may be gone; there is nobody to tell.
        let _ = stream.write_all(&close).await;
    }
    let _ = stream.shutdown().await;
    drop(seat);
}

async fn takes_over(session: &Session, stream: &mut TcpStream, frames: &mut Frames) -> bool {
    let Some(mut closed) = session.watch_probe() else { return false };
    let _open = Probing { session };
    let limit = session.engine().times.upgrade_timeout;
    let upgrades = tokio::select! {
        _ = &mut closed => false,
        upgrades = tokio::time::timeout(limit, probe(session, stream, frames)) => upgrades == Ok(true),
    };
    upgrades && take_over(session, closed).await
}

/// Answers probes until `5` comes; false when something else does.
async fn probe(session: &Session, stream: &mut TcpStream, frames: &mut Frames) -> bool {
    loop {
        match frames.next(stream).await {
            Some(Said::Probe) => {
                let mut pong = Vec::new();
                ws::push_frame(&mut pong, ws::OP_TEXT, b"3probe");
                if !session.begin_upgrade() || stream.write_all(&pong).await.is_err() {
                    return false;
                }
            }
            Some(Said::Upgrade) => return true,
            None => return false,
        }
    }
}

/// `5` has come: goes on when the POST that is under way has ended.
async fn take_over(session: &Session, mut closed: oneshot::Receiver<()>) -> bool {
    loop {
        match session.complete_upgrade() {
            TakeOver::Done => return true,
            TakeOver::Refused => return false,
            TakeOver::Later(posted) => tokio::select! {
                _ = &mut closed => return false,
                _ = posted => {}
            },
        }
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

/// What belongs on a WebSocket that probes.
enum Said {
    Probe,
    Upgrade,
}

struct Frames {
    decoder: Decoder,
    unread: Vec<u8>,
    /// Frames that were passed over, and probes.
    passed: u32,
}

impl Frames {
    /// The next message; nothing when the WebSocket ends, or with it. Pings are answered, and a few pings, pongs and pieces passed
    /// over.
    async fn next(&mut self, stream: &mut TcpStream) -> Option<Said> {
        loop {
            let mut pong = Vec::new();
            let (used, said) = match self.decoder.next(&mut self.unread) {
                Err(_) | Ok(Some((_, Received::Binary(_) | Received::Close(_)))) => return None,
                Ok(Some((used, Received::Text(text)))) => match Packet::decode(text) {
                    Ok(Packet::PingProbe) => (used, Some(Said::Probe)),
                    Ok(Packet::Upgrade) => (used, Some(Said::Upgrade)),
                    Ok(_) | Err(_) => return None,
                },
                Ok(Some((used, Received::Ping(payload)))) => {
                    ws::push_frame(&mut pong, ws::OP_PONG, payload);
                    (used, None)
                }
                Ok(Some((used, Received::Pong | Received::Fragment))) => (used, None),
                Ok(None) => {
                    let mut chunk = [0; CHUNK];
                    match stream.read(&mut chunk).await {
                        Ok(count @ 1..) => {
                            self.unread.extend_from_slice(chunk.get(..count).unwrap_or_default());
                        }
                        Ok(0) | Err(_) => return None,
                    }
                    continue;
                }
            };
            self.unread.drain(..used);
            if matches!(said, Some(Said::Upgrade)) {
                return said;
            }
            self.passed += 1;
            if self.passed > CONTROL_FRAMES_BURST {
                metrics::get().rate_limited(Limit::ControlFrames);
                return None;
            }
            if !pong.is_empty() && stream.write_all(&pong).await.is_err() {
                return None;
            }
            if said.is_some() {
                return said;
            }
        }
    }
}
