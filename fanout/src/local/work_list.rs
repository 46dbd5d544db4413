//! Pending work of one task: many add to it, that task takes it.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A list of pending work, and the task to wake for it. Several lists may wake the same task.
#[derive(Debug)]
pub(crate) struct WorkList<T> {
    items: Mutex<Vec<T>>,
    work: Arc<Notify>,
}

impl<T> WorkList<T> {
    /// An empty list whose task waits for `work`.
    pub(crate) fn new(work: Arc<Notify>) -> Self {
        Self { items: Mutex::default(), work }
    }

    /// Adds an item. Wakes the task if the list was empty; otherwise it has been woken already.
    pub(crate) fn add(&self, item: T) {
        let is_first = {
            let mut items = self.items.lock();
            items.push(item);
            items.len() == 1
        };
        if is_first {
            self.work.notify_one();
        }
    }

    /// Moves all of `added` here.
    pub(crate) fn append(&self, added: &mut Vec<T>) {
        if added.is_empty() {
            return;
        }
        self.items.lock().append(added);
        self.work.notify_one();
    }

    /// Moves all items into `taken`, which must be empty; its memory is reused for new items.
    pub(crate) fn take(&self, taken: &mut Vec<T>) {
        std::mem::swap(&mut *self.items.lock(), taken);
    }
}
