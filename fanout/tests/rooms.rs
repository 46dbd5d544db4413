//! The guarantees of the fan-out on one node: one order, clean membership edges, a user's first and last
//! socket.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use fanout::{
    Control, Distributions, Entered, Fanout, FanoutError, FanoutOptions, FirstMembers, Left, LocalSocket,
    Packet, Polled, RoomCount, SendQueue, SendQueueLimits, SocketInfo, Target,
};
use futures_util::FutureExt as _;
use proptest::prelude::*;
use shared::ids::{NodeId, SessionId, SocketId};
use shared::limits::{USER_ROOMS_FACTOR, WATCHED_PER_USER_MAX};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;
use shared::ws;

const HOLDBACK: Duration = Duration::from_secs(3);

const UNBOUNDED: SendQueueLimits = SendQueueLimits { bytes: 0, packets: 0 };

fn namespace() -> Namespace {
    Namespace::parse("/").unwrap()
}

fn room(name: &str) -> Room {
    Room::parse(name).unwrap()
}

fn options(send_queue: SendQueueLimits) -> FanoutOptions {
    FanoutOptions {
        node: NodeId::from_random([1; 4]),
        namespaces: vec![namespace()],
        flushers: 2,
        send_queue,
        rooms_per_socket: 3,
        sockets_per_user: 2,
        holdback: HOLDBACK,
        cluster: None,
        distributions: Distributions::ignored(),
    }
}

/// A client: its socket and the send queue that its packets are read from.
struct Client {
    socket: Arc<LocalSocket>,
    queue: Arc<SendQueue>,
}

impl Client {
    async fn attach(fanout: &Fanout, user: &str) -> Result<Self, FanoutError> {
        Self::attach_behind(fanout, user, None).await
    }

    /// A client whose first packet is this event.
    async fn attach_behind(fanout: &Fanout, user: &str, first: Option<&str>) -> Result<Self, FanoutError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut random = [0; 16];
        random[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
        // Six bits of each byte count.
        random = std::array::from_fn(|at| random[at / 2] >> (4 * (at % 2)) & 15);
        let queue = fanout.send_queue(SessionId::new(fanout.node(), random));
        let info = SocketInfo {
            id: SocketId::new(fanout.node(), random),
            user: UserId::parse(user).unwrap(),
            display_name: user.into(),
            connected_at_ms: 0,
            email: Some(format!("{user}@example.org").into()),
            role: None,
        };
        let prepared = fanout.prepare("/", info).await?;
        let socket = prepared.attach(Arc::clone(&queue), || {
            let event = |name| Event { namespace: "/", name, args: &[], ack: None, attachments: &[] };
            if let Some(name) = first {
                queue.send(event(name).encode().into_wire(), 1);
            }
        })?;
        Ok(Self { socket, queue })
    }

    /// The names of the events that wait.
    fn events(&self) -> Vec<String> {
        let Polled::Packets(packets) = self.queue.poll_packets(Waker::noop()) else { return Vec::new() };
        packets.iter().flat_map(names).collect()
    }
}

fn names(wire: &Bytes) -> Vec<String> {
    ws::frames(wire)
        .map(|(_, payload)| {
            let text = std::str::from_utf8(payload).unwrap();
            text.strip_prefix("42[\"").unwrap().strip_suffix("\"]").unwrap().to_owned()
        })
        .collect()
}

fn packet(name: &str) -> Packet {
    Packet::ready(&Event { namespace: "/", name, args: &[], ack: None, attachments: &[] })
}

