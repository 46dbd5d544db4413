//! Emergencies, helpers and messages: their records, and what each viewer may see of them.

use std::borrow::Cow;

use fanout::Place;
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::{Claims, Reputation};

use crate::clock::iso;
use crate::describe::forms::{Latitude, Longitude, OwnId, Time, UserIdText, Word};

/// A closed set of words.
macro_rules! words {
    ($(#[$doc:meta])* $type:ident as $public:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
        #[schemars(rename = $public)]
        pub(crate) enum $type {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant),+
        }

        impl $type {
            /// The word in records and on the wire.
            pub(crate) fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            /// The value of a word.
            pub(crate) fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

words! {
    /// An emergency's status: `active`, `responding`, then `resolved` or `cancelled`. It may skip `responding`.
    Status as "EmergencyStatus" {
        Active = "active",
        /// A helper has responded.
        Responding = "responding",
        Resolved = "resolved",
        Cancelled = "cancelled",
    }
}

words! {
    /// A responding helper's progress.
    HelperStatus as "HelperStatus" {
        Responding = "responding",
        OnWay = "on_way",
        Arrived = "arrived",
        Completed = "completed",
        Cancelled = "cancelled",
    }
}

words! {
    /// How urgent an emergency is.
    Priority as "EmergencyPriority" { Low = "low", Medium = "medium", High = "high", Critical = "critical" }
}

words! {
    /// The sender's role in the emergency.
    SenderRole as "EmergencyRole" { Owner = "owner", Helper = "helper" }
}

impl Priority {
    /// The default.
    pub(crate) const DEFAULT: Self = Self::Medium;
}

impl SenderRole {
    /// Parses a role from a record of this system.
    pub(super) fn of_record(word: &str) -> Self {
        Self::parse(word).unwrap_or(Self::Helper)
    }
}

impl Status {
    /// Whether the emergency still accepts helpers.
    pub(crate) fn is_open(self) -> bool {
        matches!(self, Self::Active | Self::Responding)
    }
}

/// The owner of an emergency.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyOwner")]
#[serde(rename_all = "camelCase")]
pub(crate) struct Owner {
    #[schemars(with = "UserIdText")]
    pub(crate) id: String,
    pub(crate) display_name: String,
    pub(crate) avatar: Option<String>,
}

/// An emergency's record.
#[derive(Debug, Clone)]
pub(crate) struct Emergency {
    pub(crate) id: String,
    pub(crate) owner: Owner,
    pub(crate) kind: String,
    pub(crate) category: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) place: Place,
    pub(crate) address: Option<String>,
    pub(crate) priority: Priority,
    pub(crate) severity: Option<i64>,
    pub(crate) anonymous: bool,
    pub(crate) status: Status,
    pub(crate) created_at_ms: u64,
    pub(crate) updated_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    pub(crate) ended_by: Option<String>,
    pub(crate) resolution_type: Option<String>,
    pub(crate) resolution_notes: Option<String>,
}

/// A helper who has responded.
#[derive(Debug, Clone)]
pub(crate) struct Helper {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) reputation: Option<Reputation>,
    pub(crate) status: HelperStatus,
    pub(crate) notes: Option<String>,
    pub(crate) joined_at_ms: u64,
    pub(crate) updated_at_ms: u64,
}

/// A message between an owner and helpers.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: String,
    pub(crate) emergency_id: String,
    pub(crate) sender_id: String,
    pub(crate) sender_role: SenderRole,
    pub(crate) recipient_id: Option<String>,
    pub(crate) message: String,
    pub(crate) created_at_ms: u64,
}

/// Who views an emergency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Viewer {
    /// The owner or an admin, who may see the owner.
    Insider,
    /// Any other user, and every recipient of an event to a room.
    Outsider,
}

/// Whether the token has an admin's role.
pub(crate) fn is_admin(claims: &Claims) -> bool {
    claims.role.as_deref() == Some("admin")
}

/// Whether the token has a helper's role (contract, "emergencies").
pub(crate) fn is_helper(claims: &Claims) -> bool {
    matches!(claims.role.as_deref(), Some("helper" | "rescuer"))
}

/// An emergency's location.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "EmergencyLocation")]
struct Location<'a> {
    #[schemars(with = "Latitude")]
    latitude: f64,
    #[schemars(with = "Longitude")]
    longitude: f64,
    address: Option<&'a str>,
}

