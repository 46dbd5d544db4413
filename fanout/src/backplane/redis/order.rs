//! Does what a connection to Redis brings in its order: at once where nothing is before it, else by the task of the
//! namespace's [lane](super::lane).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{StreamExt as _, future, stream};
use shared::adapter::{self, Request};
use shared::limits::{AFTERMATHS_AT_ONCE, EFFECTS_PER_TURN, LANE_WAIT_MS};
use tokio::sync::{mpsc, oneshot, watch};

use super::backplane::{FollowUp, RedisBackplane};
use super::lane::{Gate, Item, Next, Queued, ReceivedBroadcast};
use crate::events::Control;
use crate::local::hub::Hub;

/// Pauses of what has many effects: the task that reads does so many at the most, and the lane's task looks after others
/// after so many.
#[derive(Default)]
pub(super) struct Pauses {
    effects: usize,
}

impl Pauses {
    /// So many effects are to follow. Where that is too much for the task that reads, the lane's goes on.
    pub(super) async fn before(&mut self, effects: usize) {
        self.effects = self.effects.saturating_add(effects);
        if self.effects > EFFECTS_PER_TURN {
            self.effects = effects.min(EFFECTS_PER_TURN);
            tokio::task::yield_now().await;
        }
    }
}

impl RedisBackplane {
    /// A request came; false when it could not even be put behind others.
    pub(super) fn receive_request(self: &Arc<Self>, hub: &Arc<Hub>, message: &[u8]) -> bool {
        let work = Box::pin(Arc::clone(self).carry_out(Arc::clone(hub), message.to_vec()));
        if closes_connections(message, self.message_max()) {
            return self.take_every_turn(hub, work, message.len());
        }
        self.take_turn(hub, work, message.len())
    }

    /// Does `work` in its turn: now, as far as it need not wait, when nothing is before it.
    fn take_turn(&self, hub: &Hub, work: BoxFuture<'static, ()>, bytes: usize) -> bool {
        let mut work = work;
        if !self.lane(hub).is_clear() {
            match self.queue_request(hub, work, bytes) {
                Ok(None) => return true,
                Ok(Some(back)) => work = back,
                Err(Dropped) => return false,
            }
        }
        if !is_done(&mut work) {
            self.lane(hub).begin(Item::Work(work), bytes);
        }
        true
    }

