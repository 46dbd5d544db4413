//! Live state of a cluster.
//!
//! | key (`P`: the configured prefix) | what |
//! | --- | --- |
//! | `Plive:KEY` | a value |
//! | `Ptimers:NAME` | sorted set: id → when it is due, on Redis' clock |
//! | `P{places:MAP}:geo`, `:exact`, `:until` | places for searching, exact places, and until when each
//! is valid |

use std::sync::Arc;
use std::time::Duration;

use shared::ids::NodeId;

use super::connection::{Commands, Post, Script};
use super::presence::Presence;
use crate::error::FanoutError;
use crate::geo::{Near, Place};

/// The latitude at which geo sets end.
const GEO_LATITUDE_MAX: f64 = 85.05;

/// Metres added to a search radius: geo sets keep places to less than a metre.
const GEO_MARGIN: f64 = 10.0;

/// Beyond this latitude every entry is checked: geo sets search badly there, and end a little further.
const GEO_POLAR: f64 = 75.0;

const SWAP: &str = include_str!("lua/swap.lua");

#[derive(Debug)]
struct Scripts {
    swap: Script,
    due: Script,
    place: Script,
    near: Script,
    adopt: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        Self {
            swap: Script::new(SWAP),
            due: Script::new(include_str!("lua/due.lua")),
            place: Script::new(include_str!("lua/place.lua")),
            near: Script::new(include_str!("lua/near.lua")),
            adopt: Script::new(include_str!("lua/adopt.lua")),
        }
    }
}

/// The live state that apps share through Redis.
pub(crate) struct LiveStore {
    commands: Arc<Commands>,
    prefix: String,
    node: NodeId,
    scripts: Scripts,
}

