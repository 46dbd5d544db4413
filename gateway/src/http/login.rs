//! `POST /api/v1/auth/login`: exchanges e-mail and password for a token (contract, "Identity").

use std::net::IpAddr;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use axum::http::header;
use axum::response::IntoResponse;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::limits::{CREDENTIAL_MAX_BYTES, LOGIN_TOKEN_LIFE_S, PASSWORD_HASHES_WAITING};

use super::{ClientAddress, Site};
use crate::auth::{Attempt, Attempts, Busy, Turn, Turns, password};
use crate::clock::now_s;
use crate::context::Context;
use crate::describe::Operation;
use crate::describe::forms::{True, UserIdText};
use crate::error::AppError;
use crate::metrics::{self, Limit};
use crate::records::users::{self, User};
use crate::rest::{JsonBody, Routes};

/// The endpoint's path.
pub(super) const PATH: &str = "/api/v1/auth/login";

/// The login endpoint. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    context: Context,
    attempts: Arc<Attempts>,
    turns: Turns,
    /// The hash for unknown e-mails, so that a login takes as long as with a known one.
    decoy: Arc<str>,
}

/// Why logins cannot be offered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoginError {
    #[error("cannot hash passwords: {0}")]
    Hash(#[from] argon2::password_hash::Error),
    #[error("cannot start the threads that hash passwords: {0}")]
    Threads(#[from] std::io::Error),
}

/// Credentials.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Credentials {
    /// Not case-sensitive; 256 bytes at most.
    email: String,
    /// 256 bytes at most.
    password: String,
}

/// The token and the user.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LoginResult")]
pub(crate) struct LoggedIn {
    #[schemars(with = "True")]
    success: bool,
    /// Valid for an hour.
    token: String,
    user: Shown,
}

/// A user of the records.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "User")]
struct Shown {
    #[schemars(with = "UserIdText")]
    id: String,
    email: String,
    name: String,
    role: Option<String>,
    avatar: Option<String>,
}

/// The endpoint.
pub(super) fn routes() -> Routes<Site> {
    Routes::new().route(
        Operation::post(PATH, "Exchanges e-mail and password for a token.")
            .id("logInUser")
            .detail(
                "Users are made by `gateway user add`. Off where tokens are made elsewhere \
                 (`JWT_PUBLIC_KEY`, `JWKS_URL`).",
            )
            .body::<Credentials>()
            .answer::<LoggedIn>(200, "The token and its user.")
            .refuse_all(
                400,
                &[
                    "Email and password are required",
                    "Email or password too long",
                    "Email contains a null character",
                ],
            )
            .refuse(401, "Invalid credentials")
            .refuse(404, "Not found")
            .refuse_all(429, &["Too many failed logins", "Too many logins, try again"]),
        log_in,
    )
}

async fn log_in(
    State(site): State<Site>,
    Extension(ClientAddress(address)): Extension<ClientAddress>,
    JsonBody(credentials): JsonBody<Credentials>,
) -> Result<impl IntoResponse, AppError> {
    let logged_in = site.login.log_in(credentials, address).await?;
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(logged_in)))
}

impl Login {
    /// # Errors
    /// If no password can be hashed, or the system provides no threads.
    pub(crate) fn new(context: Context) -> Result<Self, LoginError> {
        // Without a key to sign tokens there are no logins, so no threads are needed.
        let hashers = if context.tokens.can_sign() { password::hashers()? } else { Vec::new() };
        Ok(Self {
            attempts: Arc::new(Attempts::new(context.fanout.clone())),
            turns: Turns::new(hashers, PASSWORD_HASHES_WAITING),
            decoy: password::hash("decoy")?.into(),
            context,
        })
    }

    /// Exchanges credentials for a token. Dropping the future while it waits for its turn cancels it. After that it
    /// runs to completion, so that a client cannot hide a failure by disconnecting.
    ///
    /// # Errors
    /// 400, 401, 404 if the node cannot sign tokens, 429 after too many failures ([`Attempts`]) or during too many
    /// other logins, 503.
    pub(crate) async fn log_in(
        &self,
        credentials: Credentials,
        address: IpAddr,
    ) -> Result<LoggedIn, AppError> {
        if !self.context.tokens.can_sign() {
            return Err(AppError::NotFound("Not found".into()));
        }
        let Credentials { email, password } = credentials;
        let email = users::normal_email(&email);
        if email.is_empty() || password.is_empty() {
            return Err(AppError::BadInput("Email and password are required".into()));
        }
        if email.len() > CREDENTIAL_MAX_BYTES || password.len() > CREDENTIAL_MAX_BYTES {
            return Err(AppError::BadInput("Email or password too long".into()));
        }
        if email.contains('\0') {
            return Err(AppError::BadInput("Email contains a null character".into()));
        }
        let attempt = Attempt::new(&email, address);
        let is_known = self.attempts.admit(&attempt).await.map_err(failed_too_often)?;
        let turn = self.turns.turn(address, is_known).await.map_err(|Busy| too_many_at_once())?;
        let this = self.clone();
        let comparison = async move { this.compare(turn, attempt, (&email, password)).await };
        self.context.to_the_end(comparison).await
    }

    async fn compare(
        &self,
        turn: Turn,
        attempt: Attempt,
        (email, password): (&str, String),
    ) -> Result<LoggedIn, AppError> {
        // Other attempts may have failed while this one waited.
        self.attempts.wait(&attempt).map_err(failed_too_often)?;
        let user = users::find(&self.context.records, email).await?;
        let stored: Arc<str> =
            user.as_ref().map_or_else(|| Arc::clone(&self.decoy), |user| user.password_hash.as_str().into());
        let matches = turn.matches(password, stored).await;
        let matches = matches.ok_or_else(|| AppError::internal(&"a password could not be hashed"))?;
        if let Some(user) = user.filter(|_| matches) {
            let shared = self.attempts.succeeded(&attempt);
            drop(turn);
            shared.await;
            self.token(user)
        } else {
            // Counted on this node before the next login gets its turn.
            let shared = self.attempts.failed(&attempt);
            drop(turn);
            shared.await;
            Err(AppError::Unauthorized("Invalid credentials".into()))
        }
    }

    fn token(&self, user: User) -> Result<LoggedIn, AppError> {
        let now = now_s();
        let claims = json!({
            "sub": user.id,
            "email": user.email,
            "name": user.name,
            "role": user.role,
            "avatar": user.avatar,
            "iat": now,
            "exp": now + LOGIN_TOKEN_LIFE_S,
        });
        let token = self.context.tokens.sign(claims).ok_or(AppError::Internal)?;
        let User { id, email, name, role, avatar, .. } = user;
        Ok(LoggedIn { success: true, token, user: Shown { id, email, name, role, avatar } })
    }
}

fn failed_too_often(seconds: u64) -> AppError {
    metrics::get().rate_limited(Limit::Logins);
    AppError::Limited("Too many failed logins".into(), seconds)
}

fn too_many_at_once() -> AppError {
    metrics::get().rate_limited(Limit::PasswordHashes);
    // Spread, so that the refused clients do not all return at once.
    AppError::Limited("Too many logins, try again".into(), rand::random_range(1..=5))
}
