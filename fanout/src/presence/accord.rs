//! What the nodes of one Redis must have in common.
//!
//! Each node writes what it is like beside its lease and reads what the others are like. One that differs from a node
//! which was there before it serves nobody well, though it answers every client: what its apps store never reaches the
//! clients of the others. So it does not become ready, and says why. Who was there first stays as it was: a node that is
//! started with wrong settings does not take down those that serve.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::cluster::ClusterPresence;

/// Unknown senders that are remembered.
const STRANGERS_MAX: usize = 64;

/// What a node must have in common with the others. An empty text is not compared: the node does not say it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(crate) struct Nature {
    /// Apps and their namespaces.
    pub(crate) mounts: String,
    /// How channels begin.
    pub(crate) channels: String,
    /// Which records its apps keep.
    pub(crate) records: String,
    /// Whether it hears broadcasts to rooms on channels that only our nodes use. Older ones do not, and it is not compared.
    pub(crate) own_rooms: bool,
}

/// Whether a node agrees with the others of its Redis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Accord {
    /// The name of the cluster, which all nodes of a Redis and a prefix know; `None` until Redis has told it.
    pub cluster: Option<Arc<str>>,
    /// The others were asked since this node last changed.
    pub is_known: bool,
    /// What this node has otherwise than one that was there before it, in a sentence.
    pub quarrel: Option<String>,
}

/// What one node knows of that.
#[derive(Debug)]
pub(super) struct Agreeing {
    nature: Nature,
    /// Since when this node is there, by Redis' clock; 0 until it is.
    since: u64,
    /// What the cluster is called if Redis knows no name: the one that it had, or a new one.
    name: Arc<str>,
    accord: Accord,
}

impl Agreeing {
    pub(super) fn new(nature: Nature) -> Self {
        let name = format!("{:032x}", rand::random::<u128>()).into();
        Self { nature, since: 0, name, accord: Accord::default() }
    }
}

/// What the store answers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Others {
    /// The name of the cluster.
    pub(crate) cluster: String,
    /// Since when the asking node is there.
    pub(crate) since: u64,
    /// The others that live: id, and since when and what they are like, in one text.
    pub(crate) nodes: Vec<(String, String)>,
}

/// What the node `own` has otherwise than one of `others` that was there before it.
fn quarrel(own: (&str, u64, &Nature), others: &[(String, String)]) -> Option<String> {
    let (id, since, nature) = own;
    let mut elders: Vec<_> = others
        .iter()
        .filter_map(|(other, text)| {
            let (at, nature) = text.split_once(' ')?;
            Some((at.parse::<u64>().ok()?, other.as_str(), serde_json::from_str::<Nature>(nature).ok()?))
        })
        .filter(|(at, other, _)| (*at, *other) < (since, id))
        .collect();
    elders.sort_by(|(a, x, _), (b, y, _)| (a, x).cmp(&(b, y)));
    elders
        .into_iter()
        .find_map(|(_, other, elder)| nature.differs(&elder).map(|how| format!("node {other} {how}")))
}

/// Whether all of them hear broadcasts on channels that only our nodes use.
fn hear_own_rooms(nodes: &[(String, String)]) -> bool {
    nodes.iter().all(|(_, text)| {
        let nature = text.split_once(' ').and_then(|(_, nature)| serde_json::from_str::<Nature>(nature).ok());
        nature.is_some_and(|nature| nature.own_rooms)
    })
}

impl Nature {
    /// How `elder` differs, as the end of a sentence about it.
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
                "was here before and has REDIS_CHANNEL_PREFIX={}, this one has {}: neither hears the other. Give all nodes of a \
                 REDIS_PREFIX the same",
                elder.channels, self.channels
            )
        })
    }
}

impl ClusterPresence {
    /// Whether this node agrees with the others.
    pub(crate) fn accord(&self) -> Accord {
        self.agreeing.lock().accord.clone()
    }

