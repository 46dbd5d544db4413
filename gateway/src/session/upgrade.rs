//! How a WebSocket takes a polling session over.

use std::sync::Arc;
use std::time::Instant;

use shared::eio::TransportName;
use tokio::sync::oneshot;

use super::state::{Completed, State};
use super::{NOOP, Session};
use crate::metrics;

/// What becomes of a WebSocket that has sent `5`.
pub(crate) enum TakeOver {
    /// The session goes on with it.
    Done,
    /// When this has ended it may ask again: a POST is under way, whose packets come first.
    Later(oneshot::Receiver<()>),
    /// The session is closed.
    Refused,
}

impl Session {
    /// A WebSocket has come that may take over. What it is given ends with the session.
    pub(crate) fn watch_probe(&self) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return None;
        }
        let (sender, closed) = oneshot::channel();
        inner.prober = Some(sender);
        Some(closed)
    }

    /// A WebSocket probes: every GET is released until it is done. False when there is nothing to take over.
    pub(crate) fn begin_upgrade(&self) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() || !inner.state.begin_upgrade(Instant::now()) {
            return false;
        }
        self.arm(&mut inner);
        let getting = inner.state.is_getting();
        drop(inner);
        if getting {
            self.queue.send(NOOP, 1);
        }
        true
    }

    pub(crate) fn abort_upgrade(&self) {
        self.change(State::abort_upgrade);
    }

    /// The WebSocket takes over, as soon as no POST is under way. One that has not come in yet is given up.
    pub(crate) fn complete_upgrade(&self) -> TakeOver {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return TakeOver::Refused;
        }
        match inner.state.complete_upgrade() {
            Completed::Refused => TakeOver::Refused,
            Completed::Waits => {
                if let Some(uploading) = inner.uploading.take() {
                    // It may have ended in this moment.
                    let _ = uploading.send(());
                }
                let (sender, posted) = oneshot::channel();
                inner.posted = Some(sender);
                TakeOver::Later(posted)
            }
            Completed::Done => {
                metrics::get().connections(TransportName::Polling).decrement(1);
                metrics::get().connections(TransportName::WebSocket).increment(1);
                TakeOver::Done
            }
        }
    }

    /// Whether a WebSocket has taken over that did not probe: a GET that waited meanwhile learns of it as of a close.
    pub(crate) fn is_upgraded_unprobed(&self) -> bool {
        self.inner.lock().state.is_upgraded_unprobed()
    }

    /// Takes the session's one seat for a probing WebSocket, if it is on polling and the seat is free.
    pub(crate) fn seat_probe(self: &Arc<Self>) -> Option<ProbeSeat> {
        let mut inner = self.inner.lock();
        let free = inner.closed.is_none()
            && inner.state.transport() == TransportName::Polling
            && !std::mem::replace(&mut inner.probed, true);
        free.then(|| ProbeSeat { session: Arc::clone(self) })
    }
}

/// A probing WebSocket's seat; a session has one, so that nobody opens more of them than sessions.
#[derive(Debug)]
pub(crate) struct ProbeSeat {
    session: Arc<Session>,
}

impl Drop for ProbeSeat {
    fn drop(&mut self) {
        self.session.inner.lock().probed = false;
    }
}
