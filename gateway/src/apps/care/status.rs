//! The record of a user's presence, and the status derived from it. This module uses neither the clock nor the
//! network.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::names::UserId;

use crate::clock::iso;
use crate::describe::forms::{Time, UserIdText};

/// A user's visible status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PresenceStatus")]
pub(super) enum Status {
    Online,
    Offline,
    Away,
    Busy,
    InCall,
}

/// The status that a user has chosen for the time they are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) enum Mode {
    #[default]
    #[serde(rename = "o")]
    Online,
    #[serde(rename = "a")]
    Away,
    #[serde(rename = "b")]
    Busy,
}

/// A validated `presence:setStatus`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chosen {
    pub(super) mode: Mode,
    pub(super) custom: Option<String>,
}

impl Chosen {
    /// Accepts the statuses that a client may choose. The node sets `offline` and `in_call`.
    pub(super) fn new(status: &str, custom: Option<String>) -> Option<Self> {
        let mode = match status {
            "online" => Mode::Online,
            "away" => Mode::Away,
            "busy" => Mode::Busy,
            _ => return None,
        };
        Some(Self { mode, custom })
    }
}

/// What all nodes share about a user. Stored as JSON with short keys, because every user has one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Record {
    /// Whether the user counts as online.
    #[serde(rename = "o")]
    pub(super) is_on: bool,
    #[serde(rename = "m", default)]
    pub(super) mode: Mode,
    #[serde(rename = "t", default, skip_serializing_if = "Option::is_none")]
    pub(super) custom: Option<String>,
    /// Whether the user has been inactive for long.
    #[serde(rename = "i", default)]
    pub(super) is_idle: bool,
    /// The call that the user is in.
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    pub(super) call: Option<String>,
    /// When the user was last online, in ms since the epoch.
    #[serde(rename = "s", default, skip_serializing_if = "Option::is_none")]
    pub(super) seen_ms: Option<u64>,
    /// Since when the user has no socket, in ms since the epoch.
    #[serde(rename = "l", default, skip_serializing_if = "Option::is_none")]
    pub(super) lost_ms: Option<u64>,
    /// Approximately when the user was last active, in ms since the epoch.
    #[serde(rename = "a", default)]
    pub(super) active_ms: u64,
    /// Changes each time the user arrives, so that a node that took them for lost notices their return.
    #[serde(rename = "n", default)]
    pub(super) arrival: u64,
}

/// A user's visible presence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Presence")]
pub(super) struct Shown {
    #[schemars(with = "UserIdText")]
    user_id: String,
    status: Status,
    custom_status: Option<String>,
    /// `null` unless the user is offline and has been online before.
    #[schemars(with = "Option<Time>")]
    last_seen: Option<String>,
}

impl Record {
    /// Parses a stored record. An unreadable one counts as missing.
    pub(super) fn read(kept: Option<&str>) -> Self {
        kept.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// The stored form of the record.
    pub(super) fn write(&self) -> String {
        crate::text::json(self)
    }

    /// The visible status.
    pub(super) fn status(&self) -> Status {
        match self {
            Self { is_on: false, .. } => Status::Offline,
            Self { call: Some(_), .. } => Status::InCall,
            Self { mode: Mode::Busy, .. } => Status::Busy,
            Self { mode: Mode::Away, .. } | Self { is_idle: true, .. } => Status::Away,
            Self { mode: Mode::Online, .. } => Status::Online,
        }
    }

    pub(super) fn shown(&self, user: &UserId) -> Shown {
        let status = self.status();
        let last_seen = self.seen_ms.filter(|_| status == Status::Offline).map(iso);
        Shown { user_id: user.as_str().to_owned(), status, custom_status: self.custom.clone(), last_seen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_the_strongest_that_holds() {
        let on = Record { is_on: true, ..Record::default() };
        let idle = Record { is_idle: true, ..on.clone() };
        let busy = Record { mode: Mode::Busy, ..idle.clone() };
        let in_call = Record { call: Some("c".into()), ..busy.clone() };
        let off = Record { is_on: false, ..in_call.clone() };
        for (record, status) in [
            (&on, Status::Online),
            (&idle, Status::Away),
            (&Record { mode: Mode::Away, ..on.clone() }, Status::Away),
            (&busy, Status::Busy),
            (&in_call, Status::InCall),
            (&off, Status::Offline),
            (&Record::default(), Status::Offline),
        ] {
            assert_eq!(record.status(), status, "{record:?}");
            assert_eq!(Record::read(Some(&record.write())), *record);
        }
        assert_eq!(Record::read(Some("{")), Record::default());
    }

    #[test]
    fn who_was_last_seen_when_is_told_of_the_absent() {
        let user = UserId::parse("u").unwrap();
        let record = Record { seen_ms: Some(0), custom: Some("hi".into()), ..Record::default() };
        let shown = serde_json::to_value(record.shown(&user)).unwrap();
        let expected = serde_json::json!({
            "userId": "u", "status": "offline", "customStatus": "hi", "lastSeen": "1970-01-01T00:00:00.000Z",
        });
        assert_eq!(shown, expected);
        let here = Record { is_on: true, ..record };
        assert_eq!(serde_json::to_value(here.shown(&user)).unwrap()["lastSeen"], serde_json::json!(null));
    }

    #[test]
    fn nobody_chooses_to_be_offline_or_in_a_call() {
        for word in ["offline", "in_call", "", "Online"] {
            assert_eq!(Chosen::new(word, None), None, "{word}");
        }
        assert!(Chosen::new("busy", None).is_some());
    }
}
