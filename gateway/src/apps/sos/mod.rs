//! `sos`: participants of an SOS incident (documents 000 and 001; contract, "sos").
//!
//! A participation is a record first; the user's sockets, wherever they are, follow it into the incident's
//! room, and those who are there are told. The REST API of citizens and the internal one of backends run the
//! same [`stories`].

mod events;
pub(crate) mod store;
pub(crate) mod stories;

use std::sync::Arc;
use std::time::Duration;

use shared::limits::AUTO_JOIN_RETRY_MS;
use shared::names::{Namespace, Room};

use super::{Event, Handling};
use crate::context::Context;
use crate::socket::Socket;
pub(crate) use events::EVENTS;

/// What the rooms of incidents are called in the cluster.
pub(crate) const ROOM_PREFIX: &str = "sos:";

/// The app.
#[derive(Debug)]
pub(crate) struct Sos {
    context: Context,
    namespace: Namespace,
}

impl Sos {
    pub(crate) fn new(context: Context, namespace: Namespace) -> Self {
        Self { context, namespace }
    }

    /// Where the app's events happen.
    pub(crate) fn namespace(&self) -> &Namespace {
        &self.namespace
    }
}

/// The room of an incident.
pub(crate) fn room(sos_id: &str) -> Room {
    Room::prefixed(ROOM_PREFIX, sos_id)
}

pub(crate) fn on_event(sos: &Arc<Sos>, socket: &Arc<Socket>, event: &Event<'_>) -> Handling {
    match events::Location::decode(&event.args) {
        Ok(location) => {
            let (sos, socket) = (Arc::clone(sos), Arc::clone(socket));
            Handling::later(async move { events::share_location(&sos, &socket, location).await })
        }
        Err(error) => Handling::Done(Err(error)),
    }
}

/// A socket enters the rooms of its user's active participations. Where the records cannot be asked, that is
/// tried again for as long as the socket is there: who takes part must not miss what happens.
pub(crate) async fn on_connect(sos: &Arc<Sos>, socket: &Arc<Socket>) {
    if enter_active(sos, socket).await {
        return;
    }
    let (sos, socket) = (Arc::clone(sos), Arc::clone(socket));
    let context = sos.context.clone();
    context.tasks.spawn_until_stop(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(AUTO_JOIN_RETRY_MS)).await;
            if !socket.local().is_attached() || enter_active(&sos, &socket).await {
                return;
            }
        }
    });
}

async fn enter_active(sos: &Sos, socket: &Socket) -> bool {
    let records = &sos.context.records;
    let Ok(active) = records.run(store::active_of(records.pool(), socket.user().as_str())).await else {
        return false;
    };
    for sos_id in active {
        // Past its limit of rooms a socket stays out; one that has gone needs none.
        let _ = sos.context.fanout.enter(socket.local(), &room(&sos_id)).await;
    }
    true
}