fn ms(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

/// Encodes an optional value for the script.
fn flagged(value: Option<&str>) -> String {
    value.map_or_else(|| "0".to_owned(), |value| format!("1{value}"))
}

impl LiveStore {
    pub(super) fn new(commands: Arc<Commands>, prefix: &str, node: NodeId) -> Self {
        Self { commands, prefix: prefix.to_owned(), node, scripts: Scripts::default() }
    }

    fn key(&self, key: &str) -> String {
        format!("{}live:{key}", self.prefix)
    }

    fn timers_key(&self, name: &str) -> String {
        format!("{}timers:{name}", self.prefix)
    }

    fn places_keys(&self, map: &str) -> [String; 3] {
        ["geo", "exact", "until"].map(|what| format!("{}{{places:{map}}}:{what}", self.prefix))
    }

    pub(crate) async fn get(&self, keys: &[String]) -> Result<Vec<Option<String>>, FanoutError> {
        let commands = &self.commands;
        if let [only] = keys {
            return Ok(vec![commands.query(redis::cmd("GET").arg(self.key(only))).await?]);
        }
        let mut pipeline = redis::Pipeline::with_capacity(keys.len());
        for key in keys {
            pipeline.cmd("GET").arg(self.key(key));
        }
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let answers = commands.ask_all(&pipeline).await?;
        let read = |answer: Result<redis::Value, redis::RedisError>| match answer {
            Ok(value) => commands.read(value),
            Err(error) => Err(commands.refused(&error)),
        };
        answers.into_iter().map(read).collect()
    }

    pub(crate) async fn swap(
        &self,
        key: &str,
        (old, new): (Option<&str>, Option<&str>),
        kept: Duration,
    ) -> Result<bool, FanoutError> {
        let (key, old, new) = (self.key(key), flagged(old), flagged(new));
        let args = [old.as_bytes(), new.as_bytes(), &ms(kept).into_bytes()];
        self.scripts.swap.run(&self.commands, &[&key], &args).await
    }

    /// Removes a value if it is `old`, behind everything that is posted before.
    pub(super) fn removal(&self, key: &str, old: &str) -> Post {
        Post::script(SWAP, &self.key(key), &[flagged(Some(old)).as_bytes(), flagged(None).as_bytes(), b"0"])
    }

    pub(crate) async fn schedule(&self, timers: &str, id: &str, after: Duration) -> Result<(), FanoutError> {
        let args: [&[u8]; 4] = [b"0", b"0", id.as_bytes(), &ms(after).into_bytes()];
        let _: Vec<String> = self.scripts.due.run(&self.commands, &[&self.timers_key(timers)], &args).await?;
        Ok(())
    }

    pub(crate) async fn cancel(&self, timers: &str, id: &str) -> Result<(), FanoutError> {
        self.commands.query::<u64>(redis::cmd("ZREM").arg(self.timers_key(timers)).arg(id)).await?;
        Ok(())
    }

    pub(crate) async fn due(
        &self,
        timers: &str,
        limit: usize,
        again: Duration,
    ) -> Result<Vec<String>, FanoutError> {
        let args: [&[u8]; 4] = [&limit.to_string().into_bytes(), &ms(again).into_bytes(), b"", b"0"];
        self.scripts.due.run(&self.commands, &[&self.timers_key(timers)], &args).await
    }

    pub(crate) async fn put(
        &self,
        map: &str,
        id: &str,
        place: Place,
        good_for: Duration,
    ) -> Result<(), FanoutError> {
        let Place { latitude, longitude } = place;
        let text = format!("{latitude} {longitude} {}", self.node);
        self.note(map, id, (latitude, longitude), (&text, &ms(good_for))).await
    }

    pub(crate) async fn forget(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        self.note(map, id, (0.0, 0.0), ("", "0")).await
    }

    async fn note(
        &self,
        map: &str,
        id: &str,
        (latitude, longitude): (f64, f64),
        (text, good_for): (&str, &str),
    ) -> Result<(), FanoutError> {
        let keys = self.places_keys(map);
        let latitude = latitude.clamp(-GEO_LATITUDE_MAX, GEO_LATITUDE_MAX).to_string();
        let longitude = longitude.to_string();
        let args = [id, &longitude, &latitude, text, good_for].map(str::as_bytes);
        let keys = [&*keys[0], &keys[1], &keys[2]];
        let _: u8 = self.scripts.place.run(&self.commands, &keys, &args).await?;
        Ok(())
    }

    pub(crate) async fn adopt(&self, map: &str, id: &str) -> Result<(), FanoutError> {
        let [_, exact, _] = self.places_keys(map);
        let node = self.node;
        let args = [id.as_bytes(), node.as_str().as_bytes()];
        let _: u8 = self.scripts.adopt.run(&self.commands, &[&exact], &args).await?;
        Ok(())
    }

    /// Everyone who may be near enough, as reported by living nodes.
    pub(crate) async fn around(
        &self,
        presence: &Presence,
        map: &str,
        place: Place,
        radius: f64,
        limit: usize,
    ) -> Result<Vec<Near>, FanoutError> {
        let keys = self.places_keys(map);
        let latitude = place.latitude.clamp(-GEO_LATITUDE_MAX, GEO_LATITUDE_MAX);
        let is_polar = place.latitude.abs() + radius / 100_000.0 > GEO_POLAR;
        let reach = radius * 1.001 + GEO_MARGIN;
        let numbers =
            [place.longitude.to_string(), latitude.to_string(), reach.to_string(), limit.to_string()];
        let all = if is_polar { "1" } else { "0" };
        let args = [&*numbers[0], &numbers[1], &numbers[2], &numbers[3], all].map(str::as_bytes);
        let keys = [&*keys[0], &keys[1], &keys[2]];
        let flat: Vec<String> = self.scripts.near.run(&self.commands, &keys, &args).await?;
        let (pairs, _) = flat.as_chunks::<2>();
        let nodes = pairs.iter().filter_map(|[_, text]| text.split(' ').nth(2)).collect();
        let living = presence.living_ids(&nodes).await?;
        let near = pairs.iter().filter_map(|[id, text]| {
            let mut parts = text.split(' ');
            let (latitude, longitude) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let is_living = parts.next().is_some_and(|node| living.contains(node));
            is_living.then(|| Near { id: id.clone(), place: Place { latitude, longitude }, metres: 0.0 })
        });
        Ok(near.collect())
    }
}
