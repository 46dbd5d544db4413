//! Markers: messages that a node sends to itself to learn that its posts have come back ([`super::returns`]).

use std::time::Duration;

use shared::limits::REDIS_COMMAND_MS;
use tokio::time::timeout;

use super::backplane::RedisBackplane;
use super::lane::{Item, Queued};
use super::returns::Returns;
use crate::local::hub::Hub;
use crate::target::{Target, To};

impl RedisBackplane {
    pub(super) fn returns(&self, hub: &Hub) -> &Returns {
        &self.returns[hub.rooms.number]
    }

    /// Numbers a post that has just been queued for Redis.
    pub(super) fn note_post(&self, target: &Target<'_>) {
        let To::Room(room) = target.to else { return };
        let Some(hub) = self.node.find(target.namespace.as_str()) else { return };
        let number = self.returns(hub).number();
        if let Some(room) = hub.find(room) {
            room.set_last_post(number);
        }
    }

    /// Waits until everything that this node has posted to a room has come back, or for `REDIS_COMMAND_MS`.
    pub(crate) async fn after_posts(&self, hub: &Hub, room: &str) {
        let returns = self.returns(hub);
        if returns.are_all() {
            return;
        }
        let Some(found) = hub.find(room) else { return };
        let last = found.last_post();
        if returns.has(last) || !self.subscriber.is_up() {
            return;
        }
        if let Some(marked) = returns.mark(last) {
            let marker = format!("{} {marked}", hub.rooms.number);
            if !self.publish_soon(self.subscriber.canary(), marker.as_bytes()) {
                return returns.give_up();
            }
        }
        if timeout(Duration::from_millis(REDIS_COMMAND_MS), returns.wait_for(last)).await.is_err() {
            tracing::debug!(room, "a socket leaves before the posts to its room have come back");
            returns.give_up();
        }
    }

    /// Handles a returned marker: a hub's number, and the last post that the marker covers. It takes its turn in the hub's
    /// lane. Returns false for any other message.
    pub(super) fn receive_marker(&self, payload: &[u8]) -> bool {
        let numbers = str::from_utf8(payload).ok().and_then(|text| text.split_once(' '));
        let Some((hub, last)) = numbers else { return false };
        let (Ok(hub), Ok(last)) = (hub.parse::<usize>(), last.parse()) else { return false };
        let (Some(lane), Some(returns)) = (self.lanes.get(hub), self.returns.get(hub)) else { return false };
        let is_waiting =
            !lane.is_clear() && matches!(lane.queue(Item::Marker(last), payload.len()), Queued::Waits);
        if !is_waiting {
            // Where the lane is full, the sockets are notified that they may have missed something.
            returns.set_returned(last);
        }
        true
    }
}
