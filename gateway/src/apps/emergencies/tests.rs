//! The rules of `emergencies`: permissions, each refusal by its sentence, and each change of status.

use serde_json::{Value, json};

use super::limits::{EMERGENCY_ADDRESS_MAX, EMERGENCY_MESSAGE_MAX, EMERGENCY_TEXT_MAX};
use crate::testing::{Answer, TestClient, TestNode};

const OWNER: (&str, &str) = ("olga", "user");
const HELPER: (&str, &str) = ("hans", "helper");
const RESCUER: (&str, &str) = ("rita", "rescuer");
const ADMIN: (&str, &str) = ("root", "admin");
const OTHER: (&str, &str) = ("otto", "user");

const ALL: &str = "/api/v1/emergencies";

fn new(change: &Value) -> Value {
    let mut body = json!({ "type": "medical", "location": { "latitude": 52.52, "longitude": 13.405 } });
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

/// Raises an emergency as its owner and returns its id.
async fn raise(node: &TestNode, change: Value) -> String {
    let raised = node.rest(OWNER, "POST", ALL, Some(&new(&change))).await;
    assert_eq!(raised.status, 201, "{raised:?}");
    raised.data()["id"].as_str().unwrap().to_owned()
}

async fn post(node: &TestNode, who: (&str, &str), id: &str, what: &str) -> Answer {
    node.rest(who, "POST", &format!("{ALL}/{id}/{what}"), None).await
}

async fn set_status(node: &TestNode, who: (&str, &str), id: &str, body: Value) -> Answer {
    node.rest(who, "PUT", &format!("{ALL}/{id}/helper-status"), Some(&body)).await
}

async fn get(node: &TestNode, who: (&str, &str), path: &str) -> Answer {
    node.rest(who, "GET", &format!("{ALL}/{path}"), None).await
}

async fn client(node: &TestNode, (user, role): (&str, &str)) -> TestClient {
    node.client("/emergencies", user, &json!({ "role": role })).await
}

async fn in_room(node: &TestNode, who: (&str, &str), id: &str) -> TestClient {
    let mut client = client(node, who).await;
    let joined = client.ask("emergency:join", json!({ "emergencyId": id })).await;
    assert_eq!(joined["success"], true, "{joined}");
    client
}

#[tokio::test]
async fn invalid_emergencies_are_refused() {
    let node = TestNode::start().await;
    let long = format!("Description too long (max {EMERGENCY_TEXT_MAX} characters)");
    let far = format!("Address too long (max {EMERGENCY_ADDRESS_MAX} characters)");
    let place = |latitude: f64| json!({ "latitude": latitude, "longitude": 0 });
    for (change, error) in [
        (json!({ "type": "" }), "Invalid type"),
        (json!({ "type": "a b" }), "Invalid type"),
        (json!({ "category": "a b" }), "Invalid category"),
        (json!({ "severity": 0 }), "Invalid severity: expected 1 to 10"),
        (json!({ "severity": 11 }), "Invalid severity: expected 1 to 10"),
        (json!({ "priority": "urgent" }), "Invalid priority: expected low, medium, high or critical"),
        (json!({ "description": "x".repeat(EMERGENCY_TEXT_MAX + 1) }), long.as_str()),
        (json!({ "description": "a\0" }), "Description contains a null character"),
        (json!({ "location": place(90.5) }), "Invalid latitude or longitude"),
        (
            json!({ "location": { "latitude": 0, "longitude": 0, "address": "x".repeat(EMERGENCY_ADDRESS_MAX + 1) } }),
            far.as_str(),
        ),
    ] {
        node.rest(OWNER, "POST", ALL, Some(&new(&change))).await.is_refused(400, error);
    }
    let raised = node.rest(OWNER, "POST", ALL, Some(&new(&json!({ "severity": 10 })))).await;
    let emergency = raised.data();
    let shown =
        (&emergency["status"], &emergency["priority"], &emergency["severity"], &emergency["user"]["id"]);
    assert_eq!(shown, (&json!("active"), &json!("medium"), &json!(10), &json!("olga")));
}

#[tokio::test]
async fn only_helpers_receive_events_about_it() {
    let node = TestNode::start().await;
    let (mut helper, mut other) = (client(&node, HELPER).await, client(&node, OTHER).await);
    let here = json!({ "latitude": 52.521, "longitude": 13.406 });
    let received = helper.ask("location:update", here.clone()).await;
    assert_eq!(
        (&received["success"], &received["message"]),
        (&json!(true), &json!("Location updated successfully"))
    );
    other.ask("location:update", here).await;
    let id = raise(&node, json!({})).await;
    let created = helper.event("emergency:created").await;
    assert_eq!((&created["emergency"]["id"], &created["nearbyHelperCount"]), (&json!(id), &json!(1)));
    let near = helper.event("emergency:nearby").await;
    assert_eq!(near["emergency"]["id"], id);
    post(&node, OWNER, &id, "cancel").await.data();
    let ended = helper.event("emergency:ended").await;
    assert_eq!((&ended["emergencyId"], &ended["status"]), (&json!(id), &json!("cancelled")));
    assert_eq!(other.others().await, ["location:updated"]);
}

#[tokio::test]
async fn an_emergency_goes_from_active_to_responding_to_resolved() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let mut owner = client(&node, OWNER).await;
    for who in [OTHER, ADMIN] {
        post(&node, who, &id, "respond").await.is_refused(403, "Only helpers may respond");
    }
    let own = ("olga", "helper");
    post(&node, own, &id, "respond").await.is_refused(403, "The owner cannot respond");
    post(&node, HELPER, "unknown", "respond").await.is_refused(404, "Emergency not found");
    assert_eq!(post(&node, HELPER, &id, "respond").await.data()["status"], "responding");
    assert_eq!(owner.event("helper:joined").await["helper"]["id"], "hans");
    let changed = owner.event("emergency:status_changed").await;
    assert_eq!(
        (&changed["status"], &changed["emergency"]["status"]),
        (&json!("responding"), &json!("responding"))
    );
    // The status change is announced once, however many helpers respond.
    post(&node, HELPER, &id, "respond").await.data();
    post(&node, RESCUER, &id, "respond").await.data();
    assert_eq!(owner.event("helper:joined").await["helper"]["id"], "rita");
    for who in [OTHER, HELPER] {
        for what in ["resolve", "cancel"] {
            post(&node, who, &id, what).await.is_refused(403, "Only the owner or an admin may do this");
        }
    }
    let body = json!({ "resolutionType": "false_alarm", "resolutionNotes": "all well" });
    let path = format!("{ALL}/{id}/resolve");
    let bad = json!({ "resolutionType": "a b" });
    node.rest(OWNER, "POST", &path, Some(&bad)).await.is_refused(400, "Invalid resolutionType");
    let long = json!({ "resolutionNotes": "x".repeat(EMERGENCY_TEXT_MAX + 1) });
    let too_long = format!("Notes too long (max {EMERGENCY_TEXT_MAX} characters)");
    node.rest(OWNER, "POST", &path, Some(&long)).await.is_refused(400, &too_long);
    let resolved = node.rest(OWNER, "POST", &path, Some(&body)).await;
    assert_eq!(
        (&resolved.data()["status"], &resolved.data()["resolvedBy"]),
        (&json!("resolved"), &json!("olga"))
    );
    let received = owner.event("emergency:resolved").await;
    let said = (
        &received["emergencyId"],
        &received["resolvedBy"],
        &received["resolutionType"],
        &received["resolutionNotes"],
    );
    assert_eq!(said, (&json!(id), &json!("olga"), &json!("false_alarm"), &json!("all well")));
    for what in ["resolve", "cancel", "respond"] {
        let who = if what == "respond" { ("new", "helper") } else { OWNER };
        post(&node, who, &id, what).await.is_refused(409, "Emergency is resolved");
    }
    assert_eq!(owner.others().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_admin_may_end_it_and_a_cancelled_one_is_closed() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let mut owner = client(&node, OWNER).await;
    let resolved = post(&node, ADMIN, &id, "resolve").await;
    assert_eq!(resolved.data()["status"], "resolved");
    assert_eq!(owner.event("emergency:resolved").await["resolutionType"], "admin_resolved");
    let second = raise(&node, json!({})).await;
    assert_eq!(post(&node, OWNER, &second, "cancel").await.data()["status"], "cancelled");
    assert_eq!(owner.event("emergency:cancelled").await["emergencyId"], second);
    post(&node, OWNER, &second, "resolve").await.is_refused(409, "Emergency is cancelled");
    post(&node, OWNER, "unknown", "cancel").await.is_refused(404, "Emergency not found");
}

#[tokio::test]
async fn a_helper_may_set_a_status_until_they_cancel() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let mut owner = client(&node, OWNER).await;
    let way = json!({ "status": "on_way", "notes": "five minutes" });
    for who in [HELPER, OWNER, ADMIN] {
        set_status(&node, who, &id, way.clone()).await.is_refused(403, "Only responding helpers may do this");
    }
    post(&node, HELPER, &id, "respond").await.data();
    let mut helper = in_room(&node, HELPER, &id).await;
    for body in [json!({}), json!({ "status": 7 }), json!({ "status": "arrived", "notes": 7 })] {
        assert_eq!(set_status(&node, HELPER, &id, body).await.status, 400);
    }
    let sentence = "Invalid status: expected responding, on_way, arrived, completed or cancelled";
    set_status(&node, HELPER, &id, json!({ "status": "lost" })).await.is_refused(400, sentence);
    let long = json!({ "status": "on_way", "notes": "x".repeat(EMERGENCY_TEXT_MAX + 1) });
    let too_long = format!("Notes too long (max {EMERGENCY_TEXT_MAX} characters)");
    set_status(&node, HELPER, &id, long).await.is_refused(400, &too_long);
    set_status(&node, HELPER, &id, way).await.data();
    let received = owner.event("helper:status_update").await;
    let said = (&received["emergencyId"], &received["helperId"], &received["status"], &received["notes"]);
    assert_eq!(said, (&json!(id), &json!("hans"), &json!("on_way"), &json!("five minutes")));
    for status in ["arrived", "responding", "completed", "cancelled"] {
        set_status(&node, HELPER, &id, json!({ "status": status })).await.data();
        assert_eq!(owner.event("helper:status_update").await["status"], status);
    }
    // A helper who cancelled has left the room, and returns by responding again.
    set_status(&node, HELPER, &id, json!({ "status": "arrived" }))
        .await
        .is_refused(409, "You do not respond any more");
    let join = json!({ "emergencyId": id });
    helper.is_refused("emergency:join", join.clone(), "Not authorized to join this emergency room").await;
    post(&node, HELPER, &id, "respond").await.data();
    assert_eq!(helper.ask("emergency:join", join).await["success"], true);
    post(&node, OWNER, &id, "resolve").await.data();
    set_status(&node, HELPER, &id, json!({ "status": "arrived" }))
        .await
        .is_refused(409, "Emergency is resolved");
}

