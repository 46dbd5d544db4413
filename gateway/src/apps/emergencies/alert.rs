//! Telling helpers of a new emergency: all of them that it is there, and those near that it is near.
//!
//! Until that is done the record says that it is not, so it is done by whichever node can: one look for who is near, one
//! broadcast to all helpers, and one packet to each helper near, since each has a distance of their own.

use std::sync::Arc;
use std::time::Duration;

use fanout::{Near, Target};
use serde_json::json;
use shared::limits::{ANNOUNCE_AFTER_MS, DUE_EVERY_MS, HELPER_RADIUS, HELPERS_NEAR_MAX};
use shared::names::UserId;

use super::emergency::{Emergency, Viewer};
use super::events::{Created, Nearby};
use super::{Emergencies, HELPERS, POSITIONS, store};
use crate::clock::now_ms;
use crate::error::AppError;
use crate::socket;

impl Emergencies {
    /// Alerts helpers; answers how many are near. May be repeated: nobody hears it twice.
    pub(super) async fn alert(&self, emergency: &Emergency) -> Result<usize, AppError> {
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
        let body = Created { emergency: &shown, nearby_helper_count: near.len() };
        let key = format!("created:{}", emergency.id);
        let target = Target::room(&self.namespace, HELPERS).once(&key);
        let created = socket::post(&self.context, target, "emergency:created", &body);
        let key = format!("nearby:{}", emergency.id);
        let mut posted = vec![created];
        for (user, near) in &near {
            let body = Nearby { emergency: &shown, distance: near.metres.round() };
            let target = Target::user(&self.namespace, user).once(&key);
            posted.push(socket::post(&self.context, target, "emergency:nearby", &body));
        }
        for posted in posted {
            posted.outcome().await?;
        }
        let records = &self.context.records;
        records.run(store::set_alerted(records.pool(), &emergency.id)).await?;
        let ids: Vec<&str> = near.iter().map(|(user, _)| user.as_str()).collect();
        self.context.pusher.push("emergency:created", &json!({"emergency": shown, "nearbyHelperIds": ids}));
        Ok(near.len())
    }
}

/// Alerts helpers of emergencies whose node could not, until this one stops.
pub(super) async fn alert_left_over(app: Arc<Emergencies>) {
    loop {
        let pause = DUE_EVERY_MS / 2 + rand::random_range(0..=DUE_EVERY_MS);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let records = &app.context.records;
        let before = now_ms().saturating_sub(ANNOUNCE_AFTER_MS);
        let Ok(found) = records.run(store::unalerted(records.pool(), before)).await else { continue };
        for emergency in found {
            let done = if emergency.status.is_open() {
                app.alert(&emergency).await.map(drop)
            } else {
                records.run(store::set_alerted(records.pool(), &emergency.id)).await
            };
            if done.is_err() {
                // Redis or the records are away: so they are for the others.
                break;
            }
        }
    }
}
