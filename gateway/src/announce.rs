//! Announcements: events that are owed to clients because the records say what they tell.
//!
//! An app writes them in the transaction with what they tell of ([`write()`]) and tells them when it is committed
//! ([`Announcer::tell`]). What could not be told then, because Redis was away or the node died, any node finds in the
//! records and tells later ([`Announcer::tell_left_over`]). A second telling is none: each has a key that Redis
//! remembers (`IDEMPOTENCY_S`), and a node knows which it is telling itself.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanout::{Fanout, FanoutError, Target};
use parking_lot::Mutex;
use serde::Serialize;
use shared::ids::SocketId;
use shared::limits::{
    ANNOUNCE_AFTER_MS, ANNOUNCEMENTS_AT_ONCE, ANNOUNCEMENTS_TOLD_MAX, DUE_EVERY_MS, RECORDS_RETRY_MS,
};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;
use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, Row as _};
use tokio::sync::{Notify, mpsc};
use uuid::Uuid;

use crate::clock::now_ms;
use crate::records::{Records, time_column};
use crate::text::json;

/// Whom an announcement is for.
#[derive(Debug, Clone)]
pub(crate) enum Audience {
    Room(Room),
    User(UserId),
}

/// An event that is owed.
#[derive(Debug, Clone)]
pub(crate) struct Announcement {
    id: String,
    pub(crate) namespace: Namespace,
    to: Audience,
    except: Option<SocketId>,
    except_user: Option<UserId>,
    /// Apps deliver it, on every node, told by this number which it is.
    sequence: Option<i64>,
    pub(crate) event: String,
    /// Raw JSON of its argument.
    pub(crate) body: String,
}

impl Announcement {
    /// An event with one argument.
    pub(crate) fn new(namespace: &Namespace, to: Audience, event: &str, body: &impl Serialize) -> Self {
        Self {
            id: Uuid::now_v7().to_string(),
            namespace: namespace.clone(),
            to,
            except: None,
            except_user: None,
            sequence: None,
            event: event.to_owned(),
            body: json(body),
        }
    }

    /// Under an id that its app knows, to take it back ([`take_back`]).
    pub(crate) fn known_as(self, id: &str) -> Self {
        Self { id: id.to_owned(), ..self }
    }

    /// Its id in the records.
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Not to this socket.
    pub(crate) fn except(self, socket: SocketId) -> Self {
        Self { except: Some(socket), ..self }
    }

    /// Not to this user's sockets.
    pub(crate) fn except_user(self, user: &UserId) -> Self {
        Self { except_user: Some(user.clone()), ..self }
    }

    /// Delivered by the app on every node that has members of the room.
    pub(crate) fn sequenced(self, sequence: i64) -> Self {
        Self { sequence: Some(sequence), ..self }
    }

    fn target(&self) -> Target<'_> {
        let target = match &self.to {
            Audience::Room(room) => Target::room(&self.namespace, room.as_str()),
            Audience::User(user) => Target::user(&self.namespace, user),
        };
        let (except_user, sequence) = (self.except_user.as_ref(), self.sequence);
        Target { except: self.except, except_user, sequence, ..target }.once(&self.id)
    }
}

const INSERT: &str = "INSERT INTO announcements \
    (id, namespace, audience, recipient, except_socket, except_user, event, body, created_at, sequence) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
const LEFT_OVER: &str = "SELECT id, namespace, audience, recipient, except_socket, except_user, event, body, sequence \
    FROM announcements WHERE created_at <= $1 ORDER BY id LIMIT $2";

/// Writes announcements within a transaction.
pub(crate) async fn write(
    transaction: &mut AnyConnection,
    announcements: &[Announcement],
) -> Result<(), sqlx::Error> {
    for announcement in announcements {
        let (audience, recipient) = match &announcement.to {
            Audience::Room(room) => ("room", room.as_str()),
            Audience::User(user) => ("user", user.as_str()),
        };
        sqlx::query(INSERT)
            .bind(&announcement.id)
            .bind(announcement.namespace.as_str())
            .bind(audience)
            .bind(recipient)
            .bind(announcement.except.map(|socket| socket.as_str().to_owned()))
            .bind(announcement.except_user.as_ref().map(|user| user.as_str().to_owned()))
            .bind(&announcement.event)
            .bind(&announcement.body)
            .bind(time_column(now_ms()))
            .bind(announcement.sequence)
            .execute(&mut *transaction)
            .await?;
    }
    Ok(())
}

