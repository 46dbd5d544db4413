//! The statements about jobs.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use shared::limits::JOBS_AT_ONCE;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::job::{Job, OlderEvent};
use crate::clock::now_ms;
use crate::records::{Connection, Pool, time_column};

/// Rows of one statement, where there are many: few different statements, so that a connection keeps them all prepared.
const ROWS: [usize; 6] = [64, 8, 4, 3, 2, 1];

const OWNERS: &str = "SELECT claimed_by, COUNT(*) FROM jobs GROUP BY claimed_by";
const TAKE_OVER: &str = "UPDATE jobs SET claimed_by = $1 WHERE claimed_by = $2";
const PAGE: &str = "SELECT id, app, kind, subject, payload, position FROM jobs \
    WHERE claimed_by = $1 AND (position > $2 OR (position = $2 AND id > $3)) ORDER BY position, id LIMIT $4";
const OLDER: &str = "SELECT id, namespace, audience, recipient, except_socket, except_user, sequence, event, body \
    FROM announcements WHERE created_at <= $1 ORDER BY id LIMIT $2";
const DELETE_OLDER: &str = "DELETE FROM announcements WHERE id = $1";

/// The order in which this process enqueues: microseconds since the epoch, or one more than the last.
static POSITION: AtomicI64 = AtomicI64::new(0);

fn next_position() -> i64 {
    let now = i64::try_from(now_ms()).unwrap_or(i64::MAX).saturating_mul(1_000);
    let next = |last: i64| Some(now.max(last.saturating_add(1)));
    // It is an update without a condition, so it never fails.
    let last = POSITION.fetch_update(Ordering::AcqRel, Ordering::Acquire, next).unwrap_or_default();
    now.max(last.saturating_add(1))
}

/// Stores jobs that `owner` runs. One that has the id of another replaces it.
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

/// `$first, …`, for a power of two of ids: as few different statements as there are powers.
fn places(first: usize, count: usize) -> String {
    let places: Vec<String> = (first..first + count).map(|place| format!("${place}")).collect();
    places.join(", ")
}

/// The ids, and the last one again until there are `count`.
fn filled(ids: &[String], count: usize) -> impl Iterator<Item = String> + '_ {
    ids.iter().chain(ids.last().into_iter().cycle()).take(count).cloned()
}

/// Deletes jobs by their ids.
pub(super) async fn delete(transaction: &mut Connection, ids: &[String]) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let count = ids.len().next_power_of_two();
    let sql = format!("DELETE FROM jobs WHERE id IN ({})", places(1, count));
    let delete = filled(ids, count).fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id));
    delete.execute(transaction).await.map(drop)
}

/// Notes that `owner` tries jobs, where they still are its own. Returns their ids.
pub(super) async fn claim(pool: &Pool, owner: &str, ids: &[String]) -> Result<HashSet<String>, sqlx::Error> {
    let mut claimed = HashSet::new();
    for some in ids.chunks(JOBS_AT_ONCE) {
        let count = some.len().next_power_of_two();
        let sql = format!(
            "UPDATE jobs SET attempts = attempts + 1 WHERE claimed_by = $1 AND id IN ({}) RETURNING id",
            places(2, count)
        );
        let update = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(owner.to_owned());
        let update = filled(some, count).fold(update, |query, id| query.bind(id));
        for row in update.fetch_all(pool).await? {
            claimed.insert(row.try_get(0)?);
        }
    }
    Ok(claimed)
}

/// Who is to run jobs, and how many.
pub(super) async fn owners(pool: &Pool) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let rows = sqlx::query(OWNERS).fetch_all(pool).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

/// `owner` runs what another node was to run. Of two that take it over at once, one gets each job.
pub(super) async fn take_over(pool: &Pool, owner: &str, from: &str) -> Result<u64, sqlx::Error> {
    let taken = sqlx::query(TAKE_OVER).bind(owner).bind(from).execute(pool).await?;
    Ok(taken.rows_affected())
}

/// Where a page of jobs begins: behind this position and, within it, this id.
pub(super) type After = (i64, String);

/// A page of a node's jobs, in the order in which they were enqueued; `None` for a job that cannot be read. Returns where
/// the next page begins, if there is one.
pub(super) async fn page(
    pool: &Pool,
    owner: &str,
    (position, id): &After,
) -> Result<(Vec<Option<Job>>, Option<After>), sqlx::Error> {
    let limit = i64::try_from(JOBS_AT_ONCE).unwrap_or(i64::MAX);
    let rows = sqlx::query(PAGE).bind(owner).bind(*position).bind(id).bind(limit).fetch_all(pool).await?;
    let jobs = rows.iter().map(job).collect::<Result<Vec<_>, _>>()?;
    let last = rows.last().filter(|_| rows.len() == JOBS_AT_ONCE);
    Ok((jobs, last.map(|row| Ok::<_, sqlx::Error>((row.try_get(5)?, row.try_get(0)?))).transpose()?))
}

fn job(row: &AnyRow) -> Result<Option<Job>, sqlx::Error> {
    let named = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
    Ok(Job::of_record(named, row.try_get(3)?, row.try_get(4)?))
}

/// Whether a job is still to be done, or was done a moment ago.
pub(super) async fn exists(pool: &Pool, id: &str) -> Result<bool, sqlx::Error> {
    let found = sqlx::query("SELECT 1 FROM jobs WHERE id = $1").bind(id);
    Ok(found.fetch_optional(pool).await?.is_some())
}

/// Events that a node of the version before has left behind: stored before `before_ms`.
pub(super) async fn older(pool: &Pool, before_ms: u64) -> Result<Vec<OlderEvent>, sqlx::Error> {
    let limit = i64::try_from(JOBS_AT_ONCE).unwrap_or(i64::MAX);
    let rows = sqlx::query(OLDER).bind(time_column(before_ms)).bind(limit).fetch_all(pool).await?;
    let event = |row: &AnyRow| {
        Ok(OlderEvent {
            id: row.try_get(0)?,
            namespace: row.try_get(1)?,
            is_to_room: row.try_get::<String, _>(2)? == "room",
            recipient: row.try_get(3)?,
            except: row.try_get(4)?,
            except_user: row.try_get(5)?,
            sequence: row.try_get(6)?,
            event: row.try_get(7)?,
            body: row.try_get(8)?,
        })
    };
    rows.iter().map(event).collect()
}

/// Deletes an event of the version before. Returns false where another node has.
pub(super) async fn delete_older(transaction: &mut Connection, id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(DELETE_OLDER).bind(id).execute(transaction).await?.rows_affected() > 0)
}
