//! Publishes: ordered broadcasts, tracked ones with an offset, and answers to other nodes.

use std::sync::Arc;
use std::time::Instant;

use shared::adapter::Outgoing;
use shared::limits::IDEMPOTENCY_S;
use shared::sio::Event;

use super::backplane::RedisBackplane;
use super::connection::{Post, TrackedPost};
use crate::error::FanoutError;
use crate::local::node::room_key;
use crate::stats::Stats;
use crate::target::{Form, Packet, Posted, Receipt, Target};

impl RedisBackplane {
    /// Encodes an event to be published through Redis.
    pub(crate) fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        Packet(self.message(target, event).map_or_else(Form::Bad, Form::Message))
    }

    fn message(&self, target: &Target<'_>, event: &Event<'_>) -> Result<Vec<u8>, FanoutError> {
        // Counted the same way as on the receiving nodes.
        let text: usize = event.name.len() + 2 + event.args.iter().map(|arg| arg.len() + 1).sum::<usize>();
        if text + event.attachments.iter().map(|data| data.len()).sum::<usize>() > self.max_payload {
            return Err(FanoutError::TooLarge);
        }
        let room = target.to.room();
        let room = room.as_deref();
        let excepted = target.excepted();
        let except: Vec<&str> = excepted.iter().map(String::as_str).collect();
        let outgoing = Outgoing {
            uid: self.node.id.as_str(),
            event,
            rooms: room.as_slice(),
            except: &except,
            volatile: target.volatile,
            sequence: target.sequence,
        };
        outgoing.encode(target.tracked).map_err(|_| FanoutError::BadPacket)
    }

    /// Queues an encoded message for `target` in the order of everything that this node publishes. The outcome comes later.
    pub(crate) fn post(self: &Arc<Self>, target: &Target<'_>, packet: Packet) -> Posted {
        match packet.0 {
            Form::Message(message) => self.publish(target, message),
            Form::Bad(error) => Posted::Done(Err(error)),
            Form::Ready(_) => Posted::Done(Err(FanoutError::BadPacket)),
        }
    }

    fn publish(self: &Arc<Self>, target: &Target<'_>, message: Vec<u8>) -> Posted {
        let namespace = target.namespace.as_str();
        let room = target.to.room();
        let room = room.as_deref();
        let channel = match room {
            Some(room) if self.presence.all_receive_own_rooms() => self.channels.own_room(namespace, room),
            Some(room) => self.channels.room(namespace, room),
            None => self.channels.namespace(namespace),
        };
        Stats::add(&self.stats.published, 1);
        let post = if target.tracked {
            let key = room_key(namespace, room.unwrap_or_default());
            self.tracked(&key, channel, message, target.idempotency)
        } else {
            Post::publish(&channel, &message)
        };
        let (backplane, tracked) = (Arc::clone(self), target.tracked);
        match self.posts.post(&self.commands, post) {
            Err(error) => Posted::Done(Err(error)),
            Ok(answered) => {
                self.note_post(target);
                Posted::Waits(Box::pin(async move {
                    let answer = answered.await?.map_err(|error| backplane.commands.refused(&error))?;
                    if tracked {
                        let (repeated, place, nodes) = backplane.commands.read(answer)?;
                        return Ok(Receipt { nodes, place: Some(place), repeated });
                    }
                    Ok(Receipt { nodes: backplane.commands.read(answer)?, ..Receipt::default() })
                }))
            }
        }
    }

    /// A post that gets its place in the room, is kept and is published by `lua/publish.lua`.
    fn tracked(&self, room: &str, channel: String, message: Vec<u8>, key: Option<&str>) -> Post {
        let base = format!("{}{{{room}}}:", self.prefix);
        // Clients name rooms, and a name may contain a brace. The last brace of a key always ends the room's name, so no two
        // rooms share keys.
        let once = key.map(|key| format!("{base}once:{}", key.replace('%', "%25").replace('}', "%7D")));
        let renews = self.renewals.is_due(&base, Instant::now());
        let (meta, stream) = (format!("{base}meta"), format!("{base}stream"));
        Post::Tracked(Box::new(TrackedPost { meta, stream, once, channel, message, renews }))
    }

    pub(crate) async fn publish_plain(&self, channel: &str, message: &[u8]) -> Result<usize, FanoutError> {
        self.commands.query(redis::cmd("PUBLISH").arg(channel).arg(message)).await
    }

    /// Claims a key for `print`. Returns whether it stands for `print` since its first use.
    pub(crate) async fn claim_key(&self, key: &str, print: &str) -> Result<bool, FanoutError> {
        let key = format!("{}key:{key}", self.prefix);
        // KeyDB, like Redis 6, does not take `NX` and `GET` in one command.
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(print).arg("NX").arg("EX").arg(IDEMPOTENCY_S);
        loop {
            if self.commands.query::<Option<String>>(&set).await?.is_some() {
                return Ok(true);
            }
            // Without a value the key has expired since, and is free.
            if let Some(before) = self.commands.query::<Option<String>>(redis::cmd("GET").arg(&key)).await? {
                return Ok(before == print);
            }
        }
    }

    /// The connection that orders are sent on now.
    pub(crate) fn generation(&self) -> u64 {
        self.commands.generation()
    }

    /// Releases a lock that was taken at `generation`, after the orders that were posted under it. Where an order may still be
    /// on its way on another connection, the lock is left to expire.
    pub(crate) fn release(&self, key: &str, owner: &str, (generation, is_done): (u64, bool)) {
        if is_done || !self.commands.is_cluster() {
            let now = if is_done { self.commands.generation() } else { generation };
            // Without Redis it expires.
            drop(self.posts.post_at(&self.commands, now, self.live.removal(key, owner)));
        }
    }

    /// Publishes in order with everything that is posted, without waiting for the answer. Returns false where it cannot be
    /// posted now; the asker then counts it as missing.
    pub(crate) fn publish_soon(&self, channel: &str, message: &[u8]) -> bool {
        self.posts.post(&self.commands, Post::publish(channel, message)).is_ok()
    }
}
