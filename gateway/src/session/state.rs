//! The Engine.IO session as a pure state machine: packets and times in, actions out. No lock, no await, no clock
//! (protocol, 1.5–1.8).
//!
//! ```text
//!   polling ──2probe──► polling, probing ──5──► websocket
//!      │                       └── upgrade timeout or a lost probe: polling
//!      └─────────────5───────────────────────► websocket
//! ```
//! The heartbeat runs in every state, so an endless probe cannot keep a dead session alive.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::config::SessionTimes;
use shared::eio::{Packet, TransportName};
use shared::limits::REASSEMBLY_MAX_MS;

use crate::close::CloseReason;

/// The action for a packet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// Nothing.
    Ignore,
    /// An unsolicited pong, allowed within a rate.
    Unsolicited,
    /// A packet without a meaning for a server, allowed within a rate.
    Meaningless,
    /// A Socket.IO packet's text.
    Message(&'a str),
    /// An attachment.
    Binary(Vec<u8>),
    /// The session ends.
    Close(CloseReason),
}

/// The action for a deadline.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Send a ping.
    Ping,
    /// The session ends.
    Close(CloseReason),
    /// The probe failed; the session stays on polling.
    UpgradeTimeout,
}

/// A polling request that breaks the rules.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The session is not on polling, or no longer.
    NotPolling,
    /// A second request during the first: the session ends.
    Overlapping,
}

/// A ping up to this late counts as on time.
const LATE: Duration = Duration::from_millis(50);

/// Whether a WebSocket takes over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Completed {
    /// The session continues on it.
    Done,
    /// A POST is under way.
    Waits,
    /// The session is not on polling.
    Refused,
}

#[derive(Debug)]
enum Heartbeat {
    /// The next ping is due then.
    Resting { ping_at: Instant },
    /// A pong is due by then. The first other packet extends the deadline once, because a client with a busy uplink is
    /// alive.
    Waiting { until: Instant, extended: bool },
}

/// The progress of a WebSocket that takes over a polling session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Upgrade {
    None,
    /// It has sent `2probe`.
    Probing {
        by: Instant,
    },
    /// It has sent `5`, with or without a probe, and waits for the requests in progress to end.
    TakingOver {
        probed: bool,
    },
    Done {
        probed: bool,
    },
}

/// The machine.
#[derive(Debug)]
pub(crate) struct State {
    transport: TransportName,
    heartbeat: Heartbeat,
    connect_by: Option<Instant>,
    upgrade: Upgrade,
    reassembled_by: Option<Instant>,
    getting: bool,
    posting: bool,
    /// Shared by all sessions of the node.
    times: Arc<SessionTimes>,
}

impl State {
    pub(crate) fn new(transport: TransportName, times: Arc<SessionTimes>, now: Instant) -> Self {
        Self {
            transport,
            heartbeat: Heartbeat::Resting { ping_at: now + times.ping_interval },
            connect_by: Some(now + times.connect_timeout),
            upgrade: Upgrade::None,
            reassembled_by: None,
            getting: false,
            posting: false,
            times,
        }
    }

    /// The current transport.
    pub(crate) fn transport(&self) -> TransportName {
        self.transport
    }

