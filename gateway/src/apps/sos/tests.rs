//! The rules of `sos`: permissions, each refusal by its sentence, and each change of an incident's state.

use serde_json::{Value, json};
use shared::limits::RAISE_BURST;

use super::limits::{MARKS_BURST, SOS_TEXT_MAX};
use crate::testing::{Answer, TestClient, TestNode};

const ANN: (&str, &str) = ("ann", "citizen");
const BOB: (&str, &str) = ("bob", "citizen");
const RESCUER: (&str, &str) = ("rita", "rescuer");
const ADMIN: (&str, &str) = ("root", "admin");

/// Raises an incident as a user and returns its id.
async fn raise(node: &TestNode, who: (&str, &str)) -> String {
    let place = json!({ "latitude": 52.52, "longitude": 13.405, "description": "smoke" });
    let raised = node.rest(who, "POST", "/api/sos", Some(&place)).await;
    assert_eq!(raised.status, 201);
    raised.data()["id"].as_str().unwrap().to_owned()
}

async fn post(node: &TestNode, who: (&str, &str), sos: &str, what: &str) -> Answer {
    node.rest(who, "POST", &format!("/api/sos/{sos}/{what}"), None).await
}

async fn join(node: &TestNode, who: (&str, &str), sos: &str) -> Answer {
    post(node, who, sos, "participants/join").await
}

async fn leave(node: &TestNode, who: (&str, &str), sos: &str, user: &str) -> Answer {
    node.rest(who, "PATCH", &format!("/api/sos/{sos}/participants/{user}/leave"), None).await
}

async fn get(node: &TestNode, who: (&str, &str), path: &str) -> Answer {
    node.rest(who, "GET", path, None).await
}

async fn client(node: &TestNode, user: &str) -> TestClient {
    node.client("/", user, &json!({})).await
}

#[tokio::test]
async fn raising_stores_the_given_facts_and_the_raiser_joins() {
    let node = TestNode::start().await;
    let mut ann = client(&node, "ann").await;
    let raised = node.rest(ANN, "POST", "/api/sos", None).await;
    let incident = raised.data();
    let sos = incident["id"].as_str().unwrap();
    assert_eq!((&incident["userId"], &incident["status"]), (&json!("ann"), &json!("ACTIVE")));
    assert_eq!((&incident["latitude"], &incident["description"]), (&Value::Null, &Value::Null));
    let joined = ann.event("participant:joined").await;
    assert_eq!(
        (&joined["sosId"], &joined["userId"], &joined["userType"]),
        (&json!(sos), &json!("ann"), &json!("citizen"))
    );
    let longest = json!({ "description": "x".repeat(SOS_TEXT_MAX) });
    assert_eq!(node.rest(ANN, "POST", "/api/sos", Some(&longest)).await.status, 201);
}

#[tokio::test]
async fn a_connected_client_is_in_the_rooms_of_its_incidents() {
    let node = TestNode::start().await;
    for round in 0..20 {
        let user = format!("user-{round}");
        let sos = raise(&node, (&user, "citizen")).await;
        let _client = client(&node, &user).await;
        let path = format!("/internal/rooms/sos:{sos}/count");
        assert_eq!(node.internal("GET", &path, None).await.data()["count"], json!(1), "round {round}");
    }
}

#[tokio::test]
async fn invalid_incidents_are_refused() {
    let node = TestNode::start().await;
    let too_long = format!("Description too long (max {SOS_TEXT_MAX} characters)");
    for (body, error) in [
        (json!({ "description": "x".repeat(SOS_TEXT_MAX + 1) }), too_long.as_str()),
        (json!({ "description": "a\0b" }), "Description contains a null character"),
        (json!({ "latitude": 1 }), "Invalid latitude or longitude"),
        (json!({ "longitude": 1 }), "Invalid latitude or longitude"),
        (json!({ "latitude": 90.1, "longitude": 0 }), "Invalid latitude or longitude"),
        (json!({ "latitude": 0, "longitude": -180.1 }), "Invalid latitude or longitude"),
    ] {
        node.rest(ANN, "POST", "/api/sos", Some(&body)).await.is_refused(400, error);
    }
    assert_eq!(node.rest_without_token("POST", "/api/sos").await.status, 401);
}

#[tokio::test]
async fn raising_incidents_has_a_burst_limit_per_user() {
    let node = TestNode::start().await;
    for _ in 0..RAISE_BURST {
        raise(&node, ANN).await;
    }
    node.rest(ANN, "POST", "/api/sos", None).await.is_refused(429, "Too many requests");
    raise(&node, BOB).await;
}

