//! The typed client of the internal API, against a gateway that is there, one that is not, and one that refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test that fails panics")]

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use shared::client::{ClientError, ClientOptions, ParticipantJoined, ParticipantLeft, RealtimeServiceClient};

/// A gateway that ends with its test.
struct Gateway {
    child: Child,
    internal: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start() -> Gateway {
    let mut child = Command::new(env!("CARGO_BIN_EXE_gateway"))
        .env_clear()
        .envs([
            ("LISTEN", "127.0.0.1:0"),
            ("INTERNAL_LISTEN", "127.0.0.1:0"),
            ("DATABASE_URL", "sqlite::memory:"),
            ("LOG_FORMAT", "json"),
            ("INTERNAL_TOKEN", "door"),
            ("JWT_SECRET", "s"),
            ("MOUNTS", "sos=/,emergencies=/emergencies,chat=/,care=/,relay=/relay"),
        ])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let internal = lines
        .by_ref()
        .find_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(&line.unwrap()).ok()?;
            (entry["message"] == "started").then(|| entry["internal"].as_str().unwrap().to_owned())
        })
        .unwrap();
    // Read on, or the gateway's log has nowhere to go.
    std::thread::spawn(move || lines.for_each(drop));
    Gateway { child, internal }
}

fn client(internal: &str, token: &str) -> RealtimeServiceClient {
    let mut options = ClientOptions::new(&format!("http://{internal}/"));
    options.token = Some(token.to_owned());
    options.pause = Duration::from_millis(1);
    RealtimeServiceClient::new(options).unwrap()
}

fn john(user_type: &str) -> ParticipantJoined {
    ParticipantJoined {
        sos_id: "507f1f77bcf86cd799439011".to_owned(),
        user_id: "507f1f77bcf86cd799439012".to_owned(),
        user_type: user_type.to_owned(),
        display_name: Some("John Rescue".to_owned()),
        joined_at: None,
    }
}

#[tokio::test]
async fn the_four_calls_of_the_document() {
    let gateway = start();
    let client = client(&gateway.internal, "door");
    let joined = john("rescuer");
    client.broadcast_participant_joined(&joined).await.unwrap();
    assert_eq!(client.active_participants(&joined.sos_id).await.unwrap(), []);
    assert_eq!(client.participant_count(&joined.sos_id).await.unwrap(), 0);
    let left = ParticipantLeft { sos_id: joined.sos_id, user_id: joined.user_id, left_at: None };
    client.broadcast_participant_left(&left).await.unwrap();
    let refused = client.broadcast_participant_left(&left).await;
    let Err(ClientError::Refused { status, error }) = refused else { panic!("{refused:?}") };
    assert_eq!((status.as_u16(), &*error), (404, "Participant not found"));
}

#[tokio::test]
async fn failures_are_returned() {
    let gateway = start();
    let refused = client(&gateway.internal, "window").participant_count("x").await;
    assert!(
        matches!(&refused, Err(ClientError::Refused { status, .. }) if status.as_u16() == 403),
        "{refused:?}"
    );
    let right = client(&gateway.internal, "door");
    let bad = right.broadcast_participant_joined(&john("doctor")).await;
    assert!(matches!(&bad, Err(ClientError::Refused { status, .. }) if status.as_u16() == 400), "{bad:?}");
    assert!(matches!(right.participant_count("a\nb").await, Err(ClientError::BadId)));
    let internal = gateway.internal.clone();
    drop(gateway);
    let away = client(&internal, "door").participant_count("x").await;
    assert!(matches!(away, Err(ClientError::Unreachable(_))), "{away:?}");
}
