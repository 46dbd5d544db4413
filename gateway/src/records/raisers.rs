//! Limits how often users raise incidents and emergencies, and decides which of a user's open ones are listed before
//! other users'.
//!
//! A transaction that opens or ends one locks the user's row first, on any node, so its counts stay valid until it
//! commits. The flags of the open ones follow from these counts ([`mod@super::nearby`] reads them): `has_siblings` if
//! the user has another one, `is_extra` for all but the first [`OPEN_LEADING_MAX`].

use std::collections::BTreeSet;
use std::time::Duration;

use super::pool::{Connection, Pool};
use fanout::Place;
use parking_lot::Mutex;
use shared::limits::{INCIDENTS_AT_ONCE, OPEN_LEADING_MAX, RAISE_BURST, RAISE_EVERY_MS};
use sqlx::Row as _;
use tokio::time::Instant;

use super::squares::cell;
use super::{Records, Table, column_time, time_column};
use crate::error::AppError;

/// The flags of one that is about to be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags {
    pub(crate) is_extra: i64,
    pub(crate) has_siblings: i64,
}

// `paid_at` is at most a burst plus the difference of clocks ahead; if it is further ahead, a clock was wrong.
const TAKE: &str = "INSERT INTO raisers (app, user_id, paid_at) VALUES ($1, $2, $3 + $4) \
    ON CONFLICT (app, user_id) DO UPDATE SET paid_at = $4 + \
    CASE WHEN raisers.paid_at > $3 AND raisers.paid_at <= $6 THEN raisers.paid_at ELSE $3 END \
    WHERE raisers.paid_at + $4 <= $5 OR raisers.paid_at > $6";

/// How many milliseconds the clocks of two nodes may differ, or a request may wait for another one of its user.
const CLOCKS_MS: u64 = 60_000;

const PAID_AT: &str = "SELECT paid_at FROM raisers WHERE app = $1 AND user_id = $2";
const LOCK: &str = "INSERT INTO raisers (app, user_id, paid_at) VALUES ($1, $2, 0) \
    ON CONFLICT (app, user_id) DO UPDATE SET app = excluded.app";

/// Takes one from a user's rate across all nodes, and locks the user's row. If none is left, returns the seconds until
/// there is one.
pub(crate) async fn take(
    transaction: &mut Connection,
    table: Table,
    user: &str,
    now_ms: u64,
) -> Result<Option<u64>, sqlx::Error> {
    let ahead_ms = now_ms + u64::from(RAISE_BURST) * RAISE_EVERY_MS;
    let taken = sqlx::query(TAKE)
        .bind(table.0)
        .bind(user)
        .bind(time_column(now_ms))
        .bind(time_column(RAISE_EVERY_MS))
        .bind(time_column(ahead_ms))
        .bind(time_column(ahead_ms + CLOCKS_MS))
        .execute(&mut *transaction)
        .await?;
    if taken.rows_affected() > 0 {
        return Ok(None);
    }
    let row = sqlx::query(PAID_AT).bind(table.0).bind(user).fetch_one(transaction).await?;
    let next_at = column_time(row.try_get(0)?) + RAISE_EVERY_MS;
    Ok(Some(next_at.saturating_sub(ahead_ms).div_ceil(1_000).max(1)))
}

/// Locks a user's row until the transaction ends.
pub(crate) async fn lock(transaction: &mut Connection, table: Table, user: &str) -> Result<(), sqlx::Error> {
    sqlx::query(LOCK).bind(table.0).bind(user).execute(transaction).await?;
    Ok(())
}

/// Prepares for one more open one of a user whose row is locked, and returns its flags.
pub(crate) async fn open(
    transaction: &mut Connection,
    table: Table,
    user: &str,
) -> Result<Flags, sqlx::Error> {
    let before = settle_with(transaction, table, user, 1).await?;
    Ok(Flags { is_extra: i64::from(before >= OPEN_LEADING_MAX), has_siblings: i64::from(before > 0) })
}

