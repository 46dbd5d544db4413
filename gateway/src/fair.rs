//! Chooses which member to evict when a bounded share is full.
//!
//! Members of a share have different weights. When the share is full, the heaviest user of it makes room: the source (a
//! client address) with the greatest weight, within it the group (a TCP connection or a session) with the greatest
//! weight, and of that group the oldest member. One source cannot evict the members of another that uses less, and one
//! connection cannot evict its neighbours behind the same address.
//!
//! Groups are compared in steps of a *grain*: groups within the same step count as equal, and the one with the oldest
//! member is evicted first. The grain is what an honest group may weigh for a moment, such as a request with a body
//! among connections that send nothing: that request is young, so it has time to finish.
//!
//! Every operation takes time logarithmic in the number of members.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::net::IpAddr;

/// A member's place in a [`FairShare`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Member {
    pub(crate) source: IpAddr,
    pub(crate) group: u64,
    /// Counts insertions: an older member has a smaller number.
    pub(crate) serial: u64,
}

/// Eviction order: by weight, then by the serial number of the member to be evicted.
type Rank = (usize, Reverse<u64>);

/// Maps with more capacity than this shrink when most of it is unused.
const ROOM_KEPT: usize = 1_024;

/// Members of a share, ranked by eviction order.
#[derive(Debug)]
pub(crate) struct FairShare<T> {
    members: BTreeMap<Member, (usize, T)>,
    groups: HashMap<(IpAddr, u64), Group, ahash::RandomState>,
    /// The groups of each source; the last one is evicted first.
    group_order: BTreeSet<(IpAddr, Rank, u64)>,
    sources: HashMap<IpAddr, Rank, ahash::RandomState>,
    /// The sources; the last one is evicted first.
    source_order: BTreeSet<(Rank, IpAddr)>,
    weight: usize,
    next: u64,
    grain: usize,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    weight: usize,
    rank: Rank,
}

impl<T> FairShare<T> {
    /// An empty share. Groups whose weights are within the same multiple of `grain` are equal.
    pub(crate) fn new(grain: usize) -> Self {
        Self {
            members: BTreeMap::new(),
            groups: HashMap::default(),
            group_order: BTreeSet::new(),
            sources: HashMap::default(),
            source_order: BTreeSet::new(),
            weight: 0,
            next: 0,
            grain: grain.max(1),
        }
    }

    /// The number of members.
    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// The total weight.
    pub(crate) fn weight(&self) -> usize {
        self.weight
    }

    /// The weight of the heaviest source.
    pub(crate) fn most(&self) -> usize {
        self.source_order.last().map_or(0, |((weight, _), _)| *weight)
    }

    /// Adds a member, the youngest of its group.
    pub(crate) fn insert(&mut self, source: IpAddr, group: u64, weight: usize, value: T) -> Member {
        let member = Member { source, group, serial: self.next };
        self.next += 1;
        self.members.insert(member, (weight, value));
        self.rank(member, 0, weight);
        member
    }

    /// Whether the share still contains a member.
    pub(crate) fn contains(&self, member: Member) -> bool {
        self.members.contains_key(&member)
    }

    /// Changes a member's weight. Does nothing if the member was removed.
    pub(crate) fn set_weight(&mut self, member: Member, weight: usize) {
        if let Some((held, _)) = self.members.get_mut(&member) {
            let before = std::mem::replace(held, weight);
            self.rank(member, before, weight);
        }
    }

    /// Removes a member; `None` if it was removed before.
    pub(crate) fn remove(&mut self, member: Member) -> Option<T> {
        let (weight, value) = self.members.remove(&member)?;
        self.rank(member, weight, 0);
        Some(value)
    }

    /// Removes the member that is first in eviction order.
    pub(crate) fn take_first(&mut self) -> Option<T> {
        let (_, source) = *self.source_order.last()?;
        let (_, group) = self.first_group(source)?;
        let member = self.oldest(source, group)?;
        self.remove(member)
    }

    fn first_group(&self, source: IpAddr) -> Option<(Rank, u64)> {
        let all = (source, (0, Reverse(u64::MAX)), 0)..=(source, (usize::MAX, Reverse(0)), u64::MAX);
        self.group_order.range(all).next_back().map(|(_, rank, group)| (*rank, *group))
    }

    fn oldest(&self, source: IpAddr, group: u64) -> Option<Member> {
        let all = Member { source, group, serial: 0 }..=Member { source, group, serial: u64::MAX };
        self.members.range(all).next().map(|(member, _)| *member)
    }

