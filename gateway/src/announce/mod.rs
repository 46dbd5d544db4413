//! Announcements: events that are owed to clients because the records say what they tell.
//!
//! An app writes them in the transaction with what they tell of ([`write()`]) and tells them when it is committed
//! ([`Announcer::tell`]). What could not be told then, because Redis was away or the node died, any node finds in the
//! records and tells later ([`Announcer::tell_left_over`]).
//!
//! Sending an event and deleting its row cannot be one step, so a crash between the two repeats the event. In a cluster
//! Redis remembers each event's id (`IDEMPOTENCY_S`) and drops the repetition. A node alone bounds how many events are in
//! that state ([`told`]), and each event carries its id ([`Announced`]) for clients to drop repetitions by.

mod told;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fanout::{Fanout, FanoutError, Target};
use parking_lot::Mutex;
use schemars::JsonSchema;
use serde::Serialize;
use shared::ids::SocketId;
use shared::limits::{
    ANNOUNCE_AFTER_MS, ANNOUNCEMENTS_AT_ONCE, ANNOUNCEMENTS_REPEATED_MAX, ANNOUNCEMENTS_TOLD_MAX,
    ANNOUNCEMENTS_WAIT_MS, DUE_EVERY_MS, RECORDS_RETRY_MS,
};
use shared::names::{Namespace, Room, UserId};
use shared::sio::Event;
use sqlx::Row as _;
use sqlx::any::AnyRow;
use tokio::sync::Notify;
use uuid::Uuid;

use crate::clock::{ago_ms, now_ms};
use crate::records::{Connection, Pool, Records, time_column};
use crate::text::json;
use told::{Claim, Told};

/// An event's argument with the event's id.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "{T}Event")]
pub(crate) struct Announced<'a, T> {
    #[serde(flatten)]
    body: &'a T,
    /// The event's id. After a crash of the server an event may come a second time, with the same id: drop it then.
    event_id: &'a str,
}

/// What an event with this body is described as.
pub(crate) type Identified<T> = Announced<'static, T>;

impl<'a, T> Announced<'a, T> {
    /// `body` as the argument of the event that is called `event_id`.
    pub(crate) fn new(event_id: &'a str, body: &'a T) -> Self {
        Self { body, event_id }
    }
}

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
    /// Raw JSON of its argument, its id among it.
    pub(crate) body: String,
    /// The rows that the transaction deletes that writes this one.
    claim: Arc<Claim>,
}

impl Announcement {
    /// An event with one argument.
    pub(crate) fn new(
        announcer: &Announcer,
        namespace: &Namespace,
        to: Audience,
        event: &str,
        body: &impl Serialize,
    ) -> Self {
        Self::known_as(&Uuid::now_v7().to_string(), announcer, (namespace, to), event, body)
    }

    /// As [`Self::new`], under an id that its app knows, to take it back ([`take_back`]).
    pub(crate) fn known_as(
        id: &str,
        announcer: &Announcer,
        (namespace, to): (&Namespace, Audience),
        event: &str,
        body: &impl Serialize,
    ) -> Self {
        Self {
            id: id.to_owned(),
            namespace: namespace.clone(),
            to,
            except: None,
            except_user: None,
            sequence: None,
            event: event.to_owned(),
            body: json(&Announced::new(id, body)),
            claim: announcer.told.no_claim(),
        }
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

/// Writes announcements within a transaction, which also deletes the rows of what has been told before.
pub(crate) async fn write(
    transaction: &mut Connection,
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
    // Only now: on SQLite this transaction is the only one that writes, so what was told before is all known.
    match announcements.first() {
        Some(first) => delete(transaction, &first.claim.take()).await,
        None => Ok(()),
    }
}

/// Deletes rows by their ids.
async fn delete(transaction: &mut Connection, ids: &[String]) -> Result<(), sqlx::Error> {
    let Some(last) = ids.last() else { return Ok(()) };
    // Few different statements, so that the connection keeps them all prepared; the last id fills up.
    let count = ids.len().next_power_of_two();
    let places: Vec<String> = (1..=count).map(|place| format!("${place}")).collect();
    let sql = format!("DELETE FROM announcements WHERE id IN ({})", places.join(", "));
    let ids = ids.iter().chain(std::iter::repeat(last)).take(count);
    let delete = ids.fold(sqlx::query(sqlx::AssertSqlSafe(sql)), |query, id| query.bind(id.clone()));
    delete.execute(transaction).await.map(drop)
}

/// What an announcement tells is not so any more: if it has not been told, it is not.
pub(crate) async fn take_back(transaction: &mut Connection, id: &str) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM announcements WHERE id = $1").bind(id).execute(transaction).await?;
    Ok(())
}

async fn left_over(pool: &Pool, told: &Arc<Told>, before_ms: u64) -> Result<Vec<Announcement>, sqlx::Error> {
    let rows = sqlx::query(LEFT_OVER)
        .bind(time_column(before_ms))
        .bind(i64::try_from(ANNOUNCEMENTS_AT_ONCE).unwrap_or(i64::MAX))
        .fetch_all(pool)
        .await?;
    rows.iter().map(|row| announcement(row, told)).collect()
}

fn announcement(row: &AnyRow, told: &Arc<Told>) -> Result<Announcement, sqlx::Error> {
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
        claim: told.no_claim(),
    })
}

