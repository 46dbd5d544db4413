//! Renews the lease on a separate thread as well, so that busy workers do not cost a node its lease: neither too
//! many clients nor one piece of work that takes seconds.
//!
//! This thread only prolongs a lease that is held. The workers do the rest ([`super::lease`]): they open the
//! lease, notice its loss and register the members again. A frozen process runs neither. If the workers hang for
//! good, their clients are lost like those of a dead node: the thread lets the lease lapse unless a task on the
//! workers has lately noted that it runs.

use std::time::Duration;

use shared::limits::WORKERS_SILENT_MAX_MS;
use tokio::time::Instant;

use super::Presence;
use super::store::Store;

/// How long the workers may go without a note.
const SILENT_MAX: Duration = Duration::from_millis(WORKERS_SILENT_MAX_MS);

/// How often the workers note that they run.
const BEAT: Duration = Duration::from_millis(WORKERS_SILENT_MAX_MS / 20);

impl Presence {
    /// Periodically notes that tasks run. Polled by a worker.
    pub(super) async fn note_alive(&self) {
        loop {
            *self.alive_at.lock() = Some(Instant::now());
            tokio::time::sleep(BEAT).await;
        }
    }

    /// Renews the lease through `store` until the task is dropped. Polled by a thread that is not a worker.
    pub(crate) async fn renew_apart(&self, store: &Store) {
        loop {
            tokio::time::sleep(self.options.lease / 3).await;
            self.renew_apart_once(store).await;
        }
    }

    async fn renew_apart_once(&self, store: &Store) {
        let alive_at = *self.alive_at.lock();
        if alive_at.is_none_or(|at| at.elapsed() >= SILENT_MAX) {
            return;
        }
        let (before, incarnation) = (Instant::now(), self.incarnation());
        let Ok(leases) = store.renew(&incarnation, self.options.lease).await else { return };
        if !leases.held || *self.incarnation() != *incarnation {
            // The lease is not open yet, lost or given up; the workers handle that.
            return;
        }
        let mut table = self.leases.lock();
        table.renewed = table.renewed.map(|at| at.max(before));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use shared::ids::NodeId;
    use tokio::sync::mpsc;

    use super::super::agreement::NodeTraits;
    use super::super::model::{Handle, Server};
    use super::super::stored::StoredMember;
    use super::super::{LocalMembers, PresenceOptions};
    use super::*;
    use crate::stats::{Distributions, Stats};

    const LEASE: Duration = Duration::from_secs(6);

    struct NoMembers;

    impl LocalMembers for NoMembers {
        fn rooms(&self) -> Vec<String> {
            Vec::new()
        }

        fn members(&self, _: &str) -> Vec<StoredMember> {
            Vec::new()
        }
    }

    /// A node that has its lease and whose workers hang from now on, with a separate connection to the store.
    async fn stalled() -> (Presence, Store) {
        let server = Server::new(1);
        let store =
            || Store::Model(Handle { server: Arc::clone(&server), faults: Arc::<Mutex<_>>::default() });
        let options = PresenceOptions {
            node: NodeId::from_random([1; 4]),
            lease: LEASE,
            holdback: Duration::ZERO,
            info: String::new(),
            traits: NodeTraits::default(),
        };
        let stats = Arc::new(Stats::new(Distributions::ignored()));
        let presence = Presence::new(options, store(), Arc::new(NoMembers), mpsc::channel(1).0, stats);
        let worked = tokio::time::timeout(Duration::from_secs(3), presence.run()).await;
        assert!(worked.is_err() && presence.is_ready());
        (presence, store())
    }

    async fn held(store: &Store) -> bool {
        !store.renew("", LEASE).await.unwrap().nodes.is_empty()
    }

    /// Whether the only lease in the store has not lapsed.
    async fn is_alive(store: &Store) -> bool {
        let leases = store.renew("", LEASE).await.unwrap();
        leases.nodes.iter().any(|(_, lapses)| *lapses > leases.now_ms)
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_hang_for_longer_than_a_lease_keep_it() {
        let (presence, store) = stalled().await;
        let _ = tokio::time::timeout(SILENT_MAX, presence.renew_apart(&store)).await;
        assert!(held(&store).await && is_alive(&store).await);
        assert!(presence.is_ready(), "members are written under a lease that is held");
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_thread_the_lease_lapses() {
        let (presence, store) = stalled().await;
        tokio::time::sleep(SILENT_MAX).await;
        assert!(!is_alive(&store).await && !presence.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn workers_that_hang_for_good_lose_their_lease() {
        let (presence, store) = stalled().await;
        let _ = tokio::time::timeout(SILENT_MAX + LEASE * 2, presence.renew_apart(&store)).await;
        assert!(!is_alive(&store).await && !presence.is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_the_node_gave_up_is_not_renewed() {
        let (presence, store) = stalled().await;
        presence.close().await;
        let _ = tokio::time::timeout(LEASE, presence.renew_apart(&store)).await;
        assert!(!held(&store).await);
    }
}
