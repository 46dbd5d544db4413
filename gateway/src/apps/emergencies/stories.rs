//! The stories of the REST API: raising an emergency, responding, telling how far one is, resolving, cancelling, looking.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use fanout::Place;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::json;
use shared::auth::Claims;
use shared::limits::{EMERGENCY_HELPERS_MAX, HELPERS_NEAR_MAX, INCIDENTS_AT_ONCE};
use shared::names::Room;
use uuid::Uuid;

use super::emergency::{
    Emergency, Helper, HelperStatus, ListedHelper, Owner, Priority, Shown, Status, Viewer, is_admin,
    is_helper,
};
use super::events::{
    Cancelled, Changed as ShownChange, Ended, HelperJoined, HelperMoved, Resolved, StatusChanged,
};
use super::store::{self, Changed, End};
use super::{Emergencies, limited, room, within};
use crate::announce::{Announcement, Audience};
use crate::clock::{iso, now_ms};
use crate::describe::forms::False;
use crate::error::AppError;
use crate::records::{Cursor, Looked, raisers};

/// What an emergency is raised with, checked.
#[derive(Debug)]
pub(crate) struct Raise {
    pub(crate) kind: String,
    pub(crate) category: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) place: Place,
    pub(crate) address: Option<String>,
    pub(crate) priority: Priority,
    pub(crate) severity: Option<i64>,
    pub(crate) anonymous: bool,
}

/// How an emergency was resolved, as whoever resolved it says.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    pub(crate) kind: Option<String>,
    pub(crate) notes: Option<String>,
}

/// An emergency that was raised.
#[derive(Debug)]
pub(crate) struct Raised {
    emergency: Emergency,
    /// How many helpers are near; none known where somebody else alerts them, or where that is done later.
    near: Option<usize>,
    /// `Some(false)` where helpers are alerted later.
    realtime: Option<bool>,
}

/// The emergency as it was raised.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RaisedEmergency")]
pub(crate) struct ShownRaised<'a> {
    #[serde(flatten)]
    emergency: Shown<'a>,
    /// How many helpers were told that it is near; `null` where that is not known yet.
    nearby_helper_count: Option<usize>,
    /// `true` where the count is at its bound of 10,000: there may be more, who hear `emergency:created` alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    nearby_helpers_truncated: bool,
    /// `false` where it is stored and helpers are told later, because Redis is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "False")]
    realtime: Option<bool>,
}

/// An emergency and its helpers.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "EmergencyDetails")]
pub(crate) struct Detailed<'a> {
    #[serde(flatten)]
    emergency: Shown<'a>,
    /// In the order they responded, who cancelled among them.
    helpers: Vec<ListedHelper<'a>>,
    /// `true` where there are more than these 1,000.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    helpers_truncated: bool,
}

/// An emergency and how far it is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NearEmergency")]
pub(crate) struct Near<'a> {
    #[serde(flatten)]
    emergency: Shown<'a>,
    /// Whole metres.
    distance: f64,
}

impl Raised {
    /// It, as its owner sees it.
    pub(crate) fn shown(&self) -> ShownRaised<'_> {
        ShownRaised {
            emergency: self.emergency.shown(Viewer::Insider),
            nearby_helper_count: self.near,
            nearby_helpers_truncated: self.near.is_some_and(|near| near >= HELPERS_NEAR_MAX),
            realtime: self.realtime,
        }
    }
}

fn over(emergency: &Emergency) -> AppError {
    AppError::WrongState(format!("Emergency is {}", emergency.status.as_str()).into())
}

impl Emergencies {
    /// An emergency.
    ///
    /// # Errors
    /// 404.
    pub(super) async fn find(&self, id: &str) -> Result<Emergency, AppError> {
        let records = &self.context.records;
        let found = records.run(store::find(records.pool(), id)).await?;
        found.ok_or_else(|| AppError::NotFound("Emergency not found".into()))
    }

