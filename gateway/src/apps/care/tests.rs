//! The rules of `care`: each refusal by its sentence, access to rooms, and the states of messages and calls.

use serde_json::{Value, json};

use super::limits::{
    CARE_ATTACHMENTS_MAX, CARE_JSON_MAX, CARE_MESSAGE_MAX, NOTIFICATION_TITLE_MAX, PRESENCE_TEXT_MAX,
    PRESENCE_USERS_MAX,
};
use crate::testing::{TestClient, TestNode};

async fn client(node: &TestNode, user: &str) -> TestClient {
    node.client("/", user, &json!({ "name": user.to_uppercase() })).await
}

/// Emits an event and expects success.
async fn good(client: &mut TestClient, event: &str, argument: Value) -> Value {
    let shown = argument.to_string();
    let answer = client.ask(event, argument).await;
    assert_eq!(answer["success"], true, "{event} {shown}: {answer}");
    answer
}

#[tokio::test]
async fn room_access_follows_ids_tokens_and_grants() {
    let node = TestNode::start().await;
    let (mut ann, mut eve) = (client(&node, "ann").await, client(&node, "eve").await);
    let room = |id: &str| json!({ "roomId": id });
    for (id, ann_may, eve_may) in [
        ("chat:ann:bob", true, false),
        ("notifications:ann", true, false),
        ("topic:health", true, true),
        ("visit:7", false, false),
        ("call:7", false, false),
        ("user:ann", false, false),
        ("elsewhere", false, false),
    ] {
        for (client, may) in [(&mut ann, ann_may), (&mut eve, eve_may)] {
            if may {
                good(client, "room:join", room(id)).await;
            } else {
                client.is_refused("room:join", room(id), "Room access denied").await;
            }
        }
    }
    // Granted by a backend, or by the token.
    let granted =
        node.internal("PUT", "/internal/rooms/visit:7/members", Some(&json!({ "userIds": ["ann"] }))).await;
    assert_eq!(granted.status, 200, "{granted:?}");
    good(&mut ann, "room:join", room("visit:7")).await;
    eve.is_refused("room:join", room("visit:7"), "Room access denied").await;
    let mut bob = node.client("/", "bob", &json!({ "rooms": ["visit:*"] })).await;
    good(&mut bob, "room:join", room("visit:7")).await;
    // From Eve's earlier join of `topic:health`.
    assert_eq!(ann.event("room:userJoined").await["userId"], "eve");
    assert_eq!(ann.event("room:userJoined").await["userId"], "bob");
    good(&mut bob, "room:leave", room("visit:7")).await;
    assert_eq!(ann.event("room:userLeft").await["userId"], "bob");
    // Withdrawing a grant removes the user.
    let withdrawn =
        node.internal("PUT", "/internal/rooms/visit:7/members", Some(&json!({ "userIds": [] }))).await;
    assert_eq!(withdrawn.status, 200, "{withdrawn:?}");
    for event in ["typing:start", "typing:stop", "room:participants"] {
        ann.is_refused(event, room("visit:7"), "You must join the room first").await;
    }
    for (event, argument, error) in [
        ("room:join", json!("visit:7"), "Expected {roomId}"),
        ("room:join", room(""), "Invalid room id"),
        ("room:join", room("topic:a\nb"), "Invalid room id"),
        ("room:leave", json!({}), "Expected {roomId}"),
        ("room:participants", json!({ "limit": 1 }), "Expected {roomId, after?, limit?}"),
        ("room:participants", json!({ "roomId": "topic:health", "after": "" }), "Invalid after"),
    ] {
        ann.is_refused(event, argument, error).await;
    }
    let path = "/internal/rooms/topic:health/members";
    let refused = node.internal("PUT", path, Some(&json!({ "userIds": ["ann"] }))).await;
    refused.is_refused(400, "Only rooms that begin with visit: or call: are granted");
}

