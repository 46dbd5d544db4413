//! What the nodes of one Redis must have in common.
//!
//! Each node stores its traits beside its lease and reads those of the others. A node that differs from an older one must not
//! serve clients: what its apps store would never reach the other nodes' clients. So it does not become ready, and logs the
//! difference. The older node keeps running, so a node started with wrong settings does not take the cluster down.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::Presence;
use crate::presence::Agreement;

/// Upper bound of the unknown senders that a node remembers.
const UNKNOWN_NODES_MAX: usize = 64;

/// What a node must have in common with the others. An empty text means that the node does not report the trait; it is not
/// compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct NodeTraits {
    /// Apps and their namespaces.
    pub(crate) mounts: String,
    /// Prefix of channels.
    pub(crate) channels: String,
    /// Identifies the records that its apps keep.
    pub(crate) records: String,
    /// Whether it receives broadcasts to rooms on the channels reserved for nodes. Older versions do not. Not compared.
    pub(crate) own_rooms: bool,
}

/// What one node knows about agreement.
#[derive(Debug)]
pub(super) struct AgreementState {
    traits: NodeTraits,
    /// Start of this node on Redis' clock; 0 until it is known.
    since: u64,
    /// The cluster's name to store if Redis has none: the last known one or a new one.
    name: Arc<str>,
    accord: Agreement,
}

impl AgreementState {
    pub(super) fn new(traits: NodeTraits) -> Self {
        let name = format!("{:032x}", rand::random::<u128>()).into();
        Self { traits, since: 0, name, accord: Agreement::default() }
    }
}

/// The store's reply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// The name of the cluster.
    pub(crate) cluster: String,
    /// Start of the asking node.
    pub(crate) since: u64,
    /// The other living nodes: id, and start and traits in one text.
    pub(crate) nodes: Vec<(String, String)>,
}

/// How the node `own` differs from one of `others` that started before it.
fn conflict(own: (&str, u64, &NodeTraits), others: &[(String, String)]) -> Option<String> {
    let (id, since, traits) = own;
    let mut elders: Vec<_> = others
        .iter()
        .filter_map(|(other, text)| {
            let (at, traits) = text.split_once(' ')?;
            Some((at.parse::<u64>().ok()?, other.as_str(), serde_json::from_str::<NodeTraits>(traits).ok()?))
        })
        .filter(|(at, other, _)| (*at, *other) < (since, id))
        .collect();
    elders.sort_by(|(a, x, _), (b, y, _)| (a, x).cmp(&(b, y)));
    elders
        .into_iter()
        .find_map(|(_, other, elder)| traits.differs(&elder).map(|how| format!("node {other} {how}")))
}

/// Whether all of them receive broadcasts on the channels reserved for nodes.
fn all_have_own_rooms(nodes: &[(String, String)]) -> bool {
    nodes.iter().all(|(_, text)| {
        let traits =
            text.split_once(' ').and_then(|(_, traits)| serde_json::from_str::<NodeTraits>(traits).ok());
        traits.is_some_and(|traits| traits.own_rooms)
    })
}

impl NodeTraits {
    /// How `elder` differs, as the rest of a sentence that names it.
    fn differs(&self, elder: &Self) -> Option<String> {
        let differ = |own: &str, other: &str| !own.is_empty() && !other.is_empty() && own != other;
        if differ(&self.records, &elder.records) {
            let how = "was here before and has other records: what one of the two stores never reaches the clients of the \
                       other. Give all nodes of this Redis the same DATABASE_URL, to one database";
            return Some(how.to_owned());
        }
        if differ(&self.mounts, &elder.mounts) {
            return Some(format!(
                "was here before and has MOUNTS={}, this one has MOUNTS={}. Give all nodes of this Redis the same; to change \
                 them, stop the others first",
                elder.mounts, self.mounts
            ));
        }
        differ(&self.channels, &elder.channels).then(|| {
            format!(
                "was here before and has REDIS_CHANNEL_PREFIX={}, this one has {}: neither receives the other's broadcasts. Give all nodes of a \
                 REDIS_PREFIX the same",
                elder.channels, self.channels
            )
        })
    }
}