/// An emergency.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Emergency")]
pub(crate) struct Shown<'a> {
    #[schemars(with = "OwnId")]
    id: &'a str,
    #[serde(rename = "type")]
    #[schemars(with = "Word")]
    kind: &'a str,
    #[schemars(with = "Option<Word>")]
    category: Option<&'a str>,
    description: Option<&'a str>,
    location: Location<'a>,
    priority: Priority,
    /// 1 to 10, if given.
    severity: Option<i64>,
    status: Status,
    #[schemars(with = "Time")]
    created_at: String,
    #[schemars(with = "Time")]
    updated_at: String,
    anonymous_mode: bool,
    /// The owner. `null` in anonymous mode, except for the owner and admins.
    user: Option<&'a Owner>,
    #[schemars(with = "Option<Time>")]
    resolved_at: Option<String>,
    /// A user. `null` in anonymous mode, except for the owner and admins.
    #[schemars(with = "Option<UserIdText>")]
    resolved_by: Option<&'a str>,
    #[schemars(with = "Option<Word>")]
    resolution_type: Option<&'a str>,
    resolution_notes: Option<&'a str>,
    #[schemars(with = "Option<Time>")]
    cancelled_at: Option<String>,
}

/// A helper's name, split into first and last name where possible.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "HelperProfile")]
#[serde(rename_all = "camelCase")]
struct Profile<'a> {
    first_name: &'a str,
    /// Empty if the name is a single word.
    last_name: &'a str,
}

/// A helper's rating, from their token. Always present, because the document's clients read `helperRating.average`
/// of any helper.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "HelperRating")]
struct Rating<'a> {
    /// `null` if unknown.
    average: Option<&'a serde_json::Number>,
    /// 0 if unknown.
    #[schemars(with = "serde_json::Number")]
    count: Cow<'a, serde_json::Number>,
}

/// A responding helper.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Helper")]
pub(crate) struct ShownHelper<'a> {
    #[schemars(with = "UserIdText")]
    id: &'a str,
    profile: Profile<'a>,
    /// From their token.
    trust_score: Option<&'a serde_json::Number>,
    helper_rating: Rating<'a>,
    #[schemars(with = "Time")]
    joined_at: String,
}

/// A helper in an emergency's list.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[schemars(rename = "RespondingHelper")]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListedHelper<'a> {
    #[serde(flatten)]
    helper: ShownHelper<'a>,
    status: HelperStatus,
    notes: Option<&'a str>,
    #[schemars(with = "Time")]
    updated_at: String,
}

/// A message between an emergency's owner and its helpers.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EmergencyMessage")]
pub(crate) struct ShownMessage<'a> {
    #[schemars(with = "OwnId")]
    id: &'a str,
    #[schemars(with = "OwnId")]
    emergency_id: &'a str,
    /// `null` if the sender is the owner in anonymous mode.
    #[schemars(with = "Option<UserIdText>")]
    sender_id: Option<&'a str>,
    sender_role: SenderRole,
    /// `null` if the message is for all helpers, or for the owner in anonymous mode.
    #[schemars(with = "Option<UserIdText>")]
    recipient_id: Option<&'a str>,
    message: &'a str,
    #[schemars(with = "Time")]
    timestamp: String,
}

impl Emergency {
    /// How the user of `claims` may view it.
    pub(crate) fn viewer(&self, claims: &Claims) -> Viewer {
        if self.is_of(claims) || is_admin(claims) { Viewer::Insider } else { Viewer::Outsider }
    }

    /// Whether this user is the owner.
    pub(crate) fn is_of(&self, claims: &Claims) -> bool {
        self.owner.id == claims.user.as_str()
    }

    fn hides_owner(&self, viewer: Viewer) -> bool {
        self.anonymous && viewer == Viewer::Outsider
    }

    /// The emergency as `viewer` may see it. In anonymous mode, nothing in it identifies the owner to an outsider.
    pub(crate) fn shown(&self, viewer: Viewer) -> Shown<'_> {
        let hidden = self.hides_owner(viewer);
        let ended = |status: Status| self.ended_at_ms.filter(|_| self.status == status).map(iso);
        Shown {
            id: &self.id,
            kind: &self.kind,
            category: self.category.as_deref(),
            description: self.description.as_deref(),
            location: Location {
                latitude: self.place.latitude,
                longitude: self.place.longitude,
                address: self.address.as_deref(),
            },
            priority: self.priority,
            severity: self.severity,
            status: self.status,
            created_at: iso(self.created_at_ms),
            updated_at: iso(self.updated_at_ms),
            anonymous_mode: self.anonymous,
            user: (!hidden).then_some(&self.owner),
            resolved_at: ended(Status::Resolved),
            resolved_by: self.ended_by.as_deref().filter(|_| self.status == Status::Resolved && !hidden),
            resolution_type: self.resolution_type.as_deref(),
            resolution_notes: self.resolution_notes.as_deref(),
            cancelled_at: ended(Status::Cancelled),
        }
    }
}

