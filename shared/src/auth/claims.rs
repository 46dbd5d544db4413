//! The claims of a token (contract, "Identity").
//!
//! Two claims decide whether a token is usable: the user's id and the expiry. Every other claim is optional, and
//! issuers write what they like into it: an unusable one counts as absent ([`Claims::read`] reports it).

use std::sync::Arc;

use serde_json::{Map, Number, Value};

use crate::blank::is_blank;
use crate::limits::{CLAIM_ROOMS_MAX, CLAIM_TEXT_MAX_BYTES};
use crate::names::UserId;

/// Claims that may hold the user's id; the first present one does.
const USER_CLAIMS: [&str; 4] = ["userId", "id", "sub", "user_id"];

/// Roles that apps distinguish: those that give rights, and the types of users (documents 001 and 002).
const ROLES: [&str; 4] = ["admin", "rescuer", "helper", "citizen"];

/// A required claim that makes a token unusable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BadClaim {
    /// The claim of this name holds no user's id, or is absent.
    User(Box<str>),
    /// `exp` is not a time, or is absent.
    Expiry,
}

/// The content of a verified token. Kept once per socket, so its parts are no larger than their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// The claim that `JWT_USER_CLAIM` names, or `userId`, else `id`, else `sub`, else `user_id`.
    pub user: UserId,
    /// `displayName`, else `name`, else `email`, else the user id. Shared with the socket's entry in its rooms.
    pub display_name: Arc<str>,
    /// E-mail, as in the token.
    pub email: Option<Box<str>>,
    /// Picture, as in the token.
    pub avatar: Option<Box<str>>,
    /// Role; each app decides what it allows.
    pub role: Option<Box<str>>,
    /// `actor.type` is `ANON`.
    pub anonymous: bool,
    /// `verified` is true.
    pub verified: bool,
    /// A helper's ratings; `None` if the token has none.
    pub reputation: Option<Box<Reputation>>,
    /// Seconds since the epoch, from which the token is invalid.
    pub expires_at: u64,
    /// Rooms that the bearer may enter, names or prefixes ending in `*`.
    pub rooms: RoomPatterns,
    /// Rooms that the bearer may publish to, likewise.
    pub publish: RoomPatterns,
}

/// Names of rooms, and prefixes of names ending in `*`. One text, because every socket keeps two of these lists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RoomPatterns(Box<str>);

impl RoomPatterns {
    /// Ends each pattern in the text. No room's name contains it.
    const END: char = '\0';

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of them stands for `room`.
    #[must_use]
    pub fn cover(&self, room: &str) -> bool {
        self.0.split_terminator(Self::END).any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => room.starts_with(prefix),
            None => room == pattern,
        })
    }
}

impl<'a> FromIterator<&'a str> for RoomPatterns {
    fn from_iter<I: IntoIterator<Item = &'a str>>(patterns: I) -> Self {
        let mut text = String::new();
        for pattern in patterns {
            // One that contains the end stands for no room. It stays as an empty pattern, because a list that grants
            // nothing differs from no list.
            text.push_str(if pattern.contains(Self::END) { "" } else { pattern });
            text.push(Self::END);
        }
        Self(text.into())
    }
}

/// A helper's ratings: the claims `trustScore` and `helperRating` (document 002).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reputation {
    /// `trustScore`.
    pub trust_score: Option<Number>,
    /// `helperRating.average`.
    pub average: Option<Number>,
    /// `helperRating.count`.
    pub count: Option<Number>,
}

impl Reputation {
    fn from_json(claims: &Map<String, Value>) -> Option<Box<Self>> {
        let number = |value: Option<&Value>| match value {
            Some(Value::Number(number)) => Some(number.clone()),
            _ => None,
        };
        let rating = claims.get("helperRating");
        let of_rating = |key| number(rating.and_then(|rating| rating.get(key)));
        let reputation = Self {
            trust_score: number(claims.get("trustScore")),
            average: of_rating("average"),
            count: of_rating("count"),
        };
        (reputation != Self::default()).then(|| Box::new(reputation))
    }
}