    pub(super) async fn helpers_of(&self, id: &str) -> Result<Vec<Helper>, AppError> {
        let records = &self.context.records;
        records.run(store::helpers(records.pool(), id)).await
    }

    /// An event that the records owe.
    pub(super) fn announcement(&self, to: Audience, event: &str, body: &impl Serialize) -> Announcement {
        Announcement::new(&self.context.announcer, &self.namespace, to, event, body)
    }

    fn to_room(&self, room: Room, event: &str, body: &impl Serialize) -> Announcement {
        self.announcement(Audience::Room(room), event, body)
    }

    /// Raises an emergency, and alerts helpers.
    pub(crate) async fn raise(self: &Arc<Self>, claims: &Claims, raise: Raise) -> Result<Raised, AppError> {
        within(&self.rates.creations, &claims.user)?;
        let now = now_ms();
        let emergency = Emergency {
            id: Uuid::now_v7().to_string(),
            owner: Owner {
                id: claims.user.as_str().to_owned(),
                display_name: claims.display_name.to_string(),
                avatar: claims.avatar.as_deref().map(str::to_owned),
            },
            kind: raise.kind,
            category: raise.category,
            description: raise.description,
            place: raise.place,
            address: raise.address,
            priority: raise.priority,
            severity: raise.severity,
            anonymous: raise.anonymous,
            status: Status::Active,
            created_at_ms: now,
            updated_at_ms: now,
            ended_at_ms: None,
            ended_by: None,
            resolution_type: None,
            resolution_notes: None,
        };
        let (app, user) = (Arc::clone(self), claims.user.clone());
        self.context
            .to_the_end(async move {
                let (records, id) = (&app.context.records, emergency.id.clone());
                if let Some(seconds) = records.run(store::insert(records.pool(), &emergency)).await? {
                    return Err(limited(seconds));
                }
                app.bring_user(&user, &id).await;
                let (near, realtime) = match app.alert(&emergency).await {
                    Ok(near) => (near, None),
                    Err(error) => {
                        tracing::warn!(error = error.say(), emergency = id, "helpers are alerted later");
                        (None, Some(false))
                    }
                };
                Ok(Raised { emergency, near, realtime })
            })
            .await
    }

    /// The sockets of who takes part enter the room, on all nodes. Where that fails they do so when they connect anew,
    /// when Redis is back, or when they ask.
    pub(super) async fn bring_user(&self, user: &shared::names::UserId, id: &str) {
        if let Err(error) = self.context.fanout.bring_user(&self.namespace, user, &room(id)).await {
            tracing::warn!(%error, emergency = id, "not all sockets of a participant entered its room");
        }
    }

    /// A helper responds. Who responds already is not told again.
    pub(crate) async fn respond(self: &Arc<Self>, claims: &Claims, id: String) -> Result<(), AppError> {
        if !is_helper(claims) {
            return Err(AppError::Forbidden("Only helpers may respond".into()));
        }
        within(&self.rates.responses, &claims.user)?;
        let emergency = self.find(&id).await?;
        if emergency.is_of(claims) {
            return Err(AppError::Forbidden("The owner cannot respond".into()));
        }
        let now = now_ms();
        let helper = Helper {
            id: claims.user.as_str().to_owned(),
            name: claims.display_name.to_string(),
            reputation: claims.reputation.as_deref().cloned(),
            status: HelperStatus::Responding,
            notes: None,
            joined_at_ms: now,
            updated_at_ms: now,
        };
        let (app, user) = (Arc::clone(self), claims.user.clone());
        self.context
            .to_the_end(async move {
                let records = &app.context.records;
                let announce = |is_first| app.response(&id, &helper, is_first);
                let responded = store::respond(records.pool(), &id, &helper, announce);
                let (changed, announcements) = records.run(responded).await?;
                match changed {
                    Changed::Yes | Changed::Same => {}
                    Changed::Over | Changed::NotTheirs => return Err(over(&app.find(&id).await?)),
                }
                app.bring_user(&user, &id).await;
                app.context.announcer.tell(&announcements).await;
                Ok(())
            })
            .await
    }

