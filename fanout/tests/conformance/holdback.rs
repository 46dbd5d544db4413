//! Users whose connection dropped.

use crate::world::{HOLDBACK, NAMESPACE, World, room, until, user_id};

/// How often nodes have reported the user as gone; one node reports each departure.
fn gone(world: &World, user: &str) -> usize {
    let of = |node: &crate::world::Node| {
        node.reports.gone.lock().iter().filter(|gone| gone.user.as_str() == user).count()
    };
    world.nodes().iter().map(of).sum()
}

pub(crate) async fn a_user_who_does_not_return_is_gone_once(world: World) {
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ann", "r").await];
    clients[0].detach().await;
    tokio::time::sleep(2 * HOLDBACK).await;
    assert_eq!(gone(&world, "ann"), 0, "they have another socket");
    clients[1].detach().await;
    assert_eq!(world.node(0).fanout.is_in(NAMESPACE, "r", &user_id("ann")).await, Ok(false));
    until(async || gone(&world, "ann") > 0).await;
    let reported = world.nodes().iter().find_map(|node| node.reports.gone.lock().first().cloned()).unwrap();
    assert_eq!((reported.namespace.as_str(), &reported.room), (NAMESPACE, &room("r")));
    let texts = [reported.email, reported.display_name, reported.role].map(Option::unwrap_or_default);
    assert_eq!(texts.each_ref().map(|text| &**text), ["a@b", "The user ann", "tester"]);
    // Once the last user is reported, no other report is pending.
    let witness = world.member(0, "ben", "r").await;
    witness.detach().await;
    until(async || gone(&world, "ben") > 0).await;
    assert_eq!(gone(&world, "ann"), 1);
}

pub(crate) async fn a_user_who_returns_in_time_was_never_gone(world: World) {
    let client = world.member(0, "ann", "r").await;
    client.detach().await;
    let back = world.client(1, "ann").await;
    let entered = back.fanout.enter(&back.socket, &room("r")).await.unwrap();
    assert!(entered.new && !entered.first_of_user, "no one was notified that they had left");
    let witness = world.member(0, "ben", "r").await;
    witness.detach().await;
    until(async || gone(&world, "ben") > 0).await;
    assert_eq!(gone(&world, "ann"), 0);
}

pub(crate) async fn a_user_who_leaves_is_not_reported(world: World) {
    let client = world.member(0, "ann", "r").await;
    assert!(client.fanout.leave(&client.socket, "r").await.last_of_user);
    client.detach().await;
    let witness = world.member(0, "ben", "r").await;
    witness.detach().await;
    until(async || gone(&world, "ben") > 0).await;
    assert_eq!(gone(&world, "ann"), 0, "the caller that let them leave notifies others");
}
