//! Notifications: stored for a user, sent to the user's connected sockets, and unread until marked as read. Unread
//! notifications are counted from the rows, so the count cannot drift.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::value::RawValue;
use shared::names::UserId;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::Care;
use super::events::Page;
use crate::apps::{Handled, Reply};
use crate::clock::{iso, now_ms};
use crate::describe::forms::{OwnId, Time, UserIdText, Word};
use crate::error::AppError;
use crate::jobs::{self, Batch};
use crate::records::{LAST_ID, Pool, column_time, time_column};
use crate::socket::Socket;

const INSERT: &str = "INSERT INTO care_notifications \
    (id, user_id, title, message, kind, data, is_read, idempotency_key, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8) ON CONFLICT DO NOTHING";
const COLUMNS: &str =
    "SELECT id, user_id, title, message, kind, data, is_read, created_at FROM care_notifications";
const READ: &str = "UPDATE care_notifications SET is_read = 1 WHERE id = $1 AND user_id = $2";
const READ_ALL: &str = "UPDATE care_notifications SET is_read = 1 WHERE user_id = $1 AND is_read = 0";
const UNREAD: &str = "SELECT COUNT(*) FROM care_notifications WHERE user_id = $1 AND is_read = 0";

/// A validated notification to send.
#[derive(Debug)]
pub(crate) struct NewNotification {
    pub(crate) user: UserId,
    pub(crate) title: String,
    pub(crate) message: String,
    pub(crate) kind: Option<String>,
    pub(crate) data: Option<Box<RawValue>>,
    /// A second notification to the same user with this key is not sent.
    pub(crate) key: Option<String>,
}

/// A notification as it is stored and sent to clients.
#[derive(Debug, Clone, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Notification {
    #[schemars(with = "OwnId")]
    id: String,
    #[schemars(with = "UserIdText")]
    user_id: String,
    title: String,
    message: String,
    #[serde(rename = "type")]
    #[schemars(with = "Option<Word>")]
    kind: Option<String>,
    /// As the backend sent it.
    data: Option<Box<RawValue>>,
    read: bool,
    #[schemars(with = "Time")]
    created_at: String,
}

/// The number of unread notifications.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "UnreadCount")]
#[serde(rename_all = "camelCase")]
pub(super) struct Unread {
    unread_count: i64,
}

/// The result of marking all notifications as read.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "NotificationsRead")]
#[serde(rename_all = "camelCase")]
pub(super) struct AllRead {
    unread_count: i64,
    /// How many of them were unread.
    updated: u64,
}

/// A page of the user's notifications.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "Notifications")]
pub(super) struct Listed {
    /// Newest first.
    notifications: Vec<Notification>,
    /// Whether older notifications exist.
    has_more: bool,
    unread_count: i64,
}

impl Notification {
    /// Whether it has the same content as `new`.
    fn is(&self, new: &Self) -> bool {
        let data = |of: &Self| of.data.as_ref().map(|data| data.get().to_owned());
        (&self.title, &self.message, &self.kind, data(self))
            == (&new.title, &new.message, &new.kind, data(new))
    }
}

impl Care {
    /// Stores a notification and sends it to its user. Returns it, and whether it is new.
    ///
    /// # Errors
    /// 422 if its key was used for another notification.
    pub(crate) async fn notify(
        self: &Arc<Self>,
        new: NewNotification,
    ) -> Result<(Notification, bool), AppError> {
        let at_ms = now_ms();
        let notification = Notification {
            id: Uuid::now_v7().to_string(),
            user_id: new.user.as_str().to_owned(),
            title: new.title,
            message: new.message,
            kind: new.kind,
            data: new.data,
            read: false,
            created_at: iso(at_ms),
        };
        let (care, user, key) = (Arc::clone(self), new.user, new.key);
        self.context
            .to_the_end(async move {
                let subject = format!("care:notifications:{user}");
                let event = care.to_user(&subject, &user, "notification:new", &notification);
                let batch = care.context.jobs.batch([event.into()]);
                let records = &care.context.records;
                let inserted = insert(records.pool(), (&notification, at_ms), key.as_deref(), &batch);
                if records.run(inserted).await? {
                    batch.run().await;
                    return Ok((notification, true));
                }
                let key = key.unwrap_or_default();
                let before = records.run(by_key(records.pool(), user.as_str(), &key)).await?;
                match before {
                    Some(before) if before.is(&notification) => Ok((before, false)),
                    Some(_) => Err(AppError::Conflict("Idempotency-Key was used for something else".into())),
                    None => Err(AppError::Internal),
                }
            })
            .await
    }

