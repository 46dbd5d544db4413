use std::task::Waker;

use super::*;

fn queue(bytes: usize, packets: usize) -> (Arc<SendQueue>, mpsc::Receiver<SessionId>, Arc<Stats>) {
    let (overflowed, receiver) = mpsc::channel(4);
    let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
    let shared = Shared { limits: SendQueueLimits { bytes, packets }, overflowed, stats: Arc::clone(&stats) };
    let node = shared::ids::NodeId::from_random([0; 4]);
    let session = SessionId::new(node, [0; 16]);
    let queue = SendQueue::new(session, Arc::new(shared), Arc::new(WorkList::new(Arc::default())));
    (Arc::new(queue), receiver, stats)
}

fn polled(queue: &SendQueue) -> Polled {
    queue.poll_packets(Waker::noop())
}

#[test]
fn packets_leave_in_the_order_they_were_pushed() {
    let (queue, _overflowed, _) = queue(0, 0);
    for text in ["a", "b", "c"] {
        queue.push(Bytes::from_static(text.as_bytes()), 1);
    }
    assert_eq!(polled(&queue), Polled::Packets(vec!["a".into(), "b".into(), "c".into()]));
    assert_eq!(polled(&queue), Polled::Nothing);
}

#[test]
fn a_bound_in_packets_ends_the_session_once() {
    let (queue, mut overflowed, stats) = queue(0, 2);
    for _ in 0..5 {
        queue.push(Bytes::from_static(b"x"), 1);
    }
    assert!(queue.has_overflowed());
    assert_eq!(overflowed.try_recv(), Ok(queue.session()));
    assert!(overflowed.try_recv().is_err());
    assert_eq!(stats.snapshot().overflows, 1);
    assert_eq!(polled(&queue), Polled::Ended);
}

#[tokio::test]
async fn a_burst_over_the_bound_is_written_to_a_client_that_takes_it() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut client, (_, write)) = (client.unwrap(), server.unwrap().0.into_split());
    let (queue, mut overflowed, _) = queue(0, 2);
    queue.attach_stream(write);
    for _ in 0..100 {
        queue.push(Bytes::from_static(b"x"), 1);
    }
    queue.flush();
    assert!(overflowed.try_recv().is_err());
    let mut received = [0; 100];
    client.read_exact(&mut received).await.unwrap();
    // A client that takes nothing is still detected.
    let much = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..100 {
        queue.push(much.clone(), 1);
    }
    assert_eq!(overflowed.try_recv(), Ok(queue.session()));
}

#[test]
fn an_overflow_that_cannot_be_reported_is_still_found() {
    let (overflowed, _receiver) = mpsc::channel(shared::limits::OVERFLOWS_QUEUED);
    let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
    let limits = SendQueueLimits { bytes: 0, packets: 1 };
    let shared = Arc::new(Shared { limits, overflowed, stats: Arc::clone(&stats) });
    let node = shared::ids::NodeId::from_random([0; 4]);
    let count = shared::limits::OVERFLOWS_QUEUED + 1;
    for at in 0..count {
        let mut entropy = [0; 16];
        entropy[..8].copy_from_slice(&at.to_le_bytes());
        let session = SessionId::new(node, entropy);
        let queue = SendQueue::new(session, Arc::clone(&shared), Arc::new(WorkList::new(Arc::default())));
        queue.push(Bytes::from_static(b"x"), 1);
        queue.push(Bytes::from_static(b"x"), 1);
        assert!(queue.has_overflowed(), "{at}");
    }
    assert_eq!(shared.overflowed.capacity(), 0);
    assert_eq!(stats.snapshot().overflows, count as u64);
}

#[test]
fn a_bound_in_bytes_does_not_refuse_a_single_item() {
    let (queue, _overflowed, _) = queue(4, 0);
    queue.push(Bytes::from_static(b"123456"), 1);
    assert!(!queue.has_overflowed());
    queue.push(Bytes::from_static(b"7"), 1);
    assert!(queue.has_overflowed());
}

