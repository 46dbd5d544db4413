//! Alerts helpers of a new emergency: all helpers that it exists, and nearby helpers that it is near.
//!
//! A job does this, stored with the emergency. It searches once for nearby helpers, sends one broadcast to all
//! helpers, and one packet to each nearby helper, because their distances differ.

use fanout::{Near, Target};
use serde_json::Value;
use shared::limits::REDIS_PIPELINE_MAX;
use shared::names::UserId;

use super::emergency::{Emergency, Viewer};
use super::events::{Created, Nearby, Pushed};
use super::limits::{HELPER_RADIUS, HELPERS_NEAR_MAX};
use super::{Emergencies, HELPERS, NAME, POSITIONS, store};
use crate::apps::reconciler;
use crate::clock::ago_ms;
use crate::error::AppError;
use crate::jobs::{Job, Ran, WithId, enqueue};
use crate::socket;

/// The kind of the job.
pub(super) const ALERT: &str = "alert";

/// How old an emergency from a node with an older version must be before this node assumes that its helpers were
/// not alerted.
const OLDER_AFTER_MS: u64 = 10_000;

/// The job that alerts an emergency's helpers. Its value is the number of nearby helpers.
pub(super) fn job(id: &str) -> Job {
    let subject = reconciler::subject_of::<Emergencies>(id);
    Job::of_app(NAME, ALERT, &subject, &id).known_as(format!("emergencies:alert:{id}"))
}

/// Alerts an emergency's helpers.
pub(super) async fn run(app: &Emergencies, job: &Job) -> Ran {
    let Some(id) = job.payload::<String>() else { return Ran::done() };
    // Read again, because it may have ended.
    let emergency = match app.find(&id).await {
        Ok(emergency) if emergency.status.is_open() => emergency,
        Ok(_) | Err(AppError::NotFound(_)) => return Ran::done(),
        Err(_) => return Ran::Failed,
    };
    match app.alert_helpers(&emergency).await {
        Ok(near) => Ran::Done(Value::from(near)),
        Err(error) => {
            tracing::warn!(error = error.say(), emergency = id, "helpers could not be alerted yet; retrying");
            Ran::Failed
        }
    }
}

impl Emergencies {
    async fn alert_helpers(&self, emergency: &Emergency) -> Result<usize, AppError> {
        let live = self.context.fanout.live();
        // One extra result, in case the owner is among them.
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
        socket::broadcast(&self.context, target, "emergency:created", &WithId::new(&key, &body)).await?;
        let key = format!("nearby:{}", emergency.id);
        // Sends in chunks, to leave room in the pipeline for other publishers.
        for some in near.chunks(REDIS_PIPELINE_MAX) {
            let posted: Vec<_> = some
                .iter()
                .map(|(user, near)| {
                    let body = Nearby { emergency: &shown, distance: near.metres.round() };
                    let target = Target::user(&self.namespace, user).once(&key);
                    socket::post(&self.context, target, "emergency:nearby", &WithId::new(&key, &body))
                })
                .collect();
            for posted in posted {
                posted.outcome().await?;
            }
        }
        let ids: Vec<&str> = near.iter().map(|(user, _)| user.as_str()).collect();
        let body = Pushed { emergency: shown, nearby_helper_ids: &ids };
        self.context.pusher.push("emergency:created", &emergency.id, &body);
        Ok(near.len())
    }
}

/// Creates jobs for emergencies that a node of an older version raised without alerting helpers. Such nodes may run
/// beside this one, or may have run before an upgrade.
pub(super) async fn adopt_older(app: &Emergencies) {
    let records = &app.context.records;
    let before = ago_ms(OLDER_AFTER_MS);
    let Ok(found) = records.run(store::unalerted(records.pool(), before)).await else { return };
    for id in found {
        let batch = app.context.jobs.batch([job(&id)]);
        let adopted = async {
            let mut transaction = records.pool().begin().await?;
            if store::set_alerted(&mut transaction, &id).await? {
                enqueue(&mut transaction, &batch).await?;
            }
            transaction.commit().await
        };
        if records.run(adopted).await.is_ok() {
            batch.run_later();
        }
    }
}
