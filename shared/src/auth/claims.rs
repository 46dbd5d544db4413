//! What a token says about its bearer (contract, "Identity").

use serde_json::{Map, Number, Value};

use crate::limits::{CLAIM_ROOMS_MAX, CLAIM_TEXT_MAX_BYTES};
use crate::names::UserId;

/// A verified token's content. Kept once per socket, so its parts are no larger than their text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// `userId`, else `id`, else `sub`.
    pub user: UserId,
    /// `displayName`, else `name`, else `email`, else the user id.
    pub display_name: Box<str>,
    /// E-mail, as the token says.
    pub email: Option<Box<str>>,
    /// Picture, as the token says.
    pub avatar: Option<Box<str>>,
    /// Role; what it allows is each app's matter.
    pub role: Option<Box<str>>,
    /// `actor.type` is `ANON`.
    pub anonymous: bool,
    /// `verified` is true.
    pub verified: bool,
    /// What others think of a helper; `None` where the token does not say.
    pub reputation: Option<Box<Reputation>>,
    /// Seconds since the epoch; from then on the token is worth nothing.
    pub expires_at: u64,
    /// Rooms that the bearer may enter, names or prefixes ending in `*`.
    pub rooms: Box<[Box<str>]>,
    /// Rooms that the bearer may publish to, likewise.
    pub publish: Box<[Box<str>]>,
}

/// What others think of a helper: the claims `trustScore` and `helperRating` (document 002).
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
    /// Reads the claims of a token whose signature holds. `None` when one of them is not what it must be.
    #[must_use]
    pub fn from_json(claims: &Map<String, Value>) -> Option<Self> {
        let id = ["userId", "id", "sub"].iter().find_map(|key| present(claims, key))?;
        let user = UserId::parse(id.as_str()?).ok()?;
        let email = text(claims, "email")?;
        let display_name = match (text(claims, "displayName")?, text(claims, "name")?) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => email.clone().unwrap_or_else(|| user.as_str().into()),
        };
        let actor = claims.get("actor").and_then(|actor| actor.get("type")).and_then(Value::as_str);
        Some(Self {
            display_name,
            email,
            avatar: text(claims, "avatar")?,
            role: text(claims, "role")?,
            anonymous: actor == Some("ANON"),
            reputation: Reputation::from_json(claims),
            verified: claims.get("verified") == Some(&Value::Bool(true)),
            expires_at: seconds(claims.get("exp")?)?,
            rooms: list(claims, "rooms")?,
            publish: list(claims, "publish")?,
            user,
        })
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
        covers(&self.rooms, room)
    }

    /// Whether the bearer may publish to `room`.
    #[must_use]
    pub fn may_publish(&self, room: &str) -> bool {
        covers(&self.publish, room)
    }
}

fn covers(patterns: &[Box<str>], room: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => room.starts_with(prefix),
        None => room == &**pattern,
    })
}

fn present<'a>(claims: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    claims.get(key).filter(|value| !value.is_null())
}

/// An optional text; `None` when it is there and no text, too long to be carried in every event, or with a
/// NUL, which PostgreSQL does not store.
#[expect(clippy::option_option, reason = "absent and wrong are two answers")]
fn text(claims: &Map<String, Value>, key: &str) -> Option<Option<Box<str>>> {
    match present(claims, key) {
        None => Some(None),
        Some(Value::String(text)) if text.is_empty() => Some(None),
        Some(Value::String(text)) if text.len() <= CLAIM_TEXT_MAX_BYTES && !text.contains('\0') => {
            Some(Some(text.as_str().into()))
        }
        Some(_) => None,
    }
}

fn list(claims: &Map<String, Value>, key: &str) -> Option<Box<[Box<str>]>> {
    match present(claims, key) {
        None => Some(Box::default()),
        Some(Value::Array(items)) if items.len() <= CLAIM_ROOMS_MAX => {
            items.iter().map(|item| item.as_str().map(Into::into)).collect()
        }
        Some(_) => None,
    }
}

/// A `NumericDate`: seconds, perhaps with a fraction, within the years that make sense.
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
        for bad in [json!({"exp": 1}), json!({"sub": 7, "exp": 1}), json!({"sub": "", "exp": 1})] {
            assert_eq!(user(bad), None);
        }
        assert_eq!(user(json!({"sub": "a\nb", "exp": 1})), None);
        assert_eq!(user(json!({"sub": "x".repeat(200), "exp": 1})), None);
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

    #[test]
    fn what_is_kept_of_a_token_is_bounded() {
        let rooms = |count: usize| claims(json!({"sub": "u", "exp": 1, "rooms": vec!["r"; count]}));
        assert!(rooms(CLAIM_ROOMS_MAX).is_some() && rooms(CLAIM_ROOMS_MAX + 1).is_none());
        let name = |len: usize| claims(json!({"sub": "u", "exp": 1, "name": "n".repeat(len)}));
        assert!(name(CLAIM_TEXT_MAX_BYTES).is_some() && name(CLAIM_TEXT_MAX_BYTES + 1).is_none());
    }

    #[test]
    fn no_text_of_a_token_has_a_nul() {
        for key in ["displayName", "name", "email", "avatar", "role"] {
            assert_eq!(claims(json!({"sub": "u", "exp": 1, key: "a\0b"})), None, "{key}");
        }
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