    /// Handles a packet on the session's transport.
    pub(crate) fn receive<'a>(&mut self, packet: Packet<'a>, now: Instant) -> Step<'a> {
        if packet == Packet::Pong {
            if matches!(self.heartbeat, Heartbeat::Resting { .. }) {
                return Step::Unsolicited;
            }
            self.heartbeat = Heartbeat::Resting { ping_at: now + self.times.ping_interval };
            return Step::Ignore;
        }
        if let Heartbeat::Waiting { until, extended: extended @ false } = &mut self.heartbeat {
            *until = now + self.times.ping_timeout;
            *extended = true;
        }
        match packet {
            Packet::Message(text) => Step::Message(text),
            Packet::Binary(data) => Step::Binary(data),
            Packet::Close => Step::Close(CloseReason::Client),
            // Only the server pings; `2probe` belongs on a probing WebSocket.
            Packet::Ping | Packet::PingProbe => Step::Close(CloseReason::ParseError),
            Packet::Open | Packet::Upgrade | Packet::Noop | Packet::Pong => Step::Meaningless,
        }
    }

    /// The action due at `now`; the caller repeats this until there is none.
    pub(crate) fn due(&mut self, now: Instant) -> Option<Due> {
        if self.connect_by.is_some_and(|by| by <= now) {
            return Some(Due::Close(CloseReason::ConnectTimeout));
        }
        if self.reassembled_by.is_some_and(|by| by <= now) {
            return Some(Due::Close(CloseReason::ParseError));
        }
        if matches!(self.upgrade, Upgrade::Probing { by } if by <= now) {
            self.upgrade = Upgrade::None;
            return Some(Due::UpgradeTimeout);
        }
        match self.heartbeat {
            Heartbeat::Resting { ping_at } if ping_at <= now => {
                // Small delays of the node do not add up; after a long stall every client still gets its full time.
                let sent = if now - ping_at < LATE { ping_at } else { now };
                let until = sent + self.times.ping_timeout;
                self.heartbeat = Heartbeat::Waiting { until, extended: false };
                Some(Due::Ping)
            }
            Heartbeat::Waiting { until, .. } if until <= now => Some(Due::Close(CloseReason::PingTimeout)),
            Heartbeat::Resting { .. } | Heartbeat::Waiting { .. } => None,
        }
    }

    /// The client may have answered while nothing was read. Pings it again, so that it does not give up on the node.
    pub(crate) fn excuse(&mut self, now: Instant) {
        self.heartbeat = Heartbeat::Resting { ping_at: now };
    }

    /// When to call [`Self::due`] next.
    pub(crate) fn next_deadline(&self) -> Instant {
        let heartbeat = match self.heartbeat {
            Heartbeat::Resting { ping_at } => ping_at,
            Heartbeat::Waiting { until, .. } => until,
        };
        let upgrade_by = match self.upgrade {
            Upgrade::Probing { by } => Some(by),
            Upgrade::None | Upgrade::TakingOver { .. } | Upgrade::Done { .. } => None,
        };
        [self.connect_by, upgrade_by, self.reassembled_by].into_iter().flatten().fold(heartbeat, Instant::min)
    }

    /// The client joined a namespace.
    pub(crate) fn connected(&mut self) {
        self.connect_by = None;
    }

    /// The client left its last namespace.
    pub(crate) fn disconnected(&mut self, now: Instant) {
        self.connect_by = Some(now + self.times.connect_timeout);
    }

    /// Sets whether attachments are awaited.
    pub(crate) fn reassembling(&mut self, waiting: bool, now: Instant) {
        if !waiting {
            self.reassembled_by = None;
        } else if self.reassembled_by.is_none() {
            self.reassembled_by = Some(now + Duration::from_millis(REASSEMBLY_MAX_MS));
        }
    }

    /// Begins a GET that waits for packets. Returns whether it must not wait, because a probe is in progress.
    pub(crate) fn begin_get(&mut self) -> Result<bool, Refused> {
        if self.transport != TransportName::Polling || self.is_taken_over() {
            return Err(Refused::NotPolling);
        }
        if std::mem::replace(&mut self.getting, true) {
            return Err(Refused::Overlapping);
        }
        Ok(matches!(self.upgrade, Upgrade::Probing { .. }))
    }

    pub(crate) fn end_get(&mut self) {
        self.getting = false;
    }

    /// Begins a POST.
    pub(crate) fn begin_post(&mut self) -> Result<(), Refused> {
        if self.transport != TransportName::Polling || self.is_taken_over() {
            return Err(Refused::NotPolling);
        }
        if std::mem::replace(&mut self.posting, true) { Err(Refused::Overlapping) } else { Ok(()) }
    }

    pub(crate) fn end_post(&mut self) {
        self.posting = false;
    }

    /// Whether a GET waits for packets.
    pub(crate) fn is_getting(&self) -> bool {
        self.getting
    }

    /// A WebSocket sent `2probe`. False if the session is not on polling.
    pub(crate) fn begin_upgrade(&mut self, now: Instant) -> bool {
        let may = self.transport == TransportName::Polling;
        if may && self.upgrade == Upgrade::None {
            self.upgrade = Upgrade::Probing { by: now + self.times.upgrade_timeout };
        }
        may
    }

    /// The WebSocket disconnected.
    pub(crate) fn abort_upgrade(&mut self) {
        if !matches!(self.upgrade, Upgrade::Done { .. }) {
            self.upgrade = Upgrade::None;
        }
    }

    /// Whether a WebSocket waits only for a POST to end.
    fn is_taken_over(&self) -> bool {
        matches!(self.upgrade, Upgrade::TakingOver { .. })
    }

    /// The WebSocket sent `5`, with or without a probe. During a POST, whose packets precede any on the WebSocket, it
    /// has to wait; no new request may begin then.
    pub(crate) fn complete_upgrade(&mut self) -> Completed {
        if self.transport != TransportName::Polling {
            return Completed::Refused;
        }
        let probed = match self.upgrade {
            Upgrade::TakingOver { probed } | Upgrade::Done { probed } => probed,
            Upgrade::Probing { .. } => true,
            Upgrade::None => false,
        };
        if self.posting {
            self.upgrade = Upgrade::TakingOver { probed };
            return Completed::Waits;
        }
        self.upgrade = Upgrade::Done { probed };
        self.transport = TransportName::WebSocket;
        Completed::Done
    }

    /// Whether a WebSocket took over without a probe.
    pub(crate) fn is_upgraded_unprobed(&self) -> bool {
        self.upgrade == Upgrade::Done { probed: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: SessionTimes = SessionTimes {
        ping_interval: Duration::from_secs(25),
        ping_timeout: Duration::from_secs(20),
        connect_timeout: Duration::from_secs(45),
        upgrade_timeout: Duration::from_secs(10),
    };

    fn connected(transport: TransportName) -> (State, Instant) {
        let now = Instant::now();
        let mut state = State::new(transport, Arc::new(TIMES), now);
        state.connected();
        (state, now)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_session_that_answers_pings_lives_and_one_that_does_not_ends() {
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.due(after(start, 24)), None);
        assert_eq!(state.next_deadline(), after(start, 25));
        assert_eq!(state.due(after(start, 25)), Some(Due::Ping));
        assert_eq!(state.receive(Packet::Pong, after(start, 26)), Step::Ignore);
        assert_eq!(state.next_deadline(), after(start, 51));
        assert_eq!(state.due(after(start, 51)), Some(Due::Ping));
        assert_eq!(state.due(after(start, 70)), None);
        assert_eq!(state.due(after(start, 71)), Some(Due::Close(CloseReason::PingTimeout)));
    }

    #[test]
    fn the_first_other_packet_moves_the_timeout_once() {
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.due(after(start, 25)), Some(Due::Ping));
        assert_eq!(state.receive(Packet::Message("2[\"e\"]"), after(start, 40)), Step::Message("2[\"e\"]"));
        assert_eq!(state.next_deadline(), after(start, 60));
        state.receive(Packet::Message("2[\"e\"]"), after(start, 50));
        assert_eq!(state.next_deadline(), after(start, 60));
    }

    #[test]
    fn an_excused_client_is_pinged_again_and_has_the_whole_time() {
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.due(after(start, 25)), Some(Due::Ping));
        assert_eq!(state.due(after(start, 45)), Some(Due::Close(CloseReason::PingTimeout)));
        state.excuse(after(start, 45));
        assert_eq!(state.due(after(start, 45)), Some(Due::Ping));
        assert_eq!(state.next_deadline(), after(start, 65));
    }

    #[test]
    fn an_unasked_pong_moves_nothing() {
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.receive(Packet::Pong, after(start, 20)), Step::Unsolicited);
        assert_eq!(state.next_deadline(), after(start, 25));
    }

    #[test]
    fn a_session_must_join_a_namespace_in_time() {
        let now = Instant::now();
        let mut state = State::new(TransportName::WebSocket, Arc::new(TIMES), now);
        assert_eq!(state.due(after(now, 25)), Some(Due::Ping));
        assert_eq!(state.receive(Packet::Pong, after(now, 25)), Step::Ignore);
        assert_eq!(state.due(after(now, 45)), Some(Due::Close(CloseReason::ConnectTimeout)));
    }

    #[test]
    fn a_probe_ends_without_the_session() {
        let (mut state, start) = connected(TransportName::Polling);
        assert!(state.begin_upgrade(start) && state.begin_upgrade(after(start, 5)));
        assert_eq!(state.begin_get(), Ok(true));
        assert_eq!(state.due(after(start, 10)), Some(Due::UpgradeTimeout));
        state.abort_upgrade();
        assert_eq!(state.transport(), TransportName::Polling);
        assert!(state.begin_upgrade(after(start, 11)));
        assert_eq!(state.complete_upgrade(), Completed::Done);
        assert!(!state.is_upgraded_unprobed());
        assert_eq!(state.transport(), TransportName::WebSocket);
        assert_eq!(state.begin_post(), Err(Refused::NotPolling));
        assert!(!state.begin_upgrade(after(start, 12)));
        assert_eq!(state.complete_upgrade(), Completed::Refused);
    }

    #[test]
    fn a_websocket_takes_over_without_a_probe() {
        let (mut state, _) = connected(TransportName::Polling);
        assert_eq!(state.begin_get(), Ok(false));
        assert_eq!(state.complete_upgrade(), Completed::Done);
        assert!(state.is_upgraded_unprobed());
    }

    #[test]
    fn a_post_in_progress_delays_the_upgrade_and_is_the_last() {
        let (mut state, start) = connected(TransportName::Polling);
        assert_eq!(state.begin_post(), Ok(()));
        assert!(state.begin_upgrade(start));
        assert_eq!(state.complete_upgrade(), Completed::Waits);
        state.end_post();
        assert_eq!(state.begin_post(), Err(Refused::NotPolling));
        assert_eq!(state.begin_get(), Err(Refused::NotPolling));
        assert_eq!(state.complete_upgrade(), Completed::Done);
        assert!(!state.is_upgraded_unprobed());
    }

    #[test]
    fn a_websocket_that_is_lost_while_it_waits_leaves_the_session_on_polling() {
        let (mut state, _) = connected(TransportName::Polling);
        assert_eq!(state.begin_post(), Ok(()));
        assert_eq!(state.complete_upgrade(), Completed::Waits);
        state.abort_upgrade();
        state.end_post();
        assert_eq!(state.begin_post(), Ok(()));
    }

    #[test]
    fn a_late_ping_does_not_make_the_timeout_later_unless_the_node_stood_still() {
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.due(after(start, 25) + Duration::from_millis(30)), Some(Due::Ping));
        assert_eq!(state.next_deadline(), after(start, 45));
        let (mut state, start) = connected(TransportName::WebSocket);
        assert_eq!(state.due(after(start, 35)), Some(Due::Ping));
        assert_eq!(state.next_deadline(), after(start, 55));
    }

    #[test]
    fn requests_do_not_overlap() {
        let (mut state, _) = connected(TransportName::Polling);
        assert_eq!(state.begin_get(), Ok(false));
        assert_eq!(state.begin_get(), Err(Refused::Overlapping));
        assert_eq!(state.begin_post(), Ok(()));
        assert_eq!(state.begin_post(), Err(Refused::Overlapping));
        state.end_post();
        assert_eq!(state.begin_post(), Ok(()));
    }

    #[test]
    fn attachments_must_come_in_time() {
        let (mut state, start) = connected(TransportName::WebSocket);
        state.due(after(start, 25));
        state.reassembling(true, after(start, 26));
        state.receive(Packet::Pong, after(start, 27));
        assert_eq!(state.due(after(start, 52)), Some(Due::Ping));
        assert_eq!(state.due(after(start, 56)), Some(Due::Close(CloseReason::ParseError)));
        state.reassembling(false, after(start, 56));
        assert_eq!(state.due(after(start, 56)), None);
    }

    #[test]
    fn heartbeats_run_one_way() {
        for packet in [Packet::Ping, Packet::PingProbe] {
            let (mut state, start) = connected(TransportName::WebSocket);
            assert_eq!(state.receive(packet, start), Step::Close(CloseReason::ParseError));
        }
    }
}
