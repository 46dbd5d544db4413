//! Idempotency keys.

use fanout::Target;

use crate::world::{World, namespace, user_id};

pub(crate) async fn a_broadcast_under_a_key_is_made_once(world: World) {
    let (namespace, ann) = (namespace(), user_id("ann"));
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ben", "r").await];
    let room = Target::room(&namespace, "r");
    let send = async |node| world.broadcast(node, room.once("k"), "once").await.repeated;
    let (a, b, c) = tokio::join!(send(0), send(1), send(0));
    assert_eq!([a, b, c].into_iter().filter(|repeated| !repeated).count(), 1);
    assert!(send(1).await && send(0).await);
    let again = world.broadcast(1, room.once("k"), "once").await;
    assert_eq!((again.repeated, again.nodes), (true, 0));
    // Another key, or other recipients.
    assert!(!world.broadcast(0, room.once("other"), "other key").await.repeated);
    assert!(!world.broadcast(0, Target::user(&namespace, &ann).once("k"), "other receivers").await.repeated);
    assert!(!world.broadcast(0, room, "without").await.repeated);
    let mut names = clients[1].receive(3).await;
    names.sort();
    assert_eq!(names, ["once", "other key", "without"].map(String::from));
    let mut names = clients[0].receive(4).await;
    names.sort();
    assert_eq!(names, ["once", "other key", "other receivers", "without"].map(String::from));
    for client in clients {
        client.expect_nothing().await;
    }
}

pub(crate) async fn a_key_stands_for_what_it_was_first_used_for(world: World) {
    let claim = async |node, key, request| world.node(node).fanout.claim_key(key, request).await;
    assert_eq!(claim(0, "k", "a").await, Ok(true));
    assert_eq!(claim(1, "k", "a").await, Ok(true));
    assert_eq!(claim(1, "k", "b").await, Ok(false));
    assert_eq!(claim(0, "other", "b").await, Ok(true));
}
