//! One order for all that a connection to Redis brings about one namespace.
//!
//! ```text
//!  heard ──► nothing before it? ── yes ──► done at once, by the task that reads
//!                     │ no
//!                     ▼
//!                  the lane: what is left of a request, and all that came after it ──► its task, one by one
//! ```
//! A broadcast that finds its lane clear is delivered where it is read, as if there were no lane. A request is begun there,
//! too, and most are done there: sockets enter and leave rooms without waiting for anybody, and what follows from that
//! (the store, an answer) comes after the order, in [`Fanout::follow_up`]. Only what has to wait, or takes long, is given to
//! the lane, and then everything that comes meanwhile waits behind it.
//!
//! Only the task that reads makes a lane busy, and only the lane's own task makes it clear again, when nothing is left.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, future, stream};
use parking_lot::Mutex;
use shared::limits::{AFTERMATHS_AT_ONCE, EFFECTS_PER_TURN, LANE_BYTES_MAX, LANE_ITEM_BYTES, LANE_WAIT_MS};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::backplane::redis::cluster::RedisBackplane;
use crate::events::Control;
use crate::fanout::Fanout;
use crate::local::registry::Hub;

/// What waits for its turn.
pub(crate) enum Item {
    /// A broadcast, as it was heard.
    Broadcast(Heard),
    /// A request, or what is left of it.
    Work(BoxFuture<'static, ()>),
    /// Connections are closed by a request of another namespace, and what comes after it waits for that here, too.
    Gate(Gate),
}

/// A broadcast that was heard while something else had to be done first.
pub(crate) struct Heard {
    /// The only room that its channel named.
    pub(crate) room: Option<Box<str>>,
    pub(crate) payload: Box<[u8]>,
}

/// A place in one lane that stands for a request in another.
pub(crate) struct Gate {
    /// Dropped when everything before the gate is done.
    reached: oneshot::Sender<()>,
    /// Its sender is dropped when the request is done.
    passed: watch::Receiver<()>,
}

/// The queue of a namespace.
pub(crate) struct Lane<T = Item> {
    busy: AtomicBool,
    waiting: Mutex<Waiting<T>>,
    work: Notify,
}

struct Waiting<T> {
    items: VecDeque<(T, usize)>,
    bytes: usize,
    /// Something did not fit.
    lost: bool,
}

/// What became of something that was to wait.
pub(crate) enum Queued<T> {
    /// It waits.
    Waits,
    /// Nothing is before it any more.
    Clear(T),
    /// Too much waits.
    Full,
}

/// What a lane's task does next.
pub(crate) enum Next<T> {
    Do(T),
    /// Nothing is left; whether something did not fit since that was so last.
    Nothing {
        lost: bool,
    },
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        let waiting = Waiting { items: VecDeque::new(), bytes: 0, lost: false };
        Self { busy: AtomicBool::new(false), waiting: Mutex::new(waiting), work: Notify::new() }
    }
}

impl<T> Lane<T> {
    /// Whether nothing is before what comes now.
    pub(crate) fn is_clear(&self) -> bool {
        !self.busy.load(Ordering::Acquire)
    }

    /// Puts something of `bytes` bytes behind what is there, if there is anything.
    pub(crate) fn queue(&self, item: T, bytes: usize) -> Queued<T> {
        let mut waiting = self.waiting.lock();
        if self.is_clear() {
            return Queued::Clear(item);
        }
        let bytes = bytes + LANE_ITEM_BYTES;
        if waiting.bytes + bytes > LANE_BYTES_MAX {
            waiting.lost = true;
            return Queued::Full;
        }
        waiting.bytes += bytes;
        waiting.items.push_back((item, bytes));
        Queued::Waits
    }

    /// Puts something there that has begun, or that must not be lost: whatever comes from now on waits for it.
    pub(crate) fn begin(&self, item: T, bytes: usize) {
        {
            let mut waiting = self.waiting.lock();
            let bytes = bytes + LANE_ITEM_BYTES;
            waiting.bytes += bytes;
            waiting.items.push_back((item, bytes));
            self.busy.store(true, Ordering::Release);
        }
        self.work.notify_one();
    }

    /// The next to be done, when the one before is. With nothing left the lane is clear.
    pub(crate) fn next(&self) -> Next<T> {
        let mut waiting = self.waiting.lock();
        if let Some((item, bytes)) = waiting.items.pop_front() {
            waiting.bytes -= bytes;
            return Next::Do(item);
        }
        waiting.items.shrink_to(64);
        self.busy.store(false, Ordering::Release);
        Next::Nothing { lost: std::mem::take(&mut waiting.lost) }
    }
}

/// Pauses of what has many effects: the task that reads does so many at the most, and the lane's task looks after others
/// after so many.
#[derive(Default)]
pub(crate) struct Pauses {
    effects: usize,
}

impl Pauses {
    /// So many effects are to follow. Where that is too much for the task that reads, the lane's goes on.
    pub(crate) async fn before(&mut self, effects: usize) {
        self.effects = self.effects.saturating_add(effects);
        if self.effects > EFFECTS_PER_TURN {
            self.effects = effects.min(EFFECTS_PER_TURN);
            tokio::task::yield_now().await;
        }
    }
}

