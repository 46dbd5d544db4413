//! The rules of `chat`, each refusal by its sentence.

use serde_json::{Value, json};

use super::limits::{CHAT_HISTORY, CHAT_MESSAGE_MAX};
use crate::testing::{TestClient, TestNode};

const ROOM: &str = "lobby";

/// Mounts only chat, so that no other app sends events.
const CHAT: &[(&str, &str)] = &[("mounts", "chat=/")];

async fn client(node: &TestNode, user: &str) -> TestClient {
    let claims =
        json!({ "name": user.to_uppercase(), "email": format!("{user}@example.org"), "avatar": "a.png" });
    node.client("/", user, &claims).await
}

async fn member(node: &TestNode, user: &str) -> TestClient {
    let mut client = client(node, user).await;
    assert_eq!(client.ask("join_room", json!(ROOM)).await, json!({ "success": true, "roomId": ROOM }));
    client.event("room_history").await;
    client
}

async fn send(client: &mut TestClient, content: &str) -> Value {
    let sent = client.ask("send_message", json!({ "roomId": ROOM, "content": content })).await;
    assert_eq!(sent["success"], true, "{sent}");
    sent["message"].clone()
}

#[tokio::test]
async fn invalid_rooms_and_arguments_are_refused() {
    let node = TestNode::with(CHAT).await;
    let mut ann = client(&node, "ann").await;
    for event in ["join_room", "leave_room", "typing_start", "typing_stop"] {
        for room in [json!(""), json!(" "), json!("a\nb"), json!("x".repeat(129)), json!(7), Value::Null] {
            ann.is_refused(event, room, "Invalid room id").await;
        }
    }
    for (event, argument, error) in [
        ("send_message", json!("hi"), "Expected {roomId, content}"),
        ("send_message", json!({ "roomId": ROOM }), "Expected {roomId, content}"),
        ("send_message", json!({ "roomId": "", "content": "hi" }), "Invalid room id"),
        ("room_history", json!(ROOM), "Expected {roomId, before?, limit?}"),
        ("room_history", json!({ "roomId": ROOM, "limit": "x" }), "Expected {roomId, before?, limit?}"),
        ("room_history", json!({ "roomId": "" }), "Invalid room id"),
    ] {
        ann.is_refused(event, argument, error).await;
    }
}

#[tokio::test]
async fn only_members_write_type_and_read() {
    let node = TestNode::with(CHAT).await;
    let (mut ann, mut bob) = (member(&node, "ann").await, client(&node, "bob").await);
    let message = json!({ "roomId": ROOM, "content": "hi" });
    for (event, argument) in [
        ("send_message", message.clone()),
        ("typing_start", json!(ROOM)),
        ("typing_stop", json!(ROOM)),
        ("room_history", json!({ "roomId": ROOM })),
    ] {
        bob.is_refused(event, argument, "You must join the room first").await;
    }
    // The same after they have left.
    bob.ask("join_room", json!(ROOM)).await;
    bob.ask("leave_room", json!(ROOM)).await;
    bob.is_refused("send_message", message, "You must join the room first").await;
    send(&mut ann, "hi").await;
    assert!(!bob.others().await.contains(&"new_message".to_owned()));
}

#[tokio::test]
async fn a_message_is_trimmed_bounded_stored_and_broadcast() {
    let node = TestNode::with(CHAT).await;
    let (mut ann, mut bob) = (member(&node, "ann").await, member(&node, "bob").await);
    for (content, error) in [
        (String::new(), "Message cannot be empty"),
        (" \u{200b}\n".to_owned(), "Message cannot be empty"),
        ("x".repeat(CHAT_MESSAGE_MAX + 1), "Message too long (max 1000 characters)"),
        ("a\0b".to_owned(), "Message contains a null character"),
    ] {
        ann.is_refused("send_message", json!({ "roomId": ROOM, "content": content }), error).await;
    }
    let message = send(&mut ann, "  hi \n").await;
    assert_eq!(
        (&message["content"], &message["roomId"], &message["userId"]),
        (&json!("hi"), &json!(ROOM), &json!("ann"))
    );
    assert_eq!(message["user"], json!({ "id": "ann", "name": "ANN", "avatar": "a.png" }));
    assert_eq!(
        (ann.event("new_message").await, bob.event("new_message").await),
        (message.clone(), message.clone())
    );
    // Counts scalar values, not bytes.
    send(&mut ann, &"😀".repeat(CHAT_MESSAGE_MAX)).await;
    // A joining socket receives it in the history.
    let mut eve = client(&node, "eve").await;
    eve.ask("join_room", json!(ROOM)).await;
    let history = eve.event("room_history").await;
    assert_eq!((&history["roomId"], &history["messages"][0]), (&json!(ROOM), &message));
    assert_eq!(eve.others().await, Vec::<String>::new(), "no event comes twice");
}

