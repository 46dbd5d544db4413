//! Checks that every member received every message of its room once, in order, and nothing else.
//!
//! One publisher per room numbers its messages from 0, so one counter per member suffices. Holes are kept as ranges,
//! because a server that loses messages loses them in runs.

use std::ops::Range;

use serde::Serialize;

/// What a sequence number means for its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// New. Numbers before it may still be missing.
    InOrder,
    /// New, but after a later message of the same publisher.
    Reordered,
    /// Seen before.
    Duplicate,
}

/// The sequence of one member, which receives from one publisher.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    /// One above the highest number seen.
    next: u32,
    /// Numbers below `next` not seen yet: ascending, not empty, not touching.
    holes: Vec<Range<u32>>,
    presence: Presence,
}

/// Whether the member is in its room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    #[default]
    There,
    /// Expects nothing; the first message that is seen starts the sequence.
    Away,
    /// Has returned and seen nothing yet; expects messages from this number on. A message that was sent before and handled
    /// after the join may arrive, and starts the sequence.
    Back(u32),
}

impl Sequence {
    /// Records one message.
    #[inline]
    pub(crate) fn see(&mut self, seq: u32) -> Verdict {
        if self.presence != Presence::There {
            self.restart(seq);
        }
        if seq < self.next {
            return self.see_late(seq);
        }
        if seq > self.next {
            self.holes.push(self.next..seq);
        }
        self.next = seq + 1;
        Verdict::InOrder
    }

    #[cold]
    fn restart(&mut self, seq: u32) {
        self.next = match self.presence {
            Presence::Back(expected) => expected.min(seq),
            Presence::There | Presence::Away => seq,
        };
        self.presence = Presence::There;
    }

    #[cold]
    fn see_late(&mut self, seq: u32) -> Verdict {
        let at = self.holes.partition_point(|hole| hole.end <= seq);
        let Some(hole) = self.holes.get_mut(at).filter(|hole| hole.contains(&seq)) else {
            return Verdict::Duplicate;
        };
        let after = seq + 1..hole.end;
        hole.end = seq;
        if hole.start == hole.end {
            self.holes.remove(at);
            if after.start < after.end {
                self.holes.insert(at, after);
            }
        } else if after.start < after.end {
            self.holes.insert(at + 1, after);
        }
        Verdict::Reordered
    }

    /// How many of the `sent` messages have not arrived. A member that is returning expects none.
    pub(crate) fn lost(&self, sent: u32) -> u64 {
        let late = match self.presence {
            Presence::There => sent.saturating_sub(self.next),
            Presence::Away => 0,
            Presence::Back(expected) => sent.saturating_sub(expected),
        };
        self.holes() + u64::from(late)
    }

    /// The member leaves for a while. Messages on their way to it do not count as lost. Messages before number `settled`
    /// should have arrived; returns how many have not.
    pub(crate) fn leave(&mut self, settled: u32) -> u64 {
        let lost = self.lost(settled);
        self.holes.clear();
        self.presence = Presence::Away;
        lost
    }

    /// The member has returned, and must receive all messages from number `sent` on. A message that arrived between the
    /// handling and the confirmation of its join has already started the sequence.
    pub(crate) fn come_back(&mut self, sent: u32) {
        if self.presence == Presence::Away {
            self.presence = Presence::Back(sent);
        }
    }

    fn holes(&self) -> u64 {
        self.holes.iter().map(|hole| hole.len() as u64).sum()
    }
}

/// Faults of the server, counted over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Faults {
    /// Deliveries that never came.
    pub(crate) lost: u64,
    /// Deliveries that came again.
    pub(crate) duplicated: u64,
    /// Deliveries that came after a later one of the same publisher.
    pub(crate) reordered: u64,
    /// Messages of a room that the connection is not in, or of another run.
    pub(crate) misrouted: u64,
    /// Messages cut or altered on their way, or never sent.
    pub(crate) corrupt: u64,
    /// Connections that the server closed.
    pub(crate) disconnected: u64,
    /// Connections that the server refused although it had capacity, or that never returned.
    pub(crate) refused: u64,
}

