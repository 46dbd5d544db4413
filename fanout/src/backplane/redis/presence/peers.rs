//! Other nodes that this one waits for; the waiting ends when their lease has lapsed.

use std::collections::HashMap;

use parking_lot::Mutex;
use shared::ids::NodeId;
use tokio_util::sync::CancellationToken;

use super::Presence;

/// The nodes that a caller waits for; no more than live.
#[derive(Debug, Default)]
pub(super) struct LivePeers {
    lapsed: Mutex<HashMap<String, CancellationToken>>,
}

impl LivePeers {
    /// Returns a token that is cancelled when the lease of the living node `node` has lapsed.
    pub(super) fn watch(&self, node: NodeId) -> CancellationToken {
        self.lapsed.lock().entry(node.as_str().to_owned()).or_default().clone()
    }

    /// Cancels the tokens of nodes that `lives` reports as dead.
    pub(super) fn judge(&self, lives: impl Fn(&str) -> bool) {
        self.lapsed.lock().retain(|node, lapsed| {
            let keep = lives(node);
            if !keep {
                lapsed.cancel();
            }
            keep
        });
    }
}

impl Presence {
    /// Cancels the tokens of nodes whose leases have lapsed at `now_ms` on Redis' clock, by the list just read.
    pub(super) fn end_with_lapsed(&self, now_ms: u64) {
        let table = self.leases.lock();
        self.peers.judge(|node| {
            table.nodes.iter().any(|(incarnation, lapses)| {
                *lapses > now_ms && incarnation.split_once('-').is_some_and(|(id, _)| id == node)
            })
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_for_a_node_ends_with_its_lease() {
        let peers = LivePeers::default();
        let [one, two] = [[1; 4], [2; 4]].map(NodeId::from_random);
        let (first, again, other) = (peers.watch(one), peers.watch(one), peers.watch(two));
        peers.judge(|_| true);
        assert!(!first.is_cancelled());
        peers.judge(|node| node == two.as_str());
        assert!(first.is_cancelled() && again.is_cancelled() && !other.is_cancelled());
        assert!(!peers.watch(one).is_cancelled(), "it is back");
    }
}
