//! Requests to the sockets of all nodes.

use std::time::Duration;

use fanout::{Answers, Fanout, Target, Turn};
use shared::sio::Event;

use crate::world::{NAMESPACE, REFUSED, World, namespace, room, until, user_id};

const QUESTION: Event<'static> =
    Event { namespace: NAMESPACE, name: "question", args: &["1"], ack: None, attachments: &[] };

const LONG: Duration = Duration::from_secs(20);

async fn ask(fanout: &Fanout, target: Target<'_>) -> Answers {
    fanout.ask(target, &QUESTION, LONG, Turn::new().0).await.unwrap()
}

pub(crate) async fn clients_are_asked_and_answer(world: World) {
    let namespace = namespace();
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ben", "r").await];
    let others = [world.member(0, "eve", "other").await, world.client(1, "eve").await];
    let fanout = &world.node(0).fanout;
    let answers = ask(fanout, Target::room(&namespace, "r")).await;
    let mut texts: Vec<_> = answers.answers.iter().map(|answer| answer.json.as_str()).collect();
    texts.sort_unstable();
    assert_eq!(texts, ["\"ann\"", "\"ben\""]);
    assert_eq!((answers.receivers, answers.are_counted, answers.missing()), (2, true, Some(0)));
    let but_one = Target::room(&namespace, "r").except(clients[0].socket.id());
    let answers = ask(fanout, but_one).await;
    assert_eq!(answers.answers.iter().map(|answer| answer.json.as_str()).collect::<Vec<_>>(), ["\"ben\""]);
    let eve = user_id("eve");
    let answers = ask(fanout, Target::user(&namespace, &eve)).await;
    assert_eq!(answers.receivers, others.len());
}

pub(crate) async fn nobody_answers_for_an_empty_room(world: World) {
    let namespace = namespace();
    let answers = ask(&world.node(0).fanout, Target::room(&namespace, "r")).await;
    assert_eq!((answers.receivers, answers.answers.len(), answers.missing()), (0, 0, Some(0)));
}

pub(crate) async fn sockets_of_a_user_enter_and_leave_a_room(world: World) {
    let (namespace, room, ann) = (namespace(), room("r"), user_id("ann"));
    let clients = [world.client(0, "ann").await, world.client(1, "ann").await];
    let other = world.member(0, "ben", "r").await;
    let fanout = &world.node(0).fanout;
    for _ in 0..2 {
        fanout.join_user(&namespace, &ann, &room).await.unwrap();
        assert!(clients.iter().all(|client| client.socket.is_in("r")), "when all nodes have done it");
    }
    until(async || fanout.count(NAMESPACE, "r").await.unwrap().count.sockets == 3).await;
    for _ in 0..2 {
        fanout.leave_user(&namespace, &ann, &room).await.unwrap();
        assert!(clients.iter().all(|client| !client.socket.is_in("r")), "when all nodes have done it");
        assert_eq!(fanout.count(NAMESPACE, "r").await.unwrap().count.sockets, 1, "the count includes it");
    }
    assert!(other.socket.is_in("r"));
    fanout.join_user(&namespace, &ann, &room).await.unwrap();
    fanout.leave_all(&namespace, &room).await.unwrap();
    assert_eq!(fanout.count(NAMESPACE, "r").await.unwrap().count.sockets, 0);
    assert!(!other.socket.is_in("r") && other.socket.is_attached());
}

pub(crate) async fn those_enter_that_the_app_admits(world: World) {
    let (namespace, room) = (namespace(), room("r"));
    let (client, refused) = (world.client(1, "ann").await, world.client(1, REFUSED).await);
    for user in ["ann", REFUSED] {
        world.node(0).fanout.bring_user(&namespace, &user_id(user), &room).await.unwrap();
    }
    assert_eq!((client.socket.is_in("r"), refused.socket.is_in("r")), (true, false));
    client.fanout.leave(&client.socket, "r").await;
    client.fanout.bring(vec![client.socket.clone(), refused.socket.clone()], room).await;
    until(async || client.socket.is_in("r")).await;
    assert!(!refused.socket.is_in("r"));
}

pub(crate) async fn those_leave_that_the_app_admits_no_more(world: World) {
    let (client, refused) = (world.member(1, "ann", "r").await, world.member(1, REFUSED, "r").await);
    assert!(world.node(0).fanout.review(&namespace(), &room("r")).await);
    assert_eq!((client.socket.is_in("r"), refused.socket.is_in("r")), (true, false));
}

pub(crate) async fn a_user_is_disconnected_where_they_are_in_a_room(world: World) {
    let (namespace, ann) = (namespace(), user_id("ann"));
    let clients = [world.member(0, "ann", "r").await, world.member(1, "ann", "r").await];
    let _others = [world.client(1, "ann").await, world.member(0, "ben", "r").await];
    let disconnected = || {
        let nodes = world.nodes().iter();
        nodes.flat_map(|node| node.reports.disconnected.lock().clone()).collect::<Vec<_>>()
    };
    world.node(0).fanout.disconnect_user(&namespace, &ann, &room("empty")).await.unwrap();
    world.node(0).fanout.disconnect_user(&namespace, &ann, &room("r")).await.unwrap();
    until(async || disconnected().len() >= 2).await;
    let mut ids: Vec<_> = disconnected().iter().map(|id| id.as_str().to_owned()).collect();
    let mut expected: Vec<_> = clients.iter().map(|client| client.socket.id().as_str().to_owned()).collect();
    ids.sort();
    expected.sort();
    assert_eq!(ids, expected);
}

pub(crate) async fn receivers_are_counted(world: World) {
    let (namespace, ann) = (namespace(), user_id("ann"));
    let here = world.member(0, "ann", "r").await;
    let _others = [world.member(1, "ben", "r").await, world.client(1, "ann").await];
    let reach = async |target: Target<'_>| world.node(0).fanout.reach(&target).await.unwrap();
    assert_eq!(reach(Target::room(&namespace, "r")).await, Some(2));
    assert_eq!(reach(Target::room(&namespace, "r").except(here.socket.id())).await, Some(1));
    assert_eq!(reach(Target::user(&namespace, &ann)).await, Some(2));
    assert_eq!(reach(Target::user(&namespace, &ann).except_user(&ann)).await, Some(0));
    assert_eq!(reach(Target::all(&namespace)).await, Some(3));
    assert_eq!(reach(Target::room(&namespace, "empty")).await, Some(0));
    world.node(0).fanout.server_side_emit(&namespace, "event", &["1"]).await.unwrap();
}
