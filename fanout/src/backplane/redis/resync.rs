//! Notifies clients that they may have missed something, and checks after an interruption whether they
//! have.

use shared::adapter::Stamp;
use shared::limits::REDIS_PIPELINE_MAX;
use shared::sio::Event;

use super::backplane::RedisBackplane;
use crate::error::FanoutError;
use crate::local::hub::Hub;
use crate::local::node::room_key;
use crate::stats::Stats;

impl RedisBackplane {
    /// Notifies every socket that it may have missed packets that were for it alone, or had no place.
    pub(super) fn resync_all(&self) {
        for hub in &self.node.hubs {
            self.resync_namespace(hub);
        }
    }

    /// Notifies every socket of a namespace that it may have missed something.
    pub(super) fn resync_namespace(&self, hub: &Hub) {
        let namespace = hub.name.as_str();
        let args = &[r#"{"room":null,"epoch":""}"#];
        let event = Event { namespace, name: "muster:resync", args, ack: None, attachments: &[] };
        let packet = event.encode();
        let sockets = hub.all_sockets();
        if !sockets.is_empty() {
            Stats::add(&self.stats.resyncs, 1);
        }
        for socket in sockets {
            socket.emit(packet.clone());
        }
    }

    /// Notifies the members of a room that they may have missed something.
    pub(super) fn resync(&self, hub: &Hub, room: &str, epoch: &str) {
        Stats::add(&self.stats.resyncs, 1);
        let body = serde_json::json!({"room": room, "epoch": epoch}).to_string();
        let (namespace, name) = (hub.name.as_str(), "muster:resync");
        let event = Event { namespace, name, args: &[&body], ack: None, attachments: &[] };
        if let Some(found) = hub.find(room) {
            found.broadcast(event.encode(), None, false);
        }
    }

    /// Checks the places of all rooms after a new connection: members are notified of broadcasts that were
    /// published while there was none.
    ///
    /// # Errors
    /// [`FanoutError::Unavailable`] when some places could not be read; the others are checked.
    pub(super) async fn check_stamps(&self) -> Result<(), FanoutError> {
        let mut outcome = Ok(());
        for hub in &self.node.hubs {
            for names in hub.rooms.names().chunks(REDIS_PIPELINE_MAX) {
                let mut pipeline = redis::Pipeline::with_capacity(names.len());
                let mut before = Vec::with_capacity(names.len());
                for name in names {
                    let key = room_key(hub.name.as_str(), name.as_str());
                    pipeline.cmd("HMGET").arg(format!("{}{{{key}}}:meta", self.prefix)).arg("e").arg("o");
                    before.push(hub.find(name.as_str()).and_then(|room| room.last_stamp()));
                }
                let answers = self.commands.ask_all(&pipeline).await?;
                for ((name, last), answer) in names.iter().zip(before).zip(answers) {
                    let Ok(answer) = answer else {
                        outcome = Err(FanoutError::Unavailable);
                        continue;
                    };
                    let (epoch, offset): (Option<String>, Option<u64>) = self.commands.read(answer)?;
                    self.check_stamp(hub, name.as_str(), last, (epoch, offset));
                }
            }
        }
        outcome
    }

    /// Compares a room's place here with the one in Redis.
    fn check_stamp(
        &self,
        hub: &Hub,
        name: &str,
        last: Option<Stamp>,
        (epoch, offset): (Option<String>, Option<u64>),
    ) {
        // Broadcasts to the whole namespace have the place of a room without a name.
        let Some(room) = hub.find(name).filter(|room| !room.is_sequenced() && !name.is_empty()) else {
            return;
        };
        if room.last_stamp() != last {
            // A broadcast has arrived meanwhile, and its place was checked then.
            return;
        }
        let now = Stamp { epoch: epoch.unwrap_or_default().into(), offset: offset.unwrap_or_default() };
        if last.as_ref() == Some(&now) {
            return;
        }
        // A room that was entered during the interruption has no stamp in Redis if nothing was sent to it
        // yet.
        self.resync(hub, name, &now.epoch);
        room.arrived(&now);
    }
}