    fn response(&self, id: &str, helper: &Helper, is_first: bool) -> Vec<Announcement> {
        let joined = HelperJoined { emergency_id: id, helper: helper.shown() };
        let mut announcements = vec![self.to_room(room(id), "helper:joined", &joined)];
        if is_first {
            let (timestamp, status) = (iso(helper.joined_at_ms), Status::Responding);
            let emergency = ShownChange { id, status, updated_at: &timestamp };
            let body = StatusChanged { emergency_id: id, status, emergency, timestamp: &timestamp };
            announcements.push(self.to_room(room(id), "emergency:status_changed", &body));
        }
        announcements
    }

    /// A helper tells how far they are; who cancels leaves the room.
    pub(crate) async fn set_helper_status(
        self: &Arc<Self>,
        claims: &Claims,
        id: String,
        (status, notes): (HelperStatus, Option<String>),
    ) -> Result<(), AppError> {
        within(&self.rates.responses, &claims.user)?;
        let records = &self.context.records;
        let emergency = self.find(&id).await?;
        let known = records.run(store::find_helper(records.pool(), &id, claims.user.as_str())).await?;
        match known.map(|helper| helper.status) {
            None => return Err(AppError::Forbidden("Only responding helpers may do this".into())),
            Some(HelperStatus::Cancelled) if emergency.status.is_open() => {
                return Err(AppError::WrongState("You do not respond any more".into()));
            }
            Some(_) => {}
        }
        let (app, user, at) = (Arc::clone(self), claims.user.clone(), now_ms());
        self.context
            .to_the_end(async move {
                let body = HelperMoved {
                    emergency_id: &id,
                    helper_id: user.as_str(),
                    status,
                    notes: notes.as_deref(),
                    updated_at: iso(at),
                };
                let announcements = [app.to_room(room(&id), "helper:status_update", &body)];
                let records = &app.context.records;
                let change = (status, notes.as_deref(), at);
                let set = store::set_helper(records.pool(), (&id, user.as_str()), change, &announcements);
                match records.run(set).await? {
                    Changed::Yes | Changed::Same => {}
                    Changed::NotTheirs => {
                        return Err(AppError::WrongState("You do not respond any more".into()));
                    }
                    Changed::Over => return Err(over(&app.find(&id).await?)),
                }
                app.context.announcer.tell(&announcements).await;
                if status == HelperStatus::Cancelled {
                    super::rooms::take_out(&app, user, id);
                }
                Ok(())
            })
            .await
    }