/// Runs the flushers until they have nothing left to do.
async fn carry(fanout: &Fanout) {
    for flusher in fanout.flushers() {
        let run = flusher.run();
        let mut run = std::pin::pin!(run);
        for _ in 0..10 {
            tokio::select! {
                biased;
                () = run.as_mut() => unreachable!("a flusher never ends"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
}

#[tokio::test]
async fn a_new_socket_receives_its_first_packet_before_anything_else() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let (is_over, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let talking = {
        let (fanout, is_over, rounds) = (fanout.clone(), Arc::clone(&is_over), Arc::clone(&rounds));
        std::thread::spawn(move || {
            let (namespace, user) = (namespace(), UserId::parse("a").unwrap());
            while !is_over.load(Ordering::Acquire) {
                // All are delivered at once: none of them is for a room that sockets have entered.
                for target in [Target::all(&namespace), Target::user(&namespace, &user)] {
                    drop(fanout.post(target, packet("news")));
                }
                rounds.fetch_add(1, Ordering::Release);
            }
        })
    };
    let mut reached = 0;
    for _ in 0..2_000 {
        let client = Client::attach_behind(&fanout, "a", Some("answer")).await.unwrap();
        let before = rounds.load(Ordering::Acquire);
        while rounds.load(Ordering::Acquire) < before + 2 {
            std::thread::yield_now();
        }
        fanout.detach(&client.socket).await;
        let events = client.events();
        assert_eq!(events[0], "answer");
        reached += usize::from(events.len() > 1);
    }
    is_over.store(true, Ordering::Release);
    talking.join().unwrap();
    assert_eq!(reached, 2_000);
}

#[tokio::test]
async fn a_socket_over_the_limit_is_not_attached_and_receives_nothing() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let kept = [
        Client::attach(&fanout, "a").await.unwrap(),
        Client::attach_behind(&fanout, "a", Some("answer")).await.unwrap(),
    ];
    let refused = Client::attach_behind(&fanout, "a", Some("answer")).await.err();
    assert_eq!(refused, Some(FanoutError::TooManySockets));
    assert_eq!(fanout.sockets(&namespace).len(), kept.len());
    assert_eq!(kept[1].events(), ["answer"]);
}

#[tokio::test]
async fn members_get_a_rooms_broadcasts_in_order_and_others_get_none() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let mut clients = Vec::new();
    for user in ["a", "b", "c"] {
        clients.push(Client::attach(&fanout, user).await.unwrap());
    }
    for client in &clients[..2] {
        fanout.enter(&client.socket, &room("r")).await.unwrap();
    }
    for name in ["1", "2", "3"] {
        fanout.broadcast(Target::room(&namespace, "r"), packet(name)).await.unwrap();
    }
    carry(&fanout).await;
    assert_eq!(clients[0].events(), ["1", "2", "3"]);
    assert_eq!(clients[1].events(), ["1", "2", "3"]);
    assert!(clients[2].events().is_empty());
    let stats = fanout.stats();
    assert_eq!((stats.broadcasts, stats.deliveries, stats.batches), (3, 6, 1));
}

#[tokio::test]
async fn an_excepted_socket_receives_the_other_broadcasts_in_order() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let (a, b) = (Client::attach(&fanout, "a").await.unwrap(), Client::attach(&fanout, "b").await.unwrap());
    fanout.enter(&a.socket, &room("r")).await.unwrap();
    fanout.enter(&b.socket, &room("r")).await.unwrap();
    let target = Target::room(&namespace, "r");
    fanout.broadcast(target, packet("1")).await.unwrap();
    fanout.broadcast(target.except(a.socket.id()), packet("2")).await.unwrap();
    fanout.broadcast(target, packet("3")).await.unwrap();
    carry(&fanout).await;
    assert_eq!(a.events(), ["1", "3"]);
    assert_eq!(b.events(), ["1", "2", "3"]);
}

#[tokio::test]
async fn entering_and_leaving_cut_a_batch_cleanly() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let (a, b) = (Client::attach(&fanout, "a").await.unwrap(), Client::attach(&fanout, "b").await.unwrap());
    let target = Target::room(&namespace, "r");
    fanout.enter(&a.socket, &room("r")).await.unwrap();
    fanout.broadcast(target, packet("before")).await.unwrap();
    fanout.enter(&b.socket, &room("r")).await.unwrap();
    fanout.broadcast(target, packet("between")).await.unwrap();
    fanout.leave(&a.socket, "r").await;
    fanout.broadcast(target, packet("after")).await.unwrap();
    carry(&fanout).await;
    assert_eq!(a.events(), ["before", "between"]);
    assert_eq!(b.events(), ["between", "after"]);
}

