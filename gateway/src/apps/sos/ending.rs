//! How an incident ends: its raiser or an admin ends it, a rescuer or an admin marks it as a false alarm, or it
//! reaches its maximum age. (When the last participant leaves, [`super::stories`] ends it.)
//!
//! One transaction ends the incident, ends all participations and stores the jobs that follow ([`crate::jobs`]):
//! send `sos:ended` to the room, and to the raiser's sockets if the raiser does not participate; then remove all
//! sockets from the room. The sockets stay connected, because no user asked to leave. There is no
//! `participant:left` per participant, since n participants would get n events each.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use shared::auth::Claims;
use shared::limits::{DUE_EVERY_MS, INCIDENTS_AT_ONCE};
use shared::names::UserId;

use super::incidents::{self, End, Incident, Reason};
use super::stories::{over, sees_all};
use super::{AGE, NAME, Sos, room};
use crate::apps::{reconciler, within};
use crate::clock::{ago_ms, iso, now_ms, passed_ms};
use crate::describe::forms::{Millis, Name, Time, UserIdText};
use crate::error::AppError;
use crate::jobs::{Audience, Batch, Job, Ran};

/// The kind of the job that empties the room of an incident that has ended.
pub(super) const EMPTY: &str = "empty";

/// The event that reports the end.
const ENDED: &str = "sos:ended";

/// The longest delay before looking for the oldest incident again: clocks of nodes differ.
const OLDEST_LOOK_MS: u64 = 3_600_000;

/// An incident has ended.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "IncidentEnded")]
#[serde(rename_all = "camelCase")]
pub(super) struct Ended<'a> {
    #[schemars(with = "Name")]
    sos_id: &'a str,
    reason: Reason,
    /// The user who ended it or marked it as a false alarm. Left out if it ended otherwise.
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
    /// Ends an incident on behalf of its raiser or an admin.
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

    /// Marks an incident as a false alarm on behalf of a rescuer or an admin, which ends it.
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
                if !sos.end_and_notify((&incident.id, &incident.user_id), &end).await? {
                    return Err(over());
                }
                tracing::info!(sos = incident.id, by, reason = ?reason, "a user ended an incident");
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

    /// Ends an incident. Returns false if it had ended before.
    async fn end_and_notify(&self, incident: (&str, &str), end: &End<'_>) -> Result<bool, AppError> {
        let (records, (sos_id, _)) = (&self.context.records, incident);
        let follow = |raiser_is_there| self.after_end(incident, end, raiser_is_there);
        let ended = incidents::end(records.pool(), incident, end, follow);
        let Some(batch) = records.run(ended).await? else { return Ok(false) };
        tracing::debug!(sos = sos_id, "an incident has ended");
        batch.run().await;
        Ok(true)
    }

    /// The jobs after an incident's end: the room receives the event, then all sockets leave the room on all nodes.
    fn after_end(&self, (sos_id, raiser): (&str, &str), end: &End<'_>, raiser_is_there: bool) -> Batch {
        let mut jobs = vec![self.ended(sos_id, end)];
        if let (false, Ok(raiser)) = (raiser_is_there, UserId::parse(raiser)) {
            jobs.push(self.ended_for(Audience::User(raiser), sos_id, end));
        }
        let subject = reconciler::subject_of::<Self>(sos_id);
        jobs.push(Job::of_app(NAME, EMPTY, &subject, &sos_id).known_as(empty_id(sos_id)));
        self.context.jobs.batch(jobs)
    }

    /// The event to the room of an ended incident.
    pub(super) fn ended(&self, sos_id: &str, end: &End<'_>) -> Job {
        self.ended_for(Audience::Room(room(sos_id)), sos_id, end)
    }

    fn ended_for(&self, to: Audience, sos_id: &str, end: &End<'_>) -> Job {
        let subject = reconciler::subject_of::<Self>(sos_id);
        Job::event_to(&subject, (&self.namespace, to), ENDED, &Ended::of(sos_id, end)).into()
    }
}

/// The id of the job that empties an incident's room.
pub(super) fn empty_id(sos_id: &str) -> String {
    format!("sos:empty:{sos_id}")
}

/// Removes all sockets from the room of an ended incident, on all nodes.
pub(super) async fn run_empty(sos: &Sos, job: &Job) -> Ran {
    let Some(sos_id) = job.payload::<String>() else { return Ran::done() };
    match sos.context.fanout.leave_all(&sos.namespace, &room(&sos_id)).await {
        Ok(()) => Ran::done(),
        Err(error) => {
            tracing::warn!(%error, sos = sos_id, "the room of an ended incident is not empty yet; retrying");
            Ran::Failed
        }
    }
}

/// Ends incidents when they reach the age `SOS_AGE`, until the node stops. Every node does this, and the records
/// decide which one is first. No incident expires before the oldest open one, so only that one's time must be
/// known.
pub(super) async fn end_old(sos: Arc<Sos>) {
    let age = sos.context.settings.get(&AGE);
    if age.is_zero() {
        return;
    }
    let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
    loop {
        let records = &sos.context.records;
        let oldest = records.run(incidents::oldest_open(records.pool())).await;
        let left =
            oldest.map_or(0, |oldest| oldest.map_or(age_ms, |at| age_ms.saturating_sub(passed_ms(at))));
        // Spreads out nodes that were started together.
        let jitter = DUE_EVERY_MS / 2 + rand::random_range(0..=DUE_EVERY_MS);
        tokio::time::sleep(Duration::from_millis(left.min(OLDEST_LOOK_MS) + jitter)).await;
        // Failures are logged where they occur. The next round tries again.
        while let Ok(true) = end_some(&sos, ago_ms(age_ms)).await {}
    }
}

/// Ends some incidents that were raised before `before_ms`. Returns whether more may remain.
async fn end_some(sos: &Sos, before_ms: u64) -> Result<bool, AppError> {
    let records = &sos.context.records;
    let old = records.run(incidents::old(records.pool(), before_ms, INCIDENTS_AT_ONCE)).await?;
    for (sos_id, raiser) in &old {
        let end = End { reason: Reason::Age, by: None, at_ms: now_ms() };
        if sos.end_and_notify((sos_id, raiser), &end).await? {
            tracing::info!(sos = sos_id, "an incident has expired");
        }
    }
    Ok(old.len() == INCIDENTS_AT_ONCE as usize)
}
