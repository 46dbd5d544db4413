//! The SQL statements of `emergencies`. Only this module accesses its tables.

use fanout::Place;
use shared::auth::Reputation;
use shared::names::UserId;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::emergency::{Emergency, Helper, HelperStatus, Message, Owner, Priority, SenderRole, Status};
use super::limits::{EMERGENCIES_INVOLVED_AT_ONCE, EMERGENCY_HELPERS_MAX};
use crate::apps::reconciler::{Membership, Standing};
use crate::jobs::{self, Batch};
use crate::records::{
    Columns, Connection, LAST_ID, Looked, Page, Pool, Table, cell, column_time, nearby, raisers, time_column,
};

/// The table of emergencies.
pub(super) const TABLE: Table = Table("emergencies");

const INSERT: &str = "INSERT INTO emergencies (id, user_id, user_name, user_avatar, kind, category, description, \
    latitude, longitude, address, priority, severity, anonymous, status, created_at, updated_at, alerted, \
    cell, is_extra, has_siblings) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'active', $14, $14, 1, $15, $16, $17)";
const COLUMNS: [&str; 20] = [
    "id",
    "user_id",
    "user_name",
    "user_avatar",
    "kind",
    "category",
    "description",
    "latitude",
    "longitude",
    "address",
    "priority",
    "severity",
    "anonymous",
    "status",
    "created_at",
    "updated_at",
    "ended_at",
    "ended_by",
    "resolution_type",
    "resolution_notes",
];
const ALERTED: &str = "UPDATE emergencies SET alerted = 1 WHERE id = $1 AND alerted = 0";
const UNALERTED: &str =
    "SELECT id FROM emergencies WHERE alerted = 0 AND created_at <= $1 ORDER BY created_at LIMIT 32";
const STANDING: &str = "SELECT CASE WHEN e.user_id = $2 OR h.status <> 'cancelled' THEN 1 ELSE 0 END \
    FROM emergencies e LEFT JOIN emergency_helpers h ON h.emergency_id = e.id AND h.user_id = $2 \
    WHERE e.id = $1 AND e.ended_at IS NULL AND (e.user_id = $2 OR h.user_id IS NOT NULL)";
const BEGIN_RESPONSE: &str =
    "UPDATE emergencies SET status = 'responding', updated_at = $2 WHERE id = $1 AND status = 'active'";
const GO_ON: &str =
    "UPDATE emergencies SET updated_at = $2 WHERE id = $1 AND status IN ('active', 'responding')";
const ADD_HELPER: &str = "INSERT INTO emergency_helpers (emergency_id, user_id, user_name, trust_score, \
    rating_average, rating_count, status, joined_at, updated_at, is_open) \
    VALUES ($1, $2, $3, $4, $5, $6, 'responding', $7, $7, 1) \
    ON CONFLICT (emergency_id, user_id) DO UPDATE SET status = 'responding', notes = NULL, is_open = 1, \
    joined_at = excluded.joined_at, updated_at = excluded.updated_at WHERE emergency_helpers.status = 'cancelled'";
const SET_HELPER: &str = "UPDATE emergency_helpers SET status = $3, notes = $4, updated_at = $5, \
    is_open = CASE WHEN $3 = 'cancelled' THEN 0 ELSE 1 END WHERE emergency_id = $1 AND user_id = $2 AND status <> 'cancelled'";
const END: &str = "UPDATE emergencies SET status = $2, updated_at = $3, ended_at = $3, ended_by = $4, \
    resolution_type = $5, resolution_notes = $6 WHERE id = $1 AND status IN ('active', 'responding')";
const HELPERS: &str = "SELECT user_id, user_name, trust_score, rating_average, rating_count, status, notes, joined_at, \
    updated_at FROM emergency_helpers WHERE emergency_id = $1 ORDER BY joined_at, user_id LIMIT $2";
const HELPER: &str = "SELECT user_id, user_name, trust_score, rating_average, rating_count, status, notes, joined_at, \
    updated_at FROM emergency_helpers WHERE emergency_id = $1 AND user_id = $2";
const CLOSE_HELPERS: &str =
    "UPDATE emergency_helpers SET is_open = 0 WHERE emergency_id = $1 AND is_open = 1";
const HELPS_IN: &str =
    "SELECT emergency_id FROM emergency_helpers WHERE user_id = $1 AND is_open = 1 LIMIT 100";
const OWNS: &str =
    "SELECT id FROM emergencies WHERE user_id = $1 AND ended_at IS NULL ORDER BY id DESC LIMIT 100";
