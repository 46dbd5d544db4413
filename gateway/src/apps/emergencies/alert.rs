//! Telling helpers of a new emergency: all of them that it is there, and those near that it is near.
//!
//! Until that is done the record says that it is not, so it is done by whichever node can: one look for who is near, one
//! broadcast to all helpers, and one packet to each helper near, since each has a distance of their own.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fanout::{Near, Target};
use parking_lot::Mutex;
use serde_json::json;
use shared::limits::{ANNOUNCE_AFTER_MS, DUE_EVERY_MS, HELPER_RADIUS, HELPERS_NEAR_MAX, REDIS_PIPELINE_MAX};
use shared::names::UserId;

use super::emergency::{Emergency, Viewer};
use super::events::{Created, Nearby};
use super::{Emergencies, HELPERS, POSITIONS, store};
use crate::announce::Announced;
use crate::clock::ago_ms;
use crate::error::AppError;
use crate::socket;

/// Emergencies that this node is telling, or has told without being able to note it: nobody shall hear it twice.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    in_hand: Mutex<HashSet<String>>,
    told: Mutex<HashSet<String>>,
}

impl Emergencies {
    /// Alerts helpers; answers how many are near, `None` where somebody else is at it. May be repeated.
    pub(super) async fn alert(&self, emergency: &Emergency) -> Result<Option<usize>, AppError> {
        if !self.alerts.in_hand.lock().insert(emergency.id.clone()) {
            return Ok(None);
        }
        let alerted = self.alert_once(emergency).await;
        self.alerts.in_hand.lock().remove(&emergency.id);
        alerted
    }

    async fn alert_once(&self, emergency: &Emergency) -> Result<Option<usize>, AppError> {
        let mut near = None;
        if !self.alerts.told.lock().contains(&emergency.id) {
            near = Some(self.tell_helpers(emergency).await?);
            self.alerts.told.lock().insert(emergency.id.clone());
        }
        let records = &self.context.records;
        records.run(store::set_alerted(records.pool(), &emergency.id)).await?;
        self.alerts.told.lock().remove(&emergency.id);
        Ok(near)
    }

    async fn tell_helpers(&self, emergency: &Emergency) -> Result<usize, AppError> {
        let live = self.context.fanout.live();
        // One more, lest the owner take a place.
        let near = live.near(POSITIONS, emergency.place, HELPER_RADIUS, HELPERS_NEAR_MAX + 1).await?;
        let near: Vec<(UserId, Near)> = near
            .into_iter()
            .filter(|near| near.id != emergency.owner.id)
            .filter_map(|near| Some((UserId::parse(&near.id).ok()?, near)))
            .take(HELPERS_NEAR_MAX)
            .collect();
        let shown = emergency.shown(Viewer::Outsider);
        let (nearby_helper_count, nearby_helpers_truncated) = (near.len(), near.len() >= HELPERS_NEAR_MAX);
        let body = Created { emergency: &shown, nearby_helper_count, nearby_helpers_truncated };
        let key = format!("created:{}", emergency.id);
        let target = Target::room(&self.namespace, HELPERS).once(&key);
        socket::broadcast(&self.context, target, "emergency:created", &Announced::new(&key, &body)).await?;
        let key = format!("nearby:{}", emergency.id);
        // No more at once than leaves room for what others publish meanwhile.
        for some in near.chunks(REDIS_PIPELINE_MAX) {
            let posted: Vec<_> = some
                .iter()
                .map(|(user, near)| {
                    let body = Nearby { emergency: &shown, distance: near.metres.round() };
                    let target = Target::user(&self.namespace, user).once(&key);
                    socket::post(&self.context, target, "emergency:nearby", &Announced::new(&key, &body))
                })
                .collect();
            for posted in posted {
                posted.outcome().await?;
            }
        }
        let ids: Vec<&str> = near.iter().map(|(user, _)| user.as_str()).collect();
        let body = json!({"emergency": shown, "nearbyHelperIds": ids});
        self.context.pusher.push("emergency:created", &emergency.id, &body);
        Ok(near.len())
    }
}

/// Alerts helpers of emergencies whose node could not, until this one stops.
pub(super) async fn alert_left_over(app: Arc<Emergencies>) {
    loop {
        let pause = DUE_EVERY_MS / 2 + rand::random_range(0..=DUE_EVERY_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let records = &app.context.records;
        if app.fill_all_cells().await.is_ok() {
            // An older node that still runs beside this one may raise more that have no square.
            app.is_filled.store(false, Ordering::Release);
        }
        let before = ago_ms(ANNOUNCE_AFTER_MS);
        let Ok(found) = records.run(store::unalerted(records.pool(), before)).await else { continue };
        for emergency in found {
            match alert_late(&app, &emergency.id).await {
                Ok(()) => {}
                // Redis or the records are away: so they are for the others.
                Err(AppError::Unavailable) => break,
                Err(error) => {
                    tracing::warn!(error = error.say(), emergency = emergency.id, "helpers were not alerted");
                }
            }
        }
    }
}

async fn alert_late(app: &Arc<Emergencies>, id: &str) -> Result<(), AppError> {
    // As it is now: it may be over.
    let emergency = app.find(id).await?;
    if !emergency.status.is_open() {
        let records = &app.context.records;
        return records.run(store::set_alerted(records.pool(), id)).await;
    }
    if let Ok(owner) = UserId::parse(&emergency.owner.id) {
        app.bring_user(&owner, id).await;
    }
    app.alert(&emergency).await.map(drop)
}
