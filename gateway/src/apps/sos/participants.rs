//! Participations in incidents: the record, and the statement that creates one.

use schemars::JsonSchema;
use serde::Serialize;
use shared::names::UserId;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use crate::clock::iso;
use crate::describe::forms::{Name, OwnId, Time, UserIdText};
use crate::records::{Connection, column_time, time_column};

/// The types that a user may choose in an incident. They grant no rights.
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
    /// Only for events; the documents' record does not contain it.
    #[serde(skip)]
    pub(crate) display_name: String,
}

/// A user who joins.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) sos_id: String,
    pub(crate) user_id: UserId,
    pub(crate) user_type: &'static str,
    pub(crate) display_name: String,
    pub(crate) actor_type: &'static str,
    pub(crate) joined_at_ms: u64,
}

const ENTER: &str = "INSERT INTO sos_participants \
    (id, sos_id, user_id, user_type, display_name, actor_type, status, joined_at, left_at) \
    VALUES ($1, $2, $3, $4, $5, $6, 'ACTIVE', $7, NULL) ON CONFLICT DO NOTHING";
/// What [`participant`] reads.
pub(super) const COLUMNS: &str = "SELECT id, sos_id, user_id, user_type, display_name, actor_type, status, joined_at, left_at \
    FROM sos_participants ";

/// Stores a participation, unless an active one exists. Returns the active record and whether it is new; `None` if
/// an existing one has ended meanwhile.
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

fn time(ms: i64) -> String {
    iso(column_time(ms))
}

/// A row of [`COLUMNS`].
pub(super) fn participant(row: &AnyRow) -> Result<Participant, sqlx::Error> {
    let left_at: Option<i64> = row.try_get("left_at")?;
    Ok(Participant {
        id: row.try_get("id")?,
        sos_id: row.try_get("sos_id")?,
        user_id: row.try_get("user_id")?,
        user_type: row.try_get("user_type")?,
        display_name: row.try_get("display_name")?,
        actor_type: row.try_get("actor_type")?,
        status: row.try_get("status")?,
        joined_at: time(row.try_get("joined_at")?),
        left_at: left_at.map(time),
    })
}