const INVOLVED: &str = "SELECT id, user_id FROM (SELECT id, user_id FROM emergencies WHERE ended_at IS NULL \
    UNION SELECT emergency_id, user_id FROM emergency_helpers WHERE is_open = 1) AS involved \
    WHERE (id, user_id) > ($1, $2) ORDER BY id, user_id LIMIT $3";
const ADD_MESSAGE: &str = "INSERT INTO emergency_messages \
    (id, emergency_id, sender_id, sender_role, recipient_id, message, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)";

/// The outcome of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Changed {
    Yes,
    /// Nothing had to change.
    Same,
    /// The emergency is closed.
    Over,
    /// The caller does not participate in it.
    NotTheirs,
}

/// Stores a new emergency and the jobs that follow. If the owner raises emergencies too often, on all nodes
/// together, returns the seconds until the next one is allowed.
pub(super) async fn insert(
    pool: &Pool,
    emergency: &Emergency,
    batch: &Batch,
) -> Result<Option<u64>, sqlx::Error> {
    let (owner, now_ms) = (&emergency.owner.id, emergency.created_at_ms);
    let mut transaction = pool.begin().await?;
    let wait = raisers::take(&mut transaction, TABLE, owner, now_ms).await?;
    if wait.is_some() {
        return Ok(wait);
    }
    let flags = raisers::open(&mut transaction, TABLE, owner).await?;
    sqlx::query(INSERT)
        .bind(&emergency.id)
        .bind(&emergency.owner.id)
        .bind(&emergency.owner.display_name)
        .bind(&emergency.owner.avatar)
        .bind(&emergency.kind)
        .bind(&emergency.category)
        .bind(&emergency.description)
        .bind(emergency.place.latitude)
        .bind(emergency.place.longitude)
        .bind(&emergency.address)
        .bind(emergency.priority.as_str())
        .bind(emergency.severity)
        .bind(i64::from(emergency.anonymous))
        .bind(time_column(emergency.created_at_ms))
        .bind(cell(emergency.place))
        .bind(flags.is_extra)
        .bind(flags.has_siblings)
        .execute(&mut *transaction)
        .await?;
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(None)
}

/// An emergency.
pub(super) async fn find(pool: &Pool, id: &str) -> Result<Option<Emergency>, sqlx::Error> {
    let sql = format!("SELECT {} FROM emergencies WHERE id = $1", COLUMNS.join(", "));
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(emergency).transpose()
}

/// A page of the open emergencies around a place.
pub(super) async fn near(pool: &Pool, looked: &Looked) -> Result<Page<Emergency>, sqlx::Error> {
    nearby(pool, TABLE, looked, (&COLUMNS, |row| emergency(row))).await
}

/// Emergencies that a node of an older version raised before `before_ms` without alerting helpers.
pub(super) async fn unalerted(pool: &Pool, before_ms: u64) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(UNALERTED).bind(time_column(before_ms)).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Records that a job alerts the helpers. Returns false if another node has already done so.
pub(super) async fn set_alerted(transaction: &mut Connection, id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(ALERTED).bind(id).execute(transaction).await?.rows_affected() > 0)
}

/// Stores a helper's response. `follow` makes the jobs that follow, given whether it is the first response.
pub(super) async fn respond(
    pool: &Pool,
    id: &str,
    helper: &Helper,
    follow: impl FnOnce(bool) -> Batch,
) -> Result<(Changed, Option<Batch>), sqlx::Error> {
    let at = time_column(helper.joined_at_ms);
    let mut transaction = pool.begin().await?;
    let begun = sqlx::query(BEGIN_RESPONSE).bind(id).bind(at).execute(&mut *transaction).await?;
    let is_first = begun.rows_affected() > 0;
    if !is_first && !go_on(&mut transaction, id, at).await? {
        return Ok((Changed::Over, None));
    }
    let reputation = helper.reputation.clone().unwrap_or_default();
    let number = |number: Option<serde_json::Number>| number.map(|number| number.to_string());
    let added = sqlx::query(ADD_HELPER)
        .bind(id)
        .bind(&helper.id)
        .bind(&helper.name)
        .bind(number(reputation.trust_score))
        .bind(number(reputation.average))
        .bind(number(reputation.count))
        .bind(at)
        .execute(&mut *transaction)
        .await?;
    if added.rows_affected() == 0 {
        return Ok((Changed::Same, None));
    }
    let batch = follow(is_first);
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok((Changed::Yes, Some(batch)))
}

/// Whether the emergency is open. Keeps an open one open until the transaction ends.
async fn go_on(transaction: &mut Connection, id: &str, at: i64) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(GO_ON).bind(id).bind(at).execute(transaction).await?;
    Ok(done.rows_affected() > 0)
}

