//! The requests of a polling session, and what the last of them are answered.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::state::State;
use super::{CLOSE, Refused, Session};
use crate::close::CloseReason;
use crate::session::NOOP;

/// No packet (its type does not exist), behind `1` in the last answer of a session whose client is to come back. Clients that
/// take a body packet by packet have closed by then (the stock client: `transport close`) and come back, as they do after `1`
/// alone. python-socketio takes `1` for a wish that it stays away, but reads the whole body first, and one that it
/// cannot read is a lost connection to it, after which it comes back, too.
const UNREADABLE: Bytes = Bytes::from_static(&[0x81, 1, b'-']);

/// Ends before a POST has come in: with the session, or, when it is sent to, because a WebSocket takes over.
pub(crate) type Uploading = oneshot::Receiver<()>;

impl Session {
    /// A GET begins. Answers whether it must be released at once.
    pub(crate) fn begin_get(&self) -> Result<bool, Refused> {
        self.change(State::begin_get)
    }

    pub(crate) fn end_get(&self) {
        self.change(State::end_get);
    }

    /// A POST begins to come in.
    pub(crate) fn begin_post(&self) -> Result<Uploading, Refused> {
        let mut inner = self.inner.lock();
        inner.state.begin_post()?;
        let (sender, uploading) = oneshot::channel();
        if inner.closed.is_none() {
            inner.uploading = Some(sender);
        }
        Ok(uploading)
    }

    /// The POST has come in whole. False where a WebSocket or the end of the session was faster.
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

    /// Sees to the last answer of a closed polling session. Who is to be told stays in the table until a GET
    /// has taken it: whether one that is under way will take it, or has just taken what was there before,
    /// cannot be known here.
    pub(super) fn end_polling(&self, reason: CloseReason, getting: bool) {
        self.queue.finish(match reason {
            // The client's own `1` releases its GET with a noop; ours is a `1`.
            CloseReason::Client => Some(NOOP),
            CloseReason::Evicted => getting.then_some(CLOSE),
            // A GET that finds nothing more asks for the farewell.
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

    /// What a GET is answered that finds a closed session and nothing that waits; nothing where the session is unknown from
    /// now on.
    pub(crate) fn farewell(&self) -> Vec<Bytes> {
        let closed = self.inner.lock().closed;
        let comes_back =
            closed.is_some_and(|reason| reason.comes_back() && reason != CloseReason::SlowConsumer);
        if comes_back { vec![CLOSE, UNREADABLE] } else { Vec::new() }
    }

    /// What a GET has found: it waits no longer. With the end of the session in it nobody has to come again.
    pub(crate) fn taken(&self, packets: &[Bytes]) {
        self.end_get();
        let last = packets.last();
        if self.is_closed() && (last == Some(&CLOSE) || last == Some(&UNREADABLE)) {
            self.forget();
        }
    }
}