#[tokio::test]
async fn joining_is_recorded_and_announced_once() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let mut ann = client(&node, "ann").await;
    let first = join(&node, BOB, &sos).await;
    assert_eq!((first.status, &first.data()["userType"]), (201, &json!("citizen")));
    let again = join(&node, BOB, &sos).await;
    assert_eq!((again.status, again.data()), (200, first.data()));
    let received = ann.event("participant:joined").await;
    assert_eq!((&received["userId"], &received["joinedAt"]), (&json!("bob"), &first.data()["joinedAt"]));
    assert!(!ann.others().await.contains(&"participant:joined".to_owned()));
}

#[tokio::test]
async fn the_user_type_defaults_to_the_role() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let path = format!("/api/sos/{sos}/participants/join");
    for (who, body, expected) in [
        (RESCUER, None, "rescuer"),
        (ADMIN, None, "admin"),
        (("hans", "helper"), None, "citizen"),
        (BOB, Some(json!({ "userType": "rescuer" })), "rescuer"),
    ] {
        assert_eq!(node.rest(who, "POST", &path, body.as_ref()).await.data()["userType"], expected);
    }
    let other = json!({ "userType": "hero" });
    let refused = node.rest(("eve", "citizen"), "POST", &path, Some(&other)).await;
    refused.is_refused(400, "Invalid userType: expected citizen, rescuer or admin");
    // The type grants no rights.
    post(&node, BOB, &sos, "false-alarm").await.is_refused(403, "Only rescuers and admins may do this");
}

#[tokio::test]
async fn sockets_follow_participations() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let at = json!({ "sosId": sos, "latitude": 1.5, "longitude": 2.5 });
    let (mut ann, mut bob) = (client(&node, "ann").await, client(&node, "bob").await);
    bob.is_refused("sos:location", at.clone(), "You must join the SOS first").await;
    join(&node, BOB, &sos).await;
    assert_eq!(bob.ask("sos:location", at).await, json!({ "success": true }));
    let shared = ann.event("participant:location").await;
    assert_eq!(
        (&shared["userId"], &shared["latitude"], &shared["longitude"]),
        (&json!("bob"), &json!(1.5), &json!(2.5))
    );
    assert!(
        !bob.others().await.contains(&"participant:location".to_owned()),
        "only the other sockets receive it"
    );
    // A socket that connects later is in the room, too.
    let mut second = client(&node, "bob").await;
    assert_eq!(
        second.ask("sos:location", json!({ "sosId": sos, "latitude": 0, "longitude": 0 })).await["success"],
        true
    );
    assert_eq!(leave(&node, BOB, &sos, "bob").await.status, 200);
    let left = ann.event("participant:left").await;
    assert_eq!((&left["sosId"], &left["userId"]), (&json!(sos), &json!("bob")));
    for client in [&mut bob, &mut second] {
        assert_eq!(client.event("participant:left").await["userId"], "bob");
        client.is_put_out().await;
    }
}

#[tokio::test]
async fn invalid_locations_are_refused() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let mut ann = client(&node, "ann").await;
    for (argument, error) in [
        (json!({ "sosId": sos, "latitude": 1 }), "Expected {sosId, latitude, longitude}"),
        (json!({ "sosId": sos, "latitude": "1", "longitude": 1 }), "Expected {sosId, latitude, longitude}"),
        (json!({ "sosId": "", "latitude": 1, "longitude": 1 }), "Invalid sosId"),
        (json!({ "sosId": sos, "latitude": 91, "longitude": 1 }), "Invalid latitude or longitude"),
        (json!({ "sosId": "unknown", "latitude": 1, "longitude": 1 }), "You must join the SOS first"),
    ] {
        ann.is_refused("sos:location", argument, error).await;
    }
}

#[tokio::test]
async fn who_may_leave_and_rejoin() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    join(&node, BOB, &sos).await;
    for who in [ANN, RESCUER] {
        leave(&node, who, &sos, "bob").await.is_refused(403, "Only the user or an admin may do this");
    }
    assert_eq!(leave(&node, ADMIN, &sos, "bob").await.status, 200);
    leave(&node, BOB, &sos, "bob").await.is_refused(404, "Participant not found");
    leave(&node, BOB, "unknown", "bob").await.is_refused(404, "Participant not found");
    // A new record. The history keeps both, newest first.
    assert_eq!(join(&node, BOB, &sos).await.status, 201);
    let history = get(&node, BOB, &format!("/api/sos/{sos}/participants/history")).await;
    let records: Vec<_> = history
        .data()
        .as_array()
        .unwrap()
        .iter()
        .map(|record| (&record["userId"], &record["isActive"]))
        .collect();
    assert_eq!(records.iter().filter(|(user, _)| **user == "bob").count(), 2, "{records:?}");
}

