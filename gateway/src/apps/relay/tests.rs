//! The rules of `relay`, each refusal by its sentence.

use serde_json::{Value, json};
use shared::limits::{ACK_MAX_MS, NAME_MAX};

use crate::testing::{TestClient, TestNode};

fn everything() -> Value {
    json!({ "rooms": ["*"], "publish": ["*"] })
}

async fn anyone(node: &TestNode, user: &str) -> TestClient {
    node.client("/relay", user, &everything()).await
}

#[tokio::test]
async fn without_the_claims_nothing_is_allowed() {
    let node = TestNode::start().await;
    let mut ann = node.client("/relay", "ann", &json!({ "role": "admin" })).await;
    for event in ["join", "leave", "publish", "members", "echo"] {
        ann.is_refused(event, json!({ "room": "a", "event": "e" }), "Not allowed").await;
    }
    ann.is_refused("shout", json!({ "room": "a" }), "Unknown event").await;
}

#[tokio::test]
async fn rooms_and_publish_are_names_or_prefixes() {
    let node = TestNode::start().await;
    let claims = json!({ "rooms": ["one", "team-*"], "publish": ["two", "news-*"] });
    let mut ann = node.client("/relay", "ann", &claims).await;
    for (room, may_join, may_publish) in [
        ("one", true, false),
        ("team-", true, false),
        ("team-7", true, false),
        ("two", false, true),
        ("news-7", false, true),
        ("one-more", false, false),
        ("tea", false, false),
    ] {
        for event in ["join", "members"] {
            let answer = ann.ask(event, json!({ "room": room })).await;
            assert_eq!(answer["success"], may_join, "{event} {room}: {answer}");
        }
        let answer = ann.ask("publish", json!({ "room": room, "event": "e" })).await;
        assert_eq!(answer["success"], may_publish, "publish {room}: {answer}");
        // A member may leave a room even if its token no longer allows it.
        assert_eq!(ann.ask("leave", json!({ "room": room })).await, json!({ "success": true, "room": room }));
    }
    let mut echo = node.client("/relay", "ann", &json!({ "rooms": ["one"] })).await;
    assert_eq!(echo.ask("echo", json!([1, { "a": null }])).await, json!([1, { "a": null }]));
}

#[tokio::test]
async fn invalid_rooms_are_refused() {
    let node = TestNode::start().await;
    let mut ann = anyone(&node, "ann").await;
    let long = "x".repeat(NAME_MAX + 1);
    for room in [
        json!(""),
        json!(" "),
        json!("\u{200b}"),
        json!("a\nb"),
        json!(long),
        json!(7),
        json!(["a"]),
        json!({}),
        json!(true),
        Value::Null,
    ] {
        for event in ["join", "leave", "members"] {
            ann.is_refused(event, json!({ "room": room }), "Invalid room").await;
        }
    }
    for argument in [json!("room"), json!([]), json!(7), json!(true), Value::Null] {
        ann.is_refused("join", argument, "Invalid room").await;
    }
    ann.is_refused("publish", json!({ "room": long, "event": "e" }), "Invalid room").await;
    assert_eq!(ann.ask("join", json!({ "room": "x".repeat(NAME_MAX) })).await["success"], true);
}

#[tokio::test]
async fn rooms_of_other_apps_on_the_namespace_are_refused() {
    let node = TestNode::with(&[("mounts", "sos=/,emergencies=/,chat=/,care=/,relay=/")]).await;
    let mut ann = node.client("/", "ann", &everything()).await;
    for room in ["sos:1", "room:lobby", "user:bob", "helpers", "emergency:1", "chat:a:b", "visit:1", "call:1"]
    {
        ann.is_refused("join", json!({ "room": room }), "Invalid room").await;
        ann.is_refused("publish", json!({ "room": room, "event": "e" }), "Invalid room").await;
    }
    assert_eq!(ann.ask("join", json!({ "room": "helpers-lounge" })).await["success"], true);
}