impl Helper {
    pub(crate) fn shown(&self) -> ShownHelper<'_> {
        let (first_name, last_name) = self.name.split_once(' ').unwrap_or((&self.name, ""));
        let reputation = self.reputation.as_ref();
        let count = reputation.and_then(|reputation| reputation.count.as_ref());
        ShownHelper {
            id: &self.id,
            profile: Profile { first_name, last_name },
            trust_score: reputation.and_then(|reputation| reputation.trust_score.as_ref()),
            helper_rating: Rating {
                average: reputation.and_then(|reputation| reputation.average.as_ref()),
                count: count.map_or_else(|| Cow::Owned(0.into()), Cow::Borrowed),
            },
            joined_at: iso(self.joined_at_ms),
        }
    }

    pub(crate) fn listed(&self) -> ListedHelper<'_> {
        let (notes, updated_at) = (self.notes.as_deref(), iso(self.updated_at_ms));
        ListedHelper { helper: self.shown(), status: self.status, notes, updated_at }
    }
}

impl Message {
    /// The message as all recipients see it, without the identity of an anonymous owner.
    pub(crate) fn shown(&self, emergency: &Emergency) -> ShownMessage<'_> {
        let visible = |id: &&str| !(emergency.anonymous && *id == emergency.owner.id);
        ShownMessage {
            id: &self.id,
            emergency_id: &self.emergency_id,
            sender_id: Some(&*self.sender_id).filter(visible),
            sender_role: self.sender_role,
            recipient_id: self.recipient_id.as_deref().filter(visible),
            message: &self.message,
            timestamp: iso(self.created_at_ms),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn emergency(anonymous: bool, status: Status) -> Emergency {
        Emergency {
            id: "e1".into(),
            owner: Owner { id: "owner-7".into(), display_name: "Olga".into(), avatar: Some("o.png".into()) },
            kind: "medical".into(),
            category: None,
            description: None,
            place: Place { latitude: 1.0, longitude: 2.0 },
            address: None,
            priority: Priority::High,
            severity: Some(9),
            anonymous,
            status,
            created_at_ms: 0,
            updated_at_ms: 0,
            ended_at_ms: Some(1_000),
            ended_by: Some("owner-7".into()),
            resolution_type: None,
            resolution_notes: None,
        }
    }

    #[test]
    fn an_anonymous_owner_is_shown_to_insiders_alone() {
        let text = |anonymous, viewer| {
            serde_json::to_string(&emergency(anonymous, Status::Resolved).shown(viewer)).unwrap()
        };
        for trace in ["owner-7", "Olga", "o.png"] {
            assert!(text(true, Viewer::Insider).contains(trace));
            assert!(text(false, Viewer::Outsider).contains(trace));
            assert!(!text(true, Viewer::Outsider).contains(trace));
        }
    }

    #[test]
    fn messages_of_an_anonymous_owner_have_no_sender() {
        let emergency = emergency(true, Status::Responding);
        let message = |sender: &str, recipient: Option<&str>| Message {
            id: "m".into(),
            emergency_id: "e1".into(),
            sender_id: sender.into(),
            sender_role: SenderRole::Owner,
            recipient_id: recipient.map(str::to_owned),
            message: "hello".into(),
            created_at_ms: 0,
        };
        for message in [message("owner-7", Some("h")), message("h", Some("owner-7"))] {
            let text = |emergency: &Emergency| serde_json::to_string(&message.shown(emergency)).unwrap();
            assert!(!text(&emergency).contains("owner-7"));
            assert!(text(&Emergency { anonymous: false, ..emergency.clone() }).contains("owner-7"));
        }
    }

    #[test]
    fn a_helper_has_two_names_where_one_can_be_cut() {
        let names = |name: &str| {
            let helper = Helper {
                id: "h".into(),
                name: name.into(),
                reputation: None,
                status: HelperStatus::OnWay,
                notes: None,
                joined_at_ms: 0,
                updated_at_ms: 0,
            };
            serde_json::to_value(helper.shown()).unwrap()["profile"].clone()
        };
        assert_eq!(
            names("John Ronald Doe"),
            serde_json::json!({"firstName": "John", "lastName": "Ronald Doe"})
        );
        assert_eq!(names("john"), serde_json::json!({"firstName": "john", "lastName": ""}));
    }
}