#[tokio::test]
async fn an_incident_ends_with_its_last_participant() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let (mut ann, mut bob) = (client(&node, "ann").await, client(&node, "bob").await);
    join(&node, BOB, &sos).await;
    leave(&node, ANN, &sos, "ann").await;
    ann.is_put_out().await;
    leave(&node, BOB, &sos, "bob").await;
    let ended = bob.event("sos:ended").await;
    assert_eq!((&ended["sosId"], &ended["endedBy"]), (&json!(sos), &Value::Null));
    bob.is_put_out().await;
    join(&node, BOB, &sos).await.is_refused(409, "SOS has ended");
    post(&node, ANN, &sos, "end").await.is_refused(409, "SOS has ended");
}

#[tokio::test]
async fn who_may_end_an_incident() {
    let node = TestNode::start().await;
    for (who, reason) in [(ANN, "raiser"), (ADMIN, "admin")] {
        let sos = raise(&node, ANN).await;
        join(&node, BOB, &sos).await;
        let mut bob = client(&node, "bob").await;
        for other in [BOB, RESCUER] {
            let refused = post(&node, other, &sos, "end").await;
            refused.is_refused(403, "Only who raised the SOS or an admin may do this");
        }
        let ended = post(&node, who, &sos, "end").await;
        let incident = ended.data();
        assert_eq!((&incident["status"], &incident["endedBy"]), (&json!("ENDED"), &json!(who.0)));
        assert_eq!(incident["endReason"], reason);
        let received = bob.event("sos:ended").await;
        assert_eq!(
            (&received["sosId"], &received["reason"], &received["endedBy"]),
            (&json!(sos), &json!(reason), &json!(who.0))
        );
        // Its sockets have left the room and stay connected.
        let at = json!({ "sosId": sos, "latitude": 1, "longitude": 1 });
        bob.is_refused("sos:location", at, "You must join the SOS first").await;
        post(&node, who, &sos, "end").await.is_refused(409, "SOS has ended");
        leave(&node, BOB, &sos, "bob").await.is_refused(404, "Participant not found");
    }
    post(&node, ADMIN, "unknown", "end").await.is_refused(404, "SOS not found");
}

#[tokio::test]
async fn who_may_mark_an_incident_as_false() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    for other in [ANN, BOB] {
        post(&node, other, &sos, "false-alarm").await.is_refused(403, "Only rescuers and admins may do this");
    }
    let marked = post(&node, RESCUER, &sos, "false-alarm").await;
    assert_eq!((&marked.data()["status"], &marked.data()["endedBy"]), (&json!("ENDED"), &json!("rita")));
    post(&node, ADMIN, &sos, "false-alarm").await.is_refused(409, "SOS has ended");
    for _ in 1..MARKS_BURST {
        post(&node, RESCUER, "unknown", "false-alarm").await.is_refused(404, "SOS not found");
    }
    post(&node, RESCUER, "unknown", "false-alarm").await.is_refused(429, "Too many requests");
}

#[tokio::test]
async fn lists_are_for_participants_rescuers_and_admins() {
    let node = TestNode::start().await;
    let sos = raise(&node, ANN).await;
    let (active, history) =
        (format!("/api/sos/{sos}/participants/active"), format!("/api/sos/{sos}/participants/history"));
    let check = format!("/api/sos/{sos}/participants/ann/check");
    for path in [&active, &history, &check] {
        get(&node, BOB, path).await.is_refused(403, "Not a participant of this SOS");
        for who in [ANN, RESCUER, ADMIN] {
            get(&node, who, path).await.data();
        }
    }
    // Users may always check their own participation.
    let own = format!("/api/sos/{sos}/participants/bob/check");
    assert_eq!(get(&node, BOB, &own).await.data(), &json!({ "isActive": false }));
    join(&node, BOB, &sos).await;
    assert_eq!(get(&node, BOB, &check).await.data(), &json!({ "isActive": true }));
    assert_eq!(get(&node, BOB, &active).await.data().as_array().unwrap().len(), 2);
    // Former participants may still read the lists.
    leave(&node, BOB, &sos, "bob").await;
    assert_eq!(get(&node, BOB, &active).await.data().as_array().unwrap().len(), 1);
    assert_eq!(get(&node, BOB, &history).await.data().as_array().unwrap().len(), 2);
    get(&node, BOB, &format!("{history}?before=unknown")).await.is_refused(400, "Invalid before");
    get(&node, BOB, &format!("{history}?limit=some")).await.is_refused(400, "Invalid limit or before");
}

