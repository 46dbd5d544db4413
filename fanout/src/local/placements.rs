//! Sockets that an app is placing in the rooms that its records give them.
//!
//! The app has read its records and has not put the socket into the rooms yet, so an order to leave a room finds the socket
//! outside. Such an order waits here until the app has placed the socket, and is carried out then.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use shared::names::USER_ROOM_PREFIX;

use crate::local::socket::LocalSocket;

/// An order to leave a room.
pub(crate) struct LeaveOrder {
    pub(crate) room: String,
    /// The sender of the order waits until this is dropped.
    _awaited: Box<dyn Send + Sync>,
}

/// The placements of one namespace that have not ended.
#[derive(Default)]
pub(crate) struct Placements {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Open>>,
}

struct Open {
    socket: Arc<LocalSocket>,
    /// The rooms that the app has chosen; `None` before it has read its records.
    rooms: Option<HashSet<String>>,
    orders: Vec<Arc<LeaveOrder>>,
}

impl Placements {
    /// Begins a placement. Returns its number.
    pub(crate) fn begin(&self, socket: &Arc<LocalSocket>) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let open = Open { socket: Arc::clone(socket), rooms: None, orders: Vec::new() };
        self.open.lock().insert(number, open);
        number
    }

    /// Ends a placement. Returns the orders that came meanwhile; none for one that has ended.
    pub(crate) fn end(&self, number: u64) -> Vec<Arc<LeaveOrder>> {
        self.open.lock().remove(&number).map(|open| open.orders).unwrap_or_default()
    }

    /// The app has chosen these rooms: orders to leave others do not wait for the placement.
    pub(crate) fn narrow(&self, number: u64, rooms: HashSet<String>) {
        // Dropped outside of the lock, since each may answer a request.
        let mut others = Vec::new();
        if let Some(open) = self.open.lock().get_mut(&number) {
            let orders = std::mem::take(&mut open.orders);
            (open.orders, others) = orders.into_iter().partition(|order| rooms.contains(&order.room));
            open.rooms = Some(rooms);
        }
        drop(others);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.open.lock().len()
    }

    /// The sockets in the room `of` leave `room`: leaves the order with each placement that it may concern. `awaited` is
    /// dropped when they have carried it out.
    pub(crate) fn order_leave(&self, of: &str, room: &str, awaited: impl Send + Sync + 'static) {
        let user = of.strip_prefix(USER_ROOM_PREFIX);
        let order = Arc::new(LeaveOrder { room: room.to_owned(), _awaited: Box::new(awaited) });
        for Open { socket, rooms, orders } in self.open.lock().values_mut() {
            let is_selected = of == room || user == Some(socket.user().as_str());
            if is_selected && rooms.as_ref().is_none_or(|rooms| rooms.contains(room)) && socket.is_attached()
            {
                orders.push(Arc::clone(&order));
            }
        }
    }
}