#[tokio::test]
async fn an_emitted_packet_follows_earlier_broadcasts() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let a = Client::attach(&fanout, "a").await.unwrap();
    fanout.enter(&a.socket, &room("r")).await.unwrap();
    fanout.broadcast(Target::room(&namespace, "r"), packet("1")).await.unwrap();
    let emitted = Event { namespace: "/", name: "2", args: &[], ack: None, attachments: &[] };
    fanout.emit(&a.socket, emitted.encode());
    fanout.broadcast(Target::room(&namespace, "r"), packet("3")).await.unwrap();
    carry(&fanout).await;
    assert_eq!(a.events(), ["1", "2", "3"]);
}

#[tokio::test]
async fn a_full_batch_is_delivered_without_the_flusher() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let a = Client::attach(&fanout, "a").await.unwrap();
    fanout.enter(&a.socket, &room("r")).await.unwrap();
    for _ in 0..shared::limits::BATCH_FRAMES_MAX {
        fanout.broadcast(Target::room(&namespace, "r"), packet("x")).await.unwrap();
    }
    assert_eq!(a.events().len(), shared::limits::BATCH_FRAMES_MAX);
}

#[tokio::test]
async fn a_batch_of_large_packets_is_full_by_its_bytes() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let namespace = namespace();
    let a = Client::attach(&fanout, "a").await.unwrap();
    fanout.enter(&a.socket, &room("r")).await.unwrap();
    let large = "x".repeat(shared::limits::BATCH_BYTES_MAX / 2);
    fanout.broadcast(Target::room(&namespace, "r"), packet(&large)).await.unwrap();
    assert!(a.events().is_empty());
    fanout.broadcast(Target::room(&namespace, "r"), packet(&large)).await.unwrap();
    assert_eq!(a.events().len(), 2);
}

#[tokio::test]
async fn the_first_and_the_last_socket_of_a_user_are_reported_once() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let (one, two) =
        (Client::attach(&fanout, "u").await.unwrap(), Client::attach(&fanout, "u").await.unwrap());
    let r = room("r");
    assert_eq!(fanout.enter(&one.socket, &r).await, Ok(Entered { new: true, first_of_user: true }));
    assert_eq!(fanout.enter(&one.socket, &r).await, Ok(Entered { new: false, first_of_user: false }));
    assert_eq!(fanout.enter(&two.socket, &r).await, Ok(Entered { new: true, first_of_user: false }));
    assert_eq!(fanout.count("/", "r").await.unwrap().count, RoomCount { sockets: 2, users: 1 });
    assert_eq!(fanout.leave(&one.socket, "r").await, Left { was_member: true, last_of_user: false });
    assert_eq!(fanout.leave(&one.socket, "r").await, Left { was_member: false, last_of_user: false });
    assert_eq!(fanout.detach(&two.socket).await, std::slice::from_ref(&r));
    assert_eq!(fanout.detach(&two.socket).await, []);
    assert_eq!(fanout.count("/", "r").await.unwrap().count, RoomCount::default());
    assert_eq!(fanout.enter(&two.socket, &r).await, Err(FanoutError::Gone));
}

#[tokio::test]
async fn rooms_and_sockets_are_bounded() {
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let one = Client::attach(&fanout, "u").await.unwrap();
    let two = Client::attach(&fanout, "u").await.unwrap();
    assert_eq!(Client::attach(&fanout, "u").await.err(), Some(FanoutError::TooManySockets));
    for name in ["a", "b", "c"] {
        fanout.enter(&one.socket, &room(name)).await.unwrap();
    }
    assert_eq!(fanout.enter(&one.socket, &room("d")).await, Err(FanoutError::TooManyRooms));
    fanout.detach(&two.socket).await;
    assert!(Client::attach(&fanout, "u").await.is_ok());
}

