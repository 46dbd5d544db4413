//! The messages of a run: publishes them, and checks that every member receives them.
//!
//! The first connection of each room publishes, and receives its own messages like every other member. A broadcast counts
//! as returned when its publisher receives it; with `refill` the next one is then sent. Every received event is checked by
//! its [`Stamp`]; see `check` for the possible faults.

use std::ops::Range;

use anyhow::Result;

use crate::args::TargetArgs;
use crate::check::{Faults, Sequence, Verdict};
use crate::client::script::Rooms;
use crate::client::{Driver, Outgoing};
use crate::content::Content;
use crate::latency::Latencies;
use crate::load::Work;
use crate::stamp::Stamp;
use crate::text::Namespace;

/// Events that the tester did not cause, such as joins of others or errors.
#[derive(Debug, Default)]
pub(crate) struct Others {
    pub(crate) count: u64,
    first: Option<String>,
}

impl Others {
    #[cold]
    pub(crate) fn note(&mut self, array: &[u8]) {
        self.count += 1;
        self.first.get_or_insert_with(|| String::from_utf8_lossy(array).chars().take(300).collect());
    }

    /// A warning about them.
    pub(crate) fn warning(&self) -> Option<String> {
        let first = self.first.as_ref()?;
        Some(format!("{} events that no request explains, the first: {first}", self.count))
    }
}

/// One room's publisher.
#[derive(Debug)]
struct Room {
    /// Messages published so far, and so the next sequence number.
    sent: u32,
    /// The number at the last call of `look` and at the one before.
    earlier: [u32; 2],
    publisher: usize,
    /// The publish packet; only the stamp in it changes.
    packet: Vec<u8>,
    /// The position of the stamp in `packet`.
    stamp_at: usize,
}

/// One connection's view of its room.
#[derive(Debug)]
struct Member {
    room: u32,
    /// The position of the stamp in the last event; the next event of the same shape has it at the same position.
    stamp_at: u32,
    sequence: Sequence,
}

/// Publishers, members and counts of a run.
#[derive(Debug)]
pub(crate) struct Traffic {
    run: u32,
    rooms: Vec<Room>,
    members: Vec<Member>,
    content: Content,
    /// Whether a returned broadcast triggers the next one.
    pub(crate) refill: bool,
    /// Latencies count for messages sent, or due, in this span of the monotonic clock.
    pub(crate) window: Range<u64>,
    /// Latencies on the publisher's own server.
    pub(crate) latency: Latencies,
    /// How many servers the connections are distributed over.
    servers: usize,
    /// Latencies of deliveries from the publisher's server to another; empty with one server.
    pub(crate) crossing: Latencies,
    /// Deliveries, the faulty ones included.
    pub(crate) received: u64,
    pub(crate) others: Others,
    faults: Faults,
}

impl Traffic {
    /// Traffic over connections that are distributed over `rooms`. `run` should be random.
    pub(crate) fn new(target: &TargetArgs, rooms: &Rooms, connections: usize, run: u32) -> Result<Self> {
        let content = Content::new(target.payload)?;
        let namespace = Namespace::new(&target.namespace)?;
        let room = |index| -> Result<Room> {
            let publisher = rooms.publisher(index);
            let (payload, stamp_at) =
                content.fill("--publish-payload", &target.publish_payload, &rooms.name(index), publisher)?;
            let packet = namespace.event(None, &target.publish_event, &payload);
            Ok(Room {
                sent: 0,
                earlier: [0; 2],
                publisher,
                stamp_at: packet.len() - payload.len() - 1 + stamp_at,
                packet: packet.into_bytes(),
            })
        };
        let member = |conn| -> Result<Member> {
            Ok(Member { room: u32::try_from(rooms.of(conn))?, stamp_at: 0, sequence: Sequence::default() })
        };
        Ok(Self {
            run,
            rooms: (0..rooms.count(connections)).map(room).collect::<Result<_>>()?,
            members: (0..connections).map(member).collect::<Result<_>>()?,
            content,
            refill: false,
            window: 0..u64::MAX,
            latency: Latencies::new()?,
            servers: target.url.len(),
            crossing: Latencies::new()?,
            received: 0,
            others: Others::default(),
            faults: Faults::default(),
        })
    }

