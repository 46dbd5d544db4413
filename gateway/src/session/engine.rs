//! What the sessions of a node share, and how one is opened.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use shared::config::SessionTimes;
use shared::eio::{Open, TransportName};
use shared::ids::SessionId;
use shared::limits::DEADLINES_PER_TURN;
use shared::sio::Reassembly;
use smallvec::SmallVec;

use super::allowances::Allowances;
use super::state::State;
use super::{Deadlines, Inner, Session, SessionTable, text_frame};
use crate::close::CloseReason;
use crate::ids;
use crate::metrics;
use crate::namespace::{Handshake, Namespaces};

/// What all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) times: SessionTimes,
    /// Bytes of one message.
    pub(crate) max_payload: usize,
    pub(crate) sessions: SessionTable,
    pub(crate) deadlines: Deadlines,
    pub(crate) namespaces: Namespaces,
    /// When the seconds begin that [`Allowances`] count in.
    started: Instant,
}

impl Engine {
    pub(crate) fn new(
        times: SessionTimes,
        max_payload: usize,
        sessions: SessionTable,
        namespaces: Namespaces,
    ) -> Self {
        Self {
            times,
            max_payload,
            sessions,
            deadlines: Deadlines::new(Instant::now()),
            namespaces,
            started: Instant::now(),
        }
    }

    /// Opens a session that has been admitted, its open packet queued.
    pub(crate) fn open(self: &Arc<Self>, transport: TransportName, handshake: Handshake) -> Arc<Session> {
        let now = Instant::now();
        let fanout = &self.namespaces.context().fanout;
        let id = SessionId::new(fanout.node(), ids::entropy());
        let outbox = fanout.outbox(id);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let times = (millis(self.times.ping_interval), millis(self.times.ping_timeout));
        outbox.push(text_frame(&Open::new(&id, transport, times, self.max_payload).encode()), 1);
        let state = State::new(transport, self.times, now);
        let session = Arc::new(Session {
            id,
            outbox,
            engine: Arc::clone(self),
            handshake,
            inner: Mutex::new(Inner {
                state,
                reassembly: Reassembly::default(),
                allowances: Allowances::default(),
                sockets: SmallVec::new(),
                closed: None,
                armed: None,
                busy: false,
                probed: false,
                watchers: SmallVec::new(),
                linger_until: None,
            }),
        });
        self.sessions.insert(Arc::clone(&session));
        session.arm(&mut session.inner.lock());
        metrics::get().sessions_opened.increment(1);
        metrics::get().connections(transport).increment(1);
        tracing::debug!(session = id.short(), transport = transport.as_str(), "session opened");
        session
    }

    /// Looks at every session whose deadline has come.
    ///
    /// Many sessions that came at once have their deadlines at once, so the other tasks have their turn between.
    pub(crate) async fn tick(&self, now: Instant) {
        for some in self.deadlines.fire(now).chunks(DEADLINES_PER_TURN) {
            for id in some {
                if let Some(session) = self.sessions.get(*id) {
                    session.on_deadline(now);
                }
            }
            if some.len() == DEADLINES_PER_TURN {
                tokio::task::yield_now().await;
            }
        }
    }

    /// Whole seconds since the engine was made.
    pub(super) fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    /// Closes a session by id, if it is open.
    pub(crate) fn close(&self, id: SessionId, reason: CloseReason) {
        if let Some(session) = self.sessions.get(id) {
            session.close(reason);
        }
    }
}