/// Stores a helper's status.
pub(super) async fn set_helper(
    pool: &Pool,
    (id, user): (&str, &str),
    (status, notes, at_ms): (HelperStatus, Option<&str>, u64),
    batch: &Batch,
) -> Result<Changed, sqlx::Error> {
    let at = time_column(at_ms);
    let mut transaction = pool.begin().await?;
    if !go_on(&mut transaction, id, at).await? {
        return Ok(Changed::Over);
    }
    let set = sqlx::query(SET_HELPER)
        .bind(id)
        .bind(user)
        .bind(status.as_str())
        .bind(notes)
        .bind(at)
        .execute(&mut *transaction)
        .await?;
    if set.rows_affected() == 0 {
        return Ok(Changed::NotTheirs);
    }
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(Changed::Yes)
}

/// How an emergency ends.
#[derive(Debug)]
pub(super) struct End<'a> {
    pub(super) status: Status,
    pub(super) at_ms: u64,
    pub(super) by: &'a str,
    pub(super) resolution: (Option<&'a str>, Option<&'a str>),
}

/// Ends an emergency.
pub(super) async fn end(
    pool: &Pool,
    (id, owner): (&str, &str),
    end: &End<'_>,
    batch: &Batch,
) -> Result<Changed, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    raisers::lock(&mut transaction, TABLE, owner).await?;
    let done = sqlx::query(END)
        .bind(id)
        .bind(end.status.as_str())
        .bind(time_column(end.at_ms))
        .bind(end.by)
        .bind(end.resolution.0)
        .bind(end.resolution.1)
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(Changed::Over);
    }
    sqlx::query(CLOSE_HELPERS).bind(id).execute(&mut *transaction).await?;
    raisers::settle(&mut transaction, TABLE, owner).await?;
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(Changed::Yes)
}

/// The helpers of an emergency in the order they joined. Reads one more than [`EMERGENCY_HELPERS_MAX`], which shows
/// that there are more.
pub(super) async fn helpers(pool: &Pool, id: &str) -> Result<Vec<Helper>, sqlx::Error> {
    let limit = i64::from(EMERGENCY_HELPERS_MAX) + 1;
    let rows = sqlx::query(HELPERS).bind(id).bind(limit).fetch_all(pool).await?;
    rows.iter().map(helper).collect()
}

/// The helpers who respond and have not cancelled, or `only` if they are one of them. Reads one more than
/// [`EMERGENCY_HELPERS_MAX`], which shows that there are more.
pub(super) async fn responding(
    pool: &Pool,
    id: &str,
    only: Option<&str>,
) -> Result<Vec<String>, sqlx::Error> {
    const RESPONDING: &str = "SELECT user_id FROM emergency_helpers WHERE emergency_id = $1 AND status <> 'cancelled' \
        AND ($2 = '' OR user_id = $2) ORDER BY joined_at, user_id LIMIT $3";
    let limit = i64::from(EMERGENCY_HELPERS_MAX) + 1;
    let query = sqlx::query(RESPONDING).bind(id).bind(only.unwrap_or_default()).bind(limit);
    query.fetch_all(pool).await?.iter().map(|row| row.try_get(0)).collect()
}

/// A helper of an emergency.
pub(super) async fn find_helper(pool: &Pool, id: &str, user: &str) -> Result<Option<Helper>, sqlx::Error> {
    let row = sqlx::query(HELPER).bind(id).bind(user).fetch_optional(pool).await?;
    row.as_ref().map(helper).transpose()
}