    /// Whether a connection is a room's publisher.
    pub(crate) fn publishes(&self, conn: usize) -> bool {
        self.rooms[self.members[conn].room as usize].publisher == conn
    }

    /// Called periodically: messages sent before the last call but one should have arrived.
    pub(crate) fn look(&mut self) {
        for room in &mut self.rooms {
            room.earlier = [room.sent, room.earlier[0]];
        }
    }

    /// A member leaves; neither the member nor the server is at fault.
    pub(crate) fn leave(&mut self, conn: usize) {
        let member = &mut self.members[conn];
        let [_, settled] = self.rooms[member.room as usize].earlier;
        self.faults.lost += member.sequence.leave(settled);
    }

    /// A member has returned to its room: it must receive messages that are published from now on.
    pub(crate) fn come_back(&mut self, conn: usize) {
        let member = &mut self.members[conn];
        member.sequence.come_back(self.rooms[member.room as usize].sent);
    }

    /// All faults, assuming that nothing more arrives.
    pub(crate) fn faults(&self, disconnected: u64) -> Faults {
        Faults { lost: self.faults.lost + self.missing(), disconnected, ..self.faults }
    }

    /// The stamp in an event, if it has one, and whether the bytes after it are as sent.
    #[inline]
    fn stamp(&mut self, conn: usize, array: &[u8]) -> Option<(Stamp, bool)> {
        let mut at = self.members[conn].stamp_at as usize;
        let stamp = match Stamp::read(array, at) {
            Some(stamp) => stamp,
            None => {
                at = Stamp::find(array)?;
                self.members[conn].stamp_at = u32::try_from(at).ok()?;
                Stamp::read(array, at)?
            }
        };
        Some((stamp, self.content.is_whole(array, at)))
    }
}

impl Driver for Traffic {
    #[inline]
    fn event(&mut self, conn: usize, array: &[u8], at_ns: u64, out: &mut Outgoing) {
        let Some((stamp, whole)) = self.stamp(conn, array) else {
            return self.others.note(array);
        };
        self.received += 1;
        let member = &mut self.members[conn];
        if stamp.run != self.run || stamp.room != member.room {
            self.faults.misrouted += 1;
            return;
        }
        let index = member.room as usize;
        let room = &self.rooms[index];
        if !whole || stamp.seq >= room.sent {
            self.faults.corrupt += 1;
            return;
        }
        match member.sequence.see(stamp.seq) {
            Verdict::InOrder => {}
            Verdict::Reordered => self.faults.reordered += 1,
            Verdict::Duplicate => {
                self.faults.duplicated += 1;
                return;
            }
        }
        if self.window.contains(&stamp.sent_ns) {
            let latency = at_ns.saturating_sub(stamp.sent_ns);
            if conn % self.servers == room.publisher % self.servers {
                self.latency.record(latency);
            } else {
                self.crossing.record(latency);
            }
        }
        if conn == room.publisher && self.refill {
            self.issue(index, at_ns, out);
        }
    }
}

/// Its lanes are the rooms. Each of their requests is a message to all members; missing results are deliveries to present
/// members.
impl Work for Traffic {
    fn lanes(&self) -> usize {
        self.rooms.len()
    }

    fn conn(&self, lane: usize) -> usize {
        self.rooms[lane].publisher
    }

    fn issue(&mut self, lane: usize, sent_ns: u64, out: &mut Outgoing) {
        let room = &mut self.rooms[lane];
        Stamp { run: self.run, room: self.members[room.publisher].room, seq: room.sent, sent_ns }
            .write(&mut room.packet[room.stamp_at..]);
        room.sent += 1;
        out.text(&room.packet);
    }

    fn refill(&mut self, refill: bool) {
        self.refill = refill;
    }

    fn set_window(&mut self, window: Range<u64>) {
        self.window = window;
    }

    fn issued(&self) -> u64 {
        self.rooms.iter().map(|room| u64::from(room.sent)).sum()
    }

    fn done(&self) -> u64 {
        self.received
    }

