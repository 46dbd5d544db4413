//! The operations of the REST API: raising, responding, setting a helper's status, resolving, cancelling and
//! viewing.

use std::sync::Arc;

use fanout::Place;
use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::names::UserId;
use uuid::Uuid;

use super::emergency::{
    Emergency, Helper, HelperStatus, ListedHelper, Owner, Priority, Shown, Status, Viewer, is_admin,
    is_helper,
};
use super::events::{
    Cancelled, Changed as ShownChange, Ended, HelperJoined, HelperMoved, Pushed, Resolved, StatusChanged,
};
use super::limits::{EMERGENCY_HELPERS_MAX, HELPERS_NEAR_MAX};
use super::store::{self, Changed, End};
use super::{Emergencies, alert, limited, room, within};
use crate::apps::reconciler;
use crate::clock::{iso, now_ms};
use crate::describe::forms::False;
use crate::error::AppError;
use crate::jobs::{Audience, Batch, EventJob, Job};
use crate::records::{Cursor, Looked};

/// The validated facts of a new emergency.
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

/// How the caller resolved an emergency.
#[derive(Debug, Default)]
pub(crate) struct Resolution {
    pub(crate) kind: Option<String>,
    pub(crate) notes: Option<String>,
}

/// A raised emergency.
#[derive(Debug)]
pub(crate) struct Raised {
    emergency: Emergency,
    /// The number of nearby helpers. `None` if another node alerts them, or if the job runs later.
    near: Option<usize>,
    /// `Some(false)` if helpers are alerted later.
    realtime: Option<bool>,
}

/// The emergency as it was raised.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RaisedEmergency")]
pub(crate) struct ShownRaised<'a> {
    #[serde(flatten)]
    emergency: Shown<'a>,
    /// How many helpers received `emergency:nearby`. `null` if not known yet.
    nearby_helper_count: Option<usize>,
    /// `true` if the count is at its limit of 10,000. Further nearby helpers may receive only `emergency:created`.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    nearby_helpers_truncated: bool,
    /// `false` if it is stored but helpers will be alerted later, because Redis is unavailable.
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
    /// In the order they responded, including those who cancelled.
    helpers: Vec<ListedHelper<'a>>,
    /// `true` if there are more than these 1,000.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    helpers_truncated: bool,
}

/// An emergency and its distance.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NearbyEmergency")]
pub(crate) struct Near<'a> {
    #[serde(flatten)]
    emergency: Shown<'a>,
    /// Whole metres.
    distance: f64,
}

impl Raised {
    /// The emergency as its owner sees it.
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
    /// Finds an emergency.
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

    /// An event that reports a change of an emergency.
    pub(super) fn event(&self, id: &str, to: Audience, name: &str, body: &impl Serialize) -> EventJob {
        Job::event_to(&reconciler::subject_of::<Self>(id), (&self.namespace, to), name, body)
    }

    fn to_room(&self, id: &str, name: &str, body: &impl Serialize) -> Job {
        self.event(id, Audience::Room(room(id)), name, body).into()
    }