#[tokio::test]
async fn the_history_of_a_user_is_for_that_user_rescuers_and_admins() {
    let node = TestNode::start().await;
    let path = "/api/sos/any/participants/user/ann/history";
    get(&node, BOB, path).await.is_refused(403, "Only the user, a rescuer or an admin may see this");
    let first = raise(&node, ANN).await;
    let second = raise(&node, ANN).await;
    for who in [ANN, RESCUER, ADMIN] {
        let history = get(&node, who, path).await;
        let ids: Vec<_> =
            history.data().as_array().unwrap().iter().map(|record| record["sosId"].clone()).collect();
        assert_eq!(ids.len(), 2);
        assert!(ids.contains(&json!(first)) && ids.contains(&json!(second)));
    }
}

#[tokio::test]
async fn nearby_incidents_are_sorted_by_distance() {
    let node = TestNode::start().await;
    for (who, east) in [(ANN, 13.41), (BOB, 13.50), (RESCUER, 13.42)] {
        let place = json!({ "latitude": 52.52, "longitude": east });
        node.rest(who, "POST", "/api/sos", Some(&place)).await.data();
    }
    let near = get(&node, ADMIN, "/api/sos/nearby?latitude=52.52&longitude=13.405").await;
    let users: Vec<_> =
        near.data().as_array().unwrap().iter().map(|incident| incident["userId"].clone()).collect();
    assert_eq!(users, ["ann", "rita"], "within the default radius of 5,000 metres");
    let near = get(&node, ADMIN, "/api/sos/nearby?latitude=52.52&longitude=13.405&radius=20000").await;
    assert_eq!(near.data().as_array().unwrap().len(), 3);
    for (query, error) in [
        ("longitude=1", "Expected latitude, longitude and radius?"),
        ("latitude=91&longitude=1", "Invalid latitude or longitude"),
        ("latitude=1&longitude=1&limit=x", "Invalid limit"),
        ("latitude=1&longitude=1&cursor=x", "Invalid cursor"),
    ] {
        get(&node, ANN, &format!("/api/sos/nearby?{query}")).await.is_refused(400, error);
    }
}

#[tokio::test]
async fn backends_follow_the_same_rules() {
    let node = TestNode::start().await;
    let (joined, left) = ("/internal/participants/joined", "/internal/participants/left");
    let body = |change: Value| {
        let mut body = json!({ "sosId": "of-a-backend", "userId": "bob", "userType": "rescuer" });
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    for (change, error) in [
        (json!({ "sosId": "" }), "Invalid sosId"),
        (json!({ "userId": "" }), "Invalid userId"),
        (json!({ "userType": "hero" }), "Invalid userType: expected citizen, rescuer or admin"),
        (json!({ "displayName": "x".repeat(257) }), "Invalid displayName"),
        (json!({ "joinedAt": "soon" }), "Invalid joinedAt"),
        (json!({ "joinedAt": "2999-01-01T00:00:00Z" }), "Invalid joinedAt"),
    ] {
        node.internal("POST", joined, Some(&body(change))).await.is_refused(400, error);
    }
    let mut bob = client(&node, "bob").await;
    node.internal("POST", joined, Some(&body(json!({})))).await.data();
    assert_eq!(bob.event("participant:joined").await["userType"], "rescuer");
    let active = node.internal("GET", "/internal/participants/of-a-backend/active", None).await;
    assert_eq!(
        (&active.data()["count"], &active.data()["participants"][0]["userType"]),
        (&json!(1), &json!("rescuer"))
    );
    let count = node.internal("GET", "/internal/participants/of-a-backend/count", None).await;
    assert_eq!((&count.data()["count"], &count.data()["users"]), (&json!(1), &json!(1)));
    for (change, error) in [
        (json!({ "sosId": "\n" }), "Invalid sosId"),
        (json!({ "leftAt": 7.to_string() + "x" }), "Invalid leftAt"),
    ] {
        node.internal("POST", left, Some(&body(change))).await.is_refused(400, error);
    }
    node.internal("POST", left, Some(&body(json!({})))).await.data();
    bob.is_put_out().await;
    node.internal("POST", left, Some(&body(json!({})))).await.is_refused(404, "Participant not found");
    let outside = node.rest(ADMIN, "POST", joined, Some(&body(json!({})))).await;
    assert_eq!(outside.status, 404, "the internal API is not on the public listener");
}
