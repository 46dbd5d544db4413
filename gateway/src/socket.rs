//! [`Socket`]: a session's presence in one namespace, as apps see it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
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

/// A client that is silent for so long has stopped flooding.
const PAUSE: Duration = Duration::from_millis(FLOOD_PAUSE_MS);

/// What became of an event that asked for its place in the rate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    Yes,
    No,
    /// Not because of this socket, but of all that its user has.
    NotForUser,
    /// As many refusals as a burst has events, without a [`PAUSE`] between: the client does not listen.
    Flood,
}

/// One client in one namespace.
pub(crate) struct Socket {
    local: Arc<LocalSocket>,
    bearer: Mutex<Bearer>,
    events: Mutex<Events>,
    questions: AtomicU32,
    posts: AtomicU32,
    /// What it shares with its user's other sockets.
    share: Arc<Share>,
}

/// A question's place among those of its socket and of its user; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Asking {
    socket: Arc<Socket>,
    awaited: usize,
}

impl Asking {
    /// Awaits acks of so many sockets; false when the user's questions together would await too many.
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

/// A broadcast's place among those that its socket has on their way; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Posting(Arc<Socket>);

impl Drop for Posting {
    fn drop(&mut self) {
        self.0.posts.fetch_sub(1, Ordering::AcqRel);
        self.0.share.posted();
    }
}

/// A token is refused `CLOCK_SKEW_S` after its `exp`; a socket that connects with one within the skew lives so long.
const EXPIRED_LIVES: Duration = Duration::from_secs(1);

struct Bearer {
    claims: Arc<Claims>,
    /// As the wall clock had it after so many [`clock::jumps`].
    expires_at: Instant,
    jumps: u32,
    /// Even with a token that has just expired a socket lives so long.
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
        Self { local, bearer: Mutex::new(bearer), events: Mutex::default(), questions, posts, share }
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

    /// The fan-out's view of this socket.
    pub(crate) fn local(&self) -> &Arc<LocalSocket> {
        &self.local
    }

    /// What its token says.
    pub(crate) fn claims(&self) -> Arc<Claims> {
        Arc::clone(&self.bearer.lock().claims)
    }

    /// When its token is worth nothing any more.
    pub(crate) fn expires_at(&self) -> Instant {
        // It is asked for with most packets; the engine looks for jumps.
        let (mut bearer, jumps) = (self.bearer.lock(), clock::jumps_seen());
        if bearer.jumps != jumps {
            // A token expires when the wall clock says so.
            bearer.expires_at = expiry(&bearer.claims, Instant::now()).max(bearer.at_least);
            bearer.jumps = jumps;
        }
        bearer.expires_at
    }

    /// A newer token of the same user.
    pub(crate) fn renew(&self, claims: Claims) {
        *self.bearer.lock() = Bearer::new(claims);
    }

    /// Takes one event's place in the rate of the socket, and `units` of its user's.
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

    /// Has the user pay for an event that is delivered to so many of this node's sockets.
    pub(crate) fn charge_receivers(&self, receivers: usize) {
        self.share.charge_receivers(receivers);
    }

    /// As [`Self::charge_receivers`], for an event that everybody in a room gets.
    pub(crate) fn charge_room(&self, context: &Context, room: &str) {
        if self.share.is_limited() {
            self.charge_receivers(context.fanout.size_here(self.namespace(), room));
        }
    }

    /// Takes the place of one more open question; `None` when there is none.
    pub(crate) fn ask(self: &Arc<Self>) -> Option<Asking> {
        if !self.share.ask() {
            return None;
        }
        let asking = Asking { socket: Arc::clone(self), awaited: 0 };
        let before = self.questions.fetch_add(1, Ordering::AcqRel);
        (before < QUESTIONS_PER_SOCKET).then_some(asking)
    }

    /// Takes the place of one more broadcast whose outcome the next events do not wait for; `None` when there is
    /// none, and they do.
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

    /// Sends an event to this socket, behind everything that was sent to it or its rooms before.
    pub(crate) fn emit(&self, context: &Context, name: &str, body: &impl Serialize) {
        context.fanout.emit(&self.local, self.event(name, body));
    }
}

/// Where something may have been missed.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Resync<'a> {
    /// In which room, as the cluster calls it; `null`: of what was sent to the socket directly or live only.
    pub(crate) room: Option<&'a str>,
    /// The reign of Redis that the room's places are counted in; empty where they are not.
    pub(crate) epoch: &'a str,
}

/// Sends an event with one argument to whoever is meant.
pub(crate) async fn broadcast(
    context: &Context,
    target: Target<'_>,
    name: &str,
    body: &impl Serialize,
) -> Result<Receipt, FanoutError> {
    post(context, target, name, body).outcome().await
}

/// As [`broadcast`], for who has more to send meanwhile.
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

/// A token is refused `CLOCK_SKEW_S` after its `exp`; a live socket ends at `exp`.
///
/// A client whose connection was closed for that may come back at once with the same token, within the skew. It then
/// stays until that token is refused, but for the half second that coming back takes at least, so that it comes back once
/// more and is told. It would else come and go until then.
fn expiry(claims: &Claims, now: Instant) -> Instant {
    const SOON_MS: u64 = 1_000;
    let (ends, wall) = (claims.expires_at.saturating_mul(1_000), now_ms());
    let left = ends.saturating_sub(wall);
    let refused = ends.saturating_add(CLOCK_SKEW_S * 1_000 - 500).saturating_sub(wall);
    let left = if left >= SOON_MS { left } else { refused.max(SOON_MS) };
    // Far beyond any session's life, an addition must not overflow.
    now + Duration::from_millis(left).min(Duration::from_hours(24 * 365))
}
