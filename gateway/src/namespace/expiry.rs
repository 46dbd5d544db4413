//! A socket lives as long as its token, and longer with a newer one (contract, "Identity").

use std::sync::Arc;
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::sio::{Args, encode_disconnect};

use super::dispatch::{Caller, REFRESH};
use super::{Namespaces, Work};
use crate::apps::{Handled, Reply};
use crate::auth::refused;
use crate::clock::iso;
use crate::close::CloseReason;
use crate::describe::forms::{Time, True};
use crate::error::AppError;
use crate::metrics::{self, Limit};
use crate::socket::Socket;

/// A token for the time to come.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct Refresh {
    /// A newer token of the same user.
    token: String,
}

/// How long the socket lives now.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Refreshed {
    /// When the socket ends, unless it is refreshed again.
    #[schemars(with = "Time")]
    expires_at: String,
    /// `true` where the records could not be asked whether the socket may stay in all of its rooms. It stays until they can.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "True")]
    incomplete: Option<bool>,
}

impl Namespaces {
    /// `auth:refresh` `{token}`: the socket lives on under a newer token of the same user. It is answered when every room of
    /// the socket has been judged by the new token: nothing comes after the ack from a room that the token does not open.
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

    /// Ends a socket whose token has expired, where its session has others: `41`, after what was sent to it before.
    pub(crate) fn expire(&self, socket: Arc<Socket>) {
        tracing::debug!(socket = %socket.id(), user = %socket.user(), "token expired");
        self.context.fanout.emit(socket.local(), encode_disconnect(socket.namespace().as_str()));
        drop(self.context.tasks.spawn(self.leave(socket, CloseReason::Forced)));
    }
}
