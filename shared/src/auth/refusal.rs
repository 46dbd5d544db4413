//! Why a token is refused: the texts for its client and for the operator.

use jsonwebtoken::errors::ErrorKind;

use super::claims::BadClaim;

/// Why a token is refused. The texts are the contract's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// There is no token.
    #[error("Authentication required")]
    Missing,
    /// Not a token, not signed by our key, or with invalid claims.
    #[error("Invalid token")]
    Invalid(Fault),
    /// It has expired.
    #[error("Token expired")]
    Expired,
    /// Signed by our key, but not valid yet.
    #[error("Invalid token")]
    Early,
    /// Signed by a key that the set does not contain: worth one fetch of a newer set.
    #[error("Invalid token")]
    UnknownKey,
    /// The keys could not be fetched, so its validity is unknown.
    #[error("Service temporarily unavailable")]
    Unavailable,
}

/// What is wrong with an invalid token, for the operator. The client gets the same text for all of
/// them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Longer than the limit.
    Length,
    /// Not three parts of base64url, the first two of them JSON objects.
    Form,
    /// Another algorithm than that of the key.
    Algorithm,
    /// It has an unknown critical extension.
    Extension,
    /// Signed by another key, or altered.
    Signature,
    /// From another issuer than `JWT_ISSUER`.
    Issuer,
    /// For another audience than `JWT_AUDIENCE`.
    Audience,
    /// The claim of this name holds no user's id, or is absent.
    User(Box<str>),
    /// `exp` or `nbf` is not a time, or `exp` is absent.
    Time(&'static str),
}

impl From<BadClaim> for Fault {
    fn from(bad: BadClaim) -> Self {
        match bad {
            BadClaim::User(claim) => Self::User(claim),
            BadClaim::Expiry => Self::Time("exp"),
        }
    }
}

impl From<jsonwebtoken::errors::Error> for Fault {
    fn from(error: jsonwebtoken::errors::Error) -> Self {
        match error.into_kind() {
            ErrorKind::InvalidSignature => Self::Signature,
            ErrorKind::InvalidAlgorithm => Self::Algorithm,
            ErrorKind::InvalidIssuer => Self::Issuer,
            ErrorKind::InvalidAudience => Self::Audience,
            ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => Self::Issuer,
            ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => Self::Audience,
            _ => Self::Form,
        }
    }
}

impl AuthError {
    /// The stable code in a refusal's `data`.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing => "auth_required",
            Self::Invalid(_) | Self::Early | Self::UnknownKey => "invalid_token",
            Self::Expired => "token_expired",
            Self::Unavailable => "unavailable",
        }
    }

    /// The text for the operator, in the log and in `muster_tokens_refused_total`.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::Early => "not_yet_valid",
            Self::UnknownKey => "unknown_key",
            Self::Unavailable => "no_key_set",
            Self::Invalid(fault) => match fault {
                Fault::Length => "too_long",
                Fault::Form => "malformed",
                Fault::Algorithm => "algorithm",
                Fault::Extension => "extension",
                Fault::Signature => "signature",
                Fault::Issuer => "issuer",
                Fault::Audience => "audience",
                Fault::User(_) => "user_id",
                Fault::Time(_) => "time",
            },
        }
    }

    /// Every [`Self::reason`].
    pub const REASONS: [&'static str; 14] = [
        "missing",
        "expired",
        "not_yet_valid",
        "unknown_key",
        "no_key_set",
        "too_long",
        "malformed",
        "algorithm",
        "extension",
        "signature",
        "issuer",
        "audience",
        "user_id",
        "time",
    ];

    /// The name of the claim at fault.
    #[must_use]
    pub fn claim(&self) -> Option<&str> {
        match self {
            Self::Expired => Some("exp"),
            Self::Early => Some("nbf"),
            Self::Invalid(Fault::Issuer) => Some("iss"),
            Self::Invalid(Fault::Audience) => Some("aud"),
            Self::Invalid(Fault::User(claim)) => Some(&**claim),
            Self::Invalid(Fault::Time(claim)) => Some(*claim),
            _ => None,
        }
    }
}