impl Fanout {
    /// A request was heard; false when it could not even be put behind others.
    pub(crate) fn hear_request(&self, rooms: &Arc<Hub>, message: &[u8]) -> bool {
        let work = Box::pin(self.clone().carry_out(Arc::clone(rooms), message.to_vec()));
        if closes_connections(message) {
            return self.take_every_turn(rooms, work, message.len());
        }
        self.take_turn(rooms, work, message.len())
    }

    /// Does `work` in its turn: now, as far as it need not wait, when nothing is before it.
    fn take_turn(&self, rooms: &Hub, work: BoxFuture<'static, ()>, bytes: usize) -> bool {
        let mut work = work;
        if !rooms.lane.is_clear() {
            match rooms.lane.queue(Item::Work(work), bytes) {
                Queued::Clear(Item::Work(back)) => work = back,
                Queued::Waits | Queued::Clear(_) => return true,
                Queued::Full => {
                    tracing::error!(
                        namespace = rooms.name.as_str(),
                        "a request was dropped: too much waits behind another one"
                    );
                    return false;
                }
            }
        }
        if !is_done(&mut work) {
            rooms.lane.begin(Item::Work(work), bytes);
        }
        true
    }

    /// As [`Self::take_turn`], for what closes connections, which sockets of every namespace may share: it waits for what is
    /// before it in any of them, and what comes after it in any of them waits for it.
    fn take_every_turn(&self, rooms: &Hub, work: BoxFuture<'static, ()>, bytes: usize) -> bool {
        let mut work = work;
        let (passing, passed) = watch::channel(());
        let others: Vec<_> = self.all_rooms().filter(|other| other.name != rooms.name).collect();
        if rooms.lane.is_clear() && others.iter().all(|other| other.lane.is_clear()) && is_done(&mut work) {
            return true;
        }
        let mut all_reached = Vec::with_capacity(others.len());
        for other in others {
            let (reached, is_reached) = oneshot::channel();
            all_reached.push(is_reached);
            other.lane.begin(Item::Gate(Gate { reached, passed: passed.clone() }), 0);
        }
        let work = async move {
            if tokio::time::timeout(WAIT, future::join_all(all_reached)).await.is_err() {
                tracing::warn!("connections are closed before what was said before that has taken effect");
            }
            work.await;
            drop(passing);
        };
        rooms.lane.begin(Item::Work(Box::pin(work)), bytes);
        true
    }

    /// Does what waits in the lane of a namespace, until the task is dropped.
    pub(crate) async fn keep_order(&self, cluster: &RedisBackplane, rooms: &Arc<Hub>) {
        let mut pauses = Pauses::default();
        loop {
            match rooms.lane.next() {
                Next::Do(Item::Work(work)) => work.await,
                Next::Do(Item::Gate(Gate { reached, mut passed })) => {
                    drop(reached);
                    let is_passed = async { while passed.changed().await.is_ok() {} };
                    if tokio::time::timeout(WAIT * 2, is_passed).await.is_err() {
                        tracing::warn!(
                            namespace = rooms.name.as_str(),
                            "closing connections took too long; what came after it goes on"
                        );
                    }
                }
                Next::Do(Item::Broadcast(Heard { room, payload })) => {
                    if let Err(reason) = cluster.receive(rooms, room.as_deref(), &payload) {
                        let namespace = rooms.name.as_str();
                        let channel = room.map_or_else(
                            || cluster.channels.namespace(namespace),
                            |room| cluster.channels.room(namespace, &room),
                        );
                        cluster.rejected.note(reason, &channel);
                    }
                    pauses.before(1).await;
                }
                Next::Nothing { lost } => {
                    if lost {
                        cluster.resync_namespace(rooms);
                    }
                    rooms.lane.work.notified().await;
                }
            }
        }
    }

    /// Has something done that follows from a request and that nothing else waits for. Waits itself where too much of that
    /// is to be done already.
    pub(crate) async fn follow_up(&self, work: impl Future<Output = ()> + Send + 'static) {
        if let Some(cluster) = self.cluster() {
            // Without a receiver the node is stopping.
            let _ = cluster.follow_ups.send(Box::pin(work)).await;
        }
    }

    /// Does what was put off by [`Self::follow_up`], until the task is dropped.
    pub(crate) async fn run_follow_ups(&self, follow_ups: mpsc::Receiver<BoxFuture<'static, ()>>) {
        let works =
            stream::unfold(follow_ups, async |mut follow_ups| Some((follow_ups.recv().await?, follow_ups)));
        works.for_each_concurrent(AFTERMATHS_AT_ONCE, |work| work).await;
    }

    /// Has the owner of sessions do something, and waits until it is over.
    pub(crate) async fn order(&self, control: Control, over: oneshot::Receiver<()>) {
        // It must not get lost, however long its owner takes to take it.
        self.control(control).await;
        let done = async {
            // Dropped is over, too.
            let _ = over.await;
        };
        if tokio::time::timeout(WAIT, done).await.is_err() {
            tracing::warn!("a request takes too long, and what came after it goes on");
        }
    }
}

