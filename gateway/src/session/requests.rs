//! The requests of a polling session, and the answers to its last ones.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::state::State;
use super::{CLOSE, Refused, Session};
use crate::close::CloseReason;
use crate::session::NOOP;

/// A packet of a type that does not exist. It follows `1` in the last answer of a session whose client should
/// reconnect. Clients that parse a body packet by packet have closed by then (the stock client: `transport close`) and
/// reconnect, as they do after `1` alone. python-socketio takes `1` as a request to stay away, but it parses the whole
/// body first, treats an unreadable one as a lost connection, and reconnects as well.
const UNREADABLE: Bytes = Bytes::from_static(&[0x81, 1, b'-']);

/// Resolves before a POST has arrived: dropped at the end of the session, sent to when a WebSocket takes over.
pub(crate) type Uploading = oneshot::Receiver<()>;

impl Session {
    /// Begins a GET. Returns whether to release it at once.
    pub(crate) fn begin_get(&self) -> Result<bool, Refused> {
        self.change(State::begin_get)
    }

    pub(crate) fn end_get(&self) {
        self.change(State::end_get);
    }

    /// Begins to receive a POST.
    pub(crate) fn begin_post(&self) -> Result<Uploading, Refused> {
        let mut inner = self.inner.lock();
        inner.state.begin_post()?;
        let (sender, uploading) = oneshot::channel();
        if inner.closed.is_none() {
            inner.uploading = Some(sender);
        }
        Ok(uploading)
    }

    /// The POST has arrived completely. False if a WebSocket or the end of the session came first.
    pub(crate) fn uploaded(&self) -> bool {
        self.inner.lock().uploading.take().is_some()
    }

    pub(crate) fn end_post(&self) {
        let posted = {
            let mut inner = self.inner.lock();
            inner.uploading = None;
            inner.state.end_post();
            inner.posted.take()
        };
        drop(posted);
    }

    /// Prepares the last answer of a closed polling session. A session whose client must learn of the end stays in the
    /// table until a GET takes the answer: this function cannot know whether a GET in progress will take it or has
    /// already taken the packets before it.
    pub(super) fn end_polling(&self, reason: CloseReason, getting: bool) {
        self.queue.finish(match reason {
            // The client's own `1` releases its GET with a noop; the server's close releases it with `1`.
            CloseReason::Client => Some(NOOP),
            CloseReason::Evicted => getting.then_some(CLOSE),
            // A GET that finds no more packets takes the farewell.
            reason if reason.comes_back() && reason != CloseReason::PingTimeout => None,
            reason if reason.lingers() || reason == CloseReason::ParseError => Some(CLOSE),
            _ => getting.then_some(CLOSE),
        });
        if reason == CloseReason::Shutdown {
            self.queue.flush();
        }
        if !reason.lingers() {
            self.engine.sessions.remove(self.id);
        }
    }

    /// The answer to a GET that finds a closed session and no queued packets; empty once the session is unknown.
    pub(crate) fn farewell(&self) -> Vec<Bytes> {
        let closed = self.inner.lock().closed;
        let comes_back =
            closed.is_some_and(|reason| reason.comes_back() && reason != CloseReason::SlowConsumer);
        if comes_back { vec![CLOSE, UNREADABLE] } else { Vec::new() }
    }

    /// Records which packets a GET took. If they contain the end of the session, no further GET is needed.
    pub(crate) fn taken(&self, packets: &[Bytes]) {
        self.end_get();
        let last = packets.last();
        if self.is_closed() && (last == Some(&CLOSE) || last == Some(&UNREADABLE)) {
            self.forget();
        }
    }
}
