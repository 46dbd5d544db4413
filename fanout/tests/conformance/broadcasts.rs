//! Who receives a broadcast, and in which order.

use std::sync::Arc;

use fanout::Target;

use crate::world::{World, namespace, room, user_id};

/// Broadcasts of each of two senders.
const BROADCASTS: usize = 100;

pub(crate) async fn all_members_receive_all_broadcasts_in_one_order(world: World) {
    let members = [world.member(0, "ann", "r").await, world.member(1, "ben", "r").await];
    let send = async |node: usize| {
        for number in 0..BROADCASTS {
            let name = format!("{node}-{number}");
            world.broadcast(node, Target::room(&namespace(), "r"), &name).await;
        }
    };
    tokio::join!(send(0), send(1));
    let received = [members[0].receive(2 * BROADCASTS).await, members[1].receive(2 * BROADCASTS).await];
    assert_eq!(received[0], received[1]);
    for node in ["0-", "1-"] {
        let of_sender: Vec<_> = received[0].iter().filter_map(|name| name.strip_prefix(node)).collect();
        let sent: Vec<_> = (0..BROADCASTS).map(|number| number.to_string()).collect();
        assert_eq!(of_sender, sent, "a sender's broadcasts stay in their order");
    }
}

pub(crate) async fn a_member_receives_what_is_sent_while_it_is_in_the_room(world: World) {
    let namespace = namespace();
    let (witness, client) = (world.member(0, "ann", "r").await, world.client(1, "ben").await);
    world.broadcast(0, Target::room(&namespace, "r"), "before").await;
    assert_eq!(witness.receive(1).await, ["before"]);
    client.fanout.enter(&client.socket, &room("r")).await.unwrap();
    world.broadcast(0, Target::room(&namespace, "r"), "during").await;
    assert_eq!(client.receive(1).await, ["during"]);
    client.fanout.leave(&client.socket, "r").await;
    world.broadcast(0, Target::room(&namespace, "r"), "after").await;
    assert_eq!(witness.receive(2).await, ["during", "after"]);
    client.expect_nothing().await;
}

pub(crate) async fn a_broadcast_goes_to_those_it_is_for(world: World) {
    let (namespace, ann) = (namespace(), user_id("ann"));
    let here = world.member(0, "ann", "r").await;
    let there = world.member(1, "ann", "r").await;
    let other = world.member(1, "ben", "other").await;
    let ben = world.member(0, "ben", "r").await;
    let room = Target::room(&namespace, "r");
    world.broadcast(0, room.except(here.socket.id()), "not here").await;
    world.broadcast(0, room.except_user(&ann), "not ann").await;
    world.broadcast(0, Target::user(&namespace, &ann), "for ann").await;
    world.broadcast(1, Target::all(&namespace).except(other.socket.id()), "for all but one").await;
    world.broadcast(1, Target::all(&namespace), "the end").await;
    let sorted = async |client: &crate::world::Client, count| {
        let mut names = client.receive(count).await;
        // Nothing is promised about the order of what was sent to different receivers.
        names.sort();
        names
    };
    assert_eq!(sorted(&here, 3).await, ["for all but one", "for ann", "the end"]);
    assert_eq!(sorted(&there, 4).await, ["for all but one", "for ann", "not here", "the end"]);
    assert_eq!(sorted(&ben, 4).await, ["for all but one", "not ann", "not here", "the end"]);
    assert_eq!(sorted(&other, 1).await, ["the end"]);
    for client in [here, there, other, ben] {
        client.expect_nothing().await;
    }
}

pub(crate) async fn a_watcher_receives_and_is_no_member(world: World) {
    let (client, watched) = (world.client(1, "ann").await, room("w"));
    client.fanout.watch(&client.socket, &watched).await.unwrap();
    assert_eq!(client.fanout.watched(&client.socket), [watched]);
    world.broadcast(0, Target::room(&namespace(), "w"), "seen").await;
    assert_eq!(client.receive(1).await, ["seen"]);
    let counted = world.node(0).fanout.count("/one", "w").await.unwrap();
    assert_eq!((counted.count.sockets, client.socket.is_in("w")), (0, false));
    client.fanout.unwatch(&client.socket, "w");
    client.fanout.unwatch(&client.socket, "w");
    world.broadcast(1, Target::room(&namespace(), "w"), "not seen").await;
    world.broadcast(1, Target::all(&namespace()), "the end").await;
    assert_eq!(client.receive(1).await, ["the end"]);
}

pub(crate) async fn a_sequenced_broadcast_is_given_to_every_owner(world: World) {
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ben", "r").await];
    for sequence in [7, 8] {
        world.broadcast(0, Target::room(&namespace(), "r").sequenced(sequence), "numbered").await;
    }
    for node in world.nodes() {
        for sequence in [7, 8] {
            let given = node.next_sequenced().await;
            assert_eq!((given.namespace.as_str(), &*given.room), ("/one", "r"));
            assert_eq!(given.sequence, Some(sequence));
            node.fanout.deliver_sequenced(&given);
        }
    }
    for client in clients {
        assert_eq!(client.receive(2).await, ["numbered", "numbered"]);
        client.expect_nothing().await;
    }
}

pub(crate) async fn a_broadcast_that_waited_does_not_reach_members_of_a_later_room(world: World) {
    let (node, first) = (world.node(0), world.member(0, "ann", "r").await);
    let before = node.fanout.kept(&namespace(), "r", || Arc::new(1)).unwrap();
    world.broadcast(0, Target::room(&namespace(), "r").sequenced(1), "waits").await;
    let given = node.next_sequenced().await;
    let deliver = |kept: &Arc<i32>| {
        node.fanout.deliver_kept(&given, kept);
        node.fanout.deliver(&namespace(), "r", kept, given.packet.clone());
    };
    deliver(&before);
    assert_eq!(first.receive(2).await, ["waits", "waits"]);
    first.fanout.leave(&first.socket, "r").await;
    deliver(&before);
    let second = world.member(0, "ben", "r").await;
    deliver(&before);
    let after = node.fanout.kept(&namespace(), "r", || Arc::new(2)).unwrap();
    deliver(&before);
    second.expect_nothing().await;
    deliver(&after);
    assert_eq!(second.receive(2).await, ["waits", "waits"]);
    first.expect_nothing().await;
}

pub(crate) async fn nothing_overtakes_a_sequenced_broadcast_on_the_way_to_its_owner(world: World) {
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ben", "r").await];
    for round in 0..100 {
        world.broadcast(0, Target::room(&namespace(), "r").sequenced(round), "numbered").await;
        world.broadcast(0, Target::all(&namespace()), "to all").await;
        for (node, client) in world.nodes().iter().zip(&clients) {
            assert_eq!(client.receive(1).await, ["to all"]);
            let given = node.sequenced_now().await.expect("its owner got the broadcast before");
            assert_eq!(given.sequence, Some(round));
        }
    }
}
