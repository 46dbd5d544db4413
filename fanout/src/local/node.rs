//! This node: its namespaces, and the channel to its owner for what the fan-out cannot do itself.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use shared::ids::NodeId;
use shared::names::{Namespace, Room, UserId};
use tokio::sync::mpsc;

use crate::error::FanoutError;
use crate::events::{Control, Reply};
use crate::local::delivery::{Delivery, Receivers};
use crate::local::hub::Hub;
use crate::local::room::Room as LocalRoom;
use crate::local::socket::LocalSocket;
use crate::presence::{Gone, Member, SocketInfo};
use crate::sequenced::{Sequenced, TakeSequenced};
use crate::stats::Stats;

/// The part of the node that its backplane uses.
pub(crate) struct LocalNode {
    pub(crate) id: NodeId,
    /// How long a user whose last connection dropped may take to reconnect before they count as gone.
    pub(crate) holdback: Duration,
    /// Few, so that they are searched one by one.
    pub(crate) hubs: Box<[Arc<Hub>]>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) moved: mpsc::Sender<Control>,
    /// The apps that keep the order of rooms.
    pub(crate) sequenced_to: OnceLock<TakeSequenced>,
}

/// A user has left a room or is in it again, and clients were notified otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembershipChange {
    /// As [`room_key`] writes it.
    pub(crate) room: String,
    pub(crate) user: String,
    /// As [`member_info`] writes it.
    pub(crate) info: String,
    /// The user is in the room again: their node had wrongly counted as dead, or a backend has let them in.
    pub(crate) returned: bool,
    /// It took effect earlier than it is reported, so the user may have returned since.
    pub(crate) held_back: bool,
}

/// A namespace and a room as one text: `/ns#room`. No namespace contains a `#`.
pub(crate) fn room_key(namespace: &str, room: &str) -> String {
    format!("{namespace}#{room}")
}

/// What is kept of a member besides its user. Every member has one, so its keys are short.
pub(crate) fn member_info(info: &SocketInfo) -> String {
    serde_json::json!({
        "d": &*info.display_name, "c": info.connected_at_ms, "e": info.email, "r": info.role,
    })
    .to_string()
}

impl LocalNode {
    /// The namespace of this name.
    pub(crate) fn hub(&self, namespace: &str) -> Result<&Arc<Hub>, FanoutError> {
        self.find(namespace).ok_or(FanoutError::UnknownNamespace)
    }

    pub(crate) fn find(&self, namespace: &str) -> Option<&Arc<Hub>> {
        self.hubs.iter().find(|hub| hub.name.as_str() == namespace)
    }

    /// The hub of a socket.
    pub(crate) fn hub_of(&self, socket: &LocalSocket) -> &Arc<Hub> {
        &self.hubs[socket.all_rooms.number]
    }

    /// A socket of this node as an entry in lists of members.
    pub(crate) fn member(&self, info: &SocketInfo) -> Member {
        Member {
            socket: info.id,
            user: info.user.clone(),
            display_name: info.display_name.clone(),
            node: self.id,
            connected_at_ms: info.connected_at_ms,
            role: info.role.clone(),
        }
    }

    /// Sends a request to the owner.
    pub(crate) async fn control(&self, control: Control) {
        // Without a receiver the node is stopping.
        let _ = self.control.send(control).await;
    }

    /// Asks the owner to remove the sockets of this node from a room that may no longer be in it.
    pub(crate) async fn review(&self, hub: &Hub, room: &Room, reply: Option<Reply>) {
        let sockets = hub.sockets_in(room.as_str());
        self.control(Control::Review { sockets, room: room.clone(), reply }).await;
    }

    /// Passes a broadcast to the app that keeps its room's order. Without apps it is delivered at once.
    pub(crate) fn pass_to_app(&self, broadcast: Sequenced) {
        match self.sequenced_to.get() {
            Some(take) => take(broadcast),
            None => self.deliver_sequenced(&broadcast),
        }
    }

    /// Delivers a broadcast whose turn in its room's order has come.
    pub(crate) fn deliver_sequenced(&self, broadcast: &Sequenced) {
        if let Some(hub) = self.find(broadcast.namespace.as_str()) {
            deliver_to(hub, hub.find(&broadcast.room).as_ref(), broadcast);
        }
    }

    /// As [`Self::deliver_sequenced`], to the members of a room for which the app keeps `kept`.
    pub(crate) fn deliver_kept<T>(&self, broadcast: &Sequenced, kept: &Arc<T>) {
        let Some(hub) = self.find(broadcast.namespace.as_str()) else { return };
        if let Some(room) = hub.find(&broadcast.room).filter(|room| room.keeps(kept)) {
            deliver_to(hub, Some(&room), broadcast);
        }
    }

    /// Reports to the owner that a user is gone from a room, or back.
    pub(crate) async fn report(&self, change: MembershipChange) {
        // Without a receiver the node is stopping.
        if let Ok(place) = self.moved.reserve().await {
            self.report_in(place, &change);
        }
    }

    /// Reserves space for one report, if there is some now: for a caller that cannot wait when it reports.
    pub(crate) fn try_reserve_report(&self) -> Option<mpsc::Permit<'_, Control>> {
        self.moved.try_reserve().ok()
    }

    /// As [`Self::report`], with space from [`Self::try_reserve_report`].
    pub(crate) fn report_in(&self, place: mpsc::Permit<'_, Control>, change: &MembershipChange) {
        if let Some(gone) = self.read(change) {
            place.send(if change.returned { Control::Back(gone) } else { Control::Gone(gone) });
        }
    }

    fn read(&self, change: &MembershipChange) -> Option<Gone> {
        let (namespace, room) = change.room.split_once('#')?;
        let namespace: Namespace = self.find(namespace)?.name.clone();
        let user = UserId::parse(&change.user).ok()?;
        let info: serde_json::Value = serde_json::from_str(&change.info).unwrap_or_default();
        let field = |name: &str| info.get(name).and_then(serde_json::Value::as_str).map(Into::into);
        let (email, display_name, role) = (field("e"), field("d"), field("r"));
        let held_back = change.held_back;
        Some(Gone { namespace, room: Room::of_server(room)?, user, email, display_name, role, held_back })
    }
}

/// Delivers a sequenced broadcast to the members of its room.
fn deliver_to(hub: &Hub, room: Option<&Arc<LocalRoom>>, broadcast: &Sequenced) {
    let except_rooms: Vec<Cow<'_, str>> =
        broadcast.except.rooms.iter().map(|room| Cow::Borrowed(&**room)).collect();
    let delivery = Delivery {
        to: Receivers::Room(&broadcast.room, room),
        except: broadcast.except.socket,
        except_user: broadcast.except.user.as_ref().map(UserId::as_str),
        except_rooms: &except_rooms,
        volatile: broadcast.volatile,
    };
    hub.deliver(&delivery, &broadcast.packet);
}
