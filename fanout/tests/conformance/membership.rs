//! The members of a room.

use std::collections::BTreeSet;

use fanout::{Entered, FanoutError, Left, RoomCount};
use futures_util::future::BoxFuture;

use crate::world::{Client, NAMESPACE, OTHER, World, namespace, room, user_id};

pub(crate) async fn the_first_and_the_last_socket_of_a_user_are_distinguished(world: World) {
    let (here, there) = (world.client(0, "ann").await, world.client(1, "ann").await);
    let (first, again) =
        (Entered { new: true, first_of_user: true }, Entered { new: false, first_of_user: false });
    let room = room("r");
    assert_eq!(here.fanout.enter(&here.socket, &room).await, Ok(first));
    assert_eq!(here.fanout.enter(&here.socket, &room).await, Ok(again));
    assert_eq!(there.fanout.enter(&there.socket, &room).await, Ok(Entered { first_of_user: false, ..first }));
    let (left, last) =
        (Left { was_member: true, last_of_user: false }, Left { was_member: true, last_of_user: true });
    assert_eq!(here.fanout.leave(&here.socket, "r").await, left);
    let none = Left { was_member: false, last_of_user: false };
    assert_eq!(here.fanout.leave(&here.socket, "r").await, none);
    assert_eq!(there.fanout.leave(&there.socket, "r").await, last);
    assert_eq!(here.fanout.enter(&here.socket, &room).await, Ok(first), "others are notified again");
}

pub(crate) async fn an_order_to_leave_waits_for_sockets_that_are_being_placed(world: World) {
    let (client, other, r) = (world.client(1, "ann").await, &world.node(0).fanout, room("r"));
    let (namespace, ann, ben) = (namespace(), user_id("ann"), user_id("ben"));
    type Order<'a> = BoxFuture<'a, Result<(), FanoutError>>;
    let orders: [Order<'_>; 3] = [
        Box::pin(other.leave_user(&namespace, &ann, &r)),
        Box::pin(other.disconnect_user(&namespace, &ann, &r)),
        Box::pin(other.leave_all(&namespace, &r)),
    ];
    for mut order in orders {
        let placement = client.fanout.begin_placement(&client.socket);
        tokio::select! {
            biased;
            done = &mut order => panic!("{done:?} before the socket was placed"),
            // Nodes carry out requests in turn: when this is done, the order has reached the other node.
            done = other.leave_user(&namespace, &ben, &r) => assert_eq!(done, Ok(())),
        }
        client.fanout.enter_own(&client.socket, &r).await.unwrap();
        assert_eq!(placement.end().await, ["r"]);
        assert_eq!(order.await, Ok(()));
        assert_eq!(other.count(NAMESPACE, "r").await.unwrap().count, RoomCount::default());
        assert!(!client.socket.is_in("r") && client.socket.is_attached());
    }
    // Without an end, for other rooms, and for sockets of others, nothing waits.
    let placement = client.fanout.begin_placement(&client.socket);
    placement.narrow([&room("other")].into_iter());
    assert_eq!(other.leave_user(&namespace, &ann, &r).await, Ok(()));
    assert_eq!(other.leave_user(&namespace, &ben, &r).await, Ok(()));
    drop(placement);
    assert_eq!(other.leave_user(&namespace, &ann, &r).await, Ok(()));
}

