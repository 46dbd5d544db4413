//! `POST /api/v1/auth/login`: e-mail and password for a token (contract, "Identity").

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use shared::limits::{
    CREDENTIAL_MAX_BYTES, LOGIN_FAILURES_PER_MINUTE, LOGIN_KEYS_MAX, LOGIN_TOKEN_LIFE_S,
    PASSWORD_HASHES_AT_ONCE,
};
use tokio::sync::Semaphore;

use crate::auth::password;
use crate::clock::now_s;
use crate::context::Context;
use crate::describe::forms::{Name, True};
use crate::describe::{Operation, Section};
use crate::error::AppError;
use crate::limiter::{Failures, source};
use crate::metrics::{self, Limit};
use crate::records::users::{self, User};

/// The desk where people log in.
#[derive(Debug, Clone)]
pub(crate) struct Login {
    context: Context,
    failures: Arc<Failures>,
    hashing: Arc<Semaphore>,
    /// What an unknown e-mail's password is compared with, so that it takes as long as a known one's.
    decoy: Arc<str>,
}

/// Credentials.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Credentials {
    /// In any case of letters; 256 bytes at most.
    email: String,
    /// 256 bytes at most.
    password: String,
}

/// Who has logged in.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct LoggedIn {
    #[schemars(with = "True")]
    success: bool,
    /// Good for an hour.
    token: String,
    user: Shown,
}

/// A user of the records.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "User")]
struct Shown {
    #[schemars(with = "Name")]
    id: String,
    email: String,
    name: String,
    role: Option<String>,
    avatar: Option<String>,
}

/// Describes the route.
pub(super) fn describe(section: &mut Section) {
    section.operation(
        Operation::post("/api/v1/auth/login", "Exchanges e-mail and password for a token.")
            .detail(
                "Users are made by `gateway user add`. Off where tokens are made elsewhere \
                 (`JWT_PUBLIC_KEY`, `JWKS_URL`).",
            )
            .body::<Credentials>()
            .answer::<LoggedIn>(200, "The token, and whose it is.")
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
            .refuse(429, "Too many failed logins"),
    );
}

impl Login {
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn new(context: Context) -> Result<Self, argon2::password_hash::Error> {
        Ok(Self {
            context,
            failures: Arc::new(Failures::new(LOGIN_FAILURES_PER_MINUTE, LOGIN_KEYS_MAX)),
            hashing: Arc::new(Semaphore::new(PASSWORD_HASHES_AT_ONCE)),
            decoy: password::hash("decoy")?.into(),
        })
    }

    /// Exchanges credentials for a token.
    ///
    /// # Errors
    /// 400, 401, 404 where the node cannot sign, 429 after five failures of the e-mail or the address within
    /// a minute, 503.
    pub(crate) async fn log_in(
        &self,
        credentials: Credentials,
        address: IpAddr,
    ) -> Result<LoggedIn, AppError> {
        if !self.context.tokens.can_sign() {
            return Err(AppError::NotFound("Not found".into()));
        }
        let Credentials { email, password } = credentials;
        let email = email.trim().to_lowercase();
        if email.is_empty() || password.is_empty() {
            return Err(AppError::BadInput("Email and password are required".into()));
        }
        if email.len() > CREDENTIAL_MAX_BYTES || password.len() > CREDENTIAL_MAX_BYTES {
            return Err(AppError::BadInput("Email or password too long".into()));
        }
        if email.contains('\0') {
            return Err(AppError::BadInput("Email contains a null character".into()));
        }
        let keys = [format!("e {email}"), format!("a {}", source(address))];
        self.must_not_be_blocked(&keys)?;
        // Waiting for a place to hash, others may have failed.
        let place = Arc::clone(&self.hashing).acquire_owned().await.map_err(|e| AppError::internal(&e))?;
        self.must_not_be_blocked(&keys)?;
        let user = users::find(&self.context.records, &email).await?;
        let stored: Arc<str> =
            user.as_ref().map_or_else(|| Arc::clone(&self.decoy), |user| user.password_hash.as_str().into());
        let matches = tokio::task::spawn_blocking(move || {
            let matches = password::matches(&password, &stored);
            drop(place);
            matches
        });
        let matches = matches.await.map_err(|error| AppError::internal(&error))?;
        match user.filter(|_| matches) {
            Some(user) => self.token(user),
            None => {
                let now = Instant::now();
                keys.into_iter().for_each(|key| self.failures.add(key, now));
                Err(AppError::Unauthorized("Invalid credentials".into()))
            }
        }
    }

    fn must_not_be_blocked(&self, keys: &[String]) -> Result<(), AppError> {
        let now = Instant::now();
        match keys.iter().filter_map(|key| self.failures.blocked(key, now)).max() {
            None => Ok(()),
            Some(seconds) => {
                metrics::get().rate_limited(Limit::Logins);
                Err(AppError::Limited("Too many failed logins".into(), seconds))
            }
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
