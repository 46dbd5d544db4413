//! This node: its namespaces, and the way to its owner for what the fan-out cannot do itself.

use std::sync::Arc;
use std::time::Duration;

use shared::ids::NodeId;
use shared::names::{Namespace, Room, UserId};
use tokio::sync::mpsc;

use crate::error::FanoutError;
use crate::events::{Control, Reply, Sequenced};
use crate::local::hub::Hub;
use crate::local::socket::LocalSocket;
use crate::presence::{Gone, Member, SocketInfo};
use crate::stats::Stats;

/// What a backplane knows of the node that it works for.
pub(crate) struct LocalNode {
    pub(crate) id: NodeId,
    /// How long a user whose last connection dropped may take to reconnect before they count as gone.
    pub(crate) holdback: Duration,
    /// Few, so that they are searched one by one.
    pub(crate) hubs: Box<[Arc<Hub>]>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) control: mpsc::Sender<Control>,
    pub(crate) moved: mpsc::Sender<Control>,
    pub(crate) sequenced: mpsc::Sender<Sequenced>,
}

/// A user is in a room no more, or again, and clients were notified otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MembershipChange {
    /// As [`room_key`] writes it.
    pub(crate) room: String,
    pub(crate) user: String,
    /// As [`member_info`] writes it.
    pub(crate) info: String,
    /// This node had been taken for dead, and its users with it; they are here.
    pub(crate) returned: bool,
}

/// A room of a namespace in one text: `/ns#room`. No namespace has a `#`.
pub(crate) fn room_key(namespace: &str, room: &str) -> String {
    format!("{namespace}#{room}")
}

/// What is kept of a member beside its user. The keys are short, since it is kept for each.
pub(crate) fn member_info(info: &SocketInfo) -> String {
    serde_json::json!({
        "d": info.display_name, "c": info.connected_at_ms, "e": info.email, "r": info.role,
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

    /// The namespace of a socket.
    pub(crate) fn hub_of(&self, socket: &LocalSocket) -> &Arc<Hub> {
        &self.hubs[socket.all_rooms.number]
    }

    /// A socket of this node as lists of members show it.
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

    /// Asks the owner to do something.
    pub(crate) async fn control(&self, control: Control) {
        // Without a receiver the node is stopping.
        let _ = self.control.send(control).await;
    }

    /// Has the owner judge the sockets of this node in a room, and take those out that may not be there any more.
    pub(crate) async fn review(&self, hub: &Hub, room: &Room, reply: Option<Reply>) {
        let sockets = hub.sockets_in(room.as_str());
        self.control(Control::Review { sockets, room: room.clone(), reply }).await;
    }

    /// Reports to the owner that a user is gone from a room, or back.
    pub(crate) async fn report(&self, change: MembershipChange) {
        let returned = change.returned;
        if let Some(gone) = self.read(&change) {
            let control = if returned { Control::Back(gone) } else { Control::Gone(gone) };
            // Without a receiver the node is stopping.
            let _ = self.moved.send(control).await;
        }
    }

    fn read(&self, change: &MembershipChange) -> Option<Gone> {
        let (namespace, room) = change.room.split_once('#')?;
        let namespace: Namespace = self.find(namespace)?.name.clone();
        let user = UserId::parse(&change.user).ok()?;
        let info: serde_json::Value = serde_json::from_str(&change.info).unwrap_or_default();
        let field = |name: &str| info.get(name).and_then(serde_json::Value::as_str).map(Into::into);
        let (email, display_name, role) = (field("e"), field("d"), field("r"));
        Some(Gone { namespace, room: Room::of_server(room)?, user, email, display_name, role })
    }
}
