//! The stories: raising an incident, joining, leaving, asking who is or was there. REST and the internal API
//! tell the same ones.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::limits::{ACTIVE_PARTICIPANTS_MAX, SOS_TEXT_MAX};
use shared::names::UserId;
use uuid::Uuid;

use super::incidents::{self, End, Incident, Opened, Reason};
use super::store::{self, Before, Entered, Entry, Gone, Of, Participant, Standing, USER_TYPES};
use super::{Sos, room};
use crate::apps::{limited, within};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Name, Time, UserIdText};
use crate::error::AppError;
use crate::geo::Degrees;
use crate::records::{Cursor, Looked};
use crate::socket;
use crate::text::bounded;

/// Who takes part.
#[derive(Serialize, JsonSchema)]
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

/// Who takes part no more.
#[derive(Serialize, JsonSchema)]
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

/// What an incident is raised with.
#[derive(Debug, Default)]
pub(crate) struct Raised {
    pub(crate) latitude: Option<f64>,
    pub(crate) longitude: Option<f64>,
    pub(crate) description: Option<String>,
}

/// An incident and how far it is.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Near {
    #[serde(flatten)]
    incident: Incident,
    /// Whole metres.
    distance: f64,
}

/// Whether a role may see every incident.
pub(crate) fn sees_all(claims: &Claims) -> bool {
    matches!(claims.role.as_deref(), Some("rescuer" | "admin"))
}

/// What a user is in an incident when they do not say.
pub(crate) fn default_type(claims: &Claims) -> &'static str {
    type_of(claims.role.as_deref())
}

/// What a role makes of its bearer in an incident.
pub(crate) fn type_of(role: Option<&str>) -> &'static str {
    USER_TYPES.into_iter().find(|kind| Some(*kind) == role).unwrap_or("citizen")
}