    /// The owner or an admin ends an emergency: `Some` resolves it, `None` cancels it.
    pub(crate) async fn end(
        self: &Arc<Self>,
        claims: &Claims,
        id: String,
        resolution: Option<Resolution>,
    ) -> Result<(), AppError> {
        let emergency = self.find(&id).await?;
        if emergency.viewer(claims) != Viewer::Insider {
            return Err(AppError::Forbidden("Only the owner or an admin may do this".into()));
        }
        let by_owner = emergency.is_of(claims);
        let default_type = if by_owner { "user_resolved" } else { "admin_resolved" };
        let (app, by, at) = (Arc::clone(self), claims.user.as_str().to_owned(), now_ms());
        self.context
            .to_the_end(async move {
                let status = if resolution.is_some() { Status::Resolved } else { Status::Cancelled };
                let kind = resolution.as_ref().map(|said| said.kind.as_deref().unwrap_or(default_type));
                let notes = resolution.as_ref().and_then(|said| said.notes.as_deref());
                let timestamp = iso(at);
                let first = if status == Status::Resolved {
                    let body = Resolved {
                        emergency_id: &id,
                        resolved_at: &timestamp,
                        resolved_by: Some(&*by).filter(|_| !emergency.anonymous),
                        resolution_type: kind,
                        resolution_notes: notes,
                        timestamp: &timestamp,
                    };
                    app.to_room(room(&id), "emergency:resolved", &body)
                } else {
                    let body = Cancelled { emergency_id: &id, timestamp: &timestamp };
                    app.to_room(room(&id), "emergency:cancelled", &body)
                };
                let ended = Ended { emergency_id: &id, status, timestamp: &timestamp };
                let announcements = [first, app.to_room(app.helpers.clone(), "emergency:ended", &ended)];
                let end = End { status, at_ms: at, by: &by, resolution: (kind, notes) };
                let records = &app.context.records;
                let which = (id.as_str(), emergency.owner.id.as_str());
                match records.run(store::end(records.pool(), which, &end, &announcements)).await? {
                    Changed::Yes => {}
                    Changed::Same | Changed::Over | Changed::NotTheirs => {
                        return Err(over(&app.find(&id).await?));
                    }
                }
                app.context.announcer.tell(&announcements).await;
                let ended = Emergency {
                    status,
                    updated_at_ms: at,
                    ended_at_ms: Some(at),
                    ended_by: Some(by.clone()),
                    resolution_type: kind.map(str::to_owned),
                    resolution_notes: notes.map(str::to_owned),
                    ..emergency.clone()
                };
                let body = json!({"emergency": ended.shown(Viewer::Outsider), "nearbyHelperIds": []});
                app.context.pusher.push("emergency:ended", &id, &body);
                Ok(())
            })
            .await
    }

    /// Shows an emergency to whoever may see it.
    pub(crate) async fn show<T>(
        &self,
        claims: &Claims,
        id: &str,
        show: impl FnOnce(Detailed<'_>) -> T,
    ) -> Result<T, AppError> {
        let emergency = self.find(id).await?;
        let viewer = emergency.viewer(claims);
        let helpers = self.helpers_of(id).await?;
        if viewer == Viewer::Outsider && !is_helper(claims) {
            let records = &self.context.records;
            let helper = store::find_helper(records.pool(), id, claims.user.as_str());
            if records.run(helper).await?.is_none() {
                return Err(AppError::Forbidden("Not authorized to see this emergency".into()));
            }
        }
        let most = EMERGENCY_HELPERS_MAX as usize;
        let helpers_truncated = helpers.len() > most;
        let helpers = helpers.iter().take(most).map(Helper::listed).collect();
        Ok(show(Detailed { emergency: emergency.shown(viewer), helpers, helpers_truncated }))
    }

    /// Shows a page of the open emergencies around a place to helpers and admins, in the order of
    /// [`crate::records::nearby`].
    pub(crate) async fn nearby<T>(
        &self,
        claims: &Claims,
        looked: &Looked,
        show: impl FnOnce(Vec<Near<'_>>, Option<&Cursor>) -> T,
    ) -> Result<T, AppError> {
        if !is_helper(claims) && !is_admin(claims) {
            return Err(AppError::Forbidden("Only helpers may do this".into()));
        }
        within(&self.rates.looks, &claims.user)?;
        self.fill_all_cells().await?;
        let records = &self.context.records;
        let page = records.run(store::near(records.pool(), looked)).await?;
        let near = page
            .near
            .iter()
            .map(|(emergency, distance)| Near {
                emergency: emergency.shown(emergency.viewer(claims)),
                distance: *distance,
            })
            .collect();
        Ok(show(near, page.next.as_ref()))
    }

    /// Computes the squares of emergencies that an older version raised, so that they are found; at once where none is
    /// left.
    pub(super) async fn fill_all_cells(&self) -> Result<(), AppError> {
        let records = &self.context.records;
        while !self.is_filled.load(Ordering::Acquire) {
            let filled = records.run(raisers::fill_cells(records.pool(), store::TABLE)).await?;
            self.is_filled.store(filled < INCIDENTS_AT_ONCE, Ordering::Release);
        }
        Ok(())
    }
}
