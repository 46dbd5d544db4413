//! The guarantees of nodes on one Redis when Redis loses data, or when a node is slow or new.

use std::time::Duration;

use fanout::Target;
use shared::limits::{LANE_BYTES_MAX, LEASES_RECHECK_MS};

use crate::interleavings::post;
use crate::world::{NAMESPACE, World, namespace, room, until, user_id};

/// Bytes of a message that fills a node's queue; Redis disconnects a subscriber with a backlog of 32 MB.
const MESSAGE_BYTES: usize = 1 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_redis_has_forgotten_runs_in_its_turn() {
    let world = World::cluster().await;
    let (namespace, client) = (namespace(), world.member(1, "ann", "r").await);
    let (fanout, mut redis) = (&world.node(0).fanout, world.redis().await);
    let room = Target::room(&namespace, "r");
    for round in 0..50 {
        let flushed: String = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut redis).await.unwrap();
        assert_eq!(flushed, "OK");
        let names = ["plain", "tracked", "plain again", "tracked again", "the end"];
        let targets = [room, room.tracked(), room, room.tracked(), room];
        let posted: Vec<_> =
            targets.into_iter().zip(names).map(|(target, name)| post(fanout, target, name)).collect();
        assert_eq!(client.receive(names.len()).await, names, "round {round}");
        for posted in posted {
            posted.outcome().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broadcasts_behind_a_slow_request_leave_space_for_the_next_request() {
    let world = World::cluster().await;
    let (namespace, ann, room) = (namespace(), user_id("ann"), room("r"));
    let (slow, client) = (world.node(1), world.member(1, "ann", "r").await);
    let other = world.member(1, "ben", "r").await;
    slow.reports.is_slow.send_replace(true);
    // The slow node carries out neither this request nor later ones, and the asker gets no success.
    assert!(world.node(0).fanout.disconnect_user(&namespace, &user_id("ben"), &room).await.is_err());
    until(async || slow.reports.disconnected.lock().contains(&other.socket.id())).await;
    let (mut redis, message) = (world.redis().await, vec![0_u8; MESSAGE_BYTES]);
    for _ in 0..=LANE_BYTES_MAX / MESSAGE_BYTES {
        let channel = format!("test#{NAMESPACE}#r#");
        let nodes: usize =
            redis::cmd("PUBLISH").arg(channel).arg(&message).query_async(&mut redis).await.unwrap();
        assert!(nodes > 0, "no node listens");
    }
    assert!(world.node(0).fanout.leave_user(&namespace, &ann, &room).await.is_err());
    slow.reports.is_slow.send_replace(false);
    until(async || !client.socket.is_in("r")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_a_node_that_has_just_started() {
    let mut world = World::cluster().await;
    let (namespace, ann, room) = (namespace(), user_id("ann"), room("r"));
    // The list of nodes is fresh.
    world.node(0).fanout.bring_user(&namespace, &ann, &room).await.unwrap();
    world.start_node().await;
    // The list of nodes is not read again sooner.
    tokio::time::sleep(2 * Duration::from_millis(LEASES_RECHECK_MS)).await;
    let client = world.client(2, "ann").await;
    world.node(2).reports.is_slow.send_replace(true);
    let brought = world.node(0).fanout.bring_user(&namespace, &ann, &room);
    let mut brought = std::pin::pin!(brought);
    let early = tokio::time::timeout(Duration::from_millis(300), &mut brought).await;
    assert!(early.is_err(), "the new node has not done it");
    world.node(2).reports.is_slow.send_replace(false);
    brought.await.unwrap();
    assert!(client.socket.is_in("r"));
}
