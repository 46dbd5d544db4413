//! CONNECT: verifies the token and creates the socket (protocol, 2.2; contract, "Identity").

use std::sync::Arc;

use fanout::{FanoutError, Hold, PreparedSocket, SendQueue, SocketInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::auth::{AuthError, Claims, Fault};
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
use crate::users::Share;

/// What the first request of a session contained.
#[derive(Debug, Clone)]
pub(crate) struct Handshake {
    pub(crate) origin: Origin,
    /// A token in the query, otherwise in the `Authorization` header.
    pub(crate) token: Token,
}

/// A token that is not verified yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
    Missing,
    /// It is not text, or longer than any token may be.
    Unreadable,
    /// It was verified before, and refused.
    Refused(AuthError),
    Text(Box<str>),
}

impl Token {
    /// The token of a handshake: the first non-empty one of these. It is kept as long as its session, so for one that
    /// is too long only that fact is kept.
    pub(crate) fn of_handshake(query: Option<&str>, bearer: Option<&str>) -> Self {
        match [query, bearer].into_iter().flatten().find(|token| !token.is_empty()) {
            None => Self::Missing,
            Some(token) if token.len() > TOKEN_MAX_BYTES => Self::Unreadable,
            Some(token) => Self::Text(token.into()),
        }
    }

    /// Replaces a long token by the reason of its refusal, if it is refused. A short one is kept unverified until
    /// CONNECT: it takes little memory, and most are valid.
    pub(crate) async fn weighed(self, tokens: &Tokens) -> Self {
        match self {
            Self::Text(token) if token.len() > HANDSHAKE_TOKEN_MAX_BYTES => match tokens.verify(&token).await
            {
                // The node's issuer signed it, so strangers cannot create such tokens.
                Ok(_) | Err(AuthError::Early) => Self::Text(token),
                Err(error) => Self::Refused(error),
            },
            token => token,
        }
    }
}

/// Why CONNECT was refused.
// As `encode_connect_error` writes it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "the encoder takes the parts")]
pub(crate) struct ConnectError {
    /// `Authentication required`, `Invalid token`, `Token expired`, with the prefix `Authentication error: ` if
    /// `AUTH_ERRORS` sets it; `Too many connections`; `Invalid namespace`.
    message: String,
    /// Absent for a namespace that does not exist.
    #[schemars(with = "Reason", skip_serializing_if = "Option::is_none")]
    data: Option<Reason>,
}

/// The reason for programs.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ConnectErrorData")]
pub(crate) struct Reason {
    #[schemars(extend("enum" = ["auth_required", "invalid_token", "token_expired", "too_many_sockets"]))]
    code: &'static str,
}

impl Reason {
    fn value(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }
}

/// The answer to a refused client.
pub(crate) enum Refusal {
    /// This answer; the client does not retry by itself.
    Answer(Encoded),
    /// None: its connection is closed, which makes it reconnect. Its token may be valid, but the node cannot verify it
    /// now.
    ComeBack,
}

#[derive(Deserialize)]
struct Auth {
    token: Option<serde_json::Value>,
}

/// A client that may enter a namespace. Its socket is not published yet.
pub(crate) struct Admitted<'a> {
    namespace: &'a str,
    prepared: PreparedSocket<'a>,
    id: SocketId,
    claims: Claims,
    share: Arc<Share>,
    /// The namespace's apps place sockets in rooms before the client learns that it is connected.
    is_held: bool,
}

/// A published socket, with its client's answer queued.
pub(crate) struct Connected {
    pub(crate) socket: Arc<Socket>,
    /// The queue holds the answer back until this is dropped; `None` if the answer leaves at once.
    pub(crate) hold: Option<Hold>,
}

impl Admitted<'_> {
    /// The namespace's name.
    pub(crate) fn namespace(&self) -> &str {
        self.namespace
    }

    /// Publishes the socket after queuing its client's answer, so that everything sent to the socket follows the
    /// answer.
    pub(crate) fn enter(self, queue: &Arc<SendQueue>) -> Result<Connected, Refusal> {
        let (namespace, id) = (self.namespace, self.id);
        let mut hold = None;
        let answer = || {
            let answer = encode_connect(namespace, id.as_str()).into_wire();
            if self.is_held {
                hold = Some(queue.hold());
                queue.answer(answer);
            } else {
                queue.send(answer, 1);
            }
        };
        let local = self.prepared.attach(Arc::clone(queue), answer);
        let local = local.map_err(|error| Refusal::of_fanout(error, namespace))?;
        tracing::debug!(socket = %id, user = %self.claims.user, namespace, "socket connected");
        Ok(Connected { socket: Arc::new(Socket::new(local, self.claims, self.share)), hold })
    }
}

impl Namespaces {
    /// The token of a CONNECT: the one in its auth payload unless that is empty, otherwise the handshake's.
    pub(crate) fn token_of(&self, auth: Option<&str>, handshake: &Handshake) -> Token {
        match auth.and_then(|auth| shared::json::read::<Auth>(auth).ok()?.token) {
            Some(serde_json::Value::String(token)) if !token.is_empty() => Token::Text(token.into()),
            Some(serde_json::Value::Null | serde_json::Value::String(_)) | None => handshake.token.clone(),
            Some(_) => Token::Unreadable,
        }
    }

    /// Decides whether a client may enter a namespace. Calls `prove` once the token is verified; it returns whether the
    /// session still has a slot.
    pub(crate) async fn admit<'a>(
        &'a self,
        mounted: &'a Mounted,
        (token, handshake): (Token, &Handshake),
        prove: &(dyn Fn() -> bool + Sync),
    ) -> Result<Admitted<'a>, Refusal> {
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
            // The session is closed, so its client does not read this.
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
        let prepared = self.context.fanout.prepare(namespace, info).await;
        let prepared = prepared.map_err(|error| Refusal::of_fanout(error, namespace))?;
        let share = self.users.share(&claims.user);
        Ok(Admitted { namespace, prepared, id, claims, share, is_held: mounted.holds_connect })
    }
}

impl Refusal {
    fn of_fanout(error: FanoutError, namespace: &str) -> Self {
        Self::Answer(match error {
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
    fn the_first_token_of_a_handshake_is_kept() {
        let text = |token: &str| Token::Text(token.into());
        assert_eq!(Token::of_handshake(Some("a"), Some("b")), text("a"));
        assert_eq!(Token::of_handshake(Some(""), Some("b")), text("b"));
        assert_eq!(Token::of_handshake(None, Some("")), Token::Missing);
        let longest = "x".repeat(TOKEN_MAX_BYTES);
        assert_eq!(Token::of_handshake(None, Some(&longest)), text(&longest));
        assert_eq!(Token::of_handshake(None, Some(&format!("{longest}x"))), Token::Unreadable);
    }
}