impl Sos {
    /// Raises an incident; who raises it takes part.
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
                let raised = incidents::raise(records.pool(), &incident, &entry);
                let record = match records.run(raised).await? {
                    Opened::Yes(record) => *record,
                    Opened::Limited(seconds) => return Err(limited(seconds)),
                };
                sos.entered(&record, &entry.user_id, true).await;
                Ok(incident)
            })
            .await
    }

    /// A page of the active incidents around a place: of each user the nearest first, before anybody's second one; and the
    /// nearest first within that. Answers it, and where the next one begins.
    ///
    /// # Errors
    /// 429 when the user looks too often.
    pub(crate) async fn nearby(
        &self,
        user: &UserId,
        looked: &Looked,
    ) -> Result<(Vec<Near>, Option<Cursor>), AppError> {
        within(&self.rates.looks, user)?;
        let records = &self.context.records;
        self.fill_all_cells().await?;
        let page = records.run(incidents::near(records.pool(), looked)).await?;
        let near = page.near.into_iter().map(|(incident, distance)| Near { incident, distance });
        Ok((near.collect(), page.next))
    }

    /// A user takes part: recorded, their sockets enter, the others and they are told. Who does already is not
    /// told again. Answers the record, and whether it is new.
    ///
    /// # Errors
    /// 409 when the incident has ended.
    pub(crate) async fn join(self: &Arc<Self>, entry: Entry) -> Result<(Participant, bool), AppError> {
        let sos = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &sos.context.records;
                let (record, is_new) = match records.run(store::enter(records.pool(), &entry)).await? {
                    Entered::Yes(record, is_new) => (*record, is_new),
                    Entered::Over => return Err(over()),
                };
                // Also where it is not new: whoever asks again may do so because not all sockets have entered.
                sos.entered(&record, &entry.user_id, is_new).await;
                Ok((record, is_new))
            })
            .await
    }

    /// What follows a record of who takes part.
    async fn entered(&self, record: &Participant, user: &UserId, is_new: bool) {
        let standing = self.bring(&record.sos_id, user).await;
        if !is_new || matches!(standing, Ok(Standing::Left | Standing::Ended)) {
            // They have left meanwhile, and that was told.
            return;
        }
        let body = Joined {
            sos_id: &record.sos_id,
            user_id: &record.user_id,
            user_type: &record.user_type,
            display_name: &record.display_name,
            joined_at: &record.joined_at,
            timestamp: now_ms(),
        };
        self.tell(&room(&record.sos_id), "participant:joined", &body).await;
    }

    /// A user takes part no more: recorded, told to the room, and then their sockets in it are disconnected.
    ///
    /// # Errors
    /// 404 when the user does not take part.
    pub(crate) async fn leave(
        self: &Arc<Self>,
        sos_id: String,
        user: UserId,
        at_ms: u64,
    ) -> Result<(), AppError> {
        let sos = Arc::clone(self);
        self.context
            .to_the_end(async move {
                let records = &sos.context.records;
                let end = End { reason: Reason::Left, by: None, at_ms: now_ms() };
                let announcement = sos.ended(&sos_id, &end);
                let leave = (sos_id.as_str(), user.as_str(), at_ms);
                let left = store::leave(records.pool(), leave, (&end, &announcement));
                let gone = records.run(left).await?;
                if gone != Gone::NotThere {
                    let (left_at, timestamp) = (iso(at_ms), now_ms());
                    let body = Left { sos_id: &sos_id, user_id: user.as_str(), left_at, timestamp };
                    sos.tell(&room(&sos_id), "participant:left", &body).await;
                }
                if gone == Gone::AsLast {
                    sos.context.announcer.tell(&[announcement]).await;
                }
                // Also where they had left before: a socket may have stayed.
                let _ = sos.bring(&sos_id, &user).await;
                if gone == Gone::NotThere {
                    return Err(AppError::NotFound("Participant not found".into()));
                }
                Ok(())
            })
            .await
    }

    /// Brings the sockets of a user to where the record says they belong, on all nodes: into the incident's room; out of it
    /// and disconnected where the user has left; out of it alone where the incident has ended. What cannot be done now
    /// is owed ([`super::owed`]). Answers where they belong.
    pub(super) async fn bring(&self, sos_id: &str, user: &UserId) -> Result<Standing, AppError> {
        let brought = self.try_bring(sos_id, user).await;
        if let Err(error) = &brought {
            tracing::warn!(
                error = error.say(),
                sos = sos_id,
                "the sockets of a participant could not be brought; trying on"
            );
            self.owed.add(sos_id, user);
        }
        brought
    }

    pub(super) async fn try_bring(&self, sos_id: &str, user: &UserId) -> Result<Standing, AppError> {
        let (room, fanout, records) = (room(sos_id), &self.context.fanout, &self.context.records);
        let standing = || records.run(store::standing(records.pool(), sos_id, user.as_str()));
        let mut known = standing().await?;
        if known == Standing::Active {
            fanout.join_user(&self.namespace, user, &room).await?;
            // Who left while their sockets entered has been disconnected too early.
            known = standing().await?;
        }
        match known {
            Standing::Active => {}
            Standing::Left => fanout.disconnect_user(&self.namespace, user, &room).await?,
            Standing::Ended => {
                self.must_be_told(sos_id).await?;
                fanout.leave_user(&self.namespace, user, &room).await?;
            }
        }
        Ok(known)
    }

    /// The record holds whether the room could be told or not; what was missed is in the lists.
    async fn tell(&self, room: &shared::names::Room, event: &str, body: &impl Serialize) {
        let target = fanout::Target::room(&self.namespace, room.as_str()).tracked();
        if let Err(error) = socket::broadcast(&self.context, target, event, body).await {
            tracing::warn!(%error, room = %room, event, "a room was not told");
        }
    }

    /// Who may see the lists of an incident: who takes part or has, and rescuers and admins.
    pub(crate) async fn must_see(&self, claims: &Claims, sos_id: &str) -> Result<(), AppError> {
        let records = &self.context.records;
        let may = sees_all(claims)
            || records.run(store::has_taken_part(records.pool(), sos_id, claims.user.as_str())).await?;
        if may { Ok(()) } else { Err(AppError::Forbidden("Not a participant of this SOS".into())) }
    }

    /// Who takes part now, and whether there are more than the [`ACTIVE_PARTICIPANTS_MAX`] that are listed.
    pub(crate) async fn active(&self, sos_id: &str) -> Result<(Vec<Participant>, bool), AppError> {
        let records = &self.context.records;
        let active = store::active(records.pool(), sos_id, ACTIVE_PARTICIPANTS_MAX + 1);
        let mut active = records.run(active).await?;
        let has_more = active.len() > ACTIVE_PARTICIPANTS_MAX as usize;
        active.truncate(ACTIVE_PARTICIPANTS_MAX as usize);
        Ok((active, has_more))
    }

    /// Whether a user takes part now.
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

/// What is refused because an incident has ended.
pub(super) fn over() -> AppError {
    AppError::WrongState("SOS has ended".into())
}

/// What a user is called in records.
pub(crate) fn actor_type(claims: &Claims) -> &'static str {
    if claims.anonymous { "ANON" } else { "USER" }
}