#[tokio::test]
async fn invalid_messages_are_refused() {
    let node = TestNode::start().await;
    let mut ann = client(&node, "ann").await;
    let to_bob = |change: Value| {
        let mut body = json!({ "recipientId": "bob", "message": "hi" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let expected = "Expected {recipientId | visitId | roomId, message}";
    let one_of = "Expected one of recipientId, visitId and roomId";
    let too_long = format!("Message too long (max {CARE_MESSAGE_MAX} characters)");
    let attachments = format!("Invalid attachments: expected at most {CARE_ATTACHMENTS_MAX} objects");
    let large = |what: &str| format!("{what} too large (max {CARE_JSON_MAX} bytes)");
    let (many, bytes) = (vec![json!({}); CARE_ATTACHMENTS_MAX + 1], "x".repeat(CARE_JSON_MAX));
    for (argument, error) in [
        (json!("hi"), expected),
        (to_bob(json!({ "message": 7 })), expected),
        (to_bob(json!({ "message": " \n" })), "Message cannot be empty"),
        (to_bob(json!({ "message": "a\0" })), "Message contains a null character"),
        (to_bob(json!({ "message": "x".repeat(CARE_MESSAGE_MAX + 1) })), too_long.as_str()),
        (to_bob(json!({ "attachments": many })), attachments.as_str()),
        (to_bob(json!({ "attachments": [7] })), attachments.as_str()),
        (to_bob(json!({ "attachments": [{ "a": bytes }] })), large("Attachments").as_str()),
        (to_bob(json!({ "metadata": { "a": bytes } })), large("Metadata").as_str()),
        (to_bob(json!({ "clientMessageId": "" })), "Invalid clientMessageId"),
        (to_bob(json!({ "visitId": "7" })), one_of),
        (json!({ "message": "hi" }), one_of),
        (to_bob(json!({ "recipientId": "" })), "Invalid recipientId"),
        (to_bob(json!({ "recipientId": "ann" })), "Recipient must be another user"),
        (json!({ "visitId": "", "message": "hi" }), "Invalid visitId"),
        (json!({ "visitId": "7", "message": "hi" }), "Room access denied"),
        (json!({ "roomId": "", "message": "hi" }), "Invalid room id"),
        (json!({ "roomId": "elsewhere", "message": "hi" }), "Room access denied"),
    ] {
        ann.is_refused("message:send", argument, error).await;
    }
    for (event, argument, error) in [
        ("message:read", json!([]), "Expected {messageIds}"),
        ("message:read", json!({ "messageIds": [] }), "Invalid messageIds: expected 1 to 100 ids"),
        (
            "message:read",
            json!({ "messageIds": vec!["x"; 101] }),
            "Invalid messageIds: expected 1 to 100 ids",
        ),
        ("message:history", json!({}), one_of),
        ("message:history", json!({ "recipientId": "bob", "before": "" }), "Invalid before"),
        ("message:history", json!({ "recipientId": "bob", "before": "unknown" }), "Message not found"),
        ("message:history", json!({ "recipientId": "bob", "limit": "x" }), "Expected {before?, limit?}"),
        ("message:history", json!({ "visitId": "7" }), "Room access denied"),
    ] {
        ann.is_refused(event, argument, error).await;
    }
}

#[tokio::test]
async fn a_message_is_sent_delivered_and_read() {
    let node = TestNode::start().await;
    let (mut ann, mut second) = (client(&node, "ann").await, client(&node, "ann").await);
    let first = good(&mut ann, "message:send", json!({ "recipientId": "bob", "message": " hi " })).await;
    let id = first["message"]["id"].clone();
    assert_eq!((&first["message"]["message"], &first["message"]["status"]), (&json!("hi"), &json!("sent")));
    assert_eq!(second.event("message:sent").await["id"], id, "the sender's other sockets receive it");
    let mut bob = client(&node, "bob").await;
    let sent = good(&mut ann, "message:send", json!({ "recipientId": "bob", "message": "there?" })).await;
    assert_eq!(bob.event("message:new").await["id"], sent["message"]["id"]);
    let status = loop {
        let status = ann.event("message:status").await;
        if status["status"] == "delivered" {
            break status;
        }
    };
    assert!(status.to_string().contains(sent["message"]["id"].as_str().unwrap()), "{status}");
    good(&mut bob, "message:read", json!({ "messageIds": [id, sent["message"]["id"]] })).await;
    while ann.event("message:status").await["status"] != "read" {}
    let history = good(&mut bob, "message:history", json!({ "recipientId": "ann" })).await;
    let messages = history["messages"].as_array().unwrap();
    assert_eq!(messages.len(), 2);
    assert!(messages.iter().all(|message| message["status"] == "read"), "{history}");
    // Users without access to a message cannot mark it.
    let mut eve = client(&node, "eve").await;
    let theirs = good(&mut eve, "message:history", json!({ "recipientId": "ann" })).await;
    assert_eq!(theirs["messages"], json!([]));
}

#[tokio::test]
async fn a_message_under_one_client_id_is_sent_once() {
    let node = TestNode::start().await;
    let mut ann = client(&node, "ann").await;
    let message = json!({ "recipientId": "bob", "message": "hi", "clientMessageId": "one" });
    let first = good(&mut ann, "message:send", message.clone()).await;
    let again = good(&mut ann, "message:send", message).await;
    assert_eq!(first["message"]["id"], again["message"]["id"]);
    let other = json!({ "recipientId": "bob", "message": "other", "clientMessageId": "one" });
    ann.is_refused("message:send", other, "clientMessageId was used for something else").await;
}

#[tokio::test]
async fn invalid_calls_are_refused() {
    let node = TestNode::start().await;
    let mut ann = client(&node, "ann").await;
    let too_long = format!("Reason too long (max {PRESENCE_TEXT_MAX} characters)");
    for (event, argument, error) in [
        ("call:initiate", json!("bob"), "Expected {recipientId, callType?}"),
        ("call:initiate", json!({ "recipientId": "" }), "Invalid recipientId"),
        ("call:initiate", json!({ "recipientId": "ann" }), "Recipient must be another user"),
        (
            "call:initiate",
            json!({ "recipientId": "bob", "callType": "smoke" }),
            "Invalid callType: expected video or audio",
        ),
        ("call:initiate", json!({ "recipientId": "bob", "visitId": "" }), "Invalid visitId"),
        ("call:accept", json!({}), "Expected {callId}"),
        ("call:accept", json!({ "callId": "" }), "Invalid callId"),
        ("call:accept", json!({ "callId": "unknown" }), "Call not found"),
        ("call:reject", json!({}), "Expected {callId}"),
        (
            "call:reject",
            json!({ "callId": "unknown", "reason": "x".repeat(PRESENCE_TEXT_MAX + 1) }),
            too_long.as_str(),
        ),
        ("call:reject", json!({ "callId": "unknown" }), "Call not found"),
        ("call:end", json!({ "callId": 7 }), "Expected {callId}"),
        ("call:end", json!({ "callId": "unknown" }), "Call not found"),
        ("call:signal", json!({ "callId": "unknown" }), "Expected {callId, signal}"),
        ("call:signal", json!({ "callId": "unknown", "signal": {} }), "Call not found"),
        ("call:signal", json!({ "callId": "unknown", "signal": "x".repeat(70_000) }), "Signal too large"),
    ] {
        ann.is_refused(event, argument, error).await;
    }
}

async fn ring(caller: &mut TestClient, recipient: &mut TestClient, to: &str) -> Value {
    let called = good(caller, "call:initiate", json!({ "recipientId": to, "callType": "audio" })).await;
    let id = called["callId"].clone();
    let incoming = recipient.event("call:incoming").await;
    assert_eq!((&incoming["callId"], &incoming["callType"]), (&id, &json!("audio")));
    json!({ "callId": id })
}

#[tokio::test]
async fn a_call_is_accepted_once_carries_signals_and_ends() {
    let node = TestNode::start().await;
    let (mut ann, mut bob, mut eve) =
        (client(&node, "ann").await, client(&node, "bob").await, client(&node, "eve").await);
    let mut second = client(&node, "bob").await;
    let call = ring(&mut ann, &mut bob, "bob").await;
    second.event("call:incoming").await;
    // While it rings, both users are busy, and only the recipient may answer.
    eve.is_refused("call:initiate", json!({ "recipientId": "bob" }), "User is busy").await;
    for event in ["call:accept", "call:reject"] {
        ann.is_refused(event, call.clone(), "Only the recipient may do this").await;
        eve.is_refused(event, call.clone(), "Call not found").await;
    }
    let signal = json!({ "callId": call["callId"], "signal": { "sdp": "offer" } });
    ann.is_refused("call:signal", signal.clone(), "Call is not active").await;
    good(&mut bob, "call:accept", call.clone()).await;
    assert_eq!(ann.event("call:accepted").await["callId"], call["callId"]);
    assert_eq!(second.event("call:answered_elsewhere").await["callId"], call["callId"]);
    second.is_refused("call:reject", call.clone(), "Call is not ringing").await;
    good(&mut ann, "call:signal", signal).await;
    assert_eq!(bob.event("call:signal").await["signal"], json!({ "sdp": "offer" }));
    eve.is_refused("call:end", call.clone(), "Call not found").await;
    good(&mut bob, "call:end", call.clone()).await;
    let ended = ann.event("call:ended").await;
    assert_eq!((&ended["callId"], ended["duration"].is_u64()), (&call["callId"], true));
    for event in ["call:accept", "call:reject", "call:end"] {
        bob.is_refused(event, call.clone(), "Call is over").await;
    }
}

#[tokio::test]
async fn a_call_is_rejected_cancelled_or_missed() {
    let node = TestNode::with(&[("call_ring", "300ms")]).await;
    let (mut ann, mut bob) = (client(&node, "ann").await, client(&node, "bob").await);
    let call = ring(&mut ann, &mut bob, "bob").await;
    let reject = json!({ "callId": call["callId"], "reason": "later" });
    good(&mut bob, "call:reject", reject).await;
    let rejected = ann.event("call:rejected").await;
    assert_eq!((&rejected["callId"], &rejected["reason"]), (&call["callId"], &json!("later")));
    let call = ring(&mut ann, &mut bob, "bob").await;
    good(&mut ann, "call:end", call.clone()).await;
    let ended = bob.event("call:ended").await;
    assert_eq!((&ended["callId"], &ended["duration"]), (&call["callId"], &json!(0)));
    let call = ring(&mut ann, &mut bob, "bob").await;
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.event("call:missed").await["callId"], call["callId"]);
    }
    bob.is_refused("call:accept", call, "Call is over").await;
}

#[tokio::test]
async fn a_user_is_online_when_their_client_is_connected() {
    let node = TestNode::start().await;
    let mut asker = client(&node, "asker").await;
    for round in 0..20 {
        let user = format!("user-{round}");
        let _client = client(&node, &user).await;
        let presences = good(&mut asker, "presence:get", json!({ "userIds": [user] })).await;
        assert_eq!(presences["presences"][0]["status"], json!("online"), "round {round}");
    }
}

#[tokio::test]
async fn presence_follows_status_and_activity() {
    let node = TestNode::start().await;
    let (mut ann, mut bob) = (client(&node, "ann").await, client(&node, "bob").await);
    let too_long = format!("customStatus too long (max {PRESENCE_TEXT_MAX} characters)");
    let too_many = format!("Too many userIds (max {PRESENCE_USERS_MAX})");
    for (event, argument, error) in [
        ("presence:setStatus", json!("away"), "Expected {status, customStatus?}"),
        (
            "presence:setStatus",
            json!({ "status": "in_call" }),
            "Invalid status: expected online, away or busy",
        ),
        (
            "presence:setStatus",
            json!({ "status": "offline" }),
            "Invalid status: expected online, away or busy",
        ),
        (
            "presence:setStatus",
            json!({ "status": "away", "customStatus": "x".repeat(PRESENCE_TEXT_MAX + 1) }),
            too_long.as_str(),
        ),
        ("presence:get", json!("ann"), "Expected {userIds}"),
        ("presence:get", json!({ "userIds": [""] }), "Invalid userId"),
        ("presence:get", json!({ "userIds": vec!["x"; PRESENCE_USERS_MAX + 1] }), too_many.as_str()),
        ("presence:subscribe", json!({}), "Expected {userIds}"),
        ("presence:unsubscribe", json!("ann"), "Expected {userIds?}"),
    ] {
        ann.is_refused(event, argument, error).await;
    }
    good(&mut ann, "presence:subscribe", json!({ "userIds": ["bob"] })).await;
    good(&mut bob, "presence:setStatus", json!({ "status": "busy", "customStatus": " in a meeting " })).await;
    let changed = ann.event("presence:changed").await;
    let said = (&changed["userId"], &changed["status"], &changed["customStatus"]);
    assert_eq!(said, (&json!("bob"), &json!("busy"), &json!("in a meeting")));
    good(&mut ann, "presence:unsubscribe", Value::Null).await;
    good(&mut bob, "presence:setStatus", json!({ "status": "online" })).await;
    let known = good(&mut ann, "presence:get", json!({ "userIds": ["bob", "nobody"] })).await;
    let text = known.to_string();
    assert!(text.contains("online") && text.contains("offline"), "{text}");
    assert!(!ann.others().await.contains(&"presence:changed".to_owned()));
}

#[tokio::test]
async fn notifications_are_stored_listed_and_read() {
    let node = TestNode::start().await;
    let path = "/internal/notifications";
    let new = |change: Value| {
        let mut body = json!({ "userId": "ann", "title": "Hello", "message": "there" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let too_long = format!("Title too long (max {NOTIFICATION_TITLE_MAX} characters)");
    let too_large = format!("Data too large (max {CARE_JSON_MAX} bytes)");
    for (change, error) in [
        (json!({ "userId": "" }), "Invalid userId"),
        (json!({ "title": " " }), "Title cannot be empty"),
        (json!({ "title": "x".repeat(NOTIFICATION_TITLE_MAX + 1) }), too_long.as_str()),
        (json!({ "message": "a\0" }), "Message contains a null character"),
        (json!({ "type": "a b" }), "Invalid type"),
        (json!({ "data": { "a": "x".repeat(CARE_JSON_MAX) } }), too_large.as_str()),
    ] {
        node.internal("POST", path, Some(&new(change))).await.is_refused(400, error);
    }
    let mut ann = client(&node, "ann").await;
    for title in ["one", "two"] {
        let stored = node.internal("POST", path, Some(&new(json!({ "title": title })))).await;
        assert!((200..300).contains(&stored.status), "{stored:?}");
        assert_eq!(ann.event("notification:new").await["title"], title);
    }
    assert_eq!(good(&mut ann, "notification:getUnreadCount", Value::Null).await["unreadCount"], 2);
    let listed = good(&mut ann, "notification:list", Value::Null).await;
    let id = listed["notifications"][0]["id"].clone();
    good(&mut ann, "notification:read", json!({ "notificationId": id })).await;
    assert_eq!(good(&mut ann, "notification:getUnreadCount", Value::Null).await["unreadCount"], 1);
    let unread = good(&mut ann, "notification:list", json!({ "unreadOnly": true })).await;
    assert_eq!(unread["notifications"].as_array().unwrap().len(), 1);
    for (argument, error) in [
        (json!({}), "Expected {notificationId}"),
        (json!({ "notificationId": "unknown" }), "Notification not found"),
    ] {
        ann.is_refused("notification:read", argument, error).await;
    }
    // Other users' notifications are reported as not found.
    let mut eve = client(&node, "eve").await;
    eve.is_refused("notification:read", json!({ "notificationId": id }), "Notification not found").await;
    good(&mut ann, "notification:readAll", Value::Null).await;
    assert_eq!(good(&mut ann, "notification:getUnreadCount", Value::Null).await["unreadCount"], 0);
}
