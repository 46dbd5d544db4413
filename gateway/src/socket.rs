//! [`Socket`]: a session's connection to one namespace, as apps see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fanout::{FanoutError, LocalSocket, Posted, Receipt, Target};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::ids::SocketId;
use shared::limits::{CLOCK_SKEW_S, FLOOD_PAUSE_MS, POSTS_PER_SOCKET, QUESTIONS_PER_SOCKET};
use shared::names::{Namespace, UserId};
use shared::sio::{Encoded, Event};

use crate::clock::{self, now_ms};
use crate::context::Context;
use crate::limiter::{Meter, Rate};
use crate::text::json;
use crate::users::Share;

/// A client that pauses for so long is no longer flooding.
const PAUSE: Duration = Duration::from_millis(FLOOD_PAUSE_MS);

/// Whether the rate limits admit an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    Yes,
    No,
    /// The user's budget, not this socket's rate, is used up.
    NotForUser,
    /// As many refusals as a burst has events, without a [`PAUSE`] in between: the client ignores the refusals.
    Flood,
}

/// One client in one namespace.
pub(crate) struct Socket {
    local: Arc<LocalSocket>,
    bearer: Mutex<Bearer>,
    events: Mutex<Events>,
    questions: AtomicU32,
    posts: AtomicU32,
    /// Its token has expired, and the node is ending the socket.
    has_expired: AtomicBool,
    /// What all sockets of its user share.
    share: Arc<Share>,
}

/// A slot among the open questions of a socket and its user; freed on drop.
#[derive(Debug)]
pub(crate) struct Asking {
    socket: Arc<Socket>,
    awaited: usize,
}

impl Asking {
    /// Reserves acks of so many sockets; false if the user's questions would await too many in total.
    pub(crate) fn expect(&mut self, receivers: usize) -> bool {
        let fits = self.socket.share.expect(receivers);
        if fits {
            self.awaited += receivers;
        }
        fits
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.socket.questions.fetch_sub(1, Ordering::AcqRel);
        self.socket.share.answered(self.awaited);
    }
}

/// A slot among a socket's broadcasts in flight; freed on drop.
#[derive(Debug)]
pub(crate) struct Posting(Arc<Socket>);

impl Drop for Posting {
    fn drop(&mut self) {
        self.0.posts.fetch_sub(1, Ordering::AcqRel);
        self.0.share.posted();
    }
}

/// The node accepts a token until `CLOCK_SKEW_S` after its `exp`; a socket that connects with one within the skew lives
/// so long.
const EXPIRED_LIVES: Duration = Duration::from_secs(1);

struct Bearer {
    claims: Arc<Claims>,
    /// Computed from the wall clock after so many [`clock::jumps`].
    expires_at: Instant,
    jumps: u32,
    /// The socket lives at least so long, even if its token has just expired.
    at_least: Instant,
}

impl Bearer {
    fn new(claims: Claims) -> Self {
        let (now, jumps) = (Instant::now(), clock::jumps());
        let at_least = now + EXPIRED_LIVES;
        Self { expires_at: expiry(&claims, now).max(at_least), claims: Arc::new(claims), jumps, at_least }
    }
}

