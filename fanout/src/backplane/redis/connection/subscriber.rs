//! The connection for subscriptions, and the list of wanted channels.
//!
//! A channel is subscribed when it is first wanted, and unsubscribed some time after it is last wanted. One task
//! does both in one order, so that an UNSUBSCRIBE never overtakes a SUBSCRIBE. After each connect it subscribes to
//! the whole list again; a caller that waits for a channel waits for its confirmation.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{PushInfo, PushKind, Value};
use shared::limits::{
    CANARY_LOST_MS, REDIS_CONNECT_MS, SUBSCRIBE_BATCH, SUBSCRIBE_LINGER_MS, SUBSCRIBE_WAIT_MS,
};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use super::Link;
use super::link::retry;
use super::trouble::{Brief, Trouble};
use crate::stats::Stats;

/// A published message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message<'a> {
    pub(crate) channel: &'a str,
    pub(crate) payload: &'a [u8],
    /// Received through a pattern.
    pub(crate) by_pattern: bool,
}

/// Receives published messages. Called by the task that reads the connection: it must be quick and never wait.
pub(crate) trait Listener: Send + Sync + 'static {
    fn on_message(&self, message: Message<'_>);
    /// The connection is lost, and published messages are not received. Called before each attempt to connect.
    fn on_disconnect(&self);
}

#[derive(Debug, Default)]
struct Want {
    /// How many callers want it. At 0 it lingers until `idle_since` is old.
    holders: usize,
    confirmed: bool,
    idle_since: Option<Instant>,
}

#[derive(Debug, Default)]
struct Wanted {
    channels: HashMap<Box<str>, Want>,
    /// Not confirmed on this connection yet.
    pending: Vec<Box<str>>,
    /// In the order of their time.
    idle: std::collections::VecDeque<(Instant, Box<str>)>,
}

impl Wanted {
    fn next_batch(&mut self) -> Vec<Box<str>> {
        let from = self.pending.len().saturating_sub(SUBSCRIBE_BATCH);
        self.pending.split_off(from)
    }
}

/// The subscriptions of a node.
#[derive(Debug)]
pub(crate) struct Subscriber {
    link: Link,
    /// Subscribed for as long as the node lives, besides the patterns.
    standing: Vec<String>,
    patterns: Vec<String>,
    canary: String,
    wanted: Mutex<Wanted>,
    work: Notify,
    confirmed: Notify,
    up: AtomicBool,
    turn: AtomicUsize,
    canary_received: Mutex<Option<Instant>>,
    generation: watch::Sender<u64>,
    stats: Arc<Stats>,
}

/// How a connection ended.
enum End {
    Lost,
    Silent,
}

impl Subscriber {
    pub(crate) fn new(
        link: Link,
        standing: Vec<String>,
        patterns: Vec<String>,
        canary: String,
        stats: Arc<Stats>,
    ) -> Self {
        Self {
            link,
            standing,
            patterns,
            canary,
            wanted: Mutex::default(),
            work: Notify::new(),
            confirmed: Notify::new(),
            up: AtomicBool::new(false),
            turn: AtomicUsize::new(0),
            canary_received: Mutex::new(None),
            generation: watch::Sender::new(0),
            stats,
        }
    }

    /// Whether every wanted channel is confirmed on a connection that still receives.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Changes when a new connection has subscribed to everything.
    pub(crate) fn connections(&self) -> watch::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The channel on which the node publishes to itself.
    pub(crate) fn canary(&self) -> &str {
        &self.canary
    }

    /// Channels wanted now.
    pub(crate) fn channels(&self) -> usize {
        self.wanted.lock().channels.len() + self.standing.len()
    }

    /// Wants a channel, and waits for its confirmation: this node receives what is published after that. Stops
    /// waiting after `SUBSCRIBE_WAIT_MS`, or at once while there is no connection; the channel is subscribed as soon
    /// as there is one. Returns whether it is confirmed. Undo each call by a [`Self::release`].
    ///
    /// Cancel safe: the channel stays wanted.
    pub(crate) async fn acquire(&self, channel: &str) -> bool {
        self.want(channel) || self.confirmed(channel).await
    }

