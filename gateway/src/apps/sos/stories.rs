//! The operations on incidents: raising, joining, leaving and listing participants. The REST API and the internal
//! API share them.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::names::UserId;
use uuid::Uuid;

use super::incidents::{self, End, Incident, Opened, Reason};
use super::limits::{ACTIVE_PARTICIPANTS_MAX, SOS_TEXT_MAX};
use super::participants::{Entry, Participant, USER_TYPES};
use super::store::{self, Before, Entered, Of};
use super::{Sos, room};
use crate::apps::{limited, reconciler, within};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Name, Time, UserIdText};
use crate::error::AppError;
use crate::geo::Degrees;
use crate::jobs::{Audience, Batch, Job};
use crate::records::{Cursor, Looked};
use crate::text::bounded;

/// A new participant.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipantJoined")]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    #[schemars(extend("enum" = USER_TYPES))]
    user_type: &'a str,
    display_name: &'a str,
    #[schemars(with = "Time")]
    joined_at: &'a str,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// A participant who has left.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "ParticipantLeft")]
#[serde(rename_all = "camelCase")]
pub(super) struct Left<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    #[schemars(with = "UserIdText")]
    user_id: &'a str,
    #[schemars(with = "Time")]
    left_at: String,
    #[schemars(with = "Millis")]
    timestamp: u64,
}

/// The facts of a new incident.
#[derive(Debug, Default)]
pub(crate) struct Raised {
    pub(crate) latitude: Option<f64>,
    pub(crate) longitude: Option<f64>,
    pub(crate) description: Option<String>,
}

/// The outcome of joining.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) record: Participant,
    /// Whether the user has newly joined.
    pub(crate) is_new: bool,
    /// Whether their sockets are in the room on all nodes. If not, a job moves them later.
    pub(crate) is_done: bool,
}

/// An incident and its distance.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NearbyIncident")]
pub(crate) struct Near {
    #[serde(flatten)]
    incident: Incident,
    /// Whole metres.
    distance: f64,
}

/// Whether a user may see every incident.
pub(crate) fn sees_all(claims: &Claims) -> bool {
    matches!(claims.role.as_deref(), Some("rescuer" | "admin"))
}

/// The default type of a user in an incident.
pub(crate) fn default_type(claims: &Claims) -> &'static str {
    type_of(claims.role.as_deref())
}

/// The user type of a role.
pub(crate) fn type_of(role: Option<&str>) -> &'static str {
    USER_TYPES.into_iter().find(|kind| Some(*kind) == role).unwrap_or("citizen")
}

