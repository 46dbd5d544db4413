//! CONNECT: a token, then a socket (protocol, 2.2; contract, "Identity").

use std::sync::Arc;

use fanout::{FanoutError, SendQueue, SocketInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::auth::{AuthError, Fault};
use shared::config::AuthErrors;
use shared::ids::SocketId;
use shared::limits::{HANDSHAKE_TOKEN_MAX_BYTES, TOKEN_MAX_BYTES};
use shared::sio::{Encoded, encode_connect, encode_connect_error};

use super::{Mounted, Namespaces};
use crate::auth::{Tokens, refused};
use crate::clock::now_ms;
use crate::ids;
use crate::limiter::Origin;
use crate::metrics::{self, Limit};
use crate::socket::Socket;

/// What the first request of a session told.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) origin: Origin,
    /// A token in the query, else in the `Authorization` header.
    pub(crate) token: Token,
}

/// A token on its way to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Missing,
    /// There is one, and it is no text or longer than any may be.
    Unreadable,
    /// It was looked at before, and is not to be believed.
    Refused(AuthError),
    Text(Box<str>),
}

impl Token {
    /// The token of a handshake: the first of these that is not empty. It is kept as long as its session, so
    /// of one that is too long only that is kept.
    pub(crate) fn of_handshake(query: Option<&str>, bearer: Option<&str>) -> Self {
        match [query, bearer].into_iter().flatten().find(|token| !token.is_empty()) {
            None => Self::Missing,
            Some(token) if token.len() > TOKEN_MAX_BYTES => Self::Unreadable,
            Some(token) => Self::Text(token.into()),
        }
    }

    /// Of a long token only the reason is kept why it is not to be believed, if it is not. A short one waits for
    /// its CONNECT as it is: it takes little room, and most are good.
    pub(crate) async fn weighed(self, tokens: &Tokens) -> Self {
        match self {
            Self::Text(token) if token.len() > HANDSHAKE_TOKEN_MAX_BYTES => match tokens.verify(&token).await
            {
                // Signed by our issuer: strangers cannot make it.
                Ok(_) | Err(AuthError::Early) => Self::Text(token),
                Err(error) => Self::Refused(error),
            },
            token => token,
        }
    }
}

/// Why a namespace was not entered.
// As `encode_connect_error` writes it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the encoder takes the parts")]
pub(crate) struct ConnectError {
    /// `Authentication required`, `Invalid token`, `Token expired`, where `AUTH_ERRORS` says so behind
    /// `Authentication error: `; `Too many connections`; `Invalid namespace`.
    message: String,
    /// Not for a namespace that there is not.
    #[schemars(with = "Reason", skip_serializing_if = "Option::is_none")]
    data: Option<Reason>,
}

/// The same for programs.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Reason {
    #[schemars(extend("enum" = ["auth_required", "invalid_token", "token_expired", "too_many_sockets"]))]
    code: &'static str,
}

impl Reason {
    fn value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// What a client that is not let in is told.
pub(crate) enum Refusal {
    /// This; it does not try again by itself.
    Answer(Encoded),
    /// Nothing: its connection is closed, which makes it come back. Its token may be good, and nobody can tell now.
    ComeBack,
}

#[derive(Deserialize)]
struct Auth {
    token: Option<serde_json::Value>,
}

impl Namespaces {
    /// The token of a CONNECT: in its auth payload, unless that is empty, else what the handshake had.
    pub(crate) fn token_of(&self, auth: Option<&str>, handshake: &Handshake) -> Token {
        match auth.and_then(|auth| shared::json::read::<Auth>(auth).ok()?.token) {
            Some(serde_json::Value::String(token)) if !token.is_empty() => Token::Text(token.into()),
            Some(serde_json::Value::Null | serde_json::Value::String(_)) | None => handshake.token.clone(),
            Some(_) => Token::Unreadable,
        }
    }

    /// Makes a socket of a session, and the reply to its CONNECT; or the refusal. `prove` is asked when the token is
    /// found good, and says whether the session still has a place.
    pub(crate) async fn connect(
        &self,
        mounted: &Mounted,
        token: Token,
        handshake: &Handshake,
        (queue, prove): (&Arc<SendQueue>, &(dyn Fn() -> bool + Sync)),
    ) -> Result<(Arc<Socket>, Encoded), Refusal> {
        let namespace = mounted.name.as_str();
        let verified = match token {
            Token::Missing => Err(AuthError::Missing),
            Token::Unreadable => Err(AuthError::Invalid(Fault::Form)),
            Token::Refused(error) => Err(error),
            Token::Text(token) => self.context.tokens.verify(&token).await,
        };
        let claims = verified.map_err(|error| {
            refused(&error, namespace, Some(handshake.origin.address));
            refusal(mounted, &error)
        })?;
        if !prove() {
            // It is closed: nobody reads this.
            return Err(Refusal::Answer(encode_connect_error(namespace, "Too many connections", None)));
        }
        let id = SocketId::new(self.context.fanout.node(), ids::entropy());
        let info = SocketInfo {
            id,
            user: claims.user.clone(),
            display_name: claims.display_name.clone(),
            connected_at_ms: now_ms(),
            email: claims.email.clone(),
            role: claims.role.clone(),
        };
        let attached = self.context.fanout.attach(namespace, info, Arc::clone(queue)).await;
        let local = attached.map_err(|error| {
            Refusal::Answer(match error {
                FanoutError::TooManySockets => {
                    metrics::get().rate_limited(Limit::SocketsPerUser);
                    let data = Reason { code: "too_many_sockets" }.value();
                    encode_connect_error(namespace, "Too many connections", Some(&data))
                }
                FanoutError::TooManyRooms
                | FanoutError::TooManyWatched
                | FanoutError::Gone
                | FanoutError::Unavailable
                | FanoutError::BadPacket
                | FanoutError::TooLarge
                | FanoutError::TooManyQuestions
                | FanoutError::UnknownNamespace => encode_connect_error(namespace, "Invalid namespace", None),
            })
        })?;
        tracing::debug!(socket = %id, user = %claims.user, namespace, "socket connected");
        let reply = encode_connect(namespace, id.as_str());
        let share = self.users.share(&claims.user);
        Ok((Arc::new(Socket::new(local, claims, share)), reply))
    }
}

fn refusal(mounted: &Mounted, error: &AuthError) -> Refusal {
    if *error == AuthError::Unavailable {
        return Refusal::ComeBack;
    }
    let message = match mounted.auth_errors {
        AuthErrors::Plain => error.to_string(),
        AuthErrors::Prefixed => format!("Authentication error: {error}"),
    };
    let data = Reason { code: error.code() }.value();
    Refusal::Answer(encode_connect_error(mounted.name.as_str(), &message, Some(&data)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_handshake_the_first_token_that_is_there_is_kept() {
        let text = |token: &str| Token::Text(token.into());
        assert_eq!(Token::of_handshake(Some("a"), Some("b")), text("a"));
        assert_eq!(Token::of_handshake(Some(""), Some("b")), text("b"));
        assert_eq!(Token::of_handshake(None, Some("")), Token::Missing);
        let longest = "x".repeat(TOKEN_MAX_BYTES);
        assert_eq!(Token::of_handshake(None, Some(&longest)), text(&longest));
        assert_eq!(Token::of_handshake(None, Some(&format!("{longest}x"))), Token::Unreadable);
    }
}
