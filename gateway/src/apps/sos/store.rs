//! The SQL statements about participations. Only this module, [`incidents`] and
//! [`participants`](super::participants) access the tables of `sos`.

use shared::names::UserId;
use sqlx::Row as _;

use super::incidents::{self, End};
use super::limits::PARTICIPANTS_AT_ONCE;
use super::participants::{COLUMNS, Entry, Participant, enter_in, participant};
use crate::apps::reconciler::{Membership, Standing};
use crate::jobs::{self, Batch};
use crate::records::{Pool, raisers, time_column};

/// The position before which a page of a history ends: a time and, at the same time, an id.
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

/// The subject of a history.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Of<'a> {
    Incident(&'a str),
    User(&'a str),
}

const LEAVE: &str = "UPDATE sos_participants SET status = 'INACTIVE', \
    left_at = CASE WHEN joined_at > $3 THEN joined_at ELSE $3 END \
    WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'";
const ACTIVE_OF: &str = "SELECT sos_id FROM sos_participants WHERE user_id = $1 AND status = 'ACTIVE' \
    ORDER BY joined_at DESC LIMIT 1000";
const HAS_TAKEN_PART: &str = "SELECT 1 FROM sos_participants WHERE sos_id = $1 AND user_id = $2 LIMIT 1";
const ANYBODY: &str = "SELECT 1 FROM sos_participants WHERE sos_id = $1 AND status = 'ACTIVE' LIMIT 1";
const STANDING: &str = "SELECT status, by_end FROM sos_participants WHERE sos_id = $1 AND user_id = $2 \
    ORDER BY CASE WHEN status = 'ACTIVE' THEN 0 ELSE 1 END, joined_at DESC, id DESC LIMIT 1";
const ACTIVE_AFTER: &str = "SELECT sos_id, user_id FROM sos_participants WHERE status = 'ACTIVE' \
    AND (sos_id, user_id) > ($1, $2) ORDER BY sos_id, user_id LIMIT $3";
const PLACE_OF: &str = "SELECT joined_at FROM sos_participants WHERE id = $1";
/// How many times to retry an entry that races with the same user's leave.
const ENTRIES_TRIED: usize = 3;

/// The outcome of an entry.
#[derive(Debug)]
pub(crate) enum Entered {
    /// The record and, if it is new, the jobs that follow.
    Yes(Box<Participant>, Option<Batch>),
    /// The incident has ended.
    Over,
}

/// Stores a participation and, if it is new, the jobs that follow, unless the incident has ended.
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
            // The existing record has ended meanwhile.
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

/// Ends a participation; returns `None` if there was none. When the last participant leaves an incident that was
/// raised in this system, this ends it. `follow` makes the jobs that follow, given whether it has ended.
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

/// Where a user's sockets belong: disconnected if the user has left or never joined, or only out of the room if the
/// incident ended while the user participated.
pub(crate) async fn standing(pool: &Pool, sos_id: &str, user_id: &str) -> Result<Standing, sqlx::Error> {
    let Some(row) = sqlx::query(STANDING).bind(sos_id).bind(user_id).fetch_optional(pool).await? else {
        return Ok(Standing::Disconnected);
    };
    if row.try_get::<String, _>("status")? == "ACTIVE" {
        return Ok(Standing::Inside);
    }
    Ok(if row.try_get::<i64, _>("by_end")? == 1 { Standing::Outside } else { Standing::Disconnected })
}

/// The active participants in the order they joined.
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

/// The position of a record in a history.
pub(crate) async fn place_of(pool: &Pool, id: &str) -> Result<Option<Before>, sqlx::Error> {
    let row = sqlx::query(PLACE_OF).bind(id).fetch_optional(pool).await?;
    row.map(|row| Ok(Before { joined_at_ms: row.try_get(0)?, id: id.to_owned() })).transpose()
}

/// The incidents in which a user participates, latest first.
pub(crate) async fn active_of(pool: &Pool, user_id: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(ACTIVE_OF).bind(user_id).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// A page of active participations after one of them, ordered by incident and user: [`PARTICIPANTS_AT_ONCE`], or
/// fewer at the end.
pub(crate) async fn active_after(
    pool: &Pool,
    after: Option<&Membership>,
) -> Result<Vec<Membership>, sqlx::Error> {
    let (sos_id, user) = after.map_or(("", ""), |(sos_id, user)| (sos_id, user.as_str()));
    let limit = i64::from(PARTICIPANTS_AT_ONCE);
    let rows = sqlx::query(ACTIVE_AFTER).bind(sos_id).bind(user).bind(limit).fetch_all(pool).await?;
    let bad = |_| sqlx::Error::Decode("a participant's user".into());
    rows.iter()
        .map(|row| {
            Ok((row.try_get("sos_id")?, UserId::parse(&row.try_get::<String, _>("user_id")?).map_err(bad)?))
        })
        .collect()
}

/// Whether a user participates or has participated.
pub(crate) async fn has_taken_part(pool: &Pool, sos_id: &str, user_id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(HAS_TAKEN_PART).bind(sos_id).bind(user_id).fetch_optional(pool).await?.is_some())
}

/// Whether a user participates.
pub(crate) async fn is_active(pool: &Pool, sos_id: &str, user_id: &str) -> Result<bool, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE sos_id = $1 AND user_id = $2 AND status = 'ACTIVE'");
    Ok(sqlx::query(sqlx::AssertSqlSafe(sql)).bind(sos_id).bind(user_id).fetch_optional(pool).await?.is_some())
}
