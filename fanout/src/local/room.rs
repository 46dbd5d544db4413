//! A room of this node: its members, the broadcasts that wait for them, and its place among tracked broadcasts.
//!
//! Locks, in the order in which they may be taken: `members`, a socket's `rooms`, then `batch` or a send queue. None is held
//! across an await. Flushing a room only pushes references into send queues. Only a send queue that would become too full
//! writes meanwhile.

use std::any::Any;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use ahash::RandomState;
use bytes::Bytes;
use indexmap::IndexMap;
use parking_lot::Mutex;
use shared::adapter::Stamp;
use shared::ids::SocketId;
use shared::limits::{BATCH_BYTES_MAX, BATCH_FRAMES_MAX};
use shared::names::Room as RoomName;
use shared::sio::Encoded;
use smallvec::SmallVec;

use crate::local::send_queue::SendQueue;
use crate::local::work_list::WorkList;
use crate::presence::{RoomCount, SocketInfo};
use crate::stats::Stats;

/// A member as the delivery loop needs it: the send queue first; `info` serves only `except` and lists.
struct Member {
    queue: Arc<SendQueue>,
    info: Arc<SocketInfo>,
}

/// Identifies a member: each has its own info, which the map keeps alive.
fn key(info: &Arc<SocketInfo>) -> usize {
    Arc::as_ptr(info) as usize
}

#[derive(Default)]
struct Members {
    /// By [`key`].
    map: IndexMap<usize, Member, RandomState>,
    /// The room is no longer in the map of rooms; no socket may enter it.
    closed: bool,
}

/// A broadcast that waits in its room.
struct Waiting {
    packet: Encoded,
    except: Option<SocketId>,
    volatile: bool,
}

#[derive(Default)]
struct Batch {
    waiting: Vec<Waiting>,
    bytes: usize,
    /// When the first broadcast arrived.
    since: Option<Instant>,
}

/// The purpose of a room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Clients join it; it counts towards their limit.
    Joined,
    /// An app puts every socket into it; it counts towards no limit.
    Own,
    /// Sockets only receive what is sent to it ([`crate::Fanout::watch`]); no list contains them.
    Watched,
}

/// What an app keeps of a room.
pub(crate) type Kept = Arc<dyn Any + Send + Sync>;

/// A room with members on this node.
pub(crate) struct Room {
    pub(crate) name: RoomName,
    pub(crate) kind: Kind,
    members: Mutex<Members>,
    /// How many sockets are in it.
    size: AtomicUsize,
    /// Distinct users among them. Written under the entry of the user who enters or leaves.
    users: AtomicUsize,
    batch: Mutex<Batch>,
    /// Broadcasts wait or are being delivered. Written under `batch`.
    dirty: AtomicBool,
    /// The stamp of the last tracked broadcast that was received.
    last_stamp: Mutex<Option<Stamp>>,
    /// An app keeps its order and finds missing broadcasts itself.
    sequenced: AtomicBool,
    /// What an app keeps of it.
    kept: OnceLock<Kept>,
    /// The number of this node's last post to the room.
    last_post: AtomicU64,
    flusher: Arc<WorkList<Arc<Self>>>,
    stats: Arc<Stats>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Room {
    /// Identifies it among all rooms that exist at the same time.
    pub(crate) fn address(room: &Arc<Self>) -> usize {
        Arc::as_ptr(room) as usize
    }

    /// Whether lists and counts include its members.
    pub(crate) fn is_public(&self) -> bool {
        self.kind != Kind::Watched
    }

    pub(crate) fn new(
        name: RoomName,
        kind: Kind,
        flusher: Arc<WorkList<Arc<Self>>>,
        stats: Arc<Stats>,
    ) -> Self {
        let (members, batch) = (Mutex::default(), Mutex::default());
        let (dirty, sequenced) = (AtomicBool::new(false), AtomicBool::new(false));
        let (size, users, last_stamp) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::default());
        let (kept, last_post) = (OnceLock::new(), AtomicU64::new(0));
        Self {
            name,
            kind,
            members,
            size,
            users,
            batch,
            dirty,
            last_stamp,
            sequenced,
            kept,
            last_post,
            flusher,
            stats,
        }
    }

    /// Adds a member behind all earlier broadcasts, and calls `joined` before later ones. Returns false when the room is
    /// closed.
    pub(crate) fn insert(
        &self,
        (info, queue): (&Arc<SocketInfo>, &Arc<SendQueue>),
        joined: impl FnOnce(),
    ) -> bool {
        let mut members = self.members.lock();
        if members.closed {
            return false;
        }
        self.flush_locked(&members);
        let member = Member { queue: Arc::clone(queue), info: Arc::clone(info) };
        members.map.insert(key(info), member);
        self.size.store(members.map.len(), Ordering::Release);
        joined();
        true
    }

