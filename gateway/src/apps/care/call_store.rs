//! The SQL statements about calls. Only this module accesses their tables.
//!
//! A call moves by compare-and-swap on its state, so only one decision wins on all nodes. Each party has a row with
//! their user id as key, so no user is in two calls.

use shared::ids::SocketId;
use shared::names::UserId;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::call::State;
use crate::jobs::{self, Batch};
use crate::records::{Connection, Pool, column_time, time_column};

const TAKE: &str = "INSERT INTO care_call_parties (user_id, call_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";
const INSERT: &str = "INSERT INTO care_calls (id, caller_id, caller_name, recipient_id, call_type, visit_id, state, \
    caller_socket, created_at, check_at, settled) VALUES ($1, $2, $3, $4, $5, $6, 'ringing', $7, $8, $9, 1)";
const COLUMNS: &str = "SELECT id, caller_id, caller_name, recipient_id, call_type, visit_id, state, caller_socket, \
    recipient_socket, created_at, accepted_at, check_at, lost_since, lost_user FROM care_calls";
const MOVE: &str = "UPDATE care_calls SET state = $3, recipient_socket = COALESCE($4, recipient_socket), \
    accepted_at = COALESCE($5, accepted_at), ended_at = $6, ended_by = $7, check_at = $8, lost_since = NULL, settled = 1 \
    WHERE id = $1 AND state = $2";
const RELEASE: &str = "DELETE FROM care_call_parties WHERE call_id = $1";
const UNSETTLED: &str = "SELECT id FROM care_calls WHERE settled = 0 AND state <> 'ringing' AND check_at <= $1 \
    UNION ALL SELECT id FROM care_calls WHERE state = 'ringing' AND settled = 0 AND check_at <= $1 LIMIT 100";
const SETTLED: &str = "UPDATE care_calls SET settled = 1 WHERE id = $1 AND settled = 0";
const LOST: &str = "UPDATE care_calls SET lost_since = $2, lost_user = $3 WHERE id = $1";
const OF_USER: &str = "SELECT call_id FROM care_call_parties WHERE user_id = $1";
const IS_PARTY: &str = "SELECT 1 FROM care_calls WHERE id = $1 AND (caller_id = $2 OR recipient_id = $2)";
const SEAT_CALLER: &str = "UPDATE care_calls SET caller_socket = $2 WHERE id = $1";
const SEAT_RECIPIENT: &str = "UPDATE care_calls SET recipient_socket = $2 WHERE id = $1";
const STILL_RINGS: &str = "UPDATE care_calls SET state = state WHERE id = $1 AND state = 'ringing'";

/// A call's record.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) caller: UserId,
    pub(super) caller_name: String,
    pub(super) recipient: UserId,
    pub(super) call_type: String,
    pub(super) visit: Option<String>,
    pub(super) state: State,
    pub(super) caller_socket: Option<SocketId>,
    pub(super) recipient_socket: Option<SocketId>,
    pub(super) created_at_ms: u64,
    pub(super) accepted_at_ms: Option<u64>,
    /// Until when it rings, as planned by the node that started it.
    pub(super) check_at_ms: u64,
    /// Since when a party has no socket.
    pub(super) lost_since_ms: Option<u64>,
    /// That party.
    pub(super) lost_user: Option<String>,
}

/// A change of a call.
#[derive(Debug, Default)]
pub(super) struct Move<'a> {
    pub(super) recipient_socket: Option<SocketId>,
    pub(super) accepted_at_ms: Option<u64>,
    pub(super) ended_at_ms: Option<u64>,
    pub(super) ended_by: Option<&'a str>,
    pub(super) check_at_ms: u64,
}

/// The outcome of starting a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Begun {
    Yes,
    CallerBusy,
    RecipientBusy,
}

/// Starts a call and stores the jobs that follow, if neither party is in a call.
pub(super) async fn begin(pool: &Pool, call: &Call, batch: &Batch) -> Result<Begun, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let mut parties = [(&call.caller, Begun::CallerBusy), (&call.recipient, Begun::RecipientBusy)];
    // Lock the parties in one order everywhere, to avoid a deadlock between two users who call each other.
    parties.sort_by_key(|(user, _)| *user);
    for (user, busy) in parties {
        let taken = sqlx::query(TAKE).bind(user.as_str()).bind(&call.id).execute(&mut *transaction).await?;
        if taken.rows_affected() == 0 {
            return Ok(busy);
        }
    }
    sqlx::query(INSERT)
        .bind(&call.id)
        .bind(call.caller.as_str())
        .bind(&call.caller_name)
        .bind(call.recipient.as_str())
        .bind(&call.call_type)
        .bind(&call.visit)
        .bind(call.caller_socket.map(|socket| socket.as_str().to_owned()))
        .bind(time_column(call.created_at_ms))
        .bind(time_column(call.check_at_ms))
        .execute(&mut *transaction)
        .await?;
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(Begun::Yes)
}

/// A call.
pub(super) async fn find(pool: &Pool, id: &str) -> Result<Option<Call>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(call).transpose()
}

