//! A socket lives as long as its token, and longer with a newer one (contract, "Identity").

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::sio::{Args, encode_disconnect};

use super::dispatch::Caller;
use super::{Namespaces, Work};
use crate::apps::{Handled, Reply};
use crate::clock::iso;
use crate::close::CloseReason;
use crate::context::Context;
use crate::describe::forms::Time;
use crate::error::AppError;
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
}

impl Namespaces {
    /// `auth:refresh` `{token}`: the socket lives on under a newer token of the same user.
    pub(super) fn refresh(&self, socket: &Arc<Socket>, args: &Args<'_>, caller: Caller) -> Work {
        let body = args.raw.first().and_then(|raw| serde_json::from_str::<Refresh>(raw).ok());
        let (context, socket) = (self.context.clone(), Arc::clone(socket));
        let mounted = self.find(socket.namespace().as_str());
        Work::Later(Box::pin(async move {
            let handled = match body {
                Some(Refresh { token }) => renew(&context, &socket, &token).await,
                None => Err(AppError::BadInput("Expected {token}".into())),
            };
            if handled.is_ok() {
                for app in mounted.iter().flat_map(|mounted| &mounted.apps) {
                    app.on_renewed(&socket).await;
                }
            }
            caller.answer(handled)
        }))
    }

    /// Ends a socket whose token has expired: `41`, after what was sent to it before.
    pub(crate) fn expire(&self, socket: Arc<Socket>) {
        tracing::debug!(socket = %socket.id(), user = %socket.user(), "token expired");
        self.context.fanout.emit(socket.local(), encode_disconnect(socket.namespace().as_str()));
        drop(self.context.tasks.spawn(self.leave(socket, CloseReason::Forced)));
    }
}

async fn renew(context: &Context, socket: &Socket, token: &str) -> Handled {
    let claims = context.tokens.verify(token).await?;
    if claims.user != *socket.user() {
        return Err(AppError::Forbidden("Token is of another user".into()));
    }
    let expires_at = iso(claims.expires_at.saturating_mul(1_000));
    socket.renew(claims);
    Ok(Reply::success(&Refreshed { expires_at }))
}