#[tokio::test]
async fn who_may_join_the_room() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let join = json!({ "emergencyId": id });
    let not_authorized = "Not authorized to join this emergency room";
    for who in [OTHER, HELPER] {
        client(&node, who).await.is_refused("emergency:join", join.clone(), not_authorized).await;
    }
    let mut verified =
        node.client("/emergencies", "vera", &json!({ "role": "helper", "verified": true })).await;
    assert_eq!(verified.ask("emergency:join", join.clone()).await["success"], true);
    let mut unproven =
        node.client("/emergencies", "vera", &json!({ "role": "user", "verified": true })).await;
    unproven.is_refused("emergency:join", join.clone(), not_authorized).await;
    for who in [OWNER, ADMIN] {
        let mut client = in_room(&node, who, &id).await;
        let joined = client.event("emergency:joined").await;
        assert_eq!(
            (&joined["emergencyId"], &joined["message"]),
            (&json!(id), &json!("Successfully joined emergency room"))
        );
    }
    post(&node, HELPER, &id, "respond").await.data();
    let mut helper = in_room(&node, HELPER, &id).await;
    assert_eq!(helper.ask("emergency:leave", join).await["success"], true);
    assert_eq!(helper.event("emergency:left").await["emergencyId"], id);
    for (event, argument, error) in [
        ("emergency:join", json!(id), "Expected {emergencyId}"),
        ("emergency:join", json!({ "emergencyId": "" }), "Invalid emergencyId"),
        ("emergency:join", json!({ "emergencyId": "unknown" }), "Emergency not found"),
        ("emergency:leave", json!({}), "Expected {emergencyId}"),
        ("emergency:leave", json!({ "emergencyId": "\n" }), "Invalid emergencyId"),
        ("location:update", json!({ "latitude": 1 }), "Expected {latitude, longitude}"),
        ("location:update", json!({ "latitude": 1, "longitude": 181 }), "Invalid latitude or longitude"),
    ] {
        helper.is_refused(event, argument, error).await;
    }
}

