//! The SQL statements about jobs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use shared::limits::JOBS_AT_ONCE;
use sqlx::any::{AnyArguments, AnyRow};
use sqlx::query::Query;
use sqlx::{Any, Executor, Row as _};

use super::job::{Job, OlderEvent};
use crate::clock::now_ms;
use crate::records::{Connection, Pool, time_column};

/// Row counts of a statement: few different statements, so that a connection keeps all of them prepared.
const ROWS: [usize; 6] = [64, 8, 4, 3, 2, 1];

const OWNERS: &str = "SELECT claimed_by, COUNT(*) FROM jobs GROUP BY claimed_by";
const PAGE: &str = "SELECT id, app, kind, subject, payload, position FROM jobs \
    WHERE claimed_by = $1 AND (position > $2 OR (position = $2 AND id > $3)) ORDER BY position, id LIMIT $4";
const OLDER: &str = "SELECT id, namespace, audience, recipient, except_socket, except_user, sequence, event, body \
    FROM announcements WHERE created_at <= $1 ORDER BY id LIMIT $2";
const DELETE_OLDER: &str = "DELETE FROM announcements WHERE id = $1";

/// The last position of a job that this process knows: microseconds since the epoch, or one more than the position
/// before.
static POSITION: AtomicI64 = AtomicI64::new(0);

fn next_position() -> i64 {
    let now = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_mul(1_000);
    let next = |last: i64| Some(now.max(last.saturating_add(1)));
    // Updates unconditionally, so it never fails.
    let last = POSITION.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
    now.max(last.saturating_add(1))
}

/// Jobs about these subjects that other nodes run, in order: those pending or done only recently, except failed jobs of
/// apps, which block nothing. Everything that this process stores afterwards gets a later position, whatever the nodes'
/// clocks are. `None` for a job that cannot be parsed.
pub(super) async fn earlier(
    transaction: &mut Connection,
    owner: &str,
    subjects: &[String],
) -> Result<Vec<Option<Job>>, sqlx::Error> {
    let mut earlier = Vec::new();
    for some in subjects.chunks(JOBS_AT_ONCE) {
        let count = some.len().next_power_of_two();
        let sql = format!(
            "SELECT id, app, kind, subject, payload, position FROM jobs WHERE subject IN ({}) AND claimed_by <> $1 \
             AND (app = '' OR attempts = 0) ORDER BY position, id LIMIT {JOBS_AT_ONCE}",
            places(2, count)
        );
        let select = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(owner.to_owned());
        let select = filled(some, count).fold(select, |query, subject| query.bind(subject));
        for row in select.fetch_all(&mut *transaction).await? {
            POSITION.fetch_max(row.try_get(5)?, Ordering::AcqRel);
            earlier.push(job(&row)?);
        }
    }
    Ok(earlier)
}

/// Stores jobs that `owner` runs. A job replaces an earlier one with the same id.
pub(super) async fn insert(
    transaction: &mut Connection,
    owner: &str,
    jobs: &[Arc<Job>],
) -> Result<(), sqlx::Error> {
    let mut left = jobs;
    while let Some(count) = ROWS.into_iter().find(|rows| *rows <= left.len()) {
        let (some, rest) = left.split_at(count);
        left = rest;
        let places: Vec<String> = (0..count)
            .map(|row| {
                let columns: Vec<String> = (1..=8).map(|column| format!("${}", row * 8 + column)).collect();
                format!("({}, 0)", columns.join(", "))
            })
            .collect();
        let sql = format!(
            "INSERT INTO jobs (id, app, kind, subject, payload, due_at, claimed_by, position, attempts) VALUES {} \
             ON CONFLICT (id) DO UPDATE SET payload = excluded.payload, due_at = excluded.due_at, \
             claimed_by = excluded.claimed_by, position = excluded.position",
            places.join(", ")
        );
        let mut insert = sqlx::query(sqlx::AssertSqlSafe(sql));
        for job in some {
            let due_ms = now_ms().saturating_add(u64::try_from(job.delay.as_millis()).unwrap_or(u64::MAX));
            insert = insert
                .bind(job.id.clone())
                .bind(job.app.clone())
                .bind(job.kind.clone())
                .bind(job.subject.clone())
                .bind(job.payload.clone())
                .bind(time_column(due_ms))
                .bind(owner.to_owned())
                .bind(next_position());
        }
        insert.execute(&mut *transaction).await?;
    }
    Ok(())
}

/// `$first, …` for a power of two of ids, so that there are as few different statements as powers.
fn places(first: usize, count: usize) -> String {
    let places: Vec<String> = (first..first + count).map(|place| format!("${place}")).collect();
    places.join(", ")
}

/// The ids, with the last one repeated until there are `count`.
fn filled(ids: &[String], count: usize) -> impl Iterator<Item = String> + '_ {
    ids.iter().chain(ids.last().into_iter().cycle()).take(count).cloned()
}

/// Ends a `SELECT` of the rows that a statement changes, so that it skips rows that another transaction is changing.
/// Waiting for such a row could deadlock with a transaction that waits for this one. SQLite has one writer at a time.
fn unless_locked(connection: &mut Connection) -> &'static str {
    if connection.is_postgres() { "FOR UPDATE SKIP LOCKED" } else { "" }
}

async fn fetch_ids<'e>(
    on: impl Executor<'e, Database = Any>,
    query: Query<'e, Any, AnyArguments>,
) -> Result<HashSet<String>, sqlx::Error> {
    query.fetch_all(on).await?.iter().map(|row| row.try_get(0)).collect()
}

/// Deletes a job; waits for a transaction that is changing it.
pub(super) async fn delete(transaction: &mut Connection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM jobs WHERE id = $1").bind(id).execute(transaction).await.map(drop)
}

