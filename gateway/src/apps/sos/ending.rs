//! How an incident ends: its raiser or an admin ends it, a rescuer or an admin marks it as false, or it is too old. (Its
//! last participant's leave is told in [`super::stories`].)
//!
//! In one transaction the incident ends, whoever takes part does not any more, and what is to be told of it is written
//! ([`crate::announce`]): `sos:ended` to the room, and to the raiser's own sockets where they do not take part. Then all
//! sockets leave the room. They stay connected: nobody asked for their user to go. There is no `participant:left` for
//! each, since that would be as many events to each of as many sockets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use shared::auth::Claims;
use shared::limits::{DUE_EVERY_MS, INCIDENTS_AT_ONCE};
use shared::names::UserId;

use super::incidents::{self, End, Incident, Reason};
use super::stories::{over, sees_all};
use super::{AGE, Sos, room};
use crate::announce::{Announcement, Audience};
use crate::apps::within;
use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Name, Time, UserIdText};
use crate::error::AppError;
use crate::records::raisers;

/// The event that tells of it.
const ENDED: &str = "sos:ended";

/// An incident has ended.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    reason: Reason,
    /// Who ended it, or marked it as false; left out where nobody did.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UserIdText")]
    ended_by: Option<&'a str>,
    #[schemars(with = "Time")]
    ended_at: String,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

impl<'a> Ended<'a> {
    fn of(sos_id: &'a str, end: &'a End<'_>) -> Self {
        let (ended_at, timestamp) = (iso(end.at_ms), now_ms());
        Self { sos_id, reason: end.reason, ended_by: end.by, ended_at, timestamp }
    }
}

impl Sos {
    /// Who raised an incident, or an admin, ends it.
    ///
    /// # Errors
    /// 403, 404, 409.
    pub(crate) async fn end(self: &Arc<Self>, claims: &Claims, sos_id: &str) -> Result<Incident, AppError> {
        let incident = self.find(sos_id).await?;
        let reason = if incident.user_id == claims.user.as_str() {
            Reason::Raiser
        } else if claims.role.as_deref() == Some("admin") {
            Reason::Admin
        } else {
            return Err(AppError::Forbidden("Only who raised the SOS or an admin may do this".into()));
        };
        self.end_by(claims, incident, reason).await
    }

    /// A rescuer or an admin marks an incident as false: it ends.
    ///
    /// # Errors
    /// 403, 404, 409, 429.
    pub(crate) async fn mark_false(
        self: &Arc<Self>,
        claims: &Claims,
        sos_id: &str,
    ) -> Result<Incident, AppError> {
        if !sees_all(claims) {
            return Err(AppError::Forbidden("Only rescuers and admins may do this".into()));
        }
        within(&self.rates.marks, &claims.user)?;
        let incident = self.find(sos_id).await?;
        self.end_by(claims, incident, Reason::FalseAlarm).await
    }

    async fn find(&self, sos_id: &str) -> Result<Incident, AppError> {
        let records = &self.context.records;
        let found = records.run(incidents::find(records.pool(), sos_id)).await?;
        found.ok_or_else(|| AppError::NotFound("SOS not found".into()))
    }

    async fn end_by(
        self: &Arc<Self>,
        claims: &Claims,
        incident: Incident,
        reason: Reason,
    ) -> Result<Incident, AppError> {
        let (sos, by, at_ms) = (Arc::clone(self), claims.user.as_str().to_owned(), now_ms());
        self.context
            .to_the_end(async move {
                let end = End { reason, by: Some(&by), at_ms };
                if !sos.end_and_tell((&incident.id, &incident.user_id), &end).await? {
                    return Err(over());
                }
                tracing::info!(sos = incident.id, by, reason = ?reason, "an incident was ended");
                Ok(Incident {
                    status: "ENDED".to_owned(),
                    ended_at: Some(iso(at_ms)),
                    ended_by: Some(by.clone()),
                    end_reason: Some(reason),
                    ..incident
                })
            })
            .await
    }