impl Faults {
    /// Whether there were no faults.
    pub(crate) fn none(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds a sequence of `sent` messages and returns (lost, duplicated, reordered).
    fn check(sent: u32, seen: &[u32]) -> (u64, usize, usize) {
        let mut sequence = Sequence::default();
        let verdicts: Vec<_> = seen.iter().map(|&seq| sequence.see(seq)).collect();
        let count = |wanted| verdicts.iter().filter(|&&verdict| verdict == wanted).count();
        (sequence.lost(sent), count(Verdict::Duplicate), count(Verdict::Reordered))
    }

    #[test]
    fn a_faultless_sequence_has_no_faults() {
        assert_eq!(check(5, &[0, 1, 2, 3, 4]), (0, 0, 0));
    }

    #[test]
    fn drops_are_counted_wherever_they_happen() {
        assert_eq!(check(5, &[1, 2, 3, 4]), (1, 0, 0));
        assert_eq!(check(5, &[0, 1, 4]), (2, 0, 0));
        assert_eq!(check(5, &[0, 1, 2]), (2, 0, 0));
        assert_eq!(check(5, &[]), (5, 0, 0));
    }

    #[test]
    fn duplicates_are_counted_at_once_and_later() {
        assert_eq!(check(3, &[0, 0, 1, 2]), (0, 1, 0));
        assert_eq!(check(3, &[0, 1, 2, 0, 2]), (0, 2, 0));
    }

    #[test]
    fn a_swap_is_one_reordering_and_no_loss() {
        assert_eq!(check(4, &[0, 2, 1, 3]), (0, 0, 1));
        assert_eq!(check(4, &[3, 2, 1, 0]), (0, 0, 3));
    }

    #[test]
    fn a_late_message_is_a_duplicate_only_the_second_time() {
        assert_eq!(check(4, &[0, 3, 1, 1, 2, 2]), (0, 2, 2));
    }

    #[test]
    fn holes_are_split_from_the_middle_and_from_both_ends() {
        assert_eq!(check(10, &[0, 9, 5]), (7, 0, 1));
        assert_eq!(check(10, &[0, 9, 5, 1, 8]), (5, 0, 3));
        assert_eq!(check(10, &[0, 9, 5, 1, 8, 2, 3, 4, 6, 7]), (0, 0, 8));
    }

    #[test]
    fn an_absent_member_loses_nothing_and_a_returned_one_everything() {
        let mut sequence = Sequence::default();
        for seq in [0, 2] {
            sequence.see(seq);
        }
        assert_eq!(sequence.leave(3), 1);
        assert_eq!(sequence.lost(9), 0);
        sequence.come_back(9);
        assert_eq!(sequence.lost(10), 1);
        assert_eq!(sequence.see(9), Verdict::InOrder);
        assert_eq!(sequence.see(9), Verdict::Duplicate);
        assert_eq!(sequence.lost(10), 0);
    }

    #[test]
    fn messages_long_before_leaving_count_as_lost() {
        let mut sequence = Sequence::default();
        sequence.see(0);
        assert_eq!(sequence.leave(5), 4);
        sequence.come_back(7);
        assert_eq!(sequence.leave(9), 2);
        assert_eq!(sequence.leave(9), 0);
    }

    #[test]
    fn a_message_before_the_confirmation_begins_the_sequence() {
        let mut sequence = Sequence::default();
        sequence.leave(0);
        assert_eq!(sequence.see(5), Verdict::InOrder);
        sequence.come_back(7);
        assert_eq!(sequence.see(7), Verdict::InOrder);
        assert_eq!(sequence.lost(8), 1);
    }

    #[test]
    fn messages_sent_before_the_join_and_handled_after_it_may_arrive() {
        let mut sequence = Sequence::default();
        sequence.leave(0);
        sequence.come_back(7);
        assert_eq!(sequence.lost(8), 1);
        assert_eq!(sequence.see(6), Verdict::InOrder);
        assert_eq!(sequence.lost(8), 1);
        assert_eq!(sequence.see(7), Verdict::InOrder);
        assert_eq!(sequence.lost(8), 0);
    }

    #[test]
    fn messages_since_the_return_count_as_missing() {
        let mut sequence = Sequence::default();
        sequence.leave(0);
        sequence.come_back(7);
        assert_eq!(sequence.see(9), Verdict::InOrder);
        assert_eq!(sequence.lost(10), 2);
    }

    /// Compares with a simple model, over every order of five messages with one missing or repeated.
    #[test]
    fn it_agrees_with_a_set() {
        for code in 0..5_u32.pow(5) {
            let seen: Vec<u32> = (0..5).map(|place| code / 5_u32.pow(place) % 5).collect();
            let mut set = std::collections::BTreeSet::new();
            let (mut duplicated, mut reordered) = (0, 0);
            for &seq in &seen {
                let late = set.last().is_some_and(|&highest| seq < highest);
                if !set.insert(seq) {
                    duplicated += 1;
                } else if late {
                    reordered += 1;
                }
            }
            let lost = 5 - set.len() as u64;
            assert_eq!(check(5, &seen), (lost, duplicated, reordered), "{seen:?}");
        }
    }
}