    /// Says which records the node's apps keep, as soon as that is known.
    pub(crate) fn set_records(&self, records: &str) {
        {
            let mut agreeing = self.agreeing.lock();
            if agreeing.nature.records == records {
                return;
            }
            records.clone_into(&mut agreeing.nature.records);
            agreeing.accord.is_known = false;
        }
        self.wake();
    }

    /// Writes what this node is like, and compares it with the others. To be done under a lease.
    pub(super) async fn agree(&self) {
        let (nature, since, name) = {
            let agreeing = self.agreeing.lock();
            (agreeing.nature.clone(), agreeing.since, Arc::clone(&agreeing.name))
        };
        let node = self.terms.node.as_str();
        let Ok(text) = serde_json::to_string(&nature) else { return };
        let Ok(others) = self.store.accord(node, since, &text, &name).await else { return };
        let found = quarrel((node, others.since, &nature), &others.nodes);
        self.own_rooms.store(hear_own_rooms(&others.nodes), Ordering::Relaxed);
        let mut agreeing = self.agreeing.lock();
        agreeing.since = others.since;
        agreeing.name = others.cluster.as_str().into();
        let now = Accord {
            cluster: Some(Arc::clone(&agreeing.name)),
            // It may have changed while it was compared.
            is_known: agreeing.nature == nature,
            quarrel: found,
        };
        let before = std::mem::replace(&mut agreeing.accord, now);
        match (&before.quarrel, &agreeing.accord.quarrel) {
            (old, Some(why)) if old.as_ref() != Some(why) => {
                tracing::error!(%why, "this node does not agree with the others of its Redis, and is not ready");
            }
            (Some(_), None) => tracing::info!("this node agrees with the others of its Redis"),
            _ => {}
        }
    }

    /// Whether every living node hears broadcasts to rooms on channels that only our nodes use.
    pub(crate) fn all_hear_own_rooms(&self) -> bool {
        self.own_rooms.load(Ordering::Relaxed)
    }

    /// A broadcast by a node of our kind was heard.
    pub(crate) fn heard_from(&self, node: &str) {
        if node != self.terms.node.as_str() {
            self.strangers.lock().heard(node, Instant::now());
        }
    }

    /// Warns of nodes that are heard though they have no lease here, by the list of leases just read.
    pub(super) fn warn_of_strangers(&self, now_ms: u64) {
        let living = {
            let table = self.leases.lock();
            let alive = table.nodes.iter().filter(|(_, lapses)| **lapses > now_ms);
            alive.filter_map(|(incarnation, _)| Some(incarnation.split_once('-')?.0.to_owned())).collect()
        };
        let strangers = self.strangers.lock().judge(living, Instant::now(), self.terms.lease);
        for stranger in strangers {
            tracing::warn!(
                node = %stranger,
                "a node is heard that has no lease here: it uses this Redis with another database or REDIS_PREFIX and the same \
                 REDIS_CHANNEL_PREFIX, and each hears the other's broadcasts. Give them different channel prefixes"
            );
        }
    }
}

/// Nodes that are heard, told from those that have a lease.
#[derive(Debug, Default)]
pub(super) struct Strangers {
    known: HashSet<String>,
    /// When each was heard first, and whether it was warned of.
    unknown: HashMap<String, (Instant, bool)>,
}

impl Strangers {
    fn heard(&mut self, node: &str, now: Instant) {
        if !self.known.contains(node) && self.unknown.len() < STRANGERS_MAX {
            self.unknown.entry(node.to_owned()).or_insert((now, false));
        }
    }