#[tokio::test]
async fn the_history_comes_in_pages_oldest_first() {
    let node = TestNode::with(CHAT).await;
    let mut ann = member(&node, "ann").await;
    let count = CHAT_HISTORY + 3;
    let mut ids = Vec::new();
    for number in 0..count {
        ids.push(send(&mut ann, &number.to_string()).await["id"].clone());
    }
    let contents = |page: &Value| -> Vec<String> {
        let messages = page["messages"].as_array().unwrap();
        messages.iter().map(|message| message["content"].as_str().unwrap().to_owned()).collect()
    };
    let numbers =
        |range: std::ops::Range<u32>| -> Vec<String> { range.map(|number| number.to_string()).collect() };
    let mut bob = client(&node, "bob").await;
    bob.ask("join_room", json!(ROOM)).await;
    assert_eq!(contents(&bob.event("room_history").await), numbers(3..count));
    let page = ann.ask("room_history", json!({ "roomId": ROOM, "before": ids[3], "limit": 2 })).await;
    assert_eq!((contents(&page), contents(&ann.event("room_history").await)), (numbers(1..3), numbers(1..3)));
    for (limit, most) in [(json!(0), 1), (json!(-5), 1), (Value::Null, CHAT_HISTORY)] {
        let page = ann.ask("room_history", json!({ "roomId": ROOM, "limit": limit })).await;
        assert_eq!(contents(&page), numbers(count - most..count));
    }
    for before in [json!("unknown"), json!("")] {
        ann.is_refused("room_history", json!({ "roomId": ROOM, "before": before }), "Message not found")
            .await;
    }
    // A message of another room does not count.
    ann.ask("join_room", json!("other")).await;
    let other = ann.ask("send_message", json!({ "roomId": "other", "content": "there" })).await;
    let before = &other["message"]["id"];
    ann.is_refused("room_history", json!({ "roomId": ROOM, "before": before }), "Message not found").await;
}

#[tokio::test]
async fn the_first_socket_joins_and_the_last_one_leaves() {
    let node = TestNode::with(&[CHAT[0], ("leave_holdback", "1ms")]).await;
    let mut ann = member(&node, "ann").await;
    let mut first = member(&node, "bob").await;
    let joined = ann.event("user_joined").await;
    assert_eq!((&joined["userId"], &joined["email"]), (&json!("bob"), &json!("bob@example.org")));
    let mut second = member(&node, "bob").await;
    first.ask("join_room", json!(ROOM)).await;
    first.ask("leave_room", json!(ROOM)).await;
    assert_eq!(ann.others().await, Vec::<String>::new(), "the user was there, and still is");
    second.ask("leave_room", json!(ROOM)).await;
    let left = ann.event("user_left").await;
    assert_eq!((&left["userId"], &left["email"]), (&json!("bob"), &json!("bob@example.org")));
    // Leaving a room without being a member sends no event.
    assert_eq!(second.ask("leave_room", json!(ROOM)).await, json!({ "success": true, "roomId": ROOM }));
    assert_eq!(ann.others().await, Vec::<String>::new());
    // A lost connection also leaves.
    drop(member(&node, "eve").await);
    assert_eq!(ann.event("user_joined").await["userId"], "eve");
    assert_eq!(ann.event("user_left").await["userId"], "eve");
}

#[tokio::test]
async fn only_other_members_receive_typing() {
    let node = TestNode::with(CHAT).await;
    let (mut ann, mut bob) = (member(&node, "ann").await, member(&node, "bob").await);
    bob.others().await;
    assert_eq!(ann.ask("typing_start", json!(ROOM)).await, json!({ "success": true }));
    assert_eq!(bob.event("user_typing").await, json!({ "userId": "ann", "email": "ann@example.org" }));
    assert_eq!(ann.ask("typing_stop", json!(ROOM)).await, json!({ "success": true }));
    assert_eq!(bob.event("user_stopped_typing").await, json!({ "userId": "ann" }));
    assert_eq!(ann.others().await, ["user_joined"]);
}