/// Updates the flags of a user's open ones after one of them has ended; the user's row is locked.
pub(crate) async fn settle(
    transaction: &mut Connection,
    table: Table,
    user: &str,
) -> Result<(), sqlx::Error> {
    settle_with(transaction, table, user, 0).await.map(drop)
}

/// Updates the flags if `more` are about to be opened. Returns how many are open, counting no further than one more
/// than [`OPEN_LEADING_MAX`].
async fn settle_with(
    transaction: &mut Connection,
    table: Table,
    user: &str,
    more: usize,
) -> Result<usize, sqlx::Error> {
    let Table(name) = table;
    let sql = format!(
        "SELECT id, is_extra, has_siblings FROM {name} WHERE user_id = $1 AND ended_at IS NULL \
         ORDER BY is_extra, id LIMIT {}",
        OPEN_LEADING_MAX + 1
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(user).fetch_all(&mut *transaction).await?;
    let has_siblings = i64::from(rows.len() + more > 1);
    for (place, row) in rows.iter().enumerate() {
        let is_extra = i64::from(place >= OPEN_LEADING_MAX);
        if (row.try_get::<i64, _>("is_extra")?, row.try_get::<i64, _>("has_siblings")?)
            == (is_extra, has_siblings)
        {
            continue;
        }
        let sql = format!("UPDATE {name} SET is_extra = $2, has_siblings = $3 WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(row.try_get::<String, _>("id")?)
            .bind(is_extra)
            .bind(has_siblings)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(rows.len())
}

/// How long all open ones are assumed to have their squares. An older node that still runs beside this one may raise
/// more without.
const FILLED_FOR: Duration = Duration::from_secs(1);

/// When this node last found that all open ones of an app have their squares.
#[derive(Debug, Default)]
pub(crate) struct Squares(Mutex<Option<Instant>>);

impl Squares {
    /// Computes the squares of those that an older version raised, so that searches find them. Skips the query if that
    /// was done recently.
    ///
    /// # Errors
    /// [`AppError::Unavailable`].
    pub(crate) async fn fill(&self, records: &Records, table: Table) -> Result<(), AppError> {
        if self.0.lock().is_some_and(|at| at.elapsed() < FILLED_FOR) {
            return Ok(());
        }
        while records.run(fill_cells(records.pool(), table)).await? >= INCIDENTS_AT_ONCE {}
        *self.0.lock() = Some(Instant::now());
        Ok(())
    }
}

/// Computes the squares of some open ones without any. Returns how many.
pub(super) async fn fill_cells(pool: &Pool, table: Table) -> Result<u32, sqlx::Error> {
    let Table(name) = table;
    let sql = format!(
        "SELECT id, user_id, latitude, longitude FROM {name} WHERE ended_at IS NULL AND cell IS NULL \
         AND latitude IS NOT NULL ORDER BY id LIMIT {INCIDENTS_AT_ONCE}"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let mut transaction = pool.begin().await?;
    let users: Result<BTreeSet<String>, sqlx::Error> =
        rows.iter().map(|row| row.try_get("user_id")).collect();
    // Locks all rows of users before any of theirs, in one order, as everywhere.
    let users = users?;
    for user in &users {
        lock(&mut transaction, table, user).await?;
    }
    for row in &rows {
        let place = Place { latitude: row.try_get("latitude")?, longitude: row.try_get("longitude")? };
        // The user's first ones lose these flags again below.
        let sql = format!("UPDATE {name} SET cell = $2, is_extra = 1, has_siblings = 1 WHERE id = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(row.try_get::<String, _>("id")?)
            .bind(cell(place))
            .execute(&mut *transaction)
            .await?;
    }
    for user in &users {
        settle(&mut transaction, table, user).await?;
    }
    transaction.commit().await?;
    Ok(u32::try_from(rows.len()).unwrap_or(INCIDENTS_AT_ONCE))
}