    /// Wants a channel without waiting. Returns whether it is confirmed already. Undo each call by a
    /// [`Self::release`].
    pub(crate) fn want(&self, channel: &str) -> bool {
        let mut wanted = self.wanted.lock();
        let want = match wanted.channels.get_mut(channel) {
            Some(want) => want,
            None => {
                wanted.pending.push(channel.into());
                self.work.notify_one();
                wanted.channels.entry(channel.into()).or_default()
            }
        };
        want.holders += 1;
        want.idle_since = None;
        want.confirmed
    }

    /// Waits for the confirmation of a wanted channel, as [`Self::acquire`] does.
    pub(crate) async fn confirmed(&self, channel: &str) -> bool {
        let confirmation = async {
            loop {
                let notified = self.confirmed.notified();
                let mut notified = std::pin::pin!(notified);
                notified.as_mut().enable();
                if !self.is_up() || self.wanted.lock().channels.get(channel).is_none_or(|want| want.confirmed)
                {
                    return;
                }
                notified.await;
            }
        };
        // Without a connection every socket is a member on its own node, and nothing is published.
        let _ = timeout(Duration::from_millis(SUBSCRIBE_WAIT_MS), confirmation).await;
        self.wanted.lock().channels.get(channel).is_some_and(|want| want.confirmed)
    }

    /// Undoes one want of a channel.
    pub(crate) fn release(&self, channel: &str) {
        let mut wanted = self.wanted.lock();
        let Some(want) = wanted.channels.get_mut(channel) else { return };
        want.holders = want.holders.saturating_sub(1);
        if want.holders > 0 {
            return;
        }
        if !self.is_up() && !want.confirmed {
            // There is nothing to unsubscribe, and without a connection the entry would never be removed.
            wanted.channels.remove(channel);
            wanted.pending.retain(|pending| **pending != *channel);
        } else {
            let now = Instant::now();
            want.idle_since = Some(now);
            wanted.idle.push_back((now, channel.into()));
        }
    }

    /// Keeps a connection until the task is dropped.
    pub(crate) async fn run(self: Arc<Self>, listener: Arc<dyn Listener>) {
        let mut backoff = retry();
        let mut is_logged = false;
        loop {
            match self.connect(&listener).await {
                Ok((connection, lost)) => {
                    backoff.reset();
                    is_logged = false;
                    let end = self.serve(connection, &lost).await;
                    self.up.store(false, Ordering::Release);
                    self.start_over();
                    self.confirmed.notify_waiters();
                    Stats::add(&self.stats.redis_reconnects, 1);
                    match end {
                        End::Lost => tracing::warn!("lost the connection to Redis for subscriptions"),
                        End::Silent => {
                            tracing::warn!("the connection to Redis for subscriptions delivers nothing")
                        }
                    }
                }
                Err(error) => {
                    Stats::add(&self.stats.redis_reconnects, 1);
                    if std::mem::replace(&mut is_logged, true) {
                        tracing::debug!(error = %Brief(&error), "cannot subscribe");
                    } else {
                        tracing::warn!(
                            server = %self.link.address(),
                            error = %Trouble { error: &error, tls: self.link.address().tls },
                            "cannot subscribe; retrying"
                        );
                    }
                    tokio::time::sleep(backoff.pause(rand::random())).await;
                }
            }
        }
    }

    /// Connects and subscribes to everything.
    async fn connect(
        self: &Arc<Self>,
        listener: &Arc<dyn Listener>,
    ) -> redis::RedisResult<(MultiplexedConnection, Arc<Notify>)> {
        let lost = Arc::new(Notify::new());
        let deafened = listener;
        let (listener, subscriber, ended) = (Arc::clone(listener), Arc::clone(self), Arc::clone(&lost));
        let push = move |info: PushInfo| -> Result<(), redis::aio::SendError> {
            match info.kind {
                PushKind::Message => subscriber.forward(&*listener, &info.data, false),
                PushKind::PMessage => {
                    subscriber.forward(&*listener, &info.data[1.min(info.data.len())..], true)
                }
                PushKind::Disconnection => ended.notify_one(),
                _ => {}
            }
            Ok(())
        };
        self.start_over();
        deafened.on_disconnect();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let limit = Duration::from_millis(REDIS_CONNECT_MS * 3);
        let late = |_| redis::RedisError::from((redis::ErrorKind::Io, "timed out"));
        let mut connection = timeout(limit, self.link.subscribe(turn, push)).await.map_err(late)??;
        for pattern in &self.patterns {
            connection.psubscribe(pattern).await?;
        }
        connection.subscribe(&self.standing).await?;
        connection.subscribe(&self.canary).await?;
        loop {
            let batch = {
                let mut wanted = self.wanted.lock();
                let batch = wanted.next_batch();
                if batch.is_empty() {
                    // Under the lock: a caller that wants a channel from here on waits for its confirmation.
                    *self.canary_received.lock() = Some(Instant::now());
                    self.up.store(true, Ordering::Release);
                    break;
                }
                batch
            };
            self.subscribe(&mut connection, &batch).await?;
        }
        self.generation.send_modify(|generation| *generation += 1);
        self.work.notify_one();
        tracing::info!(channels = self.channels(), "subscribed");
        Ok((connection, lost))
    }