#[tokio::test]
async fn invalid_publishes_are_refused() {
    let node = TestNode::start().await;
    let mut ann = anyone(&node, "ann").await;
    for argument in [
        json!("e"),
        json!([]),
        Value::Null,
        json!({ "room": "a" }),
        json!({ "event": "e" }),
        json!({ "room": 7, "event": "e" }),
        json!({ "room": "a", "event": 7 }),
        json!({ "room": "a", "event": null }),
    ] {
        ann.is_refused("publish", argument, "Expected {room, event, data}").await;
    }
    for room in [json!(""), json!(" "), json!("\u{200b}"), json!("a\nb"), json!("x".repeat(NAME_MAX + 1))] {
        ann.is_refused("publish", json!({ "room": room, "event": "e" }), "Invalid room").await;
    }
    let long = "x".repeat(NAME_MAX + 1);
    for event in [
        "",
        "a b",
        "é",
        &long,
        "removeListener",
        "connect",
        "connect_error",
        "connected",
        "disconnect",
        "disconnecting",
        "newListener",
        "error",
        "muster:resync",
    ] {
        ann.is_refused("publish", json!({ "room": "a", "event": event }), "Invalid event").await;
    }
    for ack in [0, ACK_MAX_MS + 1] {
        let sentence = format!("Invalid ack: expected 1 to {ACK_MAX_MS} milliseconds");
        ann.is_refused("publish", json!({ "room": "a", "event": "e", "ack": ack }), &sentence).await;
    }
}

#[tokio::test]
async fn a_publish_reaches_the_room_and_the_publisher_unless_it_says_otherwise() {
    let node = TestNode::start().await;
    let (mut ann, mut bob, mut eve) =
        (anyone(&node, "ann").await, anyone(&node, "bob").await, anyone(&node, "eve").await);
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.ask("join", json!({ "room": "a" })).await, json!({ "success": true, "room": "a" }));
    }
    let ok = json!({ "success": true });
    assert_eq!(ann.ask("publish", json!({ "room": "a", "event": "said", "data": { "n": 1 } })).await, ok);
    assert_eq!(
        ann.ask("publish", json!({ "room": "a", "event": "said", "data": 2, "self": false })).await,
        ok
    );
    assert_eq!(eve.ask("publish", json!({ "room": "a", "event": "bare" })).await, ok);
    assert_eq!([bob.event("said").await, bob.event("said").await], [json!({ "n": 1 }), json!(2)]);
    assert_eq!((bob.event("bare").await, ann.event("said").await), (Value::Null, json!({ "n": 1 })));
    ann.event("bare").await;
    assert_eq!((ann.others().await, eve.others().await), (vec![], vec![]));
    // A former member receives nothing more.
    assert_eq!(bob.ask("leave", json!({ "room": "a" })).await["success"], true);
    assert_eq!(ann.ask("publish", json!({ "room": "a", "event": "said" })).await, ok);
    assert_eq!(bob.others().await, Vec::<String>::new());
}

#[tokio::test]
async fn members_are_counted_and_come_in_pages() {
    let node = TestNode::start().await;
    let mut clients = Vec::new();
    for user in ["ann", "ann", "bob"] {
        let mut client = anyone(&node, user).await;
        client.ask("join", json!({ "room": "a" })).await;
        clients.push(client);
    }
    let ann = &mut clients[0];
    let all = ann.ask("members", json!({ "room": "a" })).await;
    assert_eq!((&all["count"], &all["users"], &all["hasMore"]), (&json!(3), &json!(2), &json!(false)));
    let mut users: Vec<_> =
        all["members"].as_array().unwrap().iter().map(|member| &member["userId"]).collect();
    users.sort_by_key(|user| user.to_string());
    assert_eq!(users, ["ann", "ann", "bob"]);
    let first = ann.ask("members", json!({ "room": "a", "limit": 2 })).await;
    assert_eq!((first["members"].as_array().unwrap().len(), &first["hasMore"]), (2, &json!(true)));
    let after = &first["members"][1]["socketId"];
    let rest = ann.ask("members", json!({ "room": "a", "after": after, "limit": 0 })).await;
    assert_eq!((rest["members"].as_array().unwrap().len(), &rest["hasMore"]), (1, &json!(false)));
    for argument in [json!({ "room": "a", "limit": "2" }), json!({ "room": "a", "after": 7 })] {
        ann.is_refused("members", argument, "Expected {room, after?, limit?}").await;
    }
    let empty = ann.ask("members", json!({ "room": "b" })).await;
    assert_eq!((&empty["count"], &empty["members"]), (&json!(0), &json!([])));
}