impl Claims {
    /// Reads the claims of a token with a valid signature. `user_claim` is the configured claim with the user's id.
    /// `unused` is called with the name of each present but unusable optional claim.
    ///
    /// # Errors
    /// [`BadClaim`].
    pub fn read(
        claims: &Map<String, Value>,
        user_claim: Option<&str>,
        unused: &mut dyn FnMut(&'static str),
    ) -> Result<Self, BadClaim> {
        let user = user(claims, user_claim)?;
        let expires_at = claims.get("exp").and_then(seconds).ok_or(BadClaim::Expiry)?;
        let mut optional = Optional { claims, unused };
        let email = optional.text("email");
        let (display_name, name) = (optional.text("displayName"), optional.text("name"));
        let fallback = || email.as_deref().map_or_else(|| user.shared(), Into::into);
        let actor = claims.get("actor").and_then(|actor| actor.get("type")).and_then(Value::as_str);
        Ok(Self {
            display_name: display_name.or(name).map_or_else(fallback, Into::into),
            email,
            avatar: optional.text("avatar"),
            role: optional.role(),
            anonymous: actor == Some("ANON"),
            reputation: Reputation::from_json(claims),
            verified: claims.get("verified") == Some(&Value::Bool(true)),
            expires_at,
            rooms: optional.list("rooms"),
            publish: optional.list("publish"),
            user,
        })
    }

    /// [`Self::read`] with the default claims for the user's id; `None` if it fails.
    #[must_use]
    pub fn from_json(claims: &Map<String, Value>) -> Option<Self> {
        Self::read(claims, None, &mut |_| {}).ok()
    }

    /// Whether a token with `other` as its content gives the same rights in every app.
    #[must_use]
    pub fn has_same_rights(&self, other: &Self) -> bool {
        (&self.user, &self.role, self.anonymous, self.verified, &self.rooms, &self.publish)
            == (&other.user, &other.role, other.anonymous, other.verified, &other.rooms, &other.publish)
    }

    /// Whether the bearer may enter `room`.
    #[must_use]
    pub fn may_join(&self, room: &str) -> bool {
        self.rooms.cover(room)
    }

    /// Whether the bearer may publish to `room`.
    #[must_use]
    pub fn may_publish(&self, room: &str) -> bool {
        self.publish.cover(room)
    }
}

fn present<'a>(claims: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    claims.get(key).filter(|value| !value.is_null())
}

/// The user's id: a text, or the decimal text of a whole number.
fn user(claims: &Map<String, Value>, configured: Option<&str>) -> Result<UserId, BadClaim> {
    let names: &[&str] = if configured.is_some() { configured.as_slice() } else { &USER_CLAIMS };
    let found = names.iter().find_map(|name| present(claims, name).map(|value| (*name, value)));
    // Most issuers write `sub`, so its absence is reported.
    let (name, value) = found.ok_or_else(|| BadClaim::User(configured.unwrap_or("sub").into()))?;
    let id = match value {
        Value::String(text) => UserId::parse(text).ok(),
        Value::Number(number) => whole(number).and_then(|text| UserId::parse(&text).ok()),
        _ => None,
    };
    id.ok_or_else(|| BadClaim::User(name.into()))
}

/// The decimal text of a whole number; `None` for a fraction, and for one so large that JavaScript rounds it.
fn whole(number: &Number) -> Option<String> {
    /// JavaScript's largest safe integer: up to it, every number is distinct.
    const LARGEST: f64 = 9_007_199_254_740_991.0;
    if number.is_i64() || number.is_u64() {
        return Some(number.to_string());
    }
    let value = number.as_f64().filter(|value| value.fract() == 0.0 && value.abs() <= LARGEST)?;
    #[expect(clippy::cast_possible_truncation, reason = "a whole number in range by the filter")]
    let whole = value as i64;
    Some(whole.to_string())
}