impl Sos {
    /// Raises an incident. Its raiser joins it.
    pub(crate) async fn raise(
        self: &Arc<Self>,
        claims: &Claims,
        raised: Raised,
    ) -> Result<Incident, AppError> {
        within(&self.rates.raises, &claims.user)?;
        let description =
            raised.description.map(|text| bounded(&text, "Description", SOS_TEXT_MAX)).transpose()?;
        match (raised.latitude, raised.longitude) {
            (None, None) => {}
            (Some(latitude), Some(longitude)) => drop(Degrees { latitude, longitude }.place()?),
            _ => return Err(AppError::BadInput("Invalid latitude or longitude".into())),
        }
        let now = now_ms();
        let incident = Incident {
            id: Uuid::now_v7().to_string(),
            user_id: claims.user.as_str().to_owned(),
            latitude: raised.latitude,
            longitude: raised.longitude,
            description,
            status: "ACTIVE".to_owned(),
            created_at: iso(now),
            ended_at: None,
            ended_by: None,
            end_reason: None,
        };
        let entry = Entry {
            sos_id: incident.id.clone(),
            user_id: claims.user.clone(),
            user_type: default_type(claims),
            display_name: claims.display_name.to_string(),
            actor_type: actor_type(claims),
            joined_at_ms: now,
        };
        let sos = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &sos.context.records;
                let follow = |record: &Participant| sos.after_entry(record, &entry.user_id);
                let raised = incidents::raise(records.pool(), &incident, &entry, follow);
                match records.run(raised).await? {
                    Opened::Yes(batch) => batch.run().await,
                    Opened::Limited(seconds) => return Err(limited(seconds)),
                };
                Ok(incident)
            })
            .await
    }

    /// A page of the active incidents around a place, with the cursor of the next page. Each user's nearest
    /// incident comes before any user's second one, nearest first.
    ///
    /// # Errors
    /// 429 when the user asks too often.
    pub(crate) async fn nearby(
        &self,
        user: &UserId,
        looked: &Looked,
    ) -> Result<(Vec<Near>, Option<Cursor>), AppError> {
        within(&self.rates.looks, user)?;
        let records = &self.context.records;
        self.squares.fill(records, incidents::TABLE).await?;
        let page = records.run(incidents::near(records.pool(), looked)).await?;
        let near = page.near.into_iter().map(|(incident, distance)| Near { incident, distance });
        Ok((near.collect(), page.next))
    }

    /// Stores a participation and moves the user's sockets into the room. If it is new, the room receives an event.
    ///
    /// # Errors
    /// 409 when the incident has ended.
    pub(crate) async fn join(self: &Arc<Self>, entry: Entry) -> Result<Joining, AppError> {
        let sos = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &sos.context.records;
                let follow = |record: &Participant| sos.after_entry(record, &entry.user_id);
                let entered = records.run(store::enter(records.pool(), &entry, follow)).await?;
                let Entered::Yes(record, batch) = entered else { return Err(over()) };
                let is_new = batch.is_some();
                let is_done = match batch {
                    Some(batch) => batch.run().await.is_done,
                    // The caller may retry because not all sockets had entered.
                    None => reconciler::place(&*sos, &record.sos_id, &entry.user_id).await,
                };
                Ok(Joining { record: *record, is_new, is_done })
            })
            .await
    }

    /// The jobs after a new participation: the user's sockets enter the room, then the room receives the event.
    fn after_entry(&self, record: &Participant, user: &UserId) -> Batch {
        let body = Joined {
            sos_id: &record.sos_id,
            user_id: &record.user_id,
            user_type: &record.user_type,
            display_name: &record.display_name,
            joined_at: &record.joined_at,
            timestamp: now_ms(),
        };
        let enter = reconciler::job::<Self>(&record.sos_id, user);
        self.context.jobs.batch([enter, self.to_room(&record.sos_id, "participant:joined", &body)])
    }

    /// An event for the room of an incident.
    fn to_room(&self, sos_id: &str, event: &str, body: &impl Serialize) -> Job {
        let subject = reconciler::subject_of::<Self>(sos_id);
        Job::event_to(&subject, (&self.namespace, Audience::Room(room(sos_id))), event, body).into()
    }

    /// Ends a participation. Returns whether the user's sockets have left the room on all nodes. If not, a job
    /// removes them later.
    ///
    /// # Errors
    /// 404 when the user does not participate.
    pub(crate) async fn leave(
        self: &Arc<Self>,
        sos_id: String,
        user: UserId,
        at_ms: u64,
    ) -> Result<bool, AppError> {
        let sos = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &sos.context.records;
                let end = End { reason: Reason::Left, by: None, at_ms: now_ms() };
                let leave = (sos_id.as_str(), user.as_str(), at_ms);
                let follow =
                    |is_last: bool| sos.after_leave((&sos_id, &user, at_ms), is_last.then_some(&end));
                let left = store::leave(records.pool(), leave, &end, follow);
                let Some(batch) = records.run(left).await? else {
                    // A socket may still be in the room.
                    reconciler::place(&*sos, &sos_id, &user).await;
                    return Err(AppError::NotFound("Participant not found".into()));
                };
                Ok(batch.run().await.is_done)
            })
            .await
    }

    /// The jobs after a leave, which may have ended the incident: the room receives the event, then the user's
    /// sockets in it are disconnected.
    fn after_leave(&self, (sos_id, user, at_ms): (&str, &UserId, u64), end: Option<&End<'_>>) -> Batch {
        let (left_at, timestamp) = (iso(at_ms), now_ms());
        let body = Left { sos_id, user_id: user.as_str(), left_at, timestamp };
        let mut jobs = vec![self.to_room(sos_id, "participant:left", &body)];
        jobs.extend(end.map(|end| self.ended(sos_id, end)));
        jobs.push(reconciler::job::<Self>(sos_id, user));
        self.context.jobs.batch(jobs)
    }

    /// Refuses users who may not see an incident's lists. Current and former participants, rescuers and admins may.
    pub(crate) async fn must_see(&self, claims: &Claims, sos_id: &str) -> Result<(), AppError> {
        let records = &self.context.records;
        let may = sees_all(claims)
            || records.run(store::has_taken_part(records.pool(), sos_id, claims.user.as_str())).await?;
        if may { Ok(()) } else { Err(AppError::Forbidden("Not a participant of this SOS".into())) }
    }

    /// The active participants, and whether there are more than the [`ACTIVE_PARTICIPANTS_MAX`] that are listed.
    pub(crate) async fn active(&self, sos_id: &str) -> Result<(Vec<Participant>, bool), AppError> {
        let records = &self.context.records;
        let active = store::active(records.pool(), sos_id, ACTIVE_PARTICIPANTS_MAX + 1);
        let mut active = records.run(active).await?;
        let has_more = active.len() > ACTIVE_PARTICIPANTS_MAX as usize;
        active.truncate(ACTIVE_PARTICIPANTS_MAX as usize);
        Ok((active, has_more))
    }

    /// Whether a user participates.
    pub(crate) async fn is_active(&self, sos_id: &str, user_id: &str) -> Result<bool, AppError> {
        let records = &self.context.records;
        records.run(store::is_active(records.pool(), sos_id, user_id)).await
    }

    /// A page of a history. `before` is a record's id or a time.
    pub(crate) async fn history(
        &self,
        of: Of<'_>,
        before: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Participant>, AppError> {
        let records = &self.context.records;
        let before = match before {
            None => Before::everything(),
            Some(text) => match text.parse::<jiff::Timestamp>() {
                Ok(time) => Before { joined_at_ms: time.as_millisecond(), id: String::new() },
                Err(_) => {
                    let place = records.run(store::place_of(records.pool(), text)).await?;
                    place.ok_or_else(|| AppError::BadInput("Invalid before".into()))?
                }
            },
        };
        records.run(store::history(records.pool(), of, &before, limit)).await
    }
}

/// The refusal for an incident that has ended.
pub(super) fn over() -> AppError {
    AppError::WrongState("SOS has ended".into())
}

/// The actor type in records.
pub(crate) fn actor_type(claims: &Claims) -> &'static str {
    if claims.anonymous { "ANON" } else { "USER" }
}
