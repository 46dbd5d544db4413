//! Detects Socket.IO servers on the same Redis that use another wire format than nodes and `@socket.io/redis-adapter`.
//! Neither side receives what the other sends, and no error shows it. So nodes look for such servers and log one warning that
//! names them.
//!
//! Servers on `@socket.io/redis-streams-adapter` subscribe to a namespace's channel by its name, which nodes and the classic
//! adapter do not; older versions also write to their stream every few seconds. Servers on sharded Pub/Sub subscribe to the
//! channel as a shard's. Where the Redis user lacks the rights for a check, the node skips it.

use std::collections::BTreeSet;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, FromRedisValue, Pipeline, Value};
use shared::limits::{FOREIGN_FRESH_MS, FOREIGN_LOOK_MS};

use crate::backplane::redis::connection::Commands;

/// The wire format of other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wire {
    /// Redis streams.
    Streams,
    /// Sharded Pub/Sub.
    Sharded,
}

impl Wire {
    const ALL: [Self; 2] = [Self::Streams, Self::Sharded];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Streams => "@socket.io/redis-streams-adapter",
            Self::Sharded => "sharded Pub/Sub (createShardedAdapter)",
        }
    }
}

/// A way to detect them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Look {
    Subscribers,
    ShardSubscribers,
    Stream,
}

/// What has been detected.
#[derive(Debug, Default)]
pub(crate) struct OtherAdapters {
    reported: Mutex<BTreeSet<Wire>>,
}

impl OtherAdapters {
    /// Logs detected kinds that were not logged before.
    pub(crate) fn note(&self, found: impl IntoIterator<Item = Wire>) {
        let mut reported = self.reported.lock();
        let new: Vec<&str> =
            found.into_iter().filter(|wire| reported.insert(*wire)).map(Wire::as_str).collect();
        if !new.is_empty() {
            tracing::warn!(
                adapters = new.join(", "),
                "other Socket.IO servers on this Redis use another wire format: they and the nodes do not receive each other's messages; \
                 createAdapter of @socket.io/redis-adapter uses the nodes'"
            );
        }
    }

    /// Looks for other servers until every kind has been logged. `channels` are those of the namespaces; `stream` is the
    /// default name of streams.
    pub(crate) async fn watch(&self, commands: &Commands, channels: &[String], stream: &str) {
        let mut connections = commands.connections();
        let mut refused = BTreeSet::new();
        while self.reported.lock().len() < Wire::ALL.len() {
            if commands.is_up() {
                if connections.has_changed().unwrap_or_default() {
                    connections.mark_unchanged();
                    refused.clear();
                }
                self.note(look(commands, (channels, stream), &mut refused).await);
            }
            let pause = tokio::time::sleep(Duration::from_millis(FOREIGN_LOOK_MS));
            tokio::select! {
                () = pause => {}
                changed = connections.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    refused.clear();
                }
            }
        }
    }
}

/// The kinds that were detected. A check that the server refuses is not repeated on the same connection.
async fn look(
    commands: &Commands,
    (channels, stream): (&[String], &str),
    refused: &mut BTreeSet<Look>,
) -> BTreeSet<Wire> {
    let count = |what: &str| {
        let mut cmd = redis::cmd("PUBSUB");
        cmd.arg(what).arg(channels);
        cmd
    };
    let mut last = redis::cmd("XREVRANGE");
    last.arg(stream).arg("+").arg("-").arg("COUNT").arg(1);
    let looks: Vec<(Look, Cmd)> = [
        (Look::Subscribers, count("NUMSUB")),
        (Look::ShardSubscribers, count("SHARDNUMSUB")),
        (Look::Stream, last),
    ]
    .into_iter()
    .filter(|(look, _)| !refused.contains(look))
    .collect();
    let mut pipeline = Pipeline::with_capacity(looks.len() + 1);
    pipeline.cmd("TIME");
    for (_, cmd) in &looks {
        pipeline.add_command(cmd.clone());
    }
    let Ok(answers) = commands.ask_all(&pipeline).await else { return BTreeSet::new() };
    let mut answers = answers.into_iter();
    let now = answers.next().and_then(Result::ok).and_then(read::<(u64, u64)>);
    let mut found = BTreeSet::new();
    for ((look, _), answer) in looks.iter().zip(answers) {
        let Ok(answer) = answer else {
            refused.insert(*look);
            continue;
        };
        let (wire, is_there) = match look {
            Look::Subscribers => (Wire::Streams, is_subscribed(answer)),
            Look::ShardSubscribers => (Wire::Sharded, is_subscribed(answer)),
            Look::Stream => {
                (Wire::Streams, now.is_some_and(|(seconds, _)| is_fresh(answer, seconds * 1_000)))
            }
        };
        if is_there {
            found.insert(wire);
        }
    }
    found
}

fn read<T: FromRedisValue>(value: Value) -> Option<T> {
    T::from_redis_value(value).ok()
}

fn is_subscribed(answer: Value) -> bool {
    read::<Vec<(String, u64)>>(answer).is_some_and(|counts| counts.iter().any(|(_, count)| *count > 0))
}

/// Whether the last entry of a stream is as recent as a running server keeps it.
fn is_fresh(answer: Value, now_ms: u64) -> bool {
    let entries: Option<Vec<(String, Value)>> = read(answer);
    let id = entries.and_then(|entries| entries.into_iter().next()).map(|(id, _)| id);
    let written = id.and_then(|id| id.split_once('-')?.0.parse::<u64>().ok());
    written.is_some_and(|at| now_ms.saturating_sub(at) < FOREIGN_FRESH_MS)
}