/// Optional claims of a token.
struct Optional<'a> {
    claims: &'a Map<String, Value>,
    unused: &'a mut dyn FnMut(&'static str),
}

impl<'a> Optional<'a> {
    fn get(&self, key: &str) -> Option<&'a Value> {
        present(self.claims, key)
    }

    /// A text. It is unusable if it is not a text, too long to be carried in every event, or contains a NUL, which
    /// PostgreSQL does not store. A text without visible characters counts as absent.
    fn text(&mut self, key: &'static str) -> Option<Box<str>> {
        let text = usable(self.get(key)?);
        if text.is_none() {
            (self.unused)(key);
        }
        text.filter(|text| !is_blank(text)).map(Into::into)
    }

    /// A role, or the first of several that an app distinguishes.
    fn role(&mut self) -> Option<Box<str>> {
        let Some(Value::Array(roles)) = self.get("role") else { return self.text("role") };
        let known = roles.iter().filter_map(Value::as_str).find(|role| ROLES.contains(role));
        if known.is_none() && !roles.is_empty() {
            (self.unused)("role");
        }
        known.map(Into::into)
    }

    /// A list of names. It is unusable if it is not a list, too long, or has an item that is not a text.
    fn list(&mut self, key: &'static str) -> RoomPatterns {
        let names: Option<RoomPatterns> = match self.get(key) {
            None => return RoomPatterns::default(),
            Some(Value::Array(items)) if items.len() <= CLAIM_ROOMS_MAX => {
                items.iter().map(Value::as_str).collect()
            }
            Some(_) => None,
        };
        if names.is_none() {
            (self.unused)(key);
        }
        names.unwrap_or_default()
    }
}

fn usable(value: &Value) -> Option<&str> {
    value.as_str().filter(|text| text.len() <= CLAIM_TEXT_MAX_BYTES && !text.contains('\0'))
}