    fn missing(&self) -> u64 {
        let missing = |member: &Member| member.sequence.lost(self.rooms[member.room as usize].sent);
        self.members.iter().map(missing).sum()
    }

    fn latencies(&mut self) -> &mut Latencies {
        &mut self.latency
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        target: TargetArgs,
    }

    /// Two rooms of three: connections 0 to 2 and 3 to 5.
    fn traffic() -> Traffic {
        let Flags { target } = Flags::parse_from(["loadtest"]);
        Traffic::new(&target, &Rooms::new("r", 3), 6, 0xC0FFEE).unwrap()
    }

    /// Publishes one message and returns the event's array as a relay would deliver it.
    fn publish(traffic: &mut Traffic, room: usize, sent_ns: u64) -> Vec<u8> {
        let mut out = Outgoing::new(1);
        traffic.issue(room, sent_ns, &mut out);
        let mut bytes = out.take();
        let found = frame::head(&bytes, 0).unwrap().unwrap();
        let payload = &mut bytes[found.start..found.end];
        frame::apply_mask(payload, found.mask.unwrap());
        let text = String::from_utf8(payload.to_vec()).unwrap();
        let array = text.strip_prefix("42/relay,").unwrap();
        let array: serde_json::Value = serde_json::from_str(array).unwrap();
        assert_eq!(array[0], "publish");
        assert_eq!(array[1]["room"], format!("r{room}"));
        assert_eq!(array[1]["data"]["content"].as_str().unwrap().len(), 128);
        serde_json::to_vec(&serde_json::json!([array[1]["event"], array[1]["data"]])).unwrap()
    }

    fn deliver(traffic: &mut Traffic, conns: &[usize], array: &[u8]) {
        for &conn in conns {
            traffic.event(conn, array, 5_000_000, &mut Outgoing::new(1));
        }
    }

    fn faults(change: impl FnOnce(&mut Faults)) -> Faults {
        let mut expected = Faults::default();
        change(&mut expected);
        expected
    }

    #[test]
    fn correct_deliveries_are_no_faults() {
        let mut traffic = traffic();
        for _ in 0..3 {
            for (room, conns) in [[0, 1, 2], [3, 4, 5]].iter().enumerate() {
                let array = publish(&mut traffic, room, 1_000_000);
                deliver(&mut traffic, conns, &array);
            }
        }
        assert_eq!((traffic.issued(), traffic.missing()), (6, 0));
        assert_eq!((traffic.received, traffic.others.count), (18, 0));
        assert_eq!(traffic.latency.count(), 18);
        assert!(traffic.faults(0).none());
    }

    #[test]
    fn a_drop_is_a_loss() {
        let mut traffic = traffic();
        let first = publish(&mut traffic, 0, 1);
        let second = publish(&mut traffic, 0, 2);
        deliver(&mut traffic, &[0, 1, 2], &first);
        deliver(&mut traffic, &[0, 2], &second);
        assert_eq!(traffic.faults(0), faults(|f| f.lost = 1));
    }

    #[test]
    fn a_second_delivery_is_a_duplicate() {
        let mut traffic = traffic();
        let array = publish(&mut traffic, 0, 1);
        deliver(&mut traffic, &[0, 1, 2, 1], &array);
        assert_eq!(traffic.faults(0), faults(|f| f.duplicated = 1));
    }

    #[test]
    fn a_swap_is_a_reordering() {
        let mut traffic = traffic();
        let first = publish(&mut traffic, 0, 1);
        let second = publish(&mut traffic, 0, 2);
        deliver(&mut traffic, &[0, 1], &first);
        deliver(&mut traffic, &[0, 1, 2], &second);
        deliver(&mut traffic, &[2], &first);
        assert_eq!(traffic.faults(0), faults(|f| f.reordered = 1));
    }

    #[test]
    fn a_message_of_another_room_or_run_is_misrouted() {
        let mut traffic = traffic();
        let array = publish(&mut traffic, 0, 1);
        deliver(&mut traffic, &[0, 1, 2, 4], &array);
        traffic.run += 1;
        deliver(&mut traffic, &[0], &array);
        assert_eq!(traffic.faults(0), faults(|f| f.misrouted = 2));
    }