    /// Updates the rank of a member's group and source after a change of its weight.
    fn rank(&mut self, Member { source, group, .. }: Member, before: usize, after: usize) {
        let changed = |weight: usize| weight.saturating_sub(before) + after;
        self.weight = changed(self.weight);
        let ranked = self.groups.remove(&(source, group));
        if let Some(Group { rank, .. }) = ranked {
            self.group_order.remove(&(source, rank, group));
        }
        if let Some(oldest) = self.oldest(source, group) {
            let weight = changed(ranked.map_or(0, |group| group.weight));
            let rank = (weight.div_ceil(self.grain), Reverse(oldest.serial));
            self.groups.insert((source, group), Group { weight, rank });
            self.group_order.insert((source, rank, group));
        }
        let ranked = self.sources.remove(&source);
        if let Some(rank) = ranked {
            self.source_order.remove(&(rank, source));
        }
        if let Some(((_, oldest), _)) = self.first_group(source) {
            let rank = (changed(ranked.map_or(0, |(weight, _)| weight)), oldest);
            self.sources.insert(source, rank);
            self.source_order.insert((rank, source));
        }
        give_back(&mut self.groups);
        give_back(&mut self.sources);
    }
}

/// Shrinks a map that is mostly unused.
fn give_back<K: Eq + Hash, V>(map: &mut HashMap<K, V, ahash::RandomState>) {
    if map.capacity() > ROOM_KEPT && map.len() < map.capacity() / 8 {
        map.shrink_to(map.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn source(last: u8) -> IpAddr {
        Ipv4Addr::new(10, 0, 0, last).into()
    }

    fn order<T>(mut share: FairShare<T>) -> Vec<T> {
        std::iter::from_fn(|| share.take_first()).collect()
    }

    #[test]
    fn the_source_with_the_most_loses_its_oldest() {
        let mut share = FairShare::new(1);
        for (at, from) in [(0, 1), (1, 2), (2, 2), (3, 2), (4, 3)] {
            share.insert(source(from), at, 1, at);
        }
        // Two are evicted until all sources weigh the same; then the oldest of all.
        assert_eq!(order(share), [1, 2, 0, 3, 4]);
    }

    #[test]
    fn within_a_source_the_group_with_the_most_loses_its_oldest() {
        let mut share = FairShare::new(1);
        share.insert(source(1), 7, 1, "honest, older");
        for name in ["first", "second", "third"] {
            share.insert(source(1), 8, 1, name);
        }
        share.insert(source(1), 9, 1, "honest, younger");
        assert_eq!(order(share), ["first", "second", "honest, older", "third", "honest, younger"]);
    }

    #[test]
    fn the_heavier_group_is_evicted_first_and_a_change_of_weight_counts() {
        let mut share = FairShare::new(1);
        let light = share.insert(source(1), 1, 10, "light");
        share.insert(source(2), 2, 20, "heavy");
        assert_eq!((share.len(), share.weight()), (2, 30));
        share.set_weight(light, 30);
        assert_eq!(share.weight(), 50);
        assert_eq!(order(share), ["light", "heavy"]);
    }

    #[test]
    fn groups_within_a_grain_are_equal() {
        let mut share = FairShare::new(100);
        share.insert(source(1), 1, 60, "older");
        let growing = share.insert(source(1), 2, 60, "younger");
        share.insert(source(1), 3, 101, "heavier");
        share.insert(source(1), 4, 0, "without weight");
        share.set_weight(growing, 100);
        assert_eq!(share.weight(), 261);
        assert_eq!(order(share), ["heavier", "older", "younger", "without weight"]);
    }

    #[test]
    fn a_removed_member_changes_nothing_and_leaves_nothing() {
        let mut share = FairShare::new(1);
        let members: Vec<_> = (0..5_000_u32)
            .map(|at| share.insert(IpAddr::from(Ipv4Addr::from(at)), u64::from(at), 3, at))
            .collect();
        for member in &members {
            assert!(share.remove(*member).is_some());
            assert!(share.remove(*member).is_none());
            share.set_weight(*member, 9);
        }
        assert_eq!((share.len(), share.weight()), (0, 0));
        assert!(share.groups.is_empty() && share.group_order.is_empty());
        assert!(share.sources.is_empty() && share.source_order.is_empty());
        assert!(share.groups.capacity() <= ROOM_KEPT && share.sources.capacity() <= ROOM_KEPT);
        assert_eq!(share.take_first(), None);
    }
}