#[tokio::test]
async fn owner_and_helpers_write_to_each_other() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let (mut owner, mut other) = (client(&node, OWNER).await, client(&node, OTHER).await);
    let message = |text: &str| json!({ "emergencyId": id, "message": text });
    owner.is_refused("emergency:message", message("hi"), "No such helper").await;
    post(&node, HELPER, &id, "respond").await.data();
    post(&node, RESCUER, &id, "respond").await.data();
    let (mut hans, mut rita) = (client(&node, HELPER).await, client(&node, RESCUER).await);
    let too_long = format!("Message too long (max {EMERGENCY_MESSAGE_MAX} characters)");
    for (argument, error) in [
        (json!({ "emergencyId": id }), "Expected {emergencyId, recipientId?, message}"),
        (json!({ "emergencyId": id, "recipientId": "", "message": "hi" }), "Invalid recipientId"),
        (json!({ "emergencyId": "", "message": "hi" }), "Invalid emergencyId"),
        (json!({ "emergencyId": "unknown", "message": "hi" }), "Emergency not found"),
        (message("  "), "Message cannot be empty"),
        (message("a\0"), "Message contains a null character"),
        (message(&"x".repeat(EMERGENCY_MESSAGE_MAX + 1)), too_long.as_str()),
        (json!({ "emergencyId": id, "recipientId": "otto", "message": "hi" }), "No such helper"),
    ] {
        owner.is_refused("emergency:message", argument, error).await;
    }
    let no_part = "Not authorized to write in this emergency";
    other.is_refused("emergency:message", message("hi"), no_part).await;
    // A helper may write only to the owner.
    let to_rita = json!({ "emergencyId": id, "recipientId": "rita", "message": "hi" });
    hans.is_refused("emergency:message", to_rita.clone(), no_part).await;
    let sent = hans.ask("emergency:message", message(" coming ")).await;
    assert_eq!((&sent["success"], &sent["message"]["message"]), (&json!(true), &json!("coming")));
    let received = owner.event("emergency:message").await;
    assert_eq!((&received["senderId"], &received["senderRole"]), (&json!("hans"), &json!("helper")));
    owner.ask("emergency:message", message("to all")).await;
    owner.ask("emergency:message", to_rita).await;
    assert_eq!(hans.event("emergency:message").await["message"], "to all");
    assert_eq!(rita.event("emergency:message").await["message"], "to all");
    assert_eq!(rita.event("emergency:message").await["message"], "hi");
    assert!(!hans.others().await.contains(&"emergency:message".to_owned()));
    // Each user reads only their own messages.
    let path = format!("{id}/messages");
    for (who, count) in [(OWNER, 3), (ADMIN, 3), (HELPER, 2), (RESCUER, 2)] {
        assert_eq!(get(&node, who, &path).await.data().as_array().unwrap().len(), count, "{who:?}");
    }
    get(&node, OTHER, &path).await.is_refused(403, "Not authorized to read these messages");
    set_status(&node, HELPER, &id, json!({ "status": "cancelled" })).await.data();
    get(&node, HELPER, &path).await.is_refused(403, "Not authorized to read these messages");
    hans.is_refused("emergency:message", message("hi"), no_part).await;
    post(&node, OWNER, &id, "resolve").await.data();
    rita.is_refused("emergency:message", message("hi"), "Emergency is over").await;
}

