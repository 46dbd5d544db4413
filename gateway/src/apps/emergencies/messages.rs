//! Private messages between an owner and the helpers of an emergency.

use std::sync::Arc;

use shared::auth::Claims;
use shared::names::UserId;
use uuid::Uuid;

use super::emergency::{Emergency, HelperStatus, Message, SenderRole, ShownMessage, is_admin};
use super::events::{NewMessage, Sent};
use super::limits::EMERGENCY_HELPERS_MAX;
use super::store::{self, Changed};
use super::{Emergencies, within};
use crate::apps::{Handled, Reply};
use crate::clock::now_ms;
use crate::error::AppError;
use crate::jobs::{Audience, Job};
use crate::socket::Socket;

/// Stores a message and sends it to its recipients and to the sender's other sockets.
pub(super) async fn send(app: &Arc<Emergencies>, socket: &Arc<Socket>, new: NewMessage) -> Handled {
    within(&app.rates.messages, socket.user())?;
    let emergency = app.find(&new.emergency_id).await?;
    let sender = socket.user().as_str();
    let records = &app.context.records;
    let is_owner = emergency.owner.id == sender;
    let mut recipients: Vec<String> = if is_owner {
        let to = new.recipient_id.as_deref();
        let meant = records.run(store::responding(records.pool(), &emergency.id, to)).await?;
        if meant.is_empty() {
            return Err(AppError::NotFound("No such helper".into()));
        }
        meant
    } else {
        // In an anonymous emergency, refuse every named recipient. Otherwise helpers could guess the owner by
        // trial.
        let named = new.recipient_id.as_ref();
        let to_owner = named.is_none_or(|to| !emergency.anonymous && *to == emergency.owner.id);
        let helper = records.run(store::find_helper(records.pool(), &emergency.id, sender)).await?;
        if !to_owner || !helper.is_some_and(|helper| helper.status != HelperStatus::Cancelled) {
            return Err(AppError::Forbidden("Not authorized to write in this emergency".into()));
        }
        vec![emergency.owner.id.clone()]
    };
    let most = EMERGENCY_HELPERS_MAX as usize;
    let truncated = recipients.len() > most;
    recipients.truncate(most);
    let message = Message {
        id: Uuid::now_v7().to_string(),
        emergency_id: emergency.id.clone(),
        sender_id: sender.to_owned(),
        sender_role: if is_owner { SenderRole::Owner } else { SenderRole::Helper },
        recipient_id: if is_owner { new.recipient_id.clone() } else { Some(emergency.owner.id.clone()) },
        message: new.message,
        created_at_ms: now_ms(),
    };
    let body = message.shown(&emergency);
    let to = |user: UserId| app.event(&emergency.id, Audience::User(user), "emergency:message", &body);
    let mut jobs: Vec<Job> =
        recipients.iter().filter_map(|id| Some(to(UserId::parse(id).ok()?).into())).collect();
    jobs.push(to(socket.user().clone()).except(socket.id()).into());
    let batch = app.context.jobs.batch(jobs);
    let (app, stored) = (Arc::clone(app), message.clone());
    let context = app.context.clone();
    let realtime = context
        .to_the_end(async move {
            let records = &app.context.records;
            let added = store::add_message(records.pool(), &stored, &batch);
            match records.run(added).await? {
                Changed::Yes => Ok(batch.run().await.is_done),
                Changed::Same | Changed::Over | Changed::NotTheirs => {
                    Err(AppError::WrongState("Emergency is over".into()))
                }
            }
        })
        .await?;
    let realtime = (!realtime).then_some(false);
    Ok(Reply::success(&Sent { message: message.shown(&emergency), realtime, truncated }))
}

impl Emergencies {
    /// A page of an emergency's messages, newest first: all of them for the owner and admins; for a helper, those
    /// between the owner and them.
    pub(crate) async fn messages<T>(
        &self,
        claims: &Claims,
        id: &str,
        page: (Option<&str>, u32),
        show: impl FnOnce(Vec<ShownMessage<'_>>) -> T,
    ) -> Result<T, AppError> {
        let emergency: Emergency = self.find(id).await?;
        let user = claims.user.as_str();
        let whose = if emergency.is_of(claims) || is_admin(claims) {
            None
        } else {
            let records = &self.context.records;
            let helper = records.run(store::find_helper(records.pool(), id, user)).await?;
            // A helper who cancelled may no longer read messages.
            if !helper.is_some_and(|helper| helper.status != HelperStatus::Cancelled) {
                return Err(AppError::Forbidden("Not authorized to read these messages".into()));
            }
            Some(user)
        };
        let records = &self.context.records;
        let found = records.run(store::messages(records.pool(), id, whose, page)).await?;
        let shown: Vec<_> = found.iter().map(|message| message.shown(&emergency)).collect();
        Ok(show(shown))
    }
}