impl Presence {
    /// Whether this node agrees with the others.
    pub(crate) fn agreement(&self) -> Agreement {
        self.agreement.lock().accord.clone()
    }

    /// Sets the records that the node's apps keep, once they are known.
    pub(crate) fn set_records(&self, records: &str) {
        {
            let mut agreement = self.agreement.lock();
            if agreement.traits.records == records {
                return;
            }
            records.clone_into(&mut agreement.traits.records);
            agreement.accord.is_known = false;
        }
        self.wake();
    }

    /// Stores this node's traits and compares them with the others'. Requires a lease.
    pub(super) async fn agree(&self) {
        let (traits, since, name) = {
            let agreement = self.agreement.lock();
            (agreement.traits.clone(), agreement.since, Arc::clone(&agreement.name))
        };
        let node = self.options.node.as_str();
        let Ok(text) = serde_json::to_string(&traits) else { return };
        let Ok(others) = self.store.accord(node, since, &text, &name).await else { return };
        let found = conflict((node, others.since, &traits), &others.nodes);
        self.own_rooms.store(all_have_own_rooms(&others.nodes), Ordering::Relaxed);
        let mut agreement = self.agreement.lock();
        agreement.since = others.since;
        agreement.name = others.cluster.as_str().into();
        let now = Agreement {
            cluster: Some(Arc::clone(&agreement.name)),
            // The traits may have changed during the comparison.
            is_known: agreement.traits == traits,
            conflict: found,
        };
        let before = std::mem::replace(&mut agreement.accord, now);
        match (&before.conflict, &agreement.accord.conflict) {
            (old, Some(why)) if old.as_ref() != Some(why) => {
                tracing::error!(%why, "not ready: this node does not agree with the others of its Redis");
            }
            (Some(_), None) => tracing::info!("this node agrees with the others of its Redis"),
            _ => {}
        }
    }

    /// Whether every living node receives broadcasts to rooms on the channels reserved for nodes.
    pub(crate) fn all_receive_own_rooms(&self) -> bool {
        self.own_rooms.load(Ordering::Relaxed)
    }

    /// Notes that a node's broadcast was received.
    pub(crate) fn note_sender(&self, node: &str) {
        if node != self.options.node.as_str() {
            self.unknown_nodes.lock().received(node, Instant::now());
        }
    }

    /// Warns of nodes whose broadcasts arrive although they have no lease in this store, by the list of leases just read.
    pub(super) fn warn_of_unknown_nodes(&self, now_ms: u64) {
        let living = {
            let table = self.leases.lock();
            let alive = table.nodes.iter().filter(|(_, lapses)| **lapses > now_ms);
            alive.filter_map(|(incarnation, _)| Some(incarnation.split_once('-')?.0.to_owned())).collect()
        };
        let unknown_nodes = self.unknown_nodes.lock().judge(living, Instant::now(), self.options.lease);
        for stranger in unknown_nodes {
            tracing::warn!(
                node = %stranger,
                "received a broadcast of a node that has no lease here: it uses this Redis with another database or REDIS_PREFIX and the same \
                 REDIS_CHANNEL_PREFIX, and each receives the other's broadcasts. Give them different channel prefixes"
            );
        }
    }
}

/// Senders without a lease.
#[derive(Debug, Default)]
pub(super) struct UnknownNodes {
    known: HashSet<String>,
    /// When the first broadcast of each arrived, and whether it was logged.
    unknown: HashMap<String, (Instant, bool)>,
}

impl UnknownNodes {
    fn received(&mut self, node: &str, now: Instant) {
        if !self.known.contains(node) && self.unknown.len() < UNKNOWN_NODES_MAX {
            self.unknown.entry(node.to_owned()).or_insert((now, false));
        }
    }

