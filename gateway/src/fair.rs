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
//! Every operation takes time logarithmic in the number of members. A share that has not been full keeps no ranking, so
//! that connecting is cheap as long as no member has to make room.

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

/// Members of a share, which is ranked by eviction order once it has been full.
#[derive(Debug)]
pub(crate) struct FairShare<T> {
    members: Members<T>,
    weight: usize,
    next: u64,
    grain: usize,
    ranking: Option<Box<Ranking>>,
}

/// With their weights.
type Members<T> = BTreeMap<Member, (usize, T)>;

/// The groups and sources of a share by eviction order.
#[derive(Debug, Default)]
struct Ranking {
    groups: HashMap<(IpAddr, u64), Group, ahash::RandomState>,
    /// The groups of each source; the last one is evicted first.
    group_order: BTreeSet<(IpAddr, Rank, u64)>,
    sources: HashMap<IpAddr, Rank, ahash::RandomState>,
    /// The sources; the last one is evicted first.
    source_order: BTreeSet<(Rank, IpAddr)>,
    /// With this many members or fewer the share is far from full again, and needs no ranking.
    dropped_at: usize,
}

#[derive(Debug, Clone, Copy)]
struct Group {
    weight: usize,
    rank: Rank,
}

impl<T> FairShare<T> {
    /// An empty share. Groups whose weights are within the same multiple of `grain` are equal.
    pub(crate) fn new(grain: usize) -> Self {
        Self { members: BTreeMap::new(), weight: 0, next: 0, grain: grain.max(1), ranking: None }
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
    pub(crate) fn most(&mut self) -> usize {
        self.ranking().source_order.last().map_or(0, |((weight, _), _)| *weight)
    }

    /// Adds a member, the youngest of its group.
    pub(crate) fn insert(&mut self, source: IpAddr, group: u64, weight: usize, value: T) -> Member {
        let member = Member { source, group, serial: self.next };
        self.next += 1;
        self.members.insert(member, (weight, value));
        self.change(member, 0, weight);
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
            self.change(member, before, weight);
        }
    }

    /// Removes a member; `None` if it was removed before.
    pub(crate) fn remove(&mut self, member: Member) -> Option<T> {
        let (weight, value) = self.members.remove(&member)?;
        self.change(member, weight, 0);
        Some(value)
    }

    /// Removes the member that is first in eviction order.
    pub(crate) fn take_first(&mut self) -> Option<T> {
        let ranking = self.ranking();
        let (_, source) = *ranking.source_order.last()?;
        let (_, group) = ranking.first_group(source)?;
        let member = oldest(&self.members, source, group)?;
        self.remove(member)
    }

    fn change(&mut self, member: Member, before: usize, after: usize) {
        self.weight = self.weight.saturating_sub(before) + after;
        if let Some(ranking) = &mut self.ranking {
            ranking.update(&self.members, member, (before, after), self.grain);
            if self.members.len() <= ranking.dropped_at {
                self.ranking = None;
            }
        }
    }

    /// The ranking. Making one costs as much as adding its members to it; then at least half as many change before it is
    /// made again.
    fn ranking(&mut self) -> &mut Ranking {
        self.ranking.get_or_insert_with(|| {
            let mut ranking = Ranking { dropped_at: self.members.len() / 2, ..Ranking::default() };
            for (member, (weight, _)) in &self.members {
                ranking.update(&self.members, *member, (0, *weight), self.grain);
            }
            Box::new(ranking)
        })
    }
}

fn oldest<T>(members: &Members<T>, source: IpAddr, group: u64) -> Option<Member> {
    let all = Member { source, group, serial: 0 }..=Member { source, group, serial: u64::MAX };
    members.range(all).next().map(|(member, _)| *member)
}

impl Ranking {
    fn first_group(&self, source: IpAddr) -> Option<(Rank, u64)> {
        let all = (source, (0, Reverse(u64::MAX)), 0)..=(source, (usize::MAX, Reverse(0)), u64::MAX);
        self.group_order.range(all).next_back().map(|(_, rank, group)| (*rank, *group))
    }

    /// Updates the rank of a member's group and source after a change of its weight.
    fn update<T>(
        &mut self,
        members: &Members<T>,
        Member { source, group, .. }: Member,
        (before, after): (usize, usize),
        grain: usize,
    ) {
        let changed = |weight: usize| weight.saturating_sub(before) + after;
        let ranked = self.groups.remove(&(source, group));
        if let Some(Group { rank, .. }) = ranked {
            self.group_order.remove(&(source, rank, group));
        }
        if let Some(oldest) = oldest(members, source, group) {
            let weight = changed(ranked.map_or(0, |group| group.weight));
            let rank = (weight.div_ceil(grain), Reverse(oldest.serial));
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
    fn a_ranking_that_is_kept_equals_one_that_is_made_when_the_share_is_full() {
        let mut numbers = (0..30_000_u64).map(|at| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40);
        let mut below = |end: u64| numbers.next().unwrap_or_default() % end;
        let (mut kept, mut made) = (FairShare::new(4), FairShare::new(4));
        let mut members = Vec::new();
        for value in 0..400 {
            let from =
                (source(u8::try_from(below(5)).unwrap()), below(4), usize::try_from(below(9)).unwrap());
            members.push(kept.insert(from.0, from.1, from.2, value));
            made.insert(from.0, from.1, from.2, value);
            let other = members[usize::try_from(below(members.len() as u64)).unwrap()];
            match below(4) {
                0 => {
                    let weight = usize::try_from(below(9)).unwrap();
                    kept.set_weight(other, weight);
                    made.set_weight(other, weight);
                }
                1 => assert_eq!(kept.remove(other), made.remove(other)),
                2 if value % 7 == 0 => {
                    made.ranking = None;
                    assert_eq!(kept.take_first(), made.take_first());
                }
                _ => {}
            }
            let most = kept.most();
            made.ranking = None;
            assert_eq!((made.most(), made.weight()), (most, kept.weight()));
        }
        assert_eq!(order(kept), order(made));
    }

    #[test]
    fn a_share_that_is_far_from_full_again_keeps_no_ranking() {
        let mut share = FairShare::new(1);
        let members: Vec<_> = (0..100).map(|at| share.insert(source(1), at, 1, at)).collect();
        assert!(share.ranking.is_none());
        assert_eq!(share.take_first(), Some(0));
        for member in &members[..50] {
            assert!(share.ranking.is_some());
            share.remove(*member);
        }
        assert!(share.ranking.is_none());
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
        assert_eq!(share.take_first(), None);
        assert!(share.ranking().groups.is_empty() && share.ranking().source_order.is_empty());
    }
}
