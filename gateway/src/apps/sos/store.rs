//! The statements of `sos`: nothing else knows its tables.

use schemars::JsonSchema;
use serde::Serialize;
use shared::limits::PARTICIPANTS_AT_ONCE;
use shared::names::UserId;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::incidents::{self, End};
use crate::apps::reconciler::{Membership, Standing};
use crate::clock::iso;
use crate::describe::forms::{Name, OwnId, Time, UserIdText};
use crate::jobs::{self, Batch};
use crate::records::{Connection, Pool, column_time, raisers, time_column};

/// What a user may call themselves in an incident; it gives no rights.
pub(super) const USER_TYPES: [&str; 3] = ["citizen", "rescuer", "admin"];

/// A participation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Participant {
    #[schemars(with = "OwnId")]
    pub(crate) id: String,
    #[schemars(with = "Name")]
    pub(crate) sos_id: String,
    #[schemars(with = "UserIdText")]
    pub(crate) user_id: String,
    #[schemars(extend("enum" = USER_TYPES))]
    pub(crate) user_type: String,
    #[schemars(extend("enum" = ["ACTIVE", "INACTIVE"]))]
    pub(crate) status: String,
    #[schemars(with = "Time")]
    pub(crate) joined_at: String,
    #[schemars(with = "Option<Time>")]
    pub(crate) left_at: Option<String>,
    #[schemars(extend("enum" = ["USER", "ANON"]))]
    pub(crate) actor_type: String,
    /// For events; the documents' record has none.
    #[serde(skip)]
    pub(crate) display_name: String,
}

/// Who begins to take part.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sos_id: String,
    pub(crate) user_id: UserId,
    pub(crate) user_type: &'static str,
    pub(crate) display_name: String,
    pub(crate) actor_type: &'static str,
    pub(crate) joined_at_ms: u64,
}

/// Where a page of a history ends: before this time and, within it, this id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) joined_at_ms: i64,
    pub(crate) id: String,
}

impl Before {
    /// The first page.
    pub(crate) fn everything() -> Self {
        Self { joined_at_ms: i64::MAX, id: String::new() }
    }
}

/// Whose history.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    Incident(&'a str),
    User(&'a str),
}

const ENTER: &str = "INSERT INTO sos_participants \
    (id, sos_id, user_id, user_type, display_name, actor_type, status, joined_at, left_at) \
    VALUES ($1, $2, $3, $4, $5, $6, 'ACTIVE', $7, NULL) ON CONFLICT DO NOTHING";
const LEAVE: &str = "UPDATE sos_participants SET status = 'INACTIVE', \
    left_at = CASE WHEN joined_at > $3 THEN joined_at ELSE $3 END \
    WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'";
const COLUMNS: &str = "SELECT id, sos_id, user_id, user_type, display_name, actor_type, status, joined_at, left_at \
    FROM sos_participants ";
const ACTIVE_OF: &str = "SELECT sos_id FROM sos_participants WHERE user_id = $1 AND status = 'ACTIVE' \
    ORDER BY joined_at DESC LIMIT 1000";
const HAS_TAKEN_PART: &str = "SELECT 1 FROM sos_participants WHERE sos_id = $1 AND user_id = $2 LIMIT 1";
const ANYBODY: &str = "SELECT 1 FROM sos_participants WHERE sos_id = $1 AND status = 'ACTIVE' LIMIT 1";
const STANDING: &str = "SELECT status, by_end FROM sos_participants WHERE sos_id = $1 AND user_id = $2 \
    ORDER BY CASE WHEN status = 'ACTIVE' THEN 0 ELSE 1 END, joined_at DESC, id DESC LIMIT 1";
const ACTIVE_AFTER: &str = "SELECT sos_id, user_id FROM sos_participants WHERE status = 'ACTIVE' \
    AND (sos_id, user_id) > ($1, $2) ORDER BY sos_id, user_id LIMIT $3";