    /// Returns the nodes to log: their first broadcast arrived longer than `patience` ago and they still have no lease. A node
    /// that has just started has its lease by then; one that has stopped was in an earlier list.
    fn judge(&mut self, living: HashSet<String>, now: Instant, patience: Duration) -> Vec<String> {
        let gone = std::mem::replace(&mut self.known, living);
        self.unknown.retain(|node, _| !self.known.contains(node) && !gone.contains(node));
        let mut found = Vec::new();
        for (node, (since, is_reported)) in &mut self.unknown {
            if now.duration_since(*since) > patience && !std::mem::replace(is_reported, true) {
                found.push(node.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits(mounts: &str, records: &str) -> NodeTraits {
        NodeTraits {
            mounts: mounts.into(),
            channels: "socket.io".into(),
            records: records.into(),
            own_rooms: true,
        }
    }

    fn stored(id: &str, since: u64, traits: &NodeTraits) -> (String, String) {
        (id.to_owned(), format!("{since} {}", serde_json::to_string(traits).unwrap()))
    }

    #[test]
    fn a_node_that_differs_from_an_older_one_is_not_ready() {
        let (old, new) = (traits("chat=/", "a"), traits("chat=/", "b"));
        let why = conflict(("n2", 2, &new), &[stored("n1", 1, &old)]).unwrap();
        assert!(why.starts_with("node n1 was here before") && why.contains("DATABASE_URL"), "{why}");
        assert_eq!(conflict(("n1", 1, &old), &[stored("n2", 2, &new)]), None);
        // With equal start times the ids decide, so that one of the two stays.
        assert!(conflict(("n2", 1, &new), &[stored("n1", 1, &old)]).is_some());
        assert_eq!(conflict(("n1", 1, &old), &[stored("n2", 1, &new)]), None);
        assert_eq!(conflict(("n2", 2, &old), &[stored("n1", 1, &old)]), None);
    }

    #[test]
    fn each_difference_is_named() {
        let own = traits("chat=/", "a");
        let why = |elder: NodeTraits| conflict(("n2", 2, &own), &[stored("n1", 1, &elder)]);
        let mounts = why(traits("relay=/relay", "a")).unwrap();
        assert!(mounts.contains("MOUNTS=relay=/relay") && mounts.contains("MOUNTS=chat=/"), "{mounts}");
        let channels = why(NodeTraits { channels: "mine".into(), ..own.clone() }).unwrap();
        assert!(channels.contains("REDIS_CHANNEL_PREFIX=mine"), "{channels}");
        assert_eq!(why(traits("chat=/", "")), None, "it does not know its records yet");
        assert_eq!(conflict(("n2", 2, &own), &[("n1".into(), "1 {\"newer\":1}".into())]), None);
        assert_eq!(conflict(("n2", 2, &own), &[("n1".into(), "rubbish".into())]), None);
    }

    #[test]
    fn node_channels_are_used_when_all_nodes_receive_them() {
        let (new, old) = (traits("", ""), NodeTraits { own_rooms: false, ..traits("", "") });
        assert!(all_have_own_rooms(&[]));
        assert!(all_have_own_rooms(&[stored("n1", 1, &new), stored("n2", 2, &new)]));
        assert!(!all_have_own_rooms(&[stored("n1", 1, &new), stored("n2", 2, &old)]));
        // The traits of a node of an older version.
        let older = r#"1 {"mounts":"","channels":"socket.io","records":""}"#;
        assert!(!all_have_own_rooms(&[("n1".into(), older.into())]));
        assert!(!all_have_own_rooms(&[("n1".into(), "rubbish".into())]));
    }

    #[test]
    fn a_sender_without_a_lease_is_logged_once_and_a_new_node_is_not() {
        let (start, patience) = (Instant::now(), Duration::from_secs(6));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        let mut unknown_nodes = UnknownNodes::default();
        for node in ["stranger", "newcomer", "stranger"] {
            unknown_nodes.received(node, start);
        }
        assert!(unknown_nodes.judge(names(&["known"]), start, patience).is_empty());
        let late = start + patience * 2;
        assert_eq!(unknown_nodes.judge(names(&["known", "newcomer"]), late, patience), ["stranger"]);
        unknown_nodes.received("stranger", late);
        unknown_nodes.received("newcomer", late);
        assert!(unknown_nodes.judge(names(&["known"]), late + patience * 2, patience).is_empty());
    }
}
