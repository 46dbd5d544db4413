//! The SQL statements about messages. Only this module accesses their tables.

use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::any::AnyRow;

use super::message::{Message, Status};
use crate::clock::iso;
use crate::jobs::{self, Batch, Job};
use crate::records::{Connection, Pool, column_time, time_column};

const NEXT_SEQ: &str = "INSERT INTO care_conversations (id, last_seq, last_message_id) VALUES ($1, 1, $2) \
    ON CONFLICT (id) DO UPDATE SET last_seq = care_conversations.last_seq + 1, last_message_id = $2 RETURNING last_seq";
const TAKES_PART: &str = "INSERT INTO care_conversation_users (user_id, conversation_id) VALUES ($1, $2) \
    ON CONFLICT DO NOTHING";
const LAST_OF_EACH: &str = "SELECT c.last_message_id FROM care_conversation_users u \
    JOIN care_conversations c ON c.id = u.conversation_id \
    WHERE u.user_id = $1 AND c.last_message_id < $2 ORDER BY c.last_message_id DESC LIMIT $3";
const INSERT: &str = "INSERT INTO care_messages (id, conversation_id, seq, sender_id, sender_name, sender_role, \
    recipient_id, room_id, visit_id, message, attachments, metadata, client_message_id, status, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, 'sent', $14) ON CONFLICT DO NOTHING";
const COLUMNS: &str = "SELECT id, conversation_id, sender_id, sender_name, sender_role, recipient_id, room_id, \
    visit_id, message, attachments, metadata, client_message_id, status, created_at, seq FROM care_messages";
const SEQ_OF: &str = "SELECT seq FROM care_messages WHERE id = $1 AND conversation_id = $2";
const DELIVERED: &str = "UPDATE care_messages SET status = 'delivered' WHERE id = $1 AND status = 'sent'";
const READ: &str = "UPDATE care_messages SET status = 'read' WHERE id = $1 AND status <> 'read'";
const UNREAD_FROM: &str = "SELECT COUNT(*) FROM care_messages \
    WHERE conversation_id = $1 AND recipient_id = $2 AND status <> 'read'";

/// Stores a message with the next sequence number of its conversation, and the jobs that follow. Returns both, or
/// `None` if the sender has sent it before.
pub(super) async fn append(
    pool: &Pool,
    message: &Message,
    at_ms: u64,
    follow: impl FnOnce(&Message) -> Batch,
) -> Result<Option<(Message, Batch)>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let row = sqlx::query(NEXT_SEQ)
        .bind(&message.conversation_id)
        .bind(&message.id)
        .fetch_one(&mut *transaction)
        .await?;
    let message = &Message { seq: row.try_get(0)?, ..message.clone() };
    let done = sqlx::query(INSERT)
        .bind(&message.id)
        .bind(&message.conversation_id)
        .bind(message.seq)
        .bind(&message.sender_id)
        .bind(&message.sender_name)
        .bind(&message.sender_role)
        .bind(&message.recipient_id)
        .bind(&message.room_id)
        .bind(&message.visit_id)
        .bind(&message.message)
        .bind(message.attachments.get())
        .bind(message.metadata.get())
        .bind(&message.client_message_id)
        .bind(time_column(at_ms))
        .execute(&mut *transaction)
        .await?;
    if done.rows_affected() == 0 {
        return Ok(None);
    }
    for user in [Some(&message.sender_id), message.recipient_id.as_ref()].into_iter().flatten() {
        let part = sqlx::query(TAKES_PART).bind(user).bind(&message.conversation_id);
        part.execute(&mut *transaction).await?;
    }
    let batch = follow(message);
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok(Some((message.clone(), batch)))
}

/// The message that a sender sent with this client message id.
pub(super) async fn by_client_id(
    pool: &Pool,
    sender: &str,
    client_id: &str,
) -> Result<Option<Message>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE sender_id = $1 AND client_message_id = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(sender).bind(client_id).fetch_optional(pool).await?;
    row.as_ref().map(message).transpose()
}

