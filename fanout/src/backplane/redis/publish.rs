//! What a node publishes: broadcasts in one order, tracked ones with an offset, and answers to others.

use std::sync::Arc;

use shared::adapter::Outgoing;
use shared::limits::{IDEMPOTENCY_S, STREAM_ENTRIES, STREAM_KEPT_S, STREAM_META_KEPT_S};
use shared::sio::Event;

use super::backplane::RedisBackplane;
use crate::error::FanoutError;
use crate::local::node::room_key;
use crate::stats::Stats;
use crate::target::{Form, Packet, Posted, Receipt, Target};

impl RedisBackplane {
    /// Writes an event for its way through Redis.
    pub(crate) fn packet(&self, target: &Target<'_>, event: &Event<'_>) -> Packet {
        Packet(self.message(target, event).map_or_else(Form::Bad, Form::Message))
    }

    fn message(&self, target: &Target<'_>, event: &Event<'_>) -> Result<Vec<u8>, FanoutError> {
        // As every node counts it that receives it.
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

    /// Puts a message that was written for `target` in line with all that this node publishes. The outcome comes later.
    pub(crate) fn post(self: &Arc<Self>, target: &Target<'_>, packet: Packet) -> Posted {
        match packet.0 {
            Form::Message(message) => self.publish(target, &message),
            Form::Bad(error) => Posted::Done(Err(error)),
            Form::Ready(_) => Posted::Done(Err(FanoutError::BadPacket)),
        }
    }

    fn publish(self: &Arc<Self>, target: &Target<'_>, message: &[u8]) -> Posted {
        let namespace = target.namespace.as_str();
        let room = target.to.room();
        let room = room.as_deref();
        let channel = match room {
            Some(room) if self.presence.all_hear_own_rooms() => self.channels.own_room(namespace, room),
            Some(room) => self.channels.room(namespace, room),
            None => self.channels.namespace(namespace),
        };
        Stats::add(&self.stats.published, 1);
        let cmd = if target.tracked {
            let key = room_key(namespace, room.unwrap_or_default());
            self.tracked(&key, &channel, message, target.idempotency)
        } else {
            let mut publish = redis::cmd("PUBLISH");
            publish.arg(channel).arg(message);
            publish
        };
        let (backplane, tracked) = (Arc::clone(self), target.tracked);
        match self.posts.post(&self.commands, cmd) {
            Err(error) => Posted::Done(Err(error)),
            Ok(answered) => Posted::Waits(Box::pin(async move {
                let answer = answered.await?.map_err(|error| backplane.commands.refused(&error))?;
                if tracked {
                    let (repeated, place, nodes) = backplane.commands.read(answer)?;
                    return Ok(Receipt { nodes, place: Some(place), repeated });
                }
                Ok(Receipt { nodes: backplane.commands.read(answer)?, ..Receipt::default() })
            })),
        }
    }

    /// The command that gives a message its place in its room, keeps it and publishes it (`lua/publish.lua`).
    fn tracked(&self, room: &str, channel: &str, message: &[u8], key: Option<&str>) -> redis::Cmd {
        let base = format!("{}{{{room}}}:", self.prefix);
        let (meta, stream) = (format!("{base}meta"), format!("{base}stream"));
        // Clients name rooms, and may put a brace into a name: the last brace of a key is always the one behind its room, so
        // that no room's keys are another's.
        let idempotency =
            key.map(|key| format!("{base}once:{}", key.replace('%', "%25").replace('}', "%7D")));
        let kept = if key.is_some() { IDEMPOTENCY_S } else { 0 };
        let id = format!("{:032x}", rand::random::<u128>());
        let run = self.commands.run_id();
        let numbers =
            [STREAM_ENTRIES, STREAM_KEPT_S, STREAM_META_KEPT_S, kept].map(|number| number.to_string());
        let args = [
            run.as_bytes(),
            numbers[0].as_bytes(),
            numbers[1].as_bytes(),
            numbers[2].as_bytes(),
            id.as_bytes(),
            message,
            channel.as_bytes(),
            numbers[3].as_bytes(),
            // Nobody else has it, since it is random; 64 bits keep the stamp short.
            &id.as_bytes()[..16],
        ];
        let keys = [&*meta, &stream, idempotency.as_deref().unwrap_or(&meta)];
        self.posts.script().posted(&keys, &args)
    }

    pub(crate) async fn publish_plain(&self, channel: &str, message: &[u8]) -> Result<usize, FanoutError> {
        self.commands.query(redis::cmd("PUBLISH").arg(channel).arg(message)).await
    }

    /// Whether a key stands for `print`, from its first use on.
    pub(crate) async fn claim_key(&self, key: &str, print: &str) -> Result<bool, FanoutError> {
        let key = format!("{}key:{key}", self.prefix);
        let mut set = redis::cmd("SET");
        set.arg(&key).arg(print).arg("NX").arg("GET").arg("EX").arg(IDEMPOTENCY_S);
        let before: Option<String> = self.commands.query(&set).await?;
        Ok(before.is_none_or(|before| before == print))
    }

    /// Publishes without waiting for the answer, in order with everything that is posted.
    pub(crate) fn publish_soon(&self, channel: &str, message: &[u8]) {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(message);
        // What cannot be posted now is missed by the server that waits for it.
        drop(self.posts.post(&self.commands, publish));
    }
}