    /// Removes a member behind all earlier broadcasts. Returns true when it was the last one; the room is then closed.
    pub(crate) fn remove(&self, info: &Arc<SocketInfo>) -> bool {
        let mut members = self.members.lock();
        self.flush_locked(&members);
        members.map.swap_remove(&key(info));
        self.size.store(members.map.len(), Ordering::Release);
        members.closed = members.map.is_empty();
        members.closed
    }

    /// Counts a socket's user; `first_of_user`: the user had no other socket in the room.
    pub(crate) fn count_user(&self, first_of_user: bool) {
        if first_of_user {
            self.users.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// The last socket of a user has left.
    pub(crate) fn uncount_user(&self) {
        self.users.fetch_sub(1, Ordering::AcqRel);
    }

    /// How many sockets are in it, and of how many users.
    pub(crate) fn count(&self) -> RoomCount {
        RoomCount { sockets: self.size(), users: self.users.load(Ordering::Acquire) }
    }

    /// How many sockets are in it.
    pub(crate) fn size(&self) -> usize {
        self.size.load(Ordering::Acquire)
    }

    /// Notes a tracked broadcast. Returns whether an earlier one was missed.
    pub(crate) fn arrived(&self, stamp: &Stamp) -> bool {
        let mut last_stamp = self.last_stamp.lock();
        let missed = last_stamp.as_ref().is_some_and(|last| {
            last.epoch != stamp.epoch || last.offset.checked_add(1).is_none_or(|next| stamp.offset != next)
        });
        *last_stamp = Some(stamp.clone());
        missed
    }

    /// Nothing is received any more: if nothing was received before, the next broadcast does not count as the first one.
    pub(crate) fn mark_missed(&self) {
        self.last_stamp.lock().get_or_insert_with(|| Stamp { epoch: "".into(), offset: 0 });
    }

    /// Marks its broadcasts as having places in an order that an app keeps.
    pub(crate) fn set_sequenced(&self) {
        self.sequenced.store(true, Ordering::Relaxed);
    }

    /// Whether an app keeps its order.
    pub(crate) fn is_sequenced(&self) -> bool {
        self.sequenced.load(Ordering::Relaxed)
    }

    /// What an app keeps for the room: the value that it keeps already, else `new`. Dropped with the last member.
    pub(crate) fn keep(&self, new: impl FnOnce() -> Kept) -> &Kept {
        self.kept.get_or_init(new)
    }

    /// Whether an app keeps `value` for the room.
    pub(crate) fn keeps<T>(&self, value: &Arc<T>) -> bool {
        self.kept.get().is_some_and(|kept| std::ptr::addr_eq(Arc::as_ptr(kept), Arc::as_ptr(value)))
    }

    /// Notes the number of this node's latest post to the room.
    pub(crate) fn set_last_post(&self, number: u64) {
        self.last_post.fetch_max(number, Ordering::AcqRel);
    }

    /// The number of this node's last post to the room; 0 if it has posted nothing.
    pub(crate) fn last_post(&self) -> u64 {
        self.last_post.load(Ordering::Acquire)
    }

    /// The stamp of the last tracked broadcast that was received.
    pub(crate) fn last_stamp(&self) -> Option<Stamp> {
        self.last_stamp.lock().clone()
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Acquire)
    }

    /// Adds a broadcast to the batch. The flusher delivers it, or this call if the batch is full.
    pub(crate) fn broadcast(self: &Arc<Self>, packet: Encoded, except: Option<SocketId>, volatile: bool) {
        if self.append(Waiting { packet, except, volatile }) {
            self.flush();
        }
    }

    /// Broadcasts what `write` makes of the members' ids: exactly these members receive it, since none enters or leaves
    /// meanwhile.
    pub(crate) fn broadcast_to_members(
        self: &Arc<Self>,
        except: Option<SocketId>,
        write: impl FnOnce(Vec<SocketId>) -> Option<Encoded>,
    ) {
        let members = self.members.lock();
        let ids = members.map.values().map(|member| member.info.id).filter(|id| Some(*id) != except);
        if let Some(packet) = write(ids.collect())
            && self.append(Waiting { packet, except, volatile: false })
        {
            self.flush_locked(&members);
        }
    }

    /// Appends to the batch. Returns whether it is full.
    fn append(self: &Arc<Self>, waiting: Waiting) -> bool {
        let (first, full) = {
            let mut batch = self.batch.lock();
            batch.since.get_or_insert_with(Instant::now);
            batch.bytes += waiting.packet.wire().len();
            batch.waiting.push(waiting);
            let full = batch.bytes >= BATCH_BYTES_MAX || batch.waiting.len() >= BATCH_FRAMES_MAX;
            (!self.dirty.swap(true, Ordering::AcqRel), full)
        };
        Stats::add(&self.stats.broadcasts, 1);
        if first {
            self.flusher.add(Arc::clone(self));
        }
        full
    }

    /// Delivers all waiting broadcasts to the current members. Returns an upper bound of the deliveries.
    pub(crate) fn flush(&self) -> usize {
        let members = self.members.lock();
        self.flush_locked(&members)
    }

    fn flush_locked(&self, members: &Members) -> usize {
        if !self.is_dirty() {
            return 0;
        }
        let mut delivered = 0;
        let mut scheduled = Schedule::default();
        loop {
            let (waiting, since) = {
                let mut batch = self.batch.lock();
                batch.bytes = 0;
                if batch.waiting.is_empty() {
                    // Not earlier: once the room is clean, everything is in the send queues.
                    self.dirty.store(false, Ordering::Release);
                    break;
                }
                (std::mem::take(&mut batch.waiting), batch.since.take())
            };
            Stats::add(&self.stats.batches, 1);
            for run in waiting.chunk_by(|a, b| a.except == b.except && a.volatile == b.volatile) {
                delivered += members.map.len();
                self.deliver(members, run, &mut scheduled);
            }
            let lag = since.map(|since| since.elapsed()).unwrap_or_default();
            self.stats.distributions.delivery_lag.record(lag);
            #[expect(clippy::cast_precision_loss, reason = "a bucket of a histogram")]
            self.stats.distributions.fanout_size.record(members.map.len() as f64);
        }
        scheduled.hand_over();
        delivered
    }

    /// Delivers consecutive broadcasts with the same recipients, joined into one item for every send queue.
    fn deliver(&self, members: &Members, run: &[Waiting], scheduled: &mut Schedule) {
        let [first, ..] = run else { return };
        let wire = join(run);
        let packets = u32::try_from(run.len()).unwrap_or(u32::MAX);
        let mut receivers = 0;
        for member in members.map.values() {
            if first.except.is_some_and(|except| except == member.info.id) {
                continue;
            }
            receivers += 1;
            let needed = if first.volatile {
                member.queue.push_volatile(wire.clone(), packets)
            } else {
                member.queue.push(wire.clone(), packets)
            };
            if needed {
                scheduled.add(&member.queue);
            }
        }
        Stats::add(&self.stats.deliveries, receivers * run.len());
    }

    /// The ids of all members.
    pub(crate) fn ids(&self) -> Vec<SocketId> {
        self.map_members(|info| info.id)
    }

    /// Reads the first `at_most` members.
    pub(crate) fn map_some<T>(&self, at_most: usize, mut read: impl FnMut(&SocketInfo) -> T) -> Vec<T> {
        self.members.lock().map.values().take(at_most).map(|member| read(&member.info)).collect()
    }

    /// Reads every member.
    pub(crate) fn map_members<T>(&self, mut read: impl FnMut(&SocketInfo) -> T) -> Vec<T> {
        self.members.lock().map.values().map(|member| read(&member.info)).collect()
    }
}

/// Joins the frames of consecutive broadcasts, so that every member's write is one slice.
fn join(run: &[Waiting]) -> Bytes {
    if let [only] = run {
        return only.packet.wire().clone();
    }
    let mut wire = Vec::with_capacity(run.iter().map(|waiting| waiting.packet.wire().len()).sum());
    for waiting in run {
        wire.extend_from_slice(waiting.packet.wire());
    }
    wire.into()
}

/// Send queues to write, by flusher; handed over together.
#[derive(Default)]
struct Schedule {
    lists: SmallVec<[Round; 1]>,
}

/// The send queues of one flusher.
type Round = (Arc<WorkList<Arc<SendQueue>>>, Vec<Arc<SendQueue>>);

impl Schedule {
    fn add(&mut self, queue: &Arc<SendQueue>) {
        let flusher = queue.flusher();
        let list = match self.lists.iter_mut().position(|(other, _)| Arc::ptr_eq(other, flusher)) {
            Some(at) => &mut self.lists[at].1,
            None => {
                self.lists.push((Arc::clone(flusher), Vec::new()));
                let last = self.lists.len() - 1;
                &mut self.lists[last].1
            }
        };
        queue.schedule_into(list);
    }

    fn hand_over(mut self) {
        for (flusher, list) in &mut self.lists {
            flusher.append(list);
        }
    }
}