#[test]
fn the_send_queues_of_one_user_are_bounded_together() {
    let (limits, packet) = (SendQueueLimits { bytes: 1 << 20, packets: 0 }, Bytes::from(vec![b'x'; 1 << 19]));
    let (overflowed, mut receiver) = mpsc::channel(64);
    let stats = Arc::new(Stats::new(crate::stats::Distributions::ignored()));
    let shared = Arc::new(Shared { limits, overflowed, stats });
    let node = shared::ids::NodeId::from_random([0; 4]);
    let quota = Arc::<Quota>::default();
    let queue = |at: u8| {
        let session = SessionId::new(node, [at; 16]);
        let queue = SendQueue::new(session, Arc::clone(&shared), Arc::new(WorkList::new(Arc::default())));
        queue.counts_for(&quota);
        queue
    };
    let queues: Vec<_> = (0..40).map(queue).collect();
    for queue in &queues {
        queue.push(packet.clone(), 1);
    }
    let (kept, ended): (Vec<_>, Vec<_>) = queues.iter().partition(|queue| !queue.has_overflowed());
    assert_eq!(quota.bytes.load(Ordering::Relaxed), kept.len() * (packet.len() - OUTBOX_FREE_BYTES));
    assert!(quota.bytes.load(Ordering::Relaxed) <= shared::limits::USER_OUTBOXES_FACTOR << 20);
    assert!(kept.len() >= 16 && ended.len() >= 16, "{} kept", kept.len());
    assert_eq!(receiver.try_recv(), Ok(ended[0].session()));
    // Taking packets frees space, and small queues always have space.
    assert!(matches!(kept[0].poll_packets(Waker::noop()), Polled::Packets(_)));
    let next = queue(99);
    next.push(packet, 1);
    queues.iter().filter(|queue| !queue.has_overflowed()).for_each(|queue| {
        queue.push(Bytes::from_static(b"small"), 1);
    });
    assert!(!next.has_overflowed());
    drop((queues, next));
    assert_eq!(quota.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn only_a_little_may_wait_for_an_unauthenticated_client() {
    let (queue, mut overflowed, _) = queue(0, 0);
    queue.set_narrow(true);
    for _ in 0..STRANGER_OUTBOX_PACKETS {
        queue.push(Bytes::from_static(b"x"), 1);
    }
    queue.set_narrow(false);
    queue.push(Bytes::from_static(b"x"), 1);
    assert!(!queue.has_overflowed());
    queue.set_narrow(true);
    queue.push(Bytes::from_static(b"x"), 1);
    assert_eq!(overflowed.try_recv(), Ok(queue.session()));
}

#[test]
fn volatile_packets_are_dropped_when_something_waits_and_no_poll_is_parked() {
    let (queue, _overflowed, stats) = queue(0, 0);
    queue.push_volatile(Bytes::from_static(b"a"), 1);
    queue.push_volatile(Bytes::from_static(b"b"), 1);
    assert_eq!(stats.snapshot().volatile_dropped, 1);
    assert_eq!(polled(&queue), Polled::Packets(vec!["a".into()]));
    assert_eq!(polled(&queue), Polled::Nothing);
    queue.push_volatile(Bytes::from_static(b"c"), 1);
    queue.push_volatile(Bytes::from_static(b"d"), 1);
    assert_eq!(polled(&queue), Polled::Packets(vec!["c".into(), "d".into()]));
}

#[test]
fn binary_leaves_as_text_where_binary_frames_are_not_taken() {
    let (queue, _overflowed, _) = queue(0, 0);
    let (mut binary, mut text) = (Vec::new(), Vec::new());
    shared::ws::push_frame(&mut binary, shared::ws::OP_BINARY, &[1, 2, 3]);
    shared::ws::push_frame(&mut text, shared::ws::OP_TEXT, b"bAQID");
    let (binary, text) = (Bytes::from(binary), Bytes::from(text));
    queue.push(binary.clone(), 1);
    queue.leave_out_binary();
    queue.push(binary, 1);
    assert_eq!(polled(&queue), Polled::Packets(vec![text.clone(), text]));
    assert_eq!(queue.state.lock().bytes, 0);
}

#[test]
fn a_ping_overtakes_a_backlog() {
    let (queue, _overflowed, _) = queue(0, 0);
    queue.push(Bytes::from_static(b"a"), 1);
    queue.push(Bytes::from_static(b"b"), 1);
    queue.send_first(Bytes::from_static(b"ping"));
    assert_eq!(polled(&queue), Polled::Packets(vec!["ping".into(), "a".into(), "b".into()]));
}

#[test]
fn packets_queued_during_a_hold_leave_behind_the_answer() {
    let (queue, _overflowed, _) = queue(0, 0);
    queue.push(Bytes::from_static(b"before"), 1);
    let hold = queue.hold();
    queue.push(Bytes::from_static(b"event"), 1);
    queue.send_first(Bytes::from_static(b"ping"));
    assert_eq!(polled(&queue), Polled::Packets(vec!["ping".into(), "before".into()]));
    queue.answer(Bytes::from_static(b"answer 1"));
    queue.push_volatile(Bytes::from_static(b"event 2"), 1);
    queue.answer(Bytes::from_static(b"answer 2"));
    assert_eq!(polled(&queue), Polled::Nothing);
    drop(hold);
    let all = ["answer 1", "answer 2", "event", "event 2"];
    assert_eq!(polled(&queue), Polled::Packets(all.map(Bytes::from).to_vec()));
}

#[test]
fn a_hold_that_ends_early_keeps_the_order_of_later_packets() {
    let (queue, _overflowed, _) = queue(0, 0);
    let hold = queue.hold();
    queue.push(Bytes::from_static(b"event"), 1);
    queue.end_hold();
    queue.answer(Bytes::from_static(b"answer"));
    drop(hold);
    assert_eq!(polled(&queue), Polled::Packets(vec!["event".into(), "answer".into()]));
}

#[test]
fn a_full_hold_ends_itself_and_not_the_session() {
    let (queue, mut overflowed, _) = queue(0, 0);
    let hold = queue.hold();
    queue.answer(Bytes::from_static(b"answer"));
    for _ in 0..shared::limits::HELD_PACKETS_MAX {
        queue.push(Bytes::from_static(b"x"), 1);
    }
    assert_eq!(polled(&queue), Polled::Nothing);
    queue.push(Bytes::from_static(b"x"), 1);
    let Polled::Packets(packets) = polled(&queue) else { panic!("the hold has ended") };
    assert_eq!((packets.len(), &packets[0][..]), (shared::limits::HELD_PACKETS_MAX + 2, &b"answer"[..]));
    drop(hold);
    let hold = queue.hold();
    queue.push(Bytes::from(vec![b'x'; OUTBOX_FREE_BYTES + 1]), 1);
    assert!(matches!(polled(&queue), Polled::Packets(_)) && overflowed.try_recv().is_err());
    drop(hold);
    let state = queue.state.lock();
    assert_eq!((state.bytes, state.packets), (0, 0));
}

#[test]
fn the_end_of_a_session_ends_its_hold() {
    let (queue, _overflowed, _) = queue(0, 0);
    let _hold = queue.hold();
    queue.push(Bytes::from_static(b"event"), 1);
    queue.finish(Some(Bytes::from_static(b"end")));
    queue.answer(Bytes::from_static(b"late"));
    assert_eq!(polled(&queue), Polled::Packets(vec!["event".into(), "end".into()]));
    assert_eq!(polled(&queue), Polled::Ended);
    assert_eq!(polled(&queue), Polled::Ended);
    drop(queue.hold());
    assert!(queue.state.lock().held.is_none());
}

#[test]
fn binary_that_was_held_leaves_as_text_where_binary_frames_are_not_taken() {
    let (queue, _overflowed, _) = queue(0, 0);
    let mut binary = Vec::new();
    shared::ws::push_frame(&mut binary, shared::ws::OP_BINARY, &[1, 2, 3]);
    let hold = queue.hold();
    queue.push(binary.into(), 1);
    queue.leave_out_binary();
    drop(hold);
    let mut text = Vec::new();
    shared::ws::push_frame(&mut text, shared::ws::OP_TEXT, b"bAQID");
    assert_eq!(polled(&queue), Polled::Packets(vec![text.into()]));
}

#[tokio::test]
async fn nothing_overtakes_the_answer_that_opens_the_websocket() {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, server) =
        tokio::join!(tokio::net::TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    let (mut client, (_, write)) = (client.unwrap(), server.unwrap().0.into_split());
    let (queue, _overflowed, _) = queue(0, 0);
    queue.push(Bytes::from_static(b"open"), 1);
    assert!(queue.begin_with(&Bytes::from_static(b"answer ")));
    queue.send_first(Bytes::from_static(b"ping "));
    queue.finish(Some(Bytes::from_static(b" end")));
    queue.attach_stream(write);
    let mut received = String::new();
    client.read_to_string(&mut received).await.unwrap();
    assert_eq!(received, "answer ping open end");
}

#[test]
fn an_answer_is_not_queued_where_nothing_can_be_written() {
    let (queue, _overflowed, _) = queue(0, 0);
    queue.abort();
    assert!(!queue.begin_with(&Bytes::from_static(b"answer")));
}

#[test]
fn waiting_packets_are_taken_before_the_end() {
    let (queue, _overflowed, _) = queue(0, 0);
    queue.push(Bytes::from_static(b"a"), 1);
    queue.finish(Some(Bytes::from_static(b"end")));
    queue.push(Bytes::from_static(b"late"), 1);
    assert_eq!(polled(&queue), Polled::Packets(vec!["a".into(), "end".into()]));
    assert_eq!(polled(&queue), Polled::Ended);
}