/// A `NumericDate`: seconds, optionally with a fraction, within plausible years.
pub(super) fn seconds(value: &Value) -> Option<u64> {
    /// The year 9999.
    const LATEST: f64 = 253_402_300_799.0;
    let number = value.as_f64().filter(|n| (0.0..=LATEST).contains(n))?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range by the filter")]
    let whole = number as u64;
    Some(whole)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Option<Claims> {
        Claims::from_json(value.as_object().unwrap())
    }

    #[test]
    fn the_user_is_user_id_else_id_else_sub() {
        let user = |value| claims(value).map(|c| c.user.as_str().to_owned());
        assert_eq!(user(json!({"userId": "a", "id": "b", "sub": "c", "exp": 1})).as_deref(), Some("a"));
        assert_eq!(user(json!({"id": "b", "sub": "c", "exp": 1})).as_deref(), Some("b"));
        assert_eq!(user(json!({"sub": "c", "exp": 1})).as_deref(), Some("c"));
        assert_eq!(user(json!({"user_id": "d", "exp": 1})).as_deref(), Some("d"));
        assert_eq!(user(json!({"userId": null, "sub": "c", "exp": 1})).as_deref(), Some("c"));
    }

    fn user_of(value: &Value, user_claim: Option<&str>) -> Result<String, BadClaim> {
        let claims = Claims::read(value.as_object().unwrap(), user_claim, &mut |_| {});
        claims.map(|claims| claims.user.to_string())
    }

    #[test]
    fn a_users_id_is_any_text_of_an_issuer() {
        for id in [
            "auth0|5f7c8ec7c33c6c004bbafe82",
            "google-oauth2|103547991597142817347",
            "user@example.org",
            "f:2f1cbbf1-1a2b-4c3d-8e9f-001122334455:user@example.org",
            "abc@clients",
            "dXNlcg==",
            "josé",
            "user+tag",
        ] {
            assert_eq!(user_of(&json!({"sub": id, "exp": 1}), None).as_deref(), Ok(id));
        }
        for (id, text) in [
            (json!(1), "1"),
            (json!(42), "42"),
            (json!(0), "0"),
            (json!(-7), "-7"),
            (json!(42.0), "42"),
            (json!(1e3), "1000"),
            (json!(u64::MAX), "18446744073709551615"),
        ] {
            for claim in USER_CLAIMS {
                assert_eq!(user_of(&json!({claim: id, "exp": 1}), None).as_deref(), Ok(text), "{id}");
            }
        }
        for bad in [
            json!(1.5),
            json!(1e300),
            json!(1e16),
            json!(true),
            json!(["u"]),
            json!({}),
            json!(""),
            json!(" "),
            json!("\u{200b}"),
            json!("a\nb"),
            json!("x".repeat(256)),
        ] {
            assert_eq!(
                user_of(&json!({"id": bad, "sub": "u", "exp": 1}), None),
                Err(BadClaim::User("id".into())),
                "{bad}"
            );
        }
        assert_eq!(user_of(&json!({"exp": 1}), None), Err(BadClaim::User("sub".into())));
    }

    #[test]
    fn a_configured_claim_alone_holds_the_users_id() {
        let claims = json!({"https://example.org/uid": 7, "email": "u@example.org", "sub": "s", "exp": 1});
        for (claim, user) in [("https://example.org/uid", "7"), ("email", "u@example.org")] {
            assert_eq!(user_of(&claims, Some(claim)).as_deref(), Ok(user));
        }
        assert_eq!(user_of(&claims, Some("uid")), Err(BadClaim::User("uid".into())));
    }

    #[test]
    fn the_name_shown_falls_back_to_the_user() {
        let name = |value| claims(value).unwrap().display_name;
        assert_eq!(&*name(json!({"sub": "u", "exp": 1, "displayName": "D", "name": "N"})), "D");
        assert_eq!(&*name(json!({"sub": "u", "exp": 1, "name": "N", "email": "e"})), "N");
        assert_eq!(&*name(json!({"sub": "u", "exp": 1, "email": "e"})), "e");
        assert_eq!(&*name(json!({"sub": "u", "exp": 1})), "u");
    }

    #[test]
    fn an_expiry_is_required_and_a_time() {
        for bad in [json!(null), json!("1"), json!(-1), json!(1e300)] {
            assert_eq!(claims(json!({"sub": "u", "exp": bad})), None);
        }
        assert_eq!(claims(json!({"sub": "u", "exp": 12.9})).unwrap().expires_at, 12);
    }

    /// The claims without this one, and the claims with an unusable value of it.
    fn with_and_without(key: &str, value: &Value) -> (Claims, Claims, Vec<&'static str>) {
        let base = json!({"sub": "u", "exp": 1});
        let mut with = base.clone();
        with[key] = value.clone();
        let mut unused = Vec::new();
        let read = Claims::read(with.as_object().unwrap(), None, &mut |claim| unused.push(claim));
        (claims(base).unwrap(), read.unwrap(), unused)
    }

    #[test]
    fn an_optional_claim_that_cannot_be_used_is_as_if_absent() {
        let long = json!("n".repeat(3_000));
        let many = json!(vec!["r"; CLAIM_ROOMS_MAX + 1]);
        for (key, value) in [
            ("role", json!(2)),
            ("role", json!({"name": "admin"})),
            ("role", json!(["owner", 7])),
            ("name", json!({"first": "Ann"})),
            ("displayName", json!(["Ann"])),
            ("name", json!("a\0b")),
            ("email", json!(false)),
            ("avatar", long.clone()),
            ("name", long),
            ("rooms", json!("a b")),
            ("rooms", json!([1, 2])),
            ("rooms", json!(["a", 2])),
            ("rooms", many),
            ("publish", json!(true)),
            ("publish", json!({"*": true})),
        ] {
            let (without, with, unused) = with_and_without(key, &value);
            assert_eq!(with, without, "{key}: {value}");
            assert_eq!(unused, [key]);
        }
        for (key, value) in
            [("name", json!("")), ("name", json!(" \u{200b}")), ("email", Value::Null), ("role", json!([]))]
        {
            let (without, with, unused) = with_and_without(key, &value);
            assert_eq!(with, without, "{key}: {value}");
            assert!(unused.is_empty(), "it says nothing, and that can be used");
        }
    }

    #[test]
    fn of_several_roles_the_first_that_an_app_knows_counts() {
        let role = |value: Value| claims(json!({"sub": "u", "exp": 1, "role": value})).unwrap().role;
        assert_eq!(role(json!(["admin", "user"])).as_deref(), Some("admin"));
        assert_eq!(role(json!(["user", 1, "helper", "admin"])).as_deref(), Some("helper"));
        assert_eq!(role(json!("doctor")).as_deref(), Some("doctor"), "a single one is any text");
    }

    #[test]
    fn a_pattern_stands_for_a_room_or_for_all_with_its_prefix() {
        let grants = |rooms: Value| claims(json!({"sub": "u", "exp": 1, "rooms": rooms})).unwrap().rooms;
        let some = grants(json!(["a", "b:*", ""]));
        assert!(["a", "b:", "b:1"].iter().all(|room| some.cover(room)));
        assert!(["ab", "b", "*", "a\0b:"].iter().all(|room| !some.cover(room)));
        assert!(grants(json!(["*"])).cover("any"));
        // A pattern that no room's name can match grants no other room.
        let broken = grants(json!(["a\0b", "c\0*"]));
        assert!(!broken.is_empty() && ["a", "b", "c", "d"].iter().all(|room| !broken.cover(room)));
        assert!(grants(json!([])).is_empty() && !grants(json!([""])).is_empty());
    }

    #[test]
    fn the_claims_kept_of_a_token_are_bounded() {
        let rooms =
            |count: usize| claims(json!({"sub": "u", "exp": 1, "rooms": vec!["r"; count]})).unwrap().rooms;
        assert!(rooms(CLAIM_ROOMS_MAX).cover("r") && rooms(CLAIM_ROOMS_MAX + 1).is_empty());
        let name =
            |len: usize| claims(json!({"sub": "u", "exp": 1, "name": "n".repeat(len)})).unwrap().display_name;
        assert_eq!(
            (name(CLAIM_TEXT_MAX_BYTES).len(), &*name(CLAIM_TEXT_MAX_BYTES + 1)),
            (CLAIM_TEXT_MAX_BYTES, "u")
        );
    }

    #[test]
    fn rights_are_all_of_a_token_but_its_end_and_its_names() {
        let with = |more: Value| {
            let mut all = json!({"sub": "u", "exp": 1, "role": "helper", "rooms": ["a"], "publish": ["b"]});
            all.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            claims(all).unwrap()
        };
        let old = with(json!({}));
        assert!(old.has_same_rights(&with(json!({"exp": 2, "name": "N", "email": "e"}))));
        for more in [
            json!({"sub": "v"}),
            json!({"role": "citizen"}),
            json!({"rooms": []}),
            json!({"publish": ["b", "c"]}),
            json!({"verified": true}),
            json!({"actor": {"type": "ANON"}}),
        ] {
            assert!(!old.has_same_rights(&with(more.clone())), "{more}");
        }
    }

    #[test]
    fn rooms_are_names_or_prefixes() {
        let claims = claims(json!({"sub": "u", "exp": 1, "rooms": ["a", "b*"], "publish": ["*"]})).unwrap();
        assert!(claims.may_join("a") && claims.may_join("bcd") && !claims.may_join("ab"));
        assert!(claims.may_publish("anything"));
    }
}
