//! How a WebSocket takes over a polling session.

use std::sync::Arc;
use std::time::Instant;

use shared::eio::TransportName;
use tokio::sync::oneshot;

use super::state::{Completed, State};
use super::{NOOP, Session};
use crate::metrics;

/// Whether a WebSocket that has sent `5` takes over.
pub(crate) enum TakeOver {
    /// The session continues on it.
    Done,
    /// The WebSocket may retry when this resolves: a POST is in progress, whose packets come first.
    Later(oneshot::Receiver<()>),
    /// The session is closed.
    Refused,
}

impl Session {
    /// Registers a WebSocket that may take over. The returned receiver resolves when the session ends.
    pub(crate) fn watch_probe(&self) -> Option<oneshot::Receiver<()>> {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return None;
        }
        let (sender, closed) = oneshot::channel();
        inner.prober = Some(sender);
        Some(closed)
    }

    /// A WebSocket probes: every GET is released until it is done. False if there is nothing to take over.
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

    /// Lets the WebSocket take over as soon as no POST is in progress. A POST that has not arrived completely is
    /// abandoned.
    pub(crate) fn complete_upgrade(&self) -> TakeOver {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() {
            return TakeOver::Refused;
        }
        match inner.state.complete_upgrade() {
            Completed::Refused => TakeOver::Refused,
            Completed::Waits => {
                if let Some(uploading) = inner.uploading.take() {
                    // The POST may have ended in this moment.
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

    /// Whether a WebSocket took over without a probe; a GET that waited meanwhile then ends as after a close.
    pub(crate) fn is_upgraded_unprobed(&self) -> bool {
        self.inner.lock().state.is_upgraded_unprobed()
    }

    /// Takes the session's only seat for a probing WebSocket, if the session is on polling and the seat is free.
    pub(crate) fn seat_probe(self: &Arc<Self>) -> Option<ProbeSeat> {
        let mut inner = self.inner.lock();
        let free = inner.closed.is_none()
            && inner.state.transport() == TransportName::Polling
            && !std::mem::replace(&mut inner.probed, true);
        free.then(|| ProbeSeat { session: Arc::clone(self) })
    }
}

/// The seat of a probing WebSocket. A session has one, so that clients cannot open more of them than sessions.
#[derive(Debug)]
pub(crate) struct ProbeSeat {
    session: Arc<Session>,
}

impl Drop for ProbeSeat {
    fn drop(&mut self) {
        self.session.inner.lock().probed = false;
    }
}