#[derive(Default)]
struct Events {
    meter: Meter,
    /// Refusals since the last pause.
    refused: u32,
    last: Option<Instant>,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Socket {
    pub(crate) fn new(local: Arc<LocalSocket>, claims: Claims, share: Arc<Share>) -> Self {
        let bearer = Bearer::new(claims);
        let (questions, posts) = (AtomicU32::new(0), AtomicU32::new(0));
        let has_expired = AtomicBool::new(false);
        Self {
            local,
            bearer: Mutex::new(bearer),
            events: Mutex::default(),
            questions,
            posts,
            has_expired,
            share,
        }
    }

    pub(crate) fn id(&self) -> SocketId {
        self.local.id()
    }

    pub(crate) fn user(&self) -> &UserId {
        self.local.user()
    }

    pub(crate) fn namespace(&self) -> &Namespace {
        self.local.namespace()
    }

    /// The socket as the fan-out crate represents it.
    pub(crate) fn local(&self) -> &Arc<LocalSocket> {
        &self.local
    }

    /// The claims of its token.
    pub(crate) fn claims(&self) -> Arc<Claims> {
        Arc::clone(&self.bearer.lock().claims)
    }

    /// Records that the node is ending the socket because its token has expired. False if that was recorded before.
    pub(crate) fn set_expired(&self) -> bool {
        !self.has_expired.swap(true, Ordering::AcqRel)
    }

    /// Whether [`Self::set_expired`] was called.
    pub(crate) fn has_expired(&self) -> bool {
        self.has_expired.load(Ordering::Acquire)
    }

    /// When its token expires.
    pub(crate) fn expires_at(&self) -> Instant {
        // Most packets call this, so it does not read the clock; the engine detects jumps.
        let (mut bearer, jumps) = (self.bearer.lock(), clock::jumps_seen());
        if bearer.jumps != jumps {
            // The wall clock decides when a token expires.
            bearer.expires_at = expiry(&bearer.claims, Instant::now()).max(bearer.at_least);
            bearer.jumps = jumps;
        }
        bearer.expires_at
    }

    /// Replaces the token with a newer one of the same user.
    pub(crate) fn renew(&self, claims: Claims) {
        *self.bearer.lock() = Bearer::new(claims);
    }

    /// Takes one event from the socket's rate, and `units` from the user's budget.
    pub(crate) fn admit(&self, rate: Rate, burst: u32, units: u32) -> Admitted {
        let (mut events, now) = (self.events.lock(), Instant::now());
        if events.last.is_none_or(|last| now.saturating_duration_since(last) >= PAUSE) {
            events.refused = 0;
        }
        events.last = Some(now);
        let is_within = events.meter.take(rate, now);
        if is_within && self.share.take(units, now) {
            return Admitted::Yes;
        }
        events.refused += 1;
        match is_within {
            _ if events.refused > burst => Admitted::Flood,
            true => Admitted::NotForUser,
            false => Admitted::No,
        }
    }

    /// Charges the user for an event that is delivered to so many of this node's sockets.
    pub(crate) fn charge_receivers(&self, receivers: usize) {
        self.share.charge_receivers(receivers);
    }

    /// Like [`Self::charge_receivers`], for an event that all members of a room receive.
    pub(crate) fn charge_room(&self, context: &Context, room: &str) {
        if self.share.is_limited() {
            self.charge_receivers(context.fanout.size_here(self.namespace(), room));
        }
    }

    /// Takes a slot for one more open question; `None` if none is free.
    pub(crate) fn ask(self: &Arc<Self>) -> Option<Asking> {
        if !self.share.ask() {
            return None;
        }
        let asking = Asking { socket: Arc::clone(self), awaited: 0 };
        let before = self.questions.fetch_add(1, Ordering::AcqRel);
        (before < QUESTIONS_PER_SOCKET).then_some(asking)
    }

    /// Takes a slot for one more broadcast that the client's next events do not wait for. If none is free (`None`),
    /// they must wait.
    pub(crate) fn post(self: &Arc<Self>) -> Option<Posting> {
        if !self.share.post() {
            return None;
        }
        let posting = Posting(Arc::clone(self));
        let before = self.posts.fetch_add(1, Ordering::AcqRel);
        (before < POSTS_PER_SOCKET).then_some(posting)
    }

    /// An event of this namespace with one argument.
    pub(crate) fn event(&self, name: &str, body: &impl Serialize) -> Encoded {
        encode(self.namespace(), name, body)
    }

    /// Sends an event that belongs to the answer to the client's event ([`Handling::Snapshot`]) to this socket.
    ///
    /// [`Handling::Snapshot`]: crate::apps::Handling::Snapshot
    pub(crate) fn emit_with_answer(&self, name: &str, body: &impl Serialize) {
        self.local.queue().answer(self.event(name, body).into_wire());
    }

    /// Sends an event to this socket, after everything sent to it or its rooms before.
    pub(crate) fn emit(&self, context: &Context, name: &str, body: &impl Serialize) {
        context.fanout.emit(&self.local, self.event(name, body));
    }
}

/// Where the client may have missed something.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Resync<'a> {
    /// The room's name in the cluster; `null` for events sent to the socket directly or sent live only.
    pub(crate) room: Option<&'a str>,
    /// The Redis epoch that the room's positions belong to; empty if the room has none.
    pub(crate) epoch: &'a str,
}

/// Sends an event with one argument to the target.
pub(crate) async fn broadcast(
    context: &Context,
    target: Target<'_>,
    name: &str,
    body: &impl Serialize,
) -> Result<Receipt, FanoutError> {
    post(context, target, name, body).outcome().await
}

/// Like [`broadcast`], for callers that send more meanwhile.
pub(crate) fn post(context: &Context, target: Target<'_>, name: &str, body: &impl Serialize) -> Posted {
    let body = json(body);
    let packet = {
        let namespace = target.namespace.as_str();
        let event = Event { namespace, name, args: &[&body], ack: None, attachments: &[] };
        context.fanout.packet(&target, &event)
    };
    context.fanout.post(target, packet)
}

/// An event with one argument.
pub(crate) fn encode(namespace: &Namespace, name: &str, body: &impl Serialize) -> Encoded {
    let body = json(body);
    Event { namespace: namespace.as_str(), name, args: &[&body], ack: None, attachments: &[] }.encode()
}

/// The node accepts a token until `CLOCK_SKEW_S` after its `exp`, but ends a live socket at `exp`.
///
/// A client whose connection was closed for that may reconnect with the same token while it is within the skew. It then
/// stays until the node stops accepting that token, minus the half second that reconnecting takes at least, so that its
/// next attempt gets the refusal. Otherwise it would reconnect again and again until then.
fn expiry(claims: &Claims, now: Instant) -> Instant {
    const SOON_MS: u64 = 1_000;
    let (ends, wall) = (claims.expires_at.saturating_mul(1_000), now_ms());
    let left = ends.saturating_sub(wall);
    let refused = ends.saturating_add(CLOCK_SKEW_S * 1_000 - 500).saturating_sub(wall);
    let left = if left >= SOON_MS { left } else { refused.max(SOON_MS) };
    // An addition must not overflow; this is longer than any session lives.
    now + Duration::from_millis(left).min(Duration::from_hours(24 * 365))
}