    /// Ends an incident; false where it had ended.
    async fn end_and_tell(&self, incident: (&str, &str), end: &End<'_>) -> Result<bool, AppError> {
        let (records, (sos_id, raiser)) = (&self.context.records, incident);
        let announce = |raiser_is_there| {
            let mut announcements = vec![self.ended(sos_id, end)];
            if let (false, Ok(raiser)) = (raiser_is_there, UserId::parse(raiser)) {
                announcements.push(self.ended_for(Audience::User(raiser), sos_id, end));
            }
            announcements
        };
        let ended = incidents::end(records.pool(), incident, end, announce);
        let Some(announcements) = records.run(ended).await? else { return Ok(false) };
        // Else the room is emptied when it has been told.
        if self.context.announcer.tell(&announcements).await {
            self.empty(sos_id).await;
        }
        Ok(true)
    }

    /// What is told to the room of an incident that has ended.
    pub(super) fn ended(&self, sos_id: &str, end: &End<'_>) -> Announcement {
        let (id, to) = (incidents::announcement_id(sos_id), Audience::Room(room(sos_id)));
        let body = Ended::of(sos_id, end);
        Announcement::known_as(&id, &self.context.announcer, (&self.namespace, to), ENDED, &body)
    }

    fn ended_for(&self, to: Audience, sos_id: &str, end: &End<'_>) -> Announcement {
        Announcement::new(&self.context.announcer, &self.namespace, to, ENDED, &Ended::of(sos_id, end))
    }

    /// All sockets leave the room of an incident that has ended, on all nodes. Where that cannot be done now it is owed.
    pub(super) async fn empty(&self, sos_id: &str) {
        if let Err(error) = self.context.fanout.leave_all(&self.namespace, &room(sos_id)).await {
            tracing::warn!(%error, sos = sos_id, "the room of an ended incident is not empty yet; trying on");
            self.owed.add_room(sos_id);
        }
    }

    /// That the room of an incident that has ended has been told so: before that, no socket leaves it.
    ///
    /// # Errors
    /// [`AppError::Unavailable`] where it has not.
    pub(super) async fn must_be_told(&self, sos_id: &str) -> Result<(), AppError> {
        let records = &self.context.records;
        let untold = records.run(incidents::is_untold(records.pool(), sos_id)).await?;
        if untold { Err(AppError::Unavailable) } else { Ok(()) }
    }

    /// Computes the squares of incidents that an older version raised, so that they are found; at once where none is left.
    pub(super) async fn fill_all_cells(&self) -> Result<(), AppError> {
        let records = &self.context.records;
        while !self.is_filled.load(Ordering::Acquire) {
            let filled = records.run(raisers::fill_cells(records.pool(), incidents::TABLE)).await?;
            self.is_filled.store(filled < INCIDENTS_AT_ONCE, Ordering::Release);
        }
        Ok(())
    }
}

/// That an incident has ended was told late: its node may have died before the room was empty.
pub(super) async fn told_later(sos: &Sos, announcement: &Announcement) {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Which {
        sos_id: String,
    }
    if announcement.event != ENDED {
        return;
    }
    if let Ok(Which { sos_id }) = serde_json::from_str(&announcement.body)
        && announcement.id() == incidents::announcement_id(&sos_id)
    {
        sos.empty(&sos_id).await;
    }
}

/// Ends incidents that are as old as `SOS_AGE` says, and looks for those without a square, until the node stops. Every
/// node does: the records decide which one is first.
pub(super) async fn end_old(sos: Arc<Sos>) {
    loop {
        let pause = DUE_EVERY_MS / 2 + rand::random_range(0..=DUE_EVERY_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if sos.fill_all_cells().await.is_err() {
            continue;
        }
        // An older node that still runs beside this one may raise more of them.
        sos.is_filled.store(false, Ordering::Release);
        let age = sos.context.settings.get(&AGE);
        if age.is_zero() {
            continue;
        }
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        // Failures are logged where they arise; the next look tries again.
        while let Ok(true) = end_some(&sos, now_ms().saturating_sub(age_ms)).await {}
    }
}

/// Ends some incidents that were raised before a time; answers whether there may be more.
async fn end_some(sos: &Sos, before_ms: u64) -> Result<bool, AppError> {
    let records = &sos.context.records;
    let old = records.run(incidents::old(records.pool(), before_ms, INCIDENTS_AT_ONCE)).await?;
    for (sos_id, raiser) in &old {
        let end = End { reason: Reason::Age, by: None, at_ms: now_ms() };
        if sos.end_and_tell((sos_id, raiser), &end).await? {
            tracing::info!(sos = sos_id, "an incident has ended by its age");
        }
    }
    Ok(old.len() == INCIDENTS_AT_ONCE as usize)
}