/// Deletes finished jobs by id. Returns the deleted ids: the other rows were deleted before, or another transaction is
/// changing them.
pub(super) async fn delete_finished(
    connection: &mut Connection,
    ids: &[String],
) -> Result<HashSet<String>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let count = ids.len().next_power_of_two();
    let sql = format!(
        "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE id IN ({}) {}) RETURNING id",
        places(1, count),
        unless_locked(connection)
    );
    let delete = filled(ids, count).fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id));
    fetch_ids(connection, delete).await
}

/// Records that `owner` is running jobs, if it still owns them and no transaction is changing them. Returns their ids.
pub(super) async fn claim(pool: &Pool, owner: &str, ids: &[String]) -> Result<HashSet<String>, sqlx::Error> {
    let mut claimed = HashSet::new();
    for some in ids.chunks(JOBS_AT_ONCE) {
        let count = some.len().next_power_of_two();
        let mut connection = pool.acquire().await?;
        let sql = format!(
            "UPDATE jobs SET attempts = attempts + 1 WHERE id IN \
             (SELECT id FROM jobs WHERE claimed_by = $1 AND id IN ({}) {}) RETURNING id",
            places(2, count),
            unless_locked(&mut connection)
        );
        let update = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(owner.to_owned());
        let update = filled(some, count).fold(update, |query, id| query.bind(id));
        claimed.extend(fetch_ids(&mut connection, update).await?);
        connection.done().await?;
    }
    Ok(claimed)
}

/// The owners of jobs, and how many jobs each has.
pub(super) async fn owners(pool: &Pool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query(OWNERS).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// Transfers jobs from one node to `owner`. If two nodes do so at once, each job goes to one of them. Jobs that a
/// transaction is changing stay. Returns how many jobs were transferred.
pub(super) async fn take_over(pool: &Pool, owner: &str, from: &str) -> Result<u64, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    let sql = format!(
        "UPDATE jobs SET claimed_by = $1 WHERE id IN (SELECT id FROM jobs WHERE claimed_by = $2 {})",
        unless_locked(&mut connection)
    );
    let update = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(owner.to_owned()).bind(from.to_owned());
    let taken = update.execute(&mut connection).await?;
    connection.done().await?;
    Ok(taken.rows_affected())
}

/// Where a page of jobs begins: after this position and, within it, this id.
pub(super) type After = (i64, String);

/// A page of a node's jobs in the order of enqueueing; `None` for a job that cannot be parsed. Returns where the next
/// page begins, if there is one.
pub(super) async fn page(
    pool: &Pool,
    owner: &str,
    (position, id): &After,
) -> Result<(Vec<Option<Job>>, Option<After>), sqlx::Error> {
    let limit = i64::try_from(JOBS_AT_ONCE).unwrap_or(i64::MAX);
    let rows = sqlx::query(PAGE).bind(owner).bind(*position).bind(id).bind(limit).fetch_all(pool).await?;
    let jobs = rows.iter().map(job).collect::<Result<Vec<_>, _>>()?;
    let last = rows.last().filter(|_| rows.len() == JOBS_AT_ONCE);
    Ok((
        jobs,
        last.map(|row| Ok::<_, sqlx::Error>((row.try_get("position")?, row.try_get("id")?))).transpose()?,
    ))
}

fn job(row: &AnyRow) -> Result<Option<Job>, sqlx::Error> {
    let named = (row.try_get("id")?, row.try_get("app")?, row.try_get("kind")?);
    Ok(Job::of_record(named, row.try_get("subject")?, row.try_get("payload")?))
}

/// Which of these jobs are pending or were done only recently.
pub(super) async fn existing(pool: &Pool, ids: &[String]) -> Result<HashSet<String>, sqlx::Error> {
    let mut existing = HashSet::new();
    for some in ids.chunks(JOBS_AT_ONCE) {
        let count = some.len().next_power_of_two();
        let sql = format!("SELECT id FROM jobs WHERE id IN ({})", places(1, count));
        let select = sqlx::query(sqlx::AssertSqlSafe(sql));
        let select = filled(some, count).fold(select, |query, id| query.bind(id));
        existing.extend(fetch_ids(pool, select).await?);
    }
    Ok(existing)
}

/// Whether a job is pending or was done only recently.
pub(super) async fn exists(pool: &Pool, id: &str) -> Result<bool, sqlx::Error> {
    let found = sqlx::query("SELECT 1 FROM jobs WHERE id = $1").bind(id);
    Ok(found.fetch_optional(pool).await?.is_some())
}

/// Events that a node of the previous version left behind: stored before `before_ms`.
pub(super) async fn older(pool: &Pool, before_ms: u64) -> Result<Vec<OlderEvent>, sqlx::Error> {
    let limit = i64::try_from(JOBS_AT_ONCE).unwrap_or(i64::MAX);
    let rows = sqlx::query(OLDER).bind(time_column(before_ms)).bind(limit).fetch_all(pool).await?;
    let event = |row: &AnyRow| {
        Ok(OlderEvent {
            id: row.try_get("id")?,
            namespace: row.try_get("namespace")?,
            is_to_room: row.try_get::<String, _>("audience")? == "room",
            recipient: row.try_get("recipient")?,
            except: row.try_get("except_socket")?,
            except_user: row.try_get("except_user")?,
            sequence: row.try_get("sequence")?,
            event: row.try_get("event")?,
            body: row.try_get("body")?,
        })
    };
    rows.iter().map(event).collect()
}

/// Deletes an event of the previous version. Returns false if another node has deleted it.
pub(super) async fn delete_older(transaction: &mut Connection, id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(DELETE_OLDER).bind(id).execute(transaction).await?.rows_affected() > 0)
}