/// Tells announcements.
#[derive(Debug)]
pub(crate) struct Announcer {
    fanout: Fanout,
    records: Records,
    told: Arc<Told>,
    /// This node could not tell something: what comes later waits behind it, so that the order stays.
    is_behind: AtomicBool,
    fell_behind: Notify,
    catching_up: tokio::sync::Mutex<()>,
    /// Told late, for the apps to do what follows from it; no more than a few looks have found.
    caught_up: Mutex<Vec<Announcement>>,
}

impl Announcer {
    /// An announcer; [`forget_told`] must be run for it.
    pub(crate) fn new(fanout: Fanout, records: Records) -> Arc<Self> {
        // In a cluster Redis drops repetitions, and there is no need to wait for the records.
        let limit = if fanout.has_peers() { ANNOUNCEMENTS_TOLD_MAX } else { ANNOUNCEMENTS_REPEATED_MAX };
        Arc::new(Self {
            fanout,
            records,
            told: Told::new(limit),
            is_behind: AtomicBool::new(false),
            fell_behind: Notify::new(),
            catching_up: tokio::sync::Mutex::default(),
            caught_up: Mutex::default(),
        })
    }

    /// Tells what has been committed, in this order. Answers whether all of it could be told; the rest is told later.
    pub(crate) async fn tell(&self, announcements: &[Announcement]) -> bool {
        announcements.iter().for_each(|announcement| announcement.claim.confirm());
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
        let ids = || announcements.iter().map(|announcement| announcement.id.as_str());
        self.told.begin(ids());
        let mut all = true;
        for (at, some) in announcements.chunks(self.told.limit()).enumerate() {
            if !self.told.reserve(some.len()).await {
                tracing::warn!("announcements wait for the records");
                self.told.abandon(ids().skip(at * self.told.limit()));
                self.fall_behind();
                return false;
            }
            all &= self.tell_some(some).await;
        }
        all
    }

    /// Tells those that have a place.
    async fn tell_some(&self, announcements: &[Announcement]) -> bool {
        // All have their places in the order before the first is waited for.
        let posted: Vec<_> = announcements.iter().map(|announcement| self.post(announcement)).collect();
        let mut all = true;
        for (announcement, posted) in announcements.iter().zip(posted) {
            match posted.outcome().await {
                Ok(_) => self.told.sent(&announcement.id),
                Err(FanoutError::Unavailable) => {
                    tracing::debug!(event = announcement.event, "an announcement was not told");
                    self.told.release(&announcement.id);
                    self.fall_behind();
                    all = false;
                }
                Err(error) => {
                    // It never can be, and the others shall not wait for it.
                    tracing::error!(%error, event = announcement.event, "an announcement cannot be told");
                    self.told.sent(&announcement.id);
                }
            }
        }
        all
    }

    /// Some of it is told later.
    fn fall_behind(&self) {
        self.is_behind.store(true, Ordering::Release);
        self.fell_behind.notify_one();
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
        let before = ago_ms(age);
        let Ok(found) = self.records.run(left_over(self.records.pool(), &self.told, before)).await else {
            return Vec::new();
        };
        let is_all = found.len() < ANNOUNCEMENTS_AT_ONCE;
        let mut told = Vec::new();
        for announcement in found {
            if self.told.has(&announcement.id) {
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

/// Deletes the rows of what has been told, where no transaction of an app does it in time. Runs until the node stops.
pub(crate) async fn forget_told(announcer: Arc<Announcer>) {
    loop {
        announcer.told.until_due(Duration::from_millis(ANNOUNCEMENTS_WAIT_MS)).await;
        if !announcer.forget_some().await {
            tokio::time::sleep(Duration::from_millis(RECORDS_RETRY_MS)).await;
        }
    }
}

impl Announcer {
    /// Deletes the rows of what has been told; answers false where the records could not be asked.
    async fn forget_some(&self) -> bool {
        let claim = self.told.claim();
        let ids = claim.take();
        let deleted = async {
            let mut connection = self.records.pool().acquire().await?;
            delete(&mut connection, &ids).await?;
            connection.done().await
        };
        let is_deleted = self.records.run(deleted).await.is_ok();
        if is_deleted {
            claim.confirm();
        }
        is_deleted
    }

    /// Deletes them once more before the node stops: what it has told shall not come again when it is started anew.
    pub(crate) async fn forget_all(&self) {
        self.forget_some().await;
    }
}