#[tokio::test]
async fn who_may_see_it_and_its_owner() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({ "anonymousMode": true })).await;
    get(&node, OTHER, &id).await.is_refused(403, "Not authorized to see this emergency");
    get(&node, HELPER, "unknown").await.is_refused(404, "Emergency not found");
    for (who, user) in [(OWNER, json!("olga")), (ADMIN, json!("olga")), (HELPER, Value::Null)] {
        let seen = get(&node, who, &id).await;
        assert_eq!(seen.data()["user"]["id"], user, "{who:?}");
        assert_eq!(seen.data()["anonymousMode"], true);
    }
    post(&node, HELPER, &id, "respond").await.data();
    // A former helper may view an emergency that they responded to.
    get(&node, ("hans", "user"), &id).await.data();
    let mut hans = in_room(&node, HELPER, &id).await;
    // Naming a recipient would allow guessing the owner.
    let named = json!({ "emergencyId": id, "recipientId": "olga", "message": "hi" });
    hans.is_refused("emergency:message", named, "Not authorized to write in this emergency").await;
    post(&node, OWNER, &id, "resolve").await.data();
    let resolved = hans.event("emergency:resolved").await;
    assert_eq!(resolved["resolvedBy"], Value::Null);
    assert_eq!(get(&node, HELPER, &id).await.data()["resolvedBy"], Value::Null);
}

