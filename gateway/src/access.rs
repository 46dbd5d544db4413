//! Serializes the room changes of each socket.
//!
//! Checking whether a socket may be in a room and acting on the result are two steps. A caller of both holds the
//! socket's lock, so that a check older than the socket's join cannot remove the socket from a room.

use ahash::RandomState;
use shared::ids::SocketId;
use shared::limits::ACCESS_LOCKS;
use tokio::sync::{Mutex, MutexGuard};

/// The locks of all sockets of a node: a fixed number, so some sockets share a lock.
#[derive(Debug)]
pub(crate) struct AccessLocks {
    locks: Box<[Mutex<()>]>,
    hasher: RandomState,
}

impl Default for AccessLocks {
    fn default() -> Self {
        let locks = (0..ACCESS_LOCKS).map(|_| Mutex::default()).collect();
        Self { locks, hasher: RandomState::new() }
    }
}

impl AccessLocks {
    /// Acquires a socket's lock.
    pub(crate) async fn of(&self, socket: SocketId) -> MutexGuard<'_, ()> {
        let hash = usize::try_from(self.hasher.hash_one(socket) & u64::from(u32::MAX)).unwrap_or_default();
        self.locks[hash % self.locks.len()].lock().await
    }
}