/// What an announcement tells is not so any more: if it has not been told, it is not.
pub(crate) async fn take_back(transaction: &mut AnyConnection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM announcements WHERE id = $1").bind(id).execute(transaction).await?;
    Ok(())
}

async fn left_over(pool: &AnyPool, before_ms: u64) -> Result<Vec<Announcement>, sqlx::Error> {
    let rows = sqlx::query(LEFT_OVER)
        .bind(time_column(before_ms))
        .bind(i64::try_from(ANNOUNCEMENTS_AT_ONCE).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.iter().map(announcement).collect()
}

fn announcement(row: &AnyRow) -> Result<Announcement, sqlx::Error> {
    // Written by a node from what it had checked.
    let bad = |what| sqlx::Error::Decode(format!("an announcement's {what}").into());
    let (namespace, audience, recipient) =
        (row.try_get::<String, _>(1)?, row.try_get::<String, _>(2)?, row.try_get::<String, _>(3)?);
    let to = match audience.as_str() {
        "room" => Audience::Room(Room::of_cluster(&recipient).ok_or_else(|| bad("room"))?),
        _ => Audience::User(UserId::parse(&recipient).map_err(|_| bad("user"))?),
    };
    let (socket, user) = (row.try_get::<Option<String>, _>(4)?, row.try_get::<Option<String>, _>(5)?);
    Ok(Announcement {
        id: row.try_get(0)?,
        namespace: Namespace::parse(&namespace).map_err(|_| bad("namespace"))?,
        to,
        except: socket.as_deref().and_then(SocketId::parse),
        except_user: user.and_then(|user| UserId::parse(&user).ok()),
        event: row.try_get(6)?,
        body: row.try_get(7)?,
        sequence: row.try_get(8)?,
    })
}

/// Tells announcements.
#[derive(Debug)]
pub(crate) struct Announcer {
    fanout: Fanout,
    records: Records,
    /// Those that this node is telling.
    in_hand: Mutex<HashSet<String>>,
    told: mpsc::Sender<String>,
    /// This node could not tell something: what comes later waits behind it, so that the order stays.
    is_behind: AtomicBool,
    fell_behind: Notify,
    catching_up: tokio::sync::Mutex<()>,
    /// Told late, for the apps to do what follows from it; no more than a few looks have found.
    caught_up: Mutex<Vec<Announcement>>,
}

impl Announcer {
    /// An announcer, and what [`forget_told`] is to forget.
    pub(crate) fn new(fanout: Fanout, records: Records) -> (Arc<Self>, mpsc::Receiver<String>) {
        let (told, forgotten) = mpsc::channel(ANNOUNCEMENTS_TOLD_MAX);
        let (in_hand, is_behind, fell_behind) = (Mutex::default(), AtomicBool::new(false), Notify::new());
        let (catching_up, caught_up) = (tokio::sync::Mutex::default(), Mutex::default());
        let announcer =
            Self { fanout, records, in_hand, told, is_behind, fell_behind, catching_up, caught_up };
        (Arc::new(announcer), forgotten)
    }

    /// Tells what has been committed, in this order. Answers whether all of it could be told; the rest is told later.
    pub(crate) async fn tell(&self, announcements: &[Announcement]) -> bool {
        if self.is_behind.load(Ordering::Acquire) {
            self.catch_up().await;
            if self.is_behind.load(Ordering::Acquire) {
                return false;
            }
        }
        self.tell_now(announcements).await
    }

    /// Tells what this node owes, unless somebody is at it.
    async fn catch_up(&self) {
        if let Ok(_one) = self.catching_up.try_lock() {
            let told = self.tell_owed().await;
            self.caught_up.lock().extend(told);
        }
    }

    async fn tell_now(&self, announcements: &[Announcement]) -> bool {
        self.in_hand.lock().extend(announcements.iter().map(|announcement| announcement.id.clone()));
        // All have their places before the first is waited for.
        let posted: Vec<_> = announcements.iter().map(|announcement| self.post(announcement)).collect();
        let mut all = true;
        for (announcement, posted) in announcements.iter().zip(posted) {
            match posted.outcome().await {
                Ok(_) => self.forget(announcement),
                Err(FanoutError::Unavailable) => {
                    tracing::debug!(event = announcement.event, "an announcement was not told");
                    self.in_hand.lock().remove(&announcement.id);
                    self.is_behind.store(true, Ordering::Release);
                    self.fell_behind.notify_one();
                    all = false;
                }
                Err(error) => {
                    // It never can be, and the others shall not wait for it.
                    tracing::error!(%error, event = announcement.event, "an announcement cannot be told");
                    self.forget(announcement);
                }
            }
        }
        all
    }

    fn forget(&self, announcement: &Announcement) {
        if self.told.try_send(announcement.id.clone()).is_err() {
            // Too many wait to be forgotten: it is found left over, told a second time, and forgotten.
            self.in_hand.lock().remove(&announcement.id);
        }
    }

    fn post(&self, announcement: &Announcement) -> fanout::Posted {
        let target = announcement.target();
        let event = Event {
            namespace: announcement.namespace.as_str(),
            name: &announcement.event,
            args: &[&announcement.body],
            ack: None,
            attachments: &[],
        };
        let packet = self.fanout.packet(&target, &event);
        self.fanout.post(target, packet)
    }

    /// Waits until it is worth looking for what is left over.
    pub(crate) async fn until_behind(&self) {
        let (pause, jitter) = (DUE_EVERY_MS / 2, rand::random_range(0..=DUE_EVERY_MS));
        // Nodes that were started together shall not look together.
        let pause = if self.is_behind.load(Ordering::Acquire) { pause } else { pause + jitter };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(pause)) => {}
            // A failure is seldom over at once.
            () = self.fell_behind.notified() => {
                tokio::time::sleep(Duration::from_millis(DUE_EVERY_MS / 4)).await;
            }
        }
    }

    /// Tells what is left over from nodes that could not; answers what was told late since it was last asked.
    pub(crate) async fn tell_left_over(&self) -> Vec<Announcement> {
        let _one = self.catching_up.lock().await;
        let mut told = std::mem::take(&mut *self.caught_up.lock());
        told.extend(self.tell_owed().await);
        told
    }

    async fn tell_owed(&self) -> Vec<Announcement> {
        let was_behind = self.is_behind.load(Ordering::Acquire);
        // What this node owes itself is not waited for.
        let age = if was_behind { 0 } else { ANNOUNCE_AFTER_MS };
        let before = now_ms().saturating_sub(age);
        let Ok(found) = self.records.run(left_over(self.records.pool(), before)).await else {
            return Vec::new();
        };
        let is_all = found.len() < ANNOUNCEMENTS_AT_ONCE;
        let mut told = Vec::new();
        for announcement in found {
            if self.in_hand.lock().contains(&announcement.id) {
                continue;
            }
            if !self.tell_now(std::slice::from_ref(&announcement)).await {
                // Redis is away: so it is for the others.
                return told;
            }
            told.push(announcement);
        }
        if was_behind && is_all {
            self.is_behind.store(false, Ordering::Release);
        }
        told
    }
}

/// Takes what has been told out of the records, many at once, until the node stops.
pub(crate) async fn forget_told(announcer: Arc<Announcer>, mut told: mpsc::Receiver<String>) {
    let mut ids = Vec::with_capacity(ANNOUNCEMENTS_AT_ONCE);
    while told.recv_many(&mut ids, ANNOUNCEMENTS_AT_ONCE).await > 0 {
        let places: Vec<String> = (1..=ids.len()).map(|place| format!("${place}")).collect();
        let sql = format!("DELETE FROM announcements WHERE id IN ({})", places.join(", "));
        loop {
            let delete =
                ids.iter().fold(sqlx::query(sqlx::AssertSqlSafe(sql.clone())), |q, id| q.bind(id.clone()));
            if announcer.records.run(delete.execute(announcer.records.pool())).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(RECORDS_RETRY_MS)).await;
        }
        let mut in_hand = announcer.in_hand.lock();
        for id in ids.drain(..) {
            in_hand.remove(&id);
        }
    }
}
