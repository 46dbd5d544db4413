//! What the sessions of a node share, and how the node opens one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use fanout::LocalSocket;
use parking_lot::Mutex;
use shared::config::SessionTimes;
use shared::eio::{Open, TransportName};
use shared::ids::SessionId;
use shared::limits::DEADLINES_PER_TURN;
use shared::sio::Reassembly;
use smallvec::SmallVec;

use super::allowances::Allowances;
use super::repeat::LastConnect;
use super::state::State;
use super::table::Admitted;
use super::{Deadlines, Full, Inner, Inputs, Session, SessionTable, text_frame};
use crate::clock;
use crate::close::CloseReason;
use crate::ids;
use crate::metrics::{self, Evicted};
use crate::namespace::{Handshake, Namespaces};
use crate::socket::Socket;

/// What all sessions of a node share.
#[derive(Debug)]
pub(crate) struct Engine {
    pub(crate) times: Arc<SessionTimes>,
    /// Maximum bytes of one message.
    pub(crate) max_payload: usize,
    pub(crate) sessions: SessionTable,
    pub(crate) deadlines: Deadlines,
    pub(crate) inputs: Arc<Inputs>,
    pub(crate) namespaces: Arc<Namespaces>,
    /// The start of the seconds that [`Allowances`] count in.
    started: Instant,
    /// Sessions opened so far.
    opened: AtomicU64,
    /// How many jumps of the wall clock the token deadlines have followed.
    jumps: AtomicU32,
}

impl Engine {
    pub(crate) fn new(
        times: SessionTimes,
        max_payload: usize,
        sessions: SessionTable,
        inputs: Inputs,
        namespaces: Namespaces,
    ) -> Self {
        Self {
            times: Arc::new(times),
            max_payload,
            sessions,
            deadlines: Deadlines::new(Instant::now()),
            inputs: Arc::new(inputs),
            namespaces: Arc::new(namespaces),
            started: Instant::now(),
            opened: AtomicU64::new(0),
            jumps: AtomicU32::new(clock::jumps()),
        }
    }

    /// Opens a session with its open packet queued. A session in no namespace may be evicted for it.
    ///
    /// # Errors
    /// [`Full`].
    pub(crate) fn open(
        self: &Arc<Self>,
        transport: TransportName,
        handshake: Handshake,
    ) -> Result<Arc<Session>, Full> {
        let now = Instant::now();
        let fanout = &self.namespaces.context().fanout;
        let id = SessionId::new(fanout.node(), ids::entropy());
        let Admitted { place, evicted } = self.sessions.admit(handshake.origin, id)?;
        for session in evicted {
            metrics::get().evicted(Evicted::Session);
            self.close(session, CloseReason::Evicted);
        }
        let queue = fanout.send_queue(id);
        queue.set_narrow(true);
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let times = (millis(self.times.ping_interval), millis(self.times.ping_timeout));
        queue.push(text_frame(&Open::new(&id, transport, times, self.max_payload).encode()), 1);
        let state = State::new(transport, Arc::clone(&self.times), now);
        let session = Arc::new(Session {
            id,
            queue,
            engine: Arc::clone(self),
            handshake,
            number: self.opened.fetch_add(1, Ordering::Relaxed),
            is_known: AtomicBool::new(false),
            inner: Mutex::new(Inner {
                state,
                place,
                awaited: None,
                reassembly: Reassembly::default(),
                allowances: Allowances::default(),
                sockets: SmallVec::new(),
                last_connect: LastConnect::default(),
                closed: None,
                armed: None,
                busy: false,
                probed: false,
                prober: None,
                uploading: None,
                posted: None,
            }),
        });
        self.sessions.insert(Arc::clone(&session));
        session.arm(&mut session.inner.lock());
        metrics::get().sessions_opened.increment(1);
        metrics::get().connections(transport).increment(1);
        tracing::debug!(session = id.short(), transport = transport.as_str(), "session opened");
        if !self.sessions.keeps(place, session.handshake.origin) {
            // The session that evicted this one did not find it in the table yet.
            session.close(CloseReason::Evicted);
        }
        Ok(session)
    }

    /// Checks every session whose deadline has passed.
    ///
    /// Sessions that arrived at once have their deadlines at once, so this yields to other tasks in between.
    pub(crate) async fn tick(&self, now: Instant) {
        let jumps = clock::jumps();
        if self.jumps.swap(jumps, Ordering::Relaxed) != jumps {
            self.follow_jump().await;
        }
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
        // A stranger who opens sessions as fast as they are evicted must not fill the wheel with stale entries.
        self.deadlines.forget_unless(self.sessions.len(), |id| self.sessions.has(id));
    }

    /// Recomputes the deadlines of tokens after the wall clock was set.
    async fn follow_jump(&self) {
        for some in self.sessions.all().chunks(DEADLINES_PER_TURN) {
            some.iter().for_each(|session| session.rearm());
            tokio::task::yield_now().await;
        }
    }

    /// Milliseconds since the engine was made.
    pub(super) fn millisecond(&self, now: Instant) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "they wrap around after 49 days")]
        let millis = now.saturating_duration_since(self.started).as_millis() as u32;
        millis
    }

    /// Whole seconds since then.
    pub(super) fn second(&self, now: Instant) -> u32 {
        u32::try_from(now.saturating_duration_since(self.started).as_secs()).unwrap_or(u32::MAX)
    }

    /// The socket of a fan-out socket; `None` if it is leaving.
    pub(crate) fn socket(&self, local: &LocalSocket) -> Option<Arc<Socket>> {
        self.sessions.get(local.queue().session())?.socket(local.id())
    }

    /// Finds a session by id and first does what is due of it.
    pub(crate) fn find(&self, id: SessionId) -> Option<Arc<Session>> {
        self.sessions.get(id)?.look(Instant::now());
        self.sessions.get(id)
    }

    /// Closes a session by id, if it is open.
    pub(crate) fn close(&self, id: SessionId, reason: CloseReason) {
        if let Some(session) = self.sessions.get(id) {
            session.close(reason);
        }
    }
}
