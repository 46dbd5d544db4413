//! The SQL statements of `chat`. Only this module accesses its tables.

use sqlx::Row as _;
use sqlx::any::AnyRow;
use uuid::Uuid;

use super::events::{Author, Message, RoomId};
use super::limits::CHAT_HISTORY;
use crate::clock::{iso, now_ms};
use crate::records::{Pool, column_time, time_column};

/// A message that is about to be stored.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) room: RoomId,
    pub(super) content: String,
    pub(super) author: Author,
}

const NEXT_SEQ: &str = "INSERT INTO chat_rooms (room_id, last_seq) VALUES ($1, 1) \
    ON CONFLICT (room_id) DO UPDATE SET last_seq = chat_rooms.last_seq + 1 RETURNING last_seq";
const INSERT: &str = "INSERT INTO chat_messages \
    (id, room_id, seq, user_id, user_name, user_avatar, content, created_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
const LAST_SEQ: &str = "SELECT last_seq FROM chat_rooms WHERE room_id = $1";
const SPOKEN_IN: &str = "SELECT DISTINCT room_id FROM chat_messages WHERE id >= $1";
const SEQ_OF: &str = "SELECT seq FROM chat_messages WHERE id = $1 AND room_id = $2";
const BETWEEN: &str = "SELECT id, seq, user_id, user_name, user_avatar, content, created_at \
    FROM chat_messages WHERE room_id = $1 AND seq > $2 AND seq < $3 ORDER BY seq DESC LIMIT $4";

/// Stores messages in one transaction, each with the next sequence number of its room.
pub(super) async fn append(pool: &Pool, drafts: &[Draft]) -> Result<Vec<Message>, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let mut messages = Vec::with_capacity(drafts.len());
    for draft in drafts {
        let room_id = draft.room.as_str();
        let row = sqlx::query(NEXT_SEQ).bind(room_id).fetch_one(&mut *transaction).await?;
        let seq: i64 = row.try_get(0)?;
        let id = Uuid::now_v7().to_string();
        let created_at = now_ms();
        sqlx::query(INSERT)
            .bind(&id)
            .bind(room_id)
            .bind(seq)
            .bind(&draft.author.id)
            .bind(&draft.author.name)
            .bind(&draft.author.avatar)
            .bind(&draft.content)
            .bind(time_column(created_at))
            .execute(&mut *transaction)
            .await?;
        messages.push(Message {
            id,
            content: draft.content.clone(),
            room_id: room_id.to_owned(),
            user_id: draft.author.id.clone(),
            created_at: iso(created_at),
            user: draft.author.clone(),
            seq,
        });
    }
    transaction.commit().await?;
    Ok(messages)
}

/// The last sequence number of a room; 0 if it has no messages.
pub(super) async fn last_seq(pool: &Pool, room: &RoomId) -> Result<i64, sqlx::Error> {
    let row = sqlx::query(LAST_SEQ).bind(room.as_str()).fetch_optional(pool).await?;
    row.map_or(Ok(0), |row| row.try_get(0))
}

/// The last message of a room.
pub(super) async fn last(pool: &Pool, room: &RoomId) -> Result<Option<Message>, sqlx::Error> {
    Ok(between(pool, room, (0, i64::MAX), 1).await?.pop())
}

/// Rooms with a message at or after this time.
pub(super) async fn spoken_in_since(pool: &Pool, since_ms: u64) -> Result<Vec<RoomId>, sqlx::Error> {
    // Ids begin with their time, so the primary key index finds them.
    let id = format!("{:08x}-{:04x}", since_ms >> 16, since_ms & 0xffff);
    let rows = sqlx::query(SPOKEN_IN).bind(id).fetch_all(pool).await?;
    let ids = rows.iter().map(|row| row.try_get::<String, _>(0)).collect::<Result<Vec<_>, _>>()?;
    Ok(ids.iter().filter_map(|id| RoomId::parse(id).ok()).collect())
}

/// A message's sequence number in a room. An id with a NUL is never a message's, and PostgreSQL would refuse it.
pub(super) async fn seq_of(pool: &Pool, room: &RoomId, id: &str) -> Result<Option<i64>, sqlx::Error> {
    if id.contains('\0') {
        return Ok(None);
    }
    let row = sqlx::query(SEQ_OF).bind(id).bind(room.as_str()).fetch_optional(pool).await?;
    row.map(|row| row.try_get(0)).transpose()
}

/// The newest `limit` messages after sequence number `after` and before `before`, oldest first.
pub(super) async fn between(
    pool: &Pool,
    room: &RoomId,
    (after, before): (i64, i64),
    limit: u32,
) -> Result<Vec<Message>, sqlx::Error> {
    let rows = sqlx::query(BETWEEN)
        .bind(room.as_str())
        .bind(after)
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(pool)
        .await?;
    rows.iter().rev().map(|row| message(room, row)).collect()
}

/// The newest messages of a room, oldest first, as many as a joining socket receives.
pub(super) async fn newest(pool: &Pool, room: &RoomId) -> Result<Vec<Message>, sqlx::Error> {
    between(pool, room, (0, i64::MAX), CHAT_HISTORY).await
}

fn message(room: &RoomId, row: &AnyRow) -> Result<Message, sqlx::Error> {
    let user_id: String = row.try_get("user_id")?;
    let created_at: i64 = row.try_get("created_at")?;
    Ok(Message {
        id: row.try_get("id")?,
        seq: row.try_get("seq")?,
        content: row.try_get("content")?,
        room_id: room.as_str().to_owned(),
        user_id: user_id.clone(),
        created_at: iso(column_time(created_at)),
        user: Author { id: user_id, name: row.try_get("user_name")?, avatar: row.try_get("user_avatar")? },
    })
}