#[tokio::test]
async fn a_second_detach_waits_until_the_socket_has_left() {
    let (fanout, _events) = Fanout::new(FanoutOptions { rooms_per_socket: 0, ..options(UNBOUNDED) });
    let client = Client::attach(&fanout, "u").await.unwrap();
    for n in 0..500 {
        fanout.enter(&client.socket, &room(&format!("r{n}"))).await.unwrap();
    }
    let mut first = std::pin::pin!(fanout.detach(&client.socket));
    assert!(first.as_mut().now_or_never().is_none(), "it leaves some rooms at a time");
    let mut second = std::pin::pin!(fanout.detach(&client.socket));
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(first.await.len(), 500);
    assert_eq!(second.now_or_never().map(|names| names.len()), Some(0));
}

#[tokio::test]
async fn the_rooms_of_a_user_are_bounded_and_leaving_them_lets_other_tasks_run() {
    let many = FanoutOptions { rooms_per_socket: 30, sockets_per_user: 100, ..options(UNBOUNDED) };
    let (fanout, _events) = Fanout::new(many);
    let mut clients = Vec::new();
    for _ in 0..12 {
        clients.push(Client::attach(&fanout, "u").await.unwrap());
    }
    let name = |at: usize, n: usize| room(&format!("r{at}-{n}"));
    for (at, client) in clients.iter().enumerate().take(USER_ROOMS_FACTOR) {
        for n in 0..30 {
            let entered = fanout.enter(&client.socket, &name(at, n)).await;
            assert_eq!(entered, Ok(Entered { new: true, first_of_user: true }));
        }
    }
    let last = &clients[11].socket;
    assert_eq!(fanout.enter(last, &name(11, 0)).await, Err(FanoutError::TooManyRooms));
    let shared = fanout.enter(last, &name(0, 0)).await;
    assert_eq!(shared, Ok(Entered { new: true, first_of_user: false }));
    assert!(fanout.enter_own(last, &name(11, 0)).await.is_ok(), "an app's own rooms do not count");

    let watch = |at: usize, n: usize| room(&format!("watched{at}-{n}"));
    for (at, client) in clients.iter().enumerate().take(4) {
        for n in 0..500 {
            fanout.watch(&client.socket, &watch(at, n)).await.unwrap();
        }
    }
    assert_eq!(WATCHED_PER_USER_MAX, 2_000);
    assert_eq!(fanout.watch(last, &watch(11, 0)).await, Err(FanoutError::TooManyWatched));
    assert_eq!(fanout.watch(last, &watch(0, 0)).await, Ok(()));
    assert_eq!(fanout.watched(&clients[0].socket).len(), 500);

    // Another task gets its turn while 530 rooms are left.
    let mut turns = 0;
    let mut detaching = std::pin::pin!(fanout.detach(&clients[0].socket));
    let left = loop {
        tokio::select! {
            biased;
            left = detaching.as_mut() => break left,
            () = tokio::task::yield_now() => turns += 1,
        }
    };
    assert_eq!(left.len(), 30);
    // Each yield takes two polls of the other task, and there are eight.
    assert!(turns >= 3, "{turns} turns");
    assert_eq!(fanout.count("/", "r0-0").await.unwrap().count, RoomCount { sockets: 1, users: 1 });
    assert_eq!(fanout.count("/", "r0-1").await.unwrap().count, RoomCount::default());
    // Its places are free again.
    assert!(fanout.enter(last, &name(11, 1)).await.is_ok());
    assert_eq!(fanout.watch(last, &watch(11, 0)).await, Ok(()));
}