    /// As [`Self::take_turn`], for what closes connections, which sockets of every namespace may share: it waits for what is
    /// before it in any of them, and what comes after it in any of them waits for it.
    fn take_every_turn(&self, hub: &Hub, work: BoxFuture<'static, ()>, bytes: usize) -> bool {
        let mut work = work;
        let (passing, passed) = watch::channel(());
        let others: Vec<_> = self.node.hubs.iter().filter(|other| other.name != hub.name).collect();
        if self.lane(hub).is_clear()
            && others.iter().all(|other| self.lane(other).is_clear())
            && is_done(&mut work)
        {
            return true;
        }
        let (all_reached, is_reached): (Vec<_>, Vec<_>) = others.iter().map(|_| oneshot::channel()).unzip();
        let work: BoxFuture<'static, ()> = Box::pin(async move {
            if tokio::time::timeout(WAIT, future::join_all(is_reached)).await.is_err() {
                tracing::warn!("connections are closed before what was said before that has taken effect");
            }
            work.await;
            drop(passing);
        });
        // There are no more gates than requests of this kind, for which the lane has a bound.
        match self.queue_request(hub, work, bytes) {
            Ok(None) => {}
            Ok(Some(work)) => self.lane(hub).begin(Item::Work(work), bytes),
            Err(Dropped) => return false,
        }
        for (other, reached) in others.into_iter().zip(all_reached) {
            self.lane(other).begin(Item::Gate(Gate { reached, passed: passed.clone() }), 0);
        }
        true
    }

    /// Puts the work of a request behind what is in the lane. Gives it back where nothing is.
    fn queue_request(
        &self,
        hub: &Hub,
        work: BoxFuture<'static, ()>,
        bytes: usize,
    ) -> Result<Option<BoxFuture<'static, ()>>, Dropped> {
        match self.lane(hub).queue_request(Item::Work(work), bytes) {
            Queued::Clear(Item::Work(back)) => Ok(Some(back)),
            Queued::Waits | Queued::Clear(_) => Ok(None),
            Queued::Full => {
                tracing::error!(
                    namespace = hub.name.as_str(),
                    "a request was dropped: too much waits behind another one"
                );
                self.has_dropped_request.store(true, Ordering::Release);
                Err(Dropped)
            }
        }
    }

    /// Does what waits in the lane of a namespace, until the task is dropped.
    pub(super) async fn keep_order(&self, hub: &Hub) {
        let mut pauses = Pauses::default();
        loop {
            match self.lane(hub).next() {
                Next::Do(Item::Work(work)) => work.await,
                Next::Do(Item::Gate(Gate { reached, mut passed })) => {
                    drop(reached);
                    let is_passed = async { while passed.changed().await.is_ok() {} };
                    if tokio::time::timeout(WAIT * 2, is_passed).await.is_err() {
                        tracing::warn!(
                            namespace = hub.name.as_str(),
                            "closing connections took too long; what came after it goes on"
                        );
                    }
                }
                Next::Do(Item::Marker(last)) => self.returns(hub).set_returned(last),
                Next::Do(Item::Broadcast(ReceivedBroadcast { room, payload })) => {
                    if let Err(reason) = self.deliver_message(hub, room.as_deref(), &payload) {
                        let namespace = hub.name.as_str();
                        let channel = room.map_or_else(
                            || self.channels.namespace(namespace),
                            |room| self.channels.room(namespace, &room),
                        );
                        self.rejected.note(reason, &channel);
                    }
                    pauses.before(1).await;
                }
                Next::Nothing { lost } => {
                    if lost {
                        self.resync_namespace(hub);
                    }
                    if self.has_dropped_request.swap(false, Ordering::AcqRel) {
                        // It may have been one of ours: the records say what it would have done.
                        self.node.control(Control::Resubscribed).await;
                    }
                    self.lane(hub).work.notified().await;
                }
            }
        }
    }

    /// Has something done that follows from a request and that nothing else waits for. Waits itself where too much of that
    /// is to be done already.
    pub(super) async fn follow_up(&self, work: impl Future<Output = ()> + Send + 'static) {
        // Without a receiver the node is stopping.
        let _ = self.follow_ups.send(Box::pin(work)).await;
    }

    /// Does what was put off by [`Self::follow_up`], until the task is dropped.
    pub(super) async fn run_follow_ups(follow_ups: mpsc::Receiver<FollowUp>) {
        let works =
            stream::unfold(follow_ups, async |mut follow_ups| Some((follow_ups.recv().await?, follow_ups)));
        works.for_each_concurrent(AFTERMATHS_AT_ONCE, |work| work).await;
    }

    /// Has the owner of sessions do something, and waits until it is over.
    pub(super) async fn order(&self, control: Control, over: oneshot::Receiver<()>) {
        // It must not get lost, however long its owner takes to take it.
        self.node.control(control).await;
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
    // The task that polls it next is woken by what it waits for.
    work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
}

/// A request for which a lane has no room.
struct Dropped;

/// Whether a request is to close whole connections. `max` bounds a broadcast in it.
fn closes_connections(message: &[u8], max: usize) -> bool {
    // Few others have the word, and each of those is read once more, unless that takes long: a request that is taken for one
    // that closes connections only waits longer.
    message.windows(CLOSE.len()).any(|word| word == CLOSE)
        && (message.len() > READ_TWICE_MAX_BYTES
            || matches!(adapter::decode_request(message, max), Ok(Request::Disconnect { close: true, .. })))
}

/// The longest request that is read only to learn whether it closes connections.
const READ_TWICE_MAX_BYTES: usize = 64 * 1024;

/// The flag of a request to close connections.
const CLOSE: &[u8] = b"close";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_closing_of_connections_is_known_by_its_flag() {
        let selection = r#""opts":{"rooms":["close"],"except":[]}"#;
        for closing in [
            format!(r#"{{"type":4,{selection},"close":true}}"#).as_bytes(),
            format!(r#"{{ "close" : true , "type":4,{selection}}}"#).as_bytes(),
            format!(r#"{{"type":4,{selection},"close":1}}"#).as_bytes(),
            b"\x83\xa4type\x04\xa4opts\x82\xa5rooms\x90\xa6except\x90\xa5close\xc3",
        ] {
            assert!(closes_connections(closing, 1_000), "{}", closing.escape_ascii());
        }
        for other in [
            format!(r#"{{"type":4,{selection},"close":false}}"#).as_bytes(),
            format!(r#"{{"type":3,{selection},"rooms":["close"]}}"#).as_bytes(),
            br#"{"type":6,"uid":"u","data":["close",true]}"#,
            br#"{"close""#,
            b"\x82\xa4type\x07\xa4data\xa5close",
            b"",
            b"x",
        ] {
            assert!(!closes_connections(other, 1_000), "{}", other.escape_ascii());
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
