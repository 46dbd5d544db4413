//! A socket lives as long as its token, or longer with a newer one (contract, "Identity").

use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::sio::Args;

use super::dispatch::{Caller, REFRESH};
use super::{Namespaces, Work};
use crate::apps::{Handled, Reply};
use crate::auth::refused;
use crate::clock::iso;
use crate::describe::forms::{Time, True};
use crate::error::AppError;
use crate::metrics::{self, Limit};
use crate::socket::Socket;

/// The new token.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "TokenRefresh")]
pub(crate) struct Refresh {
    /// A newer token of the same user.
    token: String,
}

/// How long the socket lives now.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "TokenRefreshed")]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refreshed {
    /// When the socket ends unless it is refreshed again.
    #[schemars(with = "Time")]
    expires_at: String,
    /// `true` if the database could not be asked whether the socket may stay in all of its rooms. It stays until then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
}

impl Namespaces {
    /// `auth:refresh` `{token}`: extends the socket's life with a newer token of the same user. The answer waits until
    /// every room of the socket has been checked with the new token: after the ack, nothing arrives from a room that
    /// the token does not grant.
    pub(super) fn refresh(self: &Arc<Self>, socket: &Arc<Socket>, args: &Args<'_>, caller: Caller) -> Work {
        let body = args.raw.first().and_then(|raw| shared::json::read::<Refresh>(raw).ok());
        let (this, socket) = (Arc::clone(self), Arc::clone(socket));
        Work::Later(Box::pin(async move {
            let handled = match body {
                Some(Refresh { token }) => this.renew(&socket, &token).await,
                None => Err(AppError::BadInput("Expected {token}".into())),
            };
            caller.answer(handled)
        }))
    }

    async fn renew(&self, socket: &Arc<Socket>, token: &str) -> Handled {
        let verified = self.context.tokens.verify(token).await;
        let claims = verified.inspect_err(|error| refused(error, REFRESH, None))?;
        if claims.user != *socket.user() {
            return Err(AppError::Forbidden("Token is of another user".into()));
        }
        let has_same_rights = socket.claims().has_same_rights(&claims);
        if !has_same_rights && !self.renewals.take(claims.user.clone(), Instant::now()) {
            metrics::get().rate_limited(Limit::UserRate);
            return Err(AppError::Limited("Too many requests".into(), 1));
        }
        let expires_at = iso(claims.expires_at.saturating_mul(1_000));
        socket.renew(claims);
        let is_judged = has_same_rights || self.review_socket(socket).await;
        for app in self.apps_of(socket.namespace().as_str()) {
            if let Some(hook) = app.on_renewed(socket) {
                hook.await;
            }
        }
        Ok(Reply::success(&Refreshed { expires_at, incomplete: (!is_judged).then_some(true) }))
    }
}