/// The open emergencies in which a user helps.
pub(super) async fn helps_in(pool: &Pool, user: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(HELPS_IN).bind(user).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// The open emergencies of a user.
pub(super) async fn owns(pool: &Pool, user: &str) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(OWNS).bind(user).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Where a user's sockets belong in an open emergency: inside for its owner and responding helpers, outside for
/// helpers who cancelled.
pub(super) async fn standing(pool: &Pool, id: &str, user: &str) -> Result<Standing, sqlx::Error> {
    let Some(row) = sqlx::query(STANDING).bind(id).bind(user).fetch_optional(pool).await? else {
        return Ok(Standing::Anywhere);
    };
    let is_inside = row.try_get::<i64, _>(0)? == 1;
    Ok(if is_inside { Standing::Inside } else { Standing::Outside })
}

/// A page of the participants of open emergencies after one of them: [`EMERGENCIES_INVOLVED_AT_ONCE`], or fewer at
/// the end.
pub(super) async fn involved(
    pool: &Pool,
    after: Option<&Membership>,
) -> Result<Vec<Membership>, sqlx::Error> {
    let (id, user) = after.map_or(("", ""), |(id, user)| (id, user.as_str()));
    let bad = |_| sqlx::Error::Decode("the user of an emergency".into());
    let limit = i64::from(EMERGENCIES_INVOLVED_AT_ONCE);
    let rows = sqlx::query(INVOLVED).bind(id).bind(user).bind(limit).fetch_all(pool).await?;
    rows.iter()
        .map(|row| {
            Ok((row.try_get("id")?, UserId::parse(&row.try_get::<String, _>("user_id")?).map_err(bad)?))
        })
        .collect()
}

/// Stores a message if the emergency is open.
pub(super) async fn add_message(
    pool: &Pool,
    message: &Message,
    batch: &Batch,
) -> Result<Changed, sqlx::Error> {
    let at = time_column(message.created_at_ms);
    let mut transaction = pool.begin().await?;
    if !go_on(&mut transaction, &message.emergency_id, at).await? {
        return Ok(Changed::Over);
    }
    sqlx::query(ADD_MESSAGE)
        .bind(&message.id)
        .bind(&message.emergency_id)
        .bind(&message.sender_id)
        .bind(message.sender_role.as_str())
        .bind(&message.recipient_id)
        .bind(&message.message)
        .bind(at)
        .execute(&mut *transaction)
        .await?;
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(Changed::Yes)
}

/// A page of messages, newest first: all of an emergency, or those between its owner and one helper.
pub(super) async fn messages(
    pool: &Pool,
    id: &str,
    helper: Option<&str>,
    (before, limit): (Option<&str>, u32),
) -> Result<Vec<Message>, sqlx::Error> {
    const PAGE: &str = "SELECT id, emergency_id, sender_id, sender_role, recipient_id, message, created_at \
        FROM emergency_messages WHERE emergency_id = $1 AND id < $2 AND ($3 = '' OR sender_id = $3 \
        OR (sender_role = 'owner' AND (recipient_id IS NULL OR recipient_id = $3))) ORDER BY id DESC LIMIT $4";
    let rows = sqlx::query(PAGE)
        .bind(id)
        .bind(before.unwrap_or(LAST_ID))
        .bind(helper.unwrap_or_default())
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().map(message).collect()
}

fn message(row: &AnyRow) -> Result<Message, sqlx::Error> {
    Ok(Message {
        id: row.try_get("id")?,
        emergency_id: row.try_get("emergency_id")?,
        sender_id: row.try_get("sender_id")?,
        sender_role: SenderRole::of_record(&row.try_get::<String, _>("sender_role")?),
        recipient_id: row.try_get("recipient_id")?,
        message: row.try_get("message")?,
        created_at_ms: column_time(row.try_get("created_at")?),
    })
}

fn helper(row: &AnyRow) -> Result<Helper, sqlx::Error> {
    let number = |column: &str| -> Result<Option<serde_json::Number>, sqlx::Error> {
        Ok(row.try_get::<Option<String>, _>(column)?.and_then(|text| text.parse().ok()))
    };
    let reputation = Reputation {
        trust_score: number("trust_score")?,
        average: number("rating_average")?,
        count: number("rating_count")?,
    };
    Ok(Helper {
        id: row.try_get("user_id")?,
        name: row.try_get("user_name")?,
        reputation: Some(reputation),
        status: HelperStatus::parse(&row.try_get::<String, _>("status")?).unwrap_or(HelperStatus::Responding),
        notes: row.try_get("notes")?,
        joined_at_ms: column_time(row.try_get("joined_at")?),
        updated_at_ms: column_time(row.try_get("updated_at")?),
    })
}

fn emergency(row: &impl Columns) -> Result<Emergency, sqlx::Error> {
    Ok(Emergency {
        id: row.get(0)?,
        owner: Owner { id: row.get(1)?, display_name: row.get(2)?, avatar: row.get(3)? },
        kind: row.get(4)?,
        category: row.get(5)?,
        description: row.get(6)?,
        place: Place { latitude: row.get(7)?, longitude: row.get(8)? },
        address: row.get(9)?,
        priority: Priority::parse(&row.get::<String>(10)?).unwrap_or(Priority::DEFAULT),
        severity: row.get(11)?,
        anonymous: row.get::<i64>(12)? != 0,
        status: Status::parse(&row.get::<String>(13)?).unwrap_or(Status::Active),
        created_at_ms: column_time(row.get(14)?),
        updated_at_ms: column_time(row.get(15)?),
        ended_at_ms: row.get::<Option<i64>>(16)?.map(column_time),
        ended_by: row.get(17)?,
        resolution_type: row.get(18)?,
        resolution_notes: row.get(19)?,
    })
}