/// The call that a user is in.
pub(super) async fn of_user(pool: &Pool, user: &str) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query(OF_USER).bind(user).fetch_optional(pool).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// Whether a user is a party of a call.
pub(super) async fn is_party(pool: &Pool, id: &str, user: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(IS_PARTY).bind(id).bind(user).fetch_optional(pool).await?.is_some())
}

/// Moves a call and stores the jobs that follow, if its state is still that of `call`. Returns false if it has
/// changed.
pub(super) async fn advance(
    pool: &Pool,
    (call, to): (&Call, State),
    change: &Move<'_>,
    batch: &Batch,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let moved = sqlx::query(MOVE)
        .bind(&call.id)
        .bind(call.state.as_str())
        .bind(to.as_str())
        .bind(change.recipient_socket.map(|socket| socket.as_str().to_owned()))
        .bind(change.accepted_at_ms.map(time_column))
        .bind(change.ended_at_ms.map(time_column))
        .bind(change.ended_by)
        .bind(time_column(change.check_at_ms))
        .execute(&mut *transaction)
        .await?;
    if moved.rows_affected() == 0 {
        return Ok(false);
    }
    if call.state == State::Ringing {
        // The call must not ring late.
        jobs::take_back(&mut transaction, &call.id).await?;
    }
    if to.is_over() {
        sqlx::query(RELEASE).bind(&call.id).execute(&mut *transaction).await?;
    }
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(true)
}

/// Calls that a node of an older version should have checked before `before_ms`, but did not.
pub(super) async fn unsettled(pool: &Pool, before_ms: u64) -> Result<Vec<String>, sqlx::Error> {
    let rows = sqlx::query(UNSETTLED).bind(time_column(before_ms)).fetch_all(pool).await?;
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Records that a job monitors the call. Returns false if another node has already done so.
pub(super) async fn set_settled(transaction: &mut Connection, id: &str) -> Result<bool, sqlx::Error> {
    Ok(sqlx::query(SETTLED).bind(id).execute(transaction).await?.rows_affected() > 0)
}

/// All ringing calls.
pub(super) async fn ringing(pool: &Pool) -> Result<Vec<Call>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE state = 'ringing' LIMIT 10000");
    sqlx::query(sqlx::AssertSqlSafe(sql)).fetch_all(pool).await?.iter().map(call).collect()
}

/// Records since when a party has no socket.
pub(super) async fn set_lost(
    pool: &Pool,
    id: &str,
    since_ms: Option<u64>,
    user: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query(LOST).bind(id).bind(since_ms.map(time_column)).bind(user).execute(pool).await?;
    Ok(())
}

/// Moves a party to another socket.
pub(super) async fn seat(
    pool: &Pool,
    id: &str,
    is_caller: bool,
    socket: SocketId,
) -> Result<(), sqlx::Error> {
    let sql = if is_caller { SEAT_CALLER } else { SEAT_RECIPIENT };
    sqlx::query(sql).bind(id).bind(socket.as_str().to_owned()).execute(pool).await?;
    Ok(())
}

/// Runs `act` while the call is certain to ring: its next state is announced only afterwards. Returns false if it
/// does not ring.
pub(super) async fn while_it_rings(pool: &Pool, id: &str, act: impl FnOnce()) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let held = sqlx::query(STILL_RINGS).bind(id).execute(&mut *transaction).await?;
    let rings = held.rows_affected() > 0;
    if rings {
        act();
    }
    transaction.commit().await?;
    Ok(rings)
}

fn call(row: &AnyRow) -> Result<Call, sqlx::Error> {
    // Written by a node after validation.
    let user = |column: &str| -> Result<UserId, sqlx::Error> {
        let bad = |_| sqlx::Error::Decode("a call's user".into());
        UserId::parse(&row.try_get::<String, _>(column)?).map_err(bad)
    };
    let socket = |column: &str| -> Result<Option<SocketId>, sqlx::Error> {
        Ok(row.try_get::<Option<String>, _>(column)?.as_deref().and_then(SocketId::parse))
    };
    let time = |column: &str| -> Result<Option<u64>, sqlx::Error> {
        Ok(row.try_get::<Option<i64>, _>(column)?.map(column_time))
    };
    Ok(Call {
        id: row.try_get("id")?,
        caller: user("caller_id")?,
        caller_name: row.try_get("caller_name")?,
        recipient: user("recipient_id")?,
        call_type: row.try_get("call_type")?,
        visit: row.try_get("visit_id")?,
        state: State::parse(&row.try_get::<String, _>("state")?)
            .ok_or_else(|| sqlx::Error::Decode("a call's state".into()))?,
        caller_socket: socket("caller_socket")?,
        recipient_socket: socket("recipient_socket")?,
        created_at_ms: column_time(row.try_get("created_at")?),
        accepted_at_ms: time("accepted_at")?,
        check_at_ms: column_time(row.try_get("check_at")?),
        lost_since_ms: time("lost_since")?,
        lost_user: row.try_get("lost_user")?,
    })
}
