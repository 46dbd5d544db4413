//! The stories: raising an incident, joining, leaving, asking who is or was there. REST and the internal API
//! tell the same ones.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::limits::{ACTIVE_PARTICIPANTS_MAX, NEARBY_MAX, NEARBY_SCANNED_MAX, SOS_TEXT_MAX};
use shared::names::UserId;
use uuid::Uuid;

use super::store::{self, Area, Before, Entry, Incident, Of, Participant};
use super::{Sos, room};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{Millis, Name, Time};
use crate::error::AppError;
use crate::socket;

/// What a user may call themselves in an incident; it gives no rights.
pub(crate) const USER_TYPES: [&str; 3] = ["citizen", "rescuer", "admin"];

/// Metres of a degree of latitude, a little less than the least there is.
const METRES_A_DEGREE: f64 = 110_000.0;

/// Mean radius of the earth, metres.
const EARTH_RADIUS: f64 = 6_371_008.8;

/// Who takes part.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Joined<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    #[schemars(with = "Name")]
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
    #[schemars(with = "Name")]
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
        if let Some(description) = &raised.description {
            if description.chars().count() > SOS_TEXT_MAX {
                let say = format!("Description too long (max {SOS_TEXT_MAX} characters)");
                return Err(AppError::BadInput(say.into()));
            }
            if description.contains('\0') {
                return Err(AppError::BadInput("Description contains a null character".into()));
            }
        }
        match (raised.latitude, raised.longitude) {
            (None, None) => {}
            (Some(latitude), Some(longitude)) if super::events::is_place(latitude, longitude) => {}
            _ => return Err(AppError::BadInput("Invalid latitude or longitude".into())),
        }
        let now = now_ms();
        let incident = Incident {
            id: Uuid::now_v7().to_string(),
            user_id: claims.user.as_str().to_owned(),
            latitude: raised.latitude,
            longitude: raised.longitude,
            description: raised.description,
            status: "ACTIVE".to_owned(),
            created_at: iso(now),
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
        self.to_the_end(async move {
            let records = &sos.context.records;
            let record = records.run(store::raise(records.pool(), &incident, &entry)).await?;
            sos.entered(&record, &entry.user_id, true).await;
            Ok(incident)
        })
        .await
    }

    /// Runs a story to its end, though whoever asked for it may go.
    async fn to_the_end<T: Send + 'static>(
        &self,
        story: impl Future<Output = Result<T, AppError>> + Send + 'static,
    ) -> Result<T, AppError> {
        self.context.tasks.spawn(story).await.unwrap_or_else(|error| Err(AppError::internal(&error)))
    }

    /// Active incidents within `radius` metres of a place, the nearest first.
    pub(crate) async fn nearby(
        &self,
        (latitude, longitude): (f64, f64),
        radius: f64,
    ) -> Result<Vec<Near>, AppError> {
        if !super::events::is_place(latitude, longitude) {
            return Err(AppError::BadInput("Invalid latitude or longitude".into()));
        }
        let records = &self.context.records;
        let area = area((latitude, longitude), radius);
        let found = records.run(store::incidents_in(records.pool(), &area, NEARBY_SCANNED_MAX)).await?;
        let mut near: Vec<Near> = found
            .into_iter()
            .filter_map(|incident| {
                let distance = distance((latitude, longitude), (incident.latitude?, incident.longitude?));
                (distance <= radius).then_some(Near { incident, distance: distance.round() })
            })
            .collect();
        near.sort_by(|a, b| a.distance.total_cmp(&b.distance));
        near.truncate(NEARBY_MAX);
        Ok(near)
    }

    /// A user takes part: recorded, their sockets enter, the others and they are told. Who does already is not
    /// told again. Answers the record, and whether it is new.
    pub(crate) async fn join(self: &Arc<Self>, entry: Entry) -> Result<(Participant, bool), AppError> {
        let sos = Arc::clone(self);
        self.to_the_end(async move {
            let records = &sos.context.records;
            let (record, is_new) = records.run(store::enter(records.pool(), &entry)).await?;
            // Also where it is not new: whoever asks again may do so because not all sockets have entered.
            sos.entered(&record, &entry.user_id, is_new).await;
            Ok((record, is_new))
        })
        .await
    }

    /// What follows a record of who takes part.
    async fn entered(&self, record: &Participant, user: &UserId, is_new: bool) {
        let is_active = self.bring(&record.sos_id, user).await;
        if !is_new || matches!(is_active, Ok(false)) {
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
        self.to_the_end(async move {
            let records = &sos.context.records;
            let was_active = records.run(store::leave(records.pool(), &sos_id, user.as_str(), at_ms)).await?;
            if was_active {
                let (left_at, timestamp) = (iso(at_ms), now_ms());
                let body = Left { sos_id: &sos_id, user_id: user.as_str(), left_at, timestamp };
                sos.tell(&room(&sos_id), "participant:left", &body).await;
            }
            // Also where they had left before: a socket may have stayed.
            let _ = sos.bring(&sos_id, &user).await;
            if was_active { Ok(()) } else { Err(AppError::NotFound("Participant not found".into())) }
        })
        .await
    }

    /// Brings the sockets of a user to where the record says they belong, on all nodes: into the incident's room, or out
    /// of it and disconnected. What cannot be done now is owed ([`super::owed`]). Answers whether the user takes part.
    pub(super) async fn bring(&self, sos_id: &str, user: &UserId) -> Result<bool, AppError> {
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

    pub(super) async fn try_bring(&self, sos_id: &str, user: &UserId) -> Result<bool, AppError> {
        let (room, fanout) = (room(sos_id), &self.context.fanout);
        if self.is_active(sos_id, user.as_str()).await? {
            fanout.join_user(&self.namespace, user, &room).await?;
            // Who left while their sockets entered has been disconnected too early.
            if self.is_active(sos_id, user.as_str()).await? {
                return Ok(true);
            }
        }
        fanout.disconnect_user(&self.namespace, user, &room).await?;
        Ok(false)
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

    /// Who takes part now.
    pub(crate) async fn active(&self, sos_id: &str) -> Result<Vec<Participant>, AppError> {
        let records = &self.context.records;
        records.run(store::active(records.pool(), sos_id, ACTIVE_PARTICIPANTS_MAX)).await
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

/// What a user is called in records.
pub(crate) fn actor_type(claims: &Claims) -> &'static str {
    if claims.anonymous { "ANON" } else { "USER" }
}

/// What holds every place within `radius` metres, and a little more.
fn area((latitude, longitude): (f64, f64), radius: f64) -> Area {
    let reach = radius / METRES_A_DEGREE;
    let latitudes = (latitude - reach, latitude + reach);
    // The meridians are nearest to each other at the end that is nearest to a pole.
    let narrowest = (latitude.abs() + reach).min(90.0).to_radians().cos();
    let across = reach / narrowest.max(1e-9);
    let (west, east) = (longitude - across, longitude + across);
    let whole = (-180.0, 180.0);
    let longitudes = if across >= 180.0 {
        [whole, whole]
    } else if west < -180.0 {
        [(-180.0, east), (west + 360.0, 180.0)]
    } else if east > 180.0 {
        [(west, 180.0), (-180.0, east - 360.0)]
    } else {
        [(west, east), (west, east)]
    };
    let squeeze = latitude.to_radians().cos().powi(2);
    Area { latitudes, longitudes, centre: (latitude, longitude), squeeze }
}

/// Metres between two places, along a great circle.
fn distance((lat_a, lon_a): (f64, f64), (lat_b, lon_b): (f64, f64)) -> f64 {
    let (half_lat, half_lon) = ((lat_b - lat_a).to_radians() / 2.0, (lon_b - lon_a).to_radians() / 2.0);
    let cosines = lat_a.to_radians().cos() * lat_b.to_radians().cos();
    let chord = half_lat.sin().powi(2) + cosines * half_lon.sin().powi(2);
    2.0 * EARTH_RADIUS * chord.sqrt().min(1.0).asin()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_area_holds_every_place_that_is_near_enough() {
        let inside = |area: &Area, (latitude, longitude): (f64, f64)| {
            let between = |(from, to): (f64, f64), degree: f64| (from..=to).contains(&degree);
            between(area.latitudes, latitude)
                && area.longitudes.iter().any(|range| between(*range, longitude))
        };
        for centre in [(0.0, 0.0), (48.9, 2.4), (0.0, 179.9), (-60.0, -179.99), (89.9, 10.0), (-90.0, 0.0)] {
            let area = area(centre, 50_000.0);
            for step in 0..3_600 {
                let (north, east) = (f64::from(step % 60) / 60.0 - 0.5, f64::from(step / 60) * 6.0 - 180.0);
                let place = ((centre.0 + north).clamp(-90.0, 90.0), east);
                let near = [place, (place.0, (centre.1 + north + 540.0) % 360.0 - 180.0)];
                for place in near {
                    assert!(
                        distance(centre, place) > 50_000.0 || inside(&area, place),
                        "{centre:?} {place:?}"
                    );
                }
            }
        }
        assert!(!inside(&area((48.9, 2.4), 50_000.0), (48.9, 4.0)));
    }

    #[test]
    fn distances_are_great_circles() {
        let (paris, london) = ((48.8566, 2.3522), (51.5074, -0.1278));
        assert!((distance(paris, london) - 343_556.0).abs() < 100.0, "{}", distance(paris, london));
        assert!(distance(paris, paris) < 0.001);
        let across = distance((0.0, 179.9), (0.0, -179.9));
        assert!((across - 22_239.0).abs() < 10.0, "{across}");
        assert!((distance((90.0, 0.0), (-90.0, 77.0)) - 20_015_115.0).abs() < 10.0);
    }
}