const PLACE_OF: &str = "SELECT joined_at FROM sos_participants WHERE id = $1";
/// How often an entry is tried that meets a leave of the same user.
const ENTRIES_TRIED: usize = 3;

/// What became of an entry.
#[derive(Debug)]
pub(crate) enum Entered {
    /// The record. Where it is new, what follows from it.
    Yes(Box<Participant>, Option<Batch>),
    /// The incident has ended.
    Over,
}

/// Records that a user takes part, unless the incident has ended; with what follows from it, if that is new.
pub(crate) async fn enter(
    pool: &Pool,
    entry: &Entry,
    follow: impl Fn(&Participant) -> Batch,
) -> Result<Entered, sqlx::Error> {
    for _ in 0..ENTRIES_TRIED {
        let mut transaction = pool.begin().await?;
        if !incidents::stay_open(&mut transaction, &entry.sos_id).await? {
            return Ok(Entered::Over);
        }
        let Some((record, is_new)) = enter_in(&mut transaction, entry).await? else {
            // A record was there and has ended since.
            continue;
        };
        let mut batch = None;
        if is_new {
            let follows = batch.insert(follow(&record));
            jobs::enqueue(&mut transaction, follows).await?;
        }
        transaction.commit().await?;
        return Ok(Entered::Yes(Box::new(record), batch));
    }
    Err(sqlx::Error::RowNotFound)
}

pub(super) async fn enter_in(
    transaction: &mut Connection,
    entry: &Entry,
) -> Result<Option<(Participant, bool)>, sqlx::Error> {
    let done = sqlx::query(ENTER)
        .bind(Uuid::now_v7().to_string())
        .bind(&entry.sos_id)
        .bind(entry.user_id.as_str())
        .bind(entry.user_type)
        .bind(&entry.display_name)
        .bind(entry.actor_type)
        .bind(time_column(entry.joined_at_ms))
        .execute(&mut *transaction)
        .await?;
    let sql =
        sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'"));
    let found = sqlx::query(sql).bind(&entry.sos_id).bind(entry.user_id.as_str());
    let row = found.fetch_optional(&mut *transaction).await?;
    row.map(|row| Ok((participant(&row)?, done.rows_affected() > 0))).transpose()
}

/// Records that a user takes part no more; `None` where they did not. Who is the last to leave an incident that was raised here
/// ends it. `follow` says what follows, by whether that was so.
pub(crate) async fn leave(
    pool: &Pool,
    (sos_id, user_id, at_ms): (&str, &str, u64),
    end: &End<'_>,
    follow: impl FnOnce(bool) -> Batch,
) -> Result<Option<Batch>, sqlx::Error> {
    let raiser = incidents::raiser_of_open(pool, sos_id).await?;
    let mut transaction = pool.begin().await?;
    let is_open = match &raiser {
        None => false,
        Some(raiser) => {
            raisers::lock(&mut transaction, incidents::TABLE, raiser).await?;
            incidents::stay_open(&mut transaction, sos_id).await?
        }
    };
    let left = sqlx::query(LEAVE).bind(sos_id).bind(user_id).bind(time_column(at_ms));
    if left.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Ok(None);
    }
    let mut is_last = false;
    if let Some(raiser) = raiser.filter(|_| is_open)
        && sqlx::query(ANYBODY).bind(sos_id).fetch_optional(&mut *transaction).await?.is_none()
    {
        incidents::end_in(&mut transaction, (sos_id, &raiser), end).await?;
        is_last = true;
    }
    let batch = follow(is_last);
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok(Some(batch))
}

