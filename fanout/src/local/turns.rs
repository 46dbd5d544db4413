//! Turns of callers on this node that want to do the same work, one after the other.

use std::sync::Arc;

use ahash::RandomState;
use dashmap::DashMap;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The keys for which callers work or wait.
#[derive(Debug, Default)]
pub(crate) struct Turns(DashMap<String, Arc<Mutex<()>>, RandomState>);

/// A caller's turn, or its place in the queue; over when dropped.
#[derive(Debug)]
pub(crate) struct LocalTurn<'a> {
    turns: &'a Turns,
    key: &'a str,
    mutex: Option<Arc<Mutex<()>>>,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits for a turn, in the order of the calls. Cancel safe.
    pub(crate) async fn take<'a>(&'a self, key: &'a str) -> LocalTurn<'a> {
        let mutex = Arc::clone(&self.0.entry(key.to_owned()).or_default());
        let mut turn = LocalTurn { turns: self, key, mutex: Some(Arc::clone(&mutex)), guard: None };
        turn.guard = Some(mutex.lock_owned().await);
        turn
    }
}

impl Drop for LocalTurn<'_> {
    fn drop(&mut self) {
        drop(self.guard.take());
        drop(self.mutex.take());
        // Another caller may have cloned it since.
        self.turns.0.remove_if(self.key, |_, mutex| Arc::strong_count(mutex) == 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn callers_of_one_key_take_turns_and_leave_nothing_behind() {
        let turns = Turns::default();
        let first = turns.take("a").await;
        let mut second = Box::pin(turns.take("a"));
        assert!(second.as_mut().now_or_never().is_none());
        drop(Box::pin(turns.take("a")));
        assert!(turns.take("b").now_or_never().is_some());
        drop(first);
        drop(second.now_or_never().unwrap());
        let mut cancelled = Box::pin(turns.take("c"));
        let held = turns.take("c").await;
        assert!(cancelled.as_mut().now_or_never().is_none());
        drop(cancelled);
        drop(held);
        assert!(turns.0.is_empty());
    }
}
