//! One lock for each socket's way into and out of rooms.
//!
//! To judge whether a socket may be in a room and to act on it are two steps. Whoever does both holds the socket's lock, so
//! that a socket is not taken out of a room by a judgement that is older than its join.

use ahash::RandomState;
use shared::ids::SocketId;
use shared::limits::ACCESS_LOCKS;
use tokio::sync::{Mutex, MutexGuard};

/// The locks of all sockets of a node: a fixed number, each shared by some sockets.
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
    /// Waits for a socket's lock.
    pub(crate) async fn of(&self, socket: SocketId) -> MutexGuard<'_, ()> {
        let hash = usize::try_from(self.hasher.hash_one(socket) & u64::from(u32::MAX)).unwrap_or_default();
        self.locks[hash % self.locks.len()].lock().await
    }
}