/// Where the sockets of a user belong: disconnected, where the user has left or never was there; out of the room alone, where
/// the incident ended while the user took part.
pub(crate) async fn standing(pool: &Pool, sos_id: &str, user_id: &str) -> Result<Standing, sqlx::Error> {
    let Some(row) = sqlx::query(STANDING).bind(sos_id).bind(user_id).fetch_optional(pool).await? else {
        return Ok(Standing::Disconnected);
    };
    if row.try_get::<String, _>(0)? == "ACTIVE" {
        return Ok(Standing::Inside);
    }
    Ok(if row.try_get::<i64, _>(1)? == 1 { Standing::Outside } else { Standing::Disconnected })
}

/// Who takes part now, in the order they joined.
pub(crate) async fn active(pool: &Pool, sos_id: &str, limit: u32) -> Result<Vec<Participant>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE sos_id = $1 AND status = 'ACTIVE' ORDER BY joined_at, id LIMIT $2");
    let rows =
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(sos_id).bind(i64::from(limit)).fetch_all(pool).await?;
    rows.iter().map(participant).collect()
}

/// A page of a history, newest first.
pub(crate) async fn history(
    pool: &Pool,
    of: Of<'_>,
    before: &Before,
    limit: u32,
) -> Result<Vec<Participant>, sqlx::Error> {
    let (column, id) = match of {
        Of::Incident(id) => ("sos_id", id),
        Of::User(id) => ("user_id", id),
    };
    let sql = format!(
        "{COLUMNS} WHERE {column} = $1 AND (joined_at < $2 OR (joined_at = $2 AND id < $3)) \
         ORDER BY joined_at DESC, id DESC LIMIT $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(id)
        .bind(before.joined_at_ms)
        .bind(&before.id)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(participant).collect()
}

/// Where a record stands in a history.
pub(crate) async fn place_of(pool: &Pool, id: &str) -> Result<Option<Before>, sqlx::Error> {
    let row = sqlx::query(PLACE_OF).bind(id).fetch_optional(pool).await?;
    row.map(|row| Ok(Before { joined_at_ms: row.try_get(0)?, id: id.to_owned() })).transpose()
}

/// The incidents that a user takes part in now, the latest first.
pub(crate) async fn active_of(pool: &Pool, user_id: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(ACTIVE_OF).bind(user_id).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Who takes part in what, behind one of them in the order of incidents and users: [`PARTICIPANTS_AT_ONCE`], fewer at the end.
pub(crate) async fn active_after(
    pool: &Pool,
    after: Option<&Membership>,
) -> Result<Vec<Membership>, sqlx::Error> {
    let (sos_id, user) = after.map_or(("", ""), |(sos_id, user)| (sos_id, user.as_str()));
    let limit = i64::from(PARTICIPANTS_AT_ONCE);
    let rows = sqlx::query(ACTIVE_AFTER).bind(sos_id).bind(user).bind(limit).fetch_all(pool).await?;
    let bad = |_| sqlx::Error::Decode("a participant's user".into());
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, UserId::parse(&row.try_get::<String, _>(1)?).map_err(bad)?)))
        .collect()
}

/// Whether a user takes part, or has.
pub(crate) async fn has_taken_part(pool: &Pool, sos_id: &str, user_id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(HAS_TAKEN_PART).bind(sos_id).bind(user_id).fetch_optional(pool).await?.is_some())
}

/// Whether a user takes part now.
pub(crate) async fn is_active(pool: &Pool, sos_id: &str, user_id: &str) -> Result<bool, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'");
    Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(sos_id).bind(user_id).fetch_optional(pool).await?.is_some())
}

fn time(ms: i64) -> String {
    iso(column_time(ms))
}

fn participant(row: &AnyRow) -> Result<Participant, sqlx::Error> {
    let left_at: Option<i64> = row.try_get(8)?;
    Ok(Participant {
        id: row.try_get(0)?,
        sos_id: row.try_get(1)?,
        user_id: row.try_get(2)?,
        user_type: row.try_get(3)?,
        display_name: row.try_get(4)?,
        actor_type: row.try_get(5)?,
        status: row.try_get(6)?,
        joined_at: time(row.try_get(7)?),
        left_at: left_at.map(time),
    })
}
