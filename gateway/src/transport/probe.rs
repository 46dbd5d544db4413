//! A WebSocket that wants to take over a polling session (protocol, 1.7).
//!
//! ```text
//!   client                         gateway
//!     ├── 2probe ──────────────────► every GET is released from now on
//!     ◄────────────────── 3probe ──┤
//!     │ (its last GET ends)        │
//!     ├── 5 ───────────────────────► the send queue continues here, queued packets first
//! ```
//! As in the reference implementation, `2probe` may be omitted or repeated, and a POST in progress does not prevent
//! `5`. Any other packet ends only this WebSocket, and the session stays on polling.

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

/// Probes, and continues as the session's WebSocket if the session allows it.
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
    // A client that has switched already should reconnect after the end of its session, and some clients do not after a
    // close frame.
    if !session.is_closed() {
        let mut close = Vec::new();
        ws::push_close(&mut close, None);
        // The client may be gone already.
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

/// Answers probes until `5` arrives; false for any other packet.
async fn probe(session: &Session, stream: &mut TcpStream, frames: &mut Frames) -> bool {
    loop {
        match frames.next(stream).await {
            Some(ProbePacket::Probe) => {
                let mut pong = Vec::new();
                ws::push_frame(&mut pong, ws::OP_TEXT, b"3probe");
                if !session.begin_upgrade() || stream.write_all(&pong).await.is_err() {
                    return false;
                }
            }
            Some(ProbePacket::Upgrade) => return true,
            None => return false,
        }
    }
}

/// `5` has arrived: continues when the POST in progress has ended.
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

/// A probe in progress; however it ends, GETs wait again.
struct Probing<'a> {
    session: &'a Session,
}

impl Drop for Probing<'_> {
    fn drop(&mut self) {
        self.session.abort_upgrade();
    }
}

/// The packets of a probing WebSocket.
enum ProbePacket {
    Probe,
    Upgrade,
}

struct Frames {
    decoder: Decoder,
    unread: Vec<u8>,
    /// How many frames were skipped, including probes.
    passed: u32,
}

impl Frames {
    /// The next packet; `None` at the end of the WebSocket, or with a packet that ends it. Answers pings, and skips a
    /// few pings, pongs and fragments.
    async fn next(&mut self, stream: &mut TcpStream) -> Option<ProbePacket> {
        loop {
            let mut pong = Vec::new();
            let (used, packet) = match self.decoder.next(&mut self.unread) {
                Err(_) | Ok(Some((_, Received::Binary(_) | Received::Close(_)))) => return None,
                Ok(Some((used, Received::Text(text)))) => match Packet::decode(text) {
                    Ok(Packet::PingProbe) => (used, Some(ProbePacket::Probe)),
                    Ok(Packet::Upgrade) => (used, Some(ProbePacket::Upgrade)),
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
            if matches!(packet, Some(ProbePacket::Upgrade)) {
                return packet;
            }
            self.passed += 1;
            if self.passed > CONTROL_FRAMES_BURST {
                metrics::get().rate_limited(Limit::ControlFrames);
                return None;
            }
            if !pong.is_empty() && stream.write_all(&pong).await.is_err() {
                return None;
            }
            if packet.is_some() {
                return packet;
            }
        }
    }
}