/// How long what comes after a request waits for it.
const WAIT: Duration = Duration::from_millis(LANE_WAIT_MS);

/// Goes on with `work` as far as it need not wait; whether that is to its end.
fn is_done(work: &mut BoxFuture<'static, ()>) -> bool {
    // Whoever polls it next is woken by what it waits for.
    work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// Whether a request may be to close whole connections. One that is taken for that without being it waits a little longer.
fn closes_connections(message: &[u8]) -> bool {
    if message.first() != Some(&b'{') {
        // In msgpack: any that has the word.
        return message.windows(CLOSE.len()).any(|word| word == CLOSE.as_bytes());
    }
    let text = str::from_utf8(message).unwrap_or_default();
    text.match_indices(CLOSE).any(|(at, _)| {
        let value = text[at + CLOSE.len()..].strip_prefix('"').unwrap_or_default().trim_start();
        let value = value.strip_prefix(':').map(str::trim_start);
        value.is_some_and(|value| !["false", "null", "0", "\"\""].iter().any(|none| value.starts_with(none)))
    })
}

/// The flag of a request to close connections.
const CLOSE: &str = "close";

#[cfg(test)]
mod tests {
    use super::*;

    fn next<T>(lane: &Lane<T>) -> Option<T> {
        match lane.next() {
            Next::Do(item) => Some(item),
            Next::Nothing { .. } => None,
        }
    }

    #[test]
    fn what_finds_nothing_before_it_does_not_wait() {
        let lane = Lane::default();
        assert!(lane.is_clear());
        assert!(matches!(lane.queue(1, 0), Queued::Clear(1)));
        assert!(lane.is_clear());
    }

    #[test]
    fn what_comes_after_a_request_waits_until_all_before_it_is_done() {
        let lane = Lane::default();
        lane.begin(1, 0);
        for item in 2..10 {
            assert!(!lane.is_clear());
            assert!(matches!(lane.queue(item, 0), Queued::Waits));
        }
        for item in 1..10 {
            assert_eq!(next(&lane), Some(item));
            // Under way, and nothing may pass it.
            assert!(!lane.is_clear());
        }
        assert!(matches!(lane.queue(10, 0), Queued::Waits));
        assert_eq!(next(&lane), Some(10));
        assert_eq!(next(&lane), None);
        assert!(lane.is_clear());
    }

    #[test]
    fn a_lane_has_a_bound_in_bytes_and_says_what_did_not_fit() {
        let lane = Lane::default();
        lane.begin(0, 0);
        let half = LANE_BYTES_MAX / 2;
        assert!(matches!(lane.queue(1, half), Queued::Waits));
        assert!(matches!(lane.queue(2, half), Queued::Full));
        assert!(matches!(lane.queue(3, 0), Queued::Waits), "a smaller one fits");
        lane.begin(4, half);
        let order: Vec<_> = std::iter::from_fn(|| next(&lane)).collect();
        assert_eq!(order, [0, 1, 3, 4]);
        lane.begin(5, 0);
        assert!(matches!(lane.queue(6, LANE_BYTES_MAX), Queued::Full));
        assert_eq!(next(&lane), Some(5));
        assert!(matches!(lane.next(), Next::Nothing { lost: true }));
        assert!(matches!(lane.next(), Next::Nothing { lost: false }));
        assert!(matches!(lane.queue(7, LANE_BYTES_MAX), Queued::Clear(7)), "alone it need not wait");
    }

    #[test]
    fn the_closing_of_connections_is_known_by_its_flag() {
        for closing in [
            r#"{"type":4,"opts":{},"close":true}"#,
            r#"{ "close" : true , "type":4}"#,
            r#"{"type":4,"opts":{"rooms":["close"],"except":[]},"close":true}"#,
            r#"{"type":4,"close":1}"#,
            "\u{82}\u{a4}type\u{4}\u{a5}close\u{c3}",
        ] {
            assert!(closes_connections(closing.as_bytes()), "{closing}");
        }
        for other in
            [r#"{"type":4,"close":false}"#, r#"{"type":2,"rooms":["close"]}"#, r#"{"close""#, "", "x"]
        {
            assert!(!closes_connections(other.as_bytes()), "{other}");
        }
    }

    #[tokio::test]
    async fn many_effects_pause_and_few_do_not() {
        let mut few = Pauses::default();
        let mut done: BoxFuture<'static, ()> = Box::pin(async move {
            for _ in 0..EFFECTS_PER_TURN {
                few.before(1).await
            }
        });
        assert!(is_done(&mut done));
        for mut many in [vec![1; EFFECTS_PER_TURN + 1], vec![EFFECTS_PER_TURN * 100]] {
            let mut waits: BoxFuture<'static, ()> = Box::pin(async move {
                let mut pauses = Pauses::default();
                for effects in many.drain(..) {
                    pauses.before(effects).await;
                }
            });
            assert!(!is_done(&mut waits));
            waits.await;
        }
    }
}