    /// Marks every wanted channel as not subscribed.
    fn start_over(&self) {
        let mut wanted = self.wanted.lock();
        let wanted = &mut *wanted;
        wanted.channels.retain(|_, want| want.holders > 0);
        wanted.idle.clear();
        for want in wanted.channels.values_mut() {
            want.confirmed = false;
        }
        wanted.pending = wanted.channels.keys().cloned().collect();
    }

    async fn subscribe(
        &self,
        connection: &mut MultiplexedConnection,
        batch: &[Box<str>],
    ) -> redis::RedisResult<()> {
        let names: Vec<&str> = batch.iter().map(|channel| &**channel).collect();
        connection.subscribe(names).await?;
        let mut wanted = self.wanted.lock();
        for channel in batch {
            if let Some(want) = wanted.channels.get_mut(channel) {
                want.confirmed = true;
            }
        }
        drop(wanted);
        self.confirmed.notify_waiters();
        Ok(())
    }

    /// Subscribes and unsubscribes as wanted until the connection ends.
    async fn serve(&self, mut connection: MultiplexedConnection, lost: &Notify) -> End {
        let mut looked = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(SUBSCRIBE_LINGER_MS / 6));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = lost.notified() => return End::Lost,
                () = self.work.notified() => {}
                _ = ticks.tick() => {
                    // If this task was not run for long, neither was the task that reads: messages may still be
                    // unread.
                    if looked.elapsed() > Duration::from_millis(CANARY_LOST_MS / 2) {
                        *self.canary_received.lock() = Some(Instant::now());
                    }
                    looked = Instant::now();
                    let silent = self.canary_received.lock().is_none_or(|at| at.elapsed() > Duration::from_millis(CANARY_LOST_MS));
                    if silent {
                        return End::Silent;
                    }
                }
            }
            loop {
                let batch = self.wanted.lock().next_batch();
                if batch.is_empty() {
                    break;
                }
                if self.subscribe(&mut connection, &batch).await.is_err() {
                    return End::Lost;
                }
            }
            let idle = self.take_idle();
            for batch in idle.chunks(SUBSCRIBE_BATCH) {
                let names: Vec<&str> = batch.iter().map(|channel| &**channel).collect();
                if connection.unsubscribe(names).await.is_err() {
                    return End::Lost;
                }
            }
        }
    }

    /// Removes and returns the channels that have not been wanted for a while.
    fn take_idle(&self) -> Vec<Box<str>> {
        let mut wanted = self.wanted.lock();
        let mut taken = Vec::new();
        let linger = Duration::from_millis(SUBSCRIBE_LINGER_MS);
        while let Some((since, _)) = wanted.idle.front() {
            if since.elapsed() < linger {
                break;
            }
            let Some((since, channel)) = wanted.idle.pop_front() else { break };
            let idle = wanted
                .channels
                .get(&channel)
                .is_some_and(|want| want.holders == 0 && want.idle_since == Some(since) && want.confirmed);
            if idle {
                wanted.channels.remove(&channel);
                taken.push(channel);
            }
        }
        taken
    }

    fn forward(&self, listener: &dyn Listener, data: &[Value], by_pattern: bool) {
        let [Value::BulkString(channel), Value::BulkString(payload)] = data else { return };
        let Ok(channel) = str::from_utf8(channel) else {
            Stats::add(&self.stats.redis_malformed, 1);
            return;
        };
        if channel == self.canary {
            *self.canary_received.lock() = Some(Instant::now());
        }
        listener.on_message(Message { channel, payload, by_pattern });
    }
}
