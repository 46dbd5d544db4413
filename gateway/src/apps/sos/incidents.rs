//! The SQL statements that raise, find and end incidents of this system.
//!
//! A transaction that changes the open incidents or their participants locks in this order: the raiser
//! ([`raisers::lock`]), the incident ([`stay_open`]), its participants.

use schemars::JsonSchema;
use serde::Serialize;
use sqlx::Row as _;

use super::participants::{Entry, Participant, enter_in};
use crate::clock::iso;
use crate::describe::forms::{OwnId, Time, UserIdText};
use crate::jobs::{self, Batch};
use crate::records::{
    Columns, Connection, Looked, Page, Pool, Table, cell, column_time, nearby, raisers, time_column,
};

/// The table of incidents.
pub(super) const TABLE: Table = Table("sos_incidents");

/// Why an incident has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "IncidentEndReason")]
pub(crate) enum Reason {
    /// Its last participant left.
    Left,
    /// Its raiser ended it.
    Raiser,
    /// An admin ended it.
    Admin,
    /// A rescuer or an admin marked it as a false alarm.
    FalseAlarm,
    /// It reached the age `SOS_AGE`.
    Age,
}

impl Reason {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Left, "left"),
        (Self::Raiser, "raiser"),
        (Self::Admin, "admin"),
        (Self::FalseAlarm, "false_alarm"),
        (Self::Age, "age"),
    ];

    fn word(self) -> &'static str {
        Self::ALL.iter().find(|(reason, _)| *reason == self).map_or("", |(_, word)| word)
    }

    fn of_record(word: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == word).map(|(reason, _)| *reason)
    }
}

/// An incident.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Incident {
    #[schemars(with = "OwnId")]
    pub(crate) id: String,
    #[schemars(with = "UserIdText")]
    pub(crate) user_id: String,
    pub(crate) latitude: Option<f64>,
    pub(crate) longitude: Option<f64>,
    pub(crate) description: Option<String>,
    #[schemars(extend("enum" = ["ACTIVE", "ENDED"]))]
    pub(crate) status: String,
    #[schemars(with = "Time")]
    pub(crate) created_at: String,
    /// When it ended. Left out while it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Time")]
    pub(crate) ended_at: Option<String>,
    /// The user who ended it or marked it as a false alarm.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UserIdText")]
    pub(crate) ended_by: Option<String>,
    /// Why it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Reason")]
    pub(crate) end_reason: Option<Reason>,
}

/// How an incident ends.
#[derive(Debug)]
pub(crate) struct End<'a> {
    pub(crate) reason: Reason,
    pub(crate) by: Option<&'a str>,
    pub(crate) at_ms: u64,
}

/// The outcome of raising an incident.
#[derive(Debug)]
pub(crate) enum Opened {
    Yes(Batch),
    /// The user raises incidents too often. Seconds until the next one is allowed.
    Limited(u64),
}

const INSERT: &str = "INSERT INTO sos_incidents (id, user_id, latitude, longitude, description, status, created_at, \
    cell, is_extra, has_siblings) VALUES ($1, $2, $3, $4, $5, 'ACTIVE', $6, $7, $8, $9)";
const COLUMNS: [&str; 10] = [
    "id",
    "user_id",
    "latitude",
    "longitude",
    "description",
    "status",
    "created_at",
    "ended_at",
    "ended_by",
    "end_reason",
];
/// The columns of an open incident, without those that describe its end.
const OPEN_COLUMNS: [&str; 6] = ["id", "user_id", "latitude", "longitude", "description", "created_at"];
const STAY_OPEN: &str = "UPDATE sos_incidents SET status = status WHERE id = $1 AND ended_at IS NULL";
const IS_OURS: &str = "SELECT 1 FROM sos_incidents WHERE id = $1";
const RAISER: &str = "SELECT user_id FROM sos_incidents WHERE id = $1 AND ended_at IS NULL";
const END: &str = "UPDATE sos_incidents SET status = 'ENDED', ended_at = $2, ended_by = $3, end_reason = $4 \
    WHERE id = $1 AND ended_at IS NULL";
const END_PARTICIPANTS: &str = "UPDATE sos_participants SET status = 'INACTIVE', by_end = 1, \
    left_at = CASE WHEN joined_at > $2 THEN joined_at ELSE $2 END WHERE sos_id = $1 AND status = 'ACTIVE'";
const TAKES_PART: &str =
    "SELECT 1 FROM sos_participants WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'";
const OLDEST: &str =
    "SELECT created_at FROM sos_incidents WHERE ended_at IS NULL ORDER BY created_at, id LIMIT 1";
const OLD: &str = "SELECT id, user_id FROM sos_incidents WHERE ended_at IS NULL AND created_at <= $1 \
    ORDER BY created_at, id LIMIT $2";