    #[test]
    fn a_message_cut_altered_or_never_sent_is_corrupt() {
        let mut traffic = traffic();
        let array = publish(&mut traffic, 0, 1);
        deliver(&mut traffic, &[0, 1, 2], &array);
        let text = String::from_utf8(array).unwrap();
        deliver(&mut traffic, &[0], text.replace("wx\"", "w\"").as_bytes());
        deliver(&mut traffic, &[0], text.replace("vwx", "vwy").as_bytes());
        let at = Stamp::find(text.as_bytes()).unwrap();
        let mut unsent = text.into_bytes();
        unsent[at + 27] = b'9';
        deliver(&mut traffic, &[0], &unsent);
        assert_eq!(traffic.faults(0), faults(|f| f.corrupt = 3));
    }

    #[test]
    fn an_absent_member_misses_nothing() {
        let mut traffic = traffic();
        let first = publish(&mut traffic, 0, 1);
        deliver(&mut traffic, &[0, 1], &first);
        traffic.look();
        traffic.look();
        traffic.leave(2);
        let second = publish(&mut traffic, 0, 2);
        deliver(&mut traffic, &[0, 1], &second);
        traffic.come_back(2);
        assert_eq!(traffic.missing(), 0);
        let third = publish(&mut traffic, 0, 3);
        deliver(&mut traffic, &[0, 1], &third);
        // The first message, which should have arrived by then, and the third.
        assert_eq!(traffic.faults(0), faults(|f| f.lost = 2));
    }

    #[test]
    fn foreign_events_are_noted_apart() {
        let mut traffic = traffic();
        deliver(&mut traffic, &[0], br#"["error",{"message":"Rate limit exceeded"}]"#);
        assert_eq!(traffic.others.count, 1);
        assert!(traffic.others.warning().unwrap().contains("Rate limit"));
        assert!(traffic.faults(0).none());
    }

    #[test]
    fn only_the_publisher_refills_and_only_for_what_is_new() {
        let mut traffic = traffic();
        traffic.refill = true;
        let array = publish(&mut traffic, 0, 1);
        let mut out = Outgoing::new(1);
        traffic.event(1, &array, 5, &mut out);
        assert!(out.take().is_empty());
        traffic.event(0, &array, 5, &mut out);
        assert!(!out.take().is_empty());
        traffic.event(0, &array, 5, &mut out);
        assert!(out.take().is_empty());
        assert_eq!(traffic.issued(), 2);
    }

    #[test]
    fn latency_counts_for_messages_sent_within_the_window_only() {
        let mut traffic = traffic();
        traffic.window = 1_000_000..2_000_000;
        for sent_ns in [999_999, 1_000_000, 1_999_999, 2_000_000] {
            let array = publish(&mut traffic, 0, sent_ns);
            deliver(&mut traffic, &[0], &array);
        }
        assert_eq!(traffic.latency.count(), 2);
        assert!((traffic.latency.percentiles().unwrap().max - 4.0).abs() < 0.008);
    }

    #[test]
    fn deliveries_across_servers_are_timed_separately() {
        let nodes = ["--url", "ws://127.0.0.1:1", "--url", "ws://127.0.0.1:2"];
        let Flags { target } = Flags::parse_from(["loadtest"].into_iter().chain(nodes));
        let mut traffic = Traffic::new(&target, &Rooms::new("r", 4), 4, 1).unwrap();
        let array = publish(&mut traffic, 0, 1_000_000);
        deliver(&mut traffic, &[0, 1, 2, 3], &array);
        assert_eq!((traffic.latency.count(), traffic.crossing.count()), (2, 2));
        assert!(traffic.faults(0).none());
    }

    #[test]
    fn a_stamp_is_found_again_when_the_shape_changes() {
        let mut traffic = traffic();
        let first = publish(&mut traffic, 0, 1);
        let second = publish(&mut traffic, 0, 2);
        deliver(&mut traffic, &[0, 1, 2], &first);
        let longer = String::from_utf8(second).unwrap().replace("new_message", "new_message_of_r0");
        deliver(&mut traffic, &[0, 1, 2], longer.as_bytes());
        assert!(traffic.faults(0).none());
        assert_eq!(traffic.received, 6);
    }
}