    /// Raises an emergency and alerts helpers.
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
                let records = &app.context.records;
                // Alert helpers first: that does not need the owner's sockets in the room.
                let enter = reconciler::job::<Self>(&emergency.id, &user);
                let batch = app.context.jobs.batch([alert::job(&emergency.id), enter]);
                let inserted = store::insert(records.pool(), &emergency, &batch);
                if let Some(seconds) = records.run(inserted).await? {
                    return Err(limited(seconds));
                }
                let near = batch.run().await.value.as_u64().and_then(|near| usize::try_from(near).ok());
                let realtime = near.is_none().then_some(false);
                Ok(Raised { emergency, near, realtime })
            })
            .await
    }

    /// A helper responds. Responding again sends no event. Returns whether the helper's sockets are in the room on all
    /// nodes. If not, a job moves them later.
    pub(crate) async fn respond(self: &Arc<Self>, claims: &Claims, id: String) -> Result<bool, AppError> {
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
                let follow = |is_first| app.after_response(&id, &helper, &user, is_first);
                let responded = store::respond(records.pool(), &id, &helper, follow);
                let (changed, batch) = records.run(responded).await?;
                match (changed, batch) {
                    (Changed::Over | Changed::NotTheirs, _) => Err(over(&app.find(&id).await?)),
                    (Changed::Yes | Changed::Same, Some(batch)) => Ok(batch.run().await.is_done),
                    // The helper may retry because not all sockets had entered.
                    (Changed::Yes | Changed::Same, None) => Ok(reconciler::place(&*app, &id, &user).await),
                }
            })
            .await
    }

    /// The jobs after a response: the helper's sockets enter the room, which then receives the events.
    fn after_response(&self, id: &str, helper: &Helper, user: &UserId, is_first: bool) -> Batch {
        let joined = HelperJoined { emergency_id: id, helper: helper.shown() };
        let mut jobs = vec![reconciler::job::<Self>(id, user), self.to_room(id, "helper:joined", &joined)];
        if is_first {
            let (timestamp, status) = (iso(helper.joined_at_ms), Status::Responding);
            let emergency = ShownChange { id, status, updated_at: &timestamp };
            let body = StatusChanged { emergency_id: id, status, emergency, timestamp: &timestamp };
            jobs.push(self.to_room(id, "emergency:status_changed", &body));
        }
        self.context.jobs.batch(jobs)
    }

    /// Sets a helper's status. A helper who cancels leaves the room. Returns whether every node has applied that. If
    /// not, a job does so later.
    pub(crate) async fn set_helper_status(
        self: &Arc<Self>,
        claims: &Claims,
        id: String,
        (status, notes): (HelperStatus, Option<String>),
    ) -> Result<bool, AppError> {
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
                let mut jobs = vec![app.to_room(&id, "helper:status_update", &body)];
                if status == HelperStatus::Cancelled {
                    jobs.push(reconciler::job::<Self>(&id, &user));
                }
                let batch = app.context.jobs.batch(jobs);
                let records = &app.context.records;
                let change = (status, notes.as_deref(), at);
                let set = store::set_helper(records.pool(), (&id, user.as_str()), change, &batch);
                match records.run(set).await? {
                    Changed::Yes | Changed::Same => {}
                    Changed::NotTheirs => {
                        return Err(AppError::WrongState("You do not respond any more".into()));
                    }
                    Changed::Over => return Err(over(&app.find(&id).await?)),
                }
                Ok(batch.run().await.is_done)
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
                    app.to_room(&id, "emergency:resolved", &body)
                } else {
                    let body = Cancelled { emergency_id: &id, timestamp: &timestamp };
                    app.to_room(&id, "emergency:cancelled", &body)
                };
                let ended = Ended { emergency_id: &id, status, timestamp: &timestamp };
                let helpers = Audience::Room(app.helpers.clone());
                let to_helpers = app.event(&id, helpers, "emergency:ended", &ended).into();
                let batch = app.context.jobs.batch([first, to_helpers]);
                let end = End { status, at_ms: at, by: &by, resolution: (kind, notes) };
                let records = &app.context.records;
                let which = (id.as_str(), emergency.owner.id.as_str());
                match records.run(store::end(records.pool(), which, &end, &batch)).await? {
                    Changed::Yes => {}
                    Changed::Same | Changed::Over | Changed::NotTheirs => {
                        return Err(over(&app.find(&id).await?));
                    }
                }
                batch.run().await;
                let ended = Emergency {
                    status,
                    updated_at_ms: at,
                    ended_at_ms: Some(at),
                    ended_by: Some(by.clone()),
                    resolution_type: kind.map(str::to_owned),
                    resolution_notes: notes.map(str::to_owned),
                    ..emergency.clone()
                };
                let body = Pushed { emergency: ended.shown(Viewer::Outsider), nearby_helper_ids: &[] };
                app.context.pusher.push("emergency:ended", &id, &body);
                Ok(())
            })
            .await
    }

    /// Shows an emergency to a user who may see it.
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
        let records = &self.context.records;
        self.squares.fill(records, store::TABLE).await?;
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
}