pub(crate) async fn lists_and_counts_agree(world: World) {
    let clients = [
        world.member(0, "ann", "r").await,
        world.member(1, "ann", "r").await,
        world.member(1, "ben", "r").await,
    ];
    for node in world.nodes() {
        let fanout = &node.fanout;
        let members = fanout.members(NAMESPACE, "r").await.unwrap();
        let ids: BTreeSet<_> = members.iter().map(|member| member.socket.as_str().to_owned()).collect();
        let expected: BTreeSet<_> =
            clients.iter().map(|client| client.socket.id().as_str().to_owned()).collect();
        assert_eq!(ids, expected);
        for member in &members {
            assert_eq!(&*member.display_name, format!("The user {}", member.user));
            assert_eq!(
                (member.connected_at_ms, member.role.as_deref(), member.node),
                (7, Some("tester"), member.socket.node())
            );
        }
        let count = RoomCount { sockets: 3, users: 2 };
        assert_eq!(RoomCount::of(&members), count);
        let counted = fanout.count(NAMESPACE, "r").await.unwrap();
        assert_eq!((counted.count, counted.stale), (count, false));
        let some = fanout.first_members(NAMESPACE, "r", 1).await.unwrap();
        assert_eq!((some.members.len(), some.count), (1, count));
        let all = fanout.first_members(NAMESPACE, "r", 9).await.unwrap();
        let users: BTreeSet<_> = all.members.iter().map(|member| member.user.as_str()).collect();
        assert_eq!((all.members.len(), users), (2, BTreeSet::from(["ann", "ben"])));
        assert_eq!(fanout.is_in(NAMESPACE, "r", &user_id("ben")).await, Ok(true));
        assert_eq!(fanout.is_in(NAMESPACE, "r", &user_id("eve")).await, Ok(false));
        assert_eq!(fanout.count(NAMESPACE, "empty").await.unwrap().count, RoomCount::default());
        assert!(fanout.members(NAMESPACE, "empty").await.unwrap().is_empty());
        assert_eq!(fanout.members("/none", "r").await, Err(FanoutError::UnknownNamespace));
    }
}

pub(crate) async fn sockets_and_rooms_are_limited(world: World) {
    let fanout = &world.node(0).fanout;
    let mut clients = Vec::new();
    for _ in 0..4 {
        clients.push(world.client(0, "ann").await);
    }
    let one_more = Client::try_attach(fanout, NAMESPACE, "ann").await;
    assert_eq!(one_more.err(), Some(FanoutError::TooManySockets));
    let nowhere = Client::try_attach(fanout, "/none", "ann").await;
    assert_eq!(nowhere.err(), Some(FanoutError::UnknownNamespace));
    let socket = &clients[0].socket;
    for name in ["a", "b", "c"] {
        fanout.enter(socket, &room(name)).await.unwrap();
    }
    assert_eq!(fanout.enter(socket, &room("d")).await, Err(FanoutError::TooManyRooms));
    // An app's own rooms do not count.
    fanout.enter_own(socket, &room("own")).await.unwrap();
    fanout.leave(socket, "a").await;
    fanout.enter(socket, &room("d")).await.unwrap();
    clients[0].detach().await;
    assert_eq!(fanout.enter(socket, &room("a")).await, Err(FanoutError::Gone));
    world.client(0, "ann").await;
}

pub(crate) async fn detaching_leaves_every_room(world: World) {
    let (client, expelled) = (world.member(0, "ann", "a").await, world.member(1, "ben", "a").await);
    client.fanout.enter(&client.socket, &room("b")).await.unwrap();
    let mut left: Vec<_> = client.detach().await.iter().map(|room| room.as_str().to_owned()).collect();
    left.sort();
    assert_eq!(left, ["a", "b"]);
    assert!(client.detach().await.is_empty() && !client.socket.is_attached());
    expelled.fanout.expel(&expelled.socket).await;
    assert!(!expelled.socket.is_in("a"));
    assert_eq!(expelled.detach().await, [room("a")]);
    for node in world.nodes() {
        assert!(node.fanout.members(NAMESPACE, "a").await.unwrap().is_empty());
        assert_eq!(node.fanout.is_in(NAMESPACE, "b", &user_id("ann")).await, Ok(false));
    }
}

pub(crate) async fn namespaces_are_apart(world: World) {
    let here = world.member(0, "ann", "r").await;
    let there = Client::attach(&world.node(1).fanout, OTHER, "ann").await;
    let entered = there.fanout.enter(&there.socket, &room("r")).await.unwrap();
    assert!(entered.first_of_user, "in this namespace");
    let members = async |namespace| world.node(0).fanout.members(namespace, "r").await.unwrap();
    assert_eq!((members(NAMESPACE).await.len(), members(OTHER).await.len()), (1, 1));
    let left = here.fanout.leave(&here.socket, "r").await;
    assert!(left.last_of_user);
    assert_eq!((members(NAMESPACE).await.len(), members(OTHER).await.len()), (0, 1));
}