#[tokio::test]
async fn a_helpers_location_goes_to_the_emergencies_they_help_in() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let mut owner = client(&node, OWNER).await;
    let mut hans = client(&node, HELPER).await;
    let place = json!({ "latitude": 1.5, "longitude": 2.5 });
    hans.ask("location:update", place.clone()).await;
    post(&node, HELPER, &id, "respond").await.data();
    hans.ask("location:update", place).await;
    let received = owner.event("helper:location").await;
    let said =
        (&received["emergencyId"], &received["helperId"], &received["latitude"], &received["longitude"]);
    assert_eq!(said, (&json!(id), &json!("hans"), &json!(1.5), &json!(2.5)));
    assert!(
        !owner.others().await.contains(&"helper:location".to_owned()),
        "no location from before the response"
    );
}

#[tokio::test]
async fn only_helpers_and_admins_list_nearby_emergencies() {
    let node = TestNode::start().await;
    let id = raise(&node, json!({})).await;
    let near = "nearby?latitude=52.52&longitude=13.405";
    for who in [OTHER, OWNER] {
        get(&node, who, near).await.is_refused(403, "Only helpers may do this");
    }
    for who in [HELPER, RESCUER, ADMIN] {
        let found = get(&node, who, near).await;
        assert_eq!((&found.data()[0]["id"], &found.data()[0]["distance"]), (&json!(id), &json!(0.0)));
    }
    get(&node, HELPER, "nearby?latitude=1").await.is_refused(400, "Expected latitude, longitude and radius?");
    post(&node, OWNER, &id, "cancel").await.data();
    assert_eq!(get(&node, HELPER, near).await.data(), &json!([]), "only open ones");
}