    /// Those that were heard longer than `patience` ago, have no lease still, and were not warned of. A node that has just
    /// come has its lease by then; one that has gone was in the list before.
    fn judge(&mut self, living: HashSet<String>, now: Instant, patience: Duration) -> Vec<String> {
        let gone = std::mem::replace(&mut self.known, living);
        self.unknown.retain(|node, _| !self.known.contains(node) && !gone.contains(node));
        let mut found = Vec::new();
        for (node, (since, told)) in &mut self.unknown {
            if now.duration_since(*since) > patience && !std::mem::replace(told, true) {
                found.push(node.clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nature(mounts: &str, records: &str) -> Nature {
        Nature {
            mounts: mounts.into(),
            channels: "socket.io".into(),
            records: records.into(),
            own_rooms: true,
        }
    }

    fn said(id: &str, since: u64, nature: &Nature) -> (String, String) {
        (id.to_owned(), format!("{since} {}", serde_json::to_string(nature).unwrap()))
    }

    #[test]
    fn who_differs_from_an_elder_yields_and_the_elder_stays() {
        let (old, new) = (nature("chat=/", "a"), nature("chat=/", "b"));
        let why = quarrel(("n2", 2, &new), &[said("n1", 1, &old)]).unwrap();
        assert!(why.starts_with("node n1 was here before") && why.contains("DATABASE_URL"), "{why}");
        assert_eq!(quarrel(("n1", 1, &old), &[said("n2", 2, &new)]), None);
        // At one moment the ids decide, so that one of the two stays.
        assert!(quarrel(("n2", 1, &new), &[said("n1", 1, &old)]).is_some());
        assert_eq!(quarrel(("n1", 1, &old), &[said("n2", 1, &new)]), None);
        assert_eq!(quarrel(("n2", 2, &old), &[said("n1", 1, &old)]), None);
    }

    #[test]
    fn each_difference_is_named() {
        let own = nature("chat=/", "a");
        let why = |elder: Nature| quarrel(("n2", 2, &own), &[said("n1", 1, &elder)]);
        let mounts = why(nature("relay=/relay", "a")).unwrap();
        assert!(mounts.contains("MOUNTS=relay=/relay") && mounts.contains("MOUNTS=chat=/"), "{mounts}");
        let channels = why(Nature { channels: "mine".into(), ..own.clone() }).unwrap();
        assert!(channels.contains("REDIS_CHANNEL_PREFIX=mine"), "{channels}");
        assert_eq!(why(nature("chat=/", "")), None, "it does not know its records yet");
        assert_eq!(quarrel(("n2", 2, &own), &[("n1".into(), "1 {\"newer\":1}".into())]), None);
        assert_eq!(quarrel(("n2", 2, &own), &[("n1".into(), "rubbish".into())]), None);
    }

    #[test]
    fn channels_of_our_own_are_used_when_all_nodes_hear_them() {
        let (new, old) = (nature("", ""), Nature { own_rooms: false, ..nature("", "") });
        assert!(hear_own_rooms(&[]));
        assert!(hear_own_rooms(&[said("n1", 1, &new), said("n2", 2, &new)]));
        assert!(!hear_own_rooms(&[said("n1", 1, &new), said("n2", 2, &old)]));
        // What a node of an older version says.
        let older = r#"1 {"mounts":"","channels":"socket.io","records":""}"#;
        assert!(!hear_own_rooms(&[("n1".into(), older.into())]));
        assert!(!hear_own_rooms(&[("n1".into(), "rubbish".into())]));
    }

    #[test]
    fn a_sender_without_a_lease_is_told_once_and_a_newcomer_is_none() {
        let (start, patience) = (Instant::now(), Duration::from_secs(6));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<HashSet<_>>();
        let mut strangers = Strangers::default();
        for node in ["stranger", "newcomer", "stranger"] {
            strangers.heard(node, start);
        }
        assert!(strangers.judge(names(&["known"]), start, patience).is_empty());
        let late = start + patience * 2;
        assert_eq!(strangers.judge(names(&["known", "newcomer"]), late, patience), ["stranger"]);
        strangers.heard("stranger", late);
        strangers.heard("newcomer", late);
        assert!(strangers.judge(names(&["known"]), late + patience * 2, patience).is_empty());
    }
}