#[tokio::test]
async fn the_first_members_are_of_different_users_and_the_counts_are_of_all() {
    let (fanout, _events) = Fanout::new(FanoutOptions { sockets_per_user: 0, ..options(UNBOUNDED) });
    let mut clients = Vec::new();
    for n in 0..60 {
        // The first user has half of the sockets.
        let client = Client::attach(&fanout, &format!("u{}", if n < 30 { 0 } else { n })).await.unwrap();
        fanout.enter(&client.socket, &room("r")).await.unwrap();
        clients.push(client);
    }
    let FirstMembers { members, count } = fanout.first_members("/", "r", 10).await.unwrap();
    assert_eq!(count, RoomCount { sockets: 60, users: 31 });
    let users: std::collections::HashSet<_> = members.iter().map(|member| &member.user).collect();
    assert_eq!((members.len(), users.len()), (10, 10));
    let FirstMembers { members, .. } = fanout.first_members("/", "r", 100).await.unwrap();
    assert_eq!(members.len(), 31);
    let nobody = fanout.first_members("/", "empty", 10).await.unwrap();
    assert_eq!(nobody, FirstMembers { members: Vec::new(), count: RoomCount::default() });
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_reported_and_delays_no_other() {
    let (fanout, mut events) = Fanout::new(options(SendQueueLimits { bytes: 0, packets: 10 }));
    let namespace = namespace();
    let (slow, quick) =
        (Client::attach(&fanout, "a").await.unwrap(), Client::attach(&fanout, "b").await.unwrap());
    fanout.enter(&slow.socket, &room("r")).await.unwrap();
    fanout.enter(&quick.socket, &room("r")).await.unwrap();
    let mut seen = 0;
    for _ in 0..20 {
        fanout.broadcast(Target::room(&namespace, "r"), packet("x")).await.unwrap();
        carry(&fanout).await;
        seen += quick.events().len();
    }
    assert_eq!(seen, 20);
    assert_eq!(events.overflowed.try_recv(), Ok(slow.queue.session()));
    assert!(events.overflowed.try_recv().is_err());
}

/// Publishers, members that enter and leave, and flushers on several threads: during each stay, a member
/// sees every publisher's numbers in order and without a gap, and two members that are in the room
/// together see the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_do_not_break_the_order_of_a_room() {
    const PUBLISHED: usize = 2_000;
    let (fanout, _events) = Fanout::new(options(UNBOUNDED));
    let mut flushers = tokio::task::JoinSet::new();
    for flusher in fanout.flushers() {
        let flusher = Arc::clone(flusher);
        flushers.spawn(async move { flusher.run().await });
    }
    let mut stayers = Vec::new();
    for n in 0..2 {
        stayers.push(Client::attach(&fanout, &format!("stayer{n}")).await.unwrap());
    }
    for stayer in &stayers {
        fanout.enter(&stayer.socket, &room("r")).await.unwrap();
    }
    let running = Arc::new(AtomicUsize::new(2));
    let mut publishers = tokio::task::JoinSet::new();
    for publisher in 0..2 {
        let (fanout, running) = (fanout.clone(), Arc::clone(&running));
        publishers.spawn(async move {
            let namespace = namespace();
            for n in 0..PUBLISHED {
                let packet = packet(&format!("{publisher}.{n}"));
                fanout.broadcast(Target::room(&namespace, "r"), packet).await.unwrap();
                if n % 16 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            running.fetch_sub(1, Ordering::AcqRel);
        });
    }
    let comer = Client::attach(&fanout, "comer").await.unwrap();
    while running.load(Ordering::Acquire) > 0 {
        fanout.enter(&comer.socket, &room("r")).await.unwrap();
        tokio::task::yield_now().await;
        fanout.leave(&comer.socket, "r").await;
        contiguous(&comer.events());
    }
    while publishers.join_next().await.is_some() {}
    // Leaving delivers the room's waiting broadcasts.
    let mut seen = Vec::new();
    for stayer in &stayers {
        fanout.leave(&stayer.socket, "r").await;
        seen.push(stayer.events());
    }
    assert_eq!(seen[0].len(), 2 * PUBLISHED);
    assert_eq!(seen[0], seen[1]);
    contiguous(&seen[0]);
}

fn contiguous(events: &[String]) {
    for publisher in ["0.", "1."] {
        let numbers: Vec<usize> =
            events.iter().filter_map(|event| event.strip_prefix(publisher)?.parse().ok()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }
}

/// The result of a future that waits for nothing.
fn now<T>(future: impl Future<Output = T>) -> T {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("a node alone waits for nobody"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_user_is_reported_after_the_hold_back_unless_they_return() {
    let (fanout, mut events) = Fanout::new(options(UNBOUNDED));
    let r = room("r");
    for user in ["stays", "returns"] {
        let client = Client::attach(&fanout, user).await.unwrap();
        fanout.enter(&client.socket, &r).await.unwrap();
        fanout.detach(&client.socket).await;
    }
    let back = Client::attach(&fanout, "returns").await.unwrap();
    let entered = fanout.enter(&back.socket, &r).await;
    assert_eq!(entered, Ok(Entered { new: true, first_of_user: false }));
    let start = tokio::time::Instant::now();
    let report = tokio::select! {
        () = fanout.run() => unreachable!("it runs until it is dropped"),
        report = events.moved.recv() => report,
    };
    let Some(Control::Gone(gone)) = report else { panic!("{report:?}") };
    assert_eq!((gone.user.as_str(), gone.email.as_deref()), ("stays", Some("stays@example.org")));
    assert_eq!(start.elapsed(), HOLDBACK);
    assert!(events.moved.try_recv().is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Enter(usize, usize),
    Leave(usize, usize),
    Detach(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6_usize, 0..3_usize).prop_map(|(client, room)| Step::Enter(client, room)),
        3 => (0..6_usize, 0..3_usize).prop_map(|(client, room)| Step::Leave(client, room)),
        1 => (0..6_usize).prop_map(Step::Detach),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Counts, members and first/last against sets of pairs.
    #[test]
    fn presence_is_the_set_of_members(steps in prop::collection::vec(step(), 1..60)) {
        let (fanout, _events) = Fanout::new(options(UNBOUNDED));
        // Three users with two sockets each.
        let clients: Vec<_> =
            (0..6).map(|n| now(Client::attach(&fanout, &format!("u{}", n / 2))).unwrap()).collect();
        let rooms = ["x", "y", "z"];
        let mut members = std::collections::BTreeSet::new();
        let mut lingering = std::collections::BTreeSet::new();
        let mut gone = [false; 6];
        for step in steps {
            match step {
                Step::Enter(client, at) => {
                    let entered = now(fanout.enter(&clients[client].socket, &room(rooms[at])));
                    if gone[client] {
                        prop_assert_eq!(entered, Err(FanoutError::Gone));
                        continue;
                    }
                    let first = !members.contains(&(at, client ^ 1));
                    let new = members.insert((at, client));
                    // Who is lost may come back for a while, and is then not new.
                    let first = first && !(new && lingering.remove(&(at, client / 2)));
                    prop_assert_eq!(entered, Ok(Entered { new, first_of_user: new && first }));
                }
                Step::Leave(client, at) => {
                    let left = now(fanout.leave(&clients[client].socket, rooms[at]));
                    let was_member = members.remove(&(at, client));
                    let last_of_user = was_member && !members.contains(&(at, client ^ 1));
                    if last_of_user {
                        lingering.remove(&(at, client / 2));
                    }
                    prop_assert_eq!(left, Left { was_member, last_of_user });
                }
                Step::Detach(client) => {
                    let left = now(fanout.detach(&clients[client].socket));
                    let expected: Vec<usize> = (0..3).filter(|at| members.remove(&(*at, client))).collect();
                    prop_assert_eq!(left.len(), expected.len());
                    for at in expected {
                        if !members.contains(&(at, client ^ 1)) {
                            lingering.insert((at, client / 2));
                        }
                    }
                    gone[client] = true;
                }
            }
            for (at, name) in rooms.iter().enumerate() {
                let inside: Vec<usize> = members.iter().filter(|m| m.0 == at).map(|m| m.1).collect();
                let users: std::collections::BTreeSet<usize> = inside.iter().map(|client| client / 2).collect();
                let count = now(fanout.count("/", name)).unwrap().count;
                prop_assert_eq!(count, RoomCount { sockets: inside.len(), users: users.len() });
                prop_assert_eq!(now(fanout.members("/", name)).unwrap().len(), inside.len());
            }
        }
    }
}
