//! Other nodes that this one has something under way with, so that it ends when their lease has lapsed.

use std::collections::HashMap;

use parking_lot::Mutex;
use shared::ids::NodeId;
use tokio_util::sync::CancellationToken;

use super::Presence;

/// The nodes that somebody has asked for; no more than live.
#[derive(Debug, Default)]
pub(super) struct LivePeers {
    lapsed: Mutex<HashMap<String, CancellationToken>>,
}

impl LivePeers {
    /// What is cancelled when the lease of the living node `node` has lapsed.
    pub(super) fn watch(&self, node: NodeId) -> CancellationToken {
        self.lapsed.lock().entry(node.as_str().to_owned()).or_default().clone()
    }

    /// Ends what is under way with nodes of which `lives` says no.
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
    /// Ends what is under way with nodes whose leases have lapsed by Redis' clock at `now_ms`, by the list just read.
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
    fn what_is_under_way_with_a_node_ends_with_its_lease() {
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