/// Stores an incident, its first participation and the jobs that follow, in one transaction.
pub(crate) async fn raise(
    pool: &Pool,
    incident: &Incident,
    entry: &Entry,
    follow: impl FnOnce(&Participant) -> Batch,
) -> Result<Opened, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let wait = raisers::take(&mut transaction, TABLE, &incident.user_id, entry.joined_at_ms).await?;
    if let Some(seconds) = wait {
        return Ok(Opened::Limited(seconds));
    }
    let flags = raisers::open(&mut transaction, TABLE, &incident.user_id).await?;
    let place = incident.latitude.zip(incident.longitude);
    sqlx::query(INSERT)
        .bind(&incident.id)
        .bind(&incident.user_id)
        .bind(incident.latitude)
        .bind(incident.longitude)
        .bind(&incident.description)
        .bind(time_column(entry.joined_at_ms))
        .bind(place.map(|(latitude, longitude)| cell(fanout::Place { latitude, longitude })))
        .bind(flags.is_extra)
        .bind(flags.has_siblings)
        .execute(&mut *transaction)
        .await?;
    let (participant, _) = enter_in(&mut transaction, entry).await?.ok_or(sqlx::Error::RowNotFound)?;
    let batch = follow(&participant);
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok(Opened::Yes(batch))
}

/// Whether an incident is open or was not raised in this system. Keeps an open one open until the transaction ends.
pub(super) async fn stay_open(transaction: &mut Connection, id: &str) -> Result<bool, sqlx::Error> {
    let open = sqlx::query(STAY_OPEN).bind(id).execute(&mut *transaction).await?;
    if open.rows_affected() > 0 {
        return Ok(true);
    }
    Ok(sqlx::query(IS_OURS).bind(id).fetch_optional(transaction).await?.is_none())
}

/// Finds an incident that was raised in this system.
pub(crate) async fn find(pool: &Pool, id: &str) -> Result<Option<Incident>, sqlx::Error> {
    let sql = format!("SELECT {} FROM sos_incidents WHERE id = $1", COLUMNS.join(", "));
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(incident).transpose()
}

/// The raiser of an open incident.
pub(super) async fn raiser_of_open(pool: &Pool, id: &str) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(RAISER).bind(id).fetch_optional(pool).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Ends an incident and all its participations. `follow` makes the jobs that follow, given whether the raiser
/// participates. Returns these jobs, or `None` if the incident had ended before.
pub(crate) async fn end(
    pool: &Pool,
    (id, raiser): (&str, &str),
    end: &End<'_>,
    follow: impl FnOnce(bool) -> Batch,
) -> Result<Option<Batch>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    raisers::lock(&mut transaction, TABLE, raiser).await?;
    let raiser_is_there =
        sqlx::query(TAKES_PART).bind(id).bind(raiser).fetch_optional(&mut *transaction).await?.is_some();
    if !end_in(&mut transaction, (id, raiser), end).await? {
        return Ok(None);
    }
    let batch = follow(raiser_is_there);
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok(Some(batch))
}

/// Ends an incident. Returns false if it had ended before. The caller has locked its raiser.
pub(super) async fn end_in(
    transaction: &mut Connection,
    (id, raiser): (&str, &str),
    end: &End<'_>,
) -> Result<bool, sqlx::Error> {
    let at = time_column(end.at_ms);
    let ended = sqlx::query(END).bind(id).bind(at).bind(end.by).bind(end.reason.word());
    if ended.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(false);
    }
    sqlx::query(END_PARTICIPANTS).bind(id).bind(at).execute(&mut *transaction).await?;
    raisers::settle(transaction, TABLE, raiser).await?;
    Ok(true)
}

/// Open incidents that were raised before `before_ms`, oldest first, each with its raiser.
pub(crate) async fn old(
    pool: &Pool,
    before_ms: u64,
    limit: u32,
) -> Result<Vec<(String, String)>, sqlx::Error> {
    let rows = sqlx::query(OLD).bind(time_column(before_ms)).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// When the oldest open incident was raised.
pub(super) async fn oldest_open(pool: &Pool) -> Result<Option<u64>, sqlx::Error> {
    let row = sqlx::query(OLDEST).fetch_optional(pool).await?;
    row.map(|row| row.try_get(0).map(column_time)).transpose()
}

/// A page of the open incidents around a place.
pub(crate) async fn near(pool: &Pool, looked: &Looked) -> Result<Page<Incident>, sqlx::Error> {
    nearby(pool, TABLE, looked, (&OPEN_COLUMNS, |row| open_incident(row))).await
}

fn open_incident(row: &impl Columns) -> Result<Incident, sqlx::Error> {
    Ok(Incident {
        id: row.get(0)?,
        user_id: row.get(1)?,
        latitude: row.get(2)?,
        longitude: row.get(3)?,
        description: row.get(4)?,
        status: "ACTIVE".to_owned(),
        created_at: iso(column_time(row.get(5)?)),
        ended_at: None,
        ended_by: None,
        end_reason: None,
    })
}

fn incident(row: &impl Columns) -> Result<Incident, sqlx::Error> {
    let time = |ms: i64| iso(column_time(ms));
    Ok(Incident {
        id: row.get(0)?,
        user_id: row.get(1)?,
        latitude: row.get(2)?,
        longitude: row.get(3)?,
        description: row.get(4)?,
        status: row.get(5)?,
        created_at: time(row.get(6)?),
        ended_at: row.get::<Option<i64>>(7)?.map(time),
        ended_by: row.get(8)?,
        end_reason: row.get::<Option<String>>(9)?.as_deref().and_then(Reason::of_record),
    })
}