    async fn count_unread(&self, user: &UserId) -> Result<i64, AppError> {
        let records = &self.context.records;
        records.run(unread_of(records.pool(), user.as_str())).await
    }
}

async fn insert(
    pool: &Pool,
    (notification, at_ms): (&Notification, u64),
    key: Option<&str>,
    batch: &Batch,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let done = sqlx::query(INSERT)
        .bind(&notification.id)
        .bind(&notification.user_id)
        .bind(&notification.title)
        .bind(&notification.message)
        .bind(&notification.kind)
        .bind(notification.data.as_ref().map(|data| data.get().to_owned()))
        .bind(key)
        .bind(time_column(at_ms))
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    jobs::enqueue(&mut transaction, batch).await?;
    transaction.commit().await?;
    Ok(true)
}

async fn by_key(pool: &Pool, user: &str, key: &str) -> Result<Option<Notification>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE user_id = $1 AND idempotency_key = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(user).bind(key).fetch_optional(pool).await?;
    row.as_ref().map(notification).transpose()
}

async fn unread_of(pool: &Pool, user: &str) -> Result<i64, sqlx::Error> {
    sqlx::query(UNREAD).bind(user).fetch_one(pool).await?.try_get(0)
}

fn notification(row: &AnyRow) -> Result<Notification, sqlx::Error> {
    let created_at: i64 = row.try_get("created_at")?;
    let data: Option<String> = row.try_get("data")?;
    Ok(Notification {
        id: row.try_get("id")?,
        user_id: row.try_get("user_id")?,
        title: row.try_get("title")?,
        message: row.try_get("message")?,
        kind: row.try_get("kind")?,
        data: data.and_then(|data| RawValue::from_string(data).ok()),
        read: row.try_get::<i64, _>("is_read")? != 0,
        created_at: iso(column_time(created_at)),
    })
}

/// Marks one notification as read, or all of them (`None`).
pub(super) async fn read(care: &Care, socket: &Socket, id: Option<String>) -> Handled {
    let (records, user) = (&care.context.records, socket.user());
    let query = match &id {
        Some(id) if id.contains('\0') => return Err(AppError::NotFound("Notification not found".into())),
        Some(id) => sqlx::query(READ).bind(id.clone()).bind(user.as_str().to_owned()),
        None => sqlx::query(READ_ALL).bind(user.as_str().to_owned()),
    };
    let updated = records.run(query.execute(records.pool())).await?.rows_affected();
    if id.is_some() && updated == 0 {
        return Err(AppError::NotFound("Notification not found".into()));
    }
    let unread = care.count_unread(user).await?;
    if id.is_some() {
        return Ok(Reply::success(&Unread { unread_count: unread }));
    }
    Ok(Reply::success(&AllRead { unread_count: unread, updated }))
}

/// A page of the user's notifications, newest first.
pub(super) async fn list(care: &Care, socket: &Socket, page: Page) -> Handled {
    let (records, user) = (&care.context.records, socket.user());
    care.rates.list_records(user, page.limit, 1)?;
    let unread_only = if page.unread_only { "AND is_read = 0" } else { "" };
    let sql = format!("{COLUMNS} WHERE user_id = $1 AND id < $2 {unread_only} ORDER BY id DESC LIMIT $3");
    let query = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(user.as_str().to_owned())
        .bind(page.before.unwrap_or_else(|| LAST_ID.to_owned()))
        .bind(i64::from(page.limit) + 1);
    let rows = records.run(query.fetch_all(records.pool())).await?;
    let has_more = rows.len() > page.limit as usize;
    let listed: Result<Vec<_>, _> = rows.iter().take(page.limit as usize).map(notification).collect();
    let notifications = listed.map_err(|error| AppError::records(&error))?;
    let unread_count = care.count_unread(user).await?;
    Ok(Reply::success(&Listed { notifications, has_more, unread_count }))
}

/// The number of the user's unread notifications.
pub(super) async fn unread(care: &Care, socket: &Socket) -> Handled {
    Ok(Reply::success(&Unread { unread_count: care.count_unread(socket.user()).await? }))
}