/// A message.
pub(super) async fn find(pool: &Pool, id: &str) -> Result<Option<Message>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE id = $1");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await?;
    row.as_ref().map(message).transpose()
}

/// The sequence number of a message in its conversation.
pub(super) async fn seq_of(pool: &Pool, conversation: &str, id: &str) -> Result<Option<i64>, sqlx::Error> {
    let row = sqlx::query(SEQ_OF).bind(id).bind(conversation).fetch_optional(pool).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// The newest `limit` messages before a sequence number, oldest first.
pub(super) async fn before(
    pool: &Pool,
    conversation: &str,
    before: i64,
    limit: i64,
) -> Result<Vec<Message>, sqlx::Error> {
    let sql = format!("{COLUMNS} WHERE conversation_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(conversation).bind(before).bind(limit);
    rows.fetch_all(pool).await?.iter().rev().map(message).collect()
}

/// The last message of each conversation of a user, newest first.
pub(super) async fn last_of_each(
    pool: &Pool,
    user: &str,
    before: &str,
    limit: i64,
) -> Result<Vec<Message>, sqlx::Error> {
    let ids = sqlx::query(LAST_OF_EACH).bind(user).bind(before).bind(limit).fetch_all(pool).await?;
    let mut messages = Vec::with_capacity(ids.len());
    for row in ids {
        messages.extend(find(pool, row.try_get(0)?).await?);
    }
    Ok(messages)
}

/// The number of a conversation's messages that a user has not read.
pub(super) async fn unread_in(pool: &Pool, conversation: &str, user: &str) -> Result<i64, sqlx::Error> {
    sqlx::query(UNREAD_FROM).bind(conversation).bind(user).fetch_one(pool).await?.try_get(0)
}

/// Advances messages to a status and stores the jobs that follow. Returns how many messages changed, and these
/// jobs.
pub(super) async fn advance(
    pool: &Pool,
    mut changes: Vec<(String, Job)>,
    to: Status,
    batch: impl FnOnce(Vec<Job>) -> Batch,
) -> Result<(usize, Batch), sqlx::Error> {
    // Lock the rows in one order everywhere, to avoid deadlocks between concurrent changes.
    changes.sort_by(|(a, _), (b, _)| a.cmp(b));
    let mut transaction = pool.begin().await?;
    let mut jobs = Vec::with_capacity(changes.len());
    for (id, job) in changes {
        if set(&mut transaction, &id, to).await? {
            jobs.push(job);
        }
    }
    let (changed, batch) = (jobs.len(), batch(jobs));
    jobs::enqueue(&mut transaction, &batch).await?;
    transaction.commit().await?;
    Ok((changed, batch))
}

async fn set(transaction: &mut Connection, id: &str, to: Status) -> Result<bool, sqlx::Error> {
    let sql = if to == Status::Read { READ } else { DELIVERED };
    Ok(sqlx::query(sql).bind(id).execute(transaction).await?.rows_affected() > 0)
}

fn raw(text: String) -> Box<RawValue> {
    // The column always holds JSON.
    RawValue::from_string(text).unwrap_or_else(|_| RawValue::NULL.to_owned())
}

fn message(row: &AnyRow) -> Result<Message, sqlx::Error> {
    let created_at: i64 = row.try_get("created_at")?;
    let status: String = row.try_get("status")?;
    Ok(Message {
        id: row.try_get("id")?,
        conversation_id: row.try_get("conversation_id")?,
        sender_id: row.try_get("sender_id")?,
        sender_name: row.try_get("sender_name")?,
        sender_role: row.try_get("sender_role")?,
        recipient_id: row.try_get("recipient_id")?,
        room_id: row.try_get("room_id")?,
        visit_id: row.try_get("visit_id")?,
        message: row.try_get("message")?,
        attachments: raw(row.try_get("attachments")?),
        metadata: raw(row.try_get("metadata")?),
        client_message_id: row.try_get("client_message_id")?,
        status: serde_json::from_value(Value::String(status)).unwrap_or(Status::Sent),
        timestamp: iso(column_time(created_at)),
        seq: row.try_get("seq")?,
    })
}
